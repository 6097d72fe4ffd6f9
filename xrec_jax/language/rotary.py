"""Rotary positions (Su et al. 2021, arXiv 2104.09864), with the scalings of LLaMA checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.language.config import DecoderConfig


def rope_frequencies(config: DecoderConfig) -> np.ndarray:
    """Angular frequency of each rotary pair, float32 [head_dim / 2]."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
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


def rotate(x: jax.Array, positions: jax.Array, frequencies: np.ndarray) -> jax.Array:
    """Rotates x [B, heads, S, d] by its positions [B, S]; halves paired as (i, i + d/2)."""
    # float32 throughout: bfloat16 rounds position 257 to 256.
    angles = positions[:, None, :, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
