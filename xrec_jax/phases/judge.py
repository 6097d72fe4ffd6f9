"""`judge`: measures what a run has made, and shows it.

  `ctr_table`   AUC, LogLoss, MAE, RMSE of every scorer on validation and test (ExpCTR table 1); of a
                predictor that was fitted with several seeds, mean and spread
  `named_share` how many explanations name an attribute that truly decided (simulated worlds)
  `examples`    a few explanations before and after, side by side
All of it goes to `summary.json` too, the table also to `table.csv` and `table.md`. Without `judge.before`
and `judge.after` there are no explanations to look at. Every score is of an explanation written without the label.
"""

import csv
import datetime
import importlib.metadata
import io
import json
import pathlib
import re
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
import pyarrow as pa
import rich.markup
import rich.table

from xrec_jax.data import protocols
from xrec_jax.errors import UserError, nearest
from xrec_jax.metrics import attributes, ctr
from xrec_jax.metrics.spread import spread
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import training
from xrec_jax.runs import progress
from xrec_jax.runs.explanations import read_explanations, vectors
from xrec_jax.runs.files import write_whole
from xrec_jax.runs.state import RunState

SPLITS = ('valid', 'test')


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Prints the tables and writes `summary.json`."""
    compared = 'before' in settings
    if compared:
        before, after = (explanations(state, side.explain) for side in (settings.before, settings.after))
    scores = {name: scorer(task, state, settings.scorers[name]) for name in in_order(task, settings.scorers)}
    figures = {name: {split: ctr_figures(task.examples[split].label, by_split[split]) for split in SPLITS}
               for name, by_split in scores.items()}
    summary = {
        'ctr': {name: {split: {metric: float(np.mean(values)) for metric, values in of_split.items()}
                       for split, of_split in by_split.items()} for name, by_split in figures.items()},
        'ctr_of_seeds': {name: by_split for name, by_split in figures.items() if len(by_split['test']['auc']) > 1},
        'positive_rate': {split: protocols.positive_rate(rows) for split, rows in task.examples.items()},
        'named_decisive_attribute': {
            moment: {split: named_share(task, split, table[split]) for split in SPLITS}
            for moment, table in (('before', before), ('after', after))} if compared else None,
        'seed': task.seed,
        'device': f'{jax.device_count()} × {jax.devices()[0].device_kind}',
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'flax', 'optax', 'transformers')},
        'seconds': state.seconds,
        'finished': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    }
    path = task.workdir / 'summary.json'
    write_whole(path, lambda partial: partial.write_text(json.dumps(summary, indent=1, allow_nan=True) + '\n'))
    console = progress.CONSOLE
    console.print(ctr_table(task, figures))
    write_table(task.workdir, figures)
    if compared:
        _say_named(summary['named_decisive_attribute'])
        console.print(examples(task, settings, before['test'], after['test'], scores))
    progress.say(f'{phase}: written to {path}')
    return state


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError where the schedule has not made by then what is to be measured."""
    sides = (settings.before, settings.after) if 'before' in settings else ()
    needed = [f'explain({side.explain})' for side in sides]
    for name in (name for side in sides for name in side.scorers):
        if name not in settings.scorers:
            raise UserError(f'judge: "{name}" is none of judge.scorers.{nearest(name, settings.scorers)}')
    for text in settings.scorers.values():
        needed += phases_of(text)
    for entry in needed:
        if entry not in earlier:
            raise UserError(f'schedule: judge({settings.name}) needs {entry} before it.{nearest(entry, earlier)}')


def explanations(state: RunState, name: str) -> dict[str, pa.Table]:
    """What the newest phase `explain(name)` wrote, by split, in the order of the examples."""
    path = [path for phase, path in state.explanations.items() if phase.endswith(f'-explain-{name}')][-1]
    return {split: read_explanations(path, split).sort_by('example') for split in SPLITS}


def parse_scorer(text: str) -> tuple[str, str, str | None]:
    """'llm(EXPLAIN)', 'predictor(FIT)' or 'predictor(FIT, EXPLAIN)' → kind, name, name of explain."""
    parts = re.fullmatch(r'(llm|predictor)\((\w+)(?:, *(\w+))?\)', text)
    if not parts or (parts[1] == 'llm' and parts[3]):
        raise UserError(f'judge.scorers: "{text}" should be llm(EXPLAIN), predictor(FIT) or predictor(FIT, EXPLAIN).')
    kind, name, written = parts.groups()
    return kind, name, name if kind == 'llm' else written


def phases_of(text: str) -> list[str]:
    """The entries of the schedule that a scorer needs."""
    kind, name, written = parse_scorer(text)
    return [f'fit({name})'] * (kind == 'predictor') + [f'explain({written})'] * bool(written)


def in_order(task: Task, scorers: ml_collections.ConfigDict) -> list[str]:
    """The names of the scorers in the order in which the schedule comes to have them (a config sorts its keys)."""
    schedule = list(task.config.schedule)
    return sorted(scorers, key=lambda name: max(map(schedule.index, phases_of(scorers[name]))))


def scorer(task: Task, state: RunState, text: str) -> dict[str, np.ndarray]:
    """Scores [S, N] by split of what `parse_scorer` knows; S > 1 for a predictor of several seeds."""
    kind, name, written = parse_scorer(text)
    tables = explanations(state, written) if written else {}
    if kind == 'llm':
        return {split: table['llm_score'].to_numpy()[None] for split, table in tables.items()}
    predictor = state.predictors[name]

    predict = training.predict if predictor.seeds == 1 else training.predict_of_seeds

    def rows(split: str) -> training.Rows:
        text = vectors(tables[split])[:, None] if written else None
        return training.make_rows(task.examples[split], text, history=predictor.model.uses_history)

    return {split: np.atleast_2d(predict(predictor.model, predictor.params, task.fields, rows(split)))
            for split in SPLITS}


def ctr_figures(labels: np.ndarray, scores: np.ndarray) -> dict[str, list[float]]:
    """The metrics of `ctr.ctr_metrics`, one value a seed; labels [N], scores [S, N]."""
    each = [ctr.ctr_metrics(labels, row) for row in scores]
    return {metric: [row[metric] for row in each] for metric in ctr.LABELS}


def ctr_table(task: Task, figures: dict) -> rich.table.Table:
    """The table of scorers; with spreads the test split alone, for want of room."""
    splits = ('test',) if any(len(by_split['test']['auc']) > 1 for by_split in figures.values()) else SPLITS
    rates = ', '.join(f'{split} {protocols.positive_rate(task.examples[split]):.1%} of '
                      f'{len(task.examples[split].label)}' for split in splits)
    table = rich.table.Table(title=f'{task.dataset.name}, seed {task.seed} (liked: {rates})', title_justify='left')
    table.add_column('')
    for split in splits:
        for name in ctr.LABELS.values():
            table.add_column(f'{split}\n{name}', justify='right')
    for name, by_split in figures.items():
        table.add_row(name, *(spread(by_split[split][metric]) for split in splits for metric in ctr.LABELS))
    return table


def write_table(workdir: pathlib.Path, figures: dict) -> None:
    """The same as `table.csv` (mean and standard deviation in columns of their own) and `table.md`."""
    columns = [(split, metric) for split in SPLITS for metric in ctr.LABELS]
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(['', *(f'{split} {ctr.LABELS[metric]}{what}' for split, metric in columns for what in ('', ' std'))])
    for name, by_split in figures.items():
        values = [by_split[split][metric] for split, metric in columns]
        rows.writerow([name, *(x for v in values for x in (np.mean(v), np.std(v, ddof=1) if len(v) > 1 else ''))])
    write_whole(workdir / 'table.csv', lambda partial: partial.write_text(text.getvalue()))
    lines = ['| |' + '|'.join(f' {split} {ctr.LABELS[metric]} ' for split, metric in columns) + '|',
             '|---|' + '---|' * len(columns)]
    lines += [f'| {name} |' + '|'.join(f' {spread(by_split[split][metric])} ' for split, metric in columns) + '|'
              for name, by_split in figures.items()]
    write_whole(workdir / 'table.md', lambda partial: partial.write_text('\n'.join(lines) + '\n'))


def named_share(task: Task, split: str, table: pa.Table) -> float:
    """Share of explanations that name an attribute which decided the rating, of those that have one.

    Titles are taken out first: a word in a title is no reason. NaN where the truth is not known.
    """
    rows = task.examples[split].interaction
    aspects = [row or [] for row in task.dataset.interactions['aspects'].take(rows).to_pylist()]
    texts = [_without_titles(task, split, n, text) for n, text in enumerate(table['text'].to_pylist())]
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


def examples(task: Task, settings: ml_collections.ConfigDict, before: pa.Table, after: pa.Table,
             scores: dict) -> rich.table.Table:
    """A few test examples with history and label, and both explanations with the scores they lead to."""
    table = rich.table.Table(title=f'{settings.examples} explanations before and after, and the likes that are '
                                   'predicted', title_justify='left', show_lines=True)
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
                 f'{"liked" if test.label[row] else "disliked"}']
        for side, explained in ((settings.before, before), (settings.after, after)):
            likes = ', '.join(f'{name} {scores[name]["test"][:, row].mean():.2f}' for name in side.scorers)
            cells.append(f'{explained["text"][int(row)]}\n\n{likes}')
        table.add_row(*map(rich.markup.escape, cells))
    return table
