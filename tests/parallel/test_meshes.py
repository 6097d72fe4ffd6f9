"""A decoder on every legal mesh of one to eight devices: the same logits, the same texts, and no whole copies."""

import dataclasses
import functools
import itertools
import math
import re

import jax
import numpy as np
import pytest

from xrec_jax.language import decoder, generate, lora
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.parallel import mesh as meshes, sharding

# Two kv heads: on tensor=4 and 8 they are copied in groups.
CONFIG = DecoderConfig(vocab_size=64, hidden_size=16, intermediate_size=48, num_layers=2, num_heads=8,
                       num_kv_heads=2, head_dim=4, max_position_embeddings=64)
LORA = lora.LoraConfig(rank=2)
SAMPLING = SamplingConfig(max_length=6, temperature=0)
B, P = 8, 9
MESHES = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=3) if math.prod(sizes) in (1, 2, 4, 8)]


def make_mesh(sizes):
    return meshes.make_mesh(dict(zip(meshes.AXES, sizes)), jax.devices()[:math.prod(sizes)])


@functools.cache
def parameters(config):
    """Weights, an adapter that changes something, and prompts of unequal lengths, on the host."""
    base = decoder.init_params(jax.random.key(0), config)
    adapter = jax.tree.map(lambda x: x + 0.02, lora.init_adapter(jax.random.key(1), base, LORA))
    random = np.random.default_rng(0)
    prompts = random.integers(3, config.vocab_size, (B, P)), np.arange(P) >= random.integers(0, P, (B, 1))
    return jax.device_get((base, adapter, prompts))


abstract_params = functools.cache(decoder.abstract_params)


def placed(config, mesh):
    """The model on a mesh, its variables and prompts."""
    sharding.check_heads(config.num_heads, config.num_kv_heads, mesh)
    (base, adapter, prompts), shapes = parameters(config), abstract_params(config)
    variables = {'params': sharding.place_params(base, shapes, mesh, config.units),
                 'lora': sharding.place_learner(adapter, shapes, mesh, config.units)}
    model = decoder.Decoder(dataclasses.replace(config, mesh=mesh), LORA.scale)
    return model, variables, sharding.place_batch(prompts, mesh)


@functools.partial(jax.jit, static_argnums=0)
def run(model, variables, prompts):
    """Logits of the prompts [B, P, V], and a greedy response to each."""
    tokens, mask = prompts
    hidden, _ = model.apply(variables, tokens, decoder.positions_of(mask), mask)
    logits = model.apply(variables, hidden, method='logits')
    return logits, generate.generate(model, variables, tokens, mask, jax.random.key(0), sampling=SAMPLING, stop_ids=2)


def check_same(found, expected):
    """The same logits to rounding, and the same texts."""
    (logits, responses), (expected_logits, expected_responses) = jax.device_get((found, expected))
    real = expected_responses.mask
    np.testing.assert_allclose(logits, expected_logits, atol=2e-5)
    np.testing.assert_array_equal(responses.mask, real)
    np.testing.assert_array_equal(responses.tokens[real], expected_responses.tokens[real])
    np.testing.assert_allclose(responses.log_probs[real], expected_responses.log_probs[real], atol=2e-5)


@functools.cache
def on_one_device(config):
    model, variables, prompts = placed(config, make_mesh((1, 1, 1)))
    plain = decoder.Decoder(config, LORA.scale)  # without a mesh: what a user of the model alone has
    expected = jax.device_get(run(plain, variables, prompts))
    assert np.unique(expected[1].tokens).size > 5
    return expected


@pytest.mark.parametrize('sizes', MESHES, ids=str)
def test_logits_and_greedy_texts_are_the_same_on_every_mesh(sizes):
    check_same(run(*placed(CONFIG, make_mesh(sizes))), on_one_device(CONFIG))


FAMILIES = {
    'gpt2': dataclasses.replace(CONFIG, family='gpt2', norm='layer', positions='learned', gated=False, mlp_bias=True,
                                activation='gelu_new', attention_bias=True, tie_word_embeddings=True, num_kv_heads=8),
    'mixtral': dataclasses.replace(CONFIG, family='mixtral', num_experts=4),
    'qwen2': dataclasses.replace(CONFIG, family='qwen2', qkv_bias=True, num_kv_heads=4),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_other_families_are_the_same_on_a_mesh_too(family):
    check_same(run(*placed(FAMILIES[family], make_mesh((1, 2, 4)))), on_one_device(FAMILIES[family]))


# ---------------------------------------------------------------------------- what the compiled program holds


@functools.cache
def compiled(sizes):
    """The program of `generate` on a mesh, as text."""
    model, variables, (tokens, mask) = placed(CONFIG, make_mesh(sizes))
    program = generate.generate.lower(
        model, variables, tokens, mask, jax.random.key(0), sampling=SAMPLING, stop_ids=2).compile()
    return program.as_text()


def shapes_in(text):
    """Dimensions of all floating-point arrays of a program."""
    return {tuple(map(int, found.split(','))) for found in re.findall(r'f32\[([\d,]+)\]', text)}


def bodies_of(text, *names):
    """Lines of a program whose place in our code holds all `names`."""
    return [line for line in text.splitlines()
            if (found := re.search(r'op_name="([^"]*)"', line)) and all(name in found[1] for name in names)]


@pytest.mark.parametrize('sizes', [(1, 4, 2), (1, 2, 4), (2, 2, 2)], ids=str)
def test_no_device_holds_whole_weights_or_the_whole_cache(sizes):
    shapes, (data, fsdp, tensor) = shapes_in(compiled(sizes)), sizes
    layers, width, inner = CONFIG.num_layers, CONFIG.hidden_size, CONFIG.intermediate_size
    heads = max(CONFIG.num_kv_heads // tensor, 1)
    slots = P + SAMPLING.max_length
    assert (layers, B // (data * fsdp), heads, slots, CONFIG.head_dim) in shapes
    assert not {shape for shape in shapes if len(shape) == 5 and shape[3] == slots and shape[1] * shape[2]
                > B // (data * fsdp) * heads}
    # Nor of the activations of all rows: but for the embeddings, by width, before they are exchanged.
    assert not {shape for shape in shapes if shape[:2] == (B // data, P) and shape[2:] > (width // fsdp,)}
    assert (layers, width // fsdp, inner // tensor) in shapes
    for whole in ((layers, width, inner), (layers, inner, width), (CONFIG.vocab_size, width)):
        assert whole not in shapes
    weights = jax.tree.leaves(placed(CONFIG, make_mesh(sizes))[1]['params'])
    here = sum(leaf.addressable_shards[0].data.nbytes for leaf in weights)
    assert here < 1.2 * sum(leaf.nbytes for leaf in weights) / (fsdp * tensor)  # kv heads in groups, norms


@pytest.mark.parametrize('sizes', [(1, 8, 1), (1, 4, 2)], ids=str)
def test_decoding_gathers_no_weights(sizes):
    """In the loop over new tokens only activations travel: arrays of one token a row."""
    text = compiled(sizes)
    inside = [line for line in bodies_of(text, 'generate)/while/body') if ' all-gather(' in line]
    prefill = [line for line in bodies_of(text, 'generate)/Decoder') if ' all-gather(' in line]
    matrix = lambda line: max((math.prod(shape) for shape in shapes_in(line.split(' all-gather(')[0])), default=0)
    # A matrix of the feed-forward network, cut by tensor, against one token of all rows.
    assert max(map(matrix, prefill)) >= CONFIG.hidden_size * CONFIG.intermediate_size // sizes[2]
    assert inside and max(map(matrix, inside)) <= B * CONFIG.hidden_size * 2
