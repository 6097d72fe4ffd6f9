"""Frozen base weights as int8 or int4: a scale for each output channel, and integers in between.

    W[i, o] ≈ q[i, o] · scale[o],   q = round(W / scale),   scale[o] = max_i |W[i, o]| / 127 or 7 (or less: `clip`)

The integers stay what they are in memory; `matmul` turns them into the activations' type where it multiplies
(XLA fuses that) and scales the products, which are exact sums of what float weights q · scale would give. They lie
in the same pytree: `kernel` holds q and `kernel_scale`, beside it, the scales; so everything that maps over the
parameters (sharding, LoRA, `nn.scan`) meets two ordinary arrays. What is quantised is the matrices of the layers
and, if asked, the output head; embeddings, norms and biases stay.

What it costs, on the embedded model and 512 held-out stories (`bench/tune.py --only quality`): perplexity of a reason's
tokens 1.2455 in float32 (11.0 MiB), 1.2454 in int8 (4.3 MiB), 1.2466 in int4 (3.2 MiB; its embeddings stay); of whole
texts, from the first token on, 3.4356, 3.4357 and 3.4406.

Own lines, not `qwix`: version 0.1.8 found nothing to do in `x @ kernel` and said nothing about it; with the
product written as an einsum, its `quantize_params` took the scales of layers stacked by `nn.scan` over the
wrong axes ([1, in, 1] for a [layers, in, out] kernel), which `lax.scan` then refuses.
"""

import functools
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from xrec_jax.errors import UserError, nearest

KINDS = {'int8': jnp.int8, 'int4': jnp.int4}  # int4: two a byte on the device
SCALE = 'kernel_scale'  # beside `kernel`
HEAD, HEAD_SCALE = 'lm_head', 'lm_head_scale'
# Of the largest weight of a channel, what the largest integer stands for: tried in turn, the one of least squared
# error is kept. With 255 steps cutting off costs more than it gains, with 15 it does not.
CLIPS = {'int8': (1.0,), 'int4': (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)}


def matmul(x: jax.Array, kernel: jax.Array, scale: jax.Array | None, dtype: Any) -> jax.Array:
    """x [..., in] times a matrix [in, out] in `dtype`; integers [in, out] count `scale` [out] each, floats (None) 1."""
    if scale is None:
        return x @ kernel.astype(dtype)
    return (jnp.matmul(x, kernel.astype(dtype), preferred_element_type=jnp.float32) * scale).astype(dtype)


@functools.partial(jax.jit, static_argnames='kind')
def quantize_kernel(kernel: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
    """A matrix [..., in, out] as integers of its shape, and float32 scales [..., out]."""
    largest = 2 ** (jnp.iinfo(KINDS[kind]).bits - 1) - 1  # symmetric: −128 and −8 are left out
    weights = kernel.astype(jnp.float32)
    bound = jnp.max(jnp.abs(weights), axis=-2)

    def rounded(scale):
        steps = weights / jnp.where(scale == 0, 1, scale)[..., None, :]  # a channel of zeros: zeros
        return jnp.clip(jnp.round(steps), -largest, largest)

    def try_clip(best, clip):
        scale = bound * clip / largest
        error = jnp.sum((rounded(scale) * scale[..., None, :] - weights) ** 2, axis=-2)
        better = error < best[1]
        return (jnp.where(better, scale, best[0]), jnp.where(better, error, best[1])), None

    start = bound / largest, jnp.full_like(bound, jnp.inf)
    (scale, _), _ = jax.lax.scan(try_clip, start, jnp.array(CLIPS[kind]))
    return rounded(scale).astype(KINDS[kind]), scale


def dequantize_kernel(values: jax.Array, scale: jax.Array) -> jax.Array:
    """Integers [..., in, out] and their scales [..., out] as float32."""
    return values.astype(jnp.float32) * scale[..., None, :]


def quantize(params: dict, kind: str, targets: tuple[str, ...], head: bool = False) -> dict:
    """Base weights with the kernels of the projections `targets`, and the output head if asked, as integers.

    Every matrix keeps its place on the devices. UserError for an unknown kind, for weights that are integers
    already, and for sparse experts (their matrices are read in groups).
    """
    if kind not in KINDS:
        raise UserError(f'language.quantize="{kind}": should be "none" or one of {", ".join(KINDS)}.'
                        f'{nearest(kind, KINDS)}')
    result = {}
    for path, value in flax.traverse_util.flatten_dict(params).items():
        if 'experts' in path:
            raise UserError(f'language.quantize="{kind}": sparse experts cannot be quantised; use "none".')
        kernel = path[-1] == 'kernel' and path[-2] in targets
        if not (kernel or head and path == (HEAD,)):
            result[path] = value
            continue
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise UserError(f'{".".join(path)} is {value.dtype} already; quantise the original weights.')
        result[path], scale = quantize_kernel(value, kind)
        result[path[:-1] + (SCALE if kernel else HEAD_SCALE,)] = scale
    return flax.traverse_util.unflatten_dict(result)


def dequantize(params: dict) -> dict:
    """The float32 weights that quantised ones stand for, without scales; others as they are."""
    flat = flax.traverse_util.flatten_dict(params)
    result = {}
    for path, value in flat.items():
        if path[-1] in (SCALE, HEAD_SCALE):
            continue
        scale = flat.get(path[:-1] + ({'kernel': SCALE, HEAD: HEAD_SCALE}.get(path[-1]),))
        result[path] = value if scale is None else dequantize_kernel(value, scale)
    return flax.traverse_util.unflatten_dict(result)


def num_bytes(params: dict) -> int:
    """Bytes of the weights on the devices, two int4 in one."""
    return sum(leaf.size * jnp.iinfo(leaf.dtype).bits // 8 if jnp.issubdtype(leaf.dtype, jnp.integer)
               else leaf.nbytes for leaf in jax.tree.leaves(params))
