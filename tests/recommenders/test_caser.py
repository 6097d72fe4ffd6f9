"""Caser against a slow NumPy float64 one: filter by filter, window by window."""

import jax
import numpy as np
import pytest

from tests.recommenders.slow_sequences import (
    A, E, HISTORY, I, MAX, U, USER, check_predictor, check_predictor_gradients, plain, random_params, real)
from xrec_jax.recommenders import sequences
from xrec_jax.recommenders.caser import Caser, CaserPredictor, window

MODEL = Caser(num_items=I, num_users=U, embed_dim=E, max_length=MAX, horizontal=3, vertical=2)
PARAMS = random_params(MODEL.init, USER, HISTORY)


VECTORS = jax.jit(lambda user, history: MODEL.apply({'params': PARAMS}, user, history, method='user_vectors'))


def vectors(user, history):
    return np.asarray(VECTORS(user, history))


def slow_convolutions(p, items):
    image = np.zeros((MAX, E))
    for n, v in enumerate(reversed(items[-MAX:])):
        image[MAX - 1 - n] = v
    parts = []
    for h in range(1, MAX + 1):
        layer = p[f'horizontal_{h}']
        for k in range(layer['kernel'].shape[1]):
            filter_ = layer['kernel'][:, k].reshape(h, E)
            parts.append(max(max(0.0, float((filter_ * image[t:t + h]).sum() + layer['bias'][k]))
                             for t in range(MAX - h + 1)))
    for e in range(E):
        for k in range(p['vertical']['kernel'].shape[1]):
            vertical = sum(p['vertical']['kernel'][l, k] * image[l, e] for l in range(MAX))
            parts.append(vertical + p['vertical']['bias'][k])
    return np.maximum(0, np.array(parts) @ p['dense']['kernel'] + p['dense']['bias'])


def test_user_vectors_equal_the_slow_model():
    p, fast = plain(PARAMS), vectors(USER, HISTORY)
    assert fast.dtype == np.float32 and fast.shape == (4, 2 * E)
    for b, row in enumerate(HISTORY):
        z = slow_convolutions(p['convolutions'], [p['item_embedding'][i - 1] for i in real(row)])
        np.testing.assert_allclose(fast[b], np.concatenate([z, p['user_embedding'][USER[b]]]), rtol=2e-5, atol=2e-5)


def test_scores_use_the_output_layer_and_its_bias():
    p = plain(PARAMS)
    scores = jax.jit(MODEL.apply)({'params': PARAMS}, USER, HISTORY)
    expected = vectors(USER, HISTORY) @ p['item_output'][:I].T + p['item_bias'][:I]
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)
    assert MODEL.apply({'params': PARAMS}, method='item_vectors').shape == (I, 2 * E)


@pytest.mark.parametrize('row', HISTORY)
def test_padding_and_items_before_the_last_l_never_change_anything(row):
    short, user = np.array([real(row)], np.int32), USER[:1]
    padded = np.pad(short, ((0, 0), (4, 0)))
    np.testing.assert_allclose(vectors(user, padded), vectors(user, short), rtol=1e-5, atol=1e-6)
    full = HISTORY[3:]
    np.testing.assert_array_equal(vectors(user, np.concatenate([short, full], axis=1)), vectors(user, full))


def test_order_and_user_matter():
    assert not np.allclose(vectors(USER, HISTORY)[3, :E], vectors(USER, HISTORY[:, ::-1])[3, :E], atol=1e-3)
    assert not np.allclose(vectors(USER, HISTORY), vectors((USER + 1) % U, HISTORY), atol=1e-3)


def test_a_window_ends_at_its_position():
    np.testing.assert_array_equal(window(np.array([[0, 1, 2, 3]]), 3), [[[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]])


def test_one_pass_trains_on_all_prefixes():
    items, targets = sequences.next_items(HISTORY)
    apply = lambda params, *args, **options: MODEL.apply({'params': params}, *args, **options)
    states = jax.jit(lambda: apply(PARAMS, USER, items, method='user_vectors_by_position'))()
    assert states.shape == (4, 4, 2 * E)
    for n in range(1, 5):
        np.testing.assert_allclose(states[:, n - 1], vectors(USER, items[:, :n]), rtol=1e-5, atol=1e-6)

    @jax.jit
    def objective(params, key):
        states = apply(params, USER, items, train=True, method='user_vectors_by_position',
                       rngs={'dropout': jax.random.key(key)})
        vectors, bias = (apply(params, method=method) for method in ('item_vectors', 'item_bias'))
        return sequences.softmax_cross_entropy(states, vectors, targets, bias)

    gradients = jax.tree.leaves(jax.jit(jax.grad(objective))(PARAMS, 0))
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in gradients)
    assert objective(PARAMS, 0) != objective(PARAMS, 1)


def test_defaults_are_the_authors_length_and_recbole_s_widths():
    model = Caser(num_items=I, num_users=U)
    assert (model.embed_dim, model.max_length, model.horizontal, model.vertical, model.dropout) == (64, 5, 8, 4, 0.4)


def slow_state(p, users, items):
    z = slow_convolutions(p['convolutions'], items)
    return np.concatenate([z, np.sum(users, axis=0)]) @ p['state']['kernel']


@pytest.mark.parametrize('attributes, with_text, width', [(A, True, MAX), (0, False, MAX), (A, False, MAX + 2)])
def test_predictor_equals_the_slow_model(attributes, with_text, width):
    check_predictor(CaserPredictor, slow_state, attributes, with_text, width)


def test_predictor_gradients_are_finite_without_history():
    check_predictor_gradients(CaserPredictor)
