"""What predictors are trained on and asked about: rows on the device, and what a model is called with for them.

  Rows       N pairs of user and item, each with its label, explanations, history
  make_rows  from the examples of a dataset
  inputs     a model's arguments for some rows
  split      rows spread over a mesh
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from xrec_jax.data import protocols
from xrec_jax.parallel.sharding import constrain
from xrec_jax.recommenders.fields import Fields
from xrec_jax.recommenders.predictor import History, Predictor


@functools.partial(jax.tree_util.register_dataclass,
                   data_fields=['user', 'item', 'label', 'text', 'history', 'history_liked', 'context', 'words'],
                   meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Rows:
    """What a predictor is trained on or asked: N pairs, each with its explanations or zeros."""

    user: jax.Array         # int32 [N], row in the users table
    item: jax.Array         # int32 [N], row in the items table
    label: jax.Array        # float32 [N], 0 or 1; of ratings the place on their scale, 0 to 1
    text: jax.Array | None  # float32 [N, K, d]; None = no explanations
    history: jax.Array | None = None        # int32 [N, L], rows in the items table, -1 pads; None = not wanted
    history_liked: jax.Array | None = None  # bool [N, L]
    context: jax.Array | None = None        # float32 [N, C], of the moment: `data.context`; None = not wanted
    words: jax.Array | None = None          # int32 [N, T], of a text on the pair: `words.encode`; None = not wanted


def make_rows(examples: protocols.Examples, text: np.ndarray | None = None, index: np.ndarray | None = None, *,
              history: bool = False, context: np.ndarray | None = None, words: np.ndarray | None = None,
              scale: tuple[float, float] | None = None) -> Rows:
    """Rows on the device from `examples`.

    Args:
      text: [N, K, d], the explanations; `index` [N] picks (and repeats) examples, one for each of them.
      history: whether to hand in what came before the target, for models that look at it.
      context: `data.context.context_features` of the examples, for models that look at it.
      words: int [N, T] of the examples, for models that learn from them; what is only asked about has none.
      scale: of the ratings: the label is the rating's place on it, from 0 to 1. None: the label is the like.
    """
    index = np.arange(len(examples.user)) if index is None else index
    if text is not None and (text.ndim != 3 or len(text) != len(index)):
        raise ValueError(f'text {text.shape} for {len(index)} rows: must be [N, K, d]')
    label = examples.label if scale is None else (examples.rating - scale[0]) / (scale[1] - scale[0])
    items, liked = examples.past.padded(index) if history else (None, None)
    return Rows(user=jnp.asarray(examples.user[index], jnp.int32),
                item=jnp.asarray(examples.item[index], jnp.int32),
                label=jnp.asarray(label[index], jnp.float32),
                text=None if text is None else jnp.asarray(text, jnp.float32),
                history=None if items is None else jnp.asarray(items),
                history_liked=None if liked is None else jnp.asarray(liked),
                context=None if context is None else jnp.asarray(context[index], jnp.float32),
                words=None if words is None else jnp.asarray(words[index], jnp.int32))


def inputs(model: Predictor, fields: Fields, rows: Rows) -> tuple[Any, ...]:
    """What `model` is called with: ids int32 [B, Fu + Fi], attributes int32 [B, A], text, history; and, if it learns
    from them, words."""
    ids = jnp.concatenate([fields.user_fields[rows.user], fields.item_fields[rows.item]], axis=1)
    history = None
    if model.uses_history:
        mask = rows.history >= 0
        past = jnp.maximum(rows.history, 0)
        history = History(ids=jnp.where(mask[..., None], fields.item_fields[past], 0),
                          attributes=jnp.where(mask[..., None], fields.item_attributes[past], 0),
                          liked=rows.history_liked, mask=mask, context=rows.context)
    inputs = ids, fields.item_attributes[rows.item], rows.text, history
    return (*inputs, rows.words) if model.uses_words else inputs


def split(rows: Rows, mesh: Mesh | None) -> Rows:
    """A batch, its rows spread over the mesh."""
    return jax.tree.map(lambda x: constrain(x, ('batch', *(None,) * (x.ndim - 1)), mesh), rows)
