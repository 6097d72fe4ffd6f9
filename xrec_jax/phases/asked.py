"""Explanations of any pairs of a user and an item, written by what a run has learned: for `explain`, `serve` and `api`.

  `examples`  pairs → the examples that prompts and predictors are made of
  `write`     examples → explanations, with the prompts, the adapter and the sampling of the run's own phase `explain`

A pair that is an example of the run is that example, so that its prompt is the one of the run's own phase. The history
of any other pair is what the user had met before the item; of an item they never met, all they have met: its moment is
that of their latest interaction.
"""

import functools
import zlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pyarrow as pa

from xrec_jax.data.protocols import SPLITS, Examples, Histories, timeline
from xrec_jax.errors import UserError
from xrec_jax.language import tokenizers
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import contrast, explain, explain_requests, requests, writing
from xrec_jax.phases.schedule import parse
from xrec_jax.phases.task import Task, protocol_options
from xrec_jax.runs import progress
from xrec_jax.runs.explanations import SCHEMA
from xrec_jax.runs.state import RunState
from xrec_jax.runs.store import COLUMNS

PHASE = 'asked'  # what the store calls the phase that wrote them
SPLIT = 'asked'  # of a pair that is no example
WIDTH = 128  # widths of prompts are multiples of this: few of them, since each is compiled
SMALL = (1, 8)  # sizes of batches below that of the run: a single pair need not wait for a full one

Advance = Callable[[int], object]


# ------------------------------------------------------------------------------------------ examples


def examples(task: Task, user: np.ndarray, item: np.ndarray) -> tuple[Examples, np.ndarray]:
    """The pairs [N], rows of the users and items tables, as examples; and by pair the split that it is of, or SPLIT."""
    width, num_items = task.examples['train'].past.width, task.dataset.items.num_rows
    key = user.astype(np.int64) * num_items + item
    shown, liked = np.full((len(key), width), -1, np.int32), np.zeros((len(key), width), bool)
    rating, label = np.full(len(key), np.nan, np.float32), np.zeros(len(key), np.float32)
    interaction, split = np.zeros(len(key), np.int32), np.full(len(key), SPLIT, object)
    indices = _indices(task)
    for name in reversed(SPLITS):
        place, rows = _find(indices[name], key), task.examples[name]
        new = np.flatnonzero((place >= 0) & (split == SPLIT))
        place, split[new] = place[new], name
        shown[new], liked[new] = rows.past.padded(place)
        rating[new], label[new], interaction[new] = rows.rating[place], rows.label[place], rows.interaction[place]
    rest, line = np.flatnonzero(split == SPLIT), line_of(task)
    place, stop = _find(indices[SPLIT], key[rest]), line.start[1:][user[rest]]
    met = place >= 0
    stop = np.where(met, place, stop).astype(np.int32)
    length = np.minimum(stop - line.start[:-1][user[rest]], width).astype(np.int32)
    shown[rest], liked[rest] = Histories(line.item, line.liked, stop, length, width).padded()
    rating[rest[met]], label[rest[met]] = line.rating[place[met]], line.liked[place[met]]
    if len(line.row):  # of an item that was never met: the interaction before
        interaction[rest] = line.row[np.where(met, place, np.maximum(stop - 1, 0))]
    real = shown >= 0
    length = real.sum(axis=1).astype(np.int32)
    past = Histories(shown[real], liked[real], np.cumsum(length).astype(np.int32), length, width)
    return Examples(user=user.astype(np.int32), item=item.astype(np.int32), rating=rating, label=label,
                    interaction=interaction, past=past), split


@functools.lru_cache(maxsize=1)
def line_of(task: Task) -> timeline.Timeline:
    """Each user's interactions in order of time, with what a like is for the run."""
    options = protocol_options(task.config.data)
    return timeline.make_timeline(task.dataset, options['threshold'], options['comparison'])


@functools.lru_cache(maxsize=1)
def _indices(task: Task) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By split, and of the timeline under SPLIT: the sorted keys user · I + item, and where they stand."""
    made, num_items = {}, task.dataset.items.num_rows
    for name, rows in {**task.examples, SPLIT: line_of(task)}.items():
        key = rows.user.astype(np.int64) * num_items + rows.item
        order = np.argsort(key, kind='stable')
        made[name] = key[order], order
    return made


def _find(index: tuple[np.ndarray, np.ndarray], key: np.ndarray) -> np.ndarray:
    """Where each key stands first, -1 where it does not."""
    keys, order = index
    at = np.searchsorted(keys, key)
    there = at < len(keys)
    there[there] = keys[at[there]] == key[there]
    return np.where(there, order[np.where(there, at, 0)] if len(order) else -1, -1)


# ------------------------------------------------------------------------------------------- writing


def settings_of_writer(task: Task) -> ml_collections.ConfigDict:
    """Of the last phase `explain` by which the run's language model writes reasons, one with an adapter before others.

    UserError where the schedule has none.
    """
    phases = [settings for _, verb, settings in parse(task.config) if verb == 'explain' and _by_model(settings)]
    tuned = [settings for settings in phases if settings.adapter]
    if not phases:
        raise UserError(f'{task.workdir}: no phase of the schedule writes explanations with the language model.')
    return (tuned or phases)[-1]


def _by_model(settings: ml_collections.ConfigDict) -> bool:
    if _of_requests(settings):
        return settings.writer == 'model'
    return settings.get('writes', explain.REASONS) == explain.REASONS


def _of_requests(settings: ml_collections.ConfigDict) -> bool:
    return 'requests' in settings and settings.requests.source != 'examples'


def write(task: Task, state: RunState, asked: Examples, split: np.ndarray, sampling: SamplingConfig | None = None,
          advance: Advance = lambda count: None) -> Iterator[pa.Table]:
    """Writes explanations of `asked`, batch by batch: tables with the columns of the store.

    `sampling` is the config's where it is not given. What is drawn for a pair depends on the pair and the run's seed (and,
    of LLMXRec's requests, on its place among those that are asked for), so that the same is written again.
    """
    settings = settings_of_writer(task)
    sampling = sampling or writing.sampling_config(task)
    by = _write_requests if _of_requests(settings) else _write_examples
    yield from by(task, state, settings, asked, split, sampling, advance)


def _write_examples(task, state, settings, asked, split, sampling, advance) -> Iterator[pa.Table]:
    if task.explains_examples:
        fitted, limit = {'reason': task.fitted_prompts(asked).ids}, task.prompt_limit
    else:
        profiles, limit = contrast.read_profiles(task, state.profiles), contrast.prompt_limit(task)
        fitted = {kind: contrast.fitted_prompts(task, profiles, asked, kind).ids for kind in task.kinds}
    longest = max(len(ids) for of_kind in fitted.values() for ids in of_kind)
    width = min(-(-longest // WIDTH) * WIDTH, limit)
    keys = pair_keys(task, asked)
    for rows in _batches(len(asked.user), settings.batch_size):
        filled = np.resize(rows, _size(task, len(rows), settings.batch_size))

        def prompts(kind: str) -> tuple[jax.Array, jax.Array]:
            return distributed.place_rows(tokenizers.pad([fitted[kind][row] for row in filled], width, 'left'), task.mesh)

        written = explain.written(task, state, settings, asked, filled, len(rows), prompts, keys[filled],
                                  progress.Stopwatch(), sampling)
        batch = [_table(split=split[rows].tolist(), **columns) for columns, _ in written]
        advance(len(rows))
        yield pa.concat_tables(batch)


def _write_requests(task, state, settings, asked, split, sampling, advance) -> Iterator[pa.Table]:
    wanted, changes = requests.asked(task, asked), explain_requests.changes(settings)
    most = task.language.model.config.max_position_embeddings - sampling.max_length
    ids, _ = requests.prompts(task, wanted, most, changes)
    if settings.adapter and settings.adapter not in state.adapters:
        raise UserError(f'{task.workdir}: the adapter "{settings.adapter}" is not tuned yet; the train command of the run '
                        'goes on with it.')
    adapter = state.adapters[settings.adapter] if settings.adapter else None
    key, size = jax.random.key(task.seed), settings.batch_size * settings.checkpoint_every
    for step, rows in enumerate(_batches(len(ids), size)):
        responses = writing.write_queue(task, adapter, [ids[row] for row in rows], jax.random.fold_in(key, step),
                                        _size(task, len(rows), settings.batch_size), sampling, advance)
        yield _table(user_id=[wanted.user_id[row] for row in rows], item_id=[wanted.item_id[row] for row in rows],
                     kind='reason', text=writing.texts_of(task, responses), split=split[rows].tolist(),
                     truncated=np.asarray(responses.truncated))


def pair_keys(task: Task, asked: Examples) -> jax.Array:
    """A random key of each pair [N], of the run's seed and the pair's ids alone."""
    names = zip(task.dataset.users['user_id'].take(asked.user).to_pylist(),
                task.dataset.items['item_id'].take(asked.item).to_pylist())
    hashes = jnp.asarray([zlib.crc32('\0'.join(pair).encode()) for pair in names], jnp.uint32)
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(task.seed)))(hashes)


def _batches(count: int, size: int) -> list[np.ndarray]:
    return np.split(np.arange(count), range(size, count, size))


def _size(task: Task, count: int, most: int) -> int:
    """The smallest of a few sizes of batches, one static shape each, that takes `count` rows; a multiple of the devices
    that share a batch."""
    shards = sharding.batch_shards(task.mesh)
    sizes = [-(-size // shards) * shards for size in (*SMALL, most)]
    return next(size for size in sizes if count <= size)


def _table(**columns) -> pa.Table:
    """Rows of the store, of which other columns are left out; what is not given is null, a text stands in every row."""
    count = len(columns['text'])
    columns = {name: [value] * count if isinstance(value, str) else value for name, value in columns.items()}
    return pa.table({name: pa.array(columns.get(name, [None] * count), SCHEMA.field(name).type)
                     if not isinstance(columns.get(name), pa.ChunkedArray) else columns[name] for name in COLUMNS})
