"""Dropout against its distribution, and its bits against a slow murmur3."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.dropout import Dropout, hashed_bits


def dropped(key, x, rate):
    return Dropout(rate, deterministic=False).apply({}, x, rngs={'dropout': key})


def test_bits_are_murmur3s_finaliser_of_the_index():
    def fmix32(x):
        x ^= x >> 16
        x = x * 0x85EBCA6B % 2**32
        x ^= x >> 13
        x = x * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    key = jax.random.key(3)
    first, second = map(int, jax.random.key_data(key))
    expected = [fmix32((fmix32(n ^ first) + second) % 2**32) for n in range(2 * 3 * 5)]
    np.testing.assert_array_equal(np.asarray(hashed_bits(key, (2, 3, 5))).reshape(-1), expected)
    assert fmix32(1) == 0x514E28B7  # a published value of MurmurHash3's fmix32


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_values_are_dropped_independently_at_the_rate(rate):
    keys = jax.random.split(jax.random.key(0), 400)
    zero = np.asarray(jax.vmap(lambda key: dropped(key, jnp.ones((16, 32)), rate))(keys)) == 0
    share, deviation = zero.mean(), np.sqrt(rate * (1 - rate) / zero.size)
    assert abs(share - rate) < 4 * deviation
    # Per position over keys, per key over positions: as scattered as coins, no more and no less.
    for axis in ((0,), (1, 2)):
        means = zero.mean(axis)
        expected = rate * (1 - rate) * means.size / zero.size
        assert abs(means.var() / expected - 1) < 6 * np.sqrt(2 / means.size)
    # Neighbours in every direction, and the same position under the next key, know nothing of each other.
    centred = zero - rate
    for axis in range(3):
        together = (np.delete(centred, 0, axis) * np.delete(centred, -1, axis)).mean() / (rate * (1 - rate))
        assert abs(together) < 5 / np.sqrt(zero.size)


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    x = jnp.arange(1.0, 7.0).reshape(2, 3)
    out = np.asarray(dropped(jax.random.key(1), x, 0.25))
    assert all(value == 0 or np.isclose(value, original / 0.75) for value, original in zip(out.flat, np.asarray(x).flat))


def test_same_key_same_mask_and_gradient_only_where_kept():
    x, key = jnp.ones((8, 8)), jax.random.key(2)
    out = dropped(key, x, 0.5)
    np.testing.assert_array_equal(out, jax.jit(dropped, static_argnums=2)(key, x, 0.5))
    np.testing.assert_array_equal(jax.grad(lambda x: dropped(key, x, 0.5).sum())(x), out)


def test_ends():
    x = jnp.ones((4, 4))
    assert Dropout(0.5, deterministic=True).apply({}, x) is x
    np.testing.assert_array_equal(dropped(jax.random.key(0), x, 0.0), x)
    np.testing.assert_array_equal(dropped(jax.random.key(0), x, 1.0), jnp.zeros_like(x))
