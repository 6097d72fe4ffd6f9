"""Masked statistics against NumPy over the valid entries alone."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xrec_jax.rl import masked

either = pytest.mark.parametrize('compiled', [lambda f: f, jax.jit], ids=['plain', 'jit'])


def random_case(seed, shape=(6, 5)):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * 10 ** rng.uniform(-2, 2) + rng.normal()).astype(np.float32)
    return x, rng.random(shape) < rng.choice([0.2, 0.5, 0.9])


@either
@pytest.mark.parametrize('axis', [None, 0, 1, (0, 1)])
def test_mean_and_variance_equal_numpy_over_valid_entries(compiled, axis):
    mean = compiled(lambda x, m: masked.masked_mean(x, m, axis))
    var = compiled(lambda x, m: masked.masked_var(x, m, axis))
    unbiased = compiled(lambda x, m: masked.masked_var(x, m, axis, unbiased=True))
    for seed in range(20):
        x, mask = random_case(seed)
        wide = np.where(mask, x.astype(np.float64), np.nan)
        n = mask.sum(axis=axis)
        expected_mean = np.zeros(n.shape)
        expected_var, expected_unbiased = np.zeros(n.shape), np.zeros(n.shape)
        for index in np.ndindex(n.shape):
            part = wide if axis in (None, (0, 1)) else np.take(wide, index[0], axis=1 - axis)
            part = part[~np.isnan(part)]
            if part.size > 0:
                expected_mean[index], expected_var[index] = part.mean(), part.var()
            if part.size > 1:
                expected_unbiased[index] = part.var(ddof=1)
        scale = np.abs(x).max()
        np.testing.assert_allclose(mean(x, mask), expected_mean, rtol=1e-5, atol=1e-6 * scale)
        np.testing.assert_allclose(var(x, mask), expected_var, rtol=1e-4)
        np.testing.assert_allclose(unbiased(x, mask), expected_unbiased, rtol=1e-4)


@either
@pytest.mark.parametrize('shift_mean', [True, False])
def test_whiten_equals_numpy_over_valid_entries(compiled, shift_mean):
    whiten = compiled(lambda x, m: masked.whiten(x, m, shift_mean))
    for seed in range(20):
        x, mask = random_case(seed)
        if mask.sum() < 2:
            continue
        valid = x[mask].astype(np.float64)
        expected = np.zeros(x.shape)
        expected[mask] = (valid - valid.mean()) / np.sqrt(valid.var() + 1e-8)
        expected[mask] += 0 if shift_mean else valid.mean()
        np.testing.assert_allclose(whiten(x, mask), expected, rtol=1e-4, atol=1e-5)


def test_hand_example():
    x = jnp.array([[1.0, 3.0, 99.0], [5.0, 99.0, 99.0]])
    mask = jnp.array([[1, 1, 0], [1, 0, 0]])
    assert masked.masked_mean(x, mask) == 3.0
    assert masked.masked_var(x, mask) == pytest.approx(8 / 3)
    assert masked.masked_var(x, mask, unbiased=True) == pytest.approx(4.0)
    np.testing.assert_array_equal(masked.masked_mean(x, mask, axis=1), [2.0, 5.0])
    one = np.sqrt(1.5)
    np.testing.assert_allclose(masked.whiten(x, mask), [[-one, 0, 0], [one, 0, 0]], atol=1e-6)


@either
def test_all_masked_gives_zero_in_value_and_gradient(compiled):
    x, mask = jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool)
    for f in (
        masked.masked_mean,
        masked.masked_var,
        lambda x, m: masked.masked_var(x, m, unbiased=True),
        lambda x, m: masked.whiten(x, m).sum(),
        lambda x, m: masked.whiten(x, m, shift_mean=False).sum(),
    ):
        assert compiled(f)(x, mask) == 0
        np.testing.assert_array_equal(compiled(jax.grad(f))(x, mask), 0)


@either
def test_one_valid_token_has_no_variance_and_whitens_to_zero(compiled):
    x, mask = jnp.array([[7.3, 1.0], [2.0, 3.0]]), jnp.array([[True, False], [False, False]])
    assert compiled(masked.masked_var)(x, mask) == 0
    assert compiled(lambda x, m: masked.masked_var(x, m, unbiased=True))(x, mask) == 0
    np.testing.assert_array_equal(compiled(masked.whiten)(x, mask), 0)


@pytest.mark.parametrize('constant', [0.7, 1000.1, -3e7])
def test_equal_entries_have_exactly_no_variance(constant):
    x, mask = jnp.full((37, 3), constant), jnp.ones((37, 3), bool).at[0].set(False)
    assert masked.masked_var(x, mask) == 0
    np.testing.assert_array_equal(masked.whiten(x, mask), 0)


@pytest.mark.parametrize('garbage', [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_masked_never_reaches_value_or_gradient(garbage):
    x, mask = random_case(3)
    spoiled = np.where(mask, x, garbage).astype(np.float32)
    weights = jnp.asarray(random_case(4)[0])
    for f in (
        lambda x: masked.masked_mean(x, mask),
        lambda x: masked.masked_var(x, mask),
        lambda x: (weights * masked.whiten(x, mask)).sum(),
    ):
        clean, dirty = jax.value_and_grad(f)(jnp.asarray(x)), jax.value_and_grad(f)(spoiled)
        np.testing.assert_allclose(dirty[0], clean[0], rtol=1e-6)
        np.testing.assert_allclose(dirty[1], clean[1], rtol=1e-6)
        assert not np.any(dirty[1][~mask])


def test_gradients_are_those_of_mean_and_variance():
    x, mask = random_case(5)
    n, mean = mask.sum(), x[mask].mean()
    of_mean = jax.grad(masked.masked_mean)(jnp.asarray(x), mask)
    of_var = jax.grad(masked.masked_var)(jnp.asarray(x), mask)
    np.testing.assert_allclose(of_mean, mask / n, rtol=1e-5)
    np.testing.assert_allclose(of_var, mask * 2 * (x - mean) / n, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('dtype', [bool, np.int32, np.float32])
def test_mask_may_be_boolean_or_zeros_and_ones(dtype):
    x, mask = random_case(6)
    np.testing.assert_array_equal(
        masked.whiten(x, mask.astype(dtype)), masked.whiten(x, mask)
    )


def test_shapes_must_agree():
    with pytest.raises(AssertionError):
        masked.masked_mean(jnp.ones((2, 3)), jnp.ones((2, 1)))


def test_eight_devices_whiten_like_one():
    if jax.device_count() < 8:
        pytest.skip('needs eight devices')
    x, mask = random_case(7, (16, 5))
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    over_batch = NamedSharding(mesh, PartitionSpec('data'))
    sharded = jax.device_put((x, mask), over_batch)
    assert len(sharded[0].addressable_shards) == 8
    for shift_mean in (True, False):
        together = jax.jit(lambda x, m: masked.whiten(x, m, shift_mean))
        np.testing.assert_allclose(together(*sharded), together(x, mask), rtol=1e-5, atol=1e-6)
