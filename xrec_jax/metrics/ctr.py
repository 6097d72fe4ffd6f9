"""How well scores in (0, 1) predict labels in {0, 1}: AUC, LogLoss, MAE, RMSE (ExpCTR, table 1).

All in NumPy float64 over whole splits, so that a figure does not depend on device or batch size.
"""

import numpy as np

LABELS = {'auc': 'AUC', 'log_loss': 'LogLoss', 'mae': 'MAE', 'rmse': 'RMSE'}  # of `ctr_metrics`


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Share of (positive, negative) pairs ranked rightly, ties counting half; NaN with one class.

    Mann-Whitney form: with R the sum of the positives' mid-ranks, (R - P (P + 1) / 2) / (P N).
    `labels` [N] in {0, 1}, `scores` [N] of any scale.
    """
    positive = np.asarray(labels) > 0.5
    num_positive, num_negative = positive.sum(), (~positive).sum()
    if num_positive == 0 or num_negative == 0:
        return float('nan')
    _, group, count = np.unique(np.asarray(scores, np.float64), return_inverse=True,
                                return_counts=True)
    mid_rank = np.cumsum(count) - (count - 1) / 2
    rank_sum = mid_rank[group.ravel()][positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2)
                 / (float(num_positive) * float(num_negative)))


def log_loss(labels: np.ndarray, scores: np.ndarray, eps: float = 1e-7) -> float:
    """Mean binary cross-entropy in nats; scores are clipped to [eps, 1 - eps].

    `eps` is about float32's resolution at 1, so a saturated score costs 16 nats, not infinity.
    """
    labels = np.asarray(labels, np.float64)
    scores = np.clip(np.asarray(scores, np.float64), eps, 1 - eps)
    return float(-np.mean(labels * np.log(scores) + (1 - labels) * np.log1p(-scores)))


def mae(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean |label - score|."""
    return float(np.mean(np.abs(np.asarray(labels, np.float64) - np.asarray(scores, np.float64))))


def rmse(labels: np.ndarray, scores: np.ndarray) -> float:
    """Root of the mean squared (label - score)."""
    error = np.asarray(labels, np.float64) - np.asarray(scores, np.float64)
    return float(np.sqrt(np.mean(error * error)))


def ctr_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Returns 'auc', 'log_loss', 'mae' and 'rmse' of probabilities `scores` [N] against `labels` [N].

    Raises:
      ValueError: shapes differ, nothing to measure, or a score that is no probability.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.shape != scores.shape or labels.ndim != 1 or labels.size == 0:
        raise ValueError(f'labels {labels.shape} and scores {scores.shape} must be alike, [N], N > 0')
    if not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError('scores must be probabilities in [0, 1]; apply the sigmoid to logits first')
    return {'auc': auc(labels, scores), 'log_loss': log_loss(labels, scores),
            'mae': mae(labels, scores), 'rmse': rmse(labels, scores)}
