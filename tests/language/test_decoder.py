"""Decoders of all families against transformers' own logits, and their two ways of running against each other."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from xrec_jax.language import rotary
from xrec_jax.language.config import DecoderConfig, RopeScaling
from xrec_jax.language.decoder import Decoder, positions_of
from xrec_jax.language.weights import load_model, read_config

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
LLAMAS = ('llama/mha_untied', 'llama/gqa_tied', 'llama/llama31', 'llama/bias')
FAMILIES = ('decoders/mistral', 'decoders/qwen2', 'decoders/mixtral', 'decoders/gpt2', 'decoders/chatglm')
every = pytest.mark.parametrize('name', LLAMAS + FAMILIES)
TOLERANCE = 1e-4  # logits are of the order of 5


@functools.cache
def golden(name):
    with np.load(GOLDEN / name / 'expected.npz') as file:
        return {key: file[key] for key in file}


@functools.cache
def loaded(name):
    # In float32, as transformers computed the golden values, however the weights are stored.
    config, params = load_model(GOLDEN / name, dtype=jnp.float32)
    return Decoder(config), params


@functools.partial(jax.jit, static_argnames=('model',))
def forward(model, params, tokens, positions, mask, prefix_embeddings=None):
    """Logits [B, K + S, V] of whole sequences, and the cache."""
    hidden, cache = model.apply({'params': params}, tokens, positions, mask,
                                prefix_embeddings=prefix_embeddings)
    return model.apply({'params': params}, hidden, method='logits'), cache


@functools.partial(jax.jit, static_argnames=('model',))
def one_step(model, params, token, position, mask, cache, slot):
    """Logits [B, V] of one new token, and the cache with it."""
    hidden, cache = model.apply({'params': params}, token[:, None], position[:, None], mask, cache, slot)
    return model.apply({'params': params}, hidden[:, 0], method='logits'), cache


def whole(name):
    """Logits of the golden prompts."""
    expected = golden(name)
    model, params = loaded(name)
    mask = expected['attention_mask'].astype(bool)
    return forward(model, params, expected['input_ids'], positions_of(mask), mask)


@every
def test_logits_equal_transformers_at_real_tokens(name):
    expected = golden(name)
    mask = expected['attention_mask'].astype(bool)
    np.testing.assert_array_equal(np.where(mask, positions_of(mask), 0), expected['position_ids'])
    logits, _ = whole(name)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert np.abs(np.asarray(logits) - expected['logits'])[mask].max() < TOLERANCE


@every
def test_prefill_and_cached_steps_equal_the_whole_sequence(name):
    expected = golden(name)
    model, params = loaded(name)
    prompts, written = expected['input_ids'], expected['generated']
    prompt_mask = expected['attention_mask'].astype(bool)
    mask = np.concatenate([prompt_mask, np.ones(written.shape, bool)], axis=1)
    tokens = np.concatenate([prompts, written], axis=1)
    reference, _ = forward(model, params, tokens, positions_of(mask), mask)

    width, length = prompts.shape[1], written.shape[1]
    logits, cache = whole(name)
    cache = cache.grown(length)
    lengths = prompt_mask.sum(axis=1)
    last = logits[:, -1]
    for t in range(length):
        # What the golden run wrote next is our best token too, wherever its margin is no rounding.
        clear = expected['margin'][:, t] > 10 * TOLERANCE
        assert (np.asarray(last.argmax(axis=-1)) == written[:, t])[clear].all()
        last, cache = one_step(model, params, written[:, t], lengths + t, mask, cache, width + t)
        np.testing.assert_allclose(last, reference[:, width + t], atol=TOLERANCE)


@every
def test_left_padding_does_not_change_logits(name):
    expected = golden(name)
    model, params = loaded(name)
    logits, _ = whole(name)
    row = 1
    length = int(expected['attention_mask'][row].sum())
    mask = np.ones((1, length), bool)
    alone, _ = forward(model, params, expected['input_ids'][[row], -length:], positions_of(mask), mask)
    np.testing.assert_allclose(alone[0], logits[row, -length:], atol=TOLERANCE)


def test_right_padding_does_not_change_logits():
    expected = golden('llama/gqa_tied')
    model, params = loaded('llama/gqa_tied')
    mask = np.arange(24) < np.array([[24], [17], [5]])
    tokens = np.stack([np.roll(row, length) for row, length in
                       zip(expected['input_ids'], mask.sum(axis=1))])
    logits, _ = forward(model, params, tokens, positions_of(mask), mask)
    for row, length in enumerate(mask.sum(axis=1)):
        np.testing.assert_allclose(logits[row, :length], expected['logits'][row, -length:], atol=TOLERANCE)


def test_row_of_padding_alone_is_finite():
    model, params = loaded('llama/gqa_tied')
    mask = np.zeros((3, 24), bool)
    logits, _ = forward(model, params, np.zeros((3, 24), np.int32), positions_of(mask), mask)
    assert np.isfinite(logits).all()


def test_soft_prefix_of_token_embeddings_equals_the_tokens():
    model, params = loaded('llama/mha_untied')
    tokens = golden('llama/mha_untied')['input_ids'][:1]  # without padding
    mask = np.ones(tokens.shape, bool)
    reference, _ = forward(model, params, tokens, positions_of(mask), mask)
    soft = params['embed_tokens'][tokens[:, :6]]
    logits, cache = forward(model, params, tokens[:, 6:], positions_of(mask), mask, soft)
    assert logits.shape == reference.shape and cache.k.shape[3] == tokens.shape[1]
    np.testing.assert_allclose(logits, reference, atol=TOLERANCE)


def test_remat_gives_the_same_gradients():
    expected = golden('llama/gqa_tied')
    mask = expected['attention_mask'].astype(bool)

    def gradients(remat):
        config, params = load_model(GOLDEN / 'llama/gqa_tied', dtype=jnp.float32, remat=remat)
        model = Decoder(config)

        def loss(params):
            hidden, _ = model.apply({'params': params}, expected['input_ids'], positions_of(mask), mask)
            logits = model.apply({'params': params}, hidden, method='logits')
            log_probs = jax.nn.log_softmax(logits[:, :-1])
            picked = jnp.take_along_axis(log_probs, expected['input_ids'][:, 1:, None], axis=-1)[..., 0]
            return -jnp.sum(picked * mask[:, :-1])

        return jax.jit(jax.grad(loss))(params)

    plain, rematerialised = gradients(False), gradients(True)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, rematerialised)


def test_llama31_scaling_has_three_bands():
    config = DecoderConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1,
                         num_kv_heads=1, head_dim=64, rope_scaling=RopeScaling('llama3', 8.0, 1.0, 4.0, 32))
    scaled = rotary.rope_frequencies(config)
    for index, ours in enumerate(scaled):  # as transformers' _compute_llama3_parameters puts it
        frequency = 10000.0 ** (-2 * index / 64)
        wavelength = 2 * np.pi / frequency
        if wavelength < 32 / 4:
            expected = frequency
        elif wavelength > 32 / 1:
            expected = frequency / 8
        else:
            smooth = (32 / wavelength - 1) / (4 - 1)
            expected = (1 - smooth) * frequency / 8 + smooth * frequency
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_rotation_equals_complex_multiplication():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 5, 8)).astype(np.float32)
    positions = rng.integers(0, 300, size=(2, 5))
    frequencies = 10000.0 ** -(np.arange(4) / 4)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * positions[:, None, :, None] * frequencies)
    rotated = rotary.rotate(jnp.asarray(x), *rotary.turns(jnp.asarray(positions), frequencies.astype(np.float32)))
    np.testing.assert_allclose(rotated, np.concatenate([turned.real, turned.imag], axis=-1), atol=1e-4)


@every
def test_config_survives_the_round_trip(name):
    config = DecoderConfig.from_hf(read_config(GOLDEN / name))
    again = DecoderConfig.from_hf(json.loads(json.dumps(config.to_hf())))
    assert again == config


def test_both_spellings_of_rope_are_read():
    hf = read_config(GOLDEN / 'llama/llama31')
    assert 'rope_scaling' in hf
    config = DecoderConfig.from_hf(hf)
    assert config.rope_scaling == RopeScaling('llama3', 8.0, 1.0, 4.0, 32) and config.head_dim == 16
    newer = {key: value for key, value in hf.items() if key not in ('rope_scaling', 'rope_theta')}
    newer['rope_parameters'] = hf['rope_scaling'] | {'rope_theta': hf['rope_theta']}
    assert DecoderConfig.from_hf(newer) == config
    linear = DecoderConfig.from_hf(hf | {'rope_scaling': {'type': 'linear', 'factor': 2}})
    np.testing.assert_allclose(rotary.rope_frequencies(linear), 10000.0 ** -(np.arange(8) / 8) / 2, rtol=1e-6)


def test_position_of_a_pad_is_never_negative_and_real_tokens_count_from_zero():
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(
        positions_of(mask), [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2], [0, 0, 0, 0, 0]])
