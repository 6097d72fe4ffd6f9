"""Delimited text as people and spreadsheets write it: quoted fields that hold delimiters and line ends.

A field that begins with a quote ends with one, holds anything, and doubles the quotes inside it (RFC 4180);
in any other field a quote is a letter like the rest. So a row may go over several lines: rows are told
apart first, a block of lines at a time, and each knows the line that it begins in; then Arrow parses them.

1. `Format`: delimiter, quote, encoding
2. `stream`: the rows, as columns of strings
"""

import csv
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.csv

from xrec_jax.data.raw import BadRows, Block, RawFile
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

MAX_ROW = 1 << 20  # bytes; a quote that is still open after so many was not meant to open
ENCODINGS = ('utf-8', 'latin-1')


@dataclasses.dataclass(frozen=True)
class Format:
    """How a file is delimited; raises UserError for what cannot be meant."""

    delimiter: str = ','
    quote: str = '"'  # '' where nothing is quoted
    encoding: str = 'utf-8'

    def __post_init__(self):
        for name, value, example in (('delimiter', self.delimiter, ', or ; or \\t'), ('quote', self.quote or '"', '"')):
            if len(value) != 1 or not value.isascii() or value in '\r\n':
                raise UserError(f'{name}={value!r}: should be one character, as {example}')
        if self.delimiter == self.quote:
            raise UserError(f'delimiter={self.delimiter!r}: is the quote too')
        if self.encoding not in ENCODINGS:
            raise UserError(f'encoding={self.encoding!r}: should be one of {", ".join(ENCODINGS)}')


def stream(file: RawFile, form: Format, choose: Callable[[list[str]], Mapping[str, int]], bad: BadRows, *,
           header: bool = True) -> Iterator[Records]:
    """Yields the rows of a file, a block at a time; all columns are strings, '' where blank.

    Args:
      choose: gets the fields of the first row, and gives the columns that are wanted: name → position there,
        from 0. Every other row should have as many fields.
      header: whether the first row has names, and is no row.

    Lines with nothing in them are passed over. Reports to `bad` each row of another width, and each line
    that opens a quote and closes it nowhere, or in mid-field. Raises UserError for a file that is missing,
    empty, cut off or in another encoding.
    """
    rest, line, width, skip, rows = b'', 1, 0, 0, 0
    blocks = _decoded(file, form)
    block = next(blocks)
    while block:
        coming = next(blocks, None)
        block = Block(line, rest + block.data)
        if not width:
            first = _first(file, block, form, last=coming is None)
            if first:
                width, columns, skip = len(first), choose(first), int(header)
        spans, lines, end = _rows(file, block, form, bad, last=coming is None)
        rest, line = block.data[end:], block.line + block.data.count(b'\n', 0, end)
        spans, lines, skip = spans[skip:], lines[skip:], max(0, skip - len(spans))
        if len(spans):
            rows += len(spans)
            yield _parsed(file, block.data, spans, lines, form, width, columns, bad)
        block = coming
    if not rows:
        raise UserError(f'{file.label}: has no rows')


def _first(file: RawFile, block: Block, form: Format, last: bool) -> list[str]:
    """The fields of the first row, without blanks around them; none where it is not over yet, or there is none."""
    _, one, opened = _patterns(form)
    start = re.match(rb'[\r\n]*', block.data).end()
    row = one.match(block.data, start)
    if not row:
        if start < len(block.data) and (last or not opened.match(block.data, start)):
            raise UserError(f'{file.label}, line {block.line + block.data.count(10, 0, start)}: is not a row of '
                            f'fields with {form.delimiter!r} between them: {block.data[start:start + 80]!r}')
        return []
    quoting = {'quotechar': form.quote} if form.quote else {'quoting': csv.QUOTE_NONE}
    text = io.StringIO(row.group().decode('utf-8'), newline='')
    try:
        return [field.strip() for field in next(csv.reader(text, delimiter=form.delimiter, **quoting))]
    except csv.Error as error:  # a field of more than 128 kB
        raise UserError(f'{file.label}, line 1: is not a row of names ({error}): {row.group()[:80]!r}') from error


def _decoded(file: RawFile, form: Format) -> Iterator[Block]:
    """The blocks in UTF-8, without a byte order mark."""
    for block in file.blocks():
        data = block.data.removeprefix(b'\xef\xbb\xbf') if block.line == 1 else block.data
        if 0 in data:
            at = block.line + data.count(b'\n', 0, data.index(0))
            raise UserError(f'{file.label}, line {at}: holds a zero byte; the file is damaged, or UTF-16: save it as '
                            'UTF-8')
        if not data.isascii():
            try:
                text = data.decode(form.encoding)
            except UnicodeDecodeError as error:
                at = block.line + data.count(b'\n', 0, error.start)
                raise UserError(f'{file.label}, line {at}: byte 0x{data[error.start]:02x} is not UTF-8; save the file '
                                'as UTF-8, or, where it is Western European: encoding=latin-1') from error
            data = data if form.encoding == 'utf-8' else text.encode('utf-8')
        yield Block(block.line, data)


# ----------------------------------------------------------------------------------------------- rows


@functools.cache
def _patterns(form: Format) -> tuple[re.Pattern, re.Pattern, re.Pattern]:
    """Rows without surprises, as many as there are; one row that may have quotes in mid-field; a row still open."""
    d = re.escape(form.delimiter.encode())
    if not form.quote:
        row = rb'[^\r\n]*+\r?\n'
        return re.compile(rb'(?:%b)*+' % row), re.compile(row), re.compile(rb'(?!)')
    q = re.escape(form.quote.encode())
    opened = rb'%b[^%b]*+(?:%b%b[^%b]*+)*+' % (q, q, q, q, q)
    plain = rb'(?:%b%b|[^%b%b\r\n]*+)' % (opened, q, q, d)
    loose = rb'(?:%b%b|(?!%b)[^%b\r\n]*+)' % (opened, q, q, d)
    return (re.compile(rb'(?:%b(?:%b%b)*+\r?\n)*+' % (plain, d, plain)),
            re.compile(rb'%b(?:%b%b)*+\r?\n' % (loose, d, loose)),
            re.compile(rb'(?:%b%b)*+%b\Z' % (loose, d, opened)))


def _rows(file: RawFile, block: Block, form: Format, bad: BadRows, *, last: bool
          ) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns int[R, 2], where each row begins and ends, its line end included; int[R], its line; how far they go.

    What is left then is a row that goes on in the next block; after the `last` there is none.
    """
    data = block.data
    bytes_ = np.frombuffer(data, np.uint8)
    line_ends = np.flatnonzero(bytes_ == 10)  # [L]
    sound, odd, opened = _patterns(form)
    simple = (not form.quote or form.quote.encode() not in data) and data.count(b'\r') == data.count(b'\r\n')
    spans, single, at = [], [], 0
    while at < len(data):
        end = len(data) if simple else sound.match(data, at).end()
        if end > at:
            spans.append(_split(bytes_, at, end, line_ends, '' if simple else form.quote))
            at = end
        elif one := odd.match(data, at):
            single.append((at, one.end()))
            at = one.end()
        elif not last and len(data) - at < MAX_ROW and opened.match(data, at):
            break
        else:
            stop = data.index(b'\n', at) + 1
            bad.report(file, block.line + int(np.searchsorted(line_ends, at)), _what_is_wrong(data[at:stop], form))
            at = stop
    found = np.concatenate([*spans, np.array(single, int).reshape(-1, 2)])
    found = found[np.argsort(found[:, 0])]
    first = bytes_[found[:, 0]]
    blank = (first == 10) | (first == 13) & (found[:, 1] - found[:, 0] == 2)
    found = found[~blank]
    return found, block.line + np.searchsorted(line_ends, found[:, 0]), at


def _what_is_wrong(line: bytes, form: Format) -> str:
    if b'\r' in line.rstrip(b'\r\n'):
        return f': a carriage return stands within the line: {line[:80]!r}'
    return (f': a field begins with a quote, and does not end with one (quote={form.quote}; empty where the file '
            f'quotes nothing): {line[:80]!r}')


def _split(bytes_: np.ndarray, start: int, stop: int, line_ends: np.ndarray, quote: str) -> np.ndarray:
    """int[R, 2] of the rows from start to stop: a line end with an even number of quotes before it ends one."""
    low, high = np.searchsorted(line_ends, (start, stop))
    ends = line_ends[low:high]
    if quote:
        quotes = start + np.flatnonzero(bytes_[start:stop] == ord(quote))
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return np.stack([np.concatenate([[start], ends + 1])[:-1], ends + 1], axis=1)


def _parsed(file: RawFile, data: bytes, spans: np.ndarray, lines: np.ndarray, form: Format, width: int,
            columns: Mapping[str, int], bad: BadRows) -> Records:
    """The rows that stand at `spans` [R, 2] of `data`, each in its line [R]."""
    runs = np.flatnonzero(np.append(True, spans[1:, 0] != spans[:-1, 1]))  # between them are rows to pass over
    pieces = [data[start:stop] for start, stop in zip(spans[runs, 0], spans[np.append(runs[1:], len(spans)) - 1, 1])]
    text, wrong = b''.join(pieces), []
    try:
        found = pyarrow.csv.read_csv(
            io.BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(column_names=[str(i) for i in range(width)], use_threads=False,
                                                 block_size=len(text) + 1),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=form.delimiter, quote_char=form.quote or False, newlines_in_values=True,
                invalid_row_handler=lambda row: wrong.append(row) or 'skip'),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=[str(i) for i in columns.values()], strings_can_be_null=False,
                column_types={str(i): pa.string() for i in columns.values()}, quoted_strings_can_be_null=False))
    except pa.ArrowInvalid as error:
        raise UserError(f'{file.label}, after line {lines[0]}: is not {form.delimiter!r}-separated text ({error})'
                        ) from error
    odd = np.array([row.number for row in wrong], int) - 1
    if len(lines) - len(odd) != found.num_rows:
        raise UserError(f'{file.label}, between lines {lines[0]} and {lines[-1]}: its rows cannot be told apart')
    if wrong:
        row = wrong[0]
        bad.report(file, int(lines[odd[0]]), f': has {row.actual_columns} fields, should have {row.expected_columns}, '
                   f'separated by {form.delimiter!r}: {row.text[:80]!r}', len(wrong))
    return Records(file, found.rename_columns(list(columns)), np.delete(lines, odd), bad)
