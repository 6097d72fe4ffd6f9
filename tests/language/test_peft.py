"""Adapters of PEFT's: read with its logits, written as it writes them, refused by name."""

import json
import pathlib
import shutil

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy

from xrec_jax.errors import UserError
from xrec_jax.language import lora, peft, weights
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.decoder import Decoder, abstract_params
from xrec_jax.parallel import mesh as meshes, sharding

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
BASES = {'llama': 'llama/gqa_tied', 'rslora': 'llama/gqa_tied', 'gpt2': 'decoders/gpt2'}
WIDTHS = dict(vocab_size=16, hidden_size=8, intermediate_size=12, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4)
CHATGLM = DecoderConfig(**WIDTHS, family='chatglm', qkv_bias=True, rotary_dim=2, rotary_interleaved=True)


def config_of(name):
    return DecoderConfig.from_hf(weights.read_config(GOLDEN / BASES[name]))


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden adapter, to be spoilt."""
    return shutil.copytree(GOLDEN / 'peft' / 'llama', tmp_path / 'adapter')


def spoil(folder, change):
    tensors = safetensors.numpy.load_file(folder / peft.FILE)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / peft.FILE)


def random_adapter(config, lora_config, seed=0):
    """As after some training: no B is zero."""
    adapter = lora.init_adapter(jax.random.key(seed), abstract_shapes(config), lora_config)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), adapter)


def abstract_shapes(config):
    return flax.traverse_util.unflatten_dict({
        path: box.unbox() for path, box in flax.traverse_util.flatten_dict(abstract_params(config)).items()})


def read(folder):
    return safetensors.numpy.load_file(folder / peft.FILE), json.loads((folder / peft.SETTINGS).read_text())


@pytest.mark.parametrize('name', BASES)
def test_an_adapter_of_peft_gives_its_logits(name):
    config, params = weights.load_model(GOLDEN / BASES[name])
    lora_config, adapter = peft.load_adapter(GOLDEN / 'peft' / name, config)
    inputs = np.load(GOLDEN / BASES[name] / 'expected.npz')
    mask = inputs['attention_mask'] > 0
    model = Decoder(config, lora_config.scale)

    @jax.jit
    def apply(variables):
        hidden, _ = model.apply(variables, inputs['input_ids'], inputs['position_ids'], mask)
        return model.apply(variables, hidden, method='logits')

    logits = np.where(mask[..., None], apply({'params': params, 'lora': adapter}), 0)
    np.testing.assert_allclose(logits, np.load(GOLDEN / 'peft' / name / 'expected.npz')['logits'], atol=1e-4)


@pytest.mark.parametrize('name, expected', [
    ('llama', lora.LoraConfig(2, 6.0, ('q_proj', 'v_proj', 'down_proj'), 0.05)),
    ('rslora', lora.LoraConfig(4, 6.0, lora.TARGETS, rslora=True)),
    ('gpt2', lora.LoraConfig(2, 8.0, ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'up_proj')))])
def test_settings_are_read(name, expected):
    assert peft.load_adapter(GOLDEN / 'peft' / name, config_of(name))[0] == expected


@pytest.mark.parametrize('name', BASES)
def test_what_is_written_is_what_peft_wrote(name, tmp_path):
    lora_config, adapter = peft.load_adapter(GOLDEN / 'peft' / name, config_of(name))
    peft.save_adapter(tmp_path, config_of(name), adapter, lora_config, base=BASES[name])
    tensors, settings = read(tmp_path)
    their_tensors, theirs = read(GOLDEN / 'peft' / name)
    assert list(tensors) == list(their_tensors)
    for key, value in their_tensors.items():
        np.testing.assert_array_equal(tensors[key], value)
    ours, listed = set(settings.pop('target_modules')), set(theirs.pop('target_modules'))
    # 'all-linear' became a list of every module of every layer; we name them by their ends.
    assert ours == ({module.split('.')[-1] for module in listed} if name == 'rslora' else listed)
    assert settings == {key: theirs[key] for key in settings}
    assert {path.name for path in tmp_path.iterdir()} == {peft.FILE, peft.SETTINGS}


@pytest.mark.parametrize('rslora', [False, True])
@pytest.mark.parametrize('targets', [lora.TARGETS, ('q_proj', 'v_proj', 'up_proj', 'down_proj')], ids=['all', 'some'])
@pytest.mark.parametrize('family', ['gpt2', 'chatglm'])
def test_pairs_of_a_fused_matrix_are_written_as_blocks_and_read_back(family, targets, rslora, tmp_path):
    config = CHATGLM if family == 'chatglm' else config_of('gpt2')
    present = {part for path in flax.traverse_util.flatten_dict(abstract_params(config)) for part in path}
    lora_config = lora.LoraConfig(2, 5.0, tuple(target for target in targets if target in present), rslora=rslora)
    adapter = random_adapter(config, lora_config)
    peft.save_adapter(tmp_path, config, adapter, lora_config)

    # PEFT's arithmetic on what was written: the change of the fused matrix is ours of q, k and v side by side.
    tensors, settings = read(tmp_path)
    fused = 'attn.c_attn' if family == 'gpt2' else 'self_attention.query_key_value'
    (key,) = (key for key in tensors if f'.1.{fused}.lora_A' in key)
    target = fused.split('.')[-1]
    rank, alpha = settings['rank_pattern'][target], settings['alpha_pattern'][target]
    change = (tensors[key.replace('lora_A', 'lora_B')] @ tensors[key]).T * alpha / (rank**0.5 if rslora else rank)
    assert rank == tensors[key].shape[0] == 6
    widths = {'q_proj': config.num_heads, 'k_proj': config.num_kv_heads, 'v_proj': config.num_kv_heads}
    for name, heads in widths.items():
        part, change = np.split(change, [heads * config.head_dim], axis=1)
        pair = adapter['layers']['self_attn'].get(name)
        ours = pair['a'][1] @ pair['b'][1] * lora_config.scale if pair else 0 * part
        np.testing.assert_allclose(part, ours, atol=1e-4)
    assert change.shape[1] == 0

    again_config, again = peft.load_adapter(tmp_path, config)
    assert again_config == lora_config
    jax.tree.map(np.testing.assert_array_equal, again, adapter)


def test_modules_of_one_name_are_told_apart(tmp_path):
    lora_config = lora.LoraConfig(2, 4.0, ('o_proj',))
    peft.save_adapter(tmp_path, config_of('gpt2'), random_adapter(config_of('gpt2'), lora_config), lora_config)
    assert read(tmp_path)[1]['target_modules'] == ['attn.c_proj']  # mlp.c_proj is another
    lora_config = lora.LoraConfig(2, 4.0, ('o_proj', 'down_proj'))
    peft.save_adapter(tmp_path, config_of('gpt2'), random_adapter(config_of('gpt2'), lora_config), lora_config)
    assert read(tmp_path)[1]['target_modules'] == ['c_proj']


def test_a_sharded_adapter_is_written_whole(tmp_path):
    config, lora_config = config_of('llama'), lora.LoraConfig(2)
    adapter = random_adapter(config, lora_config)
    placed = sharding.place_learner(adapter, abstract_params(config), meshes.make_mesh({'fsdp': 4, 'tensor': 2}),
                                    config.units)
    assert not placed['layers']['self_attn']['q_proj']['a'].is_fully_replicated
    peft.save_adapter(tmp_path / 'one', config, adapter, lora_config)
    peft.save_adapter(tmp_path / 'eight', config, placed, lora_config)
    for name in (peft.FILE, peft.SETTINGS):
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'eight' / name).read_bytes()


@pytest.mark.parametrize('change, message', [
    ({'peft_type': 'LOHA'}, 'peft_type="LOHA" is not supported, only "LORA"'),
    ({'use_dora': True}, 'use_dora=true is not supported'),
    ({'modules_to_save': ['lm_head']}, r'modules_to_save=\["lm_head"\] is not supported'),
    ({'layers_to_transform': [1]}, r'layers_to_transform=\[1\] is not supported'),
    ({'from_the_future': 0.5}, 'from_the_future=0.5 is not supported'),
    ({'bias': 'lora_only'}, 'bias="lora_only" is not supported, only "none"'),
    ({'init_lora_weights': 'pissa'}, 'init_lora_weights="pissa" is not supported, as it also changes the base'),
    ({'rank_pattern': {'q_proj': 4}}, r'rank_pattern gives model.layers.0.self_attn.q_proj its own value, 4'),
    ({'alpha_pattern': {'.*down_proj': 1}}, r'alpha_pattern gives model.layers.0.mlp.down_proj its own value, 1'),
    ({'r': 0}, 'r=0 is not supported'),
    ({'lora_alpha': 'x'}, 'lora_alpha="x" is not supported')])
def test_what_is_not_supported_is_refused_by_name(folder, change, message):
    settings = json.loads((folder / peft.SETTINGS).read_text())
    (folder / peft.SETTINGS).write_text(json.dumps(settings | change))
    with pytest.raises(UserError, match=f'adapter_config.json: {message}'):
        peft.load_adapter(folder, config_of('llama'))


@pytest.mark.parametrize('targets', ['all-linear', r'.*\.(q|v|down)_proj'])
def test_targets_may_be_a_pattern_as_the_tensors_say_what_they_are(folder, targets):
    settings = json.loads((folder / peft.SETTINGS).read_text())
    (folder / peft.SETTINGS).write_text(json.dumps(settings | {'target_modules': targets}))
    assert peft.load_adapter(folder, config_of('llama'))[0].targets == ('q_proj', 'v_proj', 'down_proj')


LAYER = 'base_model.model.model.layers.1.self_attn.'


@pytest.mark.parametrize('change, message', [
    (lambda tensors: tensors.pop(f'{LAYER}q_proj.lora_B.weight'), rf'{LAYER}q_proj.lora_B.weight is missing'),
    (lambda tensors: [tensors.pop(f'{LAYER}q_proj.lora_{factor}.weight') for factor in 'AB'],
     rf'{LAYER}q_proj.lora_A.weight is missing; an adapter is on all layers'),
    (lambda tensors: tensors.update({f'{LAYER}q_proj.lora_magnitude_vector': np.ones(2)}),
     rf'{LAYER}q_proj.lora_magnitude_vector belongs to no matrix'),
    (lambda tensors: tensors.update({'base_model.model.lm_head.lora_A.weight': np.ones((2, 2))}),
     'base_model.model.lm_head.lora_A.weight belongs to no matrix'),
    (lambda tensors: tensors.update({f'{LAYER}q_proj.lora_A.weight': np.ones((3, 32), np.float32)}),
     rf'{LAYER}q_proj.lora_A.weight has shape \(3, 32\); .* ask for \(2, 32\)')])
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    spoil(folder, change)
    with pytest.raises(UserError, match=f'adapter_model.safetensors: tensor {message}'):
        peft.load_adapter(folder, config_of('llama'))


def test_a_fused_pair_of_a_larger_rank_that_is_no_blocks_is_refused(tmp_path):
    lora_config = lora.LoraConfig(2, 4.0, ('q_proj', 'k_proj', 'v_proj'))
    peft.save_adapter(tmp_path, config_of('gpt2'), random_adapter(config_of('gpt2'), lora_config), lora_config)
    spoil(tmp_path, lambda tensors: [value.__setitem__(slice(None), 1) for value in tensors.values()])
    with pytest.raises(UserError, match='h.0.attn.c_attn has rank 6 and is not made of 3 pairs of rank 2'):
        peft.load_adapter(tmp_path, config_of('gpt2'))


def test_missing_files_and_pickles_are_named(folder):
    (folder / peft.FILE).rename(folder / peft.PICKLE)
    with pytest.raises(UserError, match='never from pickles. Convert it'):
        peft.load_adapter(folder, config_of('llama'))
    (folder / peft.PICKLE).unlink()
    with pytest.raises(UserError, match='adapter_model.safetensors does not exist'):
        peft.load_adapter(folder, config_of('llama'))
    (folder / peft.SETTINGS).unlink()
    with pytest.raises(UserError, match='adapter_config.json does not exist'):
        peft.load_adapter(folder, config_of('llama'))


def test_an_interrupted_save_leaves_the_old_adapter(folder, monkeypatch):
    before = read(folder)
    lora_config, adapter = peft.load_adapter(folder, config_of('llama'))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, adapter)
    monkeypatch.setattr(peft, 'write_json', lambda *_: 1 / 0)  # the tensors are written by then
    with pytest.raises(ZeroDivisionError):
        peft.save_adapter(folder, config_of('llama'), doubled, lora_config)
    jax.tree.map(np.testing.assert_array_equal, read(folder), before)
    monkeypatch.undo()
    peft.save_adapter(folder, config_of('llama'), doubled, lora_config)
    jax.tree.map(np.testing.assert_array_equal, peft.load_adapter(folder, config_of('llama'))[1], doubled)
