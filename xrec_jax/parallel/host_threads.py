"""Threads for several CPU devices in one process (fake devices, in tests and for trying a mesh out).

XLA runs a program's devices, and the dispatch of the programs behind it, on one pool of threads that by default has
one for each device. A device holds its thread while it waits for the others in a collective, and a dispatch holds its
own while 32 programs are under way on its device. So a loop that is more than 32 programs ahead of the devices can
fill the pool with dispatches, and the programs that they wait for never start: all threads sleep, for good (seen with
jaxlib 0.10.2 and 8 devices; with two threads a device it does not happen, and dispatching synchronously changes
nothing). The pool's size is read from the environment when JAX first asks for its devices.
"""

import os
import re
from collections.abc import MutableMapping

THREADS = 3  # a device: one that runs, one that dispatches, one for copies


def give(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets PJRT_NPROC for the CPU devices that `environment` asks for; a size that is set, and one device, stay."""
    asked = re.findall(r'--xla_force_host_platform_device_count=(\d+)', environment.get('XLA_FLAGS', ''))
    asked.append(environment.get('JAX_NUM_CPU_DEVICES') or '1')
    devices = max(int(number) if number.isdecimal() else 1 for number in asked)
    if devices > 1 and 'NPROC' not in environment:
        environment.setdefault('PJRT_NPROC', str(max(THREADS * devices, os.cpu_count() or 1)))
