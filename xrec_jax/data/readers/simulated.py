"""A simulated world: users, items and ratings from a stated model, with the true reason of each.

Every item features a few attributes. Every user has a few *decisive* attributes, some loved and
some hated, and is indifferent to the rest. A user u meets an item i and rates it

    r = clip(round(3.5 + 1.5 · (loved_ui − hated_ui) + quality · q_i + noise · ε), 1, 5)

with loved_ui and hated_ui the numbers of i's attributes that u loves and hates, q_i (how good i is,
to everybody) and ε standard normal. Items are met by popularity (Zipf), more often where they feature a loved
attribute. `aspects` of an interaction are the user's decisive attributes that the item features:
the true reasons, against which explanations are scored; the review names them.

The interactions are drawn as arrays, so 10 million of them take bytes, not Python objects.
"""

import dataclasses
import math
import numbers
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.data.entry import Entry
from xrec_jax.data.readers import words
from xrec_jax.errors import UserError

AGES = ('18', '25', '35', '45', '50', '56')
GENDERS = ('female', 'male')
OCCUPATIONS = ('artist', 'doctor', 'engineer', 'farmer', 'lawyer', 'student', 'teacher', 'writer')
LICENCE = 'Apache-2.0 (made here, of nobody\'s data)'
PHRASES = {1: 'What I enjoy is ', -1: 'What I cannot stand is '}  # of reviews, before what is loved and hated
DAY = 86_400
FIRST_DAY = 10_957  # 1 January 2000, in days since 1970


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What is planted. Counts are of the whole world, but those of a user's or an item's attributes.

    Raises UserError for a value of a wrong type or one that no world can have.
    """

    num_users: int = 400
    num_items: int = 300
    num_interactions: int = 10_000  # no user meets an item twice
    num_attributes: int = 12  # different ones in the world
    attributes_per_item: tuple[int, int] = (1, 2)  # fewest, most, each as likely; a list will do
    num_loved: int = 3  # by each user
    num_hated: int = 3
    quality: float = 0.4  # standard deviation of how good items are, in stars
    noise: float = 0.5  # the same of what nothing explains
    seed: int = 0

    def __post_init__(self):
        for name in ('num_users', 'num_items', 'num_interactions', 'num_attributes'):
            self._set(name, _integer(name, getattr(self, name), 1))
        for name in ('num_loved', 'num_hated', 'seed'):
            self._set(name, _integer(name, getattr(self, name), 0))
        for name in ('quality', 'noise'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
                raise UserError(f'{name}={value!r}: should be a number of at least 0')
            self._set(name, float(value))
        if not isinstance(self.attributes_per_item, (tuple, list)) or (
                len(self.attributes_per_item) != 2):
            raise UserError(f'attributes_per_item={self.attributes_per_item!r}: should be two '
                            'integers, fewest and most, as (1, 2)')
        fewest, most = (_integer('attributes_per_item', n, 0) for n in self.attributes_per_item)
        self._set('attributes_per_item', (fewest, most))

        if self.num_attributes > len(words.ATTRIBUTES):
            raise UserError(f'num_attributes={self.num_attributes}: there are words for '
                            f'{len(words.ATTRIBUTES)} at most')
        if not fewest <= most <= self.num_attributes:
            raise UserError(f'attributes_per_item={(fewest, most)}: should be fewest and most, and '
                            f'no more than num_attributes={self.num_attributes}')
        if self.num_loved + self.num_hated > self.num_attributes:
            raise UserError(f'num_loved={self.num_loved} and num_hated={self.num_hated}: together '
                            f'more than num_attributes={self.num_attributes}')
        if self.num_interactions > self.num_users * self.num_items:
            raise UserError(f'num_interactions={self.num_interactions}: {self.num_users} users and '
                            f'{self.num_items} items have only {self.num_users * self.num_items} '
                            'pairs')

    def _set(self, name: str, value) -> None:
        object.__setattr__(self, name, value)  # of one plain type, as the recipe is JSON


def _integer(name: str, value, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise UserError(f'{name}={value!r}: should be an integer of at least {low}')
    return int(value)


def preference(rng: np.random.Generator, world: World, num_users: int) -> np.ndarray:
    """int8 [U, A]: +1 where a user loves an attribute, −1 where they hate it, else 0."""
    values = np.zeros(world.num_attributes, np.int8)
    values[: world.num_loved] = 1
    values[world.num_loved : world.num_loved + world.num_hated] = -1
    return rng.permuted(np.tile(values, (num_users, 1)), axis=1)


def features(rng: np.random.Generator, world: World, num_items: int) -> np.ndarray:
    """bool [I, A]: which attributes an item features."""
    fewest, most = world.attributes_per_item
    count = rng.integers(fewest, most + 1, num_items)
    rank = np.argsort(rng.random((num_items, world.num_attributes)), axis=1).argsort(axis=1)
    return rank < count[:, None]


def rate(rng: np.random.Generator, world: World, balance: np.ndarray, quality: np.ndarray
         ) -> np.ndarray:
    """The rating model above; `balance` is loved − hated, `quality` is q. Returns float32 stars of the same shape."""
    stars = 3.5 + 1.5 * balance + world.quality * quality + world.noise * rng.standard_normal(balance.shape)
    return np.clip(np.round(stars), 1, 5).astype(np.float32)


def simulate(world: World) -> tables.Dataset:
    """Draws a whole world; the same `world` gives the same tables on every machine."""
    rng = np.random.Generator(np.random.Philox(world.seed))
    attributes = rng.permutation(np.array(words.ATTRIBUTES))[: world.num_attributes]
    likes = preference(rng, world, world.num_users)
    featured = features(rng, world, world.num_items)
    quality = rng.standard_normal(world.num_items)
    user, item = _meetings(rng, world, likes, featured)

    shared = likes[user] * featured[item]  # [N, A], int8
    rating = rate(rng, world, shared.sum(axis=1), quality[item])
    timestamp = (FIRST_DAY + rng.integers(0, 1000, len(user))) * DAY + rng.integers(0, DAY, len(user))
    aspects = _lists(attributes, shared != 0)
    users = _users(rng, world.num_users)
    items = tables.table(
        tables.ITEMS, item_id=_ids('i', np.arange(world.num_items)), title=words.titles(rng, world.num_items),
        attributes=_lists(attributes, featured))
    dataset = tables.Dataset(
        name='simulated',
        interactions=tables.interactions(users, items, user=user, item=item, rating=rating, timestamp=timestamp,
                                         review=_reviews(rating, attributes, shared), aspects=aspects),
        users=users,
        items=items,
        rating_scale=(1.0, 5.0),
        domain=MOVIES,
        licence=LICENCE,
        recipe=dataclasses.asdict(world),
    )
    return tables.validate(dataset)


def _meetings(rng, world: World, likes, featured) -> tuple[np.ndarray, np.ndarray]:
    """Which user met which item: int64 [N] each, no pair twice, every user about equally often.

    Per user the items are ordered by Gumbel keys (log weight + noise), which is sampling without
    replacement; users are taken in blocks, so that memory does not grow with users × items.
    """
    popularity = -0.5 * np.log(1 + rng.permutation(world.num_items))
    count = np.full(world.num_users, world.num_interactions // world.num_users)
    count[: world.num_interactions % world.num_users] += 1
    most = int(count.max())
    users, items = [], []
    block = max(1, 2**22 // world.num_items)
    for start in range(0, world.num_users, block):
        loved = (likes[start : start + block] > 0).astype(np.float32) @ featured.T.astype(np.float32)
        keys = popularity + 0.5 * loved + rng.gumbel(size=loved.shape)
        ordered = np.argpartition(-keys, min(most, world.num_items - 1), axis=1)[:, :most]
        ordered = np.take_along_axis(ordered, np.argsort(-np.take_along_axis(keys, ordered, 1), 1), 1)
        taken = np.arange(most) < count[start : start + block, None]
        users.append(start + np.nonzero(taken)[0])
        items.append(ordered[taken])
    return np.concatenate(users), np.concatenate(items)


def _ids(prefix: str, rows: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(rows + 1), pa.string()), '')


def _lists(values: np.ndarray, chosen: np.ndarray) -> pa.Array:
    """list<string> [N]: the `values` that each row of `chosen` [N, A] marks."""
    offsets = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]).astype(np.int32)
    # Taken from an Arrow array: millions of NumPy strings would come back in chunks.
    words_chosen = pa.array(values, pa.string()).take(pa.array(np.nonzero(chosen)[1]))
    return pa.ListArray.from_arrays(offsets, words_chosen)


def _reviews(rating: np.ndarray, attributes: np.ndarray, shared: np.ndarray) -> pa.Array:
    """One or two sentences that give the true reasons: 'I liked it. What I enjoy is pirates.'"""
    verdict = np.array(['Awful.', 'Not for me.', 'It was fine.', 'I liked it.', 'I loved it.'])
    parts = [pa.array(verdict[rating.astype(int) - 1])]
    for sign, phrase in PHRASES.items():
        joined = pc.binary_join(_lists(attributes, shared == sign), ' and ')
        sentence = pc.binary_join_element_wise(phrase, joined, '.', '')
        parts.append(pc.if_else(pc.equal(joined, ''), pa.scalar(None, pa.string()), sentence))
    return pc.binary_join_element_wise(*parts, ' ', null_handling='skip')


def reasons_in(review: str) -> tuple[str, str]:
    """What a review of a simulated world says that the user loves of the item, and hates; '' for nothing."""
    said = {sign: re.search(f'{phrase}([^.]*)[.]', review) for sign, phrase in PHRASES.items()}
    return tuple(said[sign][1] if said[sign] else '' for sign in (1, -1))


def _users(rng: np.random.Generator, count: int) -> pa.Table:
    draws = {key: rng.choice(values, count).tolist()
             for key, values in (('age', AGES), ('gender', GENDERS), ('occupation', OCCUPATIONS))}
    profile = [list(zip(draws, row)) for row in zip(*draws.values())]
    return tables.table(tables.USERS, user_id=_ids('u', np.arange(count)),
                        profile=pa.array(profile, tables.USERS.field('profile').type))


ENTRIES = {'simulated': Entry(None, LICENCE, '', world=World, draw=simulate)}
