"""Orders drawn at random: permutations, each as likely as another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.recommenders.order import shuffled


@pytest.mark.parametrize('size', [1, 5, 16384, 16385, 40000])
def test_shuffled_is_a_permutation(size):
    order = jax.jit(shuffled, static_argnums=1)(jax.random.key(3), size)
    assert order.dtype == jnp.int32 and sorted(order.tolist()) == list(range(size))


def test_shuffled_places_and_neighbours_are_uniform():
    n, keys, bins = 17000, 1000, 20
    orders = np.asarray(jax.jit(jax.vmap(lambda k: shuffled(k, n)))(jax.random.split(jax.random.key(0), keys)))
    steps = (orders[:, 1:] - orders[:, :-1]) % n
    for values in (orders[:, 0], orders[:, n // 2], orders[:, -1], np.argmax(orders == 17, 1), steps[:, 1000],
                   steps[0], steps[1]):
        count, expected = np.bincount(values * bins // n, minlength=bins), len(values) / bins
        assert ((count - expected) ** 2 / expected).sum() < 19 + 4 * np.sqrt(38)
    rising = (np.diff(orders, axis=1) > 0).sum(1)  # mean (n - 1) / 2, variance (n + 1) / 12
    assert abs(rising.mean() - (n - 1) / 2) < 4 * np.sqrt((n + 1) / 12 / keys)
    assert 0.9 < rising.std() / np.sqrt((n + 1) / 12) < 1.1
