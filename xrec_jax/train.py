"""Runs a config's schedule into a workdir, or goes on with it.

python -m xrec_jax.train --config configs/expctr.py:ml-100k --workdir DIR [--config.lc.iterations=40 …]
"""

import jax
from absl import flags

from xrec_jax import cli
from xrec_jax.data import protocols
from xrec_jax.parallel import distributed
from xrec_jax.phases.schedule import check_schedule, parse, run_schedule
from xrec_jax.phases.task import Task, make_task, protocol_options
from xrec_jax.runs import compile_cache, files, heartbeat, preemption, progress, watch
from xrec_jax.runs.workdir import open_workdir


def main(argv: list[str]) -> None:
    del argv
    cli.join_processes()
    preemption.listen()
    compile_cache.use()
    config, directory = flags.FLAGS.config, flags.FLAGS.workdir
    # The folder is made last: bad settings leave nothing behind that would refuse the right ones.
    task = make_task(config, files.as_path(directory))
    check_schedule(task)
    task.metrics.observers += watch.observers(task.workdir, config.to_dict(), [phase for phase, _, _ in parse(config)])
    distributed.main_first(lambda: open_workdir(directory, config))

    heartbeat.start(task.workdir)
    devices = jax.devices()
    several = f' in {jax.process_count()} processes' if jax.process_count() > 1 else ''
    progress.say(f'{len(devices)} × {devices[0].device_kind} ({jax.default_backend()}){several}; {directory}')
    if task.dataset:
        progress.say(told(task))
    run_schedule(task)
    distributed.barrier('end')


def told(task: Task) -> str:
    """The line about the data."""
    sizes = ', '.join(f'{split} {len(rows.label):,} ({protocols.positive_rate(rows):.1%} liked)'
                      for split, rows in task.examples.items())
    options = protocol_options(task.config.data)
    like = ('any interaction' if options['threshold'] is None else
            f'a rating {options["comparison"].replace("_", " ")} {options["threshold"]:g}')
    return f'{task.dataset.name}: {sizes}; a like is {like}'


if __name__ == '__main__':
    cli.define_run_flags('configs/expctr.py:ml-100k')
    watch.define_flags()
    cli.run(main)
