"""xDeepFM against a slow NumPy one: map by map, pair by pair, dimension by dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.errors import UserError
from xrec_jax.recommenders.xdeepfm import XDeepFM


def slow_cin(p, v, split=False):
    """Pooled maps, layer after layer."""
    maps, pooled, n = v, [], 0
    while f'cin_{n}' in p:
        kernel = p[f'cin_{n}']['kernel'].reshape(len(maps), len(v), -1)
        out = []
        for m in range(kernel.shape[-1]):
            here = np.zeros(slow.E)
            for h in range(len(maps)):
                for f in range(len(v)):
                    here += kernel[h, f, m] * maps[h] * v[f]
            out.append(here)
        n += 1
        half = len(out) // 2 if split and f'cin_{n}' in p else 0
        maps = out[:half] if half else out
        pooled += [sum(x) for x in out[half:]]
    return pooled


def slow_xdeepfm(p, ids, attributes, text, split=False):
    v = slow.rows_of(p['embedding'], ids, attributes)
    deep = slow.relu_mlp(p, [x for f in v for x in f] + slow.features(p, text))
    return (p['bias'] + sum(slow.rows_of(p['weight'], ids, attributes))
            + slow.linear(p['cin_out'], slow_cin(p, v, split))[0] + slow.linear(p['mlp_out'], deep)[0])


def case(**options):
    return slow.case(XDeepFM, **dict(cin=(6, 4, 3)) | options)


@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection):
    slow.check_equal(slow_xdeepfm, *case(attributes=attributes, projection=projection))


def test_split_equals_the_slow_model():
    slow.check_equal(lambda *row: slow_xdeepfm(*row, split=True), *case(projection=3, split=True))


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


@pytest.mark.parametrize('layer', [0, 1, 2])
def test_layer_k_is_of_degree_k_plus_one(layer):
    """Each layer multiplies with X^0 once more; multiplied with itself, the degree would double."""
    model, params, ids, many, _ = case(mlp=())
    start = [0, 6, 10, 13]
    read = jnp.zeros((13, 1)).at[start[layer]:start[layer + 1]].set(1.0)
    params |= {'cin_out': {'kernel': read}, 'weight': 0 * params['weight'], 'bias': 0.0,
               'mlp_out': jax.tree.map(jnp.zeros_like, params['mlp_out'])}
    one, two = (model.apply({'params': params | {'embedding': s * params['embedding']}}, ids, many) for s in (1.0, 2.0))
    assert np.abs(one).max() > 1e-3
    np.testing.assert_allclose(two, 2.0 ** (layer + 2) * one, rtol=1e-4, atol=1e-5)  # layer 0 holds X^1, pairs


def test_dimensions_never_meet_in_the_cin():
    model, params, ids, many, _ = case()
    params['mlp_out'] = jax.tree.map(jnp.zeros_like, params['mlp_out'])
    one, other = (model.apply({'params': params | {'embedding': table}}, ids, many)
                  for table in (params['embedding'], params['embedding'][:, ::-1]))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('options, message', [
    (dict(cin=()), 'at least one layer'), (dict(cin=(4, 0)), 'at least one map'),
    (dict(cin=[5, 4], split=True), 'should be even')])
def test_layers_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        XDeepFM(vocab_size=9, **options)
