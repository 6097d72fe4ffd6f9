"""What a protocol gives: the examples of each split.

Histories overlap almost wholly, so they are kept as ranges of one sequence and padded where they are
used: 20 M examples with 50 items before each take 400 MB and not 5 GB. `N` examples, `M` interactions.
"""

import dataclasses
import functools

import numpy as np

SPLITS = ('train', 'valid', 'test')


@dataclasses.dataclass(frozen=True)
class Histories:
    """What came before each of N targets: that of n is `item[stop[n] - length[n]:stop[n]]`, oldest first."""

    item: np.ndarray  # int32[M], rows in items; a user's stand together, in order of time
    liked: np.ndarray  # bool[M]
    stop: np.ndarray  # int32[N]
    length: np.ndarray  # int32[N], from 0 to `width`
    width: int  # the most that a history may show

    def padded(self, index: np.ndarray | slice = slice(None), width: int | None = None
               ) -> tuple[np.ndarray, np.ndarray]:
        """Items int32[B, W] and liked bool[B, W] of the targets `index`, right-aligned; -1 and False pad.

        W is `width`, or this object's; a history that is longer shows its latest part.
        """
        width = self.width if width is None else width
        length = np.minimum(self.length[index], width)
        shown = np.arange(-width, 0, dtype=np.int32) >= -length[:, None]
        # Only what is shown is fetched, row after row: `place` [sum of length] is in the order of `shown`.
        place = np.repeat(self.stop[index] - np.cumsum(length), length)
        place += np.arange(len(place))
        item, liked = np.full(shown.shape, -1, np.int32), np.zeros(shown.shape, bool)
        item[shown], liked[shown] = self.item[place], self.liked[place]
        return item, liked


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of one split."""

    user: np.ndarray  # int32[N], row in users
    item: np.ndarray  # int32[N], row in items: the target
    rating: np.ndarray  # float32[N], of the target; NaN where it was not rated
    label: np.ndarray  # float32[N], 1 liked, 0 disliked; what a like is, the protocol's options say
    interaction: np.ndarray  # int32[N], row in interactions: the target
    past: Histories  # of N targets

    @functools.cached_property
    def _padded(self) -> tuple[np.ndarray, np.ndarray]:
        return self.past.padded()

    @property
    def history(self) -> np.ndarray:
        """int32[N, L], rows in items, oldest first, right-aligned; -1 pads. L is `past.width`."""
        return self._padded[0]

    @property
    def history_liked(self) -> np.ndarray:
        """bool[N, L], False where padded."""
        return self._padded[1]


def positive_rate(examples: Examples) -> float:
    """Returns the share of liked targets, to print beside every result."""
    return float(np.mean(examples.label, dtype=np.float64))
