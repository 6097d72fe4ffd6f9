"""Puts finished runs side by side: mean and spread over their seeds.

    python -m xrec_jax.report --workdir runs/a runs/b [runs/c …]                       # a table in the terminal
    python -m xrec_jax.report --workdir runs/a runs/b --out report.html                # a page: figures, explanations
    python -m xrec_jax.report --workdir runs/a runs/b --format markdown [--out FILE]   # or latex: the tables
"""

import json
import sys

import numpy as np
import rich.table
from absl import flags

from xrec_jax import cli
from xrec_jax.errors import UserError
from xrec_jax.metrics.spread import spread
from xrec_jax.phases.scorers import SUMMARY, labels
from xrec_jax.reporting import cards, collect, page
from xrec_jax.runs import progress
from xrec_jax.runs.files import Path, as_path, write_whole
from xrec_jax.runs.metrics_writer import read_metrics


def main(argv: list[str]) -> None:
    del argv
    workdirs = [as_path(path) for path in flags.FLAGS.workdir]
    form, out = flags.FLAGS.format, flags.FLAGS.out
    if form or out:
        write_report(workdirs, form or 'html', out and as_path(out), flags.FLAGS.cards)
        return
    summaries = [read_summary(workdir) for workdir in workdirs]
    progress.CONSOLE.print(figures_table(summaries))
    for line in lines(summaries, workdirs):
        progress.say(line)


def write_report(workdirs: list[Path], form: str, out: Path | None, most_cards: int = cards.MOST) -> None:
    """Writes the report of `reporting.page` to a file, or to the terminal without one."""
    if form == 'html' and not out:
        raise UserError('--format=html needs --out: the file that is written.')
    text = page.render(collect.grouped([collect.read_run(workdir) for workdir in workdirs]), form, most_cards)
    if not out:
        print(text)
        return
    write_whole(out, lambda path: path.write_text(text, encoding='utf-8'))
    progress.say(f'written to {out}')


def workdirs_apart(arguments: list[str]) -> list[str]:
    """`--workdir A B` as `--workdir=A --workdir=B`."""
    found, listing = [], False
    for argument in arguments:
        if argument in ('--workdir', '-workdir'):
            listing = True
        elif listing and not argument.startswith('-'):
            found.append(f'--workdir={argument}')
        else:
            listing = argument.startswith(('--workdir=', '-workdir='))
            found.append(argument)
    return found


def read_summary(workdir: Path) -> dict:
    """The `summary.json` of a finished run."""
    path = workdir / 'summary.json'
    if not path.exists():
        raise UserError(f'{path}: no such file; a run writes it when it is finished.')
    return json.loads(path.read_text())


def judged(summaries: list[dict]) -> str:
    """What the runs were judged by: 'click', 'rating' or 'ranking'; UserError where they differ."""
    kinds = {next(kind for kind, key in SUMMARY.items() if key in summary) for summary in summaries}
    if len(kinds) > 1:
        raise UserError(f'These runs were judged by {" and ".join(sorted(kinds))}: report on each kind by itself.')
    return kinds.pop()


def figures_table(summaries: list[dict]) -> rich.table.Table:
    """Test metrics of each scorer over the runs; of rankings those at 10."""
    kind = judged(summaries)
    figures = [summary[SUMMARY[kind]] for summary in summaries]
    columns = {metric: title for metric, title in labels(kind, (10,)).items()
               if all(metric in by_split['test'] for by_split in figures[0].values())}
    seeds = ', '.join(str(summary['seed']) for summary in summaries)
    table = rich.table.Table(title=f'test split, {len(summaries)} runs (seeds {seeds})', title_justify='left')
    table.add_column('')
    for title in columns.values():
        table.add_column(title, justify='right')
    for scorer in figures[0]:
        table.add_row(scorer, *(spread([run[scorer]['test'][metric] for run in figures]) for metric in columns))
    return table


def lines(summaries: list[dict], workdirs: list[Path]) -> list[str]:
    """Differences to the baselines, named attributes, rewards over the phases, and time."""
    def auc(scorer: str) -> np.ndarray:
        return np.array([summary['ctr'][scorer]['test']['auc'] for summary in summaries])

    scorers = summaries[0].get('ctr', ())
    result = [f'{ours} − {theirs}, test AUC: {spread(list(auc(ours) - auc(theirs)))}'
              for ours, theirs in (('ExpCTR-LLM', 'ICL'), ('ExpCTR-Aug', 'DeepFM'))
              if ours in scorers and theirs in scorers]
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
    flags.DEFINE_multi_string('workdir', None, 'Folders of finished runs.', required=True)
    flags.DEFINE_string('out', '', 'File for the report; without it and --format a table is printed.')
    flags.DEFINE_enum('format', None, page.FORMATS, 'html (of --out by default), or the tables as markdown or latex.')
    flags.DEFINE_integer('cards', cards.MOST, 'Explanations that the page shows at most; 0: none.', lower_bound=0)
    sys.argv[1:] = workdirs_apart(sys.argv[1:])
    cli.run(main)
