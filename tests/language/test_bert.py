"""BERT and DistilBERT against transformers' own outputs, and what a checkpoint may get wrong."""

import json
import pathlib
import shutil

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language import bert

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'bert'
both = pytest.mark.parametrize('name', ['bert', 'distilbert'])


def golden(name):
    with np.load(GOLDEN / name / 'expected.npz') as file:
        return {key: file[key] for key in file}


def run(config, params, tokens, mask):
    return jax.jit(lambda p, t, m: bert.Bert(config).apply({'params': p}, t, m))(params, tokens, mask)


@pytest.fixture
def copy(tmp_path):
    """Copies a golden checkpoint, so that a test may spoil it."""
    def make(name='bert', change=None):
        folder = shutil.copytree(GOLDEN / name, tmp_path / name)
        if change is not None:
            tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
            safetensors.numpy.save_file(change(tensors), folder / 'model.safetensors')
        return folder
    return make


@both
def test_hidden_states_and_their_mean_equal_transformers(name):
    expected = golden(name)
    config, params = bert.load_bert(GOLDEN / name)
    mask = expected['attention_mask'].astype(bool)
    hidden = run(config, params, expected['input_ids'], mask)
    assert np.abs(np.where(mask[..., None], hidden, 0) - expected['hidden']).max() < 2e-5
    assert np.abs(bert.pool(hidden, mask) - expected['pooled']).max() < 1e-5


@both
def test_bfloat16_comes_close_and_keeps_its_dtype(name):
    expected = golden(name)
    config, params = bert.load_bert(GOLDEN / name, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    mask = expected['attention_mask'].astype(bool)
    hidden = run(config, params, expected['input_ids'], mask)
    assert hidden.dtype == jnp.bfloat16
    pooled = bert.pool(hidden, mask)
    assert pooled.dtype == jnp.float32
    assert np.abs(pooled - expected['pooled']).max() < 0.1


def test_what_lies_in_pads_and_how_many_there_are_changes_nothing():
    expected = golden('bert')
    config, params = bert.load_bert(GOLDEN / 'bert')
    tokens, mask = expected['input_ids'], expected['attention_mask'].astype(bool)
    wider = np.pad(np.where(mask, tokens, 7), [(0, 0), (0, 12)], constant_values=9)
    wider_mask = np.pad(mask, [(0, 0), (0, 12)])
    hidden = run(config, params, wider, wider_mask)
    assert np.abs(bert.pool(hidden, wider_mask) - expected['pooled']).max() < 1e-5
    assert np.isfinite(hidden).all()


def test_row_without_tokens_is_finite_and_pools_to_zero():
    config, params = bert.load_bert(GOLDEN / 'bert')
    mask = np.zeros((1, 8), bool)
    hidden = run(config, params, np.zeros((1, 8), np.int32), mask)
    assert np.isfinite(hidden).all()
    for kind in ('mean', 'cls'):
        assert not np.asarray(bert.pool(hidden, mask, kind)).any()


def test_pooling_equals_a_loop():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(4, 7, 5)).astype(np.float32)
    lengths = [7, 1, 0, 4]
    mask = np.arange(7) < np.array(lengths)[:, None]
    mean, first = bert.pool(hidden, mask), bert.pool(hidden, mask, 'cls')
    for row, length in enumerate(lengths):
        expected = hidden[row, :length].astype(np.float64).mean(axis=0) if length else np.zeros(5)
        np.testing.assert_allclose(mean[row], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(first[row], hidden[row, 0] if length else np.zeros(5))


def test_names_of_the_oldest_checkpoints_and_a_missing_token_type_table(copy):
    def change(tensors):
        def older(name):
            return 'bert.' + name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
                'LayerNorm.bias', 'LayerNorm.beta')

        table = tensors.pop('embeddings.token_type_embeddings.weight')
        tensors['embeddings.position_embeddings.weight'] += table[0]
        return {older(name): value for name, value in tensors.items()}

    _, params = bert.load_bert(copy(change=change))
    _, reference = bert.load_bert(GOLDEN / 'bert')
    jax.tree.map(np.testing.assert_array_equal, params, reference)


def test_loaded_weights_have_the_promised_shapes():
    for name in ('bert', 'distilbert'):
        config, params = bert.load_bert(GOLDEN / name)
        promised = flax.traverse_util.flatten_dict(bert.abstract_params(config))
        loaded = flax.traverse_util.flatten_dict(params)
        assert {path: box.unbox().shape for path, box in promised.items()} == {
            path: value.shape for path, value in loaded.items()}


@pytest.mark.parametrize('key, value, says', [
    ('model_type', 'roberta', 'roberta'),
    ('position_embedding_type', 'relative_key', 'position_embedding_type'),
    ('is_decoder', True, 'is_decoder'),
    ('hidden_act', 'swish', 'swish'),
    ('num_attention_heads', 5, 'num_attention_heads=5'),
    ('vocab_size', None, 'vocab_size'),
])
def test_unsupported_config_is_refused_by_name(key, value, says):
    hf = json.loads((GOLDEN / 'bert' / 'config.json').read_text()) | {key: value}
    if value is None:
        del hf[key]
    with pytest.raises(UserError, match=says):
        bert.BertConfig.from_hf(hf)


def test_missing_and_misshapen_tensors_are_named(copy):
    name = 'encoder.layer.1.output.dense.weight'
    folder = copy(change=lambda tensors: {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(UserError, match=f'{name} is missing'):
        bert.load_bert(folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=f'{name} has shape'):
        bert.load_bert(copy(change=lambda tensors: tensors | {name: tensors[name][:, :-1].copy()}))


@pytest.mark.parametrize('size', [0, 5, 500, -1])
def test_truncated_weights_are_an_error_that_names_the_file(copy, size):
    folder = copy()
    file = folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match='model.safetensors.*truncated'):
        bert.load_bert(folder)
