"""Bootstrap over independent units (users, instructions): how far a figure would move with others of them.

A figure that depends on its data through sums over units alone is had for all resamples at once: a resample is
a row of counts, and every sum a matrix product with them. `S` resamples, `N` units.
"""

import numpy as np


def resamples(units: int, samples: int, seed: int) -> np.ndarray:
    """int64 [S, N]: how often each unit is drawn, N draws with replacement a row."""
    if units < 1 or samples < 1:
        raise ValueError(f'{units} units and {samples} resamples: both must be at least 1')
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=samples)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) over the first axis of `values` [S, …]; resamples that are NaN do not count."""
    tail = (1 - level) / 2
    values = np.asarray(values, np.float64)
    empty = np.isnan(values).all(0)
    low, high = np.nanquantile(np.where(empty, 0, values), [tail, 1 - tail], axis=0)
    low, high = np.where(empty, np.nan, low), np.where(empty, np.nan, high)
    return low, high


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean [S, …] over the units of `values` [N, …] with `weights` [S, N]; NaN values do not count."""
    values = np.asarray(values, np.float64)
    there = np.isfinite(values)
    flat = np.where(there, values, 0).reshape(len(values), -1)
    with np.errstate(invalid='ignore'):
        mean = (weights @ flat) / (weights @ there.reshape(len(values), -1).astype(np.float64))
    return mean.reshape(len(weights), *values.shape[1:])
