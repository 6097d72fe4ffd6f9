"""Set before any test imports JAX: CPU unless JAX_PLATFORMS says otherwise, eight fake devices."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_FLAG = '--xla_force_host_platform_device_count'
if _FLAG not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_FLAG}=8'.strip()
# "None of PyTorch, TensorFlow >= 2.0, or Flax have been found": true, and no news.
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
