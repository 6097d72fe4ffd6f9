"""Choices from one prefill against whole passes over prompt and answer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import choices, decoder, tokenizers
from xrec_jax.language.config import DecoderConfig

CONFIG = DecoderConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2,
                       num_kv_heads=1, head_dim=8, max_position_embeddings=64)
# Of one token, of several, of both; 'shared' begins as its neighbour does.
SINGLE = [[(3,), (7,)], [(4,)], [(9,), (9,), (2,)]]
SEVERAL = [[(3, 5, 6)], [(4, 1)], [(8, 8, 8, 8)]]
MIXED = [[(3,), (5, 6, 2)], [(3, 4), (3, 9)], [(10,)], [(5, 6, 3)]]


@pytest.fixture(scope='module')
def variables():
    return {'params': jax.tree.map(lambda x: x * 2, decoder.init_params(jax.random.key(0), CONFIG))}


def prompts(batch=5, width=7):
    random = np.random.default_rng(0)
    return (random.integers(0, 16, (batch, width)),
            np.arange(width) >= width - random.integers(1, width + 1, (batch, 1)))


@functools.partial(jax.jit, static_argnames='model')
def whole_pass(model, variables, tokens, length):
    """Log-probs [S, V] of the next token, of one text [S] that is padded on the right."""
    slots = jnp.arange(len(tokens))[None]
    hidden, _ = model.apply(variables, tokens[None], slots, slots < length)
    return jax.nn.log_softmax(model.apply(variables, hidden[0], method='logits'))


def slow_log_prob(model, variables, tokens, mask, choice):
    """Of each row alone: the answer behind the prompt, one pass a spelling, no cache."""
    result = []
    for row, valid in zip(tokens, mask):
        probs, begin = 0.0, int(valid.sum())
        for spelling in set(choice):
            text = np.concatenate([row[valid], spelling])
            log_probs = whole_pass(model, variables, np.resize(text, 12), len(text))
            probs += np.exp(sum(float(log_probs[begin - 1 + n, token]) for n, token in enumerate(spelling)))
        result.append(np.log(probs))
    return np.array(result)


@pytest.mark.parametrize('window', [None, 4])
@pytest.mark.parametrize('asked', [SINGLE, SEVERAL, MIXED], ids=['single', 'several', 'mixed'])
def test_scores_are_those_of_whole_passes(variables, asked, window):
    model = decoder.Decoder(dataclasses.replace(CONFIG, sliding_window=window))
    tokens, mask = prompts()
    ours = choices.score(model, variables, tokens, mask, asked)
    assert ours.shape == (5, len(asked)) and ours.dtype == jnp.float32
    expected = np.stack([slow_log_prob(model, variables, tokens, mask, choice) for choice in asked], axis=1)
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_the_choice_of_every_token_is_certain(variables):
    tokens, mask = prompts()
    ours = choices.score(decoder.Decoder(CONFIG), variables, tokens, mask, [[(token,) for token in range(16)]])
    np.testing.assert_allclose(ours, 0.0, atol=1e-6)


@pytest.mark.parametrize('asked, error, message', [
    ([[(3,)], []], ValueError, 'each needs a spelling'), ([[(3,)], [()]], ValueError, 'each needs a spelling'),
    ([[(16,)]], ValueError, 'beyond the vocabulary of 16'), ([[(3, -1)]], ValueError, 'beyond the vocabulary'),
    ([[(3,), (4, 5)], [(4, 5)]], UserError, r'\[\(4, 5\)\]: they cannot be told apart')])
def test_choices_that_make_no_sense_are_refused(variables, asked, error, message):
    with pytest.raises(error, match=message):
        choices.score(decoder.Decoder(CONFIG), variables, *prompts(), asked)


def test_a_word_is_spelled_with_a_space_and_without():
    tokenizer = tokenizers.train_tokenizer(['Yes it is. Yes. Nope'] * 20, 280)
    found = choices.spellings(tokenizer, 'Yes')
    assert sorted(tokenizer.decode(list(ids)) for ids in found) == [' Yes', 'Yes']
    assert any(len(ids) == 1 for ids in found)
    assert all(len(ids) > 1 for ids in choices.spellings(tokenizer, 'Zzyzx'))
