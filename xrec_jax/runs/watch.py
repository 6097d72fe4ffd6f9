"""Watching a run: what is done with each row of metrics beside writing it to `metrics.jsonl`.

  recompilations   a warning for a program that is compiled again when its phase has warmed up
  memory           `peak_memory_gib` in every row, where the backend tells it (not on CPU), and `peak_memory_gib_host`
  `--tensorboard`  the same rows as TensorBoard's events, in DIR/tensorboard
  `--wandb`        the same rows to a project of Weights & Biases; a run that goes on is gone on with there too
  `--profile`      an XLA trace of some steps of a phase, in DIR/profile
"""

import json
import re
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any
import uuid

from absl import flags
import jax

from xrec_jax.errors import UserError
from xrec_jax.parallel import distributed
from xrec_jax.runs import files, progress
from xrec_jax.runs.compiles import Recompilations

Observer = Callable[[str, int, Mapping[str, float]], None]  # phase, step, metrics


def define_flags() -> None:
    """--tensorboard and --profile; called under `__main__`, as `cli.define_run_flags`."""
    flags.DEFINE_bool('tensorboard', False, "Write the metrics as TensorBoard's events too (pip install tensorboardX).")
    flags.DEFINE_string('wandb', '', 'Write the metrics to this project of Weights & Biases too (pip install wandb; '
                        'wandb login, or WANDB_MODE=offline).')
    flags.DEFINE_string('profile', '', 'Trace steps of a phase with the XLA profiler, as 03-align-lc:3-5.')


def observers(workdir: files.Path, config: Mapping[str, Any], phases: list[str]) -> list[Observer]:
    """What the flags ask for; UserError for a phase that the schedule does not have, or a missing package."""
    made = [recompilations()]
    if flags.FLAGS.tensorboard and distributed.is_main():
        made.append(tensorboard(workdir))
    if flags.FLAGS.wandb and distributed.is_main():
        made.append(weights_and_biases(flags.FLAGS.wandb, workdir, config))
    if flags.FLAGS.profile:
        made.append(Profile(flags.FLAGS.profile, workdir, phases))
    return made


def recompilations(**settings) -> Observer:
    """Warns of what `compiles.Recompilations` finds."""
    look = Recompilations(**settings)

    def observe(phase, step, metrics):
        del metrics
        for line in look(phase, step):
            progress.warn(line)

    return observe


def tensorboard(workdir: files.Path) -> Observer:
    """Each number as a scalar `<phase>/<name>`."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError('--tensorboard needs the package tensorboardX: pip install tensorboardX') from None
    folder, send = files.mirror(workdir / 'tensorboard')
    writer = SummaryWriter(str(folder), flush_secs=10)

    def observe(phase, step, metrics):
        for name, value in metrics.items():
            writer.add_scalar(f'{phase}/{name}', float(value), step)
        writer.flush()
        send()

    return observe


def weights_and_biases(project: str, workdir: files.Path, config: Mapping[str, Any]) -> Observer:
    """Each number as `<phase>/<name>` over `<phase>/step`.

    The run's id is kept in `wandb.json` from its first row on, so the same command goes on with the same run. Rows
    that a resumed run writes again are there twice: what was sent cannot be taken back.
    """
    try:
        import wandb
    except ImportError:
        raise UserError('--wandb needs the package wandb: pip install wandb') from None
    file, run, known = workdir / 'wandb.json', None, set()

    def begin():
        identity = json.loads(file.read_text()) if file.exists() else {'project': project, 'id': uuid.uuid4().hex[:12]}
        files.write_whole(file, lambda path: path.write_text(json.dumps(identity) + '\n'))
        # A run may go on with another mesh, or a longer schedule.
        return wandb.init(**identity, name=workdir.name, resume='allow', config=dict(config), allow_val_change=True,
                          dir=None if files.is_remote(workdir) else str(workdir))

    def observe(phase, step, metrics):
        nonlocal run
        run = run or begin()  # not before the workdir is known to be this config's
        if phase not in known:
            known.add(phase)
            run.define_metric(f'{phase}/*', step_metric=f'{phase}/step')
        run.log({f'{phase}/step': step} | {f'{phase}/{name}': float(value) for name, value in metrics.items()})

    return observe


class Profile:
    """Traces the steps FIRST to LAST of a phase, from the row of metrics before FIRST to that of LAST."""

    def __init__(self, wanted: str, workdir: files.Path, phases: list[str]):
        parts = re.fullmatch(r'(.+):(\d+)-(\d+)', wanted)
        if not parts or not 2 <= int(parts[2]) <= int(parts[3]):
            raise UserError(f'--profile={wanted}: should be PHASE:FIRST-LAST with FIRST from 2 on (the first step of a '
                            f'phase is spent compiling), as {phases[0]}:3-5.')
        self.phase, self.first, self.last = parts[1], int(parts[2]), int(parts[3])
        if self.phase not in phases:
            raise UserError(f'--profile: the schedule has no phase "{self.phase}"; it has {", ".join(phases)}.')
        self.folder, self._tracing = workdir / 'profile', False

    def __call__(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        del metrics
        if self._tracing and (phase != self.phase or step >= self.last):
            jax.profiler.stop_trace()
            self._send()
            self._tracing = False
            progress.say(f'profile of {self.phase}, steps {self.first} to {self.last}: {self.folder} (open it with '
                         'xprof, or TensorBoard and tensorboard-plugin-profile)')
        elif phase == self.phase and self.first - 1 <= step < self.last and not self._tracing:
            local, self._send = files.mirror(self.folder, everywhere=True)
            jax.profiler.start_trace(str(local))
            self._tracing = True


def peak_memory_gib() -> float | None:
    """The most that one device of this process has held since its start; None where the backend does not tell."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one['peak_bytes_in_use'] for one in stats if 'peak_bytes_in_use' in one]
    return max(peaks) / 2**30 if peaks else None


def peak_host_memory_gib() -> float:
    """The most memory of the host that this process has held since its start."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == 'darwin' else 2**20)
