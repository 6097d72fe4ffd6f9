"""Finished runs as a report reads them: grouped by config, runs of a group differing in their seeds alone.

  `read_run`      config, summary and metrics of a folder
  `grouped`       runs → `Group`s, named by what they differ in
  `differences`   the keys of the config in which the groups differ, with their values
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from xrec_jax.errors import UserError
from xrec_jax.runs.metrics_writer import read_metrics
from xrec_jax.runs.workdir import flat

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


def _different(runs: Sequence[Run]) -> list[str]:
    keys = sorted({key for run in runs for key in run.config} - set(OF_SEED))
    return [key for key in keys if len({json.dumps(run.config.get(key)) for run in runs}) > 1]


def _name(members: Sequence[Run], different: Sequence[str]) -> str:
    """The values that set a group apart where they are few, else the name of its first folder."""
    if not different:
        return members[0].config.get('data.name', members[0].workdir.name)
    told = ', '.join(f'{key.rpartition(".")[2]}={members[0].config.get(key)}' for key in different)
    return told if len(different) <= 2 and len(told) <= 48 else members[0].workdir.name
