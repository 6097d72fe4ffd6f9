"""A matrix of the decoder, with an optional LoRA pair beside it; and its product with few rows on CPU."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from xrec_jax.dropout import Dropout
from xrec_jax.language import quantize

PROJECTION = 'projection'  # name of all results, for `jax.checkpoint`: see `DecoderConfig.remat`
TRANSPOSED = 'transposed'  # W^T [out, in] in place of `kernel`: see `stepping.transposed`
FEW = 32  # rows at most for which the matrix is put on the left of the product


class Projection(nn.Module):
    """y = x W (+ b) (+ dropout(x) A B · scale where the `lora` collection holds A and B for this matrix).

    W may be integers with a scale for each output (`quantize.py`). Nothing is dropped unless `apply` is given a
    'dropout' rng.
    """

    features: int
    axes: tuple[str, str]  # logical names of (input, output)
    dtype: Any
    use_bias: bool = False
    lora_scale: float = 1.0
    lora_dropout: float = 0.0

    @nn.compact
    def __call__(self, x):
        if self.has_variable('params', TRANSPOSED):
            y = times_transposed(x, self.get_variable('params', TRANSPOSED))
            return y + self.get_variable('params', 'bias') if self.use_bias else y
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), self.axes)
        kernel = self.param('kernel', init, (x.shape[-1], self.features))
        scale = self.get_variable('params', quantize.SCALE)
        if not self.has_variable('lora', 'a'):
            y = quantize.matmul(x, kernel, scale, self.dtype)
        else:
            a, b = self.get_variable('lora', 'a'), self.get_variable('lora', 'b') * self.lora_scale
            dropout = self.lora_dropout > 0 and self.has_rng('dropout')
            # Many tokens: one product with the sum, where the sum is not rounded to what the base is stored in.
            many = x.size // x.shape[-1] > min(kernel.shape)
            if many and not dropout and scale is None and kernel.dtype == self.dtype == jnp.float32:
                y = _merged(x, kernel, a, b)
            else:
                y = quantize.matmul(x, kernel, scale, self.dtype)
                if dropout:
                    x = Dropout(self.lora_dropout, deterministic=False)(x)
                y = y + _low_rank(x, a.astype(self.dtype), b.astype(self.dtype))
        if self.use_bias:
            bias = self.param('bias', nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]),
                              (self.features,))
            y = y + bias.astype(self.dtype)
        return checkpoint_name(y, PROJECTION)


def times_transposed(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x [..., in] times the transpose of [out, in]."""
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) > FEW:
        return jnp.einsum('...i,oi->...o', x, matrix)
    return product_of_transposed(matrix, rows).T.reshape(*x.shape[:-1], -1)


def product_of_transposed(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """W^T [out, in] x^T [in, B] of x [B, in]: [out, B].

    XLA on CPU packs the matrix on the right of a product, which takes longer than the product itself where that is the
    large one, and reads the one on the left as it lies.
    """
    # The barrier keeps XLA from turning the product around again.
    return jax.lax.optimization_barrier(jnp.einsum('oi,bi->ob', matrix, x))


# Gradients of A and B are products of a thin matrix and a wide one. Written out, so that it is the thin one that is
# transposed: as JAX derives them, XLA on CPU transposes the wide one, a tenth of a training step.


@jax.custom_vjp
def _low_rank(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """x [..., in] A [in, r] B [r, out]."""
    return (x @ a) @ b


def _low_rank_forward(x, a, b):
    return _low_rank(x, a, b), (x, a, b)


def _low_rank_backward(kept, dy):
    x, a, b = kept
    da, db, dyb = _thin(x, a, b, dy)
    return (dyb @ a.T).reshape(x.shape), da, db


_low_rank.defvjp(_low_rank_forward, _low_rank_backward)


@jax.custom_vjp
def _merged(x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """x [..., in] (W + A B)."""
    return x @ (kernel + a @ b)


def _merged_forward(x, kernel, a, b):
    return _merged(x, kernel, a, b), (x, kernel, a, b)


def _merged_backward(kept, dy):
    x, kernel, a, b = kept
    da, db, _ = _thin(x, a, b, dy)
    # XLA leaves the kernel's gradient out where it is frozen, and nobody asks for it.
    dkernel = x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
    return dy @ (kernel + a @ b).T, dkernel, da, db


_merged.defvjp(_merged_forward, _merged_backward)


def _thin(x, a, b, dy):
    """Gradients of A and B, and dy Bᵀ [N, r]."""
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dyb = dy @ b.T
    return (dyb.T @ x).T, (x @ a).T @ dy, dyb
