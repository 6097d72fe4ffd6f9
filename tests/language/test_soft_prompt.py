"""Virtual tokens from a consumer's embedding."""

import jax.numpy as jnp
import numpy as np

from xrec_jax.language import soft_prompt


def test_a_fresh_projection_says_nothing_of_the_consumer():
    first = jnp.arange(5.0)
    projection = soft_prompt.init(3, 2, first)
    prefix = soft_prompt.project(projection, jnp.array([[1.0, 2, 3], [0, 0, 9]]))
    np.testing.assert_array_equal(prefix, np.tile(np.arange(5.0), (2, 2, 1)))


def test_projection_is_one_matrix_a_token():
    random = np.random.default_rng(0)
    consumers, kernel, bias = (random.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3, 2, 5), (2, 5)))
    prefix = soft_prompt.project({'kernel': kernel, 'bias': bias}, consumers)
    expected = [[consumer @ kernel[:, k] + bias[k] for k in range(2)] for consumer in consumers]
    np.testing.assert_allclose(prefix, expected, rtol=1e-5, atol=1e-6)


def test_scaled_embeddings_do_not_depend_on_their_size():
    table = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)), jnp.float32)
    small, size = soft_prompt.scaled(0.01 * table)
    np.testing.assert_allclose(small, soft_prompt.scaled(table)[0], rtol=1e-4)
    np.testing.assert_allclose(small * size, 0.01 * table, rtol=1e-5)
    assert np.isfinite(soft_prompt.scaled(jnp.zeros((2, 2)))[0]).all()
