"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): how far to trust a judge's log-odds."""

import numpy as np
import numpy.typing as npt

_HIGHEST = 1e3  # 1 / T: odds that are always right would want an infinite one


def log_loss(odds: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean nats of labels bool [N] under the probabilities sigmoid(odds [N]); NaN odds are left out."""
    odds, labels = np.asarray(odds, np.float64), np.asarray(labels, bool)
    return float(np.nanmean(np.logaddexp(0, np.where(labels, -odds, odds))))


def fit_temperature(odds: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """T > 0 that minimises `log_loss(odds / T, labels)`; NaN odds are left out.

    The loss is convex in a = 1 / T, so its derivative mean((sigmoid(a odds) - label) odds) is bisected. Odds that
    are no better than chance get the highest temperature, `_HIGHEST`; such as are never wrong, the lowest.
    """
    odds, labels = np.asarray(odds, np.float64), np.asarray(labels, np.float64)
    known = np.isfinite(odds)
    if not known.any():
        raise ValueError('no odds to calibrate')
    odds, labels = odds[known], labels[known]

    def derivative(a: float) -> float:
        return np.mean((0.5 * (1 + np.tanh(a * odds / 2)) - labels) * odds)

    low, high = 1 / _HIGHEST, _HIGHEST
    if derivative(low) >= 0:
        return _HIGHEST
    for _ in range(100):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if derivative(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))
