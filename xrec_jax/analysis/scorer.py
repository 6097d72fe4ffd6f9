"""A regression scorer of explanations: people's scores from a text's vector (LLMXRec, section 3.3).

Ridge regression, all criteria at once: W = argmin Σ_m |y_m - ȳ - Wᵀ (x_m - x̄) / s|² + λ |W|², with features in units of
their standard deviation s. λ is the best of `PENALTIES` in cross-validation over items: explanations of one item are
alike, so that they lie on one side of every split.

`M` explanations, `F` features, `C` criteria.
"""

import dataclasses

import numpy as np

PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)  # of the sum over explanations


@dataclasses.dataclass(frozen=True)
class Scorer:
    """`predict(features [M, F])` gives scores float64 [M, C], within `low` and `high`."""

    weights: np.ndarray  # [F, C]
    centre: np.ndarray  # [F]
    scale: np.ndarray  # [F]
    mean: np.ndarray  # [C]
    penalty: float
    low: float
    high: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        scores = (np.asarray(features, np.float64) - self.centre) / self.scale @ self.weights + self.mean
        return np.clip(scores, self.low, self.high)


def fit(features: np.ndarray, scores: np.ndarray, items: np.ndarray, low: float, high: float, seed: int = 0,
        folds: int = 5) -> Scorer:
    """The scorer with the best penalty, trained on all.

    Args:
      features: [M, F]; scores: [M, C], finite; items: int [M], which explanations belong together.
      low, high: of the scale of the scores.

    Raises:
      ValueError: shapes that do not fit, or fewer than two items.
    """
    features, scores, items = np.asarray(features, np.float64), np.asarray(scores, np.float64), np.asarray(items)
    if not len(features) == len(scores) == len(items) or features.ndim != 2 or scores.ndim != 2:
        raise ValueError(f'features {features.shape}, scores {scores.shape} and items {items.shape} must be [M, F], [M, C], [M]')
    names, place = np.unique(items, return_inverse=True)
    if len(names) < 2:
        raise ValueError('one item cannot be split')
    fold = np.random.default_rng(seed).permutation(len(names))[place] % min(folds, len(names))
    errors = [sum(np.square(_fitted(features[fold != n], scores[fold != n], penalty, low, high).predict(features[fold == n])
                            - scores[fold == n]).sum() for n in range(fold.max() + 1)) for penalty in PENALTIES]
    return _fitted(features, scores, PENALTIES[int(np.argmin(errors))], low, high)


def _fitted(features: np.ndarray, scores: np.ndarray, penalty: float, low: float, high: float) -> Scorer:
    centre, scale, mean = features.mean(0), features.std(0), scores.mean(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    x = (features - centre) / scale
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (scores - mean))
    return Scorer(weights, centre, scale, mean, penalty, low, high)


def split(items: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool [M]: the explanations of about `share` of the items, to test on."""
    names, place = np.unique(items, return_inverse=True)
    return (np.random.default_rng([seed, len(names)]).permutation(len(names)) < round(share * len(names)))[place]
