"""Rotary positions (Su et al. 2021, arXiv 2104.09864), with the scalings of published checkpoints."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from xrec_jax.language.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency scaling, or plain linear position scaling (`kind`)."""

    kind: str  # 'llama3' | 'linear'
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


def rope_frequencies(config: 'DecoderConfig') -> np.ndarray:
    """Angular frequency of each rotary pair, float32 [rotary dims / 2]."""
    rotary_dim = config.rotary_dim or config.head_dim
    exponent = np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim
    frequency = config.rope_theta**-exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequency.astype(np.float32)
    if scaling.kind == 'linear':
        return (frequency / scaling.factor).astype(np.float32)
    # Llama 3.1: long wavelengths are divided by `factor`, short ones kept, a ramp between.
    turns = scaling.original_max_position_embeddings * frequency / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (frequency * (kept + (1 - kept) / scaling.factor)).astype(np.float32)


def turns(positions: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine float32 [B, 1, S, n] of the angles of positions [B, S] at n frequencies: once for all layers."""
    # float32 throughout: bfloat16 rounds position 257 to 256.
    angles = positions[:, None, :, None].astype(jnp.float32) * frequencies
    # Without the barrier XLA computes them anew in each layer, head and use.
    return jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool = False) -> jax.Array:
    """Rotates the first dims of x [B, heads, S, d], two for each frequency, by the angles of `turns`.

    Pairs are (i, i + n) of the n frequencies, or (2 i, 2 i + 1) where `interleaved`; dims behind them stay.
    """
    turned, kept = jnp.split(x, [2 * cos.shape[-1]], axis=-1)
    axis = -1 if interleaved else -2  # of the two of a pair
    pairs = turned.astype(jnp.float32).reshape(*x.shape[:-1], *((-1, 2) if interleaved else (2, -1)))
    first, second = jnp.split(pairs, 2, axis=axis)
    # Sums of what is spread over both, not two halves put together, which takes XLA on CPU several times as long.
    pairs = first * jnp.stack([cos, sin], axis) + second * jnp.stack([-sin, cos], axis)
    return jnp.concatenate([pairs.reshape(turned.shape).astype(x.dtype), kept], axis=-1)
