"""Protocols in which every interaction is a target, and each user's own time decides on its split.

  `leave_one_out`  LLMXRec, section 4.1: the last interaction is for test, the one before for validation
  `user_temporal`  RecPIE, appendix C.2: the first 80 % are for training, the last 20 % for test

In both, histories need hide nothing: what is held out of a user comes after all that is shown earlier.
The history of a test target does show what was held out before it, as a system in use would know it.
`U` users, `M` interactions that take part; a "place" is a position in the timeline.
"""

from collections.abc import Sequence

import numpy as np

from xrec_jax.data import tables
from xrec_jax.data.protocols import timeline
from xrec_jax.data.protocols.examples import SPLITS, Examples
from xrec_jax.errors import UserError


def leave_one_out(
    dataset: tables.Dataset,
    *,
    history_length: int = 10,
    threshold: float | None = None,
    comparison: str = 'at_least',
    train_share: float = 1.0,
    seed: int,
) -> dict[str, Examples]:
    """Each user's last interaction is for test, the one before it for validation, the rest for training.

    A user with fewer than three interactions is for training only. Every interaction is a target of
    one split, a user's first one too, whose history is empty. Examples are in the order of users, then
    of time. An item that a user meets again counts again (`filters` can keep one meeting of each).

    Args:
      history_length: the most interactions before a target that it shows, the latest ones. LLMXRec
        shows up to 50 on ML-100k and 10 elsewhere.
      threshold: None, as in LLMXRec: each interaction, rated or not, is a like. A number: labels and
        likes go by the rating, see `timeline.make_timeline`, and interactions without one take no part.
      comparison: 'at_least' or 'above', of the rating with `threshold`.
      train_share: the share of the training targets that stay, drawn by `seed`. Histories stay whole.

    Raises UserError where no user has three interactions, and for a bad option.
    """
    timeline.check_history_length(history_length)
    line = timeline.make_timeline(dataset, threshold, comparison)
    level = np.zeros(len(line.row), np.int8)
    ends = line.start[1:][line.counts >= 3]
    level[ends - 2], level[ends - 1] = 1, 2
    if not len(ends):
        raise UserError(f'dataset "{dataset.name}": no user has three interactions, one for each of '
                        f'{", ".join(SPLITS)}')
    return _examples(line, level, history_length, train_share, seed)


def user_temporal(
    dataset: tables.Dataset,
    *,
    history_length: int = 10,
    threshold: float = 4.0,
    comparison: str = 'at_least',
    split: Sequence[float] = (7, 1, 2),
    train_share: float = 1.0,
    seed: int,
) -> dict[str, Examples]:
    """Each user's interactions are cut at two points in time: training, validation, test.

    RecPIE has "an 80-20 ratio at the user-temporal level" and names no validation set. Here it is the
    end of training's 80 %, an eighth of it. Ends are rounded to the nearest interaction, and a user's
    first one is for training; so a user with one or two interactions has none for test, and one with
    three or four has one. Interactions without a rating take no part. Every other one is a target of
    one split, a user's first one too, whose history is empty. Examples are in the order of users, then
    of time. An item that a user meets again counts again (`filters` can keep one meeting of each).

    Args:
      history_length: the most interactions before a target that it shows, the latest ones.
      threshold, comparison: what a like is, see `timeline.make_timeline`.
      split: the shares of training, validation and test.
      train_share: the share of the training targets that stay, drawn by `seed`, for figures of how
        well a model does with less (RecPIE, appendix D.1). Histories stay whole.

    Raises UserError where a split would be empty, and for a bad option.
    """
    timeline.check_history_length(history_length)
    timeline.split_ends(split, 0)  # refuses a bad split before any long work
    line = timeline.make_timeline(dataset, threshold, comparison)
    ends = timeline.split_ends(split, line.counts)  # [U, 3]
    if split[0] > 0:
        ends[:, 0] = np.maximum(ends[:, 0], 1)
    rank = np.arange(len(line.user), dtype=np.int32) - line.start[line.user]
    level = (rank >= ends[line.user, 0]).astype(np.int8)
    level += rank >= np.maximum(ends[:, 0], ends[:, 1])[line.user]
    timeline.check_sizes(np.bincount(level, minlength=3), split,
                         f'the users of dataset "{dataset.name}" have too few interactions for split={tuple(split)}')
    return _examples(line, level, history_length, train_share, seed)


def _examples(line: timeline.Timeline, level: np.ndarray, history_length: int, train_share: float, seed: int
              ) -> dict[str, Examples]:
    """level: int8[M], the split of each place. A share of training stays, drawn by `seed`."""
    places = [np.flatnonzero(level == this).astype(np.int32) for this in range(3)]
    keep = int(np.rint(train_share * len(places[0]))) if 0 < train_share <= 1 else 0
    if not keep:
        raise UserError(f'train_share={train_share:g}: should be a share above 0 and at most 1, of '
                        f'{len(places[0]):,} training targets')
    if keep < len(places[0]):
        random = np.random.Generator(np.random.Philox(seed))
        drawn = timeline.stable_order(timeline.random_bits(random, len(places[0])))[:keep]
        places[0] = places[0][np.sort(drawn)]
    return {name: timeline.examples_at(line, place, history_length) for name, place in zip(SPLITS, places)}
