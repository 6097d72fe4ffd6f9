"""Explanations by user and item, ready to be served: written once, found in milliseconds.

RecPIE (section 4) computes explanations beforehand and stores them "for each user". `publish` puts what a phase wrote
into `store/explanations.arrow`: rows sorted by user and item, uncompressed, mapped into memory when read, so that
finding a pair is two dozen comparisons whatever the size. A later phase's explanations of a pair take the place of an
earlier one's; pairs that it did not write stay.
"""

import bisect
import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.errors import UserError, nearest
from xrec_jax.runs import files

COLUMNS = ('user_id', 'item_id', 'kind', 'text', 'split', 'in_form', 'llm_score', 'truncated')
SCHEMA_ADDED = pa.field('phase', pa.string())  # that wrote it
ROWS = 1 << 20  # of a record batch
PLACE = 'store/explanations.arrow'  # in the folder of a run


def publish(workdir: files.Path, path: files.Path) -> files.Path:
    """Puts the explanations of a phase's file `path` into the store of a run; its path."""
    return put(workdir, files.read_table(path, columns=list(COLUMNS)), path.stem)


def put(workdir: files.Path, new: pa.Table, phase: str) -> files.Path:
    """Puts explanations with `COLUMNS` into the store of a run, in place of what it has of the same pairs; its path."""
    new = new.append_column(SCHEMA_ADDED, pa.array([phase] * len(new), pa.string()))
    store = workdir / PLACE
    if store.exists():
        old = _read(store)
        pairs = new.select(['user_id', 'item_id']).group_by(['user_id', 'item_id']).aggregate([])
        new = pa.concat_tables([old.join(pairs, ['user_id', 'item_id'], join_type='left anti').select(new.column_names),
                                new])
    # Stable: a pair's explanations stay in the order in which they were written.
    order = np.lexsort((np.arange(len(new)), *(_ranks(new[name]) for name in ('item_id', 'user_id'))))
    new = new.take(pa.array(order)).combine_chunks()

    def write(partial: files.Path) -> None:
        with pa.OSFile(str(partial), 'wb') as file, pa.ipc.new_file(file, new.schema) as writer:
            for batch in new.to_batches(max_chunksize=ROWS):
                writer.write_batch(batch)

    files.write_whole(store, write)
    return store


class Store:
    """The stored explanations of a run."""

    def __init__(self, workdir: files.Path):
        path = workdir / PLACE
        if not path.exists():
            raise UserError(f'{workdir} holds no stored explanations (store/explanations.arrow): its schedule has not '
                            'come to a phase explain yet, or it is no run.')
        self.table = _read(path)
        self._batches = [batch.columns for batch in self.table.to_batches() if len(batch)]
        self._heads = [(columns[0][0].as_py(), columns[1][0].as_py()) for columns in self._batches]  # first pairs

    def find(self, user: str, item: str) -> list[dict]:
        """The explanations of a pair, one dict of columns each; [] where there are none."""
        found = []
        for columns, row in self._rows((user, item)):
            if columns[1][row].as_py() != item or columns[0][row].as_py() != user:
                break
            found.append({name: column[row].as_py() for name, column in zip(self.table.column_names, columns)})
        return found

    def missing(self, user: str, item: str) -> str:
        """Says why a pair is not there, for a person."""
        if items := self.items_of(user):
            return (f'no explanation is stored of item "{item}" for user "{user}", who has {len(items)} '
                    f'explained items.{nearest(item, items)}')
        return f'no explanation is stored for user "{user}".'

    def items_of(self, user: str, most: int = 1000) -> list[str]:
        """The items that are explained to a user, in their order, of the first `most` explanations."""
        found: dict[str, bool] = {}
        for columns, row in itertools.islice(self._rows((user, '')), most):
            if columns[0][row].as_py() != user:
                break
            found[columns[1][row].as_py()] = True
        return list(found)

    def _rows(self, pair: tuple[str, str]) -> Iterator[tuple[list[pa.Array], int]]:
        """(columns of a batch, row) of all rows from the first on whose pair is not before `pair`."""
        # The batch before the first that begins with the pair or behind it may end with it.
        start = max(0, bisect.bisect_left(self._heads, pair) - 1)
        for number, columns in enumerate(self._batches[start:]):
            users, items, row = columns[0], columns[1], 0
            if number == 0:
                row = bisect.bisect_left(range(len(users)), pair, key=lambda at: (users[at].as_py(), items[at].as_py()))
            for at in range(row, len(users)):
                yield columns, at


def _read(path: files.Path) -> pa.Table:
    try:
        return pa.ipc.open_file(path.read_bytes() if files.is_remote(path) else pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise UserError(f'{path}: damaged ({error}); delete it, and run the same train command again.') from error


def _ranks(column: pa.ChunkedArray) -> np.ndarray:
    """int [N]: the place of each text among all in the order of code points, as Python compares them."""
    distinct = pc.unique(column)
    places = pc.sort_indices(distinct)  # UTF-8 bytes are in the order of code points
    rank = np.empty(len(distinct), np.int64)
    rank[places.to_numpy()] = np.arange(len(distinct))
    return rank[pc.index_in(column, value_set=distinct).to_numpy()]
