"""Tables of a report, and what they look like in Markdown and LaTeX; the page lays them out itself.

A cell is text with a flag for the best of its column. Figures of several seeds are "mean ± standard deviation".
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xrec_jax.metrics import text as text_metrics
from xrec_jax.metrics.spread import spread
from xrec_jax.phases.scorers import SUMMARY, labels
from xrec_jax.reporting.collect import BY_PHASE, Group, by_phase, differences

BOUNDS = ('Shuffled', 'True reasons')  # rows of configs/recpie.py that bound what can be had: never the best
LOWER = ('log_loss', 'mae', 'rmse', 'mae_stars', 'rmse_stars')  # metrics of which less is better


@dataclasses.dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]  # the first is that of the rows' names
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> 'Table':
        cells = (tuple(cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row) for row in rows)
        return cls(title, tuple(columns), tuple(cells))


def config_table(groups: Sequence[Group]) -> Table:
    """The keys of the config in which the runs differ, first of all what a reader wants to know."""
    rows = [(key, *values) for key, values in differences(groups).items()]
    return Table.of('Config: what differs', ('key', *(group.name for group in groups)), rows)


def runs_table(groups: Sequence[Group]) -> Table:
    """Data, seeds, device, versions, minutes."""
    rows = []
    for group in groups:
        first = group.runs[0]
        versions = ', '.join(f'{name} {version}' for name, version in first.summary.get('versions', {}).items())
        minutes = [sum(run.summary['seconds'].values()) / 60 for run in group.runs]
        rows.append((group.name, first.config.get('data.name', '–'), first.config.get('language.model', '–'),
                     ', '.join(str(run.seed) for run in group.runs), first.summary.get('device', '–'), versions,
                     spread(minutes, 1)))
    return Table.of('Runs', ('run', 'data', 'language model', 'seeds', 'device', 'versions', 'minutes'), rows)


def result_tables(groups: Sequence[Group]) -> list[Table]:
    """Test metrics of each scorer, one table for each kind of judgement; best means in bold."""
    tables = []
    for kind, key in SUMMARY.items():
        found = {(group.name, scorer): values_of(group, key, scorer) for group in groups
                 for scorer in dict.fromkeys(name for run in group.runs for name in run.summary.get(key, {}))}
        if not found:
            continue
        columns = {metric: title for metric, title in labels(kind, (10,)).items()
                   if all(metric in values for values in found.values())}
        several = len({group for group, _ in found}) > 1
        tables.append(Table.of(
            f'Test split: {kind}', (('run', 'scorer') if several else ('scorer',)) + tuple(columns.values()),
            _marked([(*((group,) if several else ()), scorer) for group, scorer in found],
                    [[values[metric] for metric in columns] for values in found.values()],
                    [metric in LOWER for metric in columns], [scorer not in BOUNDS for _, scorer in found])))
    return tables


def text_tables(groups: Sequence[Group]) -> list[Table]:
    """Figures of `judge(text)`, of runs that have them."""
    rows = []
    judged_of = [[value for run in group.runs for value in run.summary.values()
                  if isinstance(value, dict) and 'texts' in value and 'scorer' in value] for group in groups]
    scorers = {one['scorer'] for judged in judged_of for one in judged} - {None}  # None: texts were not scored
    scores = text_metrics.SCORES if scorers else {}
    for group, judged in zip(groups, judged_of):
        for name in dict.fromkeys(name for one in judged for name in one['texts']):
            figures = [one['texts'][name] for one in judged if name in one['texts']]
            rows.append((group.name, name, *(
                spread(values, 3) if (values := [one[metric] for one in figures if one.get(metric) is not None]) else '–'
                for metric in (*text_metrics.LABELS, *scores))))
    if not rows:
        return []
    scorer = ' and '.join(sorted(scorers))
    return [Table.of('Explanations as texts, test split', (
        'run', 'explanations', *text_metrics.LABELS.values(), *(f'{scorer} {what}' for what in scores.values())), rows)]


def values_of(group: Group, key: str, scorer: str) -> dict[str, list[float]]:
    """Metric → its value on the test split in each run, or for each seed of a run that has fitted several."""
    result: dict[str, list[float]] = {}
    for run in group.runs:
        of_seeds = run.summary.get(f'{key}_of_seeds', {}).get(scorer, {}).get('test')
        alone = run.summary.get(key, {}).get(scorer, {}).get('test', {})
        for metric, values in (of_seeds or {metric: [value] for metric, value in alone.items()}).items():
            result.setdefault(metric, []).extend(values)
    return result


def _marked(names: Sequence[Sequence[str]], values: Sequence[Sequence[Sequence[float]]], lower: Sequence[bool],
            counts: Sequence[bool]) -> list[list[Cell]]:
    """Rows of names and "mean ± deviation", the best mean of each column marked, of the rows that count."""
    means = np.array([[np.mean(cell) for cell in row] for row in values])
    ranked = np.where(lower, means, -means)
    best = np.where(np.array(counts)[:, None], ranked, np.inf).min(axis=0) if means.size else means
    return [[*map(Cell, name), *(Cell(spread(cell), bool(rank == top)) for cell, rank, top in zip(row, ranks, best))]
            for name, row, ranks in zip(names, values, ranked)]


def seconds_table(groups: Sequence[Group]) -> Table:
    """Seconds, tokens a second and memory by phase; the latter two where any phase tells them."""
    rows = [(group.name, row) for group in groups for row in by_phase(group.runs)]
    told = {name: title for name, title in BY_PHASE.items() if any(name in row for _, row in rows)}
    return Table.of('Time and memory by phase', ('run', 'phase', 'seconds', *told.values()), [
        (name, row['phase'], spread(row['seconds'], 1),
         *(spread(row[key], 0 if key == 'tokens_per_second' else 2) if key in row else '–' for key in told))
        for name, row in rows])


# --------------------------------------------------------------------------------------------- text


def markdown(table: Table) -> str:
    escape = lambda text: text.replace('|', '\\|')
    line = lambda cells: '| ' + ' | '.join(cells) + ' |'
    lines = [f'**{table.title}**', '', line(map(escape, table.columns)), '|' + '---|' * len(table.columns)]
    lines += [line(f'**{escape(cell.text)}**' if cell.best else escape(cell.text) for cell in row) for row in table.rows]
    return '\n'.join(lines) + '\n'


LATEX: Mapping[str, str] = {
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_', '{': r'\{', '}': r'\}',
    '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '±': r'$\pm$', '→': r'$\to$', '−': r'$-$', '–': '--',
    '≥': r'$\geq$', '×': r'$\times$'}


def latex(table: Table) -> str:
    """A `table` that wants the package booktabs."""
    escape = lambda text: ''.join(LATEX.get(letter, letter) for letter in text)
    row = lambda cells: ' & '.join(cells) + r' \\'
    numbers = len(table.columns) - 1
    lines = [r'\begin{table}', r'\centering', rf'\caption{{{escape(table.title)}}}',
             rf'\begin{{tabular}}{{l{"r" * numbers}}}', r'\toprule', row(map(escape, table.columns)), r'\midrule']
    lines += [row(rf'\textbf{{{escape(cell.text)}}}' if cell.best else escape(cell.text) for cell in cells)
              for cells in table.rows]
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}', r'\end{table}']) + '\n'
