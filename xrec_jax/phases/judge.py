"""`judge`: measures what a run has made, and shows it.

  the table      figures of every scorer (`scorers`) on validation and test; of a predictor that was fitted with
                 several seeds, mean and spread
  `named_share`  how many explanations name an attribute that truly decided (simulated worlds)
  `attention`    of a scorer with RecPIE's rating network: what each input gets (`judge_attention`)
  `examples`     a few explanations before and after, side by side
All of it goes to `summary.json` too, the table also to `table.csv` and `table.md`, each prediction to
`predictions.parquet`. Without `judge.before` and `judge.after` there are no explanations to look at. Pairs and attributes
of LLMXRec are judged in `judge_pairs` and `judge_attributes`, texts in `judge_text`. Every score is of an explanation
written without the label.
"""

import csv
import datetime
import importlib.metadata
import io
import pathlib
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
import rich.markup
import rich.table

from xrec_jax.data import protocols
from xrec_jax.errors import UserError, nearest
from xrec_jax.metrics import attributes
from xrec_jax.metrics.spread import spread
from xrec_jax.phases import contrast, judge_attention, judge_attributes, judge_pairs, judge_text, predictions, scorers
from xrec_jax.phases.scorers import SPLITS, SUMMARY, Figures
from xrec_jax.phases.settings import settings_of
from xrec_jax.phases.task import Task
from xrec_jax.runs import progress
from xrec_jax.runs.files import write_whole
from xrec_jax.runs.state import RunState
from xrec_jax.runs.summary import update_summary

NOT_RUN = 'not run'  # in the row of a system that is named in a paper's table and is not here
OTHERS = {'pairs': judge_pairs, 'attributes': judge_attributes, 'text': judge_text}  # what needs no scorers

FALLBACK = {
    'click': 'by their other fields (an id that was never trained is as it was drawn, near zero)',
    'rating': 'by their other fields (an id that was never trained is as it was drawn, near zero)',
    'ranking': 'by popularity (users) and last of all (items)',
}


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Prints the tables and writes `summary.json`."""
    del index
    if settings.task in OTHERS:
        figures = {settings.name: OTHERS[settings.task].run(task, state, phase, settings)}
    else:
        figures = _scored(task, state, settings)
    path = update_summary(task.workdir, figures | {
        'seed': task.seed,
        'device': f'{jax.device_count()} × {jax.devices()[0].device_kind}',
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'flax', 'optax', 'transformers')},
        'finished': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    })
    progress.say(f'{phase}: written to {path}')
    return state


def _scored(task: Task, state: RunState, settings: ml_collections.ConfigDict) -> dict:
    """Figures of scorers for `summary.json`; prints and writes their table."""
    figures, scores, fallbacks = measure(task, state, settings)
    sides = ('before', 'after') if 'before' in settings else ()
    tables = {side: scorers.explanations(state, settings[side].explain) for side in sides}
    texts = {side: {split: scorers.joined_texts(task, table) for split, table in by_split.items()}
             for side, by_split in tables.items()}
    summary = {
        **summarised(SUMMARY[settings.task], figures),
        'positive_rate': {split: protocols.positive_rate(rows) for split, rows in task.examples.items()},
        'unseen_in_training': {split: scorers.unseen(task, split) for split in SPLITS},
        'fallbacks': fallbacks,
        'shortened_prompts': _shortened(task, state),
        'named_decisive_attribute': {
            side: {split: named_share(task, split, texts[side][split]) for split in SPLITS} for side in sides} or None,
    }
    if sides and not task.explains_examples:
        summary['in_form'] = {side: {split: scorers.form_shares(task, table) for split, table in by_split.items()}
                              for side, by_split in tables.items()}
    if scores:
        predictions.write(task, settings.task, scores)
    if settings.get('attention', ''):
        summary['attention'] = judge_attention.run(task, state, settings.scorers[settings.attention], scores[
            settings.attention])
    labels = scorers.labels(settings.task, tuple(settings.get('ks', ())))
    columns = shown(settings, figures, labels)
    not_run = tuple(settings.get('not_run', ()))
    progress.CONSOLE.print(figures_table(task, settings.task, figures, columns, not_run))
    write_csv(task.workdir / 'table.csv', figures, labels, not_run)
    write_markdown(task.workdir / 'table.md', figures, columns, not_run)
    for split, number in summary['unseen_in_training'].items():
        if number['users'] or number['items']:
            progress.say(f'{split}: {number["users"]:,} examples of users and {number["items"]:,} of items that '
                         f'training did not meet, scored {FALLBACK[settings.task]}')
    if sides:
        _say_named(summary['named_decisive_attribute'])
        progress.CONSOLE.print(examples(task, settings, texts['before']['test'], texts['after']['test'], scores))
    return summary


def _shortened(task: Task, state: RunState) -> dict | None:
    """By split: prompts that were too long for the context; None in runs that explain no examples."""
    if task.explains_examples:
        return task.shortened
    return contrast.contrast_of(task, state).shortened() if task.kinds else None


def measure(task: Task, state: RunState, settings: ml_collections.ConfigDict
            ) -> tuple[dict[str, Figures], dict[str, dict[str, np.ndarray]], dict[str, dict[str, dict[str, int]]]]:
    """Of every scorer: its figures, its scores [S, N] by split (none of a ranking), and by split for how many a
    fallback stood in (rankings only)."""
    figures, scores, fallbacks = {}, {}, {}
    for name in scorers.in_order(task, settings.scorers):
        text = settings.scorers[name]
        if settings.task == 'ranking':
            predictor = state.predictors[scorers.parse(text)[1]]
            figures[name], fallbacks[name] = scorers.ranking_figures(task, predictor, tuple(settings.ks))
        else:
            scores[name] = scorers.predictions(task, state, text)
            of_scores = scorers.click_figures if settings.task == 'click' else scorers.rating_figures
            figures[name] = of_scores(task, scores[name])
    return figures, scores, fallbacks


def summarised(key: str, figures: dict[str, Figures]) -> dict[str, dict]:
    """Means under `key`, and the values of each seed, where there are several, under `key`_of_seeds."""
    means = {name: {split: {metric: float(np.mean(values)) for metric, values in of_split.items()}
                    for split, of_split in by_split.items()} for name, by_split in figures.items()}
    return {key: means,
            f'{key}_of_seeds': {name: by_split for name, by_split in figures.items() if num_seeds(by_split) > 1}}


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError where the schedule has not made by then what is to be measured."""
    if settings.task in OTHERS:
        return OTHERS[settings.task].check(task, settings, earlier)
    if settings.task not in SUMMARY:
        raise UserError(f'judge.task: "{settings.task}" is nothing to measure.'
                        f'{nearest(settings.task, [*SUMMARY, *OTHERS])}')
    if settings.task == 'ranking' and (not settings.ks or min(settings.ks) < 1):
        raise UserError(f'judge.ks={tuple(settings.ks)}: should be lengths of lists, as (5, 10, 20).')
    if not settings.scorers:
        raise UserError('judge.scorers is empty: name what is to be measured, as {"DeepFM": "predictor(ids)"}.')
    if name := settings.get('attention', ''):
        if name not in settings.scorers:
            raise UserError(f'judge.attention: "{name}" is none of judge.scorers.{nearest(name, settings.scorers)}')
        judge_attention.check(task, settings.scorers[name])
    sides = (settings.before, settings.after) if 'before' in settings else ()
    needed = [f'explain({side.explain})' for side in sides]
    for side in sides:
        if settings_of(task.config, 'explain', side.explain).get('writes') == 'predictor':
            raise UserError(f'judge({settings.name}): explain({side.explain}) has one text an example, which is compared by '
                            'a judge of task "text" alone.')
    for name in (name for side in sides for name in side.scorers):
        if name not in settings.scorers:
            raise UserError(f'judge: "{name}" is none of judge.scorers.{nearest(name, settings.scorers)}')
    for text in settings.scorers.values():
        needed += scorers.phases_of(text)
        scorers.check(task, text, settings.task)
    for entry in needed:
        if entry not in earlier:
            raise UserError(f'schedule: judge({settings.name}) needs {entry} before it.{nearest(entry, earlier)}')


def num_seeds(figures: Figures) -> int:
    return len(next(iter(figures['test'].values())))


def shown(settings: ml_collections.ConfigDict, figures: dict[str, Figures], labels: dict[str, str]) -> dict[str, str]:
    """The columns of `labels` there is room for in a terminal: of rankings those at one k, but none twice.

    With one item held out a user, Hit is Recall and MAP is MRR; the files have all.
    """
    if settings.task != 'ranking':
        return labels
    k = 10 if 10 in settings.ks else max(settings.ks)
    columns = {}
    for metric in (metric for metric in labels if metric.endswith(f'@{k}')):
        values = np.concatenate([by_split['test'][metric] for by_split in figures.values()])
        if not any(np.allclose(values, others, atol=1e-6) for others in columns.values()):
            columns[metric] = values
    return {metric: labels[metric] for metric in columns}


def figures_table(task: Task, judged: str, figures: dict[str, Figures], labels: dict[str, str],
                  not_run: Sequence[str] = ()) -> rich.table.Table:
    """The table of scorers; with spreads, or many columns, the test split alone, for want of room.

    Last stand the rows of a paper's table that are `not_run`: systems that this code does not have.
    """
    spreads = any(num_seeds(by_split) > 1 for by_split in figures.values())
    splits = ('test',) if spreads or len(labels) > 4 else SPLITS
    sizes = ', '.join(f'{split} {len(task.examples[split].label):,}'
                      + (f', {protocols.positive_rate(task.examples[split]):.1%} liked' if judged == 'click' else '')
                      for split in splits)
    table = rich.table.Table(title=f'{task.dataset.name}, seed {task.seed} ({sizes})', title_justify='left')
    table.add_column('')
    for split in splits:
        for title in labels.values():
            table.add_column(f'{split}\n{title}', justify='right')
    for name, by_split in figures.items():
        table.add_row(name, *(spread(by_split[split][metric]) for split in splits for metric in labels))
    for name in not_run:
        table.add_row(name, NOT_RUN, style='dim')
    return table


def write_csv(path: pathlib.Path, figures: dict[str, Figures], labels: dict[str, str], not_run: Sequence[str] = ()
              ) -> None:
    """All figures on both splits, mean and standard deviation in columns of their own."""
    columns = [(split, metric) for split in SPLITS for metric in labels]
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(['', *(f'{split} {labels[metric]}{what}' for split, metric in columns for what in ('', ' std'))])
    for name, by_split in figures.items():
        values = [by_split[split][metric] for split, metric in columns]
        rows.writerow([name, *(x for v in values for x in (np.mean(v), np.std(v, ddof=1) if len(v) > 1 else ''))])
    rows.writerows([name, *([NOT_RUN] + [''] * (2 * len(columns) - 1))] for name in not_run)
    write_whole(path, lambda partial: partial.write_text(text.getvalue()))


def write_markdown(path: pathlib.Path, figures: dict[str, Figures], labels: dict[str, str], not_run: Sequence[str] = ()
                   ) -> None:
    """The columns of `labels` on both splits, for a README."""
    columns = [(split, metric) for split in SPLITS for metric in labels]
    lines = ['| |' + '|'.join(f' {split} {labels[metric]} ' for split, metric in columns) + '|',
             '|---|' + '---|' * len(columns)]
    lines += [f'| {name} |' + '|'.join(f' {spread(by_split[split][metric])} ' for split, metric in columns) + '|'
              for name, by_split in figures.items()]
    lines += [f'| {name} | {NOT_RUN} |' + ' |' * (len(columns) - 1) for name in not_run]
    write_whole(path, lambda partial: partial.write_text('\n'.join(lines) + '\n'))


def named_share(task: Task, split: str, texts: Sequence[str]) -> float:
    """Share of explanations that name an attribute which decided the rating, of those that have one.

    Titles are taken out first: a word in a title is no reason. NaN where the truth is not known.
    """
    rows = task.examples[split].interaction
    aspects = [row or [] for row in task.dataset.interactions['aspects'].take(rows).to_pylist()]
    texts = [_without_titles(task, split, n, text) for n, text in enumerate(texts)]
    named, known = attributes.names_any(texts, aspects)
    return float(named[known].mean()) if known.any() else float('nan')


def _without_titles(task: Task, split: str, row: int, text: str) -> str:
    examples = task.examples[split]
    for item in (examples.item[row], *(item for item in examples.history[row] if item >= 0)):
        text = text.replace(task.titles[item], '')
    return text


def _say_named(shares: dict) -> None:
    if np.isfinite(shares['before']['test']):
        progress.say('explanations that name a decisive attribute: ' + ', '.join(
            f'{split} {shares["before"][split]:.1%} before, {shares["after"][split]:.1%} after' for split in SPLITS))


def examples(task: Task, settings: ml_collections.ConfigDict, before: Sequence[str], after: Sequence[str],
             scores: dict) -> rich.table.Table:
    """A few test examples with history and label, and both explanations with the scores they lead to."""
    rated = settings.task == 'rating'
    table = rich.table.Table(title=f'{settings.examples} explanations before and after, and the '
                                   f'{"ratings" if rated else "likes"} that are predicted',
                             title_justify='left', show_lines=True)
    for title, ratio in (('user and item', 4), ('before', 3), ('after', 3)):
        table.add_column(title, ratio=ratio)
    test = task.examples['test']
    random = np.random.Generator(np.random.Philox(task.seed))
    for row in np.sort(random.permutation(len(test.user))[:settings.examples]):
        seen = test.history[row] >= 0
        liked, disliked = (
            '; '.join(task.item_texts[item] for item in test.history[row][seen & which]) or 'none'
            for which in (test.history_liked[row], ~test.history_liked[row]))
        user = task.dataset.users['user_id'][int(test.user[row])]
        cells = [f'user {user} liked: {liked}\ndisliked: {disliked}\n→ {task.item_texts[test.item[row]]}: in truth '
                 + (f'{test.rating[row]:g} stars' if rated else 'liked' if test.label[row] else 'disliked')]
        for side, explained in ((settings.before, before), (settings.after, after)):
            low, high = task.dataset.rating_scale if rated else (0.0, 1.0)
            likes = ', '.join(f'{name} {low + (high - low) * scores[name]["test"][:, row].mean():.2f}'
                              for name in side.scorers)
            cells.append(f'{explained[row]}\n\n{likes}')
        table.add_row(*map(rich.markup.escape, cells))
    return table
