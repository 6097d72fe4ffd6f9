"""Batch normalisation against NumPy; that training keeps its moving averages and scoring needs no batch."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.recommenders.batch_norm import BatchNorm, moments
from xrec_jax.recommenders.dcn import DCN
from xrec_jax.recommenders.dcnv2 import DCNv2
from xrec_jax.recommenders.dssm import DSSM

S = np.random.default_rng(0).normal(3, 2, (6, 2))
PARAMS = {'scale': jnp.array([0.5, -2.0]), 'bias': jnp.array([1.0, 0.3]), 'mean': jnp.array([1.0, 2.0]),
          'variance': jnp.array([3.0, 4.0])}


def expected(mean, variance):
    return (S - mean) / np.sqrt(variance + 1e-5) * np.array([0.5, -2.0]) + np.array([1.0, 0.3])


def test_training_uses_the_batch_and_moves_the_averages():
    out, more = BatchNorm().apply({'params': PARAMS}, S.astype(np.float32), True, mutable=['statistics'])
    mean, variance = S.mean(0), S.var(0)
    np.testing.assert_allclose(out, expected(mean, variance), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(more['statistics']['mean'], 0.9 * np.array([1.0, 2.0]) + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(more['statistics']['variance'], 0.9 * np.array([3.0, 4.0]) + 0.1 * variance, rtol=1e-5)


def test_scoring_uses_the_averages():
    out = BatchNorm().apply({'params': PARAMS}, S.astype(np.float32), False)
    np.testing.assert_allclose(out, expected(np.array([1.0, 2.0]), np.array([3.0, 4.0])), rtol=1e-5, atol=1e-5)


def test_gradients_go_through_the_batch_and_not_into_the_averages():
    x = jnp.asarray(S, jnp.float32)
    total = lambda params, x: BatchNorm().apply({'params': params}, x, True)[0, 0]
    gradient, of_x = jax.grad(total, argnums=(0, 1))(PARAMS, x)
    assert not np.any(gradient['mean']) and not np.any(gradient['variance']) and np.any(gradient['scale'])
    np.testing.assert_allclose(of_x[:, 0].sum(), 0, atol=1e-6)  # all of a batch may move together
    assert np.all(of_x[:, 0] != 0) and not np.any(of_x[:, 1])


def test_the_gradient_is_that_of_the_formula():
    weights = np.random.default_rng(1).normal(size=S.shape)
    ours = lambda params, x: (weights * BatchNorm().apply({'params': params}, x, True)).sum()
    plain = lambda params, x: (weights * ((x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * params['scale']
                                          + params['bias'])).sum()
    found, expected = (jax.grad(f, argnums=(0, 1))(PARAMS, jnp.asarray(S, jnp.float32)) for f in (ours, plain))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_masked_rows_are_in_no_moment():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, s, mask):
            return moments(self, s, True, 0.9, mask)

    mask = np.array([True, False, True, True, False, True])
    params = {name: PARAMS[name] for name in ('mean', 'variance')}
    mean, variance = Two().apply({'params': params}, S.astype(np.float32), mask)
    np.testing.assert_allclose(mean, S[mask].mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, S[mask].var(0), rtol=1e-5)
    _, more = Two().apply({'params': params}, S.astype(np.float32), mask & False, mutable=['statistics'])
    np.testing.assert_array_equal(more['statistics']['mean'], params['mean'])


@pytest.mark.parametrize('model_class', [DCN, DCNv2, DSSM])
def test_models_hand_the_averages_of_every_layer_to_the_trainer(model_class):
    model, params, ids, many, text = slow.case(model_class, projection=3, batch_norm=True)
    apply = functools.partial(model.apply, {'params': params}, ids, many, text)
    _, more = apply(train=True, rngs={'dropout': jax.random.key(0)}, mutable=['statistics'])
    norms = {name for name in params if name.endswith('_norm')}
    assert set(more['statistics']) == norms and len(norms) == (4 if model_class is DSSM else 2)
    for name in norms:
        for key, value in more['statistics'][name].items():
            assert value.shape == params[name][key].shape and np.all(value != params[name][key])
    alone = jnp.concatenate([model.apply({'params': params}, ids[n:n + 1], many[n:n + 1], text[n:n + 1])
                             for n in range(len(ids))])
    np.testing.assert_allclose(apply(), alone, rtol=1e-4, atol=1e-5)  # who else is scored has no say
