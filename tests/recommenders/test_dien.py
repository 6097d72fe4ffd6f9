"""DIEN against a slow NumPy one: step by step, gate by gate; and the auxiliary loss, pair by pair."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from tests.recommenders.test_din import (check_equal, check_history_gradients, check_pads_have_no_say, history_case,
                                         sigmoid, slow_layers, slow_parts, tiny_rows)
from xrec_jax.recommenders import dien, training
from xrec_jax.recommenders.rows import inputs
from xrec_jax.recommenders.dien import DIEN, GRU


def slow_gru(p, inputs, attention=None):
    """The states after each input; what is new enters by the update gate."""
    state, states = np.zeros(len(p['kernel'])), []
    for t, x in enumerate(inputs):
        x, y = np.split(np.array(slow.linear(p['input'], x)), 3), np.split(state @ p['kernel'], 3)
        update, reset = sigmoid(x[0] + y[0]), sigmoid(x[1] + y[1])
        if attention is not None:
            update = attention[t] * update
        state = (1 - update) * state + update * np.tanh(x[2] + reset * y[2])
        states.append(state)
    return states


def slow_dien(p, text, *row):
    user, target, past = slow_parts(p, *row)
    interests = slow_gru(p['extractor'], past)
    scores = [np.exp(np.dot(h, slow.linear(p['attention'], target))) for h in interests]
    evolved = slow_gru(p['evolving'], interests, [s / sum(scores) for s in scores])
    last = evolved[-1] if past else np.zeros(len(p['evolving']['kernel']))
    hidden = np.concatenate([user, last, target, slow.features(p, text)])
    return slow.linear(p['mlp_out'], slow_layers(p, 'mlp', hidden))[0]


def slow_auxiliary(p, past, negatives):
    """One row's; `negatives` has an item or None (left out) for each step."""
    def score(h, e):
        hidden = np.concatenate([h, e])
        for n in range(2):
            hidden = sigmoid(np.array(slow.linear(p[f'auxiliary_{n}'], hidden)))
        return sigmoid(slow.linear(p['auxiliary_out'], hidden)[0])

    interests, losses = slow_gru(p['extractor'], past), []
    for t in range(len(past) - 1):
        loss = -np.log(score(interests[t], past[t + 1]))
        if negatives[t] is not None:
            loss -= np.log(1 - score(interests[t], negatives[t]))
        losses.append(loss)
    return np.mean(losses) if losses else 0.0


def case(**options):
    return history_case(DIEN, **dict(hidden_dim=6, auxiliary_mlp=(5, 4)) | options)


def auxiliary(model, params, ids, many, history, key=0):
    """What is sown, [B]."""
    _, more = jax.jit(lambda history: model.apply({'params': params}, ids, many, None, history, train=True,
                                                  rngs={'dropout': jax.random.key(key)}, mutable=['losses']))(history)
    return more['losses']['auxiliary'][0]


@pytest.mark.parametrize('attributes, projection', [(slow.A, None), (0, None), (slow.A, 3)])
def test_equals_the_slow_model(attributes, projection):
    check_equal(slow_dien, *case(attributes=attributes, projection=projection))


def test_prelu_and_verdicts_equal_the_slow_model():
    check_equal(slow_dien, *case(activation='prelu', use_liked=True))


def test_no_text_is_exactly_zero_text():
    model, params, ids, many, text, history = case(projection=3)
    apply = lambda text: np.asarray(model.apply({'params': params}, ids, many, text, history))
    np.testing.assert_array_equal(apply(None), apply(np.zeros_like(text)))
    differs = apply(None) != apply(text)
    assert not differs[2] and differs[[0, 1, 3, 4, 5, 6]].all()


def test_pads_have_no_say():
    check_pads_have_no_say(*case())


def test_gradients_are_finite():
    check_history_gradients(*case(projection=3))


def test_parameters_have_axes():
    model, _, ids, many, _, history = case(projection=3)
    bound = type('Bound', (), {'init': lambda _, key, *args: model.init(key, *args, None, history)})()
    slow.check_parameters_have_axes(bound, ids, many)


def test_attention_scales_the_gate_of_what_is_new():
    """Nothing of an item that has no attention enters the state; all attention is a plain GRU."""
    inputs = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    mask = np.ones((2, 5), bool)
    model = GRU(4)
    params = model.init(jax.random.key(0), inputs, mask)
    apply = lambda *args: np.asarray(model.apply(params, inputs, mask, *args))
    assert (apply(jnp.zeros((2, 5))) == 0).all()
    np.testing.assert_array_equal(apply(jnp.ones((2, 5))), apply())
    some = apply(jnp.asarray([[1, 0, 1, 0, 0]] * 2, jnp.float32))
    assert (some[:, 1] == some[:, 0]).all() and (some[:, 4] == some[:, 2]).all() and (some[:, 2] != some[:, 1]).all()


def test_auxiliary_loss_equals_the_slow_one(monkeypatch):
    model, params, ids, many, _, history = case(auxiliary_weight=0.5, activation='prelu')
    drawn = np.random.default_rng(0).choice(np.flatnonzero(history.mask), history.mask.shape)
    drawn[3, 2] = 3 * history.mask.shape[1] + 2  # what really came next
    monkeypatch.setattr(dien, 'draw', lambda key, mask: jnp.asarray(drawn))
    p, width = slow.plain(params), history.mask.shape[1]
    item = lambda place: slow_parts(p, ids[0], many[0], history.ids.reshape(-1, history.ids.shape[-1])[[place]],
                                    history.attributes.reshape(-1, slow.A)[[place]])[2][0]
    expected, left_out = [], 0
    for b, mask in enumerate(history.mask):
        past = slow_parts(p, ids[b], many[b], history.ids[b][mask], history.attributes[b][mask])[2]
        places = np.flatnonzero(mask)
        negatives = [None if drawn[b, t] == b * width + t else item(drawn[b, t]) for t in places[1:]]
        left_out += sum(n is None for n in negatives)
        expected.append(0.5 * slow_auxiliary(p, past, negatives))
    assert left_out >= 1
    np.testing.assert_allclose(auxiliary(model, params, ids, many, history), expected, rtol=2e-5)


def test_the_auxiliary_loss_looks_at_the_next_item():
    """A last item that is the first's only successor counts; an only item, which has none, does not."""
    model, params, ids, many, _, history = case(activation='prelu')
    losses = auxiliary(model, params, ids, many, history)
    lengths = history.mask.sum(1)
    assert (losses[lengths < 2] == 0).all() and (losses[lengths >= 2] > 0).all()
    at = int(np.flatnonzero(lengths == 2)[0])
    # All else equal, negatives too: the states before the last item do not see it.
    changed = history.ids.copy()
    changed[at, -1] = (changed[at, -1] + 1) % slow.V
    changed = dataclasses.replace(history, ids=changed)
    assert not np.isclose(auxiliary(model, params, ids, many, changed)[at], losses[at])


def test_negatives_are_items_that_are_there_all_alike():
    mask = np.random.default_rng(0).random((60, 40)) < 0.3
    places = np.asarray(dien.draw(jax.random.key(0), jnp.asarray(mask)))
    assert places.shape == mask.shape and mask.reshape(-1)[places].all()
    thirds = np.histogram(np.cumsum(mask.reshape(-1))[places], 3)[0] / places.size
    np.testing.assert_allclose(thirds, 1 / 3, atol=0.04)
    assert len(np.unique(places)) > 0.9 * mask.sum()
    assert (np.asarray(dien.draw(jax.random.key(0), jnp.zeros((2, 3), bool))) < 6).all()  # none at all: no harm


def test_nothing_is_sown_without_weight_or_outside_of_training():
    for options, train in (dict(auxiliary_weight=0.0), True), ({}, False):
        model, params, ids, many, _, history = case(**options)
        _, more = model.apply({'params': params}, ids, many, None, history, train=train, mutable=['losses'],
                              rngs={'dropout': jax.random.key(0)})
        assert not more
    assert 'auxiliary_0' not in case(auxiliary_weight=0.0)[1]


def test_training_adds_the_auxiliary_loss_of_the_rows_that_are_there():
    fields, rows = tiny_rows(12)
    config = training.TrainConfig(batch_size=12, learning_rate=1e-2)
    model = DIEN(vocab_size=128, embed_dim=3, mlp=(5,), hidden_dim=4, auxiliary_mlp=(3,))
    start = training.init_state(model, config, fields, jax.random.key(0))
    loss = lambda model: float(training.run_epoch(model, config, fields, start, rows, rows)[1]['loss'])
    # As run_epoch derives its keys, of the one batch that there is.
    order_key, key = jax.random.split(jax.random.fold_in(start.key, 0))
    order = jax.random.permutation(order_key, 12)
    batch = jax.tree.map(lambda x: x[order], rows)
    dropout_key, _ = jax.random.split(jax.random.fold_in(key, 0))
    _, more = model.apply({'params': start.params}, *inputs(model, fields, batch), train=True,
                          rngs={'dropout': dropout_key}, mutable=['losses'])
    alone = loss(dataclasses.replace(model, auxiliary_weight=0.0))
    added = float(np.mean(more['losses']['auxiliary'][0]))
    assert added > 0.1 and loss(model) - alone == pytest.approx(added, rel=1e-4)
