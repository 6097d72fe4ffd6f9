"""Several runs of one config that differ in a few keys: trained one after the other, each in a folder of its own.

  `Case`        a name, and what it changes in the config
  `train`       runs a case with every seed, or goes on with it; a finished run is left alone
  `figures`     test metrics of a run's scorers, from its summary.json
"""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.phases.scorers import SUMMARY
from xrec_jax.runs import progress
from xrec_jax.runs.files import write_whole


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # dotted key of the config → value


def config_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments of a command line that name or change its config, for `xrec_jax.train`."""
    found, value_next = [], False
    for argument in argv:
        if value_next or re.match(r'--?config(\.|=|$)', argument):
            found.append(argument)
            value_next = not value_next and '=' not in argument
    return found


def train(cases: Sequence[Case], seeds: Sequence[int], arguments: Sequence[str], out: pathlib.Path
          ) -> dict[str, list[pathlib.Path]]:
    """Case → the folders of its runs, one a seed, all finished.

    arguments: of `xrec_jax.train` but for --workdir and the seed: --config FILE and what else is changed.

    Raises:
      UserError: a run that failed, or a folder that holds a finished run of other arguments.
    """
    found = {}
    for case in cases:
        found[case.name] = [out / 'runs' / f'{slug(case.name)}-seed-{seed}' for seed in seeds]
        for seed, workdir in zip(seeds, found[case.name]):
            changes = {'seed': seed, **case.changes}
            wanted = [*arguments, *(f'--config.{key}={value}' for key, value in changes.items())]
            told = workdir.parent / f'{workdir.name}.json'
            if measured(workdir) and told.exists():
                had = json.loads(told.read_text())
                if had != wanted:
                    raise UserError(f'{workdir} holds a finished run of other arguments; choose another --out. It has\n  '
                                    f'{" ".join(had)}\nand now it would be\n  {" ".join(wanted)}')
                continue
            write_whole(told, lambda path: path.write_text(json.dumps(wanted) + '\n'))
            progress.say(f'{case.name}, seed {seed}: {workdir}')
            command = [sys.executable, '-m', 'xrec_jax.train', *wanted, '--workdir', str(workdir)]
            if subprocess.run(command).returncode:
                raise UserError(f'{case.name}, seed {seed} failed (see above). The same command goes on from there.')
    return found


def slug(name: str) -> str:
    """'RecPIE, 25 %' → 'recpie-25', for a folder."""
    return re.sub(r'[^a-z0-9.]+', '-', name.lower()).strip('-')


def measured(workdir: pathlib.Path) -> dict[str, Any]:
    """The figures of a run's scorers; {} before its `judge`: the summary of a run that was stopped holds times only."""
    path = workdir / 'summary.json'
    summary = json.loads(path.read_text()) if path.exists() else {}
    return next((summary[key] for key in SUMMARY.values() if key in summary), {})


def figures(workdir: pathlib.Path, scorer: str) -> dict[str, float]:
    """Test metrics of a scorer of a finished run of clicks or ratings."""
    of_scorers = measured(workdir)
    if scorer not in of_scorers:
        raise UserError(f'{workdir} has measured no "{scorer}".{nearest(scorer, of_scorers)}')
    return of_scorers[scorer]['test']


def row(workdirs: Sequence[pathlib.Path], scorer: str, metrics: Sequence[str]) -> dict[str, float]:
    """Mean and standard deviation ('metric std') of a scorer's metrics over runs; no deviation of one run."""
    each = [figures(workdir, scorer) for workdir in workdirs]
    result = {}
    for metric in metrics:
        values = [one[metric] for one in each]
        result[metric] = float(np.mean(values))
        if len(values) > 1:
            result[f'{metric} std'] = float(np.std(values, ddof=1))
    return result
