"""The first weights are an induction head: they continue a sequence as it went on before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny_llama
from xrec_jax.language import decoder, induction, rotary
from xrec_jax.language.config import DecoderConfig

CONFIG = DecoderConfig(**tiny_llama.get_config().model.to_dict())


@pytest.fixture(scope='module')
def params():
    return induction.init_params(jax.random.key(3), CONFIG)


def twice(length):
    """Random tokens, and the same again: int32 [1, 2 length]."""
    half = np.random.default_rng(0).integers(3, CONFIG.vocab_size, length)
    return np.concatenate([half, half])[None].astype(np.int32)


def share_continued(params, tokens):
    """Of the tokens of the second half, those that the model expects."""
    length = tokens.shape[1] // 2
    mask = jnp.ones(tokens.shape, bool)
    model = decoder.Decoder(CONFIG)
    hidden, _ = model.apply({'params': params}, tokens, decoder.positions_of(mask), mask)
    expected = np.asarray(model.apply({'params': params}, hidden, method='logits')[0].argmax(-1))
    return np.mean(expected[length:-1] == tokens[0, length + 1:])


@pytest.mark.parametrize('length', [20, 60, 120])
def test_it_copies_before_it_has_learned_anything(params, length):
    assert share_continued(params, twice(length)) > 0.2
    assert share_continued(decoder.init_params(jax.random.key(3), CONFIG), twice(length)) < 0.05


def weights_of(kernels, hidden, head):
    """Attention of one query head, from kernels [D, heads, d] and hidden states [S, D], in float64."""
    frequencies = rotary.rope_frequencies(CONFIG)
    turn = np.exp(1j * np.arange(len(hidden))[:, None] * frequencies)
    normed = hidden / np.sqrt((hidden**2).mean(axis=1, keepdims=True))
    q, k = ((normed @ kernel)[:, :CONFIG.head_dim // 2] + 1j * (normed @ kernel)[:, CONFIG.head_dim // 2:]
            for kernel in (kernels['q_proj'][:, head], kernels['k_proj'][:, head // 2]))
    scores = ((q * turn) @ (k * turn).conj().T).real / CONFIG.head_dim**0.5
    scores[np.triu_indices(len(hidden), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_heads_of_the_first_layer_look_one_and_two_tokens_back(params):
    kernels = {name: np.asarray(params['layers']['self_attn'][name]['kernel'][0], np.float64).reshape(
        CONFIG.hidden_size, -1, CONFIG.head_dim) for name in ('q_proj', 'k_proj')}
    hidden = np.asarray(params['embed_tokens'], np.float64)[twice(100)[0]]
    for head in (0, 1):
        assert np.diagonal(weights_of(kernels, hidden, head), -(head + 1)).mean() > 0.9


def test_embeddings_keep_their_length(params):
    length = np.linalg.norm(params['embed_tokens'], axis=1)
    plain = np.linalg.norm(decoder.init_params(jax.random.key(3), CONFIG)['embed_tokens'], axis=1)
    np.testing.assert_allclose(length.mean(), plain.mean(), rtol=0.02)


def test_one_layer_is_refused():
    with pytest.raises(ValueError, match='takes two layers'):
        induction.init_params(jax.random.key(0), DecoderConfig(64, 64, 64, 1, 4, 2, 16))
