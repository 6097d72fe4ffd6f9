"""Families of decoders: what is read from `config.json` and refused, where weights lie, and what each family does.

Their logits are compared with transformers' in test_decoder.py.
"""

import dataclasses
import functools
import json
import math
import pathlib

import flax.linen as nn
import flax.traverse_util
import jax
import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors needs)
import numpy as np
import pytest
import safetensors.numpy
from jax import numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language import experts, families, generate, lora, slots
from xrec_jax.language.config import DecoderConfig, RopeScaling
from xrec_jax.language.decoder import ACTIVATIONS, Decoder, abstract_params, init_params, positions_of
from xrec_jax.language.rotary import rope_frequencies
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.language.weights import load_model, read_config, save_model
from xrec_jax.parallel import mesh as meshes, sharding

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
FOLDERS = {'llama': 'llama/llama31'} | {
    name: f'decoders/{name}' for name in ('mistral', 'qwen2', 'mixtral', 'gpt2', 'chatglm')}
every = pytest.mark.parametrize('name', FOLDERS)
windowed = pytest.mark.parametrize('name', ['mistral', 'qwen2'])
TOLERANCE = 1e-4  # logits are of the order of 5


@functools.cache
def golden(name):
    with np.load(GOLDEN / FOLDERS[name] / 'expected.npz') as file:
        return {key: file[key] for key in file}


@functools.cache
def loaded(name):
    config, params = load_model(GOLDEN / FOLDERS[name], dtype=jnp.float32)
    return Decoder(config), params


def hf(name):
    return read_config(GOLDEN / FOLDERS[name])


@functools.partial(jax.jit, static_argnames='model')
def forward(model, variables, tokens, positions, mask, cache=None, slot=0, key_positions=None):
    """Logits [B, S, V], and the cache."""
    hidden, cache = model.apply(variables, tokens, positions, mask, cache, slot, key_positions=key_positions)
    return model.apply(variables, hidden, method='logits'), cache


def whole(name, variables=None):
    """Logits of the golden prompts, and the cache."""
    model, params = loaded(name)
    mask = golden(name)['attention_mask'].astype(bool)
    return forward(model, variables or {'params': params}, golden(name)['input_ids'], positions_of(mask), mask)


def unused(tokens):
    """An id that is not among the tokens: never a stop."""
    return int(np.setdiff1d(np.arange(96), tokens)[0])


# Generation.

@every
def test_greedy_generation_equals_transformers_token_for_token(name):
    expected = golden(name)
    model, params = loaded(name)
    # Prompts of 24, 17 and 5 tokens, and 12 new ones: GPT-2's 36 positions are exactly full.
    responses = generate.generate(
        model, {'params': params}, expected['input_ids'], expected['attention_mask'].astype(bool), jax.random.key(0),
        sampling=SamplingConfig(max_length=12, temperature=0), stop_ids=unused(expected['generated']))
    np.testing.assert_array_equal(responses.tokens, expected['generated'])


@windowed
def test_a_queue_in_ring_slots_keeps_to_the_window(name):
    expected = golden(name)
    model, params = loaded(name)
    responses, _ = slots.generate_queue(
        model, {'params': params}, expected['input_ids'], expected['attention_mask'].astype(bool), jax.random.key(0),
        sampling=SamplingConfig(max_length=12, temperature=0), stop_ids=unused(expected['generated']), num_slots=2,
        prefill_size=1)
    np.testing.assert_array_equal(responses.tokens, expected['generated'])


# The sliding window.

@windowed
def test_a_sliding_window_holds_in_packed_rows(name):
    expected = golden(name)
    model, params = loaded(name)
    lengths = expected['attention_mask'].sum(axis=1)[:2]
    rows = [expected['input_ids'][row, -length:] for row, length in enumerate(lengths)]
    packed = np.concatenate(rows)[None]
    segment = np.repeat([0, 1], lengths)
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    mask = (segment[:, None] == segment) & np.tri(lengths.sum(), dtype=bool)
    logits, _ = forward(model, {'params': params}, packed, positions, mask[None])
    alone = np.concatenate([expected['logits'][row, -length:] for row, length in enumerate(lengths)])
    np.testing.assert_allclose(logits[0], alone, atol=TOLERANCE)


@windowed
def test_a_window_over_a_shuffled_cache_goes_by_key_positions(name):
    expected = golden(name)
    model, params = loaded(name)
    mask = np.concatenate([expected['attention_mask'], np.ones((3, 1))], axis=1).astype(bool)
    positions = np.asarray(positions_of(mask))
    _, cache = whole(name)
    token, position = expected['generated'][:, :1], positions[:, -1:]
    usual, _ = forward(model, {'params': params}, token, position, mask, cache.grown(1), 24)
    order = np.random.default_rng(0).permutation(24)
    order = np.append(order, 24)
    shuffled = jax.tree.map(lambda x: x[:, :, :, order], cache.grown(1))
    args = (model, {'params': params}, token, position, mask[:, None, order], shuffled, 24)
    logits, _ = forward(*args, positions[:, order])
    np.testing.assert_allclose(logits, usual, atol=TOLERANCE)
    with pytest.raises(ValueError, match='key_positions'):
        forward(*args)


def test_a_window_as_long_as_the_text_changes_nothing():
    model, params = loaded('mistral')
    tokens, mask = golden('mistral')['input_ids'][:1], np.ones((1, 24), bool)
    run = lambda window: forward(Decoder(dataclasses.replace(model.config, sliding_window=window)),
                                 {'params': params}, tokens, positions_of(mask), mask)[0]
    free = run(None)
    np.testing.assert_array_equal(run(24), free)
    cut = run(23)
    np.testing.assert_allclose(cut[0, :23], free[0, :23], atol=TOLERANCE)
    assert np.abs(cut[0, 23] - free[0, 23]).max() > 0.01


# LoRA and gradients.

@every
def test_lora_applies_to_every_family(name):
    model, params = loaded(name)
    config = lora.LoraConfig(rank=2, alpha=4.0)
    adapter = lora.init_adapter(jax.random.key(0), params, config)
    adapter = jax.tree.map(lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), adapter)
    attention, mlp = adapter['layers']['self_attn'], adapter['layers'].get('mlp', {})
    assert set(attention) == {'q_proj', 'k_proj', 'v_proj', 'o_proj'}
    assert set(mlp) == {'gpt2': {'up_proj', 'down_proj'}, 'mixtral': set()}.get(
        name, {'gate_proj', 'up_proj', 'down_proj'})
    model = Decoder(model.config, config.scale)
    mask = golden(name)['attention_mask'].astype(bool)
    args = golden(name)['input_ids'], positions_of(mask), mask
    beside, _ = forward(model, {'params': params, 'lora': adapter}, *args)
    merged, _ = forward(model, {'params': lora.merge(params, adapter, config)}, *args)
    np.testing.assert_allclose(beside, merged, atol=1e-3)
    assert np.abs(np.asarray(beside) - golden(name)['logits'])[mask].max() > 0.1


@every
def test_gradients_reach_every_weight_and_are_finite(name):
    model, params = loaded(name)
    tokens, mask = golden(name)['input_ids'], golden(name)['attention_mask'].astype(bool)

    @jax.jit
    @jax.grad
    def gradients(params):
        hidden, _ = model.apply({'params': params}, tokens, positions_of(mask), mask)
        logits = model.apply({'params': params}, hidden, method='logits')
        return jnp.sum(jax.nn.logsumexp(logits[:, :-1], axis=-1) * mask[:, :-1])

    for path, value in flax.traverse_util.flatten_dict(gradients(params)).items():
        assert np.isfinite(value).all(), path
        # A bias of all keys moves no softmax, where positions do not turn it.
        assert np.abs(value).max() > 0 or (name == 'gpt2' and path[-2:] == ('k_proj', 'bias')), path


# Mixtral's experts.

def mixture_by_hand(x, logits, per_token, gate, up, down):
    """Token by token and expert by expert, in float64."""
    x, logits, gate, up, down = (np.asarray(y, np.float64) for y in (x, logits, gate, up, down))
    out = np.zeros_like(x)
    for n in np.ndindex(x.shape[:-1]):
        token = x[n]
        chosen = np.argsort(-logits[n])[:per_token]
        share = np.exp(logits[n]) / np.exp(logits[n]).sum()
        for expert in chosen:
            hidden = token @ gate[expert]
            hidden = hidden / (1 + np.exp(-hidden)) * (token @ up[expert])
            out[n] += share[expert] / share[chosen].sum() * (hidden @ down[expert])
    return out


def random_experts(num_experts, dtype=np.float32):
    rng = np.random.default_rng(num_experts)
    shapes = (3, 7, 6), (3, 7, num_experts), (num_experts, 6, 10), (num_experts, 6, 10), (num_experts, 10, 6)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def mixed(per_token, x, logits, gate, up, down):
    return experts.mixture(x, *experts.route(logits, per_token), gate, up, down, ACTIVATIONS['silu'])


@pytest.mark.parametrize('num_experts, per_token', [(4, 2), (8, 1), (5, 3), (2, 2)])
def test_grouped_experts_equal_a_loop_over_tokens(num_experts, per_token):
    args = random_experts(num_experts)
    grouped = jax.jit(mixed, static_argnums=0)(per_token, *args)
    np.testing.assert_allclose(grouped, mixture_by_hand(args[0], args[1], per_token, *args[2:]), rtol=1e-4, atol=1e-4)


def test_experts_that_nobody_or_everybody_chooses():
    x, logits, *matrices = random_experts(6)
    logits = logits.at[..., 3].set(40.0).at[..., [0, 5]].set(-40.0)
    grouped = jax.jit(mixed, static_argnums=0)(2, x, logits, *matrices)
    np.testing.assert_allclose(grouped, mixture_by_hand(x, logits, 2, *matrices), rtol=1e-4, atol=1e-4)


def test_gradients_of_grouped_experts_equal_those_of_all_experts_weighted():
    args = random_experts(4)

    def dense(x, logits, gate, up, down):
        share = jax.nn.softmax(logits)
        kept = share >= jnp.sort(share, axis=-1)[..., -2:-1]
        share = jnp.where(kept, share, 0) / jnp.where(kept, share, 0).sum(axis=-1, keepdims=True)
        hidden = jax.nn.silu(jnp.einsum('bsd,edf->bsef', x, gate)) * jnp.einsum('bsd,edf->bsef', x, up)
        return jnp.einsum('bsef,efd,bse->bsd', hidden, down, share)

    def gradients(function):
        return jax.jit(jax.grad(lambda args: jnp.sum(jnp.sin(function(*args)))))(args)

    for ours, theirs in zip(gradients(functools.partial(mixed, 2)), gradients(dense)):
        assert np.isfinite(ours).all() and np.abs(ours).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_experts_in_bfloat16_stay_near_the_loop():
    args = random_experts(4, jnp.bfloat16)
    grouped = mixed(2, *args)
    assert grouped.dtype == jnp.bfloat16
    by_hand = mixture_by_hand(args[0], args[1], 2, *args[2:])
    assert np.abs(np.asarray(grouped, np.float64) - by_hand).max() < 0.02 * np.abs(by_hand).max()


def test_random_experts_have_the_scale_of_their_own_fan_in():
    model, _ = loaded('mixtral')
    params = init_params(jax.random.key(0), model.config)['layers']['mlp']
    for kernel in (params['router']['kernel'], *params['experts'].values()):
        np.testing.assert_allclose(kernel.std(), kernel.shape[-2] ** -0.5, rtol=0.1)


@pytest.mark.parametrize('sizes', [{'data': 2, 'fsdp': 2, 'tensor': 2}, {'fsdp': 8}, {'data': 4, 'tensor': 2}], ids=str)
@pytest.mark.parametrize('length', [1, 6])
def test_experts_split_over_eight_devices_give_the_same_outputs_and_gradients(sizes, length):
    rng = np.random.default_rng(0)
    shapes = (8, length, 16), (8, length, 4), (4, 16, 24), (4, 16, 24), (4, 24, 16)
    args = [jnp.asarray(rng.normal(size=shape) / 4, jnp.float32) for shape in shapes]
    mesh = meshes.make_mesh({'data': 1, 'tensor': 1} | sizes)

    def both(mix):
        def loss(args):
            x, logits, *matrices = args
            out = mix(x, *experts.route(logits, 2), *matrices, ACTIVATIONS['silu'])
            return jnp.sum(jnp.sin(out)), out
        return jax.jit(jax.grad(loss, has_aux=True))(args)

    whole, split = both(experts.mixture), both(functools.partial(experts.mixture_on, mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), split, whole)


def test_a_mixture_of_experts_on_a_mesh_gives_the_same_logits():
    expected = golden('mixtral')
    mesh = meshes.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
    config, params = load_model(GOLDEN / FOLDERS['mixtral'], mesh, dtype=jnp.float32)
    assert params['layers']['mlp']['experts']['up'].sharding.shard_shape((2, 4, 32, 32)) == (2, 4, 16, 16)
    rows = [0, 1, 2, 2]
    real = expected['attention_mask'][rows] > 0
    tokens, mask = sharding.place_batch((expected['input_ids'][rows], real), mesh)
    logits, cache = forward(Decoder(config), {'params': params}, tokens, positions_of(mask), mask)
    assert np.abs(np.asarray(logits) - expected['logits'][rows])[real].max() < TOLERANCE
    # One token a row takes another way through the experts.
    full, token = sharding.place_batch(
        (np.concatenate([real, np.ones((4, 1), bool)], axis=1), expected['generated'][rows, :1]), mesh)
    step, _ = forward(Decoder(config), {'params': params}, token, positions_of(full)[:, -1:], full, cache.grown(1), 24)
    np.testing.assert_array_equal(np.asarray(step)[:, 0].argmax(axis=-1), expected['generated'][rows, 1])


# Weights.

@every
def test_sources_name_every_weight_and_every_weight_has_a_logical_axis(name):
    model, _ = loaded(name)
    boxed = flax.traverse_util.flatten_dict(abstract_params(model.config))
    sources = families.tensors(model.config)
    assert set(sources) == set(boxed)
    for path, box in boxed.items():
        assert len(box.names) == len(box.value.shape) and set(box.names) <= set(sharding.RULES), path
        leading = 1 if path[0] == 'layers' else 0
        assert sources[path].stacked == bool(leading)
        assert box.names[:leading] == ('layers',) * leading
        assert sources[path].per_expert == (box.names[leading] == 'experts' if len(box.names) > leading else False)


@every
def test_saved_weights_are_those_that_were_read(name, tmp_path):
    original = safetensors.numpy.load_file(GOLDEN / FOLDERS[name] / 'model.safetensors')
    dtype = next(iter(original.values())).dtype if name != 'chatglm' else np.dtype(np.float16)
    config, params = load_model(GOLDEN / FOLDERS[name], dtype=dtype)
    save_model(tmp_path, config, params, dtype)
    ours = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
    assert set(original) - set(ours) == ({'transformer.rotary_pos_emb.inv_freq'} if name == 'chatglm' else set())
    assert not set(ours) - set(original)
    for key, value in ours.items():
        assert value.dtype == original[key].dtype
        np.testing.assert_array_equal(value, original[key])
    assert DecoderConfig.from_hf(read_config(tmp_path)) == dataclasses.replace(config, dtype=jnp.float32)


@every
def test_a_slice_of_a_weight_is_found_in_the_stored_tensor(name):
    model, params = loaded(name)
    stored = safetensors.numpy.load_file(GOLDEN / FOLDERS[name] / 'model.safetensors')
    rng = np.random.default_rng(0)
    flat = flax.traverse_util.flatten_dict(params)
    for path, source in families.tensors(model.config).items():
        place = (1,) * (source.stacked + source.per_expert)
        ours = np.asarray(flat[path][place])
        bounds = [sorted(rng.integers(0, size + 1, 2)) for size in ours.shape]
        index = tuple(slice(int(start), int(stop)) for start, stop in bounds)
        tensor = stored[source.names(*place)[0]]
        assert source.stored_shape(ours.shape) == tensor.shape
        part = tensor[source.stored_index(ours.shape, index)].astype(np.float32)
        np.testing.assert_array_equal(part.T if source.transposed else part, ours[index])


def test_published_names_of_gpt2_are_read_too(tmp_path):
    folder = GOLDEN / FOLDERS['gpt2']
    stored = safetensors.numpy.load_file(folder / 'model.safetensors')
    published = {name.removeprefix('transformer.'): value for name, value in stored.items()}
    published['h.0.attn.bias'] = np.tri(36, dtype=np.float32)[None, None]  # a causal mask, as the published file has it
    safetensors.numpy.save_file(published, tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text((folder / 'config.json').read_text())
    _, params = load_model(tmp_path, dtype=jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, params, loaded('gpt2')[1])


@pytest.mark.parametrize('name, known', [
    ('model.layers.3.self_attn.rotary_emb.inv_freq', True),
    ('transformer.h.11.attn.masked_bias', True),
    ('lm_head.weight', True),
    ('model.layers.0.self_attn.q_proj.bias', False),
    ('score.weight', False),
])
def test_buffers_are_told_from_weights_that_would_be_lost(name, known):
    assert families.unread(name) is known


# `config.json`.

def test_fields_of_each_family():
    config = DecoderConfig.from_hf(hf('mistral'))
    assert (config.sliding_window, config.first_window_layer, config.num_kv_heads) == (8, 0, 2)
    assert DecoderConfig.from_hf(hf('mistral') | {'sliding_window': None}).sliding_window is None
    config = DecoderConfig.from_hf(hf('qwen2'))
    assert (config.sliding_window, config.first_window_layer, config.qkv_bias, config.attention_bias) == (
        8, 1, True, False)
    # As published: a window that is not used.
    published = {key: value for key, value in hf('qwen2').items() if key != 'layer_types'}
    config = DecoderConfig.from_hf(published | {'use_sliding_window': False, 'sliding_window': 131072})
    assert (config.sliding_window, config.first_window_layer) == (None, 0)
    older = DecoderConfig.from_hf(published)
    assert older == DecoderConfig.from_hf(hf('qwen2'))
    config = DecoderConfig.from_hf(hf('mixtral'))
    assert (config.num_experts, config.experts_per_token) == (4, 2)
    config = DecoderConfig.from_hf(hf('gpt2'))
    assert (config.intermediate_size, config.max_position_embeddings, config.positions, config.norm) == (
        128, 36, 'learned', 'layer')
    config = DecoderConfig.from_hf(hf('chatglm'))
    assert (config.rotary_dim, config.rotary_interleaved, config.rope_theta, config.qkv_bias) == (4, True, 2e4, True)


@pytest.mark.parametrize('name', ['mistral', 'qwen2', 'mixtral'])
def test_missing_keys_mean_what_they_mean_to_transformers(name):
    small = {key: 4096 for key in ('hidden_size', 'intermediate_size', 'vocab_size')}
    config = DecoderConfig.from_hf({'model_type': name, 'num_hidden_layers': 32, 'num_attention_heads': 32, **small})
    assert (config.num_kv_heads, config.sliding_window, config.rope_theta, config.rms_norm_eps) == {
        'mistral': (8, 4096, 1e4, 1e-6), 'qwen2': (32, None, 1e4, 1e-6), 'mixtral': (8, None, 1e6, 1e-5)}[name]


PUBLISHED = {  # what matters of the published config.json, and the number of weights
    'Llama-2-7b': (6_738_415_616, {
        'model_type': 'llama', 'vocab_size': 32000, 'hidden_size': 4096, 'intermediate_size': 11008,
        'num_hidden_layers': 32, 'num_attention_heads': 32, 'num_key_value_heads': 32, 'rope_scaling': None}),
    'Llama-3.2-1B': (1_235_814_400, {
        'model_type': 'llama', 'vocab_size': 128256, 'hidden_size': 2048, 'intermediate_size': 8192, 'head_dim': 64,
        'num_hidden_layers': 16, 'num_attention_heads': 32, 'num_key_value_heads': 8, 'tie_word_embeddings': True,
        'rope_theta': 500000.0, 'rope_scaling': {
            'factor': 32.0, 'high_freq_factor': 4.0, 'low_freq_factor': 1.0,
            'original_max_position_embeddings': 8192, 'rope_type': 'llama3'}}),
    'Mistral-7B-v0.1': (7_241_732_096, {
        'model_type': 'mistral', 'vocab_size': 32000, 'hidden_size': 4096, 'intermediate_size': 14336,
        'num_hidden_layers': 32, 'num_attention_heads': 32, 'num_key_value_heads': 8, 'sliding_window': 4096}),
    'Qwen2-7B': (7_615_616_512, {
        'model_type': 'qwen2', 'vocab_size': 152064, 'hidden_size': 3584, 'intermediate_size': 18944,
        'num_hidden_layers': 28, 'num_attention_heads': 28, 'num_key_value_heads': 4, 'use_sliding_window': False,
        'sliding_window': 131072, 'max_window_layers': 28, 'rope_theta': 1000000.0, 'tie_word_embeddings': False}),
    'Mixtral-8x7B-v0.1': (46_702_792_704, {
        'model_type': 'mixtral', 'vocab_size': 32000, 'hidden_size': 4096, 'intermediate_size': 14336,
        'num_hidden_layers': 32, 'num_attention_heads': 32, 'num_key_value_heads': 8, 'num_local_experts': 8,
        'num_experts_per_tok': 2, 'rope_theta': 1000000.0, 'sliding_window': None}),
    'gpt2': (124_439_808, {
        'model_type': 'gpt2', 'vocab_size': 50257, 'n_embd': 768, 'n_layer': 12, 'n_head': 12, 'n_positions': 1024,
        'n_ctx': 1024, 'activation_function': 'gelu_new', 'layer_norm_epsilon': 1e-05}),
    'chatglm3-6b': (6_243_584_000, {
        'model_type': 'chatglm', 'padded_vocab_size': 65024, 'vocab_size': 65024, 'hidden_size': 4096,
        'ffn_hidden_size': 13696, 'num_layers': 28, 'num_attention_heads': 32, 'kv_channels': 128,
        'multi_query_attention': True, 'multi_query_group_num': 2, 'add_qkv_bias': True, 'add_bias_linear': False,
        'original_rope': True, 'seq_length': 8192}),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_model_has_its_number_of_weights(name):
    count, keys = PUBLISHED[name]
    shapes = jax.tree.map(jnp.shape, nn.unbox(abstract_params(DecoderConfig.from_hf(keys))))
    assert sum(map(math.prod, jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple)))) == count


def test_rope_ratio_divides_positions_in_chatglm2_and_multiplies_the_base_later():
    ratio = {'rope_ratio': 16}
    pair = np.arange(2)
    second = DecoderConfig.from_hf(hf('chatglm') | ratio | {'_name_or_path': 'THUDM/chatglm2-6b-32k'})
    assert second.rope_scaling == RopeScaling('linear', 16.0)
    np.testing.assert_allclose(rope_frequencies(second), 1e4 ** -(pair / 2) / 16, rtol=1e-6)
    third = DecoderConfig.from_hf(hf('chatglm') | ratio)
    np.testing.assert_allclose(rope_frequencies(third), 16e4 ** -(pair / 2), rtol=1e-6)
    for config in (second, third):
        assert DecoderConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config
    with pytest.raises(UserError, match='rope_ratio=16.*_name_or_path'):
        DecoderConfig.from_hf(hf('chatglm') | ratio | {'_name_or_path': '/data/model'})


REFUSED = [
    ('llama', {'model_type': 'mistrall'}, 'model_type "mistrall".*"mistral"'),
    ('llama', {'model_type': 'bert'}, 'model_type "bert".*Known: chatglm, gpt2, llama, mistral, mixtral, qwen2'),
    ('llama', {'model_type': None}, 'model_type "None"'),
    ('llama', {'architectures': ['LlamaForSequenceClassification']}, 'ForSequenceClassification.*LlamaForCausalLM'),
    ('llama', {'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0}}, 'rope_type "yarn".*linear'),
    ('llama', {'rope_scaling': {'rope_type': 'llama3', 'factor': 4.0}}, 'low_freq_factor'),
    ('llama', {'rope_scaling': {'type': 'linear', 'factor': 2.0, 'partial_rotary_factor': 0.5}}, 'partial_rotary'),
    ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5'),
    ('llama', {'hidden_act': 'silou'}, 'hidden_act=\'silou\'.*"silu"'),
    ('llama', {'mlp_bias': True}, 'mlp_bias=True'),
    ('llama', {'sliding_window': 8}, 'sliding_window=8'),
    ('llama', {'quantization_config': {'quant_method': 'gptq'}}, 'quantization_config.*gptq'),
    ('llama', {'num_key_value_heads': 3}, '4 attention heads.*3'),
    ('llama', {'hidden_size': None}, 'hidden_size missing'),
    ('mistral', {'layer_types': ['full_attention', 'sliding_attention']}, 'layer_types'),
    ('qwen2', {'layer_types': ['sliding_attention', 'full_attention']}, 'layer_types'),
    ('qwen2', {'use_sliding_window': False}, 'layer_types'),
    ('qwen2', {'use_mrope': True}, 'use_mrope'),
    ('mixtral', {'num_experts_per_tok': 5}, 'num_experts_per_tok=5'),
    ('gpt2', {'activation_function': 'gelu_newer'}, 'activation_function.*"gelu_new"'),
    ('gpt2', {'scale_attn_by_inverse_layer_idx': True}, 'scale_attn_by_inverse_layer_idx'),
    ('gpt2', {'scale_attn_weights': False}, 'scale_attn_weights'),
    ('gpt2', {'n_embd': None}, 'n_embd missing'),
    ('chatglm', {'original_rope': False}, 'original_rope=False'),
    ('chatglm', {'apply_residual_connection_post_layernorm': True}, 'apply_residual_connection_post_layernorm'),
    ('chatglm', {'multi_query_attention': False}, 'multi_query_attention=False'),
    ('chatglm', {'multi_query_attention': None}, 'first ChatGLM-6B'),
    ('chatglm', {'rmsnorm': False}, 'rmsnorm=False'),
    ('chatglm', {'add_bias_linear': True}, 'add_bias_linear'),
    ('chatglm', {'quantization_bit': 4}, 'quantization_bit=4'),
    ('chatglm', {'pre_seq_len': 128}, 'pre_seq_len=128'),
]


@pytest.mark.parametrize('name, change, says', REFUSED, ids=[f'{case[0]}-{list(case[1])[0]}' for case in REFUSED])
def test_what_is_not_supported_is_refused_by_name(name, change, says):
    with pytest.raises(UserError, match=says):
        DecoderConfig.from_hf(hf(name) | change)


def test_more_slots_than_learned_positions_are_refused():
    model, params = loaded('gpt2')
    mask = np.ones((1, 37), bool)
    with pytest.raises(UserError, match='37 slots.*36 positions'):
        model.apply({'params': params}, np.zeros((1, 37), np.int32), positions_of(mask), mask)


@pytest.mark.parametrize('activation, at_one', [('gelu_new', 0.841192), ('gelu', 0.841345), ('silu', 0.731059)])
def test_activations(activation, at_one):
    np.testing.assert_allclose(ACTIVATIONS[activation](1.0), at_one, atol=1e-6)


