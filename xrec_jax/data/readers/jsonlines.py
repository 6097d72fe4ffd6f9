"""One JSON object a line: the big files by whole blocks, the odd ones line by line.

1. `stream`: the named fields of each line as typed columns. A block goes through Arrow's parser; where it
   refuses one, the piece of some hundred kilobytes that holds the odd line goes through Python's, which
   finds the line and the field. Both give the same columns for the same lines
2. `objects`: each line as a dictionary, for files whose fields change their types (metadata)

Half a surrogate pair (an emoji that a crawler cut in two, "\\ud83d" alone) is no character: U+FFFD stands
for it in what is returned. Files of Python literals are read here too, by way of `literals.as_json_lines`.
"""

import collections
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from xrec_jax.data.raw import BadRows, Block, RawFile
from xrec_jax.data.readers.records import Records

PIECE = 1 << 18  # bytes of a refused block that are tried together
_SURROGATE = re.compile(rb'\\u[dD][89a-fA-F]|\\U0000[dD][89a-fA-F]')


def stream(file: RawFile, fields: pa.Schema, bad: BadRows) -> Iterator[Records]:
    """Yields the rows of a file, a block at a time, with the columns `fields`; absent values are null.

    Other fields are passed over. Reports to `bad` lines that are no object, values of another type (5 is
    a float too, and 5.0 an integer; NaN is neither) and named fields that stand twice in a line.
    """
    for block in _blocks(file):
        whole = _by_arrow(file, block, fields, bad)
        if whole is not None:
            yield whole
            continue
        for piece in _pieces(block):
            records = _by_arrow(file, piece, fields, bad)
            yield _by_python(file, piece, fields, bad) if records is None else records


def objects(file: RawFile, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, object) of every line; of a key that stands twice the last value counts."""
    for block in _blocks(file):
        for line, row, _ in _objects(file, block, bad):
            yield line, row


def _blocks(file: RawFile) -> Iterator[Block]:
    for block in file.blocks():
        yield Block(1, block.data.removeprefix(b'\xef\xbb\xbf')) if block.line == 1 else block


def _pieces(block: Block) -> Iterator[Block]:
    """The block in pieces of whole lines, of about PIECE bytes."""
    start, line = 0, block.line
    while start < len(block.data):
        end = block.data.index(b'\n', min(start + PIECE, len(block.data) - 1)) + 1
        yield Block(line, block.data[start:end])
        line += block.data.count(b'\n', start, end)
        start = end


# ---------------------------------------------------------------------------------- whole blocks


def _by_arrow(file: RawFile, block: Block, fields: pa.Schema, bad: BadRows) -> Records | None:
    """The rows, where every line of the block is one object of the right types; else None."""
    data = block.data
    count = data.count(b'\n')
    # Arrow takes line ends for blanks, so that an object on two lines and two objects on another line
    # could cancel out in the count; and a block that begins with null crashes it. "}{" is never
    # valid inside an object: lines that all begin and end with braces are whole objects, one or more.
    ends = data.count(b'}\n{')
    if ends < count - 1:
        ends += data.count(b'}\r\n{')
    if ends != count - 1 or not data.startswith(b'{') or not data.endswith((b'}\n', b'}\r\n')):
        return None
    try:
        if not data.isascii():
            data.decode('utf-8')
        columns = pyarrow.json.read_json(
            io.BytesIO(data), read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=fields, unexpected_field_behavior='ignore'))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        return None
    columns = columns.select(fields.names)
    finite = all(pc.all(pc.is_finite(columns[field.name])).as_py() is not False
                 for field in fields if pa.types.is_floating(field.type))
    return Records(file, columns, block.line + np.arange(count), bad) if finite and columns.num_rows == count else None


# ---------------------------------------------------------------------------------- line by line


def _by_python(file: RawFile, block: Block, fields: pa.Schema, bad: BadRows) -> Records:
    rows, lines, kinds = [], [], {field.name: field.type for field in fields}
    for line, row, text in _objects(file, block, bad):
        if (row := _typed(file, line, row, text, kinds, bad)) is not None:
            rows.append(row)
            lines.append(line)
    return Records(file, pa.Table.from_pylist(rows, fields), np.array(lines, np.int64), bad)


def _objects(file: RawFile, block: Block, bad: BadRows) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yields line, object and text of each line that is an object."""
    for line, data in enumerate(block.data.split(b'\n')[:-1], block.line):
        try:
            text = data.decode('utf-8')
            row = json.loads(text)
        except UnicodeDecodeError as error:
            bad.report(file, line, f': byte 0x{data[error.start]:02x} is not UTF-8')
        except (ValueError, RecursionError) as error:
            reason = str(error).split('(')[0].strip() or type(error).__name__
            bad.report(file, line, f': is not JSON ({reason}): {data[:80]!r}')
        else:
            if isinstance(row, dict):
                yield line, _sound(row) if _SURROGATE.search(data) else row, text
            else:
                bad.report(file, line, f': should be an object, is {type(row).__name__}: {data[:80]!r}')


def _sound(value: Any) -> Any:
    """The value with surrogate pairs joined in its texts, and U+FFFD for halves of pairs."""
    if isinstance(value, str):
        return value.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')
    if isinstance(value, list):
        return [_sound(part) for part in value]
    if isinstance(value, dict):
        return {_sound(key): _sound(part) for key, part in value.items()}
    return value


def _typed(file: RawFile, line: int, row: dict[str, Any], text: str, kinds: Mapping[str, pa.DataType], bad: BadRows
           ) -> dict[str, Any] | None:
    """The row's fields of `kinds`, each of its type; None where one is not, or stands twice in `text`."""
    pairs, typed = json.loads(text, object_pairs_hook=list), {}
    times = collections.Counter(name for name, _ in pairs) if len(pairs) > len(row) else {}
    for name, kind in kinds.items():
        if times.get(name, 0) > 1:
            bad.report(file, line, f', field {name}: stands there {times[name]} times')
            return None
        try:
            typed[name] = _cast(row.get(name), kind)
        except (ValueError, OverflowError):
            bad.report(file, line, f', field {name}: {str(row[name])[:80]!r} should be {kind}')
            return None
    return typed


def _cast(value: Any, kind: pa.DataType) -> Any:
    """The value as a `kind`, as far as JSON's own types go; else ValueError or OverflowError."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None:
        return None
    if pa.types.is_string(kind) and isinstance(value, str) or pa.types.is_boolean(kind) and isinstance(value, bool):
        return value
    if pa.types.is_integer(kind) and number and value == int(value):
        return pa.scalar(int(value), kind).as_py()
    if pa.types.is_floating(kind) and number and math.isfinite(value := float(value)):
        return value
    if pa.types.is_list(kind) and isinstance(value, list):
        return [_cast(part, kind.value_type) for part in value]
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return {field.name: _cast(value.get(field.name), field.type) for field in kind}
    raise ValueError
