"""How far scores agree: people with each other, a judge with people, a scorer with people (LLMXRec, 3.3 and 4.2).

1. `krippendorff_alpha`: several raters, missing values allowed
2. `rank_correlations`: Spearman and Kendall (tau-b), of a judge's win shares with people's scores
3. `score_metrics`: MAE, RMSE and correlations of a regression scorer
"""

import warnings

import numpy as np
import numpy.typing as npt
import scipy.stats

LABELS = {'mae': 'MAE', 'rmse': 'RMSE', 'pearson': 'Pearson', 'spearman': 'Spearman', 'kendall': "Kendall's tau-b",
          'alpha': "Krippendorff's alpha"}


def krippendorff_alpha(scores: npt.ArrayLike) -> float:
    """Krippendorff's alpha for interval data: 1 where raters agree, 0 where they do as well as chance.

    With m_u raters of unit u and n scores in all, units with one score left out:

      observed = 1 / n sum_u sum_{a != b in u} (x_a - x_b)^2 / (m_u - 1)
      expected = 1 / (n (n - 1)) sum_{a != b} (x_a - x_b)^2            alpha = 1 - observed / expected

    (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.)

    Args:
      scores: [R, U], raters by units; NaN where a rater did not score a unit.

    Returns:
      NaN where no unit has two scores, or all scores are the same (there is nothing that could agree).
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2:
        raise ValueError(f'scores {scores.shape} must be [R, U], raters by units')
    there = np.isfinite(scores)
    raters = there.sum(0)
    there &= raters > 1
    raters, count = there.sum(0), there.sum()
    if not count:
        return float('nan')
    centred = np.where(there, scores - scores[there].mean(), 0)  # so that squares lose no digits
    square, total = (centred**2).sum(0), centred.sum(0)
    within = 2 * (raters * square - total**2)  # over ordered pairs of one unit
    observed = (within[raters > 1] / (raters[raters > 1] - 1)).sum() / count
    expected = 2 * (count * square.sum() - total.sum()**2) / (count * (count - 1))
    return float(1 - observed / expected) if expected > 0 else float('nan')


def rank_correlations(first: npt.ArrayLike, second: npt.ArrayLike) -> dict[str, float]:
    """'spearman' and 'kendall' (tau-b, corrected for ties) of two arrays of one shape, and 'count' of the pairs.

    Places where either is NaN do not count. NaN with fewer than three places, or where one side is constant.
    """
    first, second = (np.asarray(side, np.float64) for side in (first, second))
    if first.shape != second.shape:
        raise ValueError(f'shapes differ: {first.shape} and {second.shape}')
    there = np.isfinite(first) & np.isfinite(second)
    first, second = first[there], second[there]
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return {'spearman': float('nan'), 'kendall': float('nan'), 'count': len(first)}
    return {'spearman': float(scipy.stats.spearmanr(first, second).statistic),
            'kendall': float(scipy.stats.kendalltau(first, second).statistic), 'count': len(first)}


def judge_agreement(scores: npt.ArrayLike, shares: npt.ArrayLike) -> dict[str, dict[str, float]]:
    """Rank correlations of people's `scores` [N, G] of one criterion with a judge's win `shares` [N, G].

    Returns:
      'items': over all (item, generator) that both have scored; 'within_items': the same after each item's mean is
      taken off both sides, so that only the order of generators within items counts; 'generators': of the
      generators' means, G places. Only the last is to be had where nobody knows which item a score belongs to.
    """
    scores, shares = (np.where(np.isfinite(one) & np.isfinite(other), one, np.nan) for one, other in (
        (np.asarray(scores, np.float64), np.asarray(shares, np.float64)),
        (np.asarray(shares, np.float64), np.asarray(scores, np.float64))))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # means of nothing: NaN, as it should be
        centred = [np.round(side - np.nanmean(side, 1, keepdims=True), 9) for side in (scores, shares)]
        means = [np.nanmean(side, 0) for side in (scores, shares)]
    return {'items': rank_correlations(scores, shares), 'within_items': rank_correlations(*centred),
            'generators': rank_correlations(*means)}


def score_metrics(scores: npt.ArrayLike, predicted: npt.ArrayLike) -> dict[str, float]:
    """'mae', 'rmse' (in points of the scale), 'pearson', 'spearman', 'kendall' and 'count' of a scorer.

    Args:
      scores: [N], people's; NaN does not count.
      predicted: [N], finite.

    Raises:
      ValueError: shapes differ, nothing to measure, or a prediction that is not finite.
    """
    scores, predicted = np.asarray(scores, np.float64), np.asarray(predicted, np.float64)
    if scores.shape != predicted.shape or scores.ndim != 1:
        raise ValueError(f'scores {scores.shape} and predictions {predicted.shape} must be alike, [N]')
    if not np.isfinite(predicted).all():
        raise ValueError(f'{(~np.isfinite(predicted)).sum()} predictions are not finite')
    there = np.isfinite(scores)
    if not there.any():
        raise ValueError('nobody scored anything')
    scores, predicted = scores[there], predicted[there]
    error = predicted - scores
    varied = len(scores) > 2 and np.ptp(scores) > 0 and np.ptp(predicted) > 0
    return {'mae': float(np.abs(error).mean()), 'rmse': float(np.sqrt((error**2).mean())),
            'pearson': float(np.corrcoef(scores, predicted)[0, 1]) if varied else float('nan'),
            **rank_correlations(scores, predicted)}
