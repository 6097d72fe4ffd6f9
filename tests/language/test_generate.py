"""Decoding against the reference's greedy output, the whole-sequence pass, and the distribution."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, generate, policy, weights
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.generate import SamplingConfig

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
                             jax.random.key(0), sampling=sampling, eos_id=config.vocab_size + 1)
    np.testing.assert_array_equal(ours.tokens, golden['generated'])


def test_samplers_log_probs_are_those_of_the_whole_sequence_pass(variables):
    tokens, mask = prompts()
    sampling = SamplingConfig(max_length=9, temperature=0.7, top_k=5, top_p=0.9)
    ours = generate.generate(MODEL, variables, tokens, mask, jax.random.key(3), sampling=sampling, eos_id=EOS)
    scored = policy.evaluate(MODEL, variables, tokens, mask, ours.tokens, ours.mask, temperature=0.7)
    np.testing.assert_allclose(jnp.where(ours.mask, ours.log_probs - scored.log_probs, 0), 0, atol=2e-5)


def test_soft_prompts_reach_decoding_as_tokens_would(variables):
    tokens, mask = prompts()
    mask = jnp.ones_like(mask)
    sampling = SamplingConfig(max_length=8, temperature=0.0)
    plain = generate.generate(MODEL, variables, tokens, mask, jax.random.key(0), sampling=sampling, eos_id=EOS)
    prefix = variables['params']['embed_tokens'][tokens[:, :2]]
    soft = generate.generate(MODEL, variables, tokens[:, 2:], mask[:, 2:], jax.random.key(0), sampling=sampling,
                             eos_id=EOS, prefix_embeddings=prefix)
    np.testing.assert_array_equal(plain.tokens, soft.tokens)


def test_responses_end_with_their_first_eos(variables):
    tokens, mask = prompts(batch=64)
    sampling = SamplingConfig(max_length=12, temperature=1.5)
    ours = generate.generate(MODEL, variables, tokens, mask, jax.random.key(1), sampling=sampling, eos_id=EOS)
    for row, valid, truncated, length in zip(*map(np.asarray, (ours.tokens, ours.mask, ours.truncated, ours.lengths))):
        ends = np.flatnonzero(row == EOS)
        assert truncated == (len(ends) == 0)
        assert length == (12 if truncated else ends[0] + 1)
        np.testing.assert_array_equal(valid, np.arange(12) < length)
    assert 0 < np.mean(ours.truncated) < 1


def test_min_length_holds_eos_back(variables):
    tokens, mask = prompts(batch=64)
    sampling = SamplingConfig(max_length=12, temperature=1.5, min_length=5)
    ours = generate.generate(MODEL, variables, tokens, mask, jax.random.key(1), sampling=sampling, eos_id=EOS)
    assert int(ours.lengths.min()) == 5


def frequencies(logits, sampling, count=20_000):
    token, _ = generate.next_token(jax.random.key(0), jnp.broadcast_to(logits, (count, logits.size)), sampling)
    return np.bincount(np.asarray(token), minlength=logits.size) / count


@pytest.mark.parametrize('sampling, kept', [
    (SamplingConfig(temperature=0.5), 5), (SamplingConfig(top_k=2), 2), (SamplingConfig(top_p=0.8), 3),
    (SamplingConfig(top_p=0.01), 1), (SamplingConfig(temperature=2.0, top_k=3), 3)])
def test_draws_follow_the_cut_distribution(sampling, kept):
    probs = np.array([0.4, 0.05, 0.3, 0.1, 0.15])
    tempered = probs ** (1 / sampling.temperature)
    order = np.argsort(-tempered)
    expected = np.zeros(5)
    expected[order[:kept]] = tempered[order[:kept]] / tempered[order[:kept]].sum()
    np.testing.assert_allclose(frequencies(jnp.log(probs), sampling), expected, atol=0.012)


def test_log_probs_ignore_the_cut():
    logits = jnp.log(jnp.array([[0.4, 0.05, 0.3, 0.1, 0.15]]))
    token, log_prob = generate.next_token(jax.random.key(0), logits, SamplingConfig(top_k=1))
    assert (int(token[0]), float(log_prob[0])) == (0, pytest.approx(np.log(0.4), abs=1e-6))


def test_same_key_same_text_and_another_key_another(variables):
    tokens, mask = prompts()
    draw = lambda seed: np.asarray(generate.generate(
        MODEL, variables, tokens, mask, jax.random.key(seed), sampling=SamplingConfig(max_length=9), eos_id=EOS).tokens)
    np.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(5) != draw(6)).any()


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match='top_p'):
        SamplingConfig(top_p=0.0)
    with pytest.raises(UserError, match='min_length'):
        SamplingConfig(max_length=4, min_length=5)
