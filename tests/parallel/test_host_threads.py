"""Eight CPU devices in one process do not wait for each other forever."""

import os
import subprocess
import sys

import pytest

from xrec_jax.parallel import host_threads

# A program that waits for all devices, dispatched a hundred times without waiting for any: without more threads than
# devices it never ended.
PROGRAM = '''
import xrec_jax
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec('x'))
step = jax.jit(lambda x: jax.lax.with_sharding_constraint(x / 2 + x.mean(0), rows), donate_argnums=0)
x = jax.device_put(np.arange(512, dtype=np.float32).reshape(8, 64), rows)
for _ in range(100):
    x = step(x)
print(x.block_until_ready().shape)
'''


def test_a_hundred_programs_in_flight_on_eight_devices_come_to_an_end():
    environment = {name: value for name, value in os.environ.items() if name not in ('PJRT_NPROC', 'NPROC')}
    done = subprocess.run([sys.executable, '-c', PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == '(8, 64)\n', done.stderr


@pytest.mark.parametrize('environment, expected', [
    ({}, None),
    ({'XLA_FLAGS': '--xla_dump_to=/tmp/x'}, None),
    ({'XLA_FLAGS': '--a=1 --xla_force_host_platform_device_count=1000'}, '3000'),
    ({'JAX_NUM_CPU_DEVICES': '2000'}, '6000'),
    ({'JAX_NUM_CPU_DEVICES': '2000', 'PJRT_NPROC': '7'}, '7'),
    ({'JAX_NUM_CPU_DEVICES': '2000', 'NPROC': '7'}, None),
], ids=str)
def test_threads_are_given_by_the_number_of_devices_unless_they_are_set(environment, expected):
    host_threads.give(environment)
    assert environment.get('PJRT_NPROC') == expected
