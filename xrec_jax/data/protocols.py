"""How a dataset becomes examples: targets, histories, labels and splits.

`random_target` is the protocol of ExpCTR, section 5.1.1. Its steps, all on whole arrays:
1. put each user's interactions in time order
2. draw targets, one a user and round
3. split the samples
4. look back from each target for its history, past what a later split must not show

`U` users, `I` items, `N` samples, `L` history length.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from xrec_jax.data import tables
from xrec_jax.errors import UserError, nearest

SPLITS = ('train', 'valid', 'test')
COMPARISONS = {'at_least': np.greater_equal, 'above': np.greater}


@dataclasses.dataclass(frozen=True)
class Examples:
    """The samples of one split."""

    user: np.ndarray  # int32[N], row in users
    item: np.ndarray  # int32[N], row in items: the target
    rating: np.ndarray  # float32[N], of the target
    label: np.ndarray  # float32[N], 1 liked, 0 disliked
    history: np.ndarray  # int32[N, L], rows in items, oldest first, right-aligned; -1 pads
    history_liked: np.ndarray  # bool[N, L], False where padded
    interaction: np.ndarray  # int64[N], row in interactions: the target


def random_target(
    dataset: tables.Dataset,
    *,
    num_samples: int | None,
    history_length: int = 10,
    threshold: float = 4.0,
    comparison: str = 'at_least',
    split: Sequence[float] = (8, 1, 1),
    seed: int,
) -> dict[str, Examples]:
    """Draws samples of (user, target, history) and splits them (ExpCTR, section 5.1.1).

    Targets are drawn without replacement in rounds: each round gives every user, in one random
    order, one more random target among the items they met for the first time after something else.
    The last round may be cut short. `num_samples=None` is one round.

    The history is the last `history_length` interactions before the target, in order of time and,
    at equal times, of the source's rows. As a user may have samples in several splits, a history in
    train passes over every (user, item) that is a target in valid or test, and one in valid over
    those in test, and reaches further back instead: no held-out label is seen in an earlier split.
    So a history may be shorter than what came before, but it is never empty: a user's first
    interaction is no target.

    Labels: 'at_least' likes ratings >= threshold, 'above' those > threshold. The paper writes
    "above" with a threshold of 4, which on MovieLens' whole stars likes five stars alone (21 % of
    ML-100k's ratings); 'at_least', the default, likes 55 % and is the usual way to halve that scale.

    The same seed gives the same samples on every machine. Raises UserError where there are fewer
    targets than samples asked for, where a split would be empty, and for a bad option.
    """
    liked = _liked(dataset, threshold, comparison)
    if history_length < 1:
        raise UserError(f'history_length={history_length}: should be at least 1')
    random = np.random.Generator(np.random.Philox(seed))

    # Time order. From here on "place" is a position in this order; users lie in one block each.
    user = tables.codes(dataset.interactions['user_id'])
    item = tables.codes(dataset.interactions['item_id'])
    order = np.lexsort((tables.times(dataset), user))  # stable: ties by row
    user, item, liked = user[order], item[order], liked[order]
    start = np.searchsorted(user, np.arange(dataset.users.num_rows))  # [U], first place of each
    _, first_place, pair = np.unique(
        user.astype(np.int64) * dataset.items.num_rows + item,
        return_index=True, return_inverse=True)

    target = _draw(random, user, start, first_place, num_samples)
    level = _split(random, len(target), split)

    shown = np.full(len(first_place), -1)  # by pair: the split that holds it as a target
    shown[pair[target]] = level
    ratings = dataset.interactions['rating'].to_numpy()
    examples = {}
    for this, name in enumerate(SPLITS):
        here = target[level == this]
        back = _look_back(here, start[user[here]], shown[pair] <= this, history_length)
        examples[name] = Examples(
            user=user[here],
            item=item[here],
            rating=ratings[order[here]],
            label=liked[here].astype(np.float32),
            history=np.where(back >= 0, item[back], -1).astype(np.int32),
            history_liked=(back >= 0) & liked[back],
            interaction=order[here])
    return examples


def positive_rate(examples: Examples) -> float:
    """Returns the share of liked targets, to print beside every result."""
    return float(np.mean(examples.label, dtype=np.float64))


def _liked(dataset: tables.Dataset, threshold: float, comparison: str) -> np.ndarray:
    """Returns bool[number of interactions]."""
    if comparison not in COMPARISONS:
        raise UserError(f'unknown comparison "{comparison}".{nearest(comparison, COMPARISONS)}')
    low, high = dataset.rating_scale
    compare = COMPARISONS[comparison]
    if compare(low, threshold) or not compare(high, threshold):
        raise UserError(f'threshold={threshold:g} with comparison="{comparison}" gives one label to '
                        f'all ratings of the scale {low:g} to {high:g}')
    return compare(dataset.interactions['rating'].to_numpy(), np.float32(threshold))


def _draw(random: np.random.Generator, user: np.ndarray, start: np.ndarray,
          first_place: np.ndarray, num_samples: int | None) -> np.ndarray:
    """Returns int64[N]: places of the targets, in the order of rounds and users."""
    places = np.sort(first_place[first_place > start[user[first_place]]])
    # A target's round is its rank, by a random number, among those of its user.
    places = places[np.lexsort((random.random(len(places)), user[places]))]
    owner = user[places]
    turn = np.arange(len(places)) - np.searchsorted(owner, owner)
    turns_of_users = np.argsort(random.random(len(start)), kind='stable').argsort()  # [U], ranks
    drawn = places[np.lexsort((turns_of_users[owner], turn))]
    wanted = np.count_nonzero(turn == 0) if num_samples is None else num_samples
    if not 0 < wanted <= len(drawn):
        raise UserError(f'num_samples={num_samples}: should be from 1 to {len(drawn):,}, the number '
                        'of interactions in this dataset that have an earlier one')
    return drawn[:wanted]


def _split(random: np.random.Generator, n: int, split: Sequence[float]) -> np.ndarray:
    """Returns int[N]: 0 train, 1 valid, 2 test, in the given proportions to the nearest sample."""
    shares = np.asarray(split, np.float64)
    if shares.shape != (3,) or (shares < 0).any() or not shares.sum() > 0:
        raise UserError(f'split={tuple(split)}: should be three shares, as (8, 1, 1)')
    ends = np.rint(n * np.cumsum(shares) / shares.sum()).astype(np.int64)
    sizes = np.diff(ends, prepend=0)
    for name, share, size in zip(SPLITS, shares, sizes):
        if share > 0 and size == 0:
            raise UserError(f'{n} samples are too few for split={tuple(split)}: {name} is empty')
    return np.repeat(np.arange(3), sizes)[np.argsort(random.random(n), kind='stable')]


def _look_back(places: np.ndarray, starts: np.ndarray, visible: np.ndarray, length: int
               ) -> np.ndarray:
    """Returns int64[N, L]: the last visible places before each of `places`, -1 before `starts`."""
    before = np.concatenate([[0], np.cumsum(visible)])  # visible places before each place
    index = before[places][:, None] + np.arange(-length, 0)  # [N, L], into the visible places
    reached = index >= before[starts][:, None]
    return np.where(reached, np.flatnonzero(visible)[np.where(reached, index, 0)], -1)
