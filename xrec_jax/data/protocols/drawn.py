"""The protocol of ExpCTR, section 5.1.1: a few targets of each user, drawn at random.

1. put each user's interactions in time order
2. draw targets, one a user and round
3. split the samples
4. look back from each target for its history, past what a later split must not show

`U` users, `M` interactions that take part, `N` samples; a "place" is a position in the timeline.
"""

from collections.abc import Sequence

import numpy as np

from xrec_jax.data import tables
from xrec_jax.data.protocols import timeline
from xrec_jax.data.protocols.examples import SPLITS, Examples
from xrec_jax.errors import UserError


def random_target(
    dataset: tables.Dataset,
    *,
    num_samples: int | None = None,
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
    Interactions without a rating take no part.

    The same seed gives the same samples on every machine. Raises UserError where there are fewer
    targets than samples asked for, where a split would be empty, and for a bad option.
    """
    timeline.check_history_length(history_length)
    line = timeline.make_timeline(dataset, threshold, comparison)
    random = np.random.Generator(np.random.Philox(seed))
    again, first = timeline.repeats(line, dataset.items.num_rows)

    target = _draw(random, line, again, num_samples)
    level = _split(random, len(target), split)

    shown = np.full(len(line.item), -1, np.int8)  # by place: the split that holds its user and item as a target
    shown[target] = level
    shown[again] = shown[first]
    return {name: timeline.examples_at(line, target[level == this], history_length, np.flatnonzero(shown > this))
            for this, name in enumerate(SPLITS)}


def _draw(random: np.random.Generator, line: timeline.Timeline, again: np.ndarray, num_samples: int | None
          ) -> np.ndarray:
    """Returns int64[N]: places of the targets, in the order of rounds and users."""
    eligible = np.ones(len(line.user), bool)
    eligible[again] = False
    eligible[line.start[:-1][line.counts > 0]] = False
    places = np.flatnonzero(eligible)
    owner = line.user[places]
    # A target's round is its rank, by a random number, among those of its user.
    places = places[timeline.stable_order(owner, timeline.random_bits(random, len(places)))]
    sizes = np.bincount(owner, minlength=len(line.counts))
    turn = np.arange(len(places)) - (np.cumsum(sizes) - sizes)[owner]  # `owner` is sorted: it stays as it is
    turns_of_users = np.argsort(timeline.stable_order(timeline.random_bits(random, len(sizes))))  # [U], ranks
    wanted = np.count_nonzero(turn == 0) if num_samples is None else num_samples
    if not 0 < wanted <= len(places):
        raise UserError(f'num_samples={num_samples}: should be from 1 to {len(places):,}, the number '
                        'of interactions in this dataset that have an earlier one')
    last = np.searchsorted(np.cumsum(np.bincount(turn)), wanted)  # the round that may be cut short
    asked = np.flatnonzero(turn <= last)
    order = timeline.stable_order(turn[asked], turns_of_users[owner[asked]])
    return places[asked[order[:wanted]]]


def _split(random: np.random.Generator, n: int, split: Sequence[float]) -> np.ndarray:
    """Returns int[N]: 0 train, 1 valid, 2 test, in the given proportions to the nearest sample."""
    sizes = np.diff(timeline.split_ends(split, n), prepend=0)
    timeline.check_sizes(sizes, split, f'{n} samples are too few for split={tuple(split)}')
    return np.repeat(np.arange(3), sizes)[timeline.stable_order(timeline.random_bits(random, n))]
