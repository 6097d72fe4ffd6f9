"""Statistics over the valid entries of an array: the only place where masked moments are taken.

`masked_mean`, `masked_var`, `whiten`, and `center` beneath them, share four promises:

- Nothing behind the mask counts, be it NaN or infinite, and no gradient flows there.
- An all-masked input gives 0, not NaN. One valid entry has variance 0, `unbiased` or not.
- Equal entries have a variance of exactly 0: values are taken relative to the smallest valid
  one before they are averaged, so rounding of the mean is not mistaken for spread.
- They are plain jnp over the array as given. Under `jit` with a batch sharded over devices or
  hosts that is the global batch, so figures do not depend on the number of devices.

Masks are boolean or 0/1 and have the shape of `x`. Results are float32.
"""

import chex
import jax
from jax import numpy as jnp

Axis = int | tuple[int, ...] | None


def center(x: chex.Array, mask: chex.Array, axis: Axis = None) -> tuple[chex.Array, chex.Array]:
    """Returns (mean of `x` where `mask` holds, x - mean), the latter 0 where masked.

    x, mask: any equal shape. The mean keeps the reduced axes with size 1, so that it broadcasts.
    """
    chex.assert_equal_shape([x, mask])
    mask = mask.astype(bool)
    x = jnp.where(mask, x.astype(jnp.float32), 0.0)
    lowest = jnp.min(x, axis=axis, keepdims=True, where=mask, initial=jnp.inf)
    offset = jax.lax.stop_gradient(jnp.where(_count(mask, axis) > 0, lowest, 0.0))
    relative = jnp.where(mask, x - offset, 0.0)
    relative_mean = _sum(relative, axis) / jnp.maximum(_count(mask, axis), 1)
    return offset + relative_mean, jnp.where(mask, relative - relative_mean, 0.0)


def masked_mean(x: chex.Array, mask: chex.Array, axis: Axis = None) -> chex.Array:
    """Returns the mean of `x` where `mask` holds, over `axis` (None: over everything).

    x, mask: any equal shape. Result: that shape without `axis`; 0 where nothing is valid.
    """
    mean, _ = center(x, mask, axis)
    return jnp.squeeze(mean, axis)


def masked_var(
    x: chex.Array, mask: chex.Array, axis: Axis = None, unbiased: bool = False
) -> chex.Array:
    """Returns the variance of `x` where `mask` holds, over `axis` (None: over everything).

    x, mask: any equal shape. Result: that shape without `axis`; 0 with fewer than two valid
    entries. By default the population variance (divided by n); `unbiased` divides by n - 1.
    """
    _, centered = center(x, mask, axis)
    count = _count(mask, axis) - (1 if unbiased else 0)
    return jnp.squeeze(_sum(centered**2, axis) / jnp.maximum(count, 1), axis)


def whiten(
    x: chex.Array, mask: chex.Array, shift_mean: bool = True, epsilon: float = 1e-8
) -> chex.Array:
    """Returns `x` scaled to unit variance over all its valid entries, and 0 where masked.

    x, mask: any equal shape, and so is the result.
    z = (x - mean) / sqrt(var + epsilon), population variance, one mean and variance for the
    whole array. `shift_mean=False` returns z + mean. The two uses (Ziegler et al., 2019,
    arXiv:1909.08593, and its code): advantages are whitened with the mean removed; rewards,
    where they are whitened per token, keep their mean, since its sign says if ending was good.
    """
    mean, centered = center(x, mask)
    z = centered * jax.lax.rsqrt(masked_var(x, mask) + epsilon)
    return z if shift_mean else jnp.where(mask.astype(bool), z + mean, 0.0)


def _count(mask: chex.Array, axis: Axis) -> chex.Array:
    return _sum(mask.astype(bool).astype(jnp.float32), axis)


def _sum(x: chex.Array, axis: Axis) -> chex.Array:
    return jnp.sum(x, axis=axis, keepdims=True)
