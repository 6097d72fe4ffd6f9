"""Puts finished runs side by side: mean and spread over their seeds.

python -m xrec_jax.report --workdir runs/a --workdir runs/b [--workdir …]
"""

import json
import pathlib

import numpy as np
import rich.table
from absl import flags

from xrec_jax import cli
from xrec_jax.errors import UserError
from xrec_jax.metrics import ctr
from xrec_jax.metrics.spread import spread
from xrec_jax.runs import progress
from xrec_jax.runs.metrics_writer import read_metrics



def main(argv: list[str]) -> None:
    del argv
    workdirs = [pathlib.Path(path) for path in flags.FLAGS.workdir]
    summaries = [read_summary(workdir) for workdir in workdirs]
    progress.CONSOLE.print(ctr_table(summaries))
    for line in lines(summaries, workdirs):
        progress.say(line)


def read_summary(workdir: pathlib.Path) -> dict:
    """The `summary.json` of a finished run."""
    path = workdir / 'summary.json'
    if not path.exists():
        raise UserError(f'{path}: no such file; a run writes it when it is finished.')
    return json.loads(path.read_text())


def ctr_table(summaries: list[dict]) -> rich.table.Table:
    """Test metrics of each scorer over the runs."""
    seeds = ', '.join(str(summary['seed']) for summary in summaries)
    table = rich.table.Table(title=f'test split, {len(summaries)} runs (seeds {seeds})', title_justify='left')
    table.add_column('')
    for name in ctr.LABELS.values():
        table.add_column(name, justify='right')
    for scorer in summaries[0]['ctr']:
        table.add_row(scorer, *(spread([summary['ctr'][scorer]['test'][metric] for summary in summaries])
                                for metric in ctr.LABELS))
    return table


def lines(summaries: list[dict], workdirs: list[pathlib.Path]) -> list[str]:
    """Differences to the baselines, named attributes, rewards over the phases, and time."""
    def auc(scorer: str) -> np.ndarray:
        return np.array([summary['ctr'][scorer]['test']['auc'] for summary in summaries])

    result = [f'{ours} − {theirs}, test AUC: {spread(list(auc(ours) - auc(theirs)))}'
              for ours, theirs in (('ExpCTR-LLM', 'ICL'), ('ExpCTR-Aug', 'DeepFM'))
              if ours in summaries[0]['ctr'] and theirs in summaries[0]['ctr']]
    named = [summary['named_decisive_attribute'] for summary in summaries]
    if named[0] and np.isfinite(named[0]['before']['test']):
        result.append('explanations that name a decisive attribute, test: '
                      + ', '.join(f'{spread([one[moment]["test"] for one in named], 3)} {moment}'
                                  for moment in ('before', 'after')))
    rows = [read_metrics(workdir / 'metrics.jsonl') for workdir in workdirs]
    for phase in dict.fromkeys(row['phase'] for row in rows[0] if '-align-' in row['phase']):
        rewards = [[row['reward'] for row in run if row['phase'] == phase] for run in rows]
        fifth = max(1, len(rewards[0]) // 5)
        result.append(f'{phase}, mean reward: {spread([np.mean(run[:fifth]) for run in rewards], 3)} in the first '
                      f'fifth, {spread([np.mean(run[-fifth:]) for run in rewards], 3)} in the last')
    result.append('minutes: ' + spread([sum(summary['seconds'].values()) / 60 for summary in summaries], 1))
    return result


if __name__ == '__main__':
    flags.DEFINE_multi_string('workdir', None, 'Folder of a finished run; give it for each.', required=True)
    cli.run(main)
