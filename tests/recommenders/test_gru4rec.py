"""GRU4Rec against a slow NumPy float64 one, item by item."""

import jax
import numpy as np
import pytest

from tests.recommenders.slow_sequences import (
    A, E, HISTORY, I, MAX, USER, check_predictor, check_predictor_gradients, plain, random_params, real, sigmoid)
from xrec_jax.recommenders import sequences
from xrec_jax.recommenders.gru4rec import GRU4Rec, GRU4RecPredictor

HIDDEN = 3


def slow_recurrent(p, vectors, layers):
    x = list(vectors)
    for n in range(layers):
        of_x, of_h = (np.split(p[f'{name}_{n}'], 3, axis=1) for name in ('input', 'recurrent'))
        h, states = np.zeros(of_h[0].shape[0]), []
        for v in x:
            r, z = (sigmoid(v @ of_x[i] + h @ of_h[i]) for i in (0, 1))
            h = (1 - z) * np.tanh(v @ of_x[2] + r * (h @ of_h[2])) + z * h
            states.append(h)
        x = states
    return [h @ p['dense']['kernel'] + p['dense']['bias'] for h in x]


def case(layers=1):
    model = GRU4Rec(I, E, MAX, hidden=HIDDEN, layers=layers)
    params = random_params(model.init, USER, HISTORY)
    return model, params, jax.jit(lambda items: model.apply({'params': params}, items, method='states'))


@pytest.mark.parametrize('layers', [1, 2])
def test_states_equal_the_slow_model(layers):
    _, params, states = case(layers)
    p, fast = plain(params), np.asarray(states(HISTORY))
    assert fast.dtype == np.float32
    for b, row in enumerate(HISTORY):
        slow = slow_recurrent(p['recurrent'], [p['item_embedding'][i - 1] for i in real(row)], layers)
        np.testing.assert_allclose(fast[b, -len(slow):], slow, rtol=2e-5, atol=2e-5)
        assert not fast[b, :-len(slow)].any()


def test_scores_are_products_with_the_last_state():
    model, params, states = case()
    scores = jax.jit(model.apply)({'params': params}, USER, HISTORY)
    expected = states(HISTORY)[:, -1] @ plain(params)['item_embedding'][:I].T
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)


def test_padding_never_changes_anything():
    _, _, states = case(2)
    for row in HISTORY:
        short = np.array([real(row)], np.int32)
        np.testing.assert_allclose(states(np.pad(short, ((0, 0), (4, 0))))[:, 4:], states(short), rtol=1e-5, atol=1e-6)


def test_a_later_item_never_changes_an_earlier_state():
    _, _, states = case()
    changed = HISTORY.copy()
    changed[:, 3:] = changed[:, 3:] % I + 1
    np.testing.assert_array_equal(states(HISTORY)[:, :3], states(changed)[:, :3])


def test_training_has_finite_gradients_and_dropout():
    model, params, _ = case()
    items, targets = sequences.next_items(HISTORY)

    @jax.jit
    def objective(params, key):
        states = model.apply({'params': params}, items, True, method='states', rngs={'dropout': jax.random.key(key)})
        vectors = model.apply({'params': params}, method='item_vectors')
        return sequences.softmax_cross_entropy(states, vectors, targets)

    gradients = jax.tree.leaves(jax.jit(jax.grad(objective))(params, 0))
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in gradients)
    assert objective(params, 0) != objective(params, 1)


def test_defaults_are_recbole_s():
    model = GRU4Rec(I)
    assert (model.embed_dim, model.max_length, model.hidden, model.layers, model.dropout) == (64, 50, 128, 1, 0.3)
    p = plain(jax.jit(model.init)(jax.random.key(0), USER, HISTORY)['params'])['recurrent']
    for kernel in (p['input_0'], p['recurrent_0']):  # Xavier's bound over both fans of the three gates together
        assert 0.99 < np.abs(kernel).max() / np.sqrt(6 / sum(kernel.shape)) <= 1
    for leaf in p['dense'].values():
        assert 0.9 < np.abs(leaf).max() * np.sqrt(128) <= 1


def slow_state(p, users, items):
    return slow_recurrent(p['recurrent'], items[-MAX:], 1)[-1]


@pytest.mark.parametrize('attributes, with_text, width', [(A, True, MAX), (0, False, MAX), (A, False, MAX + 2)])
def test_predictor_equals_the_slow_model(attributes, with_text, width):
    check_predictor(GRU4RecPredictor, slow_state, attributes, with_text, width)


def test_predictor_gradients_are_finite_without_history():
    check_predictor_gradients(GRU4RecPredictor)
