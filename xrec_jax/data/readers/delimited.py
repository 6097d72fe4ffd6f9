"""Delimited text as datasets publish it: bytes → columns of strings, a block of lines at a time.

A block is parsed by Arrow; where Arrow finds rows of another width they are reported by line. One line
is one row: no publisher that is read here breaks a line inside a field.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from xrec_jax.data.raw import BadRows, Block, RawFile
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

STAND_IN = '\x1f'  # for a delimiter of two characters, which Arrow does not know


def read(file: RawFile, names: Sequence[str], delimiter: str, bad: BadRows, **options) -> Records:
    """Reads a whole file of moderate size: all of `stream` in one `Records`."""
    parts = list(stream(file, names, delimiter, bad, **options))
    return Records(file, pa.concat_tables([part.columns for part in parts]),
                   np.concatenate([part.lines for part in parts]), bad)


def stream(file: RawFile, names: Sequence[str], delimiter: str, bad: BadRows, *, encoding: str = 'utf-8',
           header: bool = False, quote: str = '', escape: str = '', whole_lines: bool = True,
           ) -> Iterator[Records]:
    """Yields the rows of a file, a block at a time; all columns are strings, '' where blank.

    Args:
      names: the columns. With `header` the first line must hold just these names (or start with them).
      delimiter: one character, or several, as MovieLens' "::".
      encoding: 'ascii', 'utf-8' or 'latin-1'. Latin-1 takes any byte, so a file that is UTF-8 is refused.
      quote, escape: the characters that quote a field and that escape a quote in it; '' for none.
      whole_lines: see `RawFile.blocks`.

    Raises UserError for a file that is missing, empty, cut off or in another encoding, and reports to
    `bad` every row with another number of fields.
    """
    rows = 0
    for block in file.blocks(whole_lines=whole_lines):
        if block.line == 1 and block.data.startswith(b'\xef\xbb\xbf'):
            block = Block(1, block.data[3:])  # a byte order mark
        _check_encoding(file, block, encoding)
        if block.line == 1 and header:
            block = _after_header(file, block, names, delimiter, quote, encoding)
        if block.data:
            records = _parse(file, block, names, delimiter, bad, encoding, quote, escape)
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
    data, wrong = block.data, []
    if len(delimiter) > 1:
        if STAND_IN.encode() in data:
            at = block.line + data.count(b'\n', 0, data.index(STAND_IN.encode()))
            raise UserError(f'{file.label}, line {at}: holds the control character 0x1f; the file is damaged')
        data, delimiter = data.replace(delimiter.encode(), STAND_IN.encode()), STAND_IN
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
        raise UserError(f'{file.label}, after line {block.line}: is not "{delimiter}"-separated text ({error})') from error
    # Row r of the block (from 1) is its line r.
    odd = [row.number for row in wrong]
    if wrong:
        first = wrong[0]
        shown = ', '.join(names[:4]) + (', ...' if names[4:] else '')
        bad.report(file, block.line + first.number - 1,
                   f': has {first.actual_columns} fields, should have {first.expected_columns} ({shown}), separated '
                   f'by {delimiter.replace(STAND_IN, "::")!r}: {first.text[:80]!r}', len(wrong))
    lines = np.delete(block.line + np.arange(data.count(b'\n')), np.array(odd, int) - 1)
    if len(lines) != columns.num_rows:  # a quote that never closes swallows line ends
        raise UserError(f'{file.label}, between lines {block.line} and {block.line + data.count(10)}: a quoted field '
                        'goes over several lines; the file is damaged')
    return Records(file, columns, lines, bad)


def _check_encoding(file: RawFile, block: Block, encoding: str) -> None:
    """Latin-1 accepts any byte, so text of another encoding is told by what it would be instead."""
    data = block.data
    if 0 in data:
        found, at = 'binary or UTF-16', data.index(0)
    elif data.isascii():
        return
    else:
        at = next(i for i in range(len(data)) if data[i] > 127)
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
