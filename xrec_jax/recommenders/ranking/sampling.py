"""Random orders and negatives, drawn on the device."""

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
    rank = jax.random.randint(key, user.shape, 0, jnp.maximum(free, 1))

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        below = (low < high) & (positives.gap[middle] <= rank)
        return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    low, _ = jax.lax.fori_loop(0, positives.steps, halve, (first, stop))
    return jnp.where(free > 0, rank + low - first, -1)


def shuffled(key: jax.Array, size: int) -> jax.Array:
    """int32 [size]: 0, 1, … in a random order.

    `jax.random.permutation` sorts twice, which for 100,000 on a CPU takes 100 ms, several times as long as all
    else in an epoch. Above 4,096 this takes [0, 2^m) through a bijection with a random key (8 rounds of
    multiply, add, shift and xor) and drops what is not below `size` (Mitchell et al. 2022, "Bandwidth-optimal
    random shuffling for GPUs").
    """
    if size <= 4096:
        return jax.random.permutation(key, size).astype(jnp.int32)
    bits = (size - 1).bit_length()
    number = jnp.arange(1 << bits, dtype=jnp.uint32)
    for factor, shift in jax.random.bits(key, (8, 2), jnp.uint32):
        number = (number * (factor | 1) + shift) & jnp.uint32((1 << bits) - 1)
        number ^= number >> (bits // 2)
    stays = number < size
    place = jnp.where(stays, jnp.cumsum(stays) - 1, size)
    return jnp.zeros(size, jnp.int32).at[place].set(number.astype(jnp.int32), mode='drop', unique_indices=True)
