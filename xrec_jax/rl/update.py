"""The PPO update: several passes over one rollout batch, all inside one `jit`.

Three batch sizes: the rollout batch that comes in, a *minibatch* for each optimizer step, and a
*microbatch* for each forward and backward pass (memory; gradients are summed by `lax.scan` and
divided once by the minibatch's number of tokens).

What is trained and how it is evaluated is handed in: `evaluate(params, inputs)` returns log-probs,
values and entropy [b, R] of a microbatch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from xrec_jax.errors import UserError
from xrec_jax.rl import ppo

Evaluate = Callable[[Any, Any], tuple[jax.Array, jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """Hashable, a static argument."""

    epochs: int = 4  # passes over the rollout batch
    minibatch_size: int = 32  # rollouts per optimizer step
    microbatch_size: int = 32  # rollouts per forward pass
    learning_rate: float = 1e-4
    warmup_steps: int = 10  # optimizer steps; LoRA's B is 0 at first, and Adam's first step a sign step
    max_grad_norm: float = 1.0
    adam_epsilon: float = 1e-5  # Huang et al., 2022

    def check(self, rollout_size: int) -> None:
        """UserError unless the three sizes divide each other."""
        for name, size, whole in (('minibatch_size', self.minibatch_size, rollout_size),
                                  ('microbatch_size', self.microbatch_size, self.minibatch_size)):
            if size < 1 or whole % size:
                raise UserError(f'align.learner.{name}={size} must divide {whole}: rollout_size, minibatch_size and '
                                'microbatch_size go into each other.')


def make_optimizer(config: UpdateConfig) -> optax.GradientTransformation:
    """Clipped Adam with a linear warm-up to a constant rate."""
    rate = optax.linear_schedule(config.learning_rate / max(config.warmup_steps, 1), config.learning_rate,
                                 config.warmup_steps)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm),
                       optax.adam(rate, eps=config.adam_epsilon))


@functools.partial(jax.jit, static_argnames=('evaluate', 'config', 'ppo_config', 'constrain'))
def ppo_update(
    params: Any,
    opt_state: optax.OptState,
    evaluate_args: Any,
    inputs: Any,
    rollout: ppo.Rollout,
    key: jax.Array,
    *,
    evaluate: Callable,
    config: UpdateConfig,
    ppo_config: ppo.PPOConfig,
    constrain: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[Any, optax.OptState, dict[str, jax.Array]]:
    """Trains `params` on one rollout batch of B responses.

    Args:
      params: what is trained: adapter and value head.
      evaluate_args: what `evaluate` needs and is not trained (the base weights).
      inputs: pytree of [B, ...], what `evaluate` reads of each rollout.
      evaluate: `(params, evaluate_args, inputs of a microbatch) → log_probs, values, entropy`.
      constrain: puts a sharding on a microbatch.

    Returns:
      params, opt_state, and metrics of `ppo.summarize_metrics` over all passes, with grad_norm.
      Metric `first_ratio_error` is max |ratio − 1| in the first minibatch, 0 up to rounding.
    """
    batch = rollout.mask.shape[0]
    optimizer = make_optimizer(config)
    micro, mini = config.microbatch_size, config.minibatch_size

    def loss(params, data):
        inputs, rollout = data
        log_probs, values, entropy = evaluate(params, evaluate_args, inputs)
        total, count, metrics = ppo.ppo_loss(log_probs, values, entropy, rollout, ppo_config)
        return total, (count, metrics)

    def minibatch(carry, rows):
        params, opt_state = carry

        def microbatch(gradient, rows):
            data = constrain(jax.tree.map(lambda x: x[rows], (inputs, rollout)))
            grads, (count, metrics) = jax.grad(loss, has_aux=True)(params, data)
            return jax.tree.map(jnp.add, gradient, grads), (count, metrics)

        grads, (counts, metrics) = jax.lax.scan(microbatch, jax.tree.map(jnp.zeros_like, params), rows)
        grads = jax.tree.map(lambda g: g / jnp.maximum(counts.sum(), 1), grads)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), (counts, metrics, optax.global_norm(grads))

    def order(epoch):
        return jax.random.permutation(jax.random.fold_in(key, epoch), batch)

    rows = jax.vmap(order)(jnp.arange(config.epochs)).reshape(-1, mini // micro, micro)

    chex.assert_tree_shape_prefix((inputs, rollout), (batch,))
    (params, opt_state), (counts, metrics, norms) = jax.lax.scan(minibatch, (params, opt_state), rows)
    first = jnp.maximum(jnp.abs(metrics['ratio_max'][0] - 1), jnp.abs(metrics['ratio_min'][0] - 1)).max()
    summary = ppo.summarize_metrics(metrics, counts)
    return params, opt_state, summary | {'grad_norm': norms.mean(), 'first_ratio_error': first}
