"""Temperature against a fine grid, and its ends."""

import numpy as np
import pytest

from xrec_jax.metrics.calibration import fit_temperature, log_loss


@pytest.mark.parametrize('truth', [0.5, 1.0, 4.0])
def test_temperature_minimises_the_loss_and_is_the_true_one(truth):
    random = np.random.default_rng(0)
    odds = random.normal(scale=3, size=20_000)
    labels = random.random(len(odds)) < 1 / (1 + np.exp(-odds / truth))
    found = fit_temperature(odds, labels)
    grid = np.geomspace(0.1, 20, 2000)
    best = grid[np.argmin([log_loss(odds / t, labels) for t in grid])]
    np.testing.assert_allclose(found, best, rtol=0.01)
    np.testing.assert_allclose(found, truth, rtol=0.08)


def test_loss_is_the_mean_nats():
    np.testing.assert_allclose(log_loss([0.0, np.log(3), -np.log(3)], [True, True, True]),
                               -np.mean(np.log([0.5, 0.75, 0.25])))


def test_ends_and_missing_odds():
    assert fit_temperature([1.0, 2.0, -3.0], [True, True, False]) < 0.1  # never wrong
    assert fit_temperature([1.0, 2.0, -3.0], [False, False, True]) == 1000  # worse than chance
    odds, labels = np.array([2.0, -1.0, 1.5, np.nan, 0.5]), np.array([True, False, False, True, True])
    assert fit_temperature(odds, labels) == fit_temperature(odds[[0, 1, 2, 4]], labels[[0, 1, 2, 4]])
    with pytest.raises(ValueError, match='no odds'):
        fit_temperature([np.nan], [True])
