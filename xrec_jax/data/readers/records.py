"""Rows of a publisher's file as columns, and what a column promises.

1. `Records`: the columns of some rows with the line that each came from; a row that breaks a promise is
   refused or passed over, as `BadRows` says
2. `integers`, `numbers`, `one_of`, `filled`, `matching`, `unique`, `known`: promises, checked by whole
   columns; `seconds`: times
3. `unescaped`: HTML entities of a column; `lists` and `maps`: list and map columns from arrays

Every refusal names file, line, column and value.
"""

import dataclasses
import html
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.raw import BadRows, RawFile


@dataclasses.dataclass
class Records:
    """`columns` of N rows, the `lines` [N] they stand in, and which of them to `keep` [N]."""

    file: RawFile
    columns: pa.Table
    lines: np.ndarray
    bad: BadRows
    keep: np.ndarray = None

    def __post_init__(self):
        if self.keep is None:
            self.keep = np.ones(self.columns.num_rows, bool)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.columns[name]

    def require(self, good: np.ndarray | pa.ChunkedArray, name: str, should: str) -> None:
        """Refuses, or passes over, rows that are not `good` [N]; null is not good."""
        if not isinstance(good, np.ndarray):
            good = pc.fill_null(good, False).to_numpy()
        wrong = self.keep & ~good
        if wrong.any():
            row = int(np.argmax(wrong))
            value = self.columns[name][row].as_py()
            shown = 'nothing' if value is None else f'"{str(value)[:80]}"'
            self.bad.report(self.file, int(self.lines[row]), f', column {name}: {shown} {should}', int(wrong.sum()))
            self.keep &= good

    def table(self, schema: pa.Schema, **columns) -> pa.Table:
        """The rows to keep as a table of `schema`, made of whole columns [N]; those left out are null."""
        return tables.table(schema, **columns).filter(pa.array(self.keep))

    def kept(self) -> 'Records':
        """The rows to keep alone."""
        return Records(self.file, self.columns.filter(pa.array(self.keep)), self.lines[self.keep], self.bad)

    def events(self, **columns) -> pa.Table:
        """The rows to keep as interactions for `ingest`: columns of `tables.EVENTS`, without `line`."""
        return self.table(tables.EVENTS, line=self.lines, **columns)


def joined(parts: Iterable[Records]) -> Records:
    """The rows of all parts of a file of moderate size, in order, as one."""
    parts = list(parts)
    return Records(parts[0].file, pa.concat_tables([part.columns for part in parts]),
                   np.concatenate([part.lines for part in parts]), parts[0].bad,
                   np.concatenate([part.keep for part in parts]))


def integers(records: Records, name: str, low: int = 0, high: int = 2**62) -> np.ndarray:
    """Returns int64[N], every value in [low, high]; the column is text or integers."""
    should = f'should be an integer {f"from {low} to {high}" if high < 2**62 else f"of at least {low}"}'
    column = records[name]
    if pa.types.is_string(column.type):
        good = pc.fill_null(pc.match_substring_regex(column, r'^-?[0-9]{1,18}$'), False)
        records.require(good, name, should)
        column = pc.if_else(good, column, '0').cast(pa.int64())
    values = pc.fill_null(column.cast(pa.int64()), low - 1).to_numpy()
    records.require((values >= low) & (values <= high), name, should)
    return values


def numbers(records: Records, name: str, low: float, high: float) -> np.ndarray:
    """Returns float32[N], every value in [low, high]; the column is text or numbers."""
    should = f'should be a number from {low:g} to {high:g}'
    column = records[name]
    if pa.types.is_string(column.type):
        good = pc.fill_null(pc.match_substring_regex(column, r'^-?[0-9]{1,18}(\.[0-9]{0,18})?$'), False)
        records.require(good, name, should)
        column = pc.if_else(good, column, 'nan').cast(pa.float64())
    values = pc.fill_null(column.cast(pa.float64()), float('nan')).to_numpy()
    records.require((values >= low) & (values <= high), name, should)
    return values.astype(np.float32)


def one_of(records: Records, name: str, values: Sequence[str]) -> np.ndarray:
    """Returns int32[N]: which of `values` each row holds."""
    index = tables.rows(records[name], pa.chunked_array([pa.array(values)]))
    records.require(index >= 0, name, f'should be one of {", ".join(values)}')
    return np.maximum(index, 0)


def filled(records: Records, name: str) -> pa.ChunkedArray:
    """Returns the column with '' for null; no value to keep is blank."""
    records.require(pc.not_equal(pc.utf8_trim_whitespace(records[name]), ''), name, 'should not be empty')
    return pc.fill_null(records[name], '')


def matching(records: Records, name: str, pattern: str, should: str) -> pa.ChunkedArray:
    """Returns the column with '' for null; every value to keep matches the regular expression."""
    records.require(pc.match_substring_regex(records[name], pattern), name, should)
    return pc.fill_null(records[name], '')


def seconds(text: pa.ChunkedArray, pattern: str, format: str) -> pa.ChunkedArray:
    """Returns int64[N], Unix seconds of times (UTC, if `format` does not say otherwise); null where there is none.

    `pattern` is the regular expression of such a text, with the day of the month in a group (?P<day>…);
    `format` is that of strptime, which alone would take 31 February for 3 March.
    """
    found = pc.extract_regex(text, pattern)
    time = pc.strptime(pc.if_else(pc.is_valid(found), text, None), format=format, unit='s', error_is_null=True)
    same = pc.equal(pc.day(time), pc.struct_field(found, 'day').cast(pa.int64()))
    return pc.if_else(same, time.cast(pa.int64()), None)


def unique(records: Records, name: str) -> None:
    """Refuses a row whose value stands in an earlier row."""
    codes = pc.dictionary_encode(records[name].combine_chunks(), null_encoding='encode').indices.to_numpy()
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    good = first[inverse] == np.arange(len(codes))
    if not good.all():
        again = int(np.argmin(good))
        records.require(good, name, f'stands already in {records.file.unit} {records.lines[first[inverse[again]]]}')


def known(records: Records, name: str, ids: pa.ChunkedArray, where: str) -> None:
    """Refuses an id that the table it refers to, `ids`, does not list; `where` names its file."""
    records.require(tables.rows(records[name], ids) >= 0, name, f'is not listed in {where}')


def lists(flags: np.ndarray, words: Sequence[str]) -> pa.ListArray:
    """Returns one list a row: the words whose flag is set. flags: bool[N, len(words)]."""
    offsets = np.concatenate([[0], np.cumsum(flags.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(words).take(pa.array(np.nonzero(flags)[1])))


def unescaped(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the column with characters for HTML entities, as "&amp;"; few texts have any."""
    whole = tables.one_chunk(column)
    odd = pc.fill_null(pc.match_substring_regex(whole, '&#?[A-Za-z0-9]+;'), False)
    texts = [html.unescape(text) for text in whole.filter(odd).to_pylist()]
    return pa.chunked_array([pc.replace_with_mask(whole, odd, pa.array(texts, pa.string()))]) if texts else column


def maps(columns: Mapping[str, pa.ChunkedArray | pa.Array]) -> pa.MapArray:
    """Returns one map a row: the name of each column to its value there, but where it is null or ''."""
    values = np.stack([column.to_numpy(zero_copy_only=False) for column in columns.values()], axis=1)  # [N, C]
    there = (values != '') & (values != None)  # noqa: E711  (elementwise)
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    names = pa.array(list(columns)).take(pa.array(np.nonzero(there)[1]))
    return pa.MapArray.from_arrays(offsets, names, pa.array(values[there], pa.string()))
