"""PNN against a slow NumPy one, and what its products can and cannot see."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.errors import UserError
from xrec_jax.recommenders import pnn
from xrec_jax.recommenders.pnn import PNN

PRODUCTS = {'inner': dict(inner=True, outer=False), 'outer': dict(inner=False, outer=True),
            'both': dict(inner=True, outer=True)}


def slow_pnn(p, ids, attributes, text, inner=True, outer=False):
    v = slow.rows_of(p['embedding'], ids, attributes)
    hidden = [x for f in v for x in f]
    if inner:
        for f in range(len(v)):
            for g in range(f + 1, len(v)):
                hidden.append(slow.dot(v[f], v[g]))
    if outer:
        total = np.zeros((slow.E, slow.E))
        for f in range(len(v)):  # every field with every field, itself too
            for g in range(len(v)):
                total += np.outer(v[f], v[g])
        hidden.extend(total.reshape(-1))
    return slow.linear(p['mlp_out'], slow.relu_mlp(p, hidden + slow.features(p, text)))[0]


@pytest.mark.parametrize('products', PRODUCTS)
@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection, products):
    options = PRODUCTS[products]
    slow.check_equal(lambda *row: slow_pnn(*row, **options),
                     *slow.case(PNN, attributes=attributes, projection=projection, **options))


@pytest.mark.parametrize('projection', [0, 3])
def test_no_text_is_exactly_zero_text(projection):
    slow.check_zero_text_is_no_text(*slow.case(PNN, projection=projection, mlp=(32,)))


def test_absent_ids_have_no_say():
    slow.check_absent_ids_have_no_say(*slow.case(PNN, projection=3, outer=True))


def test_gradients_are_finite():
    slow.check_gradients_are_finite(*slow.case(PNN, projection=3, outer=True))


def test_parameters_have_axes():
    model, _, ids, many, _ = slow.case(PNN, projection=3)
    slow.check_parameters_have_axes(model, ids, many)


def test_each_pair_is_there_once_and_no_field_with_itself():
    v = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
    products = pnn.inner_products(jnp.asarray(v))
    expected = [[v[b, f] @ v[b, g] for f, g in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))] for b in range(2)]
    np.testing.assert_allclose(products, expected, rtol=1e-5)
    _, params, *_ = slow.case(PNN, attributes=0)
    assert len(params['mlp_0']['kernel']) == 4 * slow.E + 6  # the linear signal and the pairs


def test_inner_products_see_no_rotation_and_outer_ones_no_order_of_fields():
    rng = np.random.default_rng(0)
    v = rng.normal(size=(2, 4, 5)).astype(np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    turned, swapped = (v @ rotation).astype(np.float32), v[:, ::-1]
    same = lambda product, w: np.allclose(product(jnp.asarray(v)), product(jnp.asarray(w)), rtol=1e-3, atol=1e-4)
    assert same(pnn.inner_products, turned) and not same(pnn.inner_products, swapped)
    assert same(pnn.outer_product, swapped) and not same(pnn.outer_product, turned)


def test_published_defaults_are_inner_products_alone():
    assert (PNN(vocab_size=slow.V).inner, PNN(vocab_size=slow.V).outer) == (True, False)
    with pytest.raises(UserError, match='inner or outer products'):
        PNN(vocab_size=slow.V, inner=False)
