"""From what a reader yields to a dataset: ids become dense, filters apply, memory stays flat.

A reader gives a `Source`: interactions as a stream of tables, users and items as it finds them. Then
1. the stream is read once: ids become numbers on the way, all else goes to a spool (on disk, or in memory
   for small data)
2. repeats that the publisher rules out are refused, filters select rows
3. users and items that stay make their tables; the spool is read again, once, for the rows that stay
In memory together are two numbers an interaction and each id once, never the interactions' text.
"""

import contextlib
import dataclasses
import pathlib
import time
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
from xrec_jax.errors import UserError
from xrec_jax.runs import progress

SPOOLED = pa.schema(list(tables.EVENTS)[2:])  # all but the ids
MANY = 1 << 20  # ids that wait to be numbered together
LONG = 10.0  # seconds; what takes longer is worth a line when it is done


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
            return tables.validate(dataclasses.replace(dataset, interactions=pa.Table.from_batches(
                batches, tables.INTERACTIONS)))
    with tables.replacing(directory) as fresh, _Spool(fresh.parent / 'spool') as spool:
        dataset, batches = _ingest(source, filters, spool, recipe)
        with _watched('writing interactions', 'rows') as advance:
            written = tables.write_table(fresh, 'interactions', map(advance, batches))
        tables.write_rest(fresh, dataset, written)
        return tables.read(fresh)  # checked before it takes its place, and mapped: its move is not felt


def _write(folder: pathlib.Path, source: Source, filters: Filters, spool: '_Spool', recipe: Mapping[str, Any]) -> None:
    """Apart from `ingest`, so that what it holds in memory is gone before the result is read."""
    dataset, batches = _ingest(source, filters, spool, recipe)
    with _watched(f'{source.name}: writing', 'rows') as advance:
        written = tables.write_table(folder, 'interactions', map(advance, batches))
    tables.write_rest(folder, dataset, written)


def narrow(dataset: tables.Dataset, filters: Filters) -> tables.Dataset:
    """What `ingest` would have made with these filters of the source of `dataset`, which had none."""
    if not filters.active:
        return dataset
    code = {key: tables.codes(dataset.interactions[key]) for key in ('user_id', 'item_id')}
    rows = select(filters, code['user_id'], code['item_id'], tables.times(dataset))
    user, users = _owners(tables.USERS, lambda: [dataset.users], code['user_id'][rows],
                          tables.one_chunk(dataset.users['user_id']), False)
    item, items = _owners(tables.ITEMS, lambda: [dataset.items], code['item_id'][rows],
                          tables.one_chunk(dataset.items['item_id']), False)
    kept = dataset.interactions.select(tables.INTERACTIONS.names[2:]).take(pa.array(rows))
    return tables.validate(dataclasses.replace(
        dataset, users=users, items=items,
        interactions=tables.interactions(users, items, user=user, item=item,
                                         **{name: kept[name] for name in kept.column_names}),
        recipe={**dataset.recipe, **_filtered(filters, len(code['user_id']) - len(rows))}))


def _filtered(filters: Filters, count: int) -> dict[str, Any]:
    """For the record."""
    return {'filters': describe(filters), 'rows_filtered': count}


def _ingest(source: Source, filters: Filters, spool: '_Spool', recipe: Mapping[str, Any]
            ) -> tuple[tables.Dataset, Iterator[pa.RecordBatch]]:
    """The dataset, its interactions still without rows, and the batches of them."""
    users, items = _Numbers(), _Numbers()
    with _watched('reading interactions', 'rows') as advance:
        spool.fill(_without_ids(map(advance, source.interactions), users, items))
    user, user_ids = users.finish()
    item, item_ids = items.finish()
    rows = None if source.repeats else _refuse_repeats(source, spool, user, item, user_ids, item_ids)
    if rows is not None:
        user, item = user[rows], item[rows]
    read = len(user)
    if not read:
        raise UserError(f'{source.file.label}: holds no interaction'
                        + (f'; its {source.bad.skipped[source.file.name]:,} rows are all bad, run again with '
                           'on_bad_row=raise to be told why' if source.bad.skipped.get(source.file.name) else ''))
    if filters.active:
        times = pc.fill_null(spool.column('timestamp'), tables.LONG_AGO).to_numpy()
        stay = select(filters, user, item, times if rows is None else times[rows])
        rows = stay if rows is None else rows[stay]
        user, item = user[stay], item[stay]
    unmet_stay = source.unmet_stay and not filters.active
    with _watched('reading users', 'users') as advance:
        user, users = _owners(tables.USERS, lambda: map(advance, source.users()), user, user_ids, unmet_stay)
    with _watched('reading items', 'items') as advance:
        item, items = _owners(tables.ITEMS, lambda: map(advance, source.items()), item, item_ids, unmet_stay)
    dataset = tables.Dataset(
        name=source.name, users=users, items=items, rating_scale=source.rating_scale, domain=source.domain,
        licence=source.licence, interactions=tables.INTERACTIONS.empty_table(),
        recipe={**recipe, **_filtered(filters, read - len(user)), 'rows_skipped': dict(source.bad.skipped)})
    return dataset, _batches(spool, rows, user, item, users, items)


@contextlib.contextmanager
def _watched(title: str, unit: str) -> Iterator[Callable[[Any], Any]]:
    """Yields a function that counts the rows of what it is given and gives it back: a bar shows them grow.

    Where it took long, a line remains, so that a log tells too what time went into.
    """
    count, start = 0, time.monotonic()
    with progress.bar(title, None, unit=unit) as advance:
        def counted(part):
            nonlocal count
            count += part.num_rows
            advance(part.num_rows)
            return part

        yield counted
    seconds = time.monotonic() - start
    if seconds > LONG:
        progress.say(f'{title}: {count:,} {unit} in {seconds:.0f} s, {count / seconds:,.0f} a second')


# --------------------------------------------------------------------------- interactions as they come


class _Numbers:
    """Ids → numbers in the order of first appearance; memory grows with the distinct ids alone."""

    def __init__(self):
        self._codes: list[np.ndarray] = []
        self._ids = pa.array([], pa.string())
        self._waiting: list[pa.DictionaryArray] = []  # numbered part by part only
        self._size = 0  # of their dictionaries

    def add(self, ids: pa.ChunkedArray) -> None:
        assert not ids.null_count
        self._waiting.append(pc.dictionary_encode(tables.one_chunk(ids)))
        self._size += len(self._waiting[-1].dictionary)
        # Together only now and then: each time costs as much as all ids seen so far.
        if self._size > max(MANY, len(self._ids) // 2):
            self._merge()

    def _merge(self) -> None:
        # The ids so far come first and keep their numbers.
        so_far = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._ids)
        merged = pa.chunked_array([so_far, *self._waiting]).unify_dictionaries()
        self._ids, self._waiting, self._size = merged.chunk(0).dictionary, [], 0
        self._codes += [part.indices.to_numpy() for part in merged.chunks[1:]]

    def finish(self) -> tuple[np.ndarray, pa.Array]:
        """Returns int32[N], the number of each id that was added, and the distinct ids."""
        self._merge()
        codes, self._codes = self._codes, []
        return np.concatenate(codes) if codes else np.zeros(0, np.int32), self._ids


def _without_ids(parts: Iterable[pa.Table], users: _Numbers, items: _Numbers) -> Iterator[pa.Table]:
    for part in parts:
        users.add(part['user_id'])
        items.add(part['item_id'])
        yield part.select(SPOOLED.names)


class _Spool:
    """Interactions without their ids as they came, in memory or in an Arrow file, read by column or by batch."""

    def __init__(self, path: pathlib.Path | None):
        self._path = path
        self._kept: list[pa.RecordBatch] = []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._kept = []
        if self._path:
            self._path.unlink(missing_ok=True)

    def fill(self, parts: Iterable[pa.Table]) -> None:
        if not self._path:
            self._kept = [batch for part in parts for batch in part.to_batches()]
            return
        with open(self._path, 'wb') as file, pa.ipc.new_file(file, SPOOLED) as writer:
            for part in parts:
                writer.write_table(part, max_chunksize=tables.BATCH)

    @contextlib.contextmanager
    def _open(self, fields: list[int] | None) -> Iterator[pa.ipc.RecordBatchFileReader]:
        # Not mapped: pages of a mapped file count as resident, and this one is read from end to end.
        with pa.OSFile(str(self._path)) as file:
            yield pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False))

    def column(self, name: str) -> pa.ChunkedArray:
        if not self._path:
            return pa.Table.from_batches(self._kept, SPOOLED)[name]
        with self._open([SPOOLED.get_field_index(name)]) as reader:
            return reader.read_all()[name]

    def batches(self) -> Iterator[pa.RecordBatch]:
        if not self._path:
            yield from self._kept
            return
        with self._open(None) as reader:
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)


def _refuse_repeats(source: Source, spool: _Spool, user: np.ndarray, item: np.ndarray, user_ids: pa.Array,
                    item_ids: pa.Array) -> np.ndarray | None:
    """Returns the rows that stand for the first time, or None for all; reports the others."""
    pair = user.astype(np.int64) * len(item_ids) + item
    ordered = np.sort(pair)
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    first = np.unique(pair, return_index=True)[1]
    again = np.ones(len(pair), bool)
    again[first] = False
    row = int(np.argmax(again))
    earlier = int(np.argmax(pair == pair[row]))
    line = spool.column('line')
    source.bad.report(source.file, line[row].as_py(),
                      f', column item_id: "{item_ids[int(item[row])]}" stands already in line {line[earlier]} with the '
                      f'same user_id "{user_ids[int(user[row])]}"', int(again.sum()))
    return np.flatnonzero(~again)


# ------------------------------------------------------------------------------ users, items, and the rest


def _owners(schema: pa.Schema, described: Callable[[], Iterable[pa.Table]], code: np.ndarray, ids: pa.Array,
            unmet_stay: bool) -> tuple[np.ndarray, pa.Table]:
    """Dense indices int32[N] into the table that is returned: users or items, those that are described first.

    code: int32[N] into `ids`.
    """
    met = np.zeros(len(ids), bool)
    met[code] = True
    parts = described() if unmet_stay else _those_met(described(), ids, met)
    listed = _first_of_each(pa.concat_tables([schema.empty_table(), *parts]))
    row = tables.rows(pa.chunked_array([ids]), listed[0])  # [len(ids)]
    extra = np.flatnonzero(met & (row < 0))
    if len(extra):
        row[extra] = listed.num_rows + np.arange(len(extra))
        extra_ids = ids if len(extra) == len(ids) else ids.take(pa.array(extra))
        unlisted = tables.table(schema, **{schema.names[0]: extra_ids})
        listed = pa.concat_tables([listed, unlisted]) if listed.num_rows else unlisted
    return row[code], listed.combine_chunks()


def _those_met(parts: Iterable[pa.Table], ids: pa.Array, met: np.ndarray) -> Iterator[pa.Table]:
    """The rows of users or items that are met; `met` bool [len(ids)]."""
    wanted = pa.chunked_array([ids.filter(pa.array(met))])
    waiting, size = [], 0

    def flush():
        whole = pa.concat_tables(waiting)
        return whole.filter(pa.array(tables.rows(whole[0], wanted) >= 0))

    for part in parts:
        waiting.append(part)
        size += part.num_rows
        if size > max(tables.BATCH, len(wanted) // 4):  # each look-up first builds a table of all that is wanted
            yield flush()
            waiting, size = [], 0
    if waiting:
        yield flush()


def _first_of_each(table: pa.Table) -> pa.Table:
    """Drops rows whose id, the first column, stands in an earlier row: some publishers describe a thing twice."""
    if pc.count_distinct(table[0]).as_py() == table.num_rows:
        return table
    code = tables.codes(pc.dictionary_encode(table[0]))
    return table.take(pa.array(np.unique(code, return_index=True)[1]))


def _batches(spool: _Spool, rows: np.ndarray | None, user: np.ndarray, item: np.ndarray, users: pa.Table,
             items: pa.Table) -> Iterator[pa.RecordBatch]:
    """The interactions `rows` (None: all), in order; user and item are their dense indices, in step with them."""
    start = 0  # of the batch, among the rows of the spool
    low = 0  # and among those that stay
    for batch in spool.batches():
        stop = start + batch.num_rows
        high = stop if rows is None else int(np.searchsorted(rows, stop))
        kept = batch if high - low == batch.num_rows else batch.take(pa.array(rows[low:high] - start))
        columns = tables.interactions(users, items, user=user[low:high], item=item[low:high],
                                      **{name: kept[name] for name in tables.INTERACTIONS.names[2:]})
        yield from columns.to_batches()
        start, low = stop, high
