"""How much training data does it take? (RecPIE, appendix D.1 and table 3)

    python -m xrec_jax.analysis.learning --config configs/recpie.py:simulated --out DIR

Trains the config with shares of its training targets (`data.train_share`; the test split stays), every seed, and puts
its scorers beside one another. Settings are given as to `xrec_jax.train` (--config.KEY=VALUE). The same command goes
on after a stop. Says at which share --ours is as good as --baseline on all data. Writes learning.csv, learning.png.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence

from absl import flags
import matplotlib.figure
from ml_collections.config_flags import config_flags

from xrec_jax import cli
from xrec_jax.analysis import output, runs
from xrec_jax.errors import UserError, nearest
from xrec_jax.runs import progress

METRICS = ('rmse', 'mae')


def cases(shares: Sequence[float]) -> list[runs.Case]:
    return [runs.Case(f'share-{share:g}', {'data.train_share': share}) for share in shares]


def rows(workdirs: Mapping[str, Sequence[pathlib.Path]], shares: Sequence[float], scorers: Sequence[str],
         metrics: Sequence[str] = METRICS) -> list[dict]:
    """One row for each share and scorer: mean and spread over seeds."""
    return [{'share': share, 'scorer': scorer, 'runs': len(workdirs[case.name]),
             **runs.row(workdirs[case.name], scorer, metrics)}
            for share, case in zip(shares, cases(shares)) for scorer in scorers]


def reached(table: Sequence[Mapping], ours: str, baseline: str, metric: str = 'rmse') -> float | None:
    """The least share at which the mean of `ours` is no worse than that of `baseline` at the largest; None: at none."""
    largest = max(row['share'] for row in table)
    goal = next(row[metric] for row in table if row['scorer'] == baseline and row['share'] == largest)
    return min((row['share'] for row in table if row['scorer'] == ours and row[metric] <= goal), default=None)


def draw(table: Sequence[Mapping], baseline: str, metric: str = 'rmse') -> matplotlib.figure.Figure:
    """The metric by share, a line a scorer; dashed, the baseline on all data."""
    figure, (axes,) = output.new_figure()
    shares = sorted({row['share'] for row in table})
    for scorer, colour in zip(dict.fromkeys(row['scorer'] for row in table), output.COLOURS):
        points = sorted((row for row in table if row['scorer'] == scorer), key=lambda row: row['share'])
        axes.errorbar([row['share'] for row in points], [row[metric] for row in points],
                      [row.get(f'{metric} std', 0) for row in points], color=colour, marker='o', capsize=3, label=scorer)
        if scorer == baseline:
            axes.axhline(points[-1][metric], color=colour, linestyle='--', linewidth=1)
    axes.set(xscale='log', xlabel='share of the training data', ylabel=f'test {metric.upper()}', xticks=shares,
             xticklabels=[f'{share:.0%}' for share in shares])
    axes.minorticks_off()
    axes.legend(fontsize='small')
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    shares = [float(share) for share in given.shares]
    if not all(0 < share <= 1 for share in shares):
        raise UserError(f'--shares={",".join(given.shares)}: should be shares above 0 and at most 1.')
    for name in (given.ours, given.baseline):
        if name not in given.config.judge.scorers:
            raise UserError(f'"{name}" is none of judge.scorers.{nearest(name, given.config.judge.scorers)}')
    out = pathlib.Path(given.out)
    workdirs = runs.train(cases(shares), [int(seed) for seed in given.seeds], runs.config_arguments(sys.argv[1:]), out)
    table = rows(workdirs, shares, [given.baseline, given.ours])
    progress.CONSOLE.print(output.table(table, 'test split', digits=4))
    share = reached(table, given.ours, given.baseline)
    progress.say(f'{given.ours} is as good as {given.baseline} on all data '
                 + (f'from {share:.0%} of the training data on' if share else 'at none of these shares') + ' (RMSE)')
    output.write(out, 'learning', table, draw(table, given.baseline))


if __name__ == '__main__':
    config_flags.DEFINE_config_file('config', None, 'File with get_config, as configs/recpie.py:simulated.')
    flags.mark_flag_as_required('config')
    flags.DEFINE_list('shares', ['0.12', '0.25', '0.5', '1'], 'Of the training targets.')
    flags.DEFINE_list('seeds', ['0', '1', '2'], 'Each share is trained with each.')
    flags.DEFINE_string('ours', 'RecPIE', 'A scorer of `judge`.')
    flags.DEFINE_string('baseline', 'No text', 'Another one.')
    flags.DEFINE_string('out', None, 'Folder for the runs, learning.csv and learning.png.', required=True)
    cli.run(main)
