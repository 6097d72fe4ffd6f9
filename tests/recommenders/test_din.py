"""DIN against a slow NumPy one: item of the history by item, and Dice's statistics number by number."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.errors import UserError
from xrec_jax.recommenders import fields as fields_lib
from xrec_jax.recommenders import scoring, training
from xrec_jax.recommenders.rows import Rows, inputs
from xrec_jax.recommenders.din import DIN, Dice
from xrec_jax.recommenders.predictor import History

L, USERS = 4, 2  # items of history; the user's fields
LENGTHS = [4, 0, 2, 3, 1, 2, 4]


def history_case(model_class, *, attributes=slow.A, projection=None, **options):
    """(model, params with every leaf random, ids, attributes, text or None, history) with a row without history."""
    rng = np.random.default_rng(1)
    if projection is not None:
        options |= dict(text_dim=slow.D, num_texts=slow.K, text_projection=projection)
    model = model_class(**dict(vocab_size=slow.V, embed_dim=slow.E, mlp=(8, 4), num_user_fields=USERS) | options)
    shape = (slow.B, L)
    mask = np.arange(-L, 0) >= -np.array(LENGTHS)[:, None]
    some = lambda *shape: np.where(rng.random(shape) < 0.7, rng.integers(1, slow.V, shape), 0).astype(np.int32)
    ids, many, text = some(slow.B, slow.F), some(slow.B, attributes), rng.normal(size=(slow.B, slow.K, slow.D))
    text[2] = 0  # a row without explanations
    history = History(ids=some(*shape, slow.F - USERS) * mask[..., None],
                      attributes=some(*shape, attributes) * mask[..., None],
                      liked=mask & (rng.random(shape) < 0.5), mask=mask)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), ids, many, None, history)['params'])

    def random(path, x):
        x = rng.normal(scale=0.5, size=x.shape)
        return jnp.asarray(np.abs(x) if path[-1].key == 'variance' else x, jnp.float32)

    params = jax.tree_util.tree_map_with_path(random, shapes)
    return model, params, ids, many, None if projection is None else text.astype(np.float32), history


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_activation(p, s):
    """PReLU or Dice with its moving averages; by which of the two has parameters."""
    out = []
    for n, x in enumerate(s):
        share = float(x > 0) if 'mean' not in p else sigmoid((x - p['mean'][n]) / np.sqrt(p['variance'][n] + 1e-8))
        out.append(share * x + (1 - share) * p['alpha'][n] * x)
    return out


def slow_layers(p, name, hidden):
    n = 0
    while f'{name}_{n}' in p:
        kind = next(kind for kind in ('dice', 'prelu') if f'{name}_{n}_{kind}' in p)
        hidden, n = slow_activation(p[f'{name}_{n}_{kind}'], slow.linear(p[f'{name}_{n}'], hidden)), n + 1
    return hidden


def slow_parts(p, ids, attributes, ids_of, attributes_of, liked=None):
    """The user's numbers, the target's, and those of each item of a history without pads."""
    flat = lambda vectors: np.array([x for v in vectors for x in v])
    past = [flat(slow.rows_of(p['embedding'], *row)) for row in zip(ids_of, attributes_of)]
    if 'liked' in p:
        past = [k + p['liked']['embedding'][int(good)] for k, good in zip(past, liked)]
    return (flat(slow.rows_of(p['embedding'], ids[:USERS], [])),
            flat(slow.rows_of(p['embedding'], ids[USERS:], attributes)), past)


def slow_din(p, text, *row):
    user, target, past = slow_parts(p, *row)
    interest = np.zeros(len(target))
    for k in past:
        unit = slow_layers(p, 'attention', np.concatenate([target, k, target - k, target * k]))
        interest += slow.linear(p['attention_out'], unit)[0] * k
    hidden = np.concatenate([user, interest, target, slow.features(p, text)])
    return slow.linear(p['mlp_out'], slow_layers(p, 'mlp', hidden))[0]


def check_equal(slow_model, model, params, ids, many, text, history):
    logits = jax.jit(model.apply)({'params': params}, ids, many, text, history)
    assert logits.shape == (slow.B,) and logits.dtype == jnp.float32
    p = slow.plain(params)
    expected = [slow_model(p, None if text is None else text[b], ids[b], many[b], history.ids[b][m],
                           history.attributes[b][m], history.liked[b][m]) for b, m in enumerate(history.mask)]
    np.testing.assert_allclose(logits, expected, rtol=5e-5, atol=5e-5)


def check_pads_have_no_say(model, params, ids, many, text, history):
    """Neither what lies at pads nor how many there are, in training as otherwise; nor verdicts, unasked."""
    wide = jax.tree.map(lambda x: np.pad(x, [(0, 0), (3, 0)] + [(0, 0)] * (x.ndim - 2)), history)
    pad = ~wide.mask[..., None]
    wide = History(ids=np.where(pad, 7, wide.ids), attributes=np.where(pad, 5, wide.attributes), liked=~wide.liked,
                   mask=wide.mask)
    for train in False, True:
        one, other = (model.apply({'params': params}, ids, many, text, h, train=train,
                                  rngs={'dropout': jax.random.key(0)}) for h in (history, wide))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def check_history_gradients(model, params, ids, many, text, history):
    """Finite, in training, at random parameters and those of a start, and with no history at all."""
    none = dataclasses.replace(history, mask=np.zeros_like(history.mask))
    start = nn.unbox(model.init(jax.random.key(0), ids, many, None, history)['params'])

    @jax.jit
    def gradients(p, history):
        def loss(p):
            logits, more = model.apply({'params': p}, ids, many, text, history, train=True, mutable=['losses'],
                                       rngs={'dropout': jax.random.key(0)})
            return sum((x.sum() for x in jax.tree.leaves(more)), jnp.square(logits).sum())
        return jax.grad(loss)(p)

    for p in params, start:
        for h in history, none:
            assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients(p, h)))
    others = np.concatenate([ids.ravel(), many.ravel(), history.attributes.ravel()])
    only_past = np.setdiff1d(history.ids[history.mask], others)
    assert len(only_past) and np.abs(gradients(params, history)['embedding'][only_past]).sum() > 0


def tiny_rows(num_rows):
    """(fields, rows with histories of 0 to 3 items) of 6 users and 9 items."""
    rng = np.random.default_rng(0)
    fields = fields_lib.Fields(user_fields=jnp.arange(1, 7)[:, None], item_fields=jnp.arange(7, 16)[:, None],
                               item_attributes=jnp.asarray(16 + np.arange(9)[:, None] % 3), names=('u', 'i', 'a'),
                               sizes=(6, 9, 3))
    history = np.where(np.arange(-3, 0) >= -rng.integers(0, 4, (num_rows, 1)), rng.integers(0, 9, (num_rows, 3)), -1)
    draw = lambda high: jnp.asarray(rng.integers(0, high, num_rows), jnp.int32)
    rows = Rows(user=draw(6), item=draw(9), label=draw(2).astype(jnp.float32), text=None,
                         history=jnp.asarray(history, jnp.int32), history_liked=jnp.asarray(history > 4))
    return fields, rows


@pytest.mark.parametrize('activation', ['dice', 'prelu'])
@pytest.mark.parametrize('attributes, projection', [(slow.A, None), (0, None), (slow.A, 0), (slow.A, 3)])
def test_equals_the_slow_model(attributes, projection, activation):
    check_equal(slow_din, *history_case(DIN, attributes=attributes, projection=projection, activation=activation))


def test_a_deeper_unit_and_verdicts_equal_the_slow_model():
    check_equal(slow_din, *history_case(DIN, attention_mlp=(6, 5), use_liked=True))


def test_no_text_is_exactly_zero_text():
    model, params, ids, many, text, history = history_case(DIN, projection=3)
    apply = lambda text: np.asarray(model.apply({'params': params}, ids, many, text, history))
    np.testing.assert_array_equal(apply(None), apply(np.zeros_like(text)))
    differs = apply(None) != apply(text)
    assert not differs[2] and differs[[0, 1, 3, 4, 5, 6]].all()


def test_absent_ids_have_no_say():
    model, params, ids, many, _, history = history_case(DIN)
    changed = params | {'embedding': params['embedding'].at[0].set(100.0)}
    np.testing.assert_array_equal(model.apply({'params': params}, ids, many, None, history),
                                  model.apply({'params': changed}, ids, many, None, history))


@pytest.mark.parametrize('activation', ['dice', 'prelu'])
def test_pads_have_no_say(activation):
    check_pads_have_no_say(*history_case(DIN, activation=activation))


def test_gradients_are_finite():
    check_history_gradients(*history_case(DIN, projection=3))


def test_parameters_have_axes():
    model, _, ids, many, _, history = history_case(DIN, projection=3, use_liked=True)
    bound = type('Bound', (), {'init': lambda _, key, *args: model.init(key, *args, None, history)})()
    slow.check_parameters_have_axes(bound, ids, many)


def test_a_history_twice_as_long_weighs_twice():
    """No softmax over the weights: without hidden layers the logit is linear in the interest."""
    model, params, ids, many, _, history = history_case(DIN, mlp=())
    none = dataclasses.replace(history, mask=np.zeros_like(history.mask))
    twice = jax.tree.map(lambda x: np.concatenate([x, x], axis=1), history)
    base, one, two = (model.apply({'params': params}, ids, many, None, h) for h in (none, history, twice))
    assert np.abs(one - base)[[0, 2, 3]].min() > 1e-2
    np.testing.assert_allclose(two - base, 2 * (one - base), rtol=1e-4, atol=1e-5)


def test_dice_in_training_has_the_statistics_of_what_is_shown():
    rng = np.random.default_rng(0)
    s, mask = rng.normal(2.0, 3.0, (5, 4, 2)).astype(np.float32), rng.random((5, 4)) < 0.6
    params = {'alpha': jnp.array([0.3, -0.2]), 'mean': jnp.array([1.0, 2.0]), 'variance': jnp.array([3.0, 4.0])}
    out, more = Dice().apply({'params': params}, s, True, mask, mutable=['statistics'])
    shown = s[mask].astype(np.float64)
    mean, variance = shown.mean(0), shown.var(0)
    p = sigmoid((s - mean) / np.sqrt(variance + 1e-8))
    np.testing.assert_allclose(out[mask], (p * s + (1 - p) * np.array([0.3, -0.2]) * s)[mask], rtol=1e-5)
    np.testing.assert_allclose(more['statistics']['mean'], 0.99 * np.array([1.0, 2.0]) + 0.01 * mean, rtol=1e-6)
    np.testing.assert_allclose(more['statistics']['variance'], 0.99 * np.array([3.0, 4.0]) + 0.01 * variance, rtol=1e-6)
    _, more = Dice().apply({'params': params}, s, True, np.zeros_like(mask), mutable=['statistics'])
    np.testing.assert_array_equal(more['statistics']['mean'], params['mean'])  # nothing shown, nothing learned


def test_training_moves_the_averages_and_scores_with_them():
    fields, rows = tiny_rows(12)
    model = DIN(vocab_size=128, embed_dim=3, mlp=(5,), attention_mlp=(4,))
    config = training.TrainConfig(batch_size=12, learning_rate=1e-2)
    start = training.init_state(model, config, fields, jax.random.key(0))
    state, _ = training.run_epoch(model, config, fields, start, rows, rows)
    more = model.apply({'params': start.params}, *inputs(model, fields, rows), train=True,
                       mutable=['statistics'])[1]['statistics']
    assert set(more) == {'attention_0_dice', 'mlp_0_dice'}
    for name, leaves in more.items():
        for leaf, value in leaves.items():
            np.testing.assert_allclose(state.params[name][leaf], value, rtol=1e-5, atol=1e-7)
    few = jax.tree.map(lambda x: x[:3], rows)  # a score does not depend on who else is scored
    np.testing.assert_allclose(scoring.predict(model, state.params, fields, rows)[:3],
                               scoring.predict(model, state.params, fields, few), rtol=1e-6)


def test_no_history_at_all_is_refused():
    model, params, ids, many, *_ = history_case(DIN)
    with pytest.raises(ValueError, match='history=True'):
        model.apply({'params': params}, ids, many)


def test_an_unknown_activation_is_a_user_error():
    with pytest.raises(UserError, match='Did you mean "dice"'):
        DIN(vocab_size=9, activation='dicee')
