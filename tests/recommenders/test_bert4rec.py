"""BERT4Rec against a slow NumPy float64 one; where it predicts."""

import jax
import numpy as np
import pytest

from tests.recommenders.slow_sequences import (
    A, E, HISTORY, I, MAX, USER, check_predictor, check_predictor_gradients, gelu, plain, random_params, real,
    slow_encoder, slow_norm)
from xrec_jax.recommenders import sequences
from xrec_jax.recommenders.bert4rec import BERT4Rec, BERT4RecPredictor

MODEL = BERT4Rec(I, E, MAX, inner=7)
PARAMS = random_params(MODEL.init, USER, HISTORY)


STATES = jax.jit(lambda items: MODEL.apply({'params': PARAMS}, items, method='states'))
VECTORS = jax.jit(lambda history: MODEL.apply({'params': PARAMS}, None, history, method='user_vectors'))


def states(items):
    return np.asarray(STATES(np.asarray(items, np.int32)))


def vectors(history):
    return np.asarray(VECTORS(np.asarray(history, np.int32)))


def slow_head(p, x):
    return slow_norm(p['norm'], gelu(x @ p['transform']['kernel'] + p['transform']['bias']))


def slow_states(items):
    p = plain(PARAMS)
    x = [p['mask_embedding'] if i == I + 1 else p['item_embedding'][i - 1] for i in items]
    return [slow_head(p['head'], s) for s in slow_encoder(p['encoder'], x, causal=False)]


def test_states_equal_the_slow_model_with_and_without_masks():
    masked = HISTORY.copy()
    masked[0, 3] = masked[1, 0] = masked[1, 4] = MODEL.mask_token
    for items in (HISTORY, masked):
        fast = states(items)
        for b, row in enumerate(items):
            slow = slow_states(real(row))
            np.testing.assert_allclose(fast[b, -len(slow):], slow, rtol=1e-4, atol=1e-4)
            assert not fast[b, :-len(slow)].any()


def test_predicts_at_a_mask_after_the_latest_items():
    assert MODEL.mask_token == I + 1
    for b, row in enumerate(HISTORY):
        slow = slow_states(real(row)[-(MAX - 1):] + [I + 1])[-1]
        np.testing.assert_allclose(vectors(HISTORY)[b], slow, rtol=1e-4, atol=1e-4)
    p = plain(PARAMS)
    scores = jax.jit(MODEL.apply)({'params': PARAMS}, USER, HISTORY)
    expected = vectors(HISTORY) @ p['item_embedding'][:I].T + p['item_bias'][:I]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert scores.shape == (4, I)  # the mask token has no score


def test_the_oldest_item_of_a_short_history_counts():
    one, other = np.array([[0, 0, 3, 7, 1]]), np.array([[0, 0, 4, 7, 1]])
    assert not np.allclose(vectors(one), vectors(other), atol=1e-3)


def test_a_masked_state_sees_both_sides_but_not_what_was_masked():
    token = MODEL.mask_token
    state = lambda *row: states(np.array([row]))[0, 2]
    base = state(5, 1, token, 2, 10)
    assert not np.allclose(base, state(6, 1, token, 2, 10), atol=1e-3)
    assert not np.allclose(base, state(5, 1, token, 2, 9), atol=1e-3)
    masked, targets = sequences.cloze(jax.random.key(0), np.array([[5, 1, 8, 2, 10]]), token, last_share=1.0)
    other, _ = sequences.cloze(jax.random.key(0), np.array([[5, 1, 8, 2, 4]]), token, last_share=1.0)
    np.testing.assert_array_equal(states(masked), states(other))


def test_training_and_prediction_see_the_same():
    """A row whose last item is masked has the state that predicts it from the items before."""
    masked, _ = sequences.cloze(jax.random.key(0), HISTORY[3:], MODEL.mask_token, last_share=1.0)
    np.testing.assert_allclose(states(masked)[:, -1], vectors(HISTORY[3:, :-1]), rtol=1e-5, atol=1e-6)


def test_padding_never_changes_anything():
    for row in HISTORY[1:3]:
        short = np.array([real(row)], np.int32)
        np.testing.assert_allclose(vectors(np.pad(short, ((0, 0), (4, 0)))), vectors(short), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(states(row[None])[:, -short.shape[1]:], states(short), rtol=1e-5, atol=1e-6)


def test_training_has_finite_gradients_that_reach_the_mask_token():
    masked, targets = sequences.cloze(jax.random.key(3), HISTORY, MODEL.mask_token, ratio=0.5)
    assert np.any(targets)

    @jax.jit
    def objective(params, key):
        apply = lambda *args, method, **options: MODEL.apply({'params': params}, *args, method=method, **options)
        states = apply(masked, True, method='states', rngs={'dropout': jax.random.key(key)})
        return sequences.softmax_cross_entropy(states, apply(method='item_vectors'), targets, apply(method='item_bias'))

    gradients = jax.jit(jax.grad(objective))(PARAMS, 0)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    for name in ('mask_embedding', 'item_embedding', 'item_bias'):
        assert np.any(jax.tree.leaves(gradients[name])[0] != 0)
    assert objective(PARAMS, 0) != objective(PARAMS, 1)


def test_training_on_the_next_item_at_every_position_is_refused():
    with pytest.raises(ValueError, match='cloze_loss'):
        MODEL.apply({'params': PARAMS}, USER, HISTORY, method='user_vectors_by_position')


def test_defaults_are_recbole_s():
    model = BERT4Rec(I)
    assert (model.embed_dim, model.max_length, model.layers, model.heads, model.inner, model.dropout,
            model.attention_dropout, model.epsilon) == (64, 50, 2, 2, 256, 0.2, 0.2, 1e-12)


def slow_state(p, users, items):
    x = [*items[-(MAX - 1):], p['mask_embedding']]
    return slow_head(p['head'], slow_encoder(p['encoder'], x, causal=False)[-1])


@pytest.mark.parametrize('attributes, with_text, width', [(A, True, MAX), (0, False, MAX), (A, False, MAX + 2)])
def test_predictor_equals_the_slow_model(attributes, with_text, width):
    check_predictor(BERT4RecPredictor, slow_state, attributes, with_text, width)


def test_predictor_gradients_are_finite_without_history():
    check_predictor_gradients(BERT4RecPredictor)
