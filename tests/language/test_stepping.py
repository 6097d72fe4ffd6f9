"""Layers taken apart for decoding, against the scan over them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.language import decoder, generate, lora, projection, quantize, stepping
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


@pytest.mark.parametrize('samples', [2, 10])  # 8 rows a step, with matrices transposed; 40, without
def test_texts_are_those_of_the_scan(variables, samples):
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 11, (4, 7)))
    mask = jnp.arange(7) >= jnp.array([[0], [3], [6], [1]])

    def write(unroll, prepare):
        model = decoder.Decoder(dataclasses.replace(CONFIG, unroll=unroll), 0.5)
        return generate.generate(model, prepare(model, variables), tokens, mask, jax.random.key(0), num_samples=samples,
                                 sampling=SamplingConfig(max_length=9, temperature=0.7), stop_ids=2)

    as_kept = lambda model, variables: variables
    prepared = lambda model, variables: stepping.prepared(model, variables, 4 * samples)
    apart, scanned = write(True, as_kept), write(False, as_kept)
    np.testing.assert_array_equal(apart.mask, scanned.mask)
    np.testing.assert_array_equal(apart.tokens, scanned.tokens)
    np.testing.assert_allclose(apart.log_probs, scanned.log_probs, atol=2e-4)  # merged: other sums, large weights
    jax.tree.map(np.testing.assert_array_equal, write(True, prepared).tokens, apart.tokens)


def test_the_last_state_alone_is_that_of_all(variables):
    tokens = jnp.asarray(np.random.default_rng(1).integers(3, 11, (3, 9)))
    mask = jnp.arange(9) >= jnp.array([[0], [4], [8]])
    model = decoder.Decoder(CONFIG, 0.5)
    for kept in (variables, stepping.separate(model, variables, 2), stepping.separate(model, variables, 5)):
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
    kept = stepping.separate(model, variables, batch)
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


@pytest.mark.parametrize('rows', [1, 4])
@pytest.mark.parametrize('tied', [True, False])
def test_matrices_side_by_side_and_transposed_multiply_as_apart(rows, tied):
    config = dataclasses.replace(CONFIG, sliding_window=None, qkv_bias=True, tie_word_embeddings=tied)
    model = decoder.Decoder(config)
    tokens, mask = jnp.arange(6).reshape(2, 3), jnp.ones((2, 3), bool)

    @jax.jit
    def both():
        """The last hidden states of whole sequences, and of a step with what stands before in the cache."""
        params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
                              decoder.init_params(jax.random.key(0), config))
        apart = stepping.separate(model, {'params': params}, rows)
        for layer in apart['params']['layers']:
            for part, members in (('self_attn', {'qkv_proj', 'o_proj'}), ('mlp', {'gate_up_proj', 'down_proj'})):
                assert set(layer[part]) == members
                assert all(('transposed' if rows > 1 else 'kernel') in leaves for leaves in layer[part].values())
        hidden, cache = model.apply({'params': params}, tokens, positions_of(mask), mask)
        before = jax.tree.map(lambda x: x[:, :, :, :2], cache).grown(1)
        layers = tuple(jax.tree.map(lambda x: x[layer], before) for layer in range(config.num_layers))
        step, _ = model.apply(apart, tokens[:, 2:], jnp.full((2, 1), 2), mask, layers, 2)
        logits = model.apply({'params': params}, hidden[:, 2], method='logits')
        return (hidden[:, 2], logits), (step[:, 0], model.apply(apart, step[:, 0], method='logits'))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *both())


@pytest.mark.parametrize('rows, on_the_left', [(4, True), (32, True), (33, False)])
def test_the_matrix_is_on_the_left_of_a_product_with_few_rows(rows, on_the_left):
    rng = np.random.default_rng(rows)
    x, matrix = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, 1, 5), (23, 5)))
    product = jax.jit(projection.times_transposed)
    np.testing.assert_allclose(product(x, matrix), x.astype(float) @ matrix.T.astype(float), rtol=1e-5, atol=1e-6)
    compiled = product.lower(x, matrix).compile().as_text()
    assert (f'f32[23,{rows}]' in compiled) == on_the_left  # and XLA does not turn it around


def test_what_is_not_float32_or_has_an_adapter_is_not_transposed(variables):
    model = decoder.Decoder(CONFIG, 0.5)
    names = lambda tree: {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
    transposed = lambda model, variables: stepping.transposed(model, variables, layers=True)['params']
    assert 'kernel' not in names(transposed(model, {'params': variables['params']}))
    beside = transposed(model, variables)
    assert 'transposed' in beside and 'transposed' not in names(beside['layers'])
    integers = transposed(model, {'params': quantize.quantize(variables['params'], 'int8', lora.TARGETS, head=True)})
    assert 'transposed' not in names(integers)
    half = decoder.Decoder(dataclasses.replace(CONFIG, dtype=jnp.bfloat16))
    rounded = {'params': jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables['params'])}
    assert 'transposed' not in names(transposed(half, rounded))
    logits, vocab_axis = stepping.logits(half, stepping.separate(half, rounded, 8), jnp.ones((8, 16), jnp.bfloat16))
    assert (logits.shape, vocab_axis) == ((8, 11), 1)


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('rows', [1, 8, 40])
def test_logits_are_the_decoder_s_in_either_order(tied, rows):
    model = decoder.Decoder(dataclasses.replace(CONFIG, tie_word_embeddings=tied))
    params = jax.jit(lambda: decoder.init_params(jax.random.key(0), model.config))()
    hidden = jax.random.normal(jax.random.key(1), (rows, CONFIG.hidden_size))
    logits, vocab_axis = stepping.logits(model, stepping.separate(model, {'params': params}, rows), hidden)
    assert vocab_axis == (rows == 1)
    expected = model.apply({'params': params}, hidden, method='logits')
    np.testing.assert_allclose(logits if vocab_axis else logits.T, expected, atol=1e-5)
