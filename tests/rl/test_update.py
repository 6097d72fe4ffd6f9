"""The PPO update on a policy small enough to follow by hand: one categorical choice a token."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xrec_jax.errors import UserError
from xrec_jax.rl import ppo, update

B, R, V = 16, 3, 5


def evaluate(params, base, inputs):
    """A policy that ignores what came before: logits [R, V]; values [R]."""
    log_probs = jax.nn.log_softmax(params['logits'] + base)  # [R, V]
    chosen = jnp.take_along_axis(log_probs[None], inputs['tokens'][..., None], -1)[..., 0]
    values = jnp.broadcast_to(params['values'], inputs['tokens'].shape)
    return chosen, values, jnp.broadcast_to(ppo.entropy_from_logits(log_probs), inputs['tokens'].shape)


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    tokens = jnp.asarray(random.integers(0, V, (B, R)))
    mask = jnp.asarray(np.arange(R) < random.integers(1, R + 1, (B, 1)))
    params = {'logits': jnp.asarray(random.normal(size=(R, V)), jnp.float32), 'values': jnp.zeros(R)}
    log_probs, values, _ = evaluate(params, 0.0, {'tokens': tokens})
    rollout, _ = ppo.make_rollout(log_probs, log_probs, values, (tokens[:, 0] == 2).astype(jnp.float32), mask, 0.1,
                                  ppo.PPOConfig())
    return params, {'tokens': tokens}, rollout


def run(batch, config, ppo_config=ppo.PPOConfig()):
    params, inputs, rollout = batch
    return update.ppo_update(params, update.make_optimizer(config).init(params), jnp.float32(0), inputs, rollout,
                             jax.random.key(0), evaluate=evaluate, config=config, ppo_config=ppo_config)


def test_one_step_is_the_gradient_of_the_whole_batch(batch):
    config = update.UpdateConfig(epochs=1, minibatch_size=B, microbatch_size=B, warmup_steps=0)
    params, inputs, rollout = batch

    def loss(params):
        total, count, _ = ppo.ppo_loss(*evaluate(params, 0.0, inputs), rollout, ppo.PPOConfig())
        return total / count

    optimizer = update.make_optimizer(config)
    updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
    expected = optax.apply_updates(params, updates)
    ours, _, metrics = run(batch, config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, expected)
    assert metrics['first_ratio_error'] < 1e-6


@pytest.mark.parametrize('micro', [1, 4, 8])
def test_microbatches_do_not_change_the_step(batch, micro):
    whole, _, _ = run(batch, update.UpdateConfig(epochs=2, minibatch_size=8, microbatch_size=8))
    parts, _, _ = run(batch, update.UpdateConfig(epochs=2, minibatch_size=8, microbatch_size=micro))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, parts)


def test_updates_make_the_rewarded_token_likelier(batch):
    config = update.UpdateConfig(epochs=4, minibatch_size=8, microbatch_size=8, learning_rate=0.05, warmup_steps=1)
    before = jax.nn.softmax(batch[0]['logits'][0])[2]
    after, _, metrics = run(batch, config)
    assert jax.nn.softmax(after['logits'][0])[2] > before + 0.05
    assert metrics['ratio_max'] > 1


def test_learning_rate_warms_up():
    config = update.UpdateConfig(learning_rate=0.1, warmup_steps=4, max_grad_norm=1e9)
    optimizer, state, steps = update.make_optimizer(config), None, []
    state = optimizer.init(jnp.zeros(()))
    for _ in range(6):
        step, state = optimizer.update(jnp.ones(()), state)
        steps.append(-float(step))
    np.testing.assert_allclose(steps, [0.025, 0.04375, 0.0625, 0.08125, 0.1, 0.1], rtol=1e-3)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match='align.learner.minibatch_size=5 must divide 16'):
        update.UpdateConfig(minibatch_size=5).check(16)
    with pytest.raises(UserError, match='align.learner.microbatch_size=3 must divide 8'):
        update.UpdateConfig(minibatch_size=8, microbatch_size=3).check(16)
