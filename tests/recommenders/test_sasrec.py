"""SASRec against a slow NumPy float64 one; what a state may have seen."""

import jax
import numpy as np
import pytest

from tests.recommenders.slow_sequences import (
    A, E, HISTORY, I, MAX, USER, check_predictor, check_predictor_gradients, plain, random_params, real, slow_encoder)
from xrec_jax.errors import UserError
from xrec_jax.recommenders import sequences
from xrec_jax.recommenders.sasrec import SASRec, SASRecPredictor

MODEL = SASRec(I, E, MAX, inner=7)
PARAMS = random_params(MODEL.init, USER, HISTORY)


STATES = jax.jit(lambda items: MODEL.apply({'params': PARAMS}, items, method='states'))
VECTORS = jax.jit(lambda history: MODEL.apply({'params': PARAMS}, USER, history, method='user_vectors'))


def states(items):
    return np.asarray(STATES(items))


def test_states_equal_the_slow_model():
    p = plain(PARAMS)
    fast = states(HISTORY)
    assert fast.dtype == np.float32
    for b, row in enumerate(HISTORY):
        slow = slow_encoder(p['encoder'], [p['item_embedding'][i - 1] for i in real(row)], causal=True)
        np.testing.assert_allclose(fast[b, -len(slow):], slow, rtol=2e-5, atol=2e-5)
        assert not fast[b, :-len(slow)].any()


def test_scores_are_products_with_the_state_of_the_last_item():
    scores = jax.jit(MODEL.apply)({'params': PARAMS}, USER, HISTORY)
    expected = np.einsum('BE,IE->BI', states(HISTORY)[:, -1], plain(PARAMS)['item_embedding'][:I])
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)
    assert MODEL.apply({'params': PARAMS}, method='item_vectors').shape == (I, E)


def test_the_last_state_alone_has_the_gradients_that_it_has_among_all():
    direction = np.random.default_rng(3).normal(size=(len(HISTORY), E))
    of_last, of_all = (jax.jit(jax.grad(lambda params, method=method, at=at: (
        MODEL.apply({'params': params}, HISTORY, method=method)[at] * direction).sum()))(PARAMS)
        for method, at in (('last_state', slice(None)), ('states', np.s_[:, -1])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), of_last, of_all)
    assert np.abs(plain(of_last)['encoder']['qkv_1']['bias'][2]).max() > 1e-3


@pytest.mark.parametrize('place', range(1, 5))
def test_a_later_item_never_changes_an_earlier_state(place):
    before, changed = states(HISTORY), HISTORY.copy()
    changed[:, place:] = changed[:, place:] % I + 1
    after = states(changed)
    shown = HISTORY[:, :place] > 0
    np.testing.assert_array_equal(before[:, :place][shown], after[:, :place][shown])
    assert (before[:, place][HISTORY[:, place] > 0] != after[:, place][HISTORY[:, place] > 0]).any(-1).all()


def test_padding_never_changes_anything():
    for row in HISTORY:
        short = np.array([real(row)], np.int32)
        np.testing.assert_allclose(states(row[None])[:, -short.shape[1]:], states(short), rtol=1e-5, atol=1e-6)


def test_one_pass_gives_the_states_of_all_prefixes():
    row = HISTORY[3:4]
    for n in range(1, MAX):
        np.testing.assert_allclose(states(row)[:, n - 1], states(row[:, :n])[:, -1], rtol=1e-5, atol=1e-6)


def test_order_matters():
    assert not np.allclose(states(HISTORY[3:, ::-1])[:, -1], states(np.array([[10, 2, 1, 8, 5]]))[:, -1], atol=1e-3)


def test_only_the_latest_items_of_a_long_history_are_seen():
    latest = HISTORY[3:].repeat(4, 0)
    np.testing.assert_array_equal(VECTORS(np.concatenate([HISTORY, latest], axis=1)), VECTORS(latest))
    with pytest.raises(ValueError, match='max_length'):
        states(np.ones((1, MAX + 1), np.int32))


def test_a_user_without_history_has_the_zero_vector():
    assert not states(np.zeros((1, MAX), np.int32)).any()


@pytest.mark.parametrize('loss', ['softmax', 'binary'])
def test_training_has_finite_gradients_and_dropout(loss):
    items, targets = sequences.next_items(HISTORY)
    negatives = 1 + np.arange(16).reshape(4, 4, 1) % I

    @jax.jit
    def objective(params, key):
        states = MODEL.apply({'params': params}, items, True, method='states', rngs={'dropout': jax.random.key(key)})
        vectors = MODEL.apply({'params': params}, method='item_vectors')
        if loss == 'softmax':
            return sequences.softmax_cross_entropy(states, vectors, targets)
        return sequences.binary_cross_entropy(states, vectors, targets, negatives)

    gradients = jax.tree.leaves(jax.jit(jax.grad(objective))(PARAMS, 0))
    assert all(np.isfinite(g).all() for g in gradients) and any(np.any(g != 0) for g in gradients)
    assert objective(PARAMS, 0) != objective(PARAMS, 1)


def test_defaults_are_recbole_s():
    model = SASRec(I)
    assert (model.embed_dim, model.max_length, model.layers, model.heads, model.inner, model.dropout,
            model.attention_dropout, model.epsilon) == (64, 50, 2, 2, 256, 0.5, 0.5, 1e-12)
    params = plain(jax.jit(SASRec(2000, layers=1).init)(jax.random.key(0), USER, HISTORY)['params'])
    for weights in (params['item_embedding'], params['encoder']['qkv_0']['kernel'],
                    params['encoder']['attention_out_0']['kernel'], params['encoder']['outer_0']['kernel']):
        assert abs(weights.std() - 0.02) < 1e-3


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match='heads=3'):
        SASRec(I, E, heads=3).init(jax.random.key(0), USER, HISTORY)


def slow_state(p, users, items):
    return slow_encoder(p['encoder'], items[-MAX:], causal=True)[-1]


@pytest.mark.parametrize('attributes, with_text, width', [(A, True, MAX), (0, False, MAX), (A, False, MAX + 2)])
def test_predictor_equals_the_slow_model(attributes, with_text, width):
    check_predictor(SASRecPredictor, slow_state, attributes, with_text, width)


def test_predictor_gradients_are_finite_without_history():
    check_predictor_gradients(SASRecPredictor)
