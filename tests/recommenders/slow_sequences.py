"""What the tests of sequence models share: cases with random parameters, and slow NumPy float64 parts.

The slow models take a history as a list without pads, so that they cannot depend on them.
"""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.recommenders.predictor import History

U, I, E, MAX = 6, 11, 4, 5
HISTORY = np.array([[0, 0, 3, 7, 1], [2, 9, 9, 11, 4], [0, 0, 0, 0, 6], [5, 1, 8, 2, 10]], np.int32)
USER = np.array([5, 0, 3, 3], np.int32)

B, F_ITEM, F_USER, A, V, K, D = 5, 2, 3, 3, 40, 2, 6  # of predictors


def random_params(init, *args):
    """Parameters of the shapes that `init(key, *args)` gives, every leaf random."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(init, jax.random.key(0), *args)['params']
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(scale=0.5, size=x.shape), jnp.float32), shapes)


def plain(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), nn.unbox(params))


def real(row):
    return [int(i) for i in row if i > 0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def slow_norm(p, x, epsilon=1e-12):
    return (x - np.mean(x)) / np.sqrt(np.mean((x - np.mean(x)) ** 2) + epsilon) * p['scale'] + p['bias']


def slow_encoder(p, vectors, causal, layers=2, heads=2):
    """States, one a vector: query by query, head by head, key by key."""
    x = [slow_norm(p['norm'], v + p['position_embedding'][t]) for t, v in enumerate(vectors)]
    for n in range(layers):
        qkv, out = p[f'qkv_{n}'], p[f'attention_out_{n}']
        after = []
        for t in range(len(x)):
            branch = out['bias'].copy()
            for h in range(heads):
                project = lambda which, v: np.einsum('E,ED->D', v, qkv['kernel'][:, which, h]) + qkv['bias'][which, h]
                query = project(0, x[t])
                seen = [s for s in range(len(x)) if s <= t or not causal]
                logits = np.array([np.dot(query, project(1, x[s])) / math.sqrt(len(query)) for s in seen])
                weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
                mixed = sum(w * project(2, x[s]) for w, s in zip(weights, seen))
                branch += mixed @ out['kernel'][h]
            after.append(slow_norm(p[f'attention_norm_{n}'], x[t] + branch))
        x = []
        for a in after:
            hidden = gelu(a @ p[f'inner_{n}']['kernel'] + p[f'inner_{n}']['bias'])
            x.append(slow_norm(p[f'inner_norm_{n}'], a + hidden @ p[f'outer_{n}']['kernel'] + p[f'outer_{n}']['bias']))
    return x


def predictor_case(model_class, attributes=A, width=5, **options):
    """(model, params, ids, attributes, text, history) of a predictor; histories of 1 to `width` items."""
    rng = np.random.default_rng(1)
    model = model_class(vocab_size=V, num_user_fields=F_USER, embed_dim=E, max_length=MAX, mlp=(16, 8), **options)
    ids = rng.integers(0, V, (B, F_USER + F_ITEM)).astype(np.int32)
    ids[0, 1] = ids[1, -1] = 0  # absent
    some = lambda *shape: np.where(rng.random(shape) < 0.5, rng.integers(1, V, shape), 0).astype(np.int32)
    many = some(B, attributes)
    many[:1] = 0  # an item without any
    lengths = np.array([1, 3, width, 2, min(4, width)])
    mask = np.arange(-width, 0) >= -lengths[:, None]
    history = History(ids=rng.integers(1, V, (B, width, F_ITEM)).astype(np.int32) * mask[..., None],
                      attributes=some(B, width, attributes) * mask[..., None],
                      liked=mask & (rng.random(mask.shape) < 0.5), mask=mask)
    text = rng.normal(size=(B, K, D)).astype(np.float32)
    text[2] = 0  # a row without explanations
    return model, random_params(model.init, ids, many, None, history), ids, many, text, history


def slow_predictor(params, ids, attributes, text, history, slow_state):
    """Logits; `slow_state(p, users, items)` gives the state from the users' and the latest items' vectors."""
    p = plain(params)
    table = p['embedding']

    def fields(row):
        return [table[i] if i > 0 else np.zeros(E) for i in row]

    def item(row, many):
        here = [table[a] for a in many if a > 0]
        return np.sum(fields(row) + ([np.mean(here, axis=0)] if here else []), axis=0)

    logits = []
    for b in range(len(ids)):
        users, target = fields(ids[b, :F_USER]), item(ids[b, F_USER:], attributes[b])
        items = [item(history.ids[b, l], history.attributes[b, l])
                 for l in range(history.mask.shape[1]) if history.mask[b, l]]
        state = slow_state(p, users, items)
        hidden = np.concatenate([*users, target, state])
        if text is not None:
            for z in text[b].astype(np.float64):
                scale = np.sqrt(np.mean(z ** 2))
                hidden = np.concatenate([hidden, z / scale if scale > 0 else z])
        for n in range(2):
            hidden = np.maximum(0, hidden @ p[f'mlp_{n}']['kernel'] + p[f'mlp_{n}']['bias'])
        logits.append(np.dot(state, target) + hidden @ p['mlp_out']['kernel'][:, 0] + p['mlp_out']['bias'][0])
    return np.array(logits)


def check_predictor(model_class, slow_state, attributes, with_text, width):
    """Asserts that the predictor is the slow one, and that neither pads nor zero explanations nor verdicts matter."""
    options = dict(text_dim=D, num_texts=K) if with_text else {}
    model, params, ids, many, text, history = predictor_case(model_class, attributes, width, **options)
    apply = jax.jit(lambda *args: model.apply({'params': params}, *args))
    text = text if with_text else None
    logits = apply(ids, many, text, history)
    assert logits.shape == (B,) and logits.dtype == jnp.float32
    slow = slow_predictor(params, ids, many, text, history, slow_state)
    np.testing.assert_allclose(logits, slow, rtol=1e-4, atol=1e-4)
    if with_text:
        without = apply(ids, many, None, history)
        np.testing.assert_array_equal(without, apply(ids, many, np.zeros_like(text), history))
        changed = np.asarray(without != logits)
        assert not changed[2] and changed[[0, 1, 3, 4]].all()  # row 2 has no explanations

    # What lies at pads, and how many there are, is not looked at.
    widened = jax.tree.map(lambda x: np.pad(x, [(0, 0), (3, 0)] + [(0, 0)] * (x.ndim - 2)), history)
    junk = np.where(widened.mask[..., None], widened.ids, 7)
    widened = History(ids=junk, attributes=widened.attributes, liked=~widened.liked, mask=widened.mask)
    np.testing.assert_allclose(apply(ids, many, text, widened), logits, rtol=1e-5, atol=1e-5)


def check_predictor_gradients(model_class):
    """Asserts finite gradients, with no history in one row, and that the history's items have some."""
    model, params, ids, many, text, history = predictor_case(model_class, text_dim=D, num_texts=K)
    none = np.arange(B)[:, None] == 1
    history = History(history.ids, history.attributes, history.liked, history.mask & ~none)

    def loss(params):
        logits = model.apply({'params': params}, ids, many, text, history, train=True,
                             rngs={'dropout': jax.random.key(0)})
        return jnp.square(logits).sum()

    gradients = nn.unbox(jax.jit(jax.grad(loss))(params))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    elsewhere = np.concatenate([x.ravel() for x in (ids, many, history.attributes)])
    only_past = np.setdiff1d(history.ids[history.mask], elsewhere)
    assert len(only_past) and np.abs(gradients['embedding'][only_past]).sum() > 0
