"""Hugging Face directories: what is written is read back, and what is wrong is named."""

import collections
import json
import os
import pathlib
import shutil
import threading

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax import numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language import checkpoint_files, filling, lora, peft, quantize, weights
from xrec_jax.language.config import DecoderConfig, RopeScaling
from xrec_jax.language.decoder import Decoder, abstract_params
from xrec_jax.parallel import mesh as meshes, sharding

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'llama'
DECODERS = GOLDEN.parent / 'decoders'
NAME = 'model.layers.1.mlp.up_proj.weight'


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden checkpoint, to be spoilt."""
    return shutil.copytree(GOLDEN / 'bias', tmp_path / 'bias')


@pytest.fixture
def nothing_is_read(monkeypatch):
    """Headers may be read, weights may not."""
    monkeypatch.setattr(checkpoint_files.Stored, 'read', lambda *_: pytest.fail('weights were read'))


def spoil(folder, **change):
    """Changes tensors of a checkpoint, or takes them out (None)."""
    tensors = safetensors.numpy.load_file(folder / 'model.safetensors') | change
    tensors = {name: value for name, value in tensors.items() if value is not None}
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')


def in_shards(folder, count=3):
    """The same checkpoint in several files with an index; returns the index."""
    tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    names = sorted(tensors)
    shards = {f'model-0000{n + 1}-of-0000{count}.safetensors': names[n::count] for n in range(count)}
    for file, part in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file)
    index = {'metadata': {}, 'weight_map': {name: file for file, part in shards.items() for name in part}}
    (folder / checkpoint_files.INDEX).write_text(json.dumps(index))
    return index


def random_params(config, dtype, seed=0):
    rng = np.random.default_rng(seed)
    params = {}
    for path, (shape, _) in weights._sources(config).items():
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(rng.normal(size=shape), dtype)
    return params


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


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
    stored = checkpoint_files.read_tensors(GOLDEN / name)
    dtype = stored[NAME].dtype
    config, params = weights.load_model(GOLDEN / name, dtype=dtype)
    weights.save_model(tmp_path, config, params, dtype)
    ours = checkpoint_files.read_tensors(tmp_path)
    assert set(ours) == set(stored)
    for key, value in stored.items():
        assert ours[key].dtype == value.dtype
        np.testing.assert_array_equal(ours[key], value)
    written, theirs = weights.read_config(tmp_path), weights.read_config(GOLDEN / name)
    for key in set(written) & set(theirs) - {'rope_parameters'}:
        assert written[key] == theirs[key], key


def test_matrices_are_transposed_and_stacked_over_layers():
    config, params = weights.load_model(GOLDEN / 'gqa_tied')
    stored = checkpoint_files.read_tensors(GOLDEN / 'gqa_tied')
    kernel = params['layers']['mlp']['up_proj']['kernel']
    assert kernel.shape == (2, 32, 64) and stored[NAME].shape == (64, 32)
    np.testing.assert_array_equal(kernel[1], stored[NAME].T)
    np.testing.assert_array_equal(params['embed_tokens'], stored['model.embed_tokens.weight'])


@pytest.mark.parametrize('stored', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('wanted', ['float32', 'bfloat16', 'float16'])
def test_weights_are_rounded_to_the_wanted_dtype(folder, stored, wanted):
    tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
    spoil(folder, **{name: value.astype(np.float32).astype(stored) for name, value in tensors.items()})
    params = weights.load_model(folder, dtype=jnp.dtype(wanted))[1]
    value = params['layers']['mlp']['up_proj']['kernel'][1]
    assert value.dtype == jnp.dtype(wanted)
    np.testing.assert_array_equal(value, tensors[NAME].astype(np.float32).astype(stored).astype(wanted).T)


MESHES = {
    'llama': (GOLDEN / 'gqa_tied', {'data': 2, 'fsdp': 2, 'tensor': 2}),
    'mixtral': (DECODERS / 'mixtral', {'fsdp': 4, 'tensor': 2}),
    'gpt2': (DECODERS / 'gpt2', {'fsdp': 2, 'tensor': 4}),
    'chatglm': (DECODERS / 'chatglm', {'data': 2, 'fsdp': 2, 'tensor': 2}),
}


@pytest.mark.parametrize('on_host', [True, False], ids=['on_host', 'on_devices'])
@pytest.mark.parametrize('family', MESHES)
def test_slices_of_a_mesh_are_those_of_the_whole_model(family, on_host, monkeypatch):
    directory, sizes = MESHES[family]
    whole = weights.load_model(directory)[1]
    mesh, reads, numbers = meshes.make_mesh(sizes), [], collections.Counter()
    read, read_piece = checkpoint_files.Stored.read, filling._read
    monkeypatch.setattr(filling, 'BLOCK' if on_host else 'PIECE', 500)
    monkeypatch.setattr(filling.Parameter, 'on_cpu', on_host)  # False: as on an accelerator
    here = threading.local()

    def recorded(self, start, stop, *empty):
        reads.append((self.name, start))
        values = read(self, start, stop, *empty)
        numbers[here.piece] += values.size
        return values

    def recorded_piece(parameter, piece, reader):
        here.piece = piece
        yield from read_piece(parameter, piece, reader)

    monkeypatch.setattr(checkpoint_files.Stored, 'read', recorded)
    monkeypatch.setattr(filling, '_read', recorded_piece)
    config, params = weights.load_model(directory, mesh)
    assert config.mesh is mesh
    assert_same(params, whole)
    expected = sharding.param_shardings(abstract_params(config), mesh, config.units)
    for array, where in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert array.sharding.is_equivalent_to(where, array.ndim)
    assert not params['layers']['self_attn']['q_proj']['kernel'].is_fully_replicated
    assert max(numbers.values()) <= 500
    if family != 'gpt2':  # q, k and v are columns there
        assert len(set(reads)) == len(reads)  # no row twice


@pytest.mark.parametrize('on_host', [True, False], ids=['on_host', 'on_devices'])
def test_one_device_needs_no_mesh(on_host, monkeypatch):
    monkeypatch.setattr(filling.Parameter, 'on_cpu', on_host)
    stored = checkpoint_files.read_tensors(GOLDEN / 'gqa_tied')
    params = weights.load_model(GOLDEN / 'gqa_tied')[1]
    np.testing.assert_array_equal(params['layers']['mlp']['up_proj']['kernel'][1], stored[NAME].T)


def test_jax_takes_what_was_read_on_the_host_as_it_lies(monkeypatch):
    made, aligned = [], filling._aligned
    monkeypatch.setattr(filling, '_aligned', lambda *args: made.append(aligned(*args)) or made[-1])
    params = weights.load_model(GOLDEN / 'gqa_tied', dtype=jnp.bfloat16)[1]
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)} == {part.ctypes.data for part in made}


def test_a_read_that_brings_less_than_was_asked_for_goes_on(monkeypatch):
    whole, read = weights.load_model(GOLDEN / 'gqa_tied')[1], os.preadv
    short = lambda rooms: [*rooms[:2], *(room[:7] for room in rooms[2:3])]  # two rows and a bit
    monkeypatch.setattr(os, 'preadv', lambda file, rooms, offset: read(file, short(rooms), offset))
    assert_same(weights.load_model(GOLDEN / 'gqa_tied')[1], whole)


def test_a_file_that_has_become_shorter_is_named(monkeypatch):
    monkeypatch.setattr(os, 'preadv', lambda *_: 0)
    with pytest.raises(UserError, match='model.safetensors ended within tensor model.*; fetch it again'):
        weights.load_model(GOLDEN / 'gqa_tied')


@pytest.mark.parametrize('sizes', [None, {'data': 8}, {'data': 2, 'fsdp': 4}], ids=['no_mesh', 'copies', 'slices'])
def test_loaded_weights_can_be_donated(sizes):
    mesh = meshes.make_mesh(sizes) if sizes else None
    again, params = (weights.load_model(GOLDEN / 'gqa_tied', mesh)[1] for _ in range(2))
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree), donate_argnums=0)(params)
    for ours, before in zip(jax.tree.leaves(doubled), jax.tree.leaves(again), strict=True):
        for shard, old in zip(ours.addressable_shards, before.addressable_shards, strict=True):
            np.testing.assert_array_equal(shard.data, 2 * old.data)


def test_sharded_checkpoint_is_read_through_its_index(folder):
    whole = weights.load_model(folder)[1]
    in_shards(folder)
    assert_same(weights.load_model(folder)[1], whole)

    (folder / 'model-00002-of-00003.safetensors').unlink()
    with pytest.raises(UserError, match='model-00002-of-00003.safetensors does not exist; .*index.json names it'):
        weights.load_model(folder)


def test_damaged_index_is_named(folder, nothing_is_read):
    index = in_shards(folder)
    weight_map = index['weight_map']
    for change, message in [
            ('{', 'index.json, line 1: not valid JSON'),
            ('{"metadata": {}}', 'index.json is damaged'),
            (json.dumps({'weight_map': weight_map | {NAME: '../x.safetensors'}}), '"../x.safetensors" is not the name'),
            (json.dumps({'weight_map': weight_map | {'other': weight_map[NAME]}}),
             f'{weight_map[NAME]}: tensor other is missing')]:
        (folder / checkpoint_files.INDEX).write_text(change)
        with pytest.raises(UserError, match=message):
            weights.load_model(folder)
    (folder / checkpoint_files.INDEX).unlink()
    with pytest.raises(UserError, match='index.json does not exist, but model-00001-of-00003.safetensors does'):
        weights.load_model(folder)


def test_missing_tensor_is_named(folder, nothing_is_read):
    spoil(folder, **{NAME: None})
    with pytest.raises(UserError, match=f'model.safetensors: tensor {NAME} is missing'):
        weights.load_model(folder)


def test_tensor_that_the_model_does_not_have_is_named(folder, nothing_is_read):
    spoil(folder, **{'model.layers.0.mlp.up_proj.bias': np.ones(64, np.float32)})
    with pytest.raises(UserError, match=r'model.safetensors: 1 tensor.*\(model.layers.0.mlp.up_proj.bias\)'):
        weights.load_model(folder)


def test_rotary_frequencies_of_old_checkpoints_are_passed_over(folder):
    whole = weights.load_model(folder)[1]
    spoil(folder, **{'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(4, np.float32)})
    assert_same(weights.load_model(folder)[1], whole)


def test_tensor_of_a_wrong_shape_is_named_with_the_stored_and_the_expected_shape(folder, nothing_is_read):
    spoil(folder, **{NAME: np.ones((63, 32), np.float32)})
    with pytest.raises(UserError, match=rf'{NAME} has shape \(63, 32\).*asks for \(64, 32\)'):
        weights.load_model(folder)


def test_quantised_tensor_is_named(folder, nothing_is_read):
    spoil(folder, **{NAME: np.ones((64, 32), np.int8)})
    with pytest.raises(UserError, match=f'{NAME} is stored as int8; can be read: float32, bfloat16, float16'):
        weights.load_model(folder)


def test_vocabulary_of_a_wrong_size_is_named_with_the_stored_and_the_expected_shape(folder):
    config = json.loads((folder / 'config.json').read_text()) | {'vocab_size': 97}
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match=r'shape \(96, 32\).*asks for \(97, 32\)'):
        weights.load_model(folder)


@pytest.mark.parametrize('size', [0, 5, 500, -1])
def test_truncated_file_is_named(folder, size, nothing_is_read):
    file = folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match='model.safetensors is truncated'):
        weights.load_model(folder)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(UserError, match='nowhere/config.json does not exist'):
        weights.load_model(tmp_path / 'nowhere')
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    with pytest.raises(UserError, match='never from pickles.*convert them where you trust them'):
        weights.load_model(folder)
    (folder / 'pytorch_model.bin').unlink()
    with pytest.raises(UserError, match='model.safetensors does not exist'):
        weights.load_model(folder)
    (folder / 'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 9\n')
    with pytest.raises(UserError, match='model.safetensors is a pointer of git-lfs'):
        weights.load_model(folder)
    (folder / 'config.json').write_text('{\n  "vocab_size": 3,\n}')
    with pytest.raises(UserError, match='config.json, line 3: not valid JSON'):
        weights.load_model(folder)


@pytest.mark.parametrize('header', [
    b'[]', b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}',
    b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', b'\xff\xff',
    b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
    b'"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'])
def test_damaged_header_is_named(folder, header):
    file = folder / 'model.safetensors'
    file.write_bytes(len(header).to_bytes(8, 'little') + header + b'01234567')
    with pytest.raises(UserError, match='model.safetensors is truncated or not a safetensors file'):
        weights.load_model(folder)


@pytest.mark.parametrize('name', ['chatglm', 'gpt2', 'mistral', 'mixtral', 'qwen2'])
def test_every_family_is_saved_as_it_was_stored(name, tmp_path):
    stored = checkpoint_files.read_tensors(DECODERS / name)
    dtype = next(iter(stored.values())).dtype
    config, params = weights.load_model(DECODERS / name, dtype=dtype)
    weights.save_model(tmp_path, config, params, dtype, source=DECODERS / name)
    ours = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
    assert set(ours) == set(stored)
    for key, value in stored.items():
        np.testing.assert_array_equal(ours[key], value)
    assert weights.load_model(tmp_path, dtype=dtype)[0] == config


def test_large_models_are_saved_in_several_files(tmp_path):
    config, params = weights.load_model(GOLDEN / 'bias')
    weights.save_model(tmp_path, config, params, max_shard_size=20_000)
    index = json.loads((tmp_path / checkpoint_files.INDEX).read_text())
    files = sorted(set(index['weight_map'].values()))
    assert len(files) > 3 and files == [f'model-{n:05d}-of-{len(files):05d}.safetensors'
                                        for n in range(1, len(files) + 1)]
    held = {file: safetensors.numpy.load_file(tmp_path / file) for file in files}
    assert {name: file for file, tensors in held.items() for name in tensors} == index['weight_map']
    sizes = [sum(value.nbytes for value in tensors.values()) for tensors in held.values()]
    assert max(sizes) <= 20_000 and sum(sizes) == index['metadata']['total_size'] == sum(
        leaf.nbytes for leaf in jax.tree.leaves(params))
    assert_same(weights.load_model(tmp_path)[1], params)

    # Saved again as one file: nothing of the several is left over.
    weights.save_model(tmp_path, config, params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.json', 'model.safetensors']
    assert_same(weights.load_model(tmp_path)[1], params)


def test_what_belongs_to_the_source_is_copied_along(folder, tmp_path):
    companions = {'generation_config.json': '{"eos_token_id": [2, 5]}', 'tokenizer.json': '{}', 'vocab.json': '{}',
                  'chat_template.jinja': 'x', 'tokenization_chatglm.py': 'raise SystemExit', 'notes.txt': 'private'}
    for name, text in companions.items():
        (folder / name).write_text(text)
    original = json.loads((folder / 'config.json').read_text()) | {'eos_token_id': [2, 5], 'dtype': 'bfloat16'}
    (folder / 'config.json').write_text(json.dumps(original))
    config, params = weights.load_model(folder, max_position_embeddings=64)
    weights.save_model(tmp_path / 'new', config, params, source=folder)
    copied = {path.name: path for path in (tmp_path / 'new').iterdir()}
    assert copied.keys() == companions.keys() - {'notes.txt'} | {'config.json', 'model.safetensors'}
    assert all(copied[name].read_text() == text for name, text in companions.items() if name != 'notes.txt')
    written = weights.read_config(tmp_path / 'new')
    assert written == original | {'dtype': 'float32', 'max_position_embeddings': 64}


@pytest.mark.parametrize('name, base', [('llama', GOLDEN / 'gqa_tied'), ('gpt2', DECODERS / 'gpt2')])
def test_a_merged_model_gives_the_logits_of_base_and_adapter(name, base, tmp_path):
    config, params = weights.load_model(base)
    lora_config, adapter = peft.load_adapter(GOLDEN.parent / 'peft' / name, config)
    weights.save_model(tmp_path, config, params, adapter=adapter, lora_config=lora_config)
    config, merged = weights.load_model(tmp_path)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged,
                 lora.merge(params, adapter, lora_config))
    inputs = np.load(base / 'expected.npz')
    mask, model = inputs['attention_mask'] > 0, Decoder(config)

    @jax.jit
    def apply(variables):
        hidden, _ = model.apply(variables, inputs['input_ids'], inputs['position_ids'], mask)
        return model.apply(variables, hidden, method='logits')

    logits = np.where(mask[..., None], apply({'params': merged}), 0)
    np.testing.assert_allclose(logits, np.load(GOLDEN.parent / 'peft' / name / 'expected.npz')['logits'], atol=1e-4)


def test_a_model_on_a_mesh_is_saved_whole(tmp_path):
    mesh = meshes.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
    config, params = weights.load_model(GOLDEN / 'gqa_tied', mesh)
    weights.save_model(tmp_path, config, params)
    assert_same(checkpoint_files.read_tensors(tmp_path), checkpoint_files.read_tensors(GOLDEN / 'gqa_tied'))


def test_what_cannot_be_saved_is_refused(tmp_path):
    config, params = weights.load_model(GOLDEN / 'gqa_tied')
    with pytest.raises(UserError, match='The base weights are int8: save the model, and merge adapters, with the orig'):
        weights.save_model(tmp_path, config, quantize.quantize(params, 'int8', ('q_proj',)))
    with pytest.raises(ValueError, match='adapter and lora_config go together'):
        weights.save_model(tmp_path, config, params, adapter={})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_old_model(folder, monkeypatch):
    config, params = weights.load_model(folder)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    calls, assemble = [], weights._assemble

    def fails_late(*args, **kwargs):
        calls.append(1)
        return assemble(*args, **kwargs) if len(calls) < 12 else 1 / 0

    monkeypatch.setattr(weights, '_assemble', fails_late)
    with pytest.raises(ZeroDivisionError):
        weights.save_model(folder, config, doubled, max_shard_size=20_000)
    assert_same(weights.load_model(folder)[1], params)
    assert not list(folder.glob('*-of-*')) and not (folder / '.partial').exists()


@pytest.mark.parametrize('moved', [0, 1, 3])
def test_a_save_interrupted_as_files_take_their_places_does_not_load(folder, moved, monkeypatch):
    config, params = weights.load_model(folder)
    calls, replace = [], os.replace

    def fails_late(source, target):
        calls.append(1)
        return replace(source, target) if len(calls) <= moved else 1 / 0

    monkeypatch.setattr(os, 'replace', fails_late)
    with pytest.raises(ZeroDivisionError):
        weights.save_model(folder, config, params, max_shard_size=20_000)
    with pytest.raises(UserError, match='config.json does not exist'):
        weights.load_model(folder)
    monkeypatch.undo()
    (folder / '.partial').mkdir()
    (folder / '.partial' / 'model-00009-of-00009.safetensors').write_text('of a run that was killed')
    weights.save_model(folder, config, params)
    assert_same(weights.load_model(folder)[1], params)
    assert not list(folder.glob('*-of-*'))
