"""Drawing a token: cuts against a slow NumPy version, draws against their distribution."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import sampling
from xrec_jax.language.sampling import SamplingConfig, next_token

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SETTINGS = [
    SamplingConfig(), SamplingConfig(temperature=0.5), SamplingConfig(temperature=2.0, top_k=3),
    SamplingConfig(top_k=1), SamplingConfig(top_k=100), SamplingConfig(top_p=0.8), SamplingConfig(top_p=0.01),
    SamplingConfig(top_p=0.99), SamplingConfig(min_p=0.2), SamplingConfig(min_p=1.0),
    SamplingConfig(top_k=4, top_p=0.6), SamplingConfig(top_p=0.9, min_p=0.1), SamplingConfig(repetition_penalty=1.7),
    SamplingConfig(temperature=0.7, top_k=6, top_p=0.9, min_p=0.05, repetition_penalty=1.3),
    SamplingConfig(temperature=1.5, repetition_penalty=0.6)]


def slow_distribution(logits, settings, seen, held_back):
    """The probabilities [V] of a row's tokens, one step after another, in float64."""
    logits = np.asarray(logits, np.float64).copy()
    for token in np.flatnonzero(seen):
        logits[token] *= settings.repetition_penalty ** (1 if logits[token] < 0 else -1)
    logits[held_back] = -np.inf
    logits = logits / settings.temperature
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    kept = order[:settings.top_k] if settings.top_k else order
    probs = np.exp(logits - logits.max())
    nucleus, mass, total = [], 0.0, sum(probs[token] for token in kept)
    for token in kept:
        if mass < settings.top_p * total:
            nucleus.append(token)
        mass += probs[token]
    result = np.zeros_like(probs)
    for token in nucleus:
        if probs[token] >= settings.min_p:
            result[token] = probs[token]
    return result / result.sum()


def draws(logits, settings, count, **given):
    token, _ = next_token(jax.random.key(0), jnp.broadcast_to(logits, (count, logits.size)), settings, **given)
    return np.asarray(token)


@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_draws_follow_the_slow_versions_distribution(settings):
    random = np.random.default_rng(1)
    logits = jnp.asarray(random.normal(0, 1.5, 12), jnp.float32)
    seen, held_back = random.random(12) < 0.4, random.random(12) < 0.2
    expected = slow_distribution(logits, settings, seen, held_back)
    count = 20_000
    drawn = np.bincount(draws(logits, settings, count, seen=jnp.asarray(seen)[None], held_back=jnp.asarray(held_back)),
                        minlength=12)
    assert not drawn[expected == 0].any()
    likely = expected * count > 5
    chi_square = ((drawn - expected * count)[likely] ** 2 / (expected * count)[likely]).sum()
    degrees = max(likely.sum() - 1, 1)
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)  # beyond one draw in 10,000 of a right sampler


def test_the_slow_version_is_the_references():
    """`golden/generate.npz`, written by golden/make_generate.py."""
    golden = np.load(GOLDEN / 'generate.npz')
    seen = np.isin(np.arange(12), golden['seen'])
    for (temperature, top_k, top_p, min_p, penalty), expected in zip(golden['cuts'], golden['probs']):
        settings = SamplingConfig(temperature=temperature, top_k=int(top_k), top_p=top_p, min_p=min_p,
                                  repetition_penalty=penalty)
        ours = slow_distribution(golden['logits'], settings, seen, np.zeros(12, bool))
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize('top_p', [0.05, 0.5, 0.9, 0.999])
def test_threshold_of_top_p_is_that_of_sorting(top_p):
    logits = np.random.default_rng(0).normal(0, 3, (20, 1000)).astype(np.float32)
    logits[:, 500:] = np.float32(-1e30)  # as held-back tokens are
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = np.asarray(sampling.likeliest(jnp.asarray(shares), top_p))[:, 0]
    for row, threshold in zip(shares.astype(np.float64), found):
        ordered = np.sort(row)[::-1]
        before = np.cumsum(ordered) - ordered
        assert threshold == ordered[before < top_p * ordered.sum()][-1]


def test_equally_likely_tokens_stay_or_go_together():
    shares = jnp.asarray([[1.0, 0.5, 0.5, 0.25, 0.25, 0.0]])
    assert float(sampling.likeliest(shares, 0.45)[0, 0]) == 0.5  # 1.0 has 0.4 of the mass
    assert float(sampling.likeliest(shares, 0.35)[0, 0]) == 1.0
    assert float(sampling.likeliest(shares, 0.85)[0, 0]) == 0.25


def test_penalty_is_over_the_sign_of_the_logit():
    logits = jnp.asarray([[2.0, -2.0, 3.0, -3.0]])
    seen = jnp.asarray([[True, True, False, False]])
    np.testing.assert_allclose(sampling.penalize_repetition(logits, seen, 2.0), [[1.0, -4.0, 3.0, -3.0]])


def test_greedy_takes_the_likeliest_token_that_may_be_drawn():
    logits = jnp.asarray([[2.0, 1.9, -1.0], [2.0, 1.9, -1.0]])
    settings = SamplingConfig(temperature=0.0, repetition_penalty=1.2)
    seen = jnp.asarray([[True, False, False], [False, False, False]])
    assert next_token(jax.random.key(0), logits, settings, seen=seen)[0].tolist() == [1, 0]
    held_back = jnp.asarray([True, False, False])
    assert next_token(jax.random.key(0), logits, settings, seen=seen, held_back=held_back)[0].tolist() == [1, 1]


@pytest.mark.parametrize('temperature', [0.0, 0.5])
def test_log_probs_are_those_at_the_temperature_whatever_may_be_drawn(temperature):
    logits = jax.random.normal(jax.random.key(1), (5, 9)) * 2
    settings = SamplingConfig(temperature=temperature, top_k=3, top_p=0.9, min_p=0.01, repetition_penalty=1.5)
    token, log_probs = next_token(jax.random.key(0), logits, settings, seen=jnp.ones((5, 9), bool),
                                  held_back=jnp.arange(9) == 0)
    whole = jax.nn.log_softmax(logits / (temperature or 1.0))
    np.testing.assert_allclose(log_probs, whole[np.arange(5), token], rtol=1e-6)


@pytest.mark.parametrize('settings', [SamplingConfig(), SamplingConfig(top_k=4), SamplingConfig(top_p=0.7)], ids=str)
def test_a_key_of_its_own_draws_for_a_row_what_it_draws_alone(settings):
    logits = jax.random.normal(jax.random.key(1), (6, 50))
    keys = jax.random.split(jax.random.key(2), 6)
    together, _ = next_token(keys, logits, settings)
    alone = [int(next_token(key, row[None], settings)[0][0]) for key, row in zip(keys, logits)]
    assert together.tolist() == alone


@pytest.mark.parametrize('change, named', [
    ({'top_p': 0.0}, 'top_p'), ({'min_p': 1.5}, 'min_p'), ({'repetition_penalty': 0.0}, 'repetition_penalty'),
    ({'max_length': 4, 'min_length': 5}, 'min_length'), ({'temperature': -1.0}, 'temperature')])
def test_impossible_settings_are_refused(change, named):
    with pytest.raises(UserError, match=named):
        SamplingConfig(**change)


@pytest.mark.parametrize('words', [9, 64, 24])  # blocks of 1, 64 and 8 words
def test_greatest_is_argmax_and_of_equals_the_first(words):
    logits = np.random.default_rng(0).integers(-3, 4, (50, words)).astype(np.float32)  # many are equal
    logits[0] = sampling.IMPOSSIBLE
    np.testing.assert_array_equal(sampling.greatest(jnp.asarray(logits)), logits.argmax(axis=-1))
    np.testing.assert_array_equal(sampling.greatest(jnp.asarray(logits.T), 0), logits.argmax(axis=-1))


@pytest.mark.parametrize('settings, own_keys', [
    (SamplingConfig(temperature=0.0, repetition_penalty=1.3), False), (SamplingConfig(), True),
    (SamplingConfig(temperature=0.7, top_k=6, top_p=0.9, min_p=0.05, repetition_penalty=1.3), False)], ids=str)
def test_the_vocabulary_may_be_the_first_axis(settings, own_keys):
    logits = jax.random.normal(jax.random.key(1), (6, 40)) * 2
    seen, key = jax.random.bernoulli(jax.random.key(3), 0.3, (6, 40)), jax.random.key(2)
    key = jax.random.split(key, 6) if own_keys else key
    for held_back in (None, jnp.arange(40) < 5, seen[::-1]):
        of_rows, of_columns = (next_token(key, x, settings, seen=seen, held_back=held_back, vocab_axis=axis)
                               for x, axis in ((logits, 1), (logits.T, 0)))
        assert of_columns[0].tolist() == of_rows[0].tolist()
        np.testing.assert_allclose(of_columns[1], of_rows[1], rtol=1e-5, atol=1e-6)
