"""DCN against a slow NumPy one, and the shape of what its cross layers can make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.errors import UserError
from xrec_jax.recommenders.dcn import DCN

WIDTH = slow.F * slow.E  # D without attributes


def slow_cross(p, x0):
    x, n = list(x0), 0
    while f'cross_{n}' in p:
        w, b = p[f'cross_{n}']['kernel'][:, 0], p[f'cross_{n}_bias']
        outer = [[x0[i] * x[j] for j in range(len(x0))] for i in range(len(x0))]  # x_0 x_l^T, as the paper has it
        x = [slow.dot(outer[i], w) + b[i] + x[i] for i in range(len(x0))]
        n += 1
    return x


def slow_dcn(p, ids, attributes, text):
    x0 = [x for f in slow.rows_of(p['embedding'], ids, attributes) for x in f]
    deep = slow.relu_mlp(p, x0 + slow.features(p, text))
    return slow.linear(p['mlp_out'], slow_cross(p, x0) + deep)[0]


def case(**options):
    return slow.case(DCN, **dict(cross_layers=3) | options)


def crossed(model, params, ids, many):
    """x_0 and x_L, [B, D], each dimension of x_L read off by an output layer that picks it."""
    x0 = np.stack([np.concatenate(slow.rows_of(params['embedding'], ids[b], many[b])) for b in range(len(ids))])
    picks = jnp.eye(x0.shape[1], len(params['mlp_out']['kernel']))[..., None]
    out = lambda kernel: params | {'mlp_out': {'kernel': kernel, 'bias': jnp.zeros(1)}}
    return x0, jax.vmap(lambda kernel: model.apply({'params': out(kernel)}, ids, many), out_axes=1)(picks)


@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection):
    slow.check_equal(slow_dcn, *case(attributes=attributes, projection=projection))


def test_without_batch_normalisation_it_equals_the_slow_model_too():
    model, params, *inputs = case(projection=3, batch_norm=False)
    assert not [name for name in params if name.endswith('_norm')]
    slow.check_equal(slow_dcn, model, params, *inputs)


@pytest.mark.parametrize('projection', [0, 3])
def test_no_text_is_exactly_zero_text(projection):
    slow.check_zero_text_is_no_text(*case(projection=projection, mlp=(32,)))


def test_absent_ids_have_no_say():
    slow.check_absent_ids_have_no_say(*case(projection=3))


def test_gradients_are_finite():
    slow.check_gradients_are_finite(*case(projection=3))


def test_parameters_have_axes():
    model, _, ids, many, _ = case(projection=3)
    slow.check_parameters_have_axes(model, ids, many)


def test_the_bias_stands_outside_of_the_product():
    model, params, ids, many, _ = case(attributes=0)
    _, x = crossed(model, params, np.zeros_like(ids), many)  # x_0 = 0: the biases are all there is
    np.testing.assert_allclose(x[0], sum(params[f'cross_{n}_bias'] for n in range(3)), rtol=1e-5)


def test_without_biases_the_cross_is_a_multiple_of_x0():
    model, params, ids, many, _ = case(attributes=0)
    for n in range(3):
        params[f'cross_{n}_bias'] = jnp.zeros(WIDTH)
    x0, x = crossed(model, params, ids, many)
    np.testing.assert_allclose(x, x0 * (x * x0).sum(1, keepdims=True) / (x0 * x0).sum(1, keepdims=True),
                               rtol=1e-4, atol=1e-4)


def test_cross_layers_are_polynomials_of_one_degree_more():
    model, params, ids, many, _ = case(attributes=0, cross_layers=2)
    at = [crossed(model, params | {'embedding': s * params['embedding']}, ids, many)[1] for s in range(5)]
    third, fourth = (np.abs(np.diff(at, n=n, axis=0)).max() for n in (3, 4))
    assert third > 0.1 and fourth < 1e-3 * third


def test_explanations_are_not_crossed():
    _, params, *_ = case(projection=0)
    assert len(params['cross_0']['kernel']) == (slow.F + 1) * slow.E
    assert len(params['mlp_0']['kernel']) == (slow.F + 1) * slow.E + slow.K * slow.D


def test_published_defaults():
    model = DCN(vocab_size=slow.V)
    assert (model.embed_dim, model.mlp, model.cross_layers, model.dropout) == (10, (256, 256, 256), 6, 0.2)
    assert model.batch_norm
    with pytest.raises(UserError, match='cross_layers=0'):
        DCN(vocab_size=slow.V, cross_layers=0)
