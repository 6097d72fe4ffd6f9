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
    rank = jax.random.randint(key, user.shape, 0, jnp.maximum(free, 1))

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        below = (low < high) & (positives.gap[middle] <= rank)
        return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    low, _ = jax.lax.fori_loop(0, positives.steps, halve, (first, stop))
    return jnp.where(free > 0, rank + low - first, -1)
