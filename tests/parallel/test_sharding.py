"""The same numbers on one device and on eight (fake) ones, and where arrays are put."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, generate, lora, policy
from xrec_jax.language.config import DecoderConfig
from xrec_jax.parallel import mesh as meshes, sharding
from xrec_jax.phases import align
from xrec_jax.rl import ppo, update

CONFIG = DecoderConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4,
                           num_kv_heads=2, head_dim=8, max_position_embeddings=64)
LORA = lora.LoraConfig(rank=2)
MODEL = decoder.Decoder(CONFIG, LORA.scale)
UPDATE = update.UpdateConfig(epochs=2, minibatch_size=8, microbatch_size=4, learning_rate=1e-2, warmup_steps=1)
SIZES = [{'data': 4, 'fsdp': 2}, {'data': 1, 'fsdp': 4, 'tensor': 2}]


def ppo_iteration(mesh):
    """One whole iteration on a mesh: texts, losses and the adapter after it."""
    base = decoder.init_params(jax.random.key(0), CONFIG)
    params = {'lora': lora.init_adapter(jax.random.key(1), base, LORA),
              'value_head': policy.init_value_head(CONFIG.hidden_size)}
    base = sharding.place_params(base, decoder.abstract_params(CONFIG), mesh)
    random = np.random.default_rng(0)
    prompts = sharding.place_batch(
        (random.integers(3, 32, (16, 9)), np.arange(9) >= random.integers(0, 9, (16, 1))), mesh)
    responses = generate.generate(
        MODEL, {'params': base, 'lora': params['lora']}, *prompts, jax.random.key(2),
        sampling=generate.SamplingConfig(max_length=7), eos_id=2)
    inputs = {'prompts': prompts[0], 'prompt_mask': prompts[1], 'responses': responses.tokens,
              'response_mask': responses.mask}
    scored = align.score(MODEL, base, params, inputs, temperature=1.0, num_chunks=2)
    raw = sharding.place_batch(random.random(16).astype(np.float32), mesh)
    labels = sharding.place_batch(random.integers(0, 2, 16).astype(np.float32), mesh)
    rollout, _, metrics = align.make_rollout(scored, raw, labels, responses, jnp.float32(0.1), center=True, clip=1.0, penalty=1.0,
                                             config=ppo.PPOConfig())
    params, _, update_metrics = update.ppo_update(
        sharding.replicate(params, mesh), update.make_optimizer(UPDATE).init(params), base, inputs, rollout,
        jax.random.key(3), evaluate=align.evaluator(MODEL, 1.0), config=UPDATE, ppo_config=ppo.PPOConfig(),
        constrain=align.constrainer(mesh))
    return jax.device_get((responses.tokens, metrics | update_metrics, params))


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


def test_parameters_lie_where_the_rules_say():
    mesh = meshes.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
    shardings = sharding.param_shardings(decoder.abstract_params(CONFIG), mesh)
    attention = shardings['layers']['self_attn']
    assert attention['q_proj']['kernel'].spec == P(None, 'fsdp', 'tensor')
    assert attention['o_proj']['kernel'].spec == P(None, 'tensor', 'fsdp')
    assert shardings['embed_tokens'].spec == P('tensor', 'fsdp')


def test_an_axis_that_does_not_divide_stays_whole():
    mesh = meshes.make_mesh({'data': 1, 'tensor': 8})
    odd = decoder.abstract_params(DecoderConfig(33, 16, 24, 2, 4, 2, 8))
    assert sharding.param_shardings(odd, mesh)['embed_tokens'].spec == P(None, 'fsdp')


def test_bad_meshes_and_batches_are_refused():
    with pytest.raises(UserError, match='fsdp'):
        meshes.make_mesh({'fdsp': 2})
    with pytest.raises(UserError, match='does not fill 8'):
        meshes.make_mesh({'data': 3})
    with pytest.raises(UserError, match='at most one is -1'):
        meshes.make_mesh({'data': -1, 'fsdp': -1})
    with pytest.raises(UserError, match='multiple of 8'):
        sharding.check_batch('align.rollout_size', 12, meshes.make_mesh({'data': 8}))
