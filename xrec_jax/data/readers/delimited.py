"""Delimited text as datasets publish it, read by whole columns and refused by line.

1. `read_text`: bytes → a table of strings, with the encoding and the number of fields checked
2. `integers`, `one_of`, `filled`, `unique`, `known`: what a column promises, checked at once
3. `lists`: a matrix of flags → a list column

Row r of a table is line r + 1 of its file, so every refusal names file, line, column and value.
"""

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from xrec_jax.data.tables import rows
from xrec_jax.errors import UserError

Path = pathlib.Path | zipfile.Path  # a file on disk, or one still in its archive


@dataclasses.dataclass(frozen=True)
class Text:
    """The columns of one file, all strings, and where they came from."""

    path: Path
    columns: pa.Table

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.columns[name]


def read_text(path: Path, names: Sequence[str], delimiter: str, encoding: str = 'ascii') -> Text:
    """Reads a headerless file with no quoting: `names` are its columns, `delimiter` one character.

    Raises UserError for a file that is missing, empty, in another encoding, cut off, or that has a
    line with another number of fields.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, KeyError) as error:
        raise UserError(f'{path}: no such file') from error
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if not data:
        raise UserError(f'{path}: is empty')
    _check_encoding(path, data, encoding)
    if not data.endswith(b'\n'):
        raise UserError(f'{path}, line {data.count(10) + 1}: is cut off (no line end); the file is '
                        'truncated, get it again')
    bad = []
    try:
        columns = pyarrow.csv.read_csv(
            io.BytesIO(data),
            read_options=pyarrow.csv.ReadOptions(
                column_names=list(names), encoding=encoding, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, quote_char=False, ignore_empty_lines=False,
                invalid_row_handler=lambda row: bad.append(row) or 'skip'),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False))
    except pa.ArrowInvalid as error:
        raise UserError(f'{path}: is not "{delimiter}"-separated text ({error})') from error
    if bad:
        shown = ', '.join(names[:4]) + (', ...' if names[4:] else '')
        raise UserError(f'{path}, line {bad[0].number}: has {bad[0].actual_columns} fields, should '
                        f'have {bad[0].expected_columns} ({shown}), separated '
                        f'by {delimiter!r}: {bad[0].text[:80]!r}')
    return Text(path, columns)


def _check_encoding(path: Path, data: bytes, encoding: str) -> None:
    """Latin-1 accepts any byte, so text of another encoding is told by what it would be instead."""
    try:
        utf8 = not data.isascii() and bool(data.decode('utf-8'))
    except UnicodeDecodeError:
        utf8 = False
    at = next((i for i in range(len(data)) if data[i] > 127), 0) if not data.isascii() else 0
    if 0 in data:
        found, at = 'binary or UTF-16', data.index(0)
    elif utf8 and encoding == 'latin-1':
        found = 'UTF-8'
    elif encoding == 'ascii' and not data.isascii():
        found = f'byte 0x{data[at]:02x}'
    else:
        return
    raise UserError(f'{path}, line {data.count(10, 0, at) + 1}: {found} where the publisher\'s file '
                    f'is {encoding}; get the original file')


# ------------------------------------------------------------------------------------- columns


def refuse(text: Text, row: int, name: str, should: str) -> NoReturn:
    """Raises UserError: file, line, column, value, and what it should be."""
    raise UserError(f'{text.path}, line {row + 1}, column {name}: "{text[name][int(row)]}" {should}')


def _require(text: Text, name: str, good: np.ndarray, should: str) -> None:
    if not good.all():
        refuse(text, int(np.argmin(good)), name, should)


def integers(text: Text, name: str, low: int = 0, high: int = 2**62) -> np.ndarray:
    """Returns int64[N], every value in [low, high]."""
    bounds = f'from {low} to {high}' if high < 2**62 else f'of at least {low}'
    should = f'should be an integer {bounds}'
    _require(text, name, pc.match_substring_regex(text[name], r'^-?[0-9]{1,18}$').to_numpy(), should)
    values = text[name].cast(pa.int64()).to_numpy()
    _require(text, name, (values >= low) & (values <= high), should)
    return values


def one_of(text: Text, name: str, values: Sequence[str]) -> np.ndarray:
    """Returns int32[N]: which of `values` each row holds."""
    index = rows(text[name], pa.chunked_array([pa.array(values)]))
    _require(text, name, index >= 0, f'should be one of {", ".join(values)}')
    return index


def filled(text: Text, name: str) -> pa.ChunkedArray:
    """Returns the column, in which no value is blank."""
    _require(text, name, pc.not_equal(pc.utf8_trim_whitespace(text[name]), '').to_numpy(),
             'should not be empty')
    return text[name]


def unique(text: Text, *names: str) -> None:
    """Refuses a row whose values of `names` together stand in an earlier row."""
    codes = np.zeros(text.columns.num_rows, np.int64)
    for name in names:
        column = pc.dictionary_encode(text[name].combine_chunks())
        codes = codes * len(column.dictionary) + column.indices.to_numpy()
    values, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    if len(values) < len(codes):
        row = int(np.argmax(first[inverse] != np.arange(len(codes))))
        refuse(text, row, names[-1],
               f'stands already in line {first[inverse[row]] + 1}'
               + (f' with the same {", ".join(names[:-1])}' if names[1:] else ''))


def known(text: Text, name: str, other: Text) -> None:
    """Refuses an id that the table it refers to does not list."""
    _require(text, name, rows(text[name], other[name]) >= 0, f'is not listed in {other.path}')


def lists(flags: np.ndarray, words: Sequence[str]) -> pa.ListArray:
    """Returns one list a row: the words whose flag is set. flags: bool[N, len(words)]."""
    offsets = np.concatenate([[0], np.cumsum(flags.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(words).take(pa.array(np.nonzero(flags)[1])))
