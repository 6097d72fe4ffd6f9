"""DSSM against a slow NumPy one, and that its towers are two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.errors import UserError
from xrec_jax.recommenders import dssm
from xrec_jax.recommenders.dssm import DSSM


def slow_dssm(p, ids, attributes, text, gamma=1.0):
    v = slow.rows_of(p['embedding'], ids, attributes)
    towers = {'user': [x for f in v[:2] for x in f],
              'item': [x for f in v[2:] for x in f] + slow.features(p, text)}
    for name in towers:
        for n in range(2):
            hidden = slow.linear(p[f'{name}_mlp_{n}'], towers[name])
            towers[name] = [np.tanh(x) for x in slow.normalised(p, f'{name}_mlp_{n}_norm', hidden)]
    length = {name: np.sqrt(slow.dot(y, y)) for name, y in towers.items()}
    return gamma * slow.dot(towers['user'], towers['item']) / (length['user'] * length['item'])


@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection):
    slow.check_equal(slow_dssm, *slow.case(DSSM, attributes=attributes, projection=projection))


def test_with_batch_normalisation_it_equals_the_slow_model_too():
    model, params, *inputs = slow.case(DSSM, projection=3, batch_norm=True)
    assert [name for name in params if name.endswith('_norm')]
    slow.check_equal(slow_dssm, model, params, *inputs)


def test_gamma_is_the_scale_of_the_cosine():
    model, params, ids, many, text = slow.case(DSSM, projection=3, gamma=10.0)
    slow.check_equal(lambda *row: slow_dssm(*row, gamma=10.0), model, params, ids, many, text)
    assert DSSM(vocab_size=slow.V).gamma == 1.0


@pytest.mark.parametrize('projection', [0, 3])
def test_no_text_is_exactly_zero_text(projection):
    slow.check_zero_text_is_no_text(*slow.case(DSSM, projection=projection))


def test_absent_ids_have_no_say():
    slow.check_absent_ids_have_no_say(*slow.case(DSSM, projection=3))


def test_gradients_are_finite():
    slow.check_gradients_are_finite(*slow.case(DSSM, projection=3))


def test_parameters_have_axes():
    model, _, ids, many, _ = slow.case(DSSM, projection=3)
    slow.check_parameters_have_axes(model, ids, many)


def test_nothing_of_the_item_reaches_the_user_tower():
    # Two towers that end in 2 numbers: the table of all users by all items has rank 2, or they are not apart.
    model, params, ids, many, text = slow.case(DSSM, projection=3, mlp=(8, 2))
    user, item = np.divmod(np.arange(slow.B ** 2), slow.B)
    pairs = np.concatenate([ids[user, :2], ids[item, 2:]], axis=1)
    table = model.apply({'params': params}, pairs, many[item], text[item]).reshape(slow.B, slow.B)
    values = np.linalg.svd(table, compute_uv=False)
    assert values[1] > 0.1 and values[2] < 1e-5
    assert np.ptp(np.asarray(table), axis=0).min() > 1e-3 and np.ptp(np.asarray(table), axis=1).min() > 1e-3


def test_a_vector_of_zeros_has_cosine_zero_and_a_finite_gradient():
    x, y = jnp.zeros((1, 3)), jnp.asarray([[1.0, 2.0, 2.0]])
    assert dssm.cosine(x, y) == 0 and dssm.cosine(x, x) == 0
    np.testing.assert_allclose(jax.grad(lambda x: dssm.cosine(x, y)[0])(x), [[1 / 3, 2 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(dssm.cosine(-3 * y, y), [-1], rtol=1e-6)


def test_dropout_acts_in_training_only():
    model, params, ids, many, text = slow.case(DSSM, projection=3)
    score = lambda n: model.apply({'params': params}, ids, many, text, train=True, rngs={'dropout': jax.random.key(n)})
    assert not np.allclose(score(0), score(1))
    np.testing.assert_array_equal(score(0), score(0))


def test_an_item_may_be_an_explanation_alone():
    model, _, ids, many, text = slow.case(DSSM, projection=0, attributes=0)
    params = model.init(jax.random.key(0), ids[:, :2], many)
    assert np.ptp(np.asarray(model.apply(params, ids[:, :2], many, text))) > 0


def test_a_side_without_fields_is_refused():
    model, _, ids, many, _ = slow.case(DSSM, attributes=0)
    with pytest.raises(UserError, match='the item has none'):
        model.init(jax.random.key(0), ids[:, :2], many)
    with pytest.raises(UserError, match='the user has none'):
        DSSM(vocab_size=slow.V, num_user_fields=0).init(jax.random.key(0), ids, many)
    with pytest.raises(UserError, match='at least one layer'):
        DSSM(vocab_size=slow.V, mlp=[])
