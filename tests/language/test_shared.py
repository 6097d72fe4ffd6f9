"""Prompts that share what they begin with, against each prompt's own prefill."""

import itertools

import jax
import numpy as np
import pytest

from xrec_jax.language import choices, decoder, shared, tokenizers
from xrec_jax.language.config import DecoderConfig

CONFIG = DecoderConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2,
                       num_kv_heads=1, head_dim=8, max_position_embeddings=256)
CHOICES = [[(3,)], [(4, 1), (9,)]]


def questions(stems=3, explanations=3):
    """(prompt, stem, branch) of every two explanations of some instructions, in both orders."""
    random = np.random.default_rng(0)
    text = lambda least, most: random.integers(0, 16, random.integers(least, most)).tolist()
    for stem in range(stems):
        head, parts = text(2, 9), [text(1, 12) for _ in range(explanations)]
        for first, second in itertools.permutations(range(explanations), 2):
            yield [1, *head, 2, *parts[first], 5, *parts[second], 7], stem, first


@pytest.fixture(scope='module')
def variables():
    return {'params': jax.tree.map(lambda x: x * 2, decoder.init_params(jax.random.key(0), CONFIG))}


@pytest.fixture(scope='module')
def alone(variables):
    """Each prompt's own log-probs [N, C]."""
    prompts, *_ = zip(*questions())
    return np.asarray(choices.score(decoder.Decoder(CONFIG), variables, *tokenizers.pad(prompts, 40, 'left'), CHOICES))


@pytest.mark.parametrize('num_rows', [4, 32])
def test_log_probs_are_those_of_each_prompt_alone(variables, alone, num_rows):
    prompts, stems, branches = zip(*questions())
    order = np.random.default_rng(1).permutation(len(prompts))  # the order of the questions says nothing
    pick = lambda values: [values[n] for n in order]
    done = []
    got, count = shared.score(decoder.Decoder(CONFIG), variables, pick(prompts), pick(stems), pick(branches), CHOICES,
                              num_rows, done.append)
    np.testing.assert_allclose(got, alone[order], atol=1e-4)
    assert sum(done) == len(prompts)
    assert count < 0.75 * sum(map(len, prompts))


def test_wrong_groups_cost_time_and_change_nothing(variables, alone):
    prompts, *_ = zip(*questions())
    got, count = shared.score(decoder.Decoder(CONFIG), variables, prompts, [0] * len(prompts), range(len(prompts)),
                              CHOICES, 32)
    np.testing.assert_allclose(got, alone, atol=1e-4)
    assert count <= sum(map(len, prompts))


def test_a_sliding_window_counts_positions_and_not_slots(variables):
    model = decoder.Decoder(DecoderConfig(**{**{name: getattr(CONFIG, name) for name in (
        'vocab_size', 'hidden_size', 'intermediate_size', 'num_layers', 'num_heads', 'num_kv_heads', 'head_dim',
        'max_position_embeddings')}, 'sliding_window': 6}))
    prompts, stems, branches = zip(*questions(1))
    want = choices.score(model, variables, *tokenizers.pad(prompts, 40, 'left'), CHOICES)
    got, _ = shared.score(model, variables, prompts, stems, branches, CHOICES, 8)
    np.testing.assert_allclose(got, want, atol=1e-4)
