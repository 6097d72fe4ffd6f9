"""From what a reader yields to a dataset: ids become dense, filters apply, memory stays flat.

A reader gives a `Source`: interactions as a stream of tables, users and items as it finds them. Then
1. the stream goes to a spool (on disk, or in memory for small data)
2. ids are numbered, repeats that the publisher rules out are refused, filters select rows
3. users and items that stay make their tables; the spool is read again, once, for the rows that stay
Only ids and numbers of all interactions are ever in memory together, never their text.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import Domain
from xrec_jax.data.filters import Filters, describe, select
from xrec_jax.data.raw import BadRows, RawFile


@dataclasses.dataclass(frozen=True)
class Source:
    """What a reader makes of its files. Nothing is read before `interactions` is drawn from."""

    name: str
    file: RawFile  # of the interactions, for messages
    interactions: Iterable[pa.Table]  # of `tables.EVENTS`
    users: Callable[[], Iterable[pa.Table]]  # of `tables.USERS`; asked after the interactions are read
    items: Callable[[], Iterable[pa.Table]]  # of `tables.ITEMS`
    rating_scale: tuple[float, float]
    domain: Domain
    licence: str
    bad: BadRows
    unmet_stay: bool = True  # users and items without interactions stay, where no filter is on
    repeats: bool = True  # whether the publisher lets a user and an item stand together more than once


def nothing() -> Iterable[pa.Table]:
    """The `users` or `items` of a source that describes none: those of its interactions are enough."""
    return ()


def ingest(source: Source, filters: Filters = Filters(), directory: pathlib.Path | None = None,
           recipe: Mapping[str, Any] = MappingProxyType({})) -> tables.Dataset:
    """Returns the dataset of a source; with a `directory`, written there first and mapped from there.

    Users and items are in the order of the source's own tables, then those that only interact, in the
    order of their first interaction, with an empty profile or no title. Raises UserError for all that
    is wrong with the files, and where filters leave nothing. `recipe` (JSON) goes on record.
    """
    if directory is None:
        with _Spool(None) as spool:
            dataset, batches = _ingest(source, filters, spool, recipe)
            return tables.validate(dataclasses.replace(dataset, interactions=pa.Table.from_batches(batches)))
    with tables.replacing(directory) as fresh, _Spool(fresh.parent / 'spool') as spool:
        dataset, batches = _ingest(source, filters, spool, recipe)
        tables.write_rest(fresh, dataset, tables.write_table(fresh, 'interactions', batches))
    return tables.read(directory)


def _ingest(source: Source, filters: Filters, spool: '_Spool', recipe: Mapping[str, Any]) -> tuple[tables.Dataset, Iterator[pa.RecordBatch]]:
    """The dataset, its interactions still without rows, and the batches of them."""
    spool.fill(source.interactions)
    user, user_ids = _number(spool.column('user_id'))
    item, item_ids = _number(spool.column('item_id'))
    rows = np.arange(len(user)) if source.repeats else _refuse_repeats(source, spool, user, item, user_ids, item_ids)
    read = len(rows)
    if filters != Filters():
        times = pc.fill_null(spool.column('timestamp'), tables.LONG_AGO).to_numpy()
        rows = rows[select(filters, user[rows], item[rows], times[rows])]
    unmet_stay = source.unmet_stay and filters == Filters()
    user, users = _owners(tables.USERS, source.users, user[rows], user_ids, unmet_stay)
    item, items = _owners(tables.ITEMS, source.items, item[rows], item_ids, unmet_stay)
    recipe = {**recipe, 'filters': describe(filters), 'rows_filtered': read - len(rows),
              'rows_skipped': dict(source.bad.skipped)}
    dataset = tables.Dataset(
        name=source.name, users=users, items=items, rating_scale=source.rating_scale, domain=source.domain,
        licence=source.licence, recipe=recipe, interactions=tables.INTERACTIONS.empty_table())
    return dataset, _batches(spool, rows, user, item, users, items)


class _Spool:
    """Interactions as they came, in an Arrow file (or buffer) that is read by column or by batch."""

    def __init__(self, path: pathlib.Path | None):
        self._path, self._buffer = path, pa.BufferOutputStream()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._path:
            self._path.unlink(missing_ok=True)

    def fill(self, parts: Iterable[pa.Table]) -> None:
        sink = pa.OSFile(str(self._path), 'wb') if self._path else self._buffer
        with pa.ipc.new_file(sink, tables.EVENTS) as writer:
            for part in parts:
                writer.write_table(part, max_chunksize=tables.BATCH)
        if self._path:
            sink.close()
        else:
            self._buffer = self._buffer.getvalue()

    @contextlib.contextmanager
    def _open(self, fields: list[int] | None) -> Iterator[pa.ipc.RecordBatchFileReader]:
        # Not mapped: pages of a mapped file count as resident, and this one is read from end to end.
        with (pa.OSFile(str(self._path)) if self._path else pa.BufferReader(self._buffer)) as file:
            yield pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False))

    def column(self, name: str) -> pa.ChunkedArray:
        with self._open([tables.EVENTS.get_field_index(name)]) as reader:
            return reader.read_all()[name]

    def batches(self) -> Iterator[pa.RecordBatch]:
        with self._open(None) as reader:
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)


def _number(ids: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Returns int32[N] and the distinct ids in the order of their first appearance."""
    encoded = pc.dictionary_encode(ids)
    return tables.codes(encoded), encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], pa.string())


def _refuse_repeats(source: Source, spool: _Spool, user: np.ndarray, item: np.ndarray, user_ids: pa.Array,
                    item_ids: pa.Array) -> np.ndarray:
    """Returns the rows that stand for the first time; reports the others."""
    pair = user.astype(np.int64) * len(item_ids) + item
    order = np.argsort(pair, kind='stable')
    again = np.flatnonzero(pair[order][1:] == pair[order][:-1])
    if not len(again):
        return np.arange(len(pair))
    row = order[again + 1].min()
    first = np.flatnonzero(pair == pair[row])[0]
    line = spool.column('line')
    source.bad.report(source.file, line[int(row)].as_py(),
                      f', column item_id: "{item_ids[int(item[row])]}" stands already in line {line[int(first)]} with the '
                      f'same user_id "{user_ids[int(user[row])]}"', len(again))
    return np.delete(np.arange(len(pair)), order[again + 1])


def _owners(schema: pa.Schema, described: Callable[[], Iterable[pa.Table]], code: np.ndarray, ids: pa.Array,
            unmet_stay: bool) -> tuple[np.ndarray, pa.Table]:
    """Dense indices int32[N] into the table that is returned: users or items, those that are described first.

    code: int32[N] into `ids`.
    """
    met = np.zeros(len(ids), bool)
    met[code] = True
    met_ids = pa.chunked_array([ids.filter(pa.array(met))])
    parts = []
    for part in described():
        parts.append(part if unmet_stay else part.filter(pa.array(tables.rows(part[0], met_ids) >= 0)))
    listed = _first_of_each(pa.concat_tables(parts)) if parts else schema.empty_table()
    extra = met_ids.filter(pa.array(tables.rows(met_ids, listed[0]) < 0))
    if len(extra):
        empty = {field.name: pa.array([[]] * len(extra), field.type) for field in schema if pa.types.is_list(field.type)}
        listed = pa.concat_tables([listed, tables.table(schema, **{schema.names[0]: extra}, **empty)])
    listed = listed.combine_chunks()
    return tables.rows(pa.chunked_array([ids]), listed[0])[code], listed


def _first_of_each(table: pa.Table) -> pa.Table:
    """Drops rows whose id, the first column, stands in an earlier row: some publishers describe a thing twice."""
    code, ids = _number(table[0])
    if len(ids) == len(code):
        return table
    return table.take(pa.array(np.unique(code, return_index=True)[1]))


def _batches(spool: _Spool, rows: np.ndarray, user: np.ndarray, item: np.ndarray, users: pa.Table, items: pa.Table
             ) -> Iterator[pa.RecordBatch]:
    """The interactions `rows`, in order; user and item are their dense indices, in step with `rows`."""
    start = 0
    for batch in spool.batches():
        stop = start + batch.num_rows
        low, high = np.searchsorted(rows, (start, stop))
        kept = batch.take(pa.array(rows[low:high] - start))
        columns = tables.interactions(users, items, user=user[low:high], item=item[low:high],
                                      **{name: kept[name] for name in tables.INTERACTIONS.names[2:]})
        start = stop
        yield from columns.to_batches()
