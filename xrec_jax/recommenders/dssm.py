"""DSSM (Huang et al. 2013) as two towers over fields: the user's for the query, the item's for the document.

  y_u = MLP_u([v_f of the user's fields])            each layer: linear, tanh
  y_i = MLP_i([v_f of the item's fields; z])
  logit = gamma cos(y_u, y_i)

z, the explanations' features, enter the item tower; so does the multi-valued field. The paper puts gamma
cos(Q, D) into a softmax over documents and sets gamma on held-out data, without naming a number. RecBole
1.2.1 puts the bare cosine into a sigmoid, gamma = 1, and that is the default here: all scores then lie
within sigmoid(+-1) = 0.27 to 0.73, which costs LogLoss and RMSE even where the order (AUC) is good; gamma =
10 leaves 0.00005 to 0.99995. Layers, embeddings and dropout are RecBole's as well (the paper's 300-300-128
are for hashed words). RecBole also normalises each layer by batches, before its tanh; the paper is older than that,
and on ExpCTR's split of ML-100k nothing is learned so: `batch_norm`, off by default (validation LogLoss 0.692 ±
0.005 over five starts, without 0.650 ± 0.007).

Easy to get wrong: nothing of the item may reach the user tower, or the towers' outputs could no longer be
computed apart and indexed; the cosine is of the last layer *after* its tanh; and a vector of zeros has no
direction, so its cosine is 0 here, with a finite gradient, instead of 0/0.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError
from xrec_jax.recommenders.batch_norm import BatchNormPredictor
from xrec_jax.recommenders.predictor import History, dense


class DSSM(BatchNormPredictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations."""

    mlp: Sequence[int] = (256, 256, 256)  # of each tower
    dropout: float = 0.3                  # before each layer
    gamma: float = 1.0                    # the logit of cosine 1
    batch_norm: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not self.mlp:
            raise UserError('mlp=(): the towers of DSSM need at least one layer, so that both end in one space.')

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Logits [B] of ids [B, F], attributes [B, A] and explanations [B, K, d]; `history` is not looked at."""
        chex.assert_rank([ids, attributes], 2)
        v, z = self.embeddings(ids, attributes), self.texts(text, len(ids), train)
        user, item = v[:, :self.num_user_fields], v[:, self.num_user_fields:]  # attributes are the item's last field
        if not user.size or not (item.size or z.size):
            raise UserError('fields: DSSM compares a user with an item and needs fields of both, '
                            f'but {"the user" if not user.size else "the item"} has none.')
        return self.gamma * cosine(self.tower('user', user, z[:, :0], train), self.tower('item', item, z, train))

    def tower(self, name: str, v: jax.Array, z: jax.Array, train: bool) -> jax.Array:
        """y [B, mlp[-1]] of embeddings v [B, F, E] and features z [B, D]."""
        hidden = v.reshape(len(v), -1)
        for n, width in enumerate(self.mlp):
            hidden = Dropout(self.dropout, deterministic=not train)(hidden)
            if n == 0:  # z has a dropout of its own
                hidden = jnp.concatenate([hidden, z], axis=-1)
            hidden = dense(width, ('embed' if n == 0 else None, 'mlp'), f'{name}_mlp_{n}')(hidden)
            hidden = jnp.tanh(self.normalised(hidden, f'{name}_mlp_{n}_norm', train))
        return hidden


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """cos(x, y) [B] of x, y [B, D]; 0 where either is all zeros."""
    chex.assert_equal_shape([x, y])
    return jnp.sum(_unit(x) * _unit(y), axis=-1)


def _unit(x: jax.Array) -> jax.Array:
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))
