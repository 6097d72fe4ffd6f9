"""`metrics.jsonl`: one row a step, `{"phase": …, "step": …, name: value, …}`.

Rows of a phase behind the step from which it goes on are taken out first, so that a resumed run
leaves the same file as an unbroken one.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from xrec_jax.runs import files
from xrec_jax.runs.watch import peak_host_memory_gib, peak_memory_gib

# How names of figures begin that tell of the process and the machine.
OF_THE_PROCESS = ('seconds', 'tokens_per_second', 'compiles', 'tflops_per_device', 'mfu', 'peak_memory_gib')


class MetricsWriter:
    """Writes the rows; `observers` are told of each as well (`runs.watch`)."""

    def __init__(self, workdir: files.Path):
        self.path = workdir / 'metrics.jsonl'
        self.observers: list[Callable[[str, int, Mapping[str, float]], None]] = []

    def rewind(self, phase: str, step: int) -> None:
        """Takes out rows of `phase` after `step`, and a last row that was cut off."""
        kept = [row for row in read_metrics(self.path) if row['phase'] != phase or row['step'] <= step]
        files.write_whole(self.path, lambda path: path.write_text(''.join(json.dumps(row) + '\n' for row in kept)))

    def write(self, phase: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one row; values become floats."""
        values = {name: float(value) for name, value in metrics.items()}
        if (peak := peak_memory_gib()) is not None:
            values['peak_memory_gib'] = peak
        values['peak_memory_gib_host'] = peak_host_memory_gib()
        files.append(self.path, json.dumps({'phase': phase, 'step': step} | values) + '\n')
        for observe in self.observers:
            observe(phase, step, values)


def read_metrics(path: files.Path, phase: str | None = None) -> list[dict]:
    """All whole rows of a metrics file, or those of one phase."""
    if not path.exists():
        return []
    lines = path.read_text().split('\n')[:-1]  # what follows the last newline was cut off
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if phase in (None, row['phase'])]


def repeatable(row: Mapping[str, Any]) -> dict:
    """A row without what tells of the process and the machine: the same in every run of the same config."""
    return {name: value for name, value in row.items() if not name.startswith(OF_THE_PROCESS)}
