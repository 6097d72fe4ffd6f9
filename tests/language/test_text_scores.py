"""BARTScore against transformers, LMScore against a loop; pairs of all lengths in any order."""

import pathlib

import jax
import numpy as np
import pytest

from xrec_jax.language import decoder, text_scores, tokenizers
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.likelihood import token_log_probs

CNN = pathlib.Path(__file__).parents[1] / 'golden' / 'bart' / 'cnn'
TEXTS = ['the pop filter is cheap', 'a stand', 'strings that last; strings that sound bright', '']


@pytest.fixture(scope='module')
def bart_scorer():
    return text_scores.load_bart_scorer(CNN)


@pytest.fixture(scope='module')
def language():
    tokenizer = tokenizers.train_tokenizer(TEXTS, 280)
    config = DecoderConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1,
                           num_kv_heads=1, head_dim=8, max_position_embeddings=128)
    return decoder.Decoder(config), {'params': decoder.init_params(jax.random.key(0), config)}, tokenizer


def test_bart_score_equals_the_authors_formula_under_transformers(bart_scorer):
    with np.load(CNN / 'expected.npz') as file:
        sources, targets, expected = file['sources'].tolist(), file['targets'].tolist(), file['scores']
    scores, cut = bart_scorer.score(sources, targets)
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    assert bart_scorer.name == 'BARTScore' and cut == 2  # sources or targets beyond 40 tokens


def test_scores_do_not_depend_on_company_or_order(bart_scorer):
    sources, targets = ['Too noisy.', 'The price is right.', ''], ['A stand.', 'The user likes it.', 'Cheap.']
    together, _ = bart_scorer.score(sources * 5, targets * 5)
    backwards, _ = bart_scorer.score(sources[::-1], targets[::-1])
    np.testing.assert_allclose(together, np.tile(backwards[::-1], 5), atol=1e-6)


def test_lm_score_is_the_mean_log_prob_of_the_target_behind_the_source(language):
    model, variables, tokenizer = language
    scorer = text_scores.language_scorer(*language)
    scores, cut = scorer.score(TEXTS, TEXTS[::-1])
    assert scorer.name == 'LMScore' and cut == 0
    assert np.isnan(scores[0])  # a target without a token
    for score, source, target in list(zip(scores, TEXTS, TEXTS[::-1]))[1:]:
        ids = tokenizer('')['input_ids'] + (
            tokenizer(source + '\n', add_special_tokens=False)['input_ids'] if source else [])
        wanted = tokenizer(target, add_special_tokens=False)['input_ids']
        tokens = np.array([ids + wanted])
        hidden, _ = model.apply(variables, tokens, np.arange(tokens.size)[None], np.ones(tokens.shape, bool))
        logits = np.asarray(model.apply(variables, hidden, method='logits'), np.float64)[0]
        normal = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = np.mean([normal[len(ids) + n - 1, token] for n, token in enumerate(wanted)])
        assert abs(score - expected) < 1e-5


def test_too_long_pairs_are_cut_and_counted(language):
    scores, cut = text_scores.language_scorer(*language).score(['q' * 300, 'short'], ['a stand', 'w' * 300])
    assert cut == 2 and np.isfinite(scores).all()


@pytest.mark.parametrize('by_word', [True, False])
def test_log_probs_in_chunks_equal_those_at_once(by_word, monkeypatch):
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(2, 7, 3)), rng.normal(size=(11, 3))
    bias, scale, targets = rng.normal(size=11), rng.uniform(0.5, 2, size=11), rng.integers(11, size=(2, 7))
    logits = hidden @ head.T * scale + bias
    expected = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), targets[..., None], -1)[..., 0]
    monkeypatch.setattr('xrec_jax.language.likelihood.CHUNK', 6)  # three columns at a time
    found = token_log_probs(hidden.astype(np.float32), (head if by_word else head.T).astype(np.float32), targets,
                            bias.astype(np.float32), scale.astype(np.float32), by_word=by_word)
    np.testing.assert_allclose(found, expected, atol=1e-5)
