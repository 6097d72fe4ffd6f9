"""AutoInt against a slow NumPy one: field by field, head by head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.recommenders.autoint import AutoInt, inner, mixed

HEADS, WIDTH = 2, 3
PLAIN = dict(mlp=(), linear=False)  # the paper's, without deep part


def slow_layer(p, n, fields):
    project = lambda name, e: slow.linear(p[f'{name}_{n}'], e)
    after = []
    for e in fields:
        heads = []
        for h in range(HEADS):
            head = lambda name, x: np.array(project(name, x)[h * WIDTH:(h + 1) * WIDTH])
            scores = [np.exp(slow.dot(head('query', e), head('key', other))) for other in fields]
            heads.extend(sum(s / sum(scores) * head('value', other) for s, other in zip(scores, fields)))
        after.append([max(0.0, x + r) for x, r in zip(heads, project('residual', e))])
    return after


def slow_autoint(p, ids, attributes, text):
    v = fields = slow.rows_of(p['embedding'], ids, attributes)
    n = 0
    while f'query_{n}' in p:
        fields, n = slow_layer(p, n, fields), n + 1
    hidden, z = [x for e in fields for x in e], slow.features(p, text)
    if 'mlp_0' not in p:
        return slow.linear(p['attention_out'], hidden + z)[0]
    deep = slow.linear(p['mlp_out'], slow.relu_mlp(p, [x for e in v for x in e] + z))[0]
    return (slow.linear(p['attention_out'], hidden)[0] + deep + p['bias']
            + sum(slow.rows_of(p['weight'], ids, attributes)))


def case(**options):
    return slow.case(AutoInt, **dict(num_layers=2, num_heads=HEADS, attention_dim=WIDTH) | options)


@pytest.mark.parametrize('options', [{}, PLAIN])
@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection, options):
    slow.check_equal(slow_autoint, *case(attributes=attributes, projection=projection, **options))


@pytest.mark.parametrize('options', [dict(mlp=(32,)), PLAIN])
def test_no_text_is_exactly_zero_text(options):
    slow.check_zero_text_is_no_text(*case(projection=3, **options))


def test_absent_ids_have_no_say():
    slow.check_absent_ids_have_no_say(*case(projection=3))


def test_gradients_are_finite():
    slow.check_gradients_are_finite(*case(projection=3))


def test_parameters_have_axes():
    model, _, ids, many, _ = case(projection=3)
    slow.check_parameters_have_axes(model, ids, many)


def test_residual_and_relu_are_in_every_layer():
    """Without values a layer is ReLU(W_R e), and the second sees what the first left."""
    model, params, ids, many, _ = case(**PLAIN)
    for n in range(2):
        params[f'value_{n}'] = jax.tree.map(np.zeros_like, params[f'value_{n}'])
    p = slow.plain(params)
    v = np.array([slow.rows_of(p['embedding'], *row) for row in zip(ids, many)])
    hidden = np.maximum(np.maximum(v @ p['residual_0']['kernel'], 0) @ p['residual_1']['kernel'], 0)
    expected = hidden.reshape(len(ids), -1) @ p['attention_out']['kernel'] + p['attention_out']['bias']
    np.testing.assert_allclose(model.apply({'params': params}, ids, many), expected[:, 0], rtol=1e-4, atol=1e-5)


def test_a_layer_treats_fields_alike_and_has_no_biases():
    """Permuted fields give permuted states: only the output layer knows which is which."""
    model, params, ids, _, _ = case(attributes=0, **PLAIN)
    params['attention_out'] = jax.tree.map(np.ones_like, params['attention_out'])
    apply = lambda ids: model.apply({'params': params}, ids, np.zeros((len(ids), 0), np.int32))
    np.testing.assert_allclose(apply(ids), apply(ids[:, ::-1]), rtol=1e-5)
    assert set(params['query_0']) == set(params['residual_0']) == {'kernel'}


def test_dropout_acts_on_attention_in_training_only():
    model, params, ids, many, _ = case(dropout=0.5, **PLAIN)
    score = lambda n: model.apply({'params': params}, ids, many, train=True, rngs={'dropout': jax.random.key(n)})
    assert not np.allclose(score(0), score(1))


@pytest.mark.parametrize('product, equation, shapes', [
    (inner, 'hdmb,hdkb->hmkb', ((2, 3, 4, 5), (2, 3, 6, 5))), (mixed, 'hmkb,hdkb->hdmb', ((2, 4, 6, 5), (2, 3, 6, 5)))])
def test_products_within_a_row_and_their_derivatives_are_einsum_s(product, equation, shapes):
    keys = jax.random.split(jax.random.key(0))
    x, y = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes))
    plain = functools.partial(jnp.einsum, equation)
    np.testing.assert_allclose(product(x, y), plain(x, y), rtol=1e-5, atol=1e-5)
    found, expected = (jax.grad(lambda x, y: jnp.sin(f(x, y)).sum(), argnums=(0, 1))(x, y) for f in (product, plain))
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
