"""Hugging Face directories: what is written is read back, and what is wrong is named."""

import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax import numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language import weights
from xrec_jax.language.config import DecoderConfig, RopeScaling

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'llama'
NAME = 'model.layers.1.mlp.up_proj.weight'


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden checkpoint, to be spoilt."""
    return shutil.copytree(GOLDEN / 'bias', tmp_path / 'bias')


def random_params(config, dtype, seed=0):
    rng = np.random.default_rng(seed)
    params = {}
    for path, shape in weights._shapes(config).items():
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(rng.normal(size=shape), dtype)
    return params


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize('tied', [True, False])
def test_saved_model_is_read_back_bit_for_bit(tmp_path, dtype, tied):
    config = DecoderConfig(
        vocab_size=24, hidden_size=16, intermediate_size=20, num_layers=3, num_heads=4, num_kv_heads=2,
        head_dim=6, tie_word_embeddings=tied, attention_bias=not tied, rope_theta=5e5, dtype=dtype,
        rope_scaling=RopeScaling('llama3', 8.0, 1.0, 4.0, 32) if tied else None)
    params = random_params(config, dtype)
    weights.save_model(tmp_path / 'new' / 'model', config, params, dtype)
    again, read = weights.load_model(tmp_path / 'new' / 'model', dtype=dtype)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, read, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype(dtype)}
    assert not list((tmp_path / 'new' / 'model').glob('*.partial'))


@pytest.mark.parametrize('name', ['mha_untied', 'gqa_tied', 'llama31', 'bias'])
def test_what_is_saved_is_what_transformers_saved(name, tmp_path):
    stored = weights.read_tensors(GOLDEN / name)
    dtype = stored[NAME].dtype
    config, params = weights.load_model(GOLDEN / name, dtype=dtype)
    weights.save_model(tmp_path, config, params, dtype)
    ours = weights.read_tensors(tmp_path)
    assert set(ours) == set(stored)
    for key, value in stored.items():
        assert ours[key].dtype == value.dtype
        np.testing.assert_array_equal(ours[key], value)
    written, theirs = weights.read_config(tmp_path), weights.read_config(GOLDEN / name)
    for key in set(written) & set(theirs) - {'rope_parameters'}:
        assert written[key] == theirs[key], key


def test_matrices_are_transposed_and_stacked_over_layers():
    config, params = weights.load_model(GOLDEN / 'gqa_tied')
    stored = weights.read_tensors(GOLDEN / 'gqa_tied')
    kernel = params['layers']['mlp']['up_proj']['kernel']
    assert kernel.shape == (2, 32, 64) and stored[NAME].shape == (64, 32)
    np.testing.assert_array_equal(kernel[1], stored[NAME].T)
    np.testing.assert_array_equal(params['embed_tokens'], stored['model.embed_tokens.weight'])


def test_sharded_checkpoint_is_read_through_its_index(folder):
    whole = weights.load_model(folder)[1]
    tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    names = sorted(tensors)
    shards = {f'model-0000{n}-of-00003.safetensors': names[n - 1::3] for n in (1, 2, 3)}
    for file, part in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file)
    index = {'metadata': {}, 'weight_map': {name: file for file, part in shards.items() for name in part}}
    (folder / weights.INDEX).write_text(json.dumps(index))
    jax.tree.map(np.testing.assert_array_equal, weights.load_model(folder)[1], whole)

    (folder / 'model-00002-of-00003.safetensors').unlink()
    with pytest.raises(UserError, match='model-00002-of-00003.safetensors does not exist'):
        weights.load_model(folder)


def test_missing_tensor_is_named(folder):
    tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
    del tensors[NAME]
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    with pytest.raises(UserError, match=f'{NAME} is missing'):
        weights.load_model(folder)


def test_tensor_of_a_wrong_shape_is_named_with_the_stored_and_the_expected_shape(folder):
    tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
    tensors[NAME] = tensors[NAME][:-1].copy()
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    with pytest.raises(UserError, match=rf'{NAME} has shape \(63, 32\).*asks for \(64, 32\)'):
        weights.load_model(folder)


def test_vocabulary_of_a_wrong_size_is_named_with_the_stored_and_the_expected_shape(folder):
    config = json.loads((folder / 'config.json').read_text()) | {'vocab_size': 97}
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match=r'shape \(96, 32\).*asks for \(97, 32\)'):
        weights.load_model(folder)


@pytest.mark.parametrize('size', [0, 5, 500, -1])
def test_truncated_file_is_named(folder, size):
    file = folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match='model.safetensors is truncated'):
        weights.load_model(folder)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(UserError, match='nowhere/config.json does not exist'):
        weights.load_model(tmp_path / 'nowhere')
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    with pytest.raises(UserError, match='never from pickles'):
        weights.load_model(folder)
    (folder / 'config.json').write_text('{\n  "vocab_size": 3,\n}')
    with pytest.raises(UserError, match='config.json, line 3: not valid JSON'):
        weights.load_model(folder)
