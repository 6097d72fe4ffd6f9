"""Rows with fields inside fields: JSON lines, parquet, Hugging Face datasets.

A field inside a field has a dotted name: 'product.title'. Where a row holds a list of interactions, as
{"user_id": "A", "history": [{"asin": "B", "rating": 5.0}, …]}, `explode` names the list: then each of its
elements is a row; an element's field goes by its own name, and so do the fields of the row around it. A
list of plain values, as "items": ["B", "C"], goes by the list's name.

1. `jsonl`, `parquet`, `batches`: a format → rows with columns by name, of whatever type they have
2. `_places`: where a name leads; `_taken`: the columns there
"""

import contextlib
import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from xrec_jax.data import tables
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import jsonlines
from xrec_jax.data.readers.columns import no_column
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

LOOK = 10_000  # lines whose fields are those of a file of JSON lines
BATCH = 1 << 16  # rows
MIXED = pa.month_day_nano_interval()  # stands for values of several types: no file has such values


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a name leads: the keys, from a row or from an element of the list to explode."""

    keys: tuple[str, ...]
    kind: pa.DataType
    of_element: bool = False
    name: str = ''

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, 'name', '.'.join(self.keys))


def jsonl(file: RawFile, names: Sequence[str], bad: BadRows, *, explode: str = '') -> Iterator[Records]:
    """Yields the rows of a file of JSON lines. A field is of the type that it has in the first LOOK lines.

    Reports to `bad` a line that is no object, and a value of another type.
    """
    # What is wrong with the first lines is passed over here, and said when they are read.
    first = [row for _, row in itertools.islice(jsonlines.objects(file, BadRows('skip')), LOOK)]
    if first:
        places, way = _places(file.label, pa.schema(list(_type_of(first))), names, explode)
    else:
        places, way = {}, ()
    for part in jsonlines.stream(file, _schema(places, way), bad):
        if not first:  # and nothing later: `bad` passed over all of it
            raise UserError(f'{file.label}: holds no JSON object')
        yield _taken(part, places, way)


def parquet(file: RawFile, names: Sequence[str], bad: BadRows, *, explode: str = '') -> Iterator[Records]:
    """Yields the rows of a parquet file."""
    with _told_plainly(file), file.open() as stream:
        whole = pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True)
        yield from batches(
            file, whole.schema_arrow, names, bad, explode=explode,
            read=lambda ways: whole.iter_batches(BATCH, columns=['.'.join(keys) for keys in ways], use_threads=False))


def batches(file: RawFile, schema: pa.Schema, names: Sequence[str], bad: BadRows, *, explode: str,
            read: Callable[[Sequence[tuple[str, ...]]], Iterable[pa.RecordBatch]]) -> Iterator[Records]:
    """Yields the rows that are in Arrow already: `read` gives those of some columns, by their keys."""
    file = dataclasses.replace(file, unit='row')
    places, way = _places(file.label, schema, names, explode)
    count = 0
    with _told_plainly(file):
        for batch in read(list(dict.fromkeys(way if place.of_element else place.keys for place in places.values()))):
            batch.validate(full=True)
            rows = 1 + count + np.arange(batch.num_rows)
            count += batch.num_rows
            yield _taken(Records(file, pa.table(batch), rows, bad), places, way)
    if not count:
        raise UserError(f'{file.label}: has no rows')


@contextlib.contextmanager
def _told_plainly(file: RawFile) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f'{file.label}: no such file') from error
    except (pa.ArrowException, OSError, EOFError, ValueError, MemoryError, zlib.error) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{file.label}: cannot be read ({reason}); it is damaged, or of another format') from error


# --------------------------------------------------------------------------------------------- places


def _type_of(values: Iterable[Any]) -> pa.DataType:
    """Of values from JSON; MIXED where they are of several types, text where all are null."""
    values = [value for value in values if value is not None]
    kinds = {type(value) for value in values}
    if kinds == {dict}:
        keys = dict.fromkeys(key for value in values for key in value)
        return pa.struct([(key, _type_of(value.get(key) for value in values)) for key in keys])
    if kinds == {list}:
        return pa.list_(_type_of(part for value in values for part in value))
    if kinds <= {int, float} and float in kinds:
        return pa.float64()
    if len(kinds) > 1:
        return MIXED
    return {int: pa.int64(), bool: pa.bool_()}[kinds.pop()] if kinds - {str} else pa.string()


def _places(label: str, schema: pa.Schema, names: Sequence[str], explode: str
            ) -> tuple[dict[str, Place], tuple[str, ...]]:
    """Where each of `names` leads, and the keys of the list to explode, () for none."""
    there, way = [Place(keys, kind) for keys, kind in _leaves(schema)], ()
    if explode:
        found = [place for place in there if place.name == explode]
        if not found:
            raise no_column(label, explode, [place.name for place in there])
        way, kind = found[0].keys, found[0].kind
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise UserError(f'{label}, column {explode}: holds values of type {kind}, and explode={explode} needs '
                            'lists')
        if pa.types.is_struct(kind.value_type):
            elements = [Place(keys, kind, of_element=True) for keys, kind in _leaves(kind.value_type)]
        else:
            elements = [Place((), kind.value_type, of_element=True, name=explode)]
        inner = {place.name for place in elements}  # before a name of the row around it
        there = elements + [place for place in there if place.name not in inner | {explode}]
    places = {}
    for name in names:
        found = [place for place in there if place.name == name]
        if not found:
            raise no_column(label, name, [place.name for place in there])
        if len(found) > 1:
            raise UserError(f'{label}: has {len(found)} columns "{name}"')
        if found[0].kind == MIXED:
            raise UserError(f'{label}, column {name}: holds values of several types, as text and numbers')
        places[name] = found[0]
    if way and not any(place.of_element for place in places.values()):
        raise UserError(f'{label}: explode={explode}, and no column of its elements is named in the options; they have '
                        + ', '.join(place.name for place in there if place.of_element)[:500])
    return places, way


def _leaves(fields: Iterable[pa.Field], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], pa.DataType]]:
    """The keys and types of all that is no struct."""
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _leaves(field.type, (*before, field.name))
        else:
            yield (*before, field.name), field.type


def _schema(places: Mapping[str, Place], way: tuple[str, ...]) -> pa.Schema:
    """The least that has the places, for a parser to leave out the rest."""
    element = [place for place in places.values() if place.of_element]
    ways = {place.keys: place.kind for place in places.values() if not place.of_element}
    if element:
        plain = element[0].keys == ()
        ways[way] = pa.list_(element[0].kind if plain else _struct({place.keys: place.kind for place in element}))
    return pa.schema(list(_struct(ways)))


def _struct(ways: Mapping[tuple[str, ...], pa.DataType]) -> pa.StructType:
    fields = {}
    for first in dict.fromkeys(keys[0] for keys in ways):
        below = {keys[1:]: kind for keys, kind in ways.items() if keys[0] == first}
        fields[first] = below[()] if () in below else _struct(below)
    return pa.struct(list(fields.items()))


def _taken(part: Records, places: Mapping[str, Place], way: tuple[str, ...]) -> Records:
    """The columns at `places`, a row an element of the list at `way` where there is one."""
    if not way:
        return Records(part.file, pa.table({name: _at(part.columns, place.keys) for name, place in places.items()}),
                       part.lines, part.bad)
    lists = tables.one_chunk(_at(part.columns, way))
    row, elements = pc.list_parent_indices(lists), pc.list_flatten(lists)
    columns = {}
    for name, place in places.items():
        if not place.of_element:
            columns[name] = _at(part.columns, place.keys).take(row)
        else:
            columns[name] = pc.struct_field(elements, list(place.keys)) if place.keys else elements
    return Records(part.file, pa.table(columns), part.lines[row.to_numpy()], part.bad)


def _at(columns: pa.Table, keys: tuple[str, ...]) -> pa.ChunkedArray:
    column = columns[keys[0]]
    return pc.struct_field(column, list(keys[1:])) if keys[1:] else column
