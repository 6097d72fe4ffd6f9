"""Decoding against the reference's output and the whole-sequence pass."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.language import decoder, generate, policy, weights
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.sampling import SamplingConfig

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'llama'
CONFIG = DecoderConfig(vocab_size=11, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2,
                           num_kv_heads=1, head_dim=8, max_position_embeddings=64)
MODEL = decoder.Decoder(CONFIG)
EOS = 2


@pytest.fixture(scope='module')
def variables():
    params = decoder.init_params(jax.random.key(0), CONFIG)
    return {'params': jax.tree.map(lambda x: x * 2, params)}  # sharper than at the start


def prompts(batch=6, width=7, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, width + 1, batch)
    return (jnp.asarray(random.integers(3, 11, (batch, width))),
            jnp.asarray(np.arange(width) >= width - lengths[:, None]))


@pytest.mark.parametrize('name', ['bias', 'gqa_tied', 'llama31', 'mha_untied'])
def test_greedy_decoding_is_the_references(name):
    config, params = weights.load_model(GOLDEN / name)
    golden = np.load(GOLDEN / name / 'expected.npz')
    mask = golden['attention_mask'].astype(bool)
    lengths = mask.sum(axis=1)
    width = mask.shape[1]
    order = (np.arange(width) - (width - lengths)[:, None]) % width  # to left padding, whatever it was
    if mask[:, -1].all():
        order = np.broadcast_to(np.arange(width), mask.shape)
    tokens = np.take_along_axis(golden['input_ids'], order, 1)
    mask = np.take_along_axis(mask, order, 1)
    sampling = SamplingConfig(max_length=golden['generated'].shape[1], temperature=0.0)
    ours = generate.generate(decoder.Decoder(config), {'params': params}, jnp.asarray(tokens), jnp.asarray(mask),
                             jax.random.key(0), sampling=sampling, stop_ids=config.vocab_size + 1)
    np.testing.assert_array_equal(ours.tokens, golden['generated'])


def test_samplers_log_probs_are_those_of_the_whole_sequence_pass(variables):
    tokens, mask = prompts()
    sampling = SamplingConfig(max_length=9, temperature=0.7, top_k=5, top_p=0.9)
    ours = generate.generate(MODEL, variables, tokens, mask, jax.random.key(3), sampling=sampling, stop_ids=EOS)
    scored = policy.evaluate(MODEL, variables, tokens, mask, ours.tokens, ours.mask, temperature=0.7)
    np.testing.assert_allclose(jnp.where(ours.mask, ours.log_probs - scored.log_probs, 0), 0, atol=2e-5)


def test_soft_prompts_reach_decoding_as_tokens_would(variables):
    tokens, mask = prompts()
    mask = jnp.ones_like(mask)
    sampling = SamplingConfig(max_length=8, temperature=0.0)
    plain = generate.generate(MODEL, variables, tokens, mask, jax.random.key(0), sampling=sampling, stop_ids=EOS)
    prefix = variables['params']['embed_tokens'][tokens[:, :2]]
    soft = generate.generate(MODEL, variables, tokens[:, 2:], mask[:, 2:], jax.random.key(0), sampling=sampling,
                             stop_ids=EOS, prefix_embeddings=prefix)
    np.testing.assert_array_equal(plain.tokens, soft.tokens)


def test_responses_end_with_their_first_eos(variables):
    tokens, mask = prompts(batch=64)
    sampling = SamplingConfig(max_length=12, temperature=1.5)
    ours = generate.generate(MODEL, variables, tokens, mask, jax.random.key(1), sampling=sampling, stop_ids=EOS)
    for row, valid, truncated, length in zip(*map(np.asarray, (ours.tokens, ours.mask, ours.truncated, ours.lengths))):
        ends = np.flatnonzero(row == EOS)
        assert truncated == (len(ends) == 0)
        assert length == (12 if truncated else ends[0] + 1)
        np.testing.assert_array_equal(valid, np.arange(12) < length)
    assert 0 < np.mean(ours.truncated) < 1


def test_min_length_holds_eos_back(variables):
    tokens, mask = prompts(batch=64)
    sampling = SamplingConfig(max_length=12, temperature=1.5, min_length=5)
    ours = generate.generate(MODEL, variables, tokens, mask, jax.random.key(1), sampling=sampling, stop_ids=EOS)
    assert int(ours.lengths.min()) == 5


def test_same_key_same_text_and_another_key_another(variables):
    tokens, mask = prompts()
    draw = lambda seed: np.asarray(generate.generate(
        MODEL, variables, tokens, mask, jax.random.key(seed), sampling=SamplingConfig(max_length=9),
        stop_ids=EOS).tokens)
    np.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(5) != draw(6)).any()


def test_samples_of_a_prompt_are_those_of_the_prompt_said_again(variables):
    tokens, mask = prompts()
    sampling = SamplingConfig(max_length=9, temperature=1.5, repetition_penalty=1.2)
    write = lambda tokens, mask, **given: generate.generate(
        MODEL, variables, tokens, mask, jax.random.key(2), sampling=sampling, stop_ids=EOS, **given)
    samples = write(tokens, mask, num_samples=3)
    again = write(jnp.repeat(tokens, 3, axis=0), jnp.repeat(mask, 3, axis=0))
    np.testing.assert_array_equal(samples.mask, again.mask)
    np.testing.assert_array_equal(samples.tokens, again.tokens)
    np.testing.assert_allclose(samples.log_probs, again.log_probs, atol=1e-5)
    assert any(len(set(map(tuple, rows))) == 3 for rows in np.asarray(samples.tokens).reshape(6, 3, 9).tolist())


def test_a_prompt_with_a_key_of_its_own_says_what_it_says_alone(variables):
    tokens, mask = prompts()
    keys = jax.random.split(jax.random.key(2), 6)
    write = lambda tokens, mask, key: generate.generate(
        MODEL, variables, tokens, mask, key, sampling=SamplingConfig(max_length=9, temperature=1.5), stop_ids=EOS)
    together = write(tokens, mask, keys)
    for i in range(6):
        alone = write(tokens[i:i + 1], mask[i:i + 1], keys[i])
        np.testing.assert_array_equal(together.mask[i], alone.mask[0])
        np.testing.assert_array_equal(together.tokens[i][together.mask[i]], alone.tokens[0][alone.mask[0]])


def test_any_of_several_stop_tokens_ends_a_response(variables):
    tokens, mask = prompts(batch=64)
    sampling = SamplingConfig(max_length=12, temperature=1.5, min_length=2)
    ours = generate.generate(MODEL, variables, tokens, mask, jax.random.key(1), sampling=sampling, stop_ids=(EOS, 7))
    last = np.asarray(ours.tokens)[np.arange(64), np.asarray(ours.lengths) - 1]
    assert {EOS, 7} <= set(last[~np.asarray(ours.truncated)].tolist()) <= {EOS, 7}
    before = np.asarray(ours.mask) & (np.arange(12) < np.asarray(ours.lengths)[:, None] - 1)
    assert not np.isin(np.asarray(ours.tokens)[before], (EOS, 7)).any() and int(ours.lengths.min()) == 2


def test_decoding_stops_when_all_rows_have_ended(variables):
    tokens, mask = prompts(batch=3)
    sampling = SamplingConfig(max_length=200, temperature=1.5)
    ours = generate.generate(MODEL, variables, tokens, mask, jax.random.key(1), sampling=sampling, stop_ids=EOS)
    longest = int(ours.lengths.max())
    assert longest < 100 and not np.asarray(ours.tokens)[:, longest:].any()  # never written


@pytest.mark.parametrize('name', ['gqa_tied', 'mha_untied'])
def test_repetition_penalty_and_min_length_are_the_references(name):
    """`golden/generate.npz`, written by golden/make_generate.py."""
    config, params = weights.load_model(GOLDEN / name)
    golden = np.load(GOLDEN.parent / 'generate.npz')
    tokens = jnp.asarray(golden['input_ids'])
    for penalty, min_length, stop in golden['settings']:
        sampling = SamplingConfig(max_length=golden[f'{name}_{penalty}'].shape[1], temperature=0.0,
                                  repetition_penalty=float(penalty), min_length=int(min_length))
        ours = generate.generate(decoder.Decoder(config), {'params': params}, tokens, jnp.ones(tokens.shape, bool),
                                 jax.random.key(0), sampling=sampling, stop_ids=int(stop))
        expected = golden[f'{name}_{penalty}']
        np.testing.assert_array_equal(np.where(ours.mask, ours.tokens, 0), expected)
