"""Set before any test imports JAX: CPU unless JAX_PLATFORMS says otherwise, eight fake devices.

The compiler does not optimise: most of a test's time is compilation.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
for _flag, _value in (('--xla_force_host_platform_device_count', 8), ('--xla_backend_optimization_level', 0)):
    if _flag not in os.environ.get('XLA_FLAGS', ''):
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_flag}={_value}'.strip()
# "None of PyTorch, TensorFlow >= 2.0, or Flax have been found": true, and no news.
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
