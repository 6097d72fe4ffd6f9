"""Finished runs as a report reads them: grouped by config, runs of a group differing in their seeds alone.

  `read_run`      config, summary and metrics of a folder
  `grouped`       runs → `Group`s, named by what they differ in
  `differences`   the keys of the config in which the groups differ, with their values
  `sweeps`        groups that differ in one number alone, by the key of that number
  `by_phase`      seconds, tokens a second and memory of the phases of some runs
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from xrec_jax.errors import UserError
from xrec_jax.runs.metrics_writer import read_metrics
from xrec_jax.runs.workdir import flat

# What `by_phase` tells beside seconds → its title.
BY_PHASE = {'tokens_per_second': 'tokens a second (median step)', 'peak_memory_gib': 'device memory, GiB',
            'peak_memory_gib_host': 'host memory, GiB'}
OF_SEED = ('seed', 'data.options.seed')  # keys that differ between the seeds of one experiment


@dataclasses.dataclass(frozen=True)
class Run:
    workdir: pathlib.Path
    config: dict[str, Any]  # by dotted key
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]  # rows of metrics.jsonl

    @property
    def seed(self) -> int:
        return self.summary['seed']


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config with different seeds."""

    name: str
    runs: tuple[Run, ...]


def read_run(workdir: pathlib.Path) -> Run:
    """A finished run; UserError where the folder is none."""
    files = {name: workdir / f'{name}.json' for name in ('summary', 'config')}
    for path in files.values():
        if not path.exists():
            raise UserError(f'{path}: no such file; a run writes it when it is finished.')
    read = {name: json.loads(path.read_text()) for name, path in files.items()}
    return Run(workdir, flat(read['config']), read['summary'], read_metrics(workdir / 'metrics.jsonl'))


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs by config without its seed, in their order; a group's name says how it differs from the others."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps({name: value for name, value in sorted(run.config.items()) if name not in OF_SEED})
        groups.setdefault(key, []).append(run)
    different = _different([members[0] for members in groups.values()])
    return [Group(_name(members, different), tuple(members)) for members in groups.values()]


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Dotted key → its value in each group, of the keys in which they differ."""
    return {key: [group.runs[0].config.get(key, 'absent') for group in groups]
            for key in _different([group.runs[0] for group in groups])}


def named(groups: Sequence[Group]) -> list[tuple[str, Run]]:
    """Every run with a name of its own."""
    return [(group.name if len(group.runs) == 1 else f'{group.name}, seed {run.seed}', run)
            for group in groups for run in group.runs]


def sweeps(groups: Sequence[Group]) -> dict[str, list[tuple[str, list[tuple[float, Group]]]]]:
    """Key of the config → what else is set apart ('' for nothing) with the groups along it, of two values at least.

    The groups of one line are alike in all but that key.
    """
    different = differences(groups)
    found = {}
    for key, values in different.items():
        lines: dict[tuple, list[tuple[float, Group]]] = {}
        for place, (value, group) in enumerate(zip(values, groups)):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                others = tuple((other, of[place]) for other, of in different.items() if other != key)
                lines.setdefault(tuple((other, json.dumps(of)) for other, of in others), []).append((value, group))
        lines = {others: sorted(line, key=lambda point: point[0]) for others, line in lines.items() if len(line) > 1}
        apart = [other for other in different if len({dict(others).get(other) for others in lines}) > 1]
        told = lambda others: ', '.join(f'{other.rpartition(".")[2]}={value}' for other, value in others if other in apart)
        if lines:
            found[key] = [(told(others), line) for others, line in lines.items()]
    return found


def by_phase(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each phase: 'phase', 'seconds' [runs], and of those of `BY_PHASE` that its runs tell, the values."""
    rows = []
    for phase in dict.fromkeys(phase for run in runs for phase in run.summary.get('seconds', {})):
        row = {'phase': phase, 'seconds': [run.summary['seconds'].get(phase, float('nan')) for run in runs]}
        for name in BY_PHASE:
            told = [[one[name] for one in run.metrics if one['phase'] == phase and name in one] for run in runs]
            values = [float(np.median(of_run) if name == 'tokens_per_second' else max(of_run)) for of_run in told if of_run]
            if not values and name == 'tokens_per_second':  # phases that tell it once, at their end
                values = [value for run in runs if (value := _rate(run.summary, phase)) is not None]
            if values:
                row[name] = values
        rows.append(row)
    return rows


def _rate(summary: dict[str, Any], phase: str) -> float | None:
    told = summary.get(phase)
    return told.get('tokens_per_second') if isinstance(told, dict) else summary.get(f'{phase}-tokens_per_second')


def _different(runs: Sequence[Run]) -> list[str]:
    keys = sorted({key for run in runs for key in run.config} - set(OF_SEED))
    return [key for key in keys if len({json.dumps(run.config.get(key)) for run in runs}) > 1]


def _name(members: Sequence[Run], different: Sequence[str]) -> str:
    """The values that set a group apart where they are few, else the name of its first folder."""
    if not different:
        return members[0].config.get('data.name', members[0].workdir.name)
    told = ', '.join(f'{key.rpartition(".")[2]}={members[0].config.get(key)}' for key in different)
    return told if len(different) <= 2 and len(told) <= 48 else members[0].workdir.name
