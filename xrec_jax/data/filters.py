"""Which interactions of a dataset stay: repeats, most and fewest per user and item, a sample of users.

`select` works on dense indices only, so that it costs a few bytes an interaction whatever they hold.
"""

import dataclasses

import numpy as np

from xrec_jax.errors import UserError, nearest

REPEATS = ('keep', 'first', 'last')


@dataclasses.dataclass(frozen=True)
class Filters:
    """0 is no limit. Raises UserError for values that cannot be meant."""

    repeats: str = 'keep'  # of a user with an item: all, or only the first or last in time
    max_per_user: int = 0  # users and items with more interactions are left out
    max_per_item: int = 0
    min_per_user: int = 0  # users and items with fewer are left out, until none is: the k-core
    min_per_item: int = 0
    sample_users: int = 0  # this many users drawn at random; minimums hold after the draw too
    seed: int = 0  # of the draw

    def __post_init__(self):
        if self.repeats not in REPEATS:
            raise UserError(f'repeats="{self.repeats}".{nearest(self.repeats, REPEATS)}')
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UserError(f'{field.name}={value!r}: should be an integer of at least 0')
        for owner in ('user', 'item'):
            low, high = getattr(self, f'min_per_{owner}'), getattr(self, f'max_per_{owner}')
            if 0 < high < low:
                raise UserError(f'min_per_{owner}={low} and max_per_{owner}={high}: no {owner} can have both')

    @property
    def active(self) -> bool:
        """Whether any of them does something; a seed alone does not."""
        return self != Filters(seed=self.seed)


def select(filters: Filters, user: np.ndarray, item: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """Returns int64[M]: the rows that stay, in order, of interactions given by int32[N] and int64[N] arrays.

    Raises UserError where nothing stays, or there are fewer users than the sample needs.
    """
    rows = np.arange(len(user))
    if filters.repeats != 'keep':
        rows = _one_of_each_pair(user, item, timestamp, last=filters.repeats == 'last')
    for owner, most in ((user, filters.max_per_user), (item, filters.max_per_item)):
        if most:
            rows = rows[np.bincount(owner[rows], minlength=1)[owner[rows]] <= most]
    rows = _core(rows, user, item, filters)
    if filters.sample_users:
        there = _by_appearance(user[rows])
        if filters.sample_users > len(there):
            raise UserError(f'sample_users={filters.sample_users}: only {len(there):,} users are left to draw from')
        drawn = np.random.Generator(np.random.Philox(filters.seed)).permutation(there)[: filters.sample_users]
        chosen = np.zeros(int(user.max()) + 1, bool)
        chosen[drawn] = True
        rows = _core(rows[chosen[user[rows]]], user, item, filters)
    if not len(rows):
        raise UserError(f'no interaction is left of {len(user):,} after {describe(filters)}; loosen the filters')
    return rows


def describe(filters: Filters) -> str:
    """The filters that do something, as 'min_per_user=5, min_per_item=5'; 'none' where all are off."""
    changed = [f'{field.name}={getattr(filters, field.name)}' for field in dataclasses.fields(filters)
               if getattr(filters, field.name) != field.default and (field.name != 'seed' or filters.sample_users)]
    return ', '.join(changed) or 'none'


def _by_appearance(code: np.ndarray) -> np.ndarray:
    """The distinct values in the order of their first appearance: a draw from them knows not how they were numbered."""
    first = np.full(int(code.max(initial=-1)) + 1, len(code))
    first[code[::-1]] = np.arange(len(code))[::-1]  # of several assignments to one place the last holds
    order = np.argsort(first, kind='stable')
    return order[: np.count_nonzero(first < len(code))]


def _one_of_each_pair(user: np.ndarray, item: np.ndarray, timestamp: np.ndarray, last: bool) -> np.ndarray:
    pair = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    order = np.argsort(pair, kind='stable')
    same = pair[order[1:]] == pair[order[:-1]]
    repeated = np.zeros(len(pair), bool)
    repeated[order[1:][same]] = repeated[order[:-1][same]] = True
    rows = np.flatnonzero(repeated)  # few, as a rule: only their times are compared
    rows = rows[np.lexsort((timestamp[rows], pair[rows]))]  # stable: equal times stay in the source's order
    new = np.ones(len(rows) + 1, bool)
    new[1:-1] = pair[rows[1:]] != pair[rows[:-1]]
    stay = ~repeated
    stay[rows[new[1:] if last else new[:-1]]] = True
    return np.flatnonzero(stay)


def _core(rows: np.ndarray, user: np.ndarray, item: np.ndarray, filters: Filters) -> np.ndarray:
    while True:
        before = len(rows)
        for owner, fewest in ((user, filters.min_per_user), (item, filters.min_per_item)):
            if fewest > 1 and len(rows):
                rows = rows[np.bincount(owner[rows])[owner[rows]] >= fewest]
        if len(rows) == before:
            return rows
