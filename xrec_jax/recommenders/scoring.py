"""What predictors say of rows, in blocks, so that memory does not grow with their number.

  logits            of any rows, over a mesh too
  predict           scores; `predict_of_seeds` those of several parameters at once
  attention         the weights that a model reads its inputs with
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xrec_jax.recommenders.fields import Fields
from xrec_jax.recommenders.predictor import Predictor
from xrec_jax.recommenders.rows import Rows, inputs, split


@functools.partial(jax.jit, static_argnames=('model',))
def predict(model: Predictor, params: Any, fields: Fields, rows: Rows) -> jax.Array:
    """Scores s = sigmoid(logit), float32 [N]: of clicks, or places on the scale of ratings.

    With `rows.text` None, ExpCTR eq. 13's ablation.
    """
    return jax.nn.sigmoid(logits(model, params, fields, rows))


@functools.partial(jax.jit, static_argnames=('model',))
def predict_of_seeds(model: Predictor, params: Any, fields: Fields, rows: Rows) -> jax.Array:
    """`predict` of stacked params: [S, N]."""
    return jax.vmap(lambda params: predict(model, params, fields, rows))(params)


@functools.partial(jax.jit, static_argnames=('model',))
def attention(model: Predictor, params: Any, fields: Fields, rows: Rows) -> jax.Array:
    """alpha [N, I, I] of a model that sows its attention, as RecPIE's rating network does."""

    def apply(rows):
        _, seen = model.apply({'params': params}, *inputs(model, fields, rows), mutable=['intermediates'])
        return seen['intermediates']['attention'][0]

    return _in_blocks(apply, rows, 4096)


def logits(model: Predictor, params: Any, fields: Fields, rows: Rows, mesh: Mesh | None = None, block: int = 4096):
    """Logits [N], `block` rows at a time, so that memory does not grow with N."""
    apply = lambda rows: model.apply({'params': params}, *inputs(model, fields, split(rows, mesh)))
    return _in_blocks(apply, rows, block)


def _in_blocks(apply: Callable[[Rows], jax.Array], rows: Rows, block: int) -> jax.Array:
    """`apply` of N rows, at most `block` at a time: its results [N, ...]."""
    num_rows = rows.user.shape[0]
    num_blocks = -(-num_rows // block)
    block = -(-num_rows // num_blocks)  # of even sizes: less is filled up
    pad = num_blocks * block - num_rows

    def blocks(x):
        return jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1)).reshape(num_blocks, block, *x.shape[1:])

    result = jax.lax.map(apply, jax.tree.map(blocks, rows))
    return result.reshape(-1, *result.shape[2:])[:num_rows]
