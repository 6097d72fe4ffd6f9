"""`examples/<phase>.parquet`: what the explanations of a phase `explain` are about, so that they can be looked at.

A row for each example or request: the user's history with likes and dislikes, the target, and what came of it. The
explanations themselves lie in `explanations/<phase>.parquet`, which has the same `split`, `group` and `example`. `report`
puts the two together, on any machine and without the data.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xrec_jax.phases.requests import Requests
from xrec_jax.phases.task import Task
from xrec_jax.runs import files

SHOWN = 20  # items of a history that are kept, the newest
ROWS = 1 << 16  # of a row group
PAST = pa.struct([('title', pa.string()), ('attributes', pa.list_(pa.string())),
                  ('liked', pa.bool_())])  # null where a history has no opinions
SCHEMA = pa.schema([
    ('user_id', pa.string()), ('item_id', pa.string()),  # as in the source data
    ('split', pa.string()), ('group', pa.string()), ('example', pa.int32()),  # as in `explanations.SCHEMA`
    ('title', pa.string()), ('attributes', pa.list_(pa.string())),  # of the target
    ('history', pa.list_(PAST)),  # oldest first
    ('history_length', pa.int32()),  # of the whole history that the protocol gives
    ('rating', pa.float32()), ('liked', pa.bool_()),  # null of a request, which nobody has rated
    ('aspects', pa.list_(pa.string())),  # the true reasons of the rating, where known
    ('profile', pa.map_(pa.string(), pa.string())),  # of the user
])
SCALE = b'rating_scale'  # in the file's metadata


def path_of(workdir: files.Path, phase: str) -> files.Path:
    return workdir / 'examples' / f'{phase}.parquet'


def write(task: Task, phase: str, rows: Mapping[str, np.ndarray]) -> None:
    """Writes the examples of a phase that explained `rows` [n] of each split, unless they are there."""
    _write(task, phase, (_examples(task, split, part) for split, of_split in rows.items()
                         for part in np.split(of_split, range(ROWS, len(of_split), ROWS))))


def write_requests(task: Task, phase: str, wanted: Requests) -> None:
    """Writes what was asked for by a phase that answered requests, unless it is there."""
    _write(task, phase, (_requests(wanted, range(start, min(start + ROWS, len(wanted))))
                         for start in range(0, len(wanted), ROWS)))


def read(path: files.Path) -> tuple[pa.Table, tuple[float, float] | None]:
    """The examples of a phase, and the scale of their ratings; no scale of requests about another data set."""
    table = files.read_table(path)
    scale = (table.schema.metadata or {}).get(SCALE)
    return table, tuple(json.loads(scale)) if scale else None


def _write(task: Task, phase: str, tables: Iterator[pa.Table]) -> None:
    path = path_of(task.workdir, phase)
    if path.exists():
        return
    schema = SCHEMA.with_metadata({SCALE: json.dumps(task.dataset.rating_scale)} if task.dataset else {})

    def parts(partial) -> None:
        with pq.ParquetWriter(partial, schema, compression='zstd') as writer:
            for table in tables:
                writer.write_table(table.cast(schema))

    files.write_whole(path, parts)


def _examples(task: Task, split: str, rows: np.ndarray) -> pa.Table:
    examples, dataset = task.examples[split], task.dataset
    titles, attributes = pa.array(task.titles), dataset.items['attributes'].combine_chunks()
    items, liked = examples.past.padded(rows, min(examples.past.width, SHOWN))
    seen = items >= 0
    past = pa.array(items[seen])
    history = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(seen.sum(axis=1))]).astype(np.int32)),
        pa.StructArray.from_arrays([titles.take(past), attributes.take(past), pa.array(liked[seen])], fields=list(PAST)))
    users, targets = pa.array(examples.user[rows]), pa.array(examples.item[rows])
    rating = examples.rating[rows]
    return _table(
        user_id=dataset.users['user_id'].take(users), item_id=dataset.items['item_id'].take(targets),
        split=[split] * len(rows), group=pa.nulls(len(rows), pa.string()), example=rows.astype(np.int32),
        title=titles.take(targets), attributes=attributes.take(targets), history=history,
        history_length=examples.past.length[rows].astype(np.int32),
        rating=pa.array(rating, mask=np.isnan(rating)), liked=examples.label[rows] > 0.5,
        aspects=dataset.interactions['aspects'].take(pa.array(examples.interaction[rows])),
        profile=dataset.users['profile'].take(users))


def _requests(wanted: Requests, rows: range) -> pa.Table:
    each = [wanted.recommendations[row] for row in rows]
    shown = lambda item: {'title': item.title, 'attributes': list(item.categories), 'liked': None}
    words = lambda value: value if isinstance(value, str) else ', '.join(value)
    nulls = lambda name: pa.nulls(len(rows), SCHEMA.field(name).type)
    return _table(
        user_id=[wanted.user_id[row] for row in rows], item_id=[wanted.item_id[row] for row in rows],
        split=[wanted.source] * len(rows), group=[wanted.group[row] for row in rows], example=list(rows),
        title=[one.candidate.title for one in each], attributes=[list(one.candidate.categories) for one in each],
        history=[[shown(item) for item in one.history[-SHOWN:]] for one in each],
        history_length=[len(one.history) for one in each], rating=nulls('rating'), liked=nulls('liked'),
        aspects=nulls('aspects'),
        profile=[[(name, words(value)) for name, value in one.profile.items() if value] for one in each])


def _table(**columns: Any) -> pa.Table:
    """A table of `SCHEMA`; arrays keep their own nullability and are cast when they are written."""
    return pa.table([columns[field.name] if isinstance(columns[field.name], (pa.Array, pa.ChunkedArray))
                     else pa.array(columns[field.name], field.type) for field in SCHEMA], names=SCHEMA.names)
