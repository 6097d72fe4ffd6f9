"""Set before any test imports JAX: CPU unless JAX_PLATFORMS says otherwise, eight fake devices.

The compiler does not optimise, and emits loops by its older, plainer way (a third of the time to compile): most of a
test's time is compilation.
"""

import os
import pathlib

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_ENABLE_COMPILATION_CACHE', 'false')  # entry points keep what they compile
# The timeout: eight devices' threads on a machine that is busy may wait for each other for longer than 40 s.
for _flag, _value in (('--xla_force_host_platform_device_count', 8), ('--xla_backend_optimization_level', 0),
                      ('--xla_cpu_use_fusion_emitters', 'false'),
                      ('--xla_cpu_collective_call_terminate_timeout_seconds', 600)):
    if _flag not in os.environ.get('XLA_FLAGS', ''):
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_flag}={_value}'.strip()
# Tests start programs. Where Python is told to keep no bytecode, each of them would compile our modules anew.
# (pytest-xdist's workers have it from the process that started them.)
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
# "None of PyTorch, TensorFlow >= 2.0, or Flax have been found": true, and no news.
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')


@pytest.fixture(autouse=True, scope='module')
def few_memory_maps():
    """Forgets what was compiled before Linux's limit of 65,530 memory maps a process, at which LLVM crashes."""
    yield
    maps = pathlib.Path('/proc/self/maps')
    if maps.exists() and maps.read_bytes().count(b'\n') > 30_000:
        import jax  # not earlier: see above
        jax.clear_caches()
