"""Three Arrow tables and a few facts: what every reader returns and everything later reads.

1. the schemas, nullability included, and the `Dataset` that holds the tables
2. `validate`: every promise the schemas make, checked; `rows`: ids to dense indices
3. `write` and `read`: a directory of three `.arrow` files and `dataset.json`, all or nothing
4. `card`: what a person wants to know of a dataset

Ids are the source's own strings. The dense index of a user or an item is its row number in the
users or items table. `U` users, `I` items, `N` interactions.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data.domains import Domain
from xrec_jax.errors import UserError

# ------------------------------------------------------------------------------------- schemas

INTERACTIONS = pa.schema([
    pa.field('user_id', pa.string(), nullable=False),
    pa.field('item_id', pa.string(), nullable=False),
    pa.field('rating', pa.float32(), nullable=False),
    pa.field('timestamp', pa.int64(), nullable=False),  # Unix seconds
    pa.field('review', pa.string()),  # the user's own words, where the source has them
    pa.field('aspects', pa.list_(pa.string())),  # the true reasons of the rating, where known
])
USERS = pa.schema([
    pa.field('user_id', pa.string(), nullable=False),
    pa.field('profile', pa.map_(pa.string(), pa.string()), nullable=False),
])
ITEMS = pa.schema([
    pa.field('item_id', pa.string(), nullable=False),
    pa.field('title', pa.string(), nullable=False),
    pa.field('attributes', pa.list_(pa.string()), nullable=False),
])
SCHEMAS = {'interactions': INTERACTIONS, 'users': USERS, 'items': ITEMS}
FORMAT = 1  # of the directory; a reader refuses what it does not know


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
    """Builds a table of `schema` from lists or arrays; nullable columns left out become null."""
    length = len(next(iter(columns.values())))
    missing = {f.name: pa.nulls(length, f.type) for f in schema if f.name not in columns}
    assert all(schema.field(name).nullable for name in missing), list(missing)
    return pa.table({**columns, **missing}, schema=schema)


# ---------------------------------------------------------------------------------- validation


def rows(ids: pa.ChunkedArray, column: pa.ChunkedArray) -> np.ndarray:
    """Returns int32[N]: the row in `column` of each of `ids`, -1 where it is absent."""
    found = pc.index_in(ids, value_set=column.combine_chunks())
    return pc.fill_null(found, -1).to_numpy().astype(np.int32)


def validate(dataset: Dataset) -> Dataset:
    """Returns `dataset` if it keeps every promise above, else raises UserError (what, table, row)."""

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
        counts = pc.value_counts(ids)
        often = pc.filter(counts.field('values'), pc.greater(counts.field('counts'), 1))
        check(not len(often), f'table {name}, column {key}',
              f'"{often[0].as_py() if len(often) else ""}" stands there more than once')
        unknown = np.flatnonzero(rows(dataset.interactions[key], ids) < 0)
        if len(unknown):
            value = dataset.interactions[key][int(unknown[0])].as_py()
            check(False, f'table interactions, column {key}, row {unknown[0]}',
                  f'"{value}" is not in table {name}')

    rating = dataset.interactions['rating'].to_numpy()
    bad = np.flatnonzero(~((rating >= low) & (rating <= high)))  # NaN is bad as well
    if len(bad):
        check(False, f'table interactions, column rating, row {bad[0]}',
              f'{rating[bad[0]]} is outside the scale of {low:g} to {high:g}')
    return dataset


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
    """Writes a validated dataset to `directory`, replacing an earlier dataset there, all or nothing."""
    validate(dataset)
    target = pathlib.Path(directory)
    if target.exists() and not (target / 'dataset.json').exists() and (
            not target.is_dir() or any(target.iterdir())):
        raise UserError(f'{target}: holds something that is not a dataset; will not replace it')
    facts = {
        'format': FORMAT,
        'name': dataset.name,
        'rating_scale': list(dataset.rating_scale),
        'domain': dataclasses.asdict(dataset.domain),
        'licence': dataset.licence,
        'recipe': dict(dataset.recipe),
        'rows': {name: getattr(dataset, name).num_rows for name in SCHEMAS},
    }
    with plain_disk_errors(f'writing {target}'):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
                prefix=f'.{target.name}.', dir=target.parent, ignore_cleanup_errors=True) as scratch:
            fresh, old = pathlib.Path(scratch, 'new'), pathlib.Path(scratch, 'old')
            fresh.mkdir()
            for name, schema in SCHEMAS.items():
                with open(fresh / f'{name}.arrow', 'wb') as file:
                    options = pa.ipc.IpcWriteOptions(compression='zstd')
                    with pa.ipc.new_file(file, schema, options=options) as writer:
                        writer.write_table(getattr(dataset, name).cast(schema))
            (fresh / 'dataset.json').write_text(json.dumps(facts, indent=1) + '\n')
            try:
                if target.exists():
                    target.rename(old)
                fresh.rename(target)
            except BaseException:  # Ctrl-C too: never leave the place empty
                if old.exists():
                    old.rename(target)
                raise
    return target


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
            with open(path, 'rb') as file:
                columns[name] = pa.ipc.open_file(file).read_all()
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
    return validate(dataset)


# ---------------------------------------------------------------------------------------- card


def card(dataset: Dataset) -> list[tuple[str, str]]:
    """Returns (label, value) pairs that describe a dataset, ready to print."""
    users, items, actions = (
        dataset.users.num_rows, dataset.items.num_rows, dataset.interactions.num_rows)
    values, counts = np.unique(dataset.interactions['rating'].to_numpy(), return_counts=True)
    if len(values) > 10:  # a fine scale: ten equal bins
        counts, values = np.histogram(
            dataset.interactions['rating'].to_numpy(), bins=10, range=dataset.rating_scale)
    histogram = '  '.join(f'{v:g}: {n / actions:.1%}' for v, n in zip(values, counts))
    span = pc.min_max(dataset.interactions['timestamp']).as_py()
    first, last = (np.datetime64(span[end], 's').astype('datetime64[D]') for end in ('min', 'max'))

    def per(key: str, owners: pa.Table) -> str:
        each = np.bincount(rows(dataset.interactions[key], owners[key]), minlength=owners.num_rows)
        return f'{each.mean():.1f} on average ({each.min():,} to {each.max():,})'

    reviews = actions - dataset.interactions['review'].null_count
    return [
        ('dataset', dataset.name),
        ('users', f'{users:,}'),
        ('items', f'{items:,}'),
        ('interactions', f'{actions:,}'),
        ('per user', per('user_id', dataset.users)),
        ('per item', per('item_id', dataset.items)),
        ('density', f'{actions / users / items:.2%}'),
        ('ratings', histogram),
        ('reviews', f'{reviews:,}'),
        ('time', f'{first} to {last}'),
        ('licence', dataset.licence),
    ]
