"""FM against a slow NumPy one that counts pair by pair."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.recommenders import fm
from xrec_jax.recommenders.fm import FM


def slow_pairs(v):
    return sum(slow.dot(v[f], v[g]) for f in range(len(v)) for g in range(f))


def slow_fm(p, ids, attributes, text):
    logit = p['bias'] + sum(slow.rows_of(p['weight'], ids, attributes))
    if text is not None:
        logit += slow.linear(p['text_out'], slow.features(p, text))[0]
    return logit + slow_pairs(slow.rows_of(p['embedding'], ids, attributes))


@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection):
    slow.check_equal(slow_fm, *slow.case(FM, attributes=attributes, projection=projection))


@pytest.mark.parametrize('projection', [0, 3])
def test_no_text_is_exactly_zero_text(projection):
    slow.check_zero_text_is_no_text(*slow.case(FM, projection=projection))


def test_absent_ids_have_no_say():
    slow.check_absent_ids_have_no_say(*slow.case(FM, projection=3))


def test_gradients_are_finite():
    slow.check_gradients_are_finite(*slow.case(FM, projection=3))


def test_parameters_have_axes():
    model, _, ids, many, _ = slow.case(FM, projection=3)
    slow.check_parameters_have_axes(model, ids, many)


def test_a_field_alone_is_in_no_pair():
    v = np.zeros((2, 4, 5), np.float32)
    v[0, 1] = [1, 2, 3, 4, 5]
    v[1, 1:3] = [1, 2, 3, 4, 5]  # two alike are one pair
    np.testing.assert_array_equal(fm.pairs(jnp.asarray(v)), [0, 55])


def test_explanations_are_in_no_pair():
    model, params, ids, many, text = slow.case(FM, projection=0)
    gain = [model.apply({'params': params}, i, many, text) - model.apply({'params': params}, i, many, None)
            for i in (ids, ids[::-1])]  # the same for whatever ids
    np.testing.assert_allclose(*gain, atol=1e-5)
