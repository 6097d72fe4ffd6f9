"""Delimited text as datasets publish it: bytes → columns of strings, a block of lines at a time.

A block is parsed by Arrow; where Arrow finds rows of another width they are reported by line. One line
is one row: no publisher that is read here breaks a line inside a field.
"""

import io
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from xrec_jax.data.raw import BadRows, Block, RawFile
from xrec_jax.data.readers.records import Records, joined
from xrec_jax.errors import UserError

STAND_IN = '\x1f'  # for a delimiter of two characters, which Arrow does not know


def read(file: RawFile, names: Sequence[str], delimiter: str, bad: BadRows, **options) -> Records:
    """Reads a whole file of moderate size: all of `stream` in one `Records`."""
    return joined(stream(file, names, delimiter, bad, **options))


def stream(file: RawFile, names: Sequence[str], delimiter: str, bad: BadRows, *, encoding: str = 'utf-8',
           header: bool = False, quote: str = '', escape: str = '', whole_lines: bool = True,
           ) -> Iterator[Records]:
    """Yields the rows of a file, a block at a time; all columns are strings, '' where blank.

    Args:
      names: the columns. With `header` the first line must hold just these names.
      delimiter: one character, or several, as MovieLens' "::".
      encoding: 'ascii', 'utf-8' or 'latin-1'. Latin-1 takes any byte, so a file that is UTF-8 is refused. 'any' is
        latin-1 that is not: for a file that holds stray bytes, as in the ISBNs of BookCrossing.
      quote, escape: the characters that quote a field and that escape a quote in it; '' for none.
      whole_lines: see `RawFile.blocks`.

    Raises UserError for a file that is missing, empty, cut off or in another encoding, and reports to
    `bad` every row with another number of fields, and every line that is not a row of its own: a quote is opened
    and not closed, or a carriage return stands inside it.
    """
    rows = 0
    for block in file.blocks(whole_lines=whole_lines):
        if block.line == 1 and block.data.startswith(b'\xef\xbb\xbf'):
            block = Block(1, block.data[3:])  # a byte order mark
        _check_encoding(file, block, encoding)
        codec = 'latin-1' if encoding == 'any' else encoding
        if block.line == 1 and header:
            block = _after_header(file, block, names, delimiter, quote, codec)
        if block.data:
            records = _parse(file, block, names, delimiter, bad, codec, quote, escape)
            rows += len(records.lines)
            yield records
    if not rows:
        raise UserError(f'{file.label}: has no rows')


def _after_header(file: RawFile, block: Block, names: Sequence[str], delimiter: str, quote: str, encoding: str
                  ) -> Block:
    first, _, rest = block.data.partition(b'\n')
    found = [name.strip(quote or None) for name in first.decode(encoding).rstrip('\r').split(delimiter)]
    if found != list(names):
        raise UserError(f'{file.label}, line 1: the columns are {", ".join(found)[:200]}; should be {", ".join(names)}')
    return Block(2, rest)


def _parse(file: RawFile, block: Block, names: Sequence[str], delimiter: str, bad: BadRows, encoding: str,
           quote: str, escape: str) -> Records:
    data, shown = block.data, delimiter
    if len(delimiter) > 1:
        if STAND_IN.encode() in data:
            at = block.line + data.count(b'\n', 0, data.index(STAND_IN.encode()))
            raise UserError(f'{file.label}, line {at}: holds the control character 0x1f; the file is damaged')
        data, delimiter = data.replace(delimiter.encode(), STAND_IN.encode()), STAND_IN
    lines = block.line + np.arange(data.count(b'\n'))
    columns, wrong = _by_arrow(file, data, block.line, names, delimiter, encoding, quote, escape)
    row, last = _row_pattern(delimiter, quote, escape), data[data.rfind(b'\n', 0, -1) + 1:-1]
    if (columns.num_rows + len(wrong) != len(lines) or not row.fullmatch(last)
            or data.count(b'\r') != data.count(b'\r\n')):
        # Arrow's rows may not be these lines: what is no row of its own is taken out, the rest parsed again.
        texts = data.split(b'\n')[:-1]
        good = np.array([row.fullmatch(text) is not None for text in texts])
        if not good.all():
            text = texts[int(np.argmin(good))]
            fault = ('a carriage return stands inside the line' if row.fullmatch(text.replace(b'\r', b''))
                     else 'a quote is opened and not closed')
            text = text.replace(delimiter.encode(), shown.encode())
            bad.report(file, int(lines[~good][0]), f': {fault}: {text[:80]!r}', int((~good).sum()))
            data, lines = b''.join(text + b'\n' for text, keep in zip(texts, good) if keep), lines[good]
            columns, wrong = _by_arrow(file, data, block.line, names, delimiter, encoding, quote, escape)
    if wrong:
        first = wrong[0]
        bad.report(file, int(lines[first.number - 1]),
                   f': has {first.actual_columns} fields, should have {first.expected_columns} ({", ".join(names[:4])}'
                   f'{", ..." if names[4:] else ""}), separated by {shown!r}: '
                   f'{first.text.replace(delimiter, shown)[:80]!r}', len(wrong))
    lines = np.delete(lines, np.array([row.number for row in wrong], int) - 1)
    assert len(lines) == columns.num_rows, f'{file.label}: {columns.num_rows} rows of {len(lines)} lines'
    return Records(file, columns, lines, bad)


def _row_pattern(delimiter: str, quote: str, escape: str) -> re.Pattern[bytes]:
    """Matches a line (without its '\\n') that Arrow reads as one row: quotes count at the start of a field only."""
    d, q, e = (re.escape(character) for character in (delimiter, quote, escape))
    escaped = f'|{e}.' if e else ''
    field = rf'(?:[^{d}{e}\r]{escaped})*+'
    if q:
        field = f'(?:{q}(?:[^{q}{e}]{escaped or f"|{q}{q}"})*+{q}|(?!{q})){field}'
    return re.compile(rf'{field}(?:{d}{field})*+\r?'.encode(), re.DOTALL)


def _by_arrow(file: RawFile, data: bytes, line: int, names: Sequence[str], delimiter: str, encoding: str, quote: str,
              escape: str) -> tuple[pa.Table, list[pyarrow.csv.InvalidRow]]:
    """Returns the columns, and the rows of another width with their numbers, from 1."""
    wrong = []
    if not data:
        return pa.table({name: pa.array([], pa.string()) for name in names}), wrong
    try:
        columns = pyarrow.csv.read_csv(
            io.BytesIO(data),
            read_options=pyarrow.csv.ReadOptions(column_names=list(names), encoding=encoding, use_threads=False,
                                                 block_size=len(data) + 1),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, quote_char=quote or False, double_quote=not escape,
                escape_char=escape or False, ignore_empty_lines=False,
                invalid_row_handler=lambda row: wrong.append(row) or 'skip'),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False,
                quoted_strings_can_be_null=False))
    except pa.ArrowInvalid as error:
        raise UserError(f'{file.label}, after line {line}: is not "{delimiter}"-separated text ({error})') from error
    return columns, wrong


def _check_encoding(file: RawFile, block: Block, encoding: str) -> None:
    """Latin-1 accepts any byte, so text of another encoding is told by what it would be instead."""
    data = block.data
    if 0 in data:
        found, at = 'binary or UTF-16', data.index(0)
    elif encoding == 'any' or data.isascii():
        return
    else:
        at = int(np.argmax(np.frombuffer(data, np.uint8) > 127))
        try:
            data.decode('utf-8')
            utf8 = True
        except UnicodeDecodeError as error:
            utf8 = False
            at = error.start if encoding == 'utf-8' else at
        if encoding == ('utf-8' if utf8 else 'latin-1'):
            return
        found = 'UTF-8' if utf8 and encoding == 'latin-1' else f'byte 0x{data[at]:02x}'
    raise UserError(f'{file.label}, line {block.line + data.count(10, 0, at)}: {found} where the publisher\'s file is '
                    f'{encoding}; get the original file')
