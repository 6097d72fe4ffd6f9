"""Attention of grouped queries over a key-value cache.

Einsum letters: b batch, k kv head, g query heads of one kv head, t query slot, T key slot,
d head dim. The cache is head-major, [layers, B, K, T, d]: each head's keys lie together, which
attends several times faster on CPU than sequence-major.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

# Attention scores of masked slots; finite, so that a row of pure padding stays finite.
MASKED = -1e30


@flax.struct.dataclass
class Cache:
    """Keys and values of the slots written so far, each [layers, B, kv heads, T, head dim]; or of one layer alone,
    without the first axis."""

    k: jax.Array
    v: jax.Array

    def grown(self, num_slots: int) -> 'Cache':
        """The same cache with `num_slots` empty slots behind it."""
        pad = [(0, 0)] * (self.k.ndim - 2) + [(0, num_slots), (0, 0)]
        return Cache(jnp.pad(self.k, pad), jnp.pad(self.v, pad))

    def repeated(self, count: int) -> 'Cache':
        """The same cache with each row `count` times, one after the other."""
        return Cache(jnp.repeat(self.k, count, axis=-4), jnp.repeat(self.v, count, axis=-4))

    def updated(self, k: jax.Array, v: jax.Array, layer: jax.Array, slot: jax.Array) -> 'Cache':
        """With keys and values [B, kv heads, S, head dim] of `layer` written from `slot` on."""
        return Cache(_write(self.k, k, layer, slot), _write(self.v, v, layer, slot))

    def layer(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, [B, kv heads, T, head dim]."""
        if self.k.ndim == 4:
            return self.k, self.v
        return (jax.lax.dynamic_index_in_dim(self.k, layer, keepdims=False),
                jax.lax.dynamic_index_in_dim(self.v, layer, keepdims=False))


def by_layer(change: Callable[[Cache], Cache], cache: Cache | tuple[Cache, ...]) -> Cache | tuple[Cache, ...]:
    """`change` of a cache of all layers, or of each of a tuple of one for each layer."""
    return tuple(map(change, cache)) if isinstance(cache, tuple) else change(cache)


def _write(cache: jax.Array, new: jax.Array, layer: jax.Array, slot: jax.Array) -> jax.Array:
    new, at = new.astype(cache.dtype), (0, 0, slot, 0)
    if cache.ndim == 4:
        return jax.lax.dynamic_update_slice(cache, new, at)
    return jax.lax.dynamic_update_slice(cache, new[None], (layer, *at))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention, in float32 where it matters.

    Args:
      q: [B, heads, S, d]; k, v: [B, kv heads, T, d]. Query head h reads kv head h // (heads / kv heads).
      mask: bool [B, S, T], which slots each query may see.

    Returns:
      [B, heads, S, d], in v's dtype.
    """
    batch, heads, length, head_dim = q.shape
    q = q.reshape(batch, k.shape[1], -1, length, head_dim)
    scores = jnp.einsum('bkgtd,bkTd->bkgtT', q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum('bkgtT,bkTd->bkgtd', weights, v).reshape(batch, heads, length, head_dim)
