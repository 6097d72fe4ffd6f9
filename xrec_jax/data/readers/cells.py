"""Columns of any type that a user's data may have → the ids, texts, numbers, times and lists that tables hold.

Each function takes the rows of a file and the name of a column there. A value that should not be there is
refused, or its row passed over, with file, line, column and value; a type that cannot be meant is refused
with the column. A blank cell, null, and NaN are no value, which only `ids` refuses.
"""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.readers import records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

LAST_SECOND = 7_258_118_400  # 1 January 2200: what is later was no second
NUMBER = r'^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$'


def _plain(part: Records, name: str) -> pa.ChunkedArray:
    """The column, without the ways to store the same values in less space; nulls alone are text."""
    column = part[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not any(test(kind) for test in (pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null,
                                       pa.types.is_binary, pa.types.is_large_binary)):
        return column
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid as error:  # some programs write texts to parquet as bytes; these are none
        raise UserError(f'{part.file.label}, column {name}: holds bytes that are no text ({error})') from error


def _refused(part: Records, name: str, kind: pa.DataType, should: str) -> UserError:
    more = ''
    if pa.types.is_struct(kind):
        more = f'; name one of its fields, as {name}.{kind[0].name}'
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        more = f'; for one interaction an element: explode={name}'
    return UserError(f'{part.file.label}, column {name}: holds values of type {kind}, should hold {should}{more}')


def texts(part: Records, name: str) -> pa.ChunkedArray:
    """The column as strings; lists of strings with commas between them."""
    column = _plain(part, name)
    kind = column.type
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type):
        return pc.binary_join(column, ', ')
    if not any(test(kind) for test in (pa.types.is_string, pa.types.is_integer, pa.types.is_floating,
                                       pa.types.is_boolean, pa.types.is_decimal, pa.types.is_temporal)):
        raise _refused(part, name, kind, 'text or numbers')
    return column.cast(pa.string())


def _blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """bool [N] of a column of strings."""
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ''), True)


def blank_to_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(_blank(column), pa.scalar(None, pa.string()), column)


def ids(part: Records, name: str) -> pa.ChunkedArray:
    """Strings as they stand, or integers as strings; '' where null."""
    kind = _plain(part, name).type
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind)):
        raise _refused(part, name, kind, 'text or integers')
    column = texts(part, name)
    part.require(pc.invert(_blank(column)), name, 'should not be empty')
    return pc.fill_null(column, '')


def numbers(part: Records, name: str, should: str) -> np.ndarray:
    """float64[N], NaN where blank."""
    column = _plain(part, name)
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        good = pc.fill_null(pc.match_substring_regex(column, NUMBER), False)
        part.require(pc.or_(good, _blank(column)), name, should)
        column = pc.if_else(good, column, pa.scalar(None, pa.string()))
    elif not any(test(column.type) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)):
        raise _refused(part, name, column.type, 'numbers')
    return pc.fill_null(column.cast(pa.float64(), safe=False), float('nan')).to_numpy()


def seconds(part: Records, name: str, unit: str) -> pa.Array:
    """int64[N], Unix seconds, null where blank. A column of times has its own unit."""
    column = _plain(part, name)
    should = {'s': 'should be Unix seconds', 'ms': 'should be Unix milliseconds', 'iso': 'should be a time as '
              '2015-01-31 or 2015-01-31T12:00:00Z'}.get(unit, f'should be a time as {unit}')
    should += f', from 1970 to 2199 (timestamp_unit={unit}; others: s, ms, iso, or a format as %d.%m.%Y)'
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        zone = getattr(column.type, 'tz', None)
        values = _floats(column.cast(pa.timestamp('s', zone), safe=False).cast(pa.int64()))
    elif unit in ('s', 'ms'):
        values = np.floor(numbers(part, name, should) / (1000 if unit == 'ms' else 1))
    else:
        text = blank_to_null(texts(part, name))
        values = _floats(_parsed(pc.utf8_trim_whitespace(text), unit))
        part.require(~np.isnan(values) | text.is_null().to_numpy(), name, should)
    none = np.isnan(values)
    part.require(none | (values >= 0) & (values < LAST_SECOND), name, should)
    return pa.array(np.where(none, 0, values).clip(0, LAST_SECOND).astype(np.int64), mask=none)


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """float64[N], NaN where null."""
    return pc.fill_null(column.cast(pa.float64()), float('nan')).to_numpy()


def _parsed(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    """Seconds of texts of a time, null where one is none. What names no zone is UTC."""
    if unit == 'iso':
        try:
            return column.cast(pa.timestamp('us')).cast(pa.timestamp('s'), safe=False).cast(pa.int64())
        except pa.ArrowInvalid:  # a zone, nanoseconds, or no time at all: Python tells them apart
            pass

    def seconds(text: str | None) -> float | None:
        try:
            time = datetime.datetime.fromisoformat(text) if unit == 'iso' else datetime.datetime.strptime(text, unit)
            return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp() // 1
        except (ValueError, OverflowError, TypeError):
            return None

    # Days stand in many rows: each is parsed once a block.
    encoded = tables.one_chunk(column).dictionary_encode()
    each = pa.array([seconds(text) for text in encoded.dictionary.to_pylist()], pa.float64())
    return pa.chunked_array([each.take(encoded.indices)])


def words(part: Records, name: str, separator: str) -> pa.ListArray:
    """One list of words a row: a list as it stands, a text in its parts; blanks at the ends and blank words go."""
    column = _plain(part, name)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lists = tables.one_chunk(column)
        if not (pa.types.is_string(lists.type.value_type) or pa.types.is_large_string(lists.type.value_type)
                or pa.types.is_null(lists.type.value_type)):
            raise _refused(part, name, column.type, 'lists of texts')
        parts = tables.one_chunk(records.unescaped(pa.chunked_array([pc.list_flatten(lists).cast(pa.string())])))
    else:
        whole = tables.one_chunk(records.unescaped(texts(part, name)))  # first: an entity holds a semicolon
        lists = pc.split_pattern(whole, separator) if separator else one_word(whole)
        parts = pc.list_flatten(lists)
    parts = pc.utf8_trim_whitespace(parts)
    there = pc.fill_null(pc.not_equal(parts, ''), False)
    row = pc.list_parent_indices(lists).filter(there).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(lists)))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, parts.filter(there))


def one_word(column: pa.Array) -> pa.ListArray:
    """Each value as a list of one."""
    return pa.ListArray.from_arrays(np.arange(len(column) + 1, dtype=np.int32), column)
