"""What all protocols go by: each user's interactions in order of time.

1. `stable_order`: sorting, several times as fast as NumPy's stable sort
2. `Timeline`: interactions by user, time and source row; which of them take part, and are liked
3. `examples_at`: places of a timeline → `Examples`
4. `split_ends`: three shares → sizes of splits

`U` users, `M` interactions that take part, `N` examples. A "place" is a position in a timeline.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from xrec_jax.data import tables
from xrec_jax.data.protocols.examples import SPLITS, Examples, Histories
from xrec_jax.errors import UserError, nearest

COMPARISONS = {'at_least': np.greater_equal, 'above': np.greater}


# --------------------------------------------------------------------------------------- order


def stable_order(*keys: np.ndarray) -> np.ndarray:
    """Returns int32[n], the order by the first of `keys`, its ties by the next, …, the last by row.

    `keys` are integers [n]. What np.lexsort(keys[::-1]) gives. Key and row number are packed into 64
    bits and sorted as numbers, which vector instructions do and the sorts that keep ties' order do
    not; a key that is too wide for that takes several passes, lowest digits first.
    """
    size = len(keys[0])
    row_bits = max(size - 1, 1).bit_length()
    assert row_bits <= 31, 'rows are int32'
    order = None
    for key in reversed(keys):
        if not size:
            break
        low, high = int(key.min()), int(key.max())
        for shift in range(0, max((high - low).bit_length(), 1), 64 - row_bits):
            packed = key.astype(np.int64).view(np.uint64)
            packed -= np.uint64(low % (1 << 64))  # wraps around to what is meant
            packed >>= np.uint64(shift)
            if order is not None:
                packed = packed[order]
            packed <<= np.uint64(row_bits)  # drops the digits above
            packed |= np.arange(size, dtype=np.uint32)
            packed.sort()
            packed &= np.uint64((1 << row_bits) - 1)
            turn = packed.astype(np.int32)
            order = turn if order is None else order[turn]
    return np.arange(size, dtype=np.int32) if order is None else order


def random_bits(random: np.random.Generator, size: int) -> np.ndarray:
    """Returns int64[size]: `random.random(size)` as the 53-bit integers that it is made of, in the same order."""
    numbers = random.random(size)
    numbers *= 1 << 53  # exact
    return numbers.astype(np.int64)


# ------------------------------------------------------------------------------------ timeline


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Interactions by user, then time (those of unknown time first), then row of the source."""

    row: np.ndarray  # int32[M], in interactions
    user: np.ndarray  # int32[M]
    item: np.ndarray  # int32[M]
    rating: np.ndarray  # float32[M], NaN where not rated
    liked: np.ndarray  # bool[M]
    start: np.ndarray  # int32[U + 1], the first place of each user, and M

    @property
    def counts(self) -> np.ndarray:
        """int32[U], interactions of each user."""
        return np.diff(self.start)


def make_timeline(dataset: tables.Dataset, threshold: float | None, comparison: str) -> Timeline:
    """The interactions that have a label, in order.

    'at_least' likes ratings >= `threshold`, 'above' those > threshold; interactions without a rating
    take no part then, neither as targets nor in histories. Where `threshold` is None all take part,
    and each is a like.
    """
    _check_threshold(dataset, threshold, comparison)
    if dataset.interactions.num_rows > np.iinfo(np.int32).max:
        raise UserError(f'dataset "{dataset.name}" has {dataset.interactions.num_rows:,} interactions, and rows are '
                        'counted up to 2^31 - 1; filter it')
    rating = dataset.interactions['rating'].to_numpy()  # NaN where null
    user = tables.codes(dataset.interactions['user_id'])
    if threshold is None or not (missing := np.isnan(rating)).any():
        row = stable_order(user, tables.times(dataset))
    else:
        rated = np.flatnonzero(~missing).astype(np.int32)
        if not len(rated):
            raise UserError(f'dataset "{dataset.name}" has no ratings, so that threshold={threshold:g} says nothing '
                            'of its interactions: use the protocol "leave_one_out" with threshold=None, for which '
                            'each is a like')
        row = rated[stable_order(user[rated], tables.times(dataset)[rated])]
    user, rating = user[row], rating[row]
    if threshold is None:
        liked = np.ones(len(row), bool)
    else:
        liked = COMPARISONS[comparison](rating, np.float32(threshold))
    start = np.searchsorted(user, np.arange(dataset.users.num_rows + 1, dtype=np.int32)).astype(np.int32)
    return Timeline(row=row, user=user, item=tables.codes(dataset.interactions['item_id'])[row], rating=rating,
                    liked=liked, start=start)


def _check_threshold(dataset: tables.Dataset, threshold: float | None, comparison: str) -> None:
    if comparison not in COMPARISONS:
        raise UserError(f'unknown comparison "{comparison}".{nearest(comparison, COMPARISONS)}')
    low, high = dataset.rating_scale
    compare = COMPARISONS[comparison]
    if threshold is not None and (compare(low, threshold) or not compare(high, threshold)):
        raise UserError(f'threshold={threshold:g} with comparison="{comparison}" gives one label to '
                        f'all ratings of the scale {low:g} to {high:g}')


def repeats(line: Timeline, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (places where a user meets an item again, the place of their first meeting of it), int32 both."""
    pair = line.user.astype(np.int64)
    pair *= num_items
    pair += line.item
    order = stable_order(pair)
    pair = pair[order]
    new = np.ones(len(pair), bool)
    np.not_equal(pair[1:], pair[:-1], out=new[1:])
    again = np.flatnonzero(~new)
    if not len(again):
        return order[:0], order[:0]
    firsts = np.flatnonzero(new)
    return order[again], order[firsts[np.searchsorted(firsts, again) - 1]]


# ------------------------------------------------------------------------------------ examples


def examples_at(line: Timeline, place: np.ndarray, history_length: int, hidden: np.ndarray | None = None) -> Examples:
    """The examples whose targets stand at `place` [N], each with up to `history_length` places before it.

    hidden: sorted places that no history shows; it reaches further back instead.
    """
    user, item, liked, stop, start = line.user[place], line.item, line.liked, place, line.start
    if hidden is not None and len(hidden):
        item, liked = np.delete(item, hidden), np.delete(liked, hidden)
        stop = stop - np.searchsorted(hidden, stop)
        start = start - np.searchsorted(hidden, start)
    length = np.minimum(stop - start[user], history_length)
    return Examples(
        user=user, item=line.item[place], rating=line.rating[place], label=line.liked[place].astype(np.float32),
        interaction=line.row[place],
        past=Histories(item=item, liked=liked, stop=stop.astype(np.int32), length=length.astype(np.int32),
                       width=history_length))


def check_history_length(history_length: int) -> None:
    """UserError unless it is at least 1."""
    if history_length < 1:
        raise UserError(f'history_length={history_length}: should be at least 1')


def split_ends(split: Sequence[float], n: int | np.ndarray) -> np.ndarray:
    """Returns int64[..., 3]: where train, valid and test end when `n` are split in the given proportions.

    Each end is rounded to the nearest whole number. UserError where `split` is not three shares.
    """
    shares = np.asarray(split, np.float64)
    if shares.shape != (3,) or not (np.isfinite(shares) & (shares >= 0)).all() or not shares.sum() > 0:
        raise UserError(f'split={tuple(split)}: should be three shares, as (8, 1, 1)')
    return np.rint(np.multiply.outer(n, np.cumsum(shares)) / shares.sum()).astype(np.int64)


def check_sizes(sizes: Sequence[int], shares: Sequence[float], why: str) -> None:
    """UserError that gives `why` where a split with a share of the examples has none."""
    for name, size, share in zip(SPLITS, sizes, shares):
        if share > 0 and not size:
            raise UserError(f'{why}: {name} is empty')
