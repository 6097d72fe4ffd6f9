"""One JSON object a line: the big files by whole blocks, the odd ones line by line.

1. `stream`: the named fields of each line as typed columns. A block goes through Arrow's parser; a block
   that it refuses goes through Python's, line by line, which finds the line and the field
2. `objects`: each line as a dictionary, for files whose fields change their types (metadata), and for
   those of Python literals instead of JSON, which are parsed and never evaluated
"""

import ast
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from xrec_jax.data.raw import BadRows, Block, RawFile
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError


def stream(file: RawFile, fields: pa.Schema, bad: BadRows) -> Iterator[Records]:
    """Yields the rows of a file, a block at a time, with the columns `fields`; absent values are null.

    Other fields are passed over. Reports to `bad` lines that are no object, and values of another type.
    """
    for block in file.blocks():
        columns = _by_arrow(block, fields)
        if columns is not None:
            yield Records(file, columns, block.line + np.arange(columns.num_rows), bad)
        else:
            rows, lines = [], []
            for line, row in _objects(file, block, json.loads, bad):
                if (row := _typed(file, line, row, fields, bad)) is not None:
                    rows.append(row)
                    lines.append(line)
            yield Records(file, pa.Table.from_pylist(rows, fields), np.array(lines, np.int64), bad)


def objects(file: RawFile, bad: BadRows, *, literals: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, object) of every line of JSON, or of Python literals, as `{'asin': u'x', 'price': 5}`."""
    for block in file.blocks():
        yield from _objects(file, block, ast.literal_eval if literals else json.loads, bad)


def _by_arrow(block: Block, fields: pa.Schema) -> pa.Table | None:
    """The columns, where every line of the block is one object of the right types."""
    try:
        block.data.decode('utf-8')
        columns = pyarrow.json.read_json(
            io.BytesIO(block.data), read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block.data) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=fields, unexpected_field_behavior='ignore'))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        return None
    # Blank lines and two objects in a line would shift the count of lines.
    return columns.select(fields.names) if columns.num_rows == block.data.count(b'\n') else None


def _objects(file: RawFile, block: Block, parse: Callable[[str], Any], bad: BadRows) -> Iterator[tuple[int, dict]]:
    kind = 'JSON' if parse is json.loads else 'a Python literal'
    for line, data in enumerate(block.data.split(b'\n')[:-1], block.line):
        try:
            row = parse(data.decode('utf-8'))
        except UnicodeDecodeError as error:
            bad.report(file, line, f': byte 0x{data[error.start]:02x} is not UTF-8')
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
            reason = str(error).split('(')[0].strip() or type(error).__name__
            bad.report(file, line, f': is not {kind} ({reason}): {data[:80]!r}')
        else:
            if isinstance(row, dict):
                yield line, row
            else:
                bad.report(file, line, f': should be an object, is {type(row).__name__}: {data[:80]!r}')


def _typed(file: RawFile, line: int, row: dict[str, Any], fields: pa.Schema, bad: BadRows) -> dict[str, Any] | None:
    """The row's `fields`, each of its type; None where one is not."""
    typed = {}
    for field in fields:
        value = row.get(field.name)
        try:
            if isinstance(value, bool) != pa.types.is_boolean(field.type) and value is not None:
                raise ValueError
            typed[field.name] = pa.scalar(value, field.type).as_py()
        except (ValueError, TypeError, OverflowError):  # the errors of Arrow are among them
            bad.report(file, line, f', field {field.name}: {str(value)[:80]!r} should be {field.type}')
            return None
    return typed
