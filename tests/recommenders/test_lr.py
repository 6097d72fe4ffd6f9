"""LR against a slow NumPy one, and that nothing interacts in it."""

import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.recommenders.lr import LR


def slow_lr(p, ids, attributes, text):
    logit = p['bias'] + sum(slow.rows_of(p['weight'], ids, attributes))
    if text is not None:
        logit += slow.linear(p['text_out'], slow.features(p, text))[0]
    return logit


@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection):
    slow.check_equal(slow_lr, *slow.case(LR, attributes=attributes, projection=projection))


@pytest.mark.parametrize('projection', [0, 3])
def test_no_text_is_exactly_zero_text(projection):
    slow.check_zero_text_is_no_text(*slow.case(LR, projection=projection))


def test_absent_ids_have_no_say():
    slow.check_absent_ids_have_no_say(*slow.case(LR, projection=3))


def test_gradients_are_finite():
    slow.check_gradients_are_finite(*slow.case(LR, projection=3))


def test_parameters_have_axes():
    model, _, ids, many, _ = slow.case(LR, projection=3)
    slow.check_parameters_have_axes(model, ids, many)


def test_it_has_weights_only():
    _, params, *_ = slow.case(LR)
    assert {name: leaf.shape for name, leaf in params.items()} == {'weight': (slow.V,), 'bias': ()}
    _, params, *_ = slow.case(LR, projection=0)
    assert set(params['text_out']) == {'kernel'}  # w0 is the one bias


def test_all_users_like_one_item_more_than_another_by_as_much():
    model, params, ids, many, text = slow.case(LR, projection=3)
    user, item = np.divmod(np.arange(slow.B ** 2), slow.B)
    pairs = np.concatenate([ids[user, :2], ids[item, 2:]], axis=1)
    table = model.apply({'params': params}, pairs, many[item], text[item]).reshape(slow.B, slow.B)
    np.testing.assert_allclose(table - table[:, :1], np.broadcast_to(table[:1] - table[0, 0], table.shape), atol=1e-5)


def test_a_value_named_twice_weighs_no_more():
    model, params, ids, many, _ = slow.case(LR)
    once, twice = np.zeros_like(many), np.zeros_like(many)
    once[:, 0] = twice[:, 0] = twice[:, 1] = 5
    np.testing.assert_allclose(model.apply({'params': params}, ids, once), model.apply({'params': params}, ids, twice),
                               rtol=1e-6)
