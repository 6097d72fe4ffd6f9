"""Negatives: items that a user has not met, drawn on the device."""

import jax
import jax.numpy as jnp

from xrec_jax.recommenders.ranking.data import Positives


def draw_negatives(key: jax.Array, positives: Positives, user: jax.Array, num_items: int) -> jax.Array:
    """int32 of the shape of `user`: for each an item, uniform over those that are no positive of that user.

    Without rejection: r is drawn from the I - n items that are free, and the r-th free item is r + j, j being
    the number of positives with fewer than r + 1 free items below them. -1 where no item is free.
    """
    first, stop = positives.start[user], positives.start[user + 1]
    free = num_items - (stop - first)
    rank = _below(jax.random.bits(key, user.shape, jnp.uint32), free)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        below = (low < high) & (positives.gap[middle] <= rank)
        return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    low, _ = jax.lax.fori_loop(0, positives.steps, halve, (first, stop))
    return jnp.where(free > 0, rank + low - first, -1)


def _below(bits: jax.Array, size: jax.Array) -> jax.Array:
    """int32: floor(bits · size / 2^32), uniform bits → uniform below `size`, but for size / 2^32.

    In halves of 16 bits, as there are no 64; half the random bits that `jax.random.randint` asks for.
    """
    high, low = bits >> 16, bits & 0xFFFF
    size_high, size_low = size.astype(jnp.uint32) >> 16, size.astype(jnp.uint32) & 0xFFFF
    middle = high * size_low + (low * size_low >> 16)  # below 2^32 - 2^16
    middle, carry = low * size_high + (middle & 0xFFFF), middle >> 16
    return (high * size_high + carry + (middle >> 16)).astype(jnp.int32)
