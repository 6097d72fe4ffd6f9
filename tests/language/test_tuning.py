"""Tuning: the loss and gradient of packed rows against one text a row, one step against itself in other shapes."""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, lora, packing, quantize, tuning
from xrec_jax.language.config import DecoderConfig

CONFIG = DecoderConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4, num_kv_heads=2,
                       head_dim=4)
LORA = lora.LoraConfig(rank=2, alpha=4.0)
MODEL = decoder.Decoder(CONFIG, LORA.scale)
LENGTHS, PROMPTS = [9, 5, 12, 4, 3], [5, 1, 10, 2, 1]


@pytest.fixture(scope='module')
def params():
    return jax.jit(lambda: decoder.init_params(jax.random.key(0), CONFIG))()


@pytest.fixture(scope='module')
def adapter(params):
    fresh = lora.init_adapter(jax.random.key(1), params, LORA)
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32) * 0.3, fresh)


def examples():
    rng = np.random.default_rng(3)
    starts = np.cumsum([0, *LENGTHS])
    return packing.Encoded(rng.integers(0, 50, starts[-1]).astype(np.int32), starts, np.array(PROMPTS, np.int32))


def packed(microbatch_size, row_length=13, together=True):
    return packing.pack(examples(), np.arange(5), 5, microbatch_size, row_length, together)


def padded(side):
    """The same examples, one a row, in the form of `language_loss`."""
    data, slots = examples(), np.arange(14)
    batch = {name: np.zeros((5, 14), kind) for name, kind in (('tokens', np.int32), ('mask', bool), ('response', bool))}
    for n, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS)):
        start = 14 - length if side == 'left' else 0
        batch['tokens'][n, start:start + length] = data.tokens[slice(*data.starts[n:n + 2])]
        batch['mask'][n] = (slots >= start) & (slots < start + length)
        batch['response'][n] = batch['mask'][n] & (slots >= start + prompt)
    return batch


@functools.partial(jax.jit, static_argnames=('model', 'weight'))
def unpacked_gradient(model, params, adapter, batch, weight):
    def loss(adapter):
        return tuning.language_loss(model, {'params': params, 'lora': adapter}, batch, weight)

    return jax.value_and_grad(loss, has_aux=True)(adapter)


@functools.partial(jax.jit, static_argnames=('model', 'weight'))
def packed_gradient(model, params, adapter, batch, weight):
    batch = jax.tree.map(lambda x: x[0] if x.ndim else x, batch)
    return jax.value_and_grad(tuning.packed_loss, argnums=2, has_aux=True)(model, params, adapter, batch, weight)


def assert_close(ours, theirs, tolerance=2e-5):
    def compare(a, b):
        np.testing.assert_allclose(a, b, atol=tolerance * max(1e-3, np.abs(b).max()), rtol=0)
    jax.tree.map(compare, ours, theirs)


@pytest.mark.parametrize('weight, together', [(0.0, True), (0.0, False), (0.3, True)])
def test_packed_rows_have_the_loss_and_gradient_of_one_text_a_row(params, adapter, weight, together, monkeypatch):
    monkeypatch.setattr(tuning, 'CHUNK', 12)  # several chunks, of which the last is not full
    batch = packed(5, 13, together)
    assert (batch.segments.max() > 1) == together
    (total, sums), gradient = packed_gradient(MODEL, params, adapter, batch, weight)
    # Left of a padded row `language_loss` foretells the first token from padding, if prompts count.
    for side in ('right', 'left') if not weight else ('right',):
        (loss, metrics), expected = unpacked_gradient(MODEL, params, adapter, padded(side), weight)
        np.testing.assert_allclose(total / sums.weight, loss, rtol=1e-5)
        assert_close(jax.tree.map(lambda x: x / sums.weight, gradient), expected)
        ours = sums.metrics()
        np.testing.assert_allclose(ours['response_loss'], metrics['response_loss'], rtol=1e-5)
        np.testing.assert_allclose(ours['response_accuracy'], metrics['response_accuracy'], rtol=1e-6)
    responses = sum(LENGTHS) - sum(PROMPTS)
    assert sums.response == responses
    np.testing.assert_allclose(sums.weight, responses + weight * (sum(PROMPTS) - 5), rtol=1e-6)


def test_a_packed_example_sees_nothing_of_its_neighbours(params, adapter):
    (_, before), _ = packed_gradient(MODEL, params, adapter, packed(5), 0.0)
    batch = packed(5)
    first = batch.segments == 1
    changed = batch.replace(tokens=np.where(first, (batch.tokens + 7) % 50, batch.tokens),
                            response=batch.response & ~first)
    original = batch.replace(response=batch.response & ~first)
    (ours, _), _ = packed_gradient(MODEL, params, adapter, changed, 0.0)
    (theirs, sums), _ = packed_gradient(MODEL, params, adapter, original, 0.0)
    assert 0 < sums.response < before.response
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize('by_word, scaled', [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize('chunk', [4, 100])
def test_reading_out_by_chunks_equals_reading_out_at_once(by_word, scaled, chunk):
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(3, 11, 8)).astype(np.float32), rng.normal(size=(8, 20)).astype(np.float32)
    scale = rng.uniform(0.5, 2, size=20).astype(np.float32) if scaled else None
    targets = rng.integers(0, 20, (3, 11))
    response = rng.random((3, 11)) < 0.5
    response[1] = False
    weight = np.where(response, 1.0, np.where(rng.random((3, 11)) < 0.5, 0.3, 0.0)).astype(np.float32)

    def ours(hidden):
        sums = tuning.read_out(hidden, head.T if by_word else head, scale, targets, weight, response, chunk, by_word)
        return 2.5 * sums.loss, sums

    def theirs(hidden):
        logits = hidden @ head * (1 if scale is None else scale)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        right = jnp.argmax(logits, axis=-1) == targets
        return 2.5 * (loss * weight).sum(), tuning.Sums((loss * weight).sum(), weight.sum(), (loss * response).sum(),
                                                        response.sum(), (right * response).sum())

    (_, sums), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(hidden)
    (_, expected), their_gradient = jax.jit(jax.value_and_grad(theirs, has_aux=True))(hidden)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), jax.jit(ours)(hidden)[1], expected)
    np.testing.assert_allclose(gradient, their_gradient, atol=1e-5)
    assert not np.asarray(gradient)[weight == 0].any()


def test_the_logits_of_all_tokens_never_exist_together(params, adapter, monkeypatch):
    monkeypatch.setattr(tuning, 'CHUNK', 10)
    batch = jax.tree.map(lambda x: x[0] if x.ndim else x, packed(5, 40))
    gradient = jax.make_jaxpr(jax.grad(lambda adapter: tuning.packed_loss(MODEL, params, adapter, batch, 0.0)[0]))
    sizes = [var.aval.size for jaxpr in _jaxprs(gradient(adapter).jaxpr) for eqn in jaxpr.eqns for var in eqn.outvars
             if CONFIG.vocab_size in var.aval.shape and CONFIG.hidden_size not in var.aval.shape]
    assert max(sizes) == 10 * CONFIG.vocab_size < batch.tokens.size * CONFIG.vocab_size


def _jaxprs(jaxpr):
    yield jaxpr
    for eqn in jaxpr.eqns:
        yield from (inner for part in jax.extend.core.jaxprs_in_params(eqn.params) for inner in _jaxprs(part))


OPTIMIZER = tuning.Optimizer(steps=4, learning_rate=1e-2, warmup_share=0.25)


def steps(model, params, adapter, batches, optimizer=OPTIMIZER, seed=0):
    learner = tuning.init_learner(adapter, optimizer)
    for step, batch in enumerate(batches):
        learner = tuning.tune_step(model, optimizer, params, learner, batch, 0.3, jax.random.key(seed), np.int32(step))
    return learner


def test_a_step_is_the_same_in_one_microbatch_and_in_many_and_unpacked(params, adapter):
    whole = steps(MODEL, params, adapter, [packed(5)] * 3)
    for batch in packed(1), packed(2), packed(3, 13, together=False):
        assert batch.count > 1
        parts = steps(MODEL, params, adapter, [batch] * 3)
        assert_close(parts.adapter, whole.adapter, 1e-4)
        ours, theirs = parts.totals.metrics(), whole.totals.metrics()
        for name in ('loss', 'response_loss', 'response_accuracy', 'grad_norm'):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
    assert whole.totals.metrics()['padding'] == pytest.approx(1 - sum(LENGTHS) / (5 * 13))  # one microbatch of 5 rows
    assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(whole.adapter), jax.tree.leaves(adapter))) > 1e-3


def test_a_step_is_adam_on_the_clipped_mean_gradient(params, adapter):
    """Two steps by hand, in NumPy."""
    optimizer = dataclasses.replace(OPTIMIZER, max_grad_norm=0.05, weight_decay=0.1, schedule='constant')
    learner = steps(MODEL, params, adapter, [packed(5)] * 2, optimizer)
    ours, mean, square, norms = adapter, 0.0, 0.0, []
    for step in (1, 2):
        (_, sums), gradient = packed_gradient(MODEL, params, ours, packed(5), 0.3)
        flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: x / sums.weight, gradient))
        flat = np.asarray(flat, np.float64)
        norms.append(np.linalg.norm(flat))
        flat = flat * min(1, 0.05 / norms[-1])
        mean, square = 0.9 * mean + 0.1 * flat, 0.999 * square + 0.001 * flat**2
        weights = np.asarray(jax.flatten_util.ravel_pytree(ours)[0], np.float64)
        change = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8) + 0.1 * weights
        ours = unravel(jnp.asarray(weights - {1: 0.5, 2: 1.0}[step] * 1e-2 * change, jnp.float32))
    assert min(norms) > 0.05
    assert_close(learner.adapter, ours, 1e-4)
    assert learner.totals.metrics()['grad_norm'] == pytest.approx(np.mean(norms), rel=1e-4)


@pytest.mark.parametrize('schedule, end', [('linear', 0.0), ('cosine', 0.0), ('constant', 0.1)])
def test_the_rate_warms_up_and_falls_as_the_schedule_says(schedule, end):
    rate = tuning.Optimizer(steps=50, learning_rate=0.1, schedule=schedule, warmup_share=0.2).rate()
    values = np.array([rate(step) for step in range(51)])
    np.testing.assert_allclose(values[:11], 0.1 * np.linspace(1 / 11, 1, 11), rtol=1e-6)
    assert np.all(np.diff(values[10:]) <= 0) and values[30] == pytest.approx((0.1 + end) / 2, rel=1e-5)
    assert values[50] == pytest.approx(end, abs=1e-9)
    assert tuning.Optimizer(steps=50, learning_rate=0.1, schedule=schedule, warmup_share=0.0).rate()(0) == pytest.approx(0.1)


@pytest.mark.parametrize('change, message', [
    ({'schedule': 'cosin'}, 'Did you mean "cosine"'), ({'warmup_share': 1.0}, 'tune.optimizer.warmup_share=1.0'),
    ({'learning_rate': 0.0}, 'more than 0'), ({'max_grad_norm': 0.0}, 'more than 0')])
def test_a_bad_optimizer_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        tuning.Optimizer(steps=1, **change)


def test_dropout_is_drawn_anew_in_each_step_and_microbatch_and_never_when_evaluating(params, adapter):
    dropping = decoder.Decoder(CONFIG, LORA.scale, lora_dropout=0.5)
    batch = packed(2)
    plain = steps(MODEL, params, adapter, [batch]).totals.metrics()['loss']
    losses = [steps(dropping, params, adapter, [batch], seed=seed).totals.metrics()['loss'] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] and len({plain, *losses}) == 3
    learner = tuning.init_learner(adapter, OPTIMIZER)
    early, late = (tuning.tune_step(dropping, OPTIMIZER, params, learner, batch, 0.3, jax.random.key(0), np.int32(step))
                   for step in (0, 1))
    assert early.totals.metrics()['loss'] == losses[0] != late.totals.metrics()['loss']
    twice = jax.tree.map(lambda x: np.concatenate([x[:1], x[:1]]) if x.ndim else np.int32(2), batch)
    learner = steps(dropping, params, adapter, [twice])
    once = jax.tree.map(lambda x: x[:1] if x.ndim else np.int32(1), batch)
    halves = steps(dropping, params, adapter, [once])
    assert learner.totals.metrics()['loss'] != pytest.approx(halves.totals.metrics()['loss'], rel=1e-6)
    evaluated = [tuning.evaluate(model, params, adapter, batch, 0.3).metrics() for model in (MODEL, dropping)]
    assert evaluated[0] == evaluated[1] and evaluated[0]['loss'] == pytest.approx(plain, rel=1e-5)


def test_a_base_in_bfloat16_or_integers_trains_a_float32_adapter(params):
    fresh = lora.init_adapter(jax.random.key(1), params, LORA)
    expected = steps(MODEL, params, fresh, [packed(2)] * 4).totals.metrics()['loss']
    half = decoder.Decoder(dataclasses.replace(CONFIG, dtype=jnp.bfloat16), LORA.scale)
    bases = {'bfloat16': (half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)),
             'int8': (MODEL, quantize.quantize(params, 'int8', lora.TARGETS, head=True))}
    for model, base in bases.values():
        learner = steps(model, base, fresh, [packed(2)] * 4)
        assert {leaf.dtype for leaf in jax.tree.leaves(learner.adapter)} == {jnp.dtype(jnp.float32)}
        assert learner.totals.metrics()['loss'] == pytest.approx(expected, rel=0.02)
        assert learner.totals.metrics()['loss'] != expected


def test_what_is_recomputed_changes_neither_loss_nor_gradient(params, adapter):
    (loss, _), gradient = packed_gradient(MODEL, params, adapter, packed(5), 0.3)
    for remat in (True, 'projections'):
        model = decoder.Decoder(dataclasses.replace(CONFIG, remat=remat), LORA.scale)
        (ours, _), theirs = packed_gradient(model, params, adapter, packed(5), 0.3)
        np.testing.assert_allclose(ours, loss, rtol=1e-6)
        assert_close(theirs, gradient)
