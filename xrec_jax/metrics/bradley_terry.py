"""Bradley-Terry: one strength a generator, such that i beats j with odds exp(strength_i - strength_j).

1. `strengths`: maximum likelihood from a table of wins, for one table or for a batch of resamples at once
2. `has_maximum`: whether the likelihood has one (Ford, 1957): every generator must beat, by way of others, every other

Bradley and Terry (Biometrika 39, 1952). Ties count half a win for each side. `G` generators, `...` any batch.
"""

import numpy as np

_STEPS, _TOLERANCE = 100, 1e-10


def has_maximum(wins: np.ndarray) -> np.ndarray:
    """bool [...]: whether strengths of finite size maximise the likelihood of `wins` [..., G, G]."""
    reach = (np.asarray(wins) > 0) | np.eye(np.shape(wins)[-1], dtype=bool)
    for _ in range(max(1, int(np.ceil(np.log2(reach.shape[-1]))))):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return reach.all((-2, -1))


def strengths(wins: np.ndarray, prior: float = 0.0) -> np.ndarray:
    """Log strengths float64 [..., G], mean 0, that maximise sum_ij wins_ij log sigmoid(strength_i - strength_j).

    Newton's method, its step halved until the likelihood does not fall (the likelihood is concave).

    Args:
      wins: [..., G, G], how often (half wins allowed) row beat column; the diagonal does not count.
      prior: wins added to both sides of every pair that met. 0 is maximum likelihood; 0.5 keeps strengths finite
        where a generator won or lost all it had, as happens in resamples, and moves little else.

    Raises:
      ValueError: not square, negative, or no finite maximum (some generators never lost to the rest, or never met).
    """
    wins = np.array(wins, np.float64)
    size = wins.shape[-1]
    if wins.ndim < 2 or wins.shape[-2] != size or size < 2:
        raise ValueError(f'wins {wins.shape} must be [..., G, G], G > 1')
    wins *= 1 - np.eye(size)
    if not np.all(wins >= 0):
        raise ValueError('wins must not be negative or NaN')
    wins += prior * ((wins + np.swapaxes(wins, -1, -2)) > 0)
    if not np.all(has_maximum(wins)):
        raise ValueError('no finite strengths: some generators never lost to the others, or never met them; '
                         'prior=0.5 keeps them finite')
    batch, wins = wins.shape[:-2], wins.reshape(-1, size, size)
    met, won = wins + np.swapaxes(wins, -1, -2), wins.sum(-1)
    value = np.zeros(wins.shape[:2])
    likelihood = _likelihood(wins, value)
    for _ in range(_STEPS):
        chance = _sigmoid(value[:, :, None] - value[:, None, :])
        gradient = won - (met * chance).sum(-1)
        curvature = met * chance * (1 - chance)
        hessian = np.eye(size) * curvature.sum(-1)[:, :, None] - curvature + curvature.sum((-2, -1))[:, None, None]
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]  # the last term: the mean stays where it is
        best = likelihood
        for _ in range(60):
            likelihood = _likelihood(wins, value + step)
            worse = likelihood < best - 1e-12 * np.abs(best)
            if not worse.any():
                break
            step[worse] /= 2
        value = value + step
        if np.abs(step).max() < _TOLERANCE:
            break
    return (value - value.mean(-1, keepdims=True)).reshape(*batch, size)


def _likelihood(wins: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Log likelihood [B] of `wins` [B, G, G] under `value` [B, G]."""
    return -(wins * np.logaddexp(0, value[:, None, :] - value[:, :, None])).sum((-2, -1))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))
