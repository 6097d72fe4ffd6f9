"""Dropout (Srivastava et al. 2014) by a hash of the position, an order of magnitude cheaper than by threefry.

On CPU threefry's bits were a third of a small predictor's training step, and they cannot be fused with what uses
them. Here a value's decision is a hash of its index and the key: a few integer operations that XLA fuses into the
multiplication itself. The key still comes from threefry, so masks of different steps and layers are independent.
"""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """x / (1 - rate) where kept, else 0, each value by its own decision; x itself when `deterministic`.

    Takes its key from the 'dropout' stream, as flax's `nn.Dropout` does.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[...] → [...]"""
        if self.deterministic or self.rate == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        kept = hashed_bits(self.make_rng('dropout'), x.shape) >= jnp.uint32(round(self.rate * 2**32))
        return jnp.where(kept, x / (1 - self.rate), 0)


def hashed_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 of `shape`: murmur3's finaliser of the index, twice, each with a word of the key.

    For dropout, not for cryptography. Within one key all words differ (the hash is a bijection), so it wants arrays
    of well below 2^32 values.
    """
    index = sum(jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(math.prod(shape[axis + 1:]) % 2**32)
                for axis in range(len(shape)))
    first, second = jax.random.key_data(key).reshape(-1)[:2]
    return _mixed(_mixed(index ^ first) + second)


def _mixed(x: jax.Array) -> jax.Array:
    """MurmurHash3's `fmix32` (Appleby 2011)."""
    x = (x ^ x >> 16) * jnp.uint32(0x85EBCA6B)
    x = (x ^ x >> 13) * jnp.uint32(0xC2B2AE35)
    return x ^ x >> 16
