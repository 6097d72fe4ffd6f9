"""Batches of examples, gathered from whole columns: shuffled, bucketed, sharded, prefetched, resumable.

1. `batches`: a grain `MapDataset` whose element n is the n-th batch, for any n and in any order
2. `prefetched`: an iterator over it that works ahead in the background and whose state can be saved
3. the plan of an epoch: which examples are together in a batch, and how wide their histories are

Which examples are in batch n follows from the seed, the batch size and the buckets alone. A process
gets its slice of it, so that the slices of all processes together are the same batch for any number of
them, as `jax.make_array_from_process_local_data` expects. Nothing is done example by example in Python.
`N` examples, `B` batch, `W` width of the histories.
"""

import functools
import sys
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from xrec_jax.data.protocols.examples import Histories
from xrec_jax.errors import UserError

Batch = dict[str, np.ndarray]


def batches(
    columns: Mapping[str, np.ndarray],
    histories: Histories | None = None,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    buckets: Sequence[int] = (),
    num_epochs: int | None = 1,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset[Batch]:
    """The batches of `num_epochs` passes over the examples, every example once a pass.

    A batch holds a slice [B / process_count] of each column and, beside them,
      'example'        int32, its row in the columns
      'mask'           bool, False where a row only fills up the last batch of a pass
      'history'        int32 [·, W], from `histories`: right-aligned, -1 pads
      'history_liked'  bool [·, W]
    All batches have `batch_size` rows, so that few shapes are ever compiled: what is left over at the
    end of a pass stands in one batch that repeats its last example, masked. (An average over masked
    rows must divide by the sum of the mask over all processes; a process may have none.)

    With `buckets`, examples are put together by the length of their history, and W is the smallest of
    `buckets` and `histories.width` that fits all the rows of the batch, on all processes. Of a bucket,
    the rows that fill no batch go into the next wider one. Without buckets W is `histories.width`.

    Args:
      columns: arrays [N, …], as `{'user': examples.user, 'label': examples.label}`; they are not copied,
        so they may be mapped from disk.
      histories: of the same N examples, as `examples.past`.
      batch_size: B, over all processes.
      seed: of the order. Each pass has an order of its own, which is the same on every machine.
      shuffle: False: the order of the columns; with buckets, within each, the narrowest first.
      buckets: widths, each below `histories.width`.
      num_epochs: None goes on for ever.
      process_index, process_count: which slice; `jax.process_index()`, `jax.process_count()`.

    Raises:
      UserError: no examples, a batch size that the processes cannot share evenly, or bad buckets.
    """
    num_rows = len(next(iter(columns.values())))
    assert all(len(column) == num_rows for column in columns.values()), 'columns of different lengths'
    assert histories is None or len(histories.length) == num_rows, 'histories of other examples'
    assert not columns.keys() & {'example', 'mask', 'history', 'history_liked'}, 'names of what a batch adds'
    assert 0 <= process_index < process_count
    if not num_rows:
        raise UserError('there are no examples to make batches of: use more samples')
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f'batch_size={batch_size}: should be a multiple of the {process_count} processes that share it')
    bucket, widths = _buckets(histories, buckets)
    steps = steps_per_epoch(num_rows, batch_size)
    plan = functools.lru_cache(maxsize=2)(  # the pass that is read, and the one that is begun ahead of time
        lambda epoch: _plan(num_rows, batch_size, bucket, (seed, epoch) if shuffle else None))
    share = batch_size // process_count

    def batch(number: int) -> Batch:
        epoch, step = divmod(number, steps)
        order, turns = plan(epoch)
        rows = order[turns[step] * batch_size:][:batch_size]
        mask = np.arange(process_index * share, (process_index + 1) * share) < len(rows)
        local = rows[process_index * share:][:share]
        local = np.concatenate([local, np.full(share - len(local), rows[-1])])
        out = {name: column[local] for name, column in columns.items()} | {'example': local, 'mask': mask}
        if histories is not None:
            width = widths[bucket[rows[-1]]] if len(widths) > 1 else widths[0]  # the last row is of the widest bucket
            out['history'], out['history_liked'] = histories.padded(local, width)
        return out

    return grain.MapDataset.range(sys.maxsize if num_epochs is None else num_epochs * steps).map(batch)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Batches of one pass."""
    return -(-num_examples // batch_size)


def prefetched(dataset: grain.MapDataset[Batch], *, ahead: int = 8, threads: int = 1) -> grain.DatasetIterator[Batch]:
    """An iterator that makes `ahead` batches in advance, in order, in `threads` threads.

    `get_state()` and `set_state()` are of the next batch to come out, whatever was made in advance: a
    dict for JSON, which `grain.checkpoint.CheckpointSave` and `CheckpointRestore` hand to Orbax (a file
    a process). It fits a dataset that was made with the same arguments, but for the slice: the states of
    all processes are equal, and do for any number of them.
    """
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))


def _buckets(histories: Histories | None, buckets: Sequence[int]) -> tuple[np.ndarray | None, list[int]]:
    """int8[N], the bucket of each example (None where there is but one), and the widths of the buckets."""
    if histories is None:
        if buckets:
            raise UserError(f'buckets={tuple(buckets)}: there are no histories to put into buckets')
        return None, []
    widths = [*buckets, histories.width]
    if sorted(set(widths)) != widths or widths[0] < 1 or len(widths) > 100:
        raise UserError(f'buckets={tuple(buckets)}: should be widths that increase, from 1 to '
                        f'{histories.width - 1}, one below the longest history')
    if len(widths) == 1:
        return None, widths
    return np.searchsorted(np.asarray(widths), histories.length).astype(np.int8), widths


def _plan(num_rows: int, batch_size: int, bucket: np.ndarray | None, key: tuple[int, int] | None
          ) -> tuple[np.ndarray, np.ndarray]:
    """The order of the rows int32[N], cut into batches as it stands, and the turns of the batches int[steps].

    key: of the shuffle, (seed, epoch); None: no shuffle.
    """
    order, turns = np.arange(num_rows, dtype=np.int32), np.arange(steps_per_epoch(num_rows, batch_size))
    if key is not None:
        bits = np.random.Philox(np.random.SeedSequence(key))
        order = _permutation(bits, num_rows)
    if bucket is not None:
        order = order[np.argsort(bucket[order], kind='stable')]
        if key is not None:
            turns = _permutation(bits, len(turns))
    return order, turns


def _permutation(bits: np.random.Philox, size: int) -> np.ndarray:
    """int32[size], from the raw bits of the generator, the one thing of it that NumPy promises not to change.

    Row numbers stand in the lower digits of random numbers, which are sorted.
    """
    row_bits = max(size - 1, 1).bit_length()
    numbers = bits.random_raw(size)
    numbers >>= np.uint64(row_bits)
    numbers <<= np.uint64(row_bits)
    numbers |= np.arange(size, dtype=np.uint32)
    numbers.sort()
    numbers &= np.uint64((1 << row_bits) - 1)
    return numbers.astype(np.int32)
