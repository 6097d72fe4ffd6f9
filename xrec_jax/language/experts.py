"""Sparse experts: a feed-forward network of which each token passes through a few parts (Mixtral).

  `route`               router's logits → the experts of each token, and their weights
  `mixture`             tokens, sorted by expert, through three grouped products, and back in order
  `mixture_on`          the same on a mesh
  `SparseFeedForward`   all that, with its weights, as the decoder's layer

Tokens are grouped by expert, so that each group meets one matrix (`jax.lax.ragged_dot`): shapes are
static whatever the router says, no token is dropped, and no expert has a capacity. N tokens, E
experts, k of them per token, D model, F feed-forward.

On a mesh every expert is split as a dense matrix is (`fsdp` by D, `tensor` by F), so that no device's
work depends on the routing, and each device sorts its own rows.
"""

import functools
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.projection import Projection
from xrec_jax.parallel.sharding import DECODE_RULES, RULES, partition


def route(logits: jax.Array, per_token: int) -> tuple[jax.Array, jax.Array]:
    """Of logits [..., E] the `per_token` best: int [..., k], and a softmax among them alone, float32 [..., k].

    That is the softmax over all experts, cut to the best and renormalised (Mixtral, arXiv 2401.04088).
    """
    best, chosen = jax.lax.top_k(logits.astype(jnp.float32), per_token)
    return chosen, jax.nn.softmax(best, axis=-1)


def mixture(x: jax.Array, chosen: jax.Array, weights: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array,
            activation: Callable, model_axis: str | None = None, wide_axis: str | None = None) -> jax.Array:
    """Σ_j weights[…, j] · down_e(activation(gate_e(x)) · up_e(x)), with e = chosen[…, j].

    Args:
      x: [B, S, D]; chosen, weights: [B, S, k].
      gate, up: [E, D, F]; down: [E, F, D].
      model_axis, wide_axis: mesh axes over which D and F are split, inside of `shard_map`; None: whole.

    Returns:
      [B, S, D], in x's dtype.
    """
    chex.assert_rank([x, chosen, weights, gate, up, down], 3)
    per_token = chosen.shape[-1]
    order = jnp.argsort(chosen.ravel(), stable=True)  # of the N · k pairs of a token and an expert
    sizes = jnp.bincount(chosen.ravel(), length=gate.shape[0]).astype(jnp.int32)
    grouped = x.reshape(-1, x.shape[-1])[order // per_token]

    def into(matrix):
        if model_axis is None:
            return jax.lax.ragged_dot(grouped, matrix, sizes)
        y = jax.lax.ragged_dot(grouped, matrix, sizes, preferred_element_type=jnp.float32)
        return jax.lax.psum(y, model_axis).astype(x.dtype)

    out = jax.lax.ragged_dot(activation(into(gate)) * into(up), down, sizes)[jnp.argsort(order)]
    out = (out.reshape(*chosen.shape, -1).astype(jnp.float32) * weights[..., None]).sum(axis=-2)
    return (out if wide_axis is None else jax.lax.psum(out, wide_axis)).astype(x.dtype)


def mixture_on(mesh: Mesh, x: jax.Array, chosen: jax.Array, weights: jax.Array, gate: jax.Array, up: jax.Array,
               down: jax.Array, activation: Callable) -> jax.Array:
    """`mixture` with every collective written out: no compiler knows how to split grouped products.

    With whole sequences the matrices are gathered over `fsdp` for the device's own rows, with one new
    token a row they stay where they lie (`sharding.DECODE_RULES`).
    """
    rules = DECODE_RULES if x.shape[1] == 1 else RULES
    rows, _, model = tokens = partition(('rows', None, 'width'), x.shape, mesh, rules)
    wide, = partition(('mlp',), gate.shape[-1:], mesh)
    into, out_of = PartitionSpec(None, model, wide), PartitionSpec(None, wide, model)
    routes = PartitionSpec(rows)

    def local(*arrays):
        return mixture(*arrays, activation, model_axis=model, wide_axis=wide)

    return jax.shard_map(local, mesh=mesh, in_specs=(tokens, routes, routes, into, into, out_of),
                         out_specs=tokens)(x, chosen, weights, gate, up, down)


class Experts(nn.Module):
    """The matrices of all experts: gate and up [E, D, F], down [E, F, D]."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x, chosen, weights, activation):
        """x [B, S, D], chosen and weights [B, S, k] → [B, S, D]."""
        config = self.config
        wide, narrow = config.intermediate_size, config.hidden_size
        init = nn.initializers.lecun_normal(batch_axis=(0,))

        def matrix(name, fan_in, fan_out, axes):
            axes = ('experts', *axes)
            value = self.param(name, nn.with_logical_partitioning(init, axes), (config.num_experts, fan_in, fan_out))
            return value.astype(config.dtype)

        gate = matrix('gate', narrow, wide, ('embed', 'mlp'))
        up = matrix('up', narrow, wide, ('embed', 'mlp'))
        down = matrix('down', wide, narrow, ('mlp', 'embed'))

        mix = mixture if config.mesh is None else functools.partial(mixture_on, config.mesh)
        return mix(x, chosen, weights, gate, up, down, activation)


class SparseFeedForward(nn.Module):
    """A router and its experts, in place of a dense feed-forward network: x [B, S, D] → [B, S, D]."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x, activation):
        config = self.config
        # In float32: a rounded logit may send a token to another expert.
        logits = Projection(config.num_experts, ('embed', 'experts'), jnp.float32, name='router')(x)
        return Experts(config, name='experts')(x, *route(logits, config.experts_per_token), activation)
