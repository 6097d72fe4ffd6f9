"""Three Arrow tables and a few facts: what every reader returns and everything later reads.

1. the schemas, nullability included, and the `Dataset` that holds the tables
2. `validate`: every promise the schemas make, checked; `codes` and `rows`: ids to dense indices
3. `write` and `read`: a directory of three `.arrow` files and `dataset.json`, all or nothing

Ids are the source's own strings. The dense index of a user or an item is its row number in the
users or items table; in interactions the ids are dictionary-encoded with that table's ids as the
dictionary, so that `codes` reads the indices off. On disk tables are plain Arrow, mapped into memory
when read: what is not touched costs nothing. `U` users, `I` items, `N` interactions.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data.domains import Domain
from xrec_jax.errors import UserError

# ------------------------------------------------------------------------------------- schemas

INTERACTIONS = pa.schema([
    pa.field('user_id', pa.dictionary(pa.int32(), pa.string()), nullable=False),
    pa.field('item_id', pa.dictionary(pa.int32(), pa.string()), nullable=False),
    pa.field('rating', pa.float32()),  # null: met, and not rated (implicit)
    pa.field('timestamp', pa.int64()),  # Unix seconds; null: not known, taken for earlier than all known
    pa.field('review', pa.string()),  # the user's own words, where the source has them
    pa.field('aspects', pa.list_(pa.string())),  # the true reasons of the rating, where known
])
# Interactions on their way from a reader to `ingest`: ids are strings yet, and know their line.
EVENTS = pa.schema([
    pa.field('user_id', pa.string(), nullable=False), pa.field('item_id', pa.string(), nullable=False),
    *list(INTERACTIONS)[2:], pa.field('line', pa.int64())])
USERS = pa.schema([
    pa.field('user_id', pa.string(), nullable=False),
    pa.field('profile', pa.map_(pa.string(), pa.string()), nullable=False),  # age, gender, …
])
ITEMS = pa.schema([
    pa.field('item_id', pa.string(), nullable=False),
    pa.field('title', pa.string()),  # null where the source has none
    pa.field('attributes', pa.list_(pa.string()), nullable=False),  # genres, categories, tags
    pa.field('details', pa.map_(pa.string(), pa.string()), nullable=False),  # author, price, city, …
])
SCHEMAS = {'interactions': INTERACTIONS, 'users': USERS, 'items': ITEMS}
FORMAT = 2  # of the directory; a reader refuses what it does not know
LONG_AGO = -(1 << 62)  # stands for a time that is not known
BATCH = 1 << 18  # rows of a record batch on disk


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One dataset. `interactions` keeps the source's row order, which breaks ties of time."""

    name: str
    interactions: pa.Table
    users: pa.Table
    items: pa.Table
    rating_scale: tuple[float, float]
    domain: Domain
    licence: str
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # where it came from, JSON


def table(schema: pa.Schema, **columns: Any) -> pa.Table:
    """Builds a table of `schema` from lists or arrays; columns left out become null, or empty maps and lists."""
    length = len(next(iter(columns.values())))
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.nulls(length, field.type) if field.nullable else _empties(length, field.type)
    return pa.table(columns, schema=schema)


def _empties(length: int, kind: pa.DataType) -> pa.Array:
    """One empty map or list a row."""
    offsets, no_words = pa.array(np.zeros(length + 1, np.int32)), pa.array([], pa.string())
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(offsets, no_words, no_words, kind)
    assert pa.types.is_list(kind), kind
    return pa.ListArray.from_arrays(offsets, no_words, kind)


def interactions(users: pa.Table, items: pa.Table, *, user: Any, item: Any, **columns: Any) -> pa.Table:
    """The table of interactions between `users` and `items`.

    `user` and `item` [N] are ids (which must be in those tables), or int32 rows of them.
    """

    def encode(values, ids):
        if not (isinstance(values, np.ndarray) and values.dtype.kind in 'iu'):
            values = rows(pa.chunked_array([pa.array(values, pa.string())]), ids)
        assert (values >= 0).all()
        return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int32)), one_chunk(ids))

    return table(INTERACTIONS, user_id=encode(user, users['user_id']), item_id=encode(item, items['item_id']),
                 **columns)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Returns the column as one array; where it is one, that very array (`combine_chunks` would copy it)."""
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


# ---------------------------------------------------------------------------------- validation


def rows(ids: pa.ChunkedArray, column: pa.ChunkedArray) -> np.ndarray:
    """Returns int32[N]: the row in `column` of each of `ids`, -1 where it is absent."""
    found = pc.index_in(ids, value_set=one_chunk(column))
    return pc.fill_null(found, -1).to_numpy().astype(np.int32)


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """Returns int32[N]: the dense index of each id of an interactions table."""
    return pa.chunked_array([chunk.indices for chunk in column.chunks], pa.int32()).to_numpy()


def times(dataset: Dataset) -> np.ndarray:
    """Returns int64[N]: Unix seconds of each interaction; LONG_AGO where the time is not known."""
    return pc.fill_null(dataset.interactions['timestamp'], LONG_AGO).to_numpy()


def validate(dataset: Dataset, *, written: bool = False) -> Dataset:
    """Returns `dataset` if it keeps every promise above, else raises UserError (what, table, row).

    Of what was `written` before, ids are not compared with each other again, which takes more memory than
    all else together.
    """

    def check(ok: bool, where: str, problem: str) -> None:
        if not ok:
            raise UserError(f'dataset "{dataset.name}", {where}: {problem}')

    low, high = dataset.rating_scale
    check(low < high, 'rating_scale', f'{low} to {high} is not a scale (the lower end comes first)')
    for name, schema in SCHEMAS.items():
        columns = getattr(dataset, name)
        check(columns.column_names == schema.names, f'table {name}',
              f'columns are {", ".join(columns.column_names)}; should be {", ".join(schema.names)}')
        check(columns.num_rows > 0, f'table {name}', 'it has no rows')
        for field in schema:
            column, where = columns[field.name], f'table {name}, column {field.name}'
            check(column.type == field.type, where, f'type {column.type} should be {field.type}')
            if not field.nullable and column.null_count:
                row = int(np.argmax(column.is_null().to_numpy()))
                check(False, where, f'row {row} is null and must not be')

    for name, key in (('users', 'user_id'), ('items', 'item_id')):
        ids = getattr(dataset, name)[key]
        if not written and pc.count_distinct(ids).as_py() < len(ids):
            counts = pc.value_counts(ids)
            often = pc.filter(counts.field('values'), pc.greater(counts.field('counts'), 1))
            check(False, f'table {name}, column {key}', f'"{often[0]}" stands there more than once')
        check(_encoded_by(dataset.interactions[key], ids), f'table interactions, column {key}',
              f'its dictionary is not the ids of table {name}')

    rating = dataset.interactions['rating']
    inside = pc.and_(pc.greater_equal(rating, low), pc.less_equal(rating, high))  # NaN is not inside
    if pc.all(inside).as_py() is False:
        row = int(np.argmin(pc.fill_null(inside, True).to_numpy()))
        check(False, f'table interactions, column rating, row {row}',
              f'{rating[row].as_py()} is outside the scale of {low:g} to {high:g}')
    return dataset


def _encoded_by(column: pa.ChunkedArray, ids: pa.ChunkedArray) -> bool:
    """Whether the dictionary of every chunk is `ids`; chunks that share its memory cost nothing."""
    ids, right = one_chunk(ids), set()
    for chunk in column.chunks:
        place = tuple(buffer and buffer.address for buffer in chunk.dictionary.buffers())
        if place not in right and not chunk.dictionary.equals(ids):
            return False
        right.add(place)
    return True


# ---------------------------------------------------------------------------------------- disk


@contextlib.contextmanager
def plain_disk_errors(action: str) -> Iterator[None]:
    """Turns what a disk can do to us (full, read-only, forbidden) into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f'{action}: the disk is full. Nothing that was there before is changed; '
                            'free some space or choose another place, and run again.') from error
        raise UserError(f'{action}: {error.strerror or error}') from error


def write(dataset: Dataset, directory: str | os.PathLike) -> pathlib.Path:
    """Writes a dataset to `directory`, replacing an earlier dataset there, all or nothing."""
    validate(dataset)
    with replacing(directory) as fresh:
        write_table(fresh, 'interactions', dataset.interactions.to_batches(max_chunksize=BATCH))
        write_rest(fresh, dataset, dataset.interactions.num_rows)
    return pathlib.Path(directory)


@contextlib.contextmanager
def replacing(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives an empty folder beside `directory` that takes its place when all went well."""
    target = pathlib.Path(directory)
    if target.exists() and not (target / 'dataset.json').exists() and (
            not target.is_dir() or any(target.iterdir())):
        raise UserError(f'{target}: holds something that is not a dataset; will not replace it')
    with plain_disk_errors(f'writing {target}'):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
                prefix=f'.{target.name}.', dir=target.parent, ignore_cleanup_errors=True) as scratch:
            fresh, old = pathlib.Path(scratch, 'new'), pathlib.Path(scratch, 'old')
            fresh.mkdir()
            yield fresh
            try:
                if target.exists():
                    target.rename(old)
                fresh.rename(target)
            except BaseException:  # Ctrl-C too: never leave the place empty
                if old.exists():
                    old.rename(target)
                raise


def write_table(folder: pathlib.Path, name: str, batches: Iterable[pa.RecordBatch]) -> int:
    """Writes `batches` as table `name`; returns the number of rows."""
    count = 0
    with open(folder / f'{name}.arrow', 'wb') as file, pa.ipc.new_file(file, SCHEMAS[name]) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def write_rest(folder: pathlib.Path, dataset: Dataset, num_interactions: int) -> None:
    """Writes users, items and facts; the interactions are there already."""
    lengths = {'interactions': num_interactions}
    for name in ('users', 'items'):
        whole = getattr(dataset, name).cast(SCHEMAS[name]).combine_chunks()
        lengths[name] = write_table(folder, name, whole.to_batches())
    facts = {
        'format': FORMAT,
        'name': dataset.name,
        'rating_scale': list(dataset.rating_scale),
        'domain': dataclasses.asdict(dataset.domain),
        'licence': dataset.licence,
        'recipe': dict(dataset.recipe),
        'rows': lengths,
    }
    (folder / 'dataset.json').write_text(json.dumps(facts, indent=1) + '\n')


def read(directory: str | os.PathLike) -> Dataset:
    """Reads what `write` wrote; UserError says which file is missing or damaged."""
    root = pathlib.Path(directory)
    path = root / 'dataset.json'
    try:
        facts = json.loads(path.read_text())
        if facts['format'] != FORMAT:
            raise UserError(f'{path}: format {facts["format"]} is not the {FORMAT} that this version '
                            'reads; prepare the dataset again')
        columns = {}
        for name in SCHEMAS:
            path = root / f'{name}.arrow'
            columns[name] = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            if columns[name].num_rows != facts['rows'][name]:
                raise UserError(f'{path}: has {columns[name].num_rows} rows where dataset.json says '
                                f'{facts["rows"][name]}; prepare the dataset again')
        dataset = Dataset(
            name=facts['name'], rating_scale=tuple(facts['rating_scale']),
            domain=Domain(**facts['domain']), licence=facts['licence'], recipe=facts['recipe'],
            **columns)
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; "python -m xrec_jax.prepare" makes it') from error
    except (ValueError, KeyError, TypeError, OSError) as error:  # ArrowInvalid is a ValueError
        raise UserError(f'{path}: damaged ({error}); prepare the dataset again') from error
    return validate(dataset, written=True)
