"""Losses and stopping scores against plain loops, with and without `jit`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.metrics import ctr
from xrec_jax.recommenders import objectives

either = pytest.mark.parametrize('compiled', [lambda f: f, jax.jit], ids=['plain', 'jit'])


@either
def test_masked_mean_equals_the_mean_of_what_is_valid(compiled):
    rng = np.random.default_rng(0)
    values, mask = rng.normal(size=40).astype(np.float32), (rng.random(40) < 0.3).astype(np.float32)
    assert compiled(objectives.masked_mean)(values, mask) == pytest.approx(
        values[mask > 0].mean(), rel=1e-5)


@either
def test_masked_entries_reach_neither_value_nor_gradient(compiled):
    values, mask = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 0.0, 1.0])
    assert compiled(objectives.masked_mean)(values, mask) == 2
    np.testing.assert_array_equal(compiled(jax.grad(objectives.masked_mean))(values, mask),
                                  [0.5, 0, 0.5])
    assert compiled(objectives.masked_mean)(values, jnp.zeros(3)) == 0


@either
def test_cross_entropy_equals_a_loop(compiled):
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=3, size=30).astype(np.float32)
    labels, mask = rng.integers(0, 2, 30).astype(np.float32), np.ones(30, np.float32)
    mask[20:] = 0
    expected = 0.0
    for z, y in zip(logits[:20].tolist(), labels[:20].tolist()):
        s = 1 / (1 + math.exp(-z))
        expected -= y * math.log(s) + (1 - y) * math.log(1 - s)
    assert compiled(objectives.binary_cross_entropy)(logits, labels, mask) == pytest.approx(
        expected / 20, rel=1e-5)


def test_cross_entropy_is_finite_where_the_sigmoid_saturates():
    loss = lambda z: objectives.binary_cross_entropy(z, jnp.array([0.0, 1.0]), jnp.ones(2))
    value, gradient = jax.value_and_grad(loss)(jnp.array([300.0, -300.0]))
    assert value == pytest.approx(300)
    np.testing.assert_allclose(gradient, [0.5, -0.5])


@either
@pytest.mark.parametrize('decimals', [0, 1, 6])
def test_auc_equals_the_float64_one(compiled, decimals):
    rng = np.random.default_rng(2)
    for n in (2, 50, 3000):
        labels = rng.integers(0, 2, n).astype(np.float32)
        labels[:2] = 0, 1
        logits = np.round(rng.normal(labels, 1.5), decimals).astype(np.float32)
        assert compiled(objectives.auc)(logits, labels) == pytest.approx(
            ctr.auc(labels, logits), abs=2e-6)


def test_auc_keeps_its_precision_over_many_rows():
    rng = np.random.default_rng(3)
    labels = (rng.random(300_000) < 0.3).astype(np.float32)
    logits = rng.normal(0.3 * labels, 1).astype(np.float32)
    assert objectives.auc(logits, labels) == pytest.approx(ctr.auc(labels, logits), abs=2e-5)


@either
@pytest.mark.parametrize('label', [0.0, 1.0])
def test_auc_of_one_class_is_nan(compiled, label):
    assert np.isnan(compiled(objectives.auc)(jnp.array([0.1, 0.2, 0.7]), jnp.full(3, label)))


def test_every_monitor_is_higher_for_better_scores():
    labels = jnp.array([0.0, 0.0, 1.0, 1.0])
    good, bad = jnp.array([-2.0, -1.0, 1.0, 2.0]), jnp.array([2.0, -1.0, -1.5, 1.0])
    for monitor in objectives.MONITORS.values():
        assert monitor(good, labels) > monitor(bad, labels)


def test_shapes_must_agree():
    with pytest.raises(AssertionError):
        objectives.binary_cross_entropy(jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.ones((2, 1)))
    with pytest.raises(AssertionError):
        objectives.binary_cross_entropy(jnp.ones(2), jnp.ones(3), jnp.ones(2))
