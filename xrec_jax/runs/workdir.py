"""The folder of one run, and the rule that it belongs to one config.

    config.json                 the config
    metrics.jsonl               one row a step: step, phase, name → value
    checkpoints/<phase>/        the state of each phase (`checkpoints.py`)
    explanations/<phase>.parquet
    examples/<phase>.parquet    what they are about: histories, targets, likes (`phases.explained`)
    adapters/<phase>/           what `tune` made, as PEFT keeps adapters
    wandb.json                  project and id of its run at Weights & Biases (`watch.py`)
    processes/                  where each of several processes is (`heartbeat.py`)
    summary.json                the final metrics, versions, seed, device, timings

The same command on an existing folder goes on with it. A config that differs is refused, unless it
only changes the machine (`MACHINE`) or the schedule, and no phase on disk would then be taken for one with another
past.
"""

import json
from typing import Any

import ml_collections

from xrec_jax.errors import UserError
from xrec_jax.runs import files

MACHINE = ('mesh',)  # groups that say on what a run goes, not what it computes
EXTENSIBLE = 'schedule'  # may change, as long as no phase on disk would be taken for another


def open_workdir(path: str, config: ml_collections.ConfigDict) -> files.Path:
    """Makes or checks the folder of a run and writes `config.json`; UserError names the keys that differ."""
    workdir = files.as_path(path)
    file = workdir / 'config.json'
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f'--workdir {workdir} is a file, not a folder.')
    new = flat(json.loads(config.to_json()))
    if file.exists():
        try:
            old = flat(json.loads(file.read_text()))
        except json.JSONDecodeError as error:
            raise UserError(f'{file}, line {error.lineno}: not valid JSON ({error.msg}); restore it, or choose '
                            'another --workdir.') from None
        _check_schedules(workdir, old.get(EXTENSIBLE, []), new.get(EXTENSIBLE, []))
        differing = sorted(key for key in old.keys() | new.keys()
                           if old.get(key) != new.get(key) and key.split('.')[0] not in MACHINE)
        if set(differing) - {EXTENSIBLE}:
            lines = [f'  {key}: {old.get(key, "absent")!r} there, {new.get(key, "absent")!r} now'
                     for key in differing]
            raise UserError(f'{workdir} holds a run of another config:\n' + '\n'.join(lines)
                            + '\nChoose another --workdir, or give the config of that run.')
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise UserError(f'{workdir} holds something that is not a run (no config.json); choose another --workdir.')
    files.write_whole(file, lambda path: path.write_text(json.dumps(json.loads(config.to_json()), indent=1) + '\n'))
    return workdir


def _check_schedules(workdir: files.Path, old: list[str], new: list[str]) -> None:
    """UserError where a phase behind the first change of the schedule has a namesake on disk."""
    same = next((at for at, pair in enumerate(zip(old, new)) if pair[0] != pair[1]), min(len(old), len(new)))
    for index, entry in enumerate(new[same:], same + 1):
        phase = f'{index:02}-{entry.replace("(", "-").rstrip(")")}'
        if any((workdir / 'checkpoints' / phase).glob('*')) or any((workdir / 'explanations').glob(f'{phase}.*')):
            raise UserError(f'{workdir}: the schedule differs from phase {same + 1} on, and {phase} was run after '
                            'another one there; choose another --workdir.')


def flat(tree: Any, prefix: str = '') -> dict[str, Any]:
    """{'a': {'b': 1}} → {'a.b': 1}: a config by dotted key."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {key: leaf for name, branch in tree.items()
            for key, leaf in flat(branch, f'{prefix}.{name}' if prefix else name).items()}
