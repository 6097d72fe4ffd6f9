"""Runs a config's schedule into a workdir, or goes on with it.

python -m xrec_jax.train --config configs/expctr.py:ml-100k --workdir DIR [--config.lc.iterations=40 …]
"""

import jax
from absl import flags
from ml_collections import config_flags

from xrec_jax import cli
from xrec_jax.data import protocols
from xrec_jax.phases.schedule import run_schedule
from xrec_jax.phases.task import make_task
from xrec_jax.runs import progress
from xrec_jax.runs.workdir import open_workdir

CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config, as configs/expctr.py:ml-100k.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; an existing one is gone on with.', required=True)
flags.mark_flag_as_required('config')


def main(argv: list[str]) -> None:
    del argv
    config = CONFIG.value
    task = make_task(config, open_workdir(WORKDIR.value, config))

    devices = jax.devices()
    progress.say(f'{len(devices)} × {devices[0].device_kind}; {WORKDIR.value}')
    sizes = ', '.join(f'{split} {len(rows.label):,} ({protocols.positive_rate(rows):.1%} liked)'
                      for split, rows in task.examples.items())
    data = config.data
    progress.say(f'{task.dataset.name}: {sizes}; a like is a rating {data.comparison.replace("_", " ")} '
                 f'{data.threshold:g}')
    run_schedule(task)


if __name__ == '__main__':
    cli.run(main)
