"""PETER against a slow NumPy float64 one: rating, both losses of words, and what it writes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from tests.recommenders.slow_sequences import sigmoid, slow_norm
from xrec_jax.errors import UserError
from xrec_jax.recommenders import peter, scoring, training
from xrec_jax.recommenders.rows import Rows
from xrec_jax.recommenders.fields import Fields
from xrec_jax.recommenders.peter import PETER
from xrec_jax.recommenders.words import BOS, EOS, PAD, UNK

E, HEADS, V, T = 6, 2, 11, 5  # V words, T at most in a text
WORDS = np.array([[4, 7, EOS, 0, 0, 0], [5, 5, 6, 10, 9, EOS], [EOS, 0, 0, 0, 0, 0], [UNK, 8, 4, EOS, 0, 0]] + [
    [6, EOS, 0, 0, 0, 0]] * 3, np.int32)


@functools.cache
def case():
    """(model, random params, ids, attributes)."""
    options = dict(embed_dim=E, layers=2, heads=HEADS, inner=7, num_words=V, max_words=T, rating_weight=0.2,
                   context_weight=0.5, explanation_weight=2.0, rating_range=9.0, dropout=0.5)
    model, params, ids, many, _ = slow.case(PETER, **options)
    return model, params, ids, many


@functools.cache
def given():
    """Logits with words, without, and the losses that are sown."""
    model, params, ids, many = case()
    apply = jax.jit(lambda words: model.apply({'params': params}, ids, many, None, None, words, mutable=['losses']))
    logits, more = apply(WORDS)
    without, nothing = apply(None)
    assert not nothing
    return logits, without, {name: values[0] for name, values in more['losses'].items()}


def slow_states(p, ids, many, shown):
    """Last states of user, item and the words `shown`, one after the other."""
    fields = slow.rows_of(p['embedding'], ids, many)
    tokens = [sum(fields[:2]), sum(fields[2:]), *(p['word_table']['embedding'][word] for word in shown)]
    x = []
    for t, token in enumerate(tokens):
        position = np.array([(np.cos if d % 2 else np.sin)(t / 10000 ** (d // 2 * 2 / E)) for d in range(E)])
        x.append(token * np.sqrt(E) + position)
    for n in range(2):
        layer, after = p[f'stack_{n}'], []
        qkv = [v @ layer['qkv']['kernel'] + layer['qkv']['bias'] for v in x]
        for t in range(len(x)):
            mixed, size = [], E // HEADS
            for h in range(HEADS):
                part = lambda s, which: qkv[s][which * E + h * size:which * E + (h + 1) * size]
                seen = [0, 1] if t < 2 else list(range(t + 1))
                logits = np.array([part(t, 0) @ part(s, 1) / np.sqrt(size) for s in seen])
                weights = np.exp(logits - logits.max())
                mixed.append(sum(w * part(s, 2) for w, s in zip(weights / weights.sum(), seen)))
            out = np.concatenate(mixed) @ layer['attention_out']['kernel'] + layer['attention_out']['bias']
            after.append(slow_norm(layer['attention_norm'], x[t] + out, 1e-5))
        x = []
        for a in after:
            hidden = np.maximum(0, a @ layer['inner']['kernel'] + layer['inner']['bias'])
            x.append(slow_norm(layer['inner_norm'], a + hidden @ layer['outer']['kernel'] + layer['outer']['bias'], 1e-5))
    return x


def slow_log_probs(p, state):
    logits = state @ p['head']['kernel'] + p['head']['bias']
    return logits - np.log(np.exp(logits).sum())


def test_the_rating_equals_the_slow_one_with_and_without_words():
    model, params, ids, many = case()
    p, expected = slow.plain(params), []
    for b in range(len(ids)):
        state = slow_states(p, ids[b], many[b], [])[0]
        hidden = sigmoid(state @ p['rating_hidden']['kernel'] + p['rating_hidden']['bias'])
        expected.append((hidden @ p['rating_out']['kernel'] + p['rating_out']['bias'])[0])
    logits, without, _ = given()
    np.testing.assert_allclose(without, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_both_losses_of_words_equal_the_slow_ones():
    model, params, ids, many = case()
    p, context, explanation = slow.plain(params), [], []
    for b, row in enumerate(WORDS):
        text = [int(word) for word in row if word not in (PAD, EOS)]
        states = slow_states(p, ids[b], many[b], [BOS, *text])
        of_item = slow_log_probs(p, states[1])
        context.append(-np.mean([of_item[word] for word in text]) if text else 0.0)
        explanation.append(-np.mean([slow_log_probs(p, state)[word] for state, word in zip(states[2:], [*text, EOS],
                                                                                           strict=True)]))
    scale = 1 / (0.2 * 9.0 ** 2)  # to a rating loss of weight 1, on a scale from 0 to 1
    losses = given()[2]
    np.testing.assert_allclose(losses['context'], 0.5 * scale * np.array(context), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses['explanation'], 2.0 * scale * np.array(explanation), rtol=1e-4)


def test_the_papers_weights_are_five_eighths_on_one_to_five_stars():
    """(s - y)^2 + 0.625 (L_c + L_e) is the paper's 0.1 L_r + L_c + L_e in stars, over 1.6."""
    default = PETER(vocab_size=4)
    assert default.context_weight / (default.rating_weight * default.rating_range ** 2) == pytest.approx(0.625)
    assert (default.layers, default.embed_dim, default.heads, default.inner, default.dropout) == (2, 512, 2, 2048, 0.2)


def test_the_mask_is_the_papers():
    assert np.asarray(peter.visible_places(4)).astype(int).tolist() == [
        [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_pads_behind_a_text_change_nothing():
    model, params, ids, many = case()
    wide = model.apply({'params': params}, ids, many, None, None, np.pad(WORDS, ((0, 0), (0, 3))), mutable=['losses'])
    for name, values in given()[2].items():
        np.testing.assert_allclose(wide[1]['losses'][name][0], values, rtol=1e-5)


def test_writing_is_the_likeliest_word_again_and_again():
    model, params, ids, many = case()
    random = np.random.default_rng(5)  # large weights, that not all texts are one word again and again
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(random.normal(
        scale={'bias': 0.2, 'scale': 1.0}.get(path[-1].key, 1.5), size=leaf.shape), jnp.float32), params)
    swapped = np.arange(V)
    swapped[[EOS, 6]] = 6, EOS  # a word that is often written becomes the end
    params = params | {'head': jax.tree.map(lambda leaf: leaf[..., swapped], params['head'])}
    written = np.asarray(peter.generate(model, params, ids, many, T))
    p, expected = slow.plain(params), []
    for b in range(len(ids)):
        text = []
        while len(text) < T and EOS not in text:
            log_probs = slow_log_probs(p, slow_states(p, ids[b], many[b], [BOS, *text])[-1])
            log_probs[[PAD, BOS, UNK]] = -np.inf
            text.append(int(np.argmax(log_probs)))
        expected.append(text + [PAD] * (T - len(text)))
    assert written.tolist() == expected
    ends = [row.index(EOS) if EOS in row else T for row in expected]
    assert {0, 2, T} <= set(ends) and len({tuple(row) for row in expected}) > 3


def test_absent_fields_have_no_say_and_parameters_have_axes():
    model, params, ids, many = case()
    changed = params | {'embedding': params['embedding'].at[0].set(100.0)}
    apply = jax.jit(lambda p: model.apply({'params': p}, ids, many))
    np.testing.assert_array_equal(apply(params), apply(changed))
    slow.check_parameters_have_axes(model, ids, many)


def test_what_cannot_be_is_refused():
    model, params, ids, many = case()
    with pytest.raises(ValueError, match='learns from words'):
        model.apply({'params': params}, ids, many, train=True)
    with pytest.raises(ValueError, match='reads no explanations'):
        model.apply({'params': params}, ids, many, np.zeros((len(ids), 1, 2)))
    for changes, message in (dict(heads=4), 'split over heads'), (dict(rating_weight=0.0), 'above 0'), (
            dict(max_words=0), 'at least 1'):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(model, **changes)


def test_it_learns_ratings_and_what_to_say():
    """The item decides the rating and the first word, the user the second; validation rows have no words."""
    random = np.random.default_rng(0)
    user, item = random.integers(0, 4, 96), random.integers(0, 3, 96)
    fields = Fields(jnp.arange(1, 5)[:, None], jnp.arange(5, 8)[:, None], jnp.zeros((3, 0), jnp.int32),
                    names=('user_id', 'item_id'), sizes=(4, 3))
    rows = Rows(user=jnp.asarray(user), item=jnp.asarray(item), label=jnp.asarray(item / 2, jnp.float32),
                         text=None, words=jnp.asarray(np.stack([4 + item, 7 + user, np.full(96, EOS)], axis=1)))
    asked = dataclasses.replace(rows, words=None)
    model = PETER(vocab_size=128, embed_dim=16, layers=1, inner=16, num_words=V, max_words=2, dropout=0.1)
    config = training.TrainConfig(objective='rating', monitor='rmse', learning_rate=1e-2, batch_size=32, epochs=25,
                                  patience=25)
    state = training.fit(model, config, fields, rows, asked, key=jax.random.key(0))
    predicted = scoring.predict(model, state.params, fields, asked)
    assert np.sqrt(np.mean((np.asarray(predicted) - item / 2) ** 2)) < 0.1
    ids = jnp.concatenate([fields.user_fields[user], fields.item_fields[item]], axis=1)
    written = np.asarray(peter.generate(model, state.params, ids, fields.item_attributes[item], 2))
    assert np.mean(written == np.stack([4 + item, 7 + user], axis=1)) > 0.95
