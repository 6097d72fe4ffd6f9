"""Factorization machine (Rendle 2010) over fields, of degree 2.

  logit = w0 + sum_f w_f + <w_z, z>  +  sum_{f<g} <v_f, v_g>
          first order, as in LR         second order

Each pair of fields counts once and no field is paired with itself: that is what the half and the
subtracted squares of `pairs` are for. An absent field has v_f = 0 and so no pairs. Explanations z enter
linearly: they are no field, and have no v. `mlp` and `dropout` have no say. `embed_dim` is 10 as in
RecBole 1.2.1; the paper gives no number. In first order RecBole adds up the weights of a multi-valued field,
of which LR and FM here take the mean (in Rendle's figure 1 the values of a set sum to 1); v is the mean in both.
"""

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.recommenders.lr import LR
from xrec_jax.recommenders.predictor import History


class FM(LR):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations."""

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Logits [B] of ids [B, F], attributes [B, A] and explanations [B, K, d]; `history` is not looked at."""
        chex.assert_rank([ids, attributes], 2)
        return self.first_order(ids, attributes, text, train) + pairs(self.embeddings(ids, attributes))


def pairs(v: jax.Array) -> jax.Array:
    """sum_{f<g} <v_f, v_g> of v [B, F, E], [B], in O(F E): (|sum_f v_f|^2 - sum_f |v_f|^2) / 2 (Rendle's Lemma 3.1)."""
    chex.assert_rank(v, 3)
    return 0.5 * (jnp.square(v.sum(1)) - jnp.square(v).sum(1)).sum(-1)
