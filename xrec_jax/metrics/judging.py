"""How well a judge of pairs tells which explanation people preferred, asked in both orders.

`M` questions with their true labels in the given order, and two verdicts each.
"""

import numpy as np
import numpy.typing as npt

LABELS = {'accuracy': 'accuracy', 'accuracy_given': 'accuracy, given order', 'accuracy_swapped': 'accuracy, swapped',
          'accuracy_averaged': 'accuracy, orders averaged', 'share_of_second': 'second preferred',
          'flips': 'verdicts that flip'}


def judge_metrics(labels: npt.ArrayLike, given: npt.ArrayLike, swapped: npt.ArrayLike) -> dict[str, float]:
    """Accuracy and position bias.

    Args:
      labels: [M], 1 where the first of the given order is better, 2 where the second.
      given: [M], the judge's probability (or 1, 0) that the first shown is better, in the given order.
      swapped: [M], the same for the swapped order: the probability of what is the second in the given one.
        NaN in either for an answer that could not be read.

    Returns:
      'accuracy' over both orders (unreadable answers are wrong; a constant answer has 0.5), 'accuracy_given',
      'accuracy_swapped'; 'accuracy_averaged' of the two probabilities that the given first is better, averaged, a tie
      half right; 'share_of_second' of the readable verdicts; 'flips', the share of questions with both verdicts
      readable that get the same place both times; 'unreadable', a count.
    """
    labels, given, swapped = np.asarray(labels), np.asarray(given, np.float64), np.asarray(swapped, np.float64)
    if not labels.shape == given.shape == swapped.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(f'labels {labels.shape}, given {given.shape} and swapped {swapped.shape} must be alike, [M], '
                         'M > 0')
    if not np.isin(labels, (1, 2)).all():
        raise ValueError('labels must be 1 or 2')
    first = labels == 1
    right = [_right(given, first), _right(swapped, ~first)]
    readable = np.isfinite(given) & np.isfinite(swapped)
    mean = np.where(readable, (given + 1 - swapped) / 2, np.where(np.isfinite(given), given, 1 - swapped))
    verdicts = np.concatenate([given, swapped])
    verdicts = verdicts[np.isfinite(verdicts)]
    flips = (given - 0.5) * (swapped - 0.5) > 0
    return {
        'accuracy': float(np.mean(right)), 'accuracy_given': float(np.mean(right[0])),
        'accuracy_swapped': float(np.mean(right[1])), 'accuracy_averaged': float(np.mean(_right(mean, first))),
        'share_of_second': float(np.mean((verdicts < 0.5) + 0.5 * (verdicts == 0.5))) if len(verdicts) else np.nan,
        'flips': float(np.mean(flips[readable])) if readable.any() else np.nan,
        'unreadable': int((~np.isfinite(given)).sum() + (~np.isfinite(swapped)).sum()),
    }


def _right(probability: np.ndarray, first: np.ndarray) -> np.ndarray:
    """1 [M] where the more probable side is right, 0.5 where neither is more probable, 0 where unreadable."""
    tie = 0.5 * (probability == 0.5)
    return np.where(first, probability > 0.5, probability < 0.5) + tie
