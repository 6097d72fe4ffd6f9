"""The regression scorer against closed forms, and what it may not see."""

import numpy as np
import pytest

from xrec_jax.analysis import scorer


def made(noise, items=60, each=4, features=6):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(items * each, features)) * np.arange(1, features + 1)
    weights = rng.normal(size=(features, 2)) / np.arange(1, features + 1)[:, None]
    y = np.clip(5.5 + 0.7 * x @ weights + noise * rng.normal(size=(items * each, 2)), 1, 10)
    return x, y, np.repeat(np.arange(items), each)


def test_scores_that_features_tell_are_found():
    x, y, items = made(noise=0.1)
    tested = scorer.split(items, 0.25, 0)
    fitted = scorer.fit(x[~tested], y[~tested], items[~tested], 1, 10)
    assert fitted.penalty == scorer.PENALTIES[0]
    assert np.abs(fitted.predict(x[tested]) - y[tested]).mean() < 0.3
    assert fitted.predict(1e3 * x).max() == 10 and fitted.predict(1e3 * x).min() == 1


def test_weights_are_those_of_ridge_regression():
    x, y, items = made(noise=1.0)
    fitted = scorer.fit(x, y, items, 1, 10)
    standard = (x - x.mean(0)) / x.std(0)
    residual = y - y.mean(0) - standard @ fitted.weights
    np.testing.assert_allclose(standard.T @ residual, fitted.penalty * fitted.weights, atol=1e-8)  # gradient of 0


def test_noise_gets_a_higher_penalty_than_what_features_tell():
    rng = np.random.default_rng(1)
    x, items = rng.normal(size=(120, 40)), np.repeat(np.arange(30), 4)
    fitted = scorer.fit(x, rng.uniform(1, 10, (120, 1)), items, 1, 10)
    assert fitted.penalty >= 100 * scorer.PENALTIES[0]


def test_an_item_is_on_one_side():
    _, _, items = made(0.1)
    tested = scorer.split(items, 0.2, 3)
    assert len(set(items[tested])) == 12 and not set(items[tested]) & set(items[~tested])
    with pytest.raises(ValueError, match='one item'):
        scorer.fit(np.zeros((3, 2)), np.zeros((3, 1)), np.zeros(3), 1, 10)
