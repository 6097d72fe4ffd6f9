"""Layers taken apart for decoding, against the scan over them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.language import decoder, generate, lora, stepping
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.decoder import positions_of
from xrec_jax.language.sampling import SamplingConfig

CONFIG = DecoderConfig(vocab_size=11, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2, num_kv_heads=1,
                       head_dim=8, sliding_window=6, first_window_layer=1)


@pytest.fixture(scope='module')
def variables():
    @jax.jit
    def make():
        params = jax.tree.map(lambda x: x * 2, decoder.init_params(jax.random.key(0), CONFIG))
        adapter = lora.init_adapter(jax.random.key(1), params, lora.LoraConfig(rank=2))
        return params, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), adapter)

    return dict(zip(('params', 'lora'), make()))


def test_texts_are_those_of_the_scan(variables):
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 11, (4, 7)))
    mask = jnp.arange(7) >= jnp.array([[0], [3], [6], [1]])

    def write(unroll, prepare):
        model = decoder.Decoder(dataclasses.replace(CONFIG, unroll=unroll), 0.5)
        return generate.generate(model, prepare(model, variables), tokens, mask, jax.random.key(0), num_samples=2,
                                 sampling=SamplingConfig(max_length=9, temperature=0.7), stop_ids=2)

    as_kept = lambda model, variables: variables
    apart, scanned = write(True, as_kept), write(False, as_kept)
    np.testing.assert_array_equal(apart.mask, scanned.mask)
    np.testing.assert_array_equal(apart.tokens, scanned.tokens)
    np.testing.assert_allclose(apart.log_probs, scanned.log_probs, atol=2e-4)  # merged: other sums, large weights
    jax.tree.map(np.testing.assert_array_equal, write(True, stepping.prepared).tokens, apart.tokens)


def test_the_last_state_alone_is_that_of_all(variables):
    tokens = jnp.asarray(np.random.default_rng(1).integers(3, 11, (3, 9)))
    mask = jnp.arange(9) >= jnp.array([[0], [4], [8]])
    model = decoder.Decoder(CONFIG, 0.5)
    for kept in (variables, stepping.separate(model, variables)):
        run = jax.jit(lambda last_only: model.apply(kept, tokens, positions_of(mask), mask, last_only=last_only),
                      static_argnums=0)
        (whole, cache), (last, same) = run(False), run(True)
        assert last.shape == (3, 1, CONFIG.hidden_size)
        np.testing.assert_allclose(last[:, 0], whole[:, -1], atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), same, cache)


@pytest.mark.parametrize('batch, at_once, size', [
    (12, 9, 1), (12, 20, 2), (12, 45, 4), (12, 120, 12),
    (7, 36, 7),  # of 4 and 3 neither divides: all
])
def test_a_prefill_of_a_few_rows_at_a_time_is_that_of_all(variables, monkeypatch, batch, at_once, size):
    monkeypatch.setattr(stepping, 'AT_ONCE', at_once)
    tokens = jnp.asarray(np.random.default_rng(2).integers(3, 11, (batch, 7)))
    prefix = jax.random.normal(jax.random.key(1), (batch, 2, CONFIG.hidden_size))
    mask = jnp.pad(jnp.arange(7) >= jnp.arange(batch)[:, None] % 7, ((0, 0), (2, 0)), constant_values=True)
    model = decoder.Decoder(CONFIG, 0.5)
    kept = stepping.separate(model, variables)
    part = jax.jit(lambda: stepping.prefill(model, kept, tokens, positions_of(mask), mask, prefix))
    whole = jax.jit(lambda: model.apply(kept, tokens, positions_of(mask), mask, prefix_embeddings=prefix,
                                        last_only=True))
    assert f'tensor<{size}x9x{CONFIG.hidden_size}xf32>' in part.lower().as_text()
    assert ('while' in part.lower().as_text()) == (size < batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-5), part(), whole())


def test_float32_adapters_are_merged_and_others_are_not(variables):
    model = decoder.Decoder(CONFIG, 0.5)
    merged = stepping.merged(model, variables)
    expected = lora.merge(variables['params'], variables['lora'], lora.LoraConfig(rank=2, alpha=1.0))
    assert 'lora' not in merged
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged['params'], expected)
    rounded = variables | {'params': jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables['params'])}
    other = stepping.merged(decoder.Decoder(dataclasses.replace(CONFIG, dtype=jnp.bfloat16)), rounded)
    jax.tree.map(np.testing.assert_array_equal, other, rounded)


@pytest.mark.parametrize('platform, changes, expected', [
    ('cpu', {}, True), ('gpu', {}, False), ('tpu', {}, False), ('cpu', {'num_layers': 80}, False),
    ('cpu', {'intermediate_size': 2**24}, False), ('cpu', {'unroll': False}, False), ('gpu', {'unroll': True}, True),
])
def test_few_and_small_layers_are_taken_apart_on_cpu(monkeypatch, platform, changes, expected):
    monkeypatch.setattr(stepping.flash, 'platform', lambda mesh: platform)
    config = dataclasses.replace(CONFIG, **changes)
    params = jax.eval_shape(lambda key: decoder.init_params(key, config), jax.random.key(0))
    assert stepping.unrolled(decoder.Decoder(config), {'params': params}) == expected


def test_matrices_side_by_side_multiply_as_apart():
    config = dataclasses.replace(CONFIG, sliding_window=None, qkv_bias=True)
    model = decoder.Decoder(config)
    tokens, mask = jnp.arange(6).reshape(2, 3), jnp.ones((2, 3), bool)

    @jax.jit
    def both():
        """The last hidden states of whole sequences, and of a step with what stands before in the cache."""
        params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
                              decoder.init_params(jax.random.key(0), config))
        apart = stepping.separate(model, {'params': params})
        for layer in apart['params']['layers']:
            assert {'qkv_proj', 'gate_up_proj'} <= {name for part in layer.values() for name in part}
        hidden, cache = model.apply({'params': params}, tokens, positions_of(mask), mask)
        before = jax.tree.map(lambda x: x[:, :, :, :2], cache).grown(1)
        layers = tuple(jax.tree.map(lambda x: x[layer], before) for layer in range(config.num_layers))
        step, _ = model.apply(apart, tokens[:, 2:], jnp.full((2, 1), 2), mask, layers, 2)
        return hidden[:, 2], step[:, 0]

    np.testing.assert_allclose(*both(), atol=1e-5)
