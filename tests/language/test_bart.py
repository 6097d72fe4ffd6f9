"""BART against transformers' own log-probs, and what a checkpoint may get wrong."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language import bart
from xrec_jax.parallel import mesh as meshes, sharding

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'bart'


def golden(name):
    with np.load(GOLDEN / name / 'expected.npz') as file:
        return {key: file[key] for key in file}


def log_probs(config, params, expected, extra=0):
    """Of the golden pairs, with `extra` more pads that hold other ids."""
    wider = lambda name, value: np.pad(expected[name], [(0, 0), (0, extra)], constant_values=value)
    mask = wider('source_mask', 0).astype(bool)
    source = np.where(mask, wider('source', 0), 7 if extra else 1)
    found = bart.log_probs(params, source, mask, wider('target', 9), config=config)
    return np.asarray(found)[:, :expected['target'].shape[1]] * expected['target_mask'].astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / 'cnn', tmp_path / 'cnn')


def spoil(folder, **change):
    tensors = safetensors.numpy.load_file(folder / 'model.safetensors') | change
    tensors = {name: value for name, value in tensors.items() if value is not None}
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')


@pytest.mark.parametrize('name', ['cnn', 'scaled'])
def test_log_probs_equal_transformers(name):
    expected = golden(name)
    config, params = bart.load_bart(GOLDEN / name)
    assert np.abs(log_probs(config, params, expected) - expected['log_probs']).max() < 2e-5


def test_what_lies_in_pads_changes_nothing():
    expected = golden('scaled')
    config, params = bart.load_bart(GOLDEN / 'scaled', max_position_embeddings=40)
    short = expected | {name: expected[name][1:3, :30] for name in ('source', 'source_mask')} | {
        name: expected[name][2:4, :8] for name in ('target', 'target_mask')}
    plain, padded = log_probs(config, params, short), log_probs(config, params, short, extra=10)
    np.testing.assert_allclose(padded, plain, atol=1e-5)


def test_eight_devices_give_the_same_and_hold_a_part_each():
    expected = golden('cnn')
    mesh = meshes.make_mesh({'data': 1, 'fsdp': 2, 'tensor': 2}, jax.devices()[:4])
    config, params = bart.load_bart(GOLDEN / 'cnn', mesh)
    kernel = params['decoder']['layers']['encoder_attn']['q_proj']['kernel']
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 8, 8)
    four = {name: expected[name][:4] for name in ('source', 'source_mask', 'target', 'target_mask', 'log_probs')}
    found = bart.log_probs(params, *sharding.place_batch(
        (four['source'], four['source_mask'].astype(bool), four['target']), mesh), config=config)
    assert np.abs(np.asarray(found) * four['target_mask'] - four['log_probs']).max() < 2e-5


def test_bfloat16_weights_are_half_as_large_and_give_float32_log_probs():
    config, params = bart.load_bart(GOLDEN / 'scaled', dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    expected = golden('scaled')
    found = log_probs(config, params, expected)
    assert found.dtype == np.float32 and np.abs(found - expected['log_probs']).max() < 0.2


@pytest.mark.parametrize('change, says', [
    ({'model_type': 'mbart'}, 'mbart'),
    ({'normalize_before': True}, 'normalize_before=True'),
    ({'static_position_embeddings': True}, 'static_position_embeddings'),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings'),
    ({'activation_function': 'swish'}, 'swish'),
    ({'decoder_attention_heads': 3}, 'decoder_attention_heads=3'),
    ({'decoder_layers': None}, 'decoder_layers missing'),
])
def test_unsupported_config_is_refused_by_name(change, says):
    hf = json.loads((GOLDEN / 'cnn' / 'config.json').read_text())
    with pytest.raises(UserError, match=says):
        bart.BartConfig.from_hf(hf | change)


def test_the_config_of_bart_large_cnn_is_read():
    published = {  # facebook/bart-large-cnn, what of it concerns the model
        'activation_function': 'gelu', 'add_bias_logits': False, 'add_final_layer_norm': False, 'd_model': 1024,
        'decoder_attention_heads': 16, 'decoder_ffn_dim': 4096, 'decoder_layers': 12, 'decoder_start_token_id': 2,
        'encoder_attention_heads': 16, 'encoder_ffn_dim': 4096, 'encoder_layers': 12, 'force_bos_token_to_be_generated':
        True, 'is_encoder_decoder': True, 'max_position_embeddings': 1024, 'model_type': 'bart', 'normalize_before':
        False, 'normalize_embedding': True, 'scale_embedding': False, 'static_position_embeddings': False,
        'vocab_size': 50264}
    shapes = jax.eval_shape(lambda: bart.abstract_params(bart.BartConfig.from_hf(published)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 406_290_432 + 50_264  # a bias of the logits, no weight


def test_missing_misshapen_and_unknown_tensors_are_named(folder):
    name = 'model.decoder.layers.2.encoder_attn.out_proj.weight'
    weight = safetensors.numpy.load_file(folder / 'model.safetensors')[name]
    spoil(folder, **{name: None})
    with pytest.raises(UserError, match=f'{name} or .* is missing'):
        bart.load_bart(folder)
    spoil(folder, **{name: weight[:, 1:].copy()})
    with pytest.raises(UserError, match=rf'{name} has shape \(16, 15\)'):
        bart.load_bart(folder)
    spoil(folder, **{name: weight, 'model.decoder.layer_norm.weight': weight[0].copy()})
    with pytest.raises(UserError, match='model.decoder.layer_norm.weight'):
        bart.load_bart(folder)


def test_a_tied_table_may_be_stored_several_times(folder):
    table = safetensors.numpy.load_file(folder / 'model.safetensors')['model.shared.weight']
    copies = dict.fromkeys(('model.encoder.embed_tokens.weight', 'model.decoder.embed_tokens.weight', 'lm_head.weight'))
    spoil(folder, **{name: table.copy() for name in copies})
    _, params = bart.load_bart(folder)
    spoil(folder, **copies | {'model.shared.weight': None, 'lm_head.weight': table.copy()})
    _, again = bart.load_bart(folder)
    np.testing.assert_array_equal(params['shared'], table)
    np.testing.assert_array_equal(again['shared'], table)
