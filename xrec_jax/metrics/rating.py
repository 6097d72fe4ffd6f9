"""How far predicted ratings are from those given: RMSE and MAE (RecPIE, table 1).

Both as places on the scale, from 0 to 1, as predictors give them, and in stars. NumPy float64 over whole splits.
"""

import numpy as np

from xrec_jax.metrics import ctr

# Of `rating_metrics`.
LABELS = {'rmse': 'RMSE', 'mae': 'MAE', 'rmse_stars': 'RMSE in stars', 'mae_stars': 'MAE in stars'}


def rating_metrics(ratings: np.ndarray, scores: np.ndarray, scale: tuple[float, float]) -> dict[str, float]:
    """Returns 'rmse' and 'mae' on the scale from 0 to 1, 'rmse_stars' and 'mae_stars'.

    Args:
      ratings: [N], as given, in stars.
      scores: [N], the predicted places on `scale`, from 0 (its lower end) to 1.
      scale: lowest and highest rating there is.

    Raises:
      ValueError: shapes differ, nothing to measure, a score or a rating that is not on its scale.
    """
    ratings, scores, (low, high) = np.asarray(ratings, np.float64), np.asarray(scores), scale
    if ratings.shape != scores.shape or ratings.ndim != 1 or ratings.size == 0:
        raise ValueError(f'ratings {ratings.shape} and scores {scores.shape} must be alike, [N], N > 0')
    if not low < high:
        raise ValueError(f'scale {scale} must be (lowest, highest)')
    if not np.all((ratings >= low) & (ratings <= high)):
        raise ValueError(f'ratings must be in stars, from {low:g} to {high:g}')
    if not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError('scores must be places on the scale, in [0, 1]; apply the sigmoid to logits first')
    places = (ratings - low) / (high - low)
    rmse, mae = ctr.rmse(places, scores), ctr.mae(places, scores)
    return {'rmse': rmse, 'mae': mae, 'rmse_stars': rmse * (high - low), 'mae_stars': mae * (high - low)}
