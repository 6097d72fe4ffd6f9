"""The same numbers on one device and on eight (fake) ones, and where arrays are put."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, PartitionSpec as P

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, generate, lora, policy
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.parallel import mesh as meshes, sharding
from xrec_jax.phases import align
from xrec_jax.rl import ppo, update

CONFIG = DecoderConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4,
                       num_kv_heads=2, head_dim=8, max_position_embeddings=64)
LORA = lora.LoraConfig(rank=2)
UPDATE = update.UpdateConfig(epochs=2, minibatch_size=8, microbatch_size=4, learning_rate=1e-2, warmup_steps=1)
SIZES = [{'data': 4, 'fsdp': 2}, {'data': 1, 'fsdp': 4, 'tensor': 2}]


def ppo_iteration(mesh):
    """One whole iteration on a mesh: texts, losses and the adapter after it."""
    model, shapes = decoder.Decoder(dataclasses.replace(CONFIG, mesh=mesh), LORA.scale), decoder.abstract_params(CONFIG)
    base = decoder.init_params(jax.random.key(0), CONFIG)
    params = {'lora': lora.init_adapter(jax.random.key(1), base, LORA),
              'value_head': policy.init_value_head(CONFIG.hidden_size)}
    base = sharding.place_params(base, shapes, mesh, CONFIG.units)
    random = np.random.default_rng(0)
    prompts = sharding.place_batch(
        (random.integers(3, 32, (16, 9)), np.arange(9) >= random.integers(0, 9, (16, 1))), mesh)
    responses = generate.generate(
        model, {'params': base, 'lora': params['lora']}, *prompts, jax.random.key(2),
        sampling=SamplingConfig(max_length=7), stop_ids=2)
    inputs = {'prompts': prompts[0], 'prompt_mask': prompts[1], 'responses': responses.tokens,
              'response_mask': responses.mask}
    scored = align.score(model, base, params, inputs, temperature=1.0, num_chunks=2)
    raw = sharding.place_batch(random.random(16).astype(np.float32), mesh)
    labels = sharding.place_batch(random.integers(0, 2, 16).astype(np.float32), mesh)
    rollout, _, metrics = align.make_rollout(scored, raw, labels, responses, jnp.float32(0.1), center=True, clip=1.0,
                                             penalty=1.0, config=ppo.PPOConfig())
    learner = sharding.place_learner((params, update.make_optimizer(UPDATE).init(params)), shapes, mesh, CONFIG.units)
    *after, update_metrics = update.ppo_update(
        *learner, base, inputs, rollout,
        jax.random.key(3), evaluate=align.evaluator(model, 1.0), config=UPDATE, ppo_config=ppo.PPOConfig(),
        constrain=align.constrainer(mesh))
    # The next iteration gets what this one returns: put otherwise, it would be compiled once more.
    same = jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), learner, tuple(after))
    assert all(jax.tree.leaves(same))
    return jax.device_get((responses.tokens, metrics | update_metrics, after[0]))


@pytest.fixture(scope='module')
def on_one_device():
    return ppo_iteration(meshes.make_mesh({}, jax.devices()[:1]))


@pytest.mark.parametrize('sizes', SIZES, ids=str)
def test_a_ppo_iteration_gives_the_same_numbers_on_eight_devices(sizes, on_one_device):
    tokens, metrics, params = ppo_iteration(meshes.make_mesh(sizes))
    one_tokens, one_metrics, one_params = on_one_device
    np.testing.assert_array_equal(tokens, one_tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), metrics, one_metrics)
    # Adam's first steps are nearly sign steps, so rounding may show at the size of a step, not more.
    difference = jax.tree.map(lambda a, b: np.abs(a - b).mean(), params, one_params)
    assert max(jax.tree.leaves(difference)) < 1e-4
    moved = jax.tree.leaves(one_params['lora'])
    assert max(np.abs(leaf).max() for leaf in moved) > 1e-2


def test_first_minibatch_has_ratio_one(on_one_device):
    assert on_one_device[1]['first_ratio_error'] < 1e-6


# ------------------------------------------------------------------------------------------------ rules


def shapes_of(config=CONFIG):
    return decoder.abstract_params(config)


def abstract_mesh(data=1, fsdp=1, tensor=1):
    return AbstractMesh((data, fsdp, tensor), meshes.AXES)


def test_parameters_lie_where_the_rules_say():
    shardings = sharding.param_shardings(shapes_of(), abstract_mesh(2, 2, 2))
    attention = shardings['layers']['self_attn']
    assert attention['q_proj']['kernel'].spec == P(None, 'fsdp', 'tensor')
    assert attention['o_proj']['kernel'].spec == P(None, 'tensor', 'fsdp')
    assert shardings['embed_tokens'].spec == P('tensor', 'fsdp')


def test_an_axis_that_does_not_divide_stays_whole():
    odd = dataclasses.replace(CONFIG, vocab_size=33)
    assert sharding.param_shardings(shapes_of(odd), abstract_mesh(tensor=8))['embed_tokens'].spec == P(None, 'fsdp')


def test_no_head_is_cut_though_its_columns_would_divide():
    attention = sharding.param_shardings(shapes_of(), abstract_mesh(tensor=4), CONFIG.units)['layers']['self_attn']
    assert attention['q_proj']['kernel'].spec == P(None, 'fsdp', 'tensor')  # 4 heads on 4
    assert attention['k_proj']['kernel'].spec == P(None, 'fsdp', None)  # 2 kv heads of 8 columns on 4


def test_a_batch_that_all_batch_axes_do_not_divide_is_split_over_the_first():
    mesh = abstract_mesh(data=2, fsdp=4)
    assert sharding.partition(('batch', None), (8, 3), mesh) == P(('data', 'fsdp'), None)
    assert sharding.partition(('batch', None), (4, 3), mesh) == P('data', None)
    assert sharding.partition(('batch', None), (3, 3), mesh) == P(None, None)


def test_two_axes_on_one_mesh_axis_and_unknown_names_are_errors_of_the_program():
    with pytest.raises(ValueError, match='lie on mesh axis "tensor"'):
        sharding.partition(('heads', 'vocab'), (4, 4), abstract_mesh(tensor=2))
    with pytest.raises(ValueError, match='lie on mesh axis "fsdp"'):
        sharding.partition(('batch', 'embed'), (4, 4), abstract_mesh())
    with pytest.raises(ValueError, match='"heds" is not in the rules'):
        sharding.partition(('heds',), (4,), abstract_mesh())


def test_adapters_and_their_moments_lie_as_their_matrices_do():
    base = nn.unbox(shapes_of())
    params = {'lora': jax.eval_shape(lambda: lora.init_adapter(jax.random.key(0), base, LORA)),
              'value_head': jax.eval_shape(lambda: policy.init_value_head(CONFIG.hidden_size))}
    state = jax.eval_shape(update.make_optimizer(UPDATE).init, params)
    placed = sharding.learner_shardings((params, state), shapes_of(), abstract_mesh(fsdp=2, tensor=2), CONFIG.units)
    adam = placed[1][1][0]
    for lora_tree in (placed[0]['lora'], adam.mu['lora'], adam.nu['lora']):
        o_proj, gate = lora_tree['layers']['self_attn']['o_proj'], lora_tree['layers']['mlp']['gate_proj']
        assert (o_proj['a'].spec, o_proj['b'].spec) == (P(None, 'tensor', None), P(None, None, 'fsdp'))
        assert (gate['a'].spec, gate['b'].spec) == (P(None, 'fsdp', None), P(None, None, 'tensor'))
    assert placed[0]['value_head']['kernel'].spec == P() and adam.count.spec == P()


def test_stacked_adapters_are_split_by_the_same_axes():
    one = {'layers': {'mlp': {'up_proj': {'a': jax.ShapeDtypeStruct((3, 2, 16, 2), jnp.float32)}}}}
    placed = sharding.learner_shardings(one, shapes_of(), abstract_mesh(fsdp=2), CONFIG.units)
    assert placed['layers']['mlp']['up_proj']['a'].spec == P(None, None, 'fsdp', None)


# --------------------------------------------------------------------------------------------- refusals


def test_weights_that_would_lie_whole_everywhere_are_refused_and_the_largest_is_named():
    config = dataclasses.replace(CONFIG, vocab_size=33)
    mesh = abstract_mesh(tensor=2)
    with pytest.raises(UserError, match=r'fsdp=1, tensor=2 leaves \d\d% .* most of it lm_head \[16, 33\]'):
        sharding.check_sharded(shapes_of(config), sharding.param_shardings(shapes_of(config), mesh), CONFIG.units)
    for fine in (abstract_mesh(tensor=2), abstract_mesh(data=8), abstract_mesh(fsdp=4)):
        sharding.check_sharded(shapes_of(), sharding.param_shardings(shapes_of(), fine), CONFIG.units)


def test_kv_heads_copied_in_groups_do_not_count_as_left_whole():
    mesh = abstract_mesh(tensor=4)
    shardings = sharding.param_shardings(shapes_of(), mesh, CONFIG.units)
    sharding.check_sharded(shapes_of(), shardings, CONFIG.units)
    with pytest.raises(UserError, match='self_attn/[kv]_proj'):
        sharding.check_sharded(shapes_of(), shardings)


def test_a_tensor_axis_that_cuts_heads_is_refused_with_the_legal_sizes():
    sharding.check_heads(32, 8, abstract_mesh(tensor=16))
    with pytest.raises(UserError, match='tensor=3 .* 32 heads and 8 kv heads.* legal sizes: 1, 2, 4, 8, 16, 32'):
        sharding.check_heads(32, 8, abstract_mesh(tensor=3))
    with pytest.raises(UserError, match='tensor=4 .* legal sizes: 1, 3, 6, 12'):  # 4 divides 12 heads, cuts 3 kv heads
        sharding.check_heads(12, 3, abstract_mesh(tensor=4))


def test_bad_meshes_and_batches_are_refused():
    with pytest.raises(UserError, match='fsdp'):
        meshes.make_mesh({'fdsp': 2})
    with pytest.raises(UserError, match='dcn_data=2: there are 1 slices, of 8 device'):
        meshes.make_mesh({'dcn_data': 2})
    with pytest.raises(UserError, match='does not fill 8'):
        meshes.make_mesh({'data': 3})
    with pytest.raises(UserError, match='at most one is -1'):
        meshes.make_mesh({'data': -1, 'fsdp': -1})
    with pytest.raises(UserError, match='multiple of 8'):
        sharding.check_batch('align.rollout_size', 12, abstract_mesh(data=8))
