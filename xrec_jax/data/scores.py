"""What people think of explanations: scores by generator and criterion (LLMXRec, section 3.3).

1. `read_scores`: a csv file as LLMXRec's authors published theirs; `Scores` holds it as one array
2. `raters`: several people's files side by side, for their agreement
3. `means`: by data set, generator and criterion; `repeated`: how many rows are copies of others
4. `scorer_targets`: what a regression scorer learns from

A file has the columns `dataset`, `index`, and one a generator; its cells are dictionaries of numbers, as Python or
JSON write them: "{'reasonability': 5, 'attractiveness': 6, 'redundancy': 6}". An empty cell, an absent criterion and
null (None) are scores that nobody gave.
`N` items, `G` generators, `C` criteria, `R` raters.
"""

import ast
import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from xrec_jax.data.raw import on_disk
from xrec_jax.errors import UserError, nearest

CRITERIA = ('reasonability', 'attractiveness', 'redundancy')
LOW, HIGH = 1, 10


@dataclasses.dataclass(frozen=True)
class Scores:
    """`values` float64 [N, G, C], from 1 to 10, NaN where there is none; item n is (datasets[n], indices[n])."""

    datasets: tuple[str, ...]
    indices: tuple[int, ...]
    generators: tuple[str, ...]
    values: np.ndarray
    criteria: tuple[str, ...] = CRITERIA

    def of(self, dataset: str) -> np.ndarray:
        """float64 [n, G, C]: the scores of one data set; UserError where it has none."""
        if dataset not in self.datasets:
            raise UserError(f'nobody scored data set "{dataset}".{nearest(dataset, set(self.datasets))}')
        return self.values[np.array(self.datasets) == dataset]


def read_scores(path: str | pathlib.Path) -> Scores:
    """Reads one person's file, or one that holds one score for each item, generator and criterion.

    Raises:
      UserError: no such file, no column of a generator, a row that is too long or short, an item that stands there
        twice, a cell that is no dictionary, a criterion that is unknown, a score that is not from 1 to 10; the
        message names file, line, column and criterion.
    """
    file = on_disk(pathlib.Path(path))
    try:
        lines = csv.reader(io.StringIO(file.read_bytes().decode('utf-8-sig'), newline=''), strict=True)
        header = next(lines, [])
        generators = header[2:]
        if header[:2] != ['dataset', 'index'] or not generators or len(set(generators)) < len(generators):
            raise UserError(f'{file.label}, line 1: should be dataset,index and the names of the generators, each '
                            f'once; is {",".join(header)[:80]!r}')
        datasets, indices, values, seen = [], [], [], {}
        for row in lines:
            at = f'{file.label}, line {lines.line_num}'
            if len(row) != len(header):
                raise UserError(f'{at}: has {len(row)} columns, the first line {len(header)}')
            if not re.fullmatch('[0-9]{1,9}', row[1]):
                raise UserError(f'{at}, column index: should be a whole number, is {row[1]!r}')
            item = row[0], int(row[1])
            if item in seen:
                raise UserError(f'{at}: item {item[1]} of {item[0]} stands in line {seen[item]} already')
            seen[item] = lines.line_num
            datasets.append(item[0])
            indices.append(item[1])
            values.append([_cell(f'{at}, column {name}', text) for name, text in zip(generators, row[2:])])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{file.label}: is no csv file in UTF-8 ({error})') from error
    if not values:
        raise UserError(f'{file.label}: has no line below the first')
    return Scores(tuple(datasets), tuple(indices), tuple(generators), np.array(values, np.float64))


def _cell(at: str, text: str) -> list[float]:
    """The scores of one cell [C]."""
    if not text.strip():
        return [np.nan] * len(CRITERIA)
    try:
        given = ast.literal_eval(re.sub(r':\s*null\b', ': None', text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise UserError(f"{at}: should be a dictionary as {{'{CRITERIA[0]}': 7, …}}, is {text[:60]!r}")
    for name, value in given.items():
        if name not in CRITERIA:
            raise UserError(f'{at}: "{name}" is no criterion.{nearest(str(name), CRITERIA)}')
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and LOW <= value <= HIGH):
            raise UserError(f'{at}, {name}: should be a number from {LOW} to {HIGH}, is {value!r}')
    return [np.nan if given.get(name) is None else float(given[name]) for name in CRITERIA]


def raters(scores: Sequence[Scores]) -> Scores:
    """Several people's scores side by side: `values` [R, N, G, C] over all items and generators that anyone scored.

    For `krippendorff_alpha`, flatten the last axes: `values[..., c].reshape(R, -1)` has generators' explanations of
    items as units.
    """
    items = list(dict.fromkeys(item for one in scores for item in zip(one.datasets, one.indices)))
    generators = tuple(dict.fromkeys(name for one in scores for name in one.generators))
    place = {item: n for n, item in enumerate(items)}
    values = np.full((len(scores), len(items), len(generators), len(CRITERIA)), np.nan)
    for rater, one in enumerate(scores):
        rows = [place[item] for item in zip(one.datasets, one.indices)]
        values[np.ix_([rater], rows, [generators.index(name) for name in one.generators])] = one.values
    return Scores(tuple(item[0] for item in items), tuple(item[1] for item in items), generators, values)


def means(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    """data set → generator → criterion → mean; NaN where nobody scored."""
    result = {}
    for dataset in dict.fromkeys(scores.datasets):
        values = scores.of(dataset)
        there = np.isfinite(values)
        with np.errstate(invalid='ignore'):
            mean = np.where(there, values, 0).sum(0) / there.sum(0)
        result[dataset] = {generator: dict(zip(scores.criteria, map(float, row)))
                           for generator, row in zip(scores.generators, mean)}
    return result


def repeated(scores: Scores) -> dict[str, dict[str, int]]:
    """data set → 'items', 'distinct' (rows of scores that differ from each other) and 'commonest' (copies of one).

    People who score G generators by C criteria seldom give two items the very same row.
    """
    result = {}
    for dataset in dict.fromkeys(scores.datasets):
        values = scores.of(dataset)
        _, copies = np.unique(np.nan_to_num(values, nan=-1).reshape(len(values), -1), axis=0, return_counts=True)
        result[dataset] = {'items': len(values), 'distinct': len(copies), 'commonest': int(copies.max())}
    return result


def scorer_targets(scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every explanation that has all its scores: (items int64 [M], generators int64 [M], targets float64 [M, C]).

    `items` and `generators` count rows and columns of `scores`: the caller, who knows which explanation an index
    means, looks up the text. Split by item, not by row: explanations of one item are alike. The published file does
    not say which recommender's explanations were scored.
    """
    whole = np.isfinite(scores.values).all(-1)
    items, generators = np.nonzero(whole)
    return items, generators, scores.values[whole]
