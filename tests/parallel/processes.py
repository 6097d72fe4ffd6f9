"""Real processes on loopback, as many as a test wants."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[2]
# As tests/conftest.py has it; the timeout is for processes that share one busy core.
XLA_FLAGS = '--xla_backend_optimization_level=0 --xla_cpu_collective_call_terminate_timeout_seconds=600'


def start(count: int, arguments: Sequence[str], devices: int = 1, variables: Mapping[str, str] = {}
          ) -> list[subprocess.Popen]:
    """Starts `count` Pythons that will find each other, with `devices` fake devices each."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu', 'JAX_CPU_ENABLE_ASYNC_DISPATCH': 'false', 'TRANSFORMERS_VERBOSITY': 'error',
        'XLA_FLAGS': f'{XLA_FLAGS} --xla_force_host_platform_device_count={devices}',
        'PYTHONPATH': str(ROOT), **variables}
    several = lambda index: {} if count == 1 else {
        'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(count), 'JAX_PROCESS_ID': str(index)}
    return [subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment | several(index), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for index in range(count)]


def finish(processes: Sequence[subprocess.Popen], timeout: float = 400) -> list[tuple[int, str, str]]:
    """(exit status, output, errors) of each; none is left behind."""
    try:
        ended = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, ended)]
