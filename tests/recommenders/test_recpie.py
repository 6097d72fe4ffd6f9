"""RecPIE's rating network against a slow NumPy float64 one."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders.slow_sequences import B, D, E, F_USER, plain, predictor_case, random_params, slow_encoder
from xrec_jax.recommenders.fields import Fields
from xrec_jax.recommenders.predictor import History
from xrec_jax.recommenders.recpie import TOKENS, RecPIE, attention_received, consumer_embeddings

C, WIDTH = 3, 6


def case(**options):
    model, _, ids, many, text, history = predictor_case(RecPIE, text_dim=D, num_texts=2, width=5, **options)
    model = model.clone(width=WIDTH, inner=7, context_dim=C)
    context = np.random.default_rng(5).normal(size=(B, C)).astype(np.float32)
    history = History(history.ids, history.attributes, history.liked, history.mask, context)
    return model, random_params(model.init, ids, many, None, history), ids, many, text, history


def slow(params, ids, attributes, text, history, use_liked=False):
    """Logits [B], and alpha [B, I, I] with zeros for tokens that are not there."""
    p = plain(params)
    table = p['embedding']
    fields = lambda row: [table[i] if i > 0 else np.zeros(E) for i in row]

    def item(row, many):
        here = [table[a] for a in many if a > 0]
        return np.sum(fields(row) + ([np.mean(here, axis=0)] if here else []), axis=0)

    logits, alphas = [], []
    for b in range(len(ids)):
        target = item(ids[b, F_USER:], attributes[b])
        past = [item(history.ids[b, l], history.attributes[b, l]) + (p['liked'][int(history.liked[b, l])] if use_liked
                                                                     else 0)
                for l in range(history.mask.shape[1]) if history.mask[b, l]]
        given = {'consumer': np.concatenate(fields(ids[b, :F_USER])), 'product': target,
                 'sequence': slow_encoder(p['encoder'], past, causal=True, layers=1)[-1],
                 'context': np.concatenate([history.context[b], target])}
        tokens = {name: x @ p[f'project_{name}']['kernel'] + p[f'project_{name}']['bias'] for name, x in given.items()}
        for n, name in enumerate(('pos', 'neg')):
            z = text[b, n].astype(np.float64)
            tokens[name] = z / np.sqrt(np.mean(z ** 2)) @ p[f'project_{name}']['kernel'] if z.any() else None
        alpha, mixed = np.zeros((len(TOKENS), len(TOKENS))), []
        for i, name in enumerate(TOKENS):
            x = np.zeros(WIDTH) if tokens[name] is None else tokens[name]
            present = [j for j, other in enumerate(TOKENS) if tokens[other] is not None]
            scores = np.array([(x @ p['query']['kernel']) @ (tokens[TOKENS[j]] @ p['key']['kernel']) / np.sqrt(WIDTH)
                               for j in present])
            alpha[i, present] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            mixed.append(x + sum(alpha[i, j] * (tokens[TOKENS[j]] @ p['value']['kernel']) for j in present))
        hidden = np.concatenate(mixed)
        for n in range(2):
            hidden = np.maximum(0, hidden @ p[f'mlp_{n}']['kernel'] + p[f'mlp_{n}']['bias'])
        logits.append(hidden @ p['mlp_out']['kernel'][:, 0] + p['mlp_out']['bias'][0])
        alphas.append(alpha)
    return np.array(logits), np.array(alphas)


@pytest.mark.parametrize('use_liked', [False, True])
def test_logits_and_attention_equal_the_slow_model(use_liked):
    model, params, ids, many, text, history = case(use_liked=use_liked)
    text[1, 0] = 0  # a positive reason that is not there; row 2 has neither
    logits, seen = jax.jit(lambda *x: model.apply({'params': params}, *x, mutable='intermediates'))(
        ids, many, text, history)
    alpha = seen['intermediates']['attention'][0]
    expected, expected_alpha = slow(params, ids, many, text, history, use_liked)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(alpha, expected_alpha, rtol=1e-4, atol=1e-5)
    received = attention_received(alpha)
    np.testing.assert_allclose(received['neg'], expected_alpha[:, :, 1].mean(1), rtol=1e-4, atol=1e-6)
    assert received['pos'][1] == 0 and received['pos'][2] == 0 and received['pos'][0] > 0
    np.testing.assert_allclose(sum(received.values()), 1.0, rtol=1e-6)


def test_no_reasons_are_reasons_of_zeros():
    model, params, ids, many, text, history = case()
    apply = jax.jit(lambda text: model.apply({'params': params}, ids, many, text, history))
    without = apply(None)
    np.testing.assert_array_equal(without, apply(np.zeros_like(text)))
    changed = np.asarray(without != apply(text))
    assert not changed[2] and changed[[0, 1, 3, 4]].all()


def test_pads_of_the_history_are_not_looked_at():
    model, params, ids, many, text, history = case()
    wide = jax.tree.map(lambda x: np.pad(x, [(0, 0), (3, 0)] + [(0, 0)] * (x.ndim - 2)), history)
    wide = History(np.where(wide.mask[..., None], wide.ids, 7), wide.attributes, ~wide.liked, wide.mask, history.context)
    apply = jax.jit(lambda history: model.apply({'params': params}, ids, many, text, history))
    np.testing.assert_allclose(apply(wide), apply(history), rtol=1e-5, atol=1e-5)


def test_a_user_without_history_has_finite_gradients():
    model, params, ids, many, text, history = case()
    none = np.arange(B)[:, None] == 1
    history = History(history.ids, history.attributes, history.liked, history.mask & ~none, history.context)
    gradients = nn.unbox(jax.jit(jax.grad(lambda p: jnp.square(model.apply(
        {'params': p}, ids, many, text, history, train=True, rngs={'dropout': jax.random.key(0)})).sum()))(params))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert all(np.abs(gradients[f'project_{name}']['kernel']).sum() > 0 for name in TOKENS)


def test_a_new_consumer_gets_the_mean_embedding():
    fields = Fields(jnp.array([[9, 1], [9, 2], [9, 3]]), jnp.zeros((1, 0), jnp.int32), jnp.zeros((1, 0), jnp.int32),
                    names=('profile.age', 'user_id'), sizes=(1, 3))
    table = jnp.arange(20.0).reshape(10, 2)
    own = consumer_embeddings({'embedding': table}, fields, jnp.array([True, False, True]))
    np.testing.assert_allclose(own, [table[1], (table[1] + table[3]) / 2, table[3]])
