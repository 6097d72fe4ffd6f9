"""Resamples of units, against loops."""

import numpy as np
import pytest

from xrec_jax.metrics import bootstrap


def test_each_resample_draws_as_many_units_as_there_are():
    counts = bootstrap.resamples(50, 400, seed=1)
    assert counts.shape == (400, 50) and (counts.sum(1) == 50).all() and (counts >= 0).all()
    assert counts.mean() == 1 and counts.var() == pytest.approx(1 - 1 / 50, abs=0.05)  # binomial (50, 1 / 50)
    np.testing.assert_array_equal(counts, bootstrap.resamples(50, 400, seed=1))
    assert (counts != bootstrap.resamples(50, 400, seed=2)).any()
    with pytest.raises(ValueError, match='at least 1'):
        bootstrap.resamples(0, 10, seed=0)


def test_weighted_mean_equals_the_mean_of_repeated_units():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 3))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, 2] = np.nan
    counts = bootstrap.resamples(12, 20, seed=3)
    got = bootstrap.weighted_mean(values, counts)
    for row, count in zip(got, counts):
        repeated = np.repeat(values, count, axis=0)
        for place in range(2):
            drawn = repeated[np.isfinite(repeated[:, place]), place]
            np.testing.assert_allclose(row[place], drawn.mean() if len(drawn) else np.nan)
    assert np.isnan(got[:, 2]).all()


def test_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(5, 2, size=600)
    low, high = bootstrap.interval(bootstrap.weighted_mean(values, bootstrap.resamples(600, 4000, seed=1)))
    error = values.std() / np.sqrt(600)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_resamples_without_a_value_do_not_count():
    low, high = bootstrap.interval(np.array([[1.0, np.nan], [2, np.nan], [np.nan, np.nan]]), level=1)
    np.testing.assert_array_equal((low[0], high[0]), (1, 2))
    assert np.isnan(low[1]) and np.isnan(high[1])
    assert np.isnan(bootstrap.interval(np.full((4, 2), np.nan))).all()
