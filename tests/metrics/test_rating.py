"""Errors of ratings against plain loops, in stars from the start."""

import math

import numpy as np
import pytest

from xrec_jax.metrics import rating


@pytest.mark.parametrize('scale', [(1.0, 5.0), (0.5, 5.0), (0.0, 10.0)])
def test_errors_equal_plain_loops(scale):
    rng = np.random.default_rng(0)
    low, high = scale
    ratings = rng.choice(np.linspace(low, high, 5), 60).astype(np.float32)
    scores = rng.random(60).astype(np.float32)
    squared = absolute = 0.0
    for given, score in zip(ratings.tolist(), scores.tolist()):
        error = low + score * (high - low) - given
        squared += error ** 2
        absolute += abs(error)
    metrics = rating.rating_metrics(ratings, scores, scale)
    assert list(metrics) == list(rating.LABELS)
    assert metrics['rmse_stars'] == pytest.approx(math.sqrt(squared / 60), rel=1e-12)
    assert metrics['mae_stars'] == pytest.approx(absolute / 60, rel=1e-12)
    assert metrics['rmse'] == pytest.approx(math.sqrt(squared / 60) / (high - low), rel=1e-12)
    assert metrics['mae'] == pytest.approx(absolute / 60 / (high - low), rel=1e-12)


def test_hand_example():
    metrics = rating.rating_metrics([5, 1, 3], [1.0, 0.25, 0.25], (1, 5))  # predicted: 5, 2, 2
    assert metrics['mae_stars'] == pytest.approx(2 / 3) and metrics['rmse_stars'] == pytest.approx(math.sqrt(2 / 3))
    assert metrics['mae'] == pytest.approx(1 / 6) and metrics['rmse'] == pytest.approx(math.sqrt(2 / 3) / 4)


@pytest.mark.parametrize('ratings, scores, scale, message', [
    ([1, 2], [0.5], (1, 5), 'must be alike'), ([], [], (1, 5), 'must be alike'),
    ([[1]], [[0.5]], (1, 5), 'must be alike'), ([1, 2], [0.5, 3.5], (1, 5), r'in \[0, 1\]'),
    ([1, 2], [0.5, float('nan')], (1, 5), r'in \[0, 1\]'), ([0.25, 1], [0.5, 0.5], (1, 5), 'in stars, from 1 to 5'),
    ([1, 6], [0.5, 0.5], (1, 5), 'in stars'), ([1, float('nan')], [0.5, 0.5], (1, 5), 'in stars'),
    ([1, 1], [0.5, 0.5], (1, 1), 'lowest, highest')])
def test_what_cannot_be_measured_is_refused(ratings, scores, scale, message):
    with pytest.raises(ValueError, match=message):
        rating.rating_metrics(np.array(ratings), np.array(scores), scale)
