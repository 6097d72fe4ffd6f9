"""Explanations that were written elsewhere and recorded in a file: rows of a table like our own.

1. `read_recorded`: a parquet file or JSON lines with `COLUMNS`, checked
2. `groups`, `aligned`: the explanations of one data set and recommender side by side, one column a generator, with
   what each generator was truly asked about
3. `counts`: how many were asked about another item

A row of a data set is a user; its instruction says which item is to be explained. In LLMXRec's material the
instructions of one row differ between generators in four of nine groups: under LightGCN ChatGLM2 was given SASRec's
items, and under SASRec on ML-100k the file of GPT-3.5 is the one of MIND. Explanations of different items cannot be
compared, so `Aligned.same` marks those that were asked what most were asked. `N` rows, `G` generators.
"""

import collections
import dataclasses
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec_jax.data.instructions import lines, text
from xrec_jax.data.raw import on_disk
from xrec_jax.errors import UserError, nearest
from xrec_jax.language import instructions

COLUMNS = pa.schema([('dataset', pa.string()), ('recommender', pa.string()), ('generator', pa.string()),
                     ('row', pa.int64()), ('instruction', pa.string()), ('explanation', pa.string())])


def read_recorded(path: str | pathlib.Path) -> pa.Table:
    """The table of `COLUMNS` in a file that ends in .parquet, or .jsonl (also .jsonl.gz).

    Raises:
      UserError: another kind of file, one that cannot be read or is empty, a missing column or key, a value of
        another type, an empty text, two explanations by one generator for the same row of a group.
    """
    path = pathlib.Path(path)
    if path.suffix == '.parquet':
        table = _from_parquet(path)
    elif path.name.removesuffix('.gz').endswith('.jsonl'):
        table = _from_lines(path)
    else:
        raise UserError(f'{path}: recorded explanations are .parquet or .jsonl')
    for name in ('dataset', 'recommender', 'generator', 'instruction', 'explanation'):
        blank = pc.equal(pc.utf8_trim_whitespace(table[name]), '').to_numpy()
        if blank.any():
            raise UserError(f'{_place(path, int(np.argmax(blank)))}, column {name}: is empty')
    keys = table.select(['dataset', 'recommender', 'generator', 'row'])
    count = keys.group_by(keys.column_names).aggregate([([], 'count_all')]).filter(pc.field('count_all') > 1)
    if count.num_rows:
        again = count.slice(0, 1).to_pylist()[0]
        raise UserError(f'{path}: {again["count_all"]} explanations by {again["generator"]} for row {again["row"]} of '
                        f'{again["dataset"]}, {again["recommender"]}; should be one')
    return table


def _place(path: pathlib.Path, row: int) -> str:
    return f'{path}, row {row}' if path.suffix == '.parquet' else f'{path}, line {row + 1}'


def _from_parquet(path: pathlib.Path) -> pa.Table:
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f'{path}: is no parquet file, or damaged ({str(error).splitlines()[0]})') from error
    for field in COLUMNS:
        if field.name not in table.column_names:
            raise UserError(f'{path}: has no column "{field.name}".{nearest(field.name, table.column_names)}')
    try:
        table = table.select(COLUMNS.names).cast(COLUMNS)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise UserError(f'{path}: columns should be texts, and row a number ({str(error).splitlines()[0]})') from error
    for name in COLUMNS.names:
        if table[name].null_count:
            raise UserError(f'{_place(path, int(np.argmax(pc.is_null(table[name]).to_numpy())))}, column {name}: '
                            'has no value')
    if not table.num_rows:
        raise UserError(f'{path}: has no rows')
    return table


def _from_lines(path: pathlib.Path) -> pa.Table:
    file, rows = on_disk(path), []
    for line, row in lines(file):
        number = row.get('row')
        if not isinstance(number, int) or isinstance(number, bool):
            raise UserError(f'{file.label}, line {line}, key row: should be a whole number, is {json.dumps(number)}')
        rows.append({name: number if name == 'row' else text(file, line, row, name) for name in COLUMNS.names})
    return pa.Table.from_pylist(rows, COLUMNS)


def groups(table: pa.Table) -> list[tuple[str, str]]:
    """(dataset, recommender) of every group, in order of appearance."""
    pairs = table.group_by(['dataset', 'recommender'], use_threads=False).aggregate([]).to_pydict()
    return list(zip(pairs['dataset'], pairs['recommender']))


@dataclasses.dataclass(frozen=True)
class Aligned:
    """One group; what stands in row n and column g is by generator g for row `rows[n]`.

    `instructions[n]` is what most generators were asked (the first of them in `generators`, where none leads).
    `explanations` [N, G] of texts, '' where there is none. `same` bool [N, G]: there is an explanation, and it is of
    the item that `instructions[n]` names, for the same history. `reasons` [N, G]: '' there, else 'absent', 'history'
    or 'candidate', whichever differs first.
    """

    dataset: str
    recommender: str
    generators: tuple[str, ...]
    rows: np.ndarray
    instructions: tuple[str, ...]
    prompts: tuple[instructions.Recommendation, ...]
    explanations: np.ndarray
    reasons: np.ndarray

    @property
    def same(self) -> np.ndarray:
        return self.reasons == ''


def aligned(table: pa.Table, dataset: str, recommender: str) -> Aligned:
    """The explanations of one group; UserError where there is no such group, or an instruction cannot be taken apart.
    """
    known = groups(table)
    if (dataset, recommender) not in known:
        raise UserError(f'no recorded explanations for {dataset} under {recommender}.'
                        f'{nearest(f"{dataset}, {recommender}", [", ".join(one) for one in known])}')
    chosen = table.filter((pc.field('dataset') == dataset) & (pc.field('recommender') == recommender))
    generators = tuple(pc.unique(chosen['generator']).to_pylist())
    rows, place = np.unique(chosen['row'].to_numpy(), return_inverse=True)
    column = pc.index_in(chosen['generator'], pa.array(generators)).to_numpy()

    # Every distinct instruction is taken apart once; codes say which stands where, -1 for none.
    encoded = chosen['instruction'].combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    prompts = [instructions.parse(one) for one in texts]
    codes = np.full((len(rows), len(generators)), -1)
    codes[place, column] = encoded.indices.to_numpy()
    explanations = np.full(codes.shape, '', object)
    explanations[place, column] = chosen['explanation'].to_numpy(zero_copy_only=False)

    # Instructions that ask the same in other words (a blank at the end) count as one.
    history, asked = _numbered(one.history for one in prompts), _numbered((one.history, one.candidate)
                                                                           for one in prompts)
    reference = _commonest(np.where(codes >= 0, asked[codes], -1))
    at_reference = codes[np.arange(len(rows)), reference]
    reasons = np.where(asked[codes] == asked[at_reference][:, None], '', 'candidate').astype(object)
    reasons[history[codes] != history[at_reference][:, None]] = 'history'
    reasons[codes < 0] = 'absent'
    return Aligned(dataset, recommender, generators, rows, tuple(texts[code] for code in at_reference),
                   tuple(prompts[code] for code in at_reference), explanations, reasons)


def _numbered(values) -> np.ndarray:
    """int64 [K]: equal values get equal numbers."""
    seen: dict = {}
    return np.array([seen.setdefault(repr(value), len(seen)) for value in values])


def _commonest(codes: np.ndarray) -> np.ndarray:
    """int64 [N]: the first column whose code most columns of the row share; -1 shares with none."""
    equal = (codes[:, :, None] == codes[:, None, :]) & (codes >= 0)[:, :, None]
    return equal.sum(2).argmax(1)


def counts(group: Aligned) -> dict[str, dict[str, int]]:
    """generator → reason → how many explanations are not of the item that most were asked about; without zeros."""
    return {generator: dict(found) for g, generator in enumerate(group.generators)
            if (found := collections.Counter(reason for reason in group.reasons[:, g] if reason))}
