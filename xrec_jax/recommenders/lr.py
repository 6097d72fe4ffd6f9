"""Logistic regression on the fields (Richardson et al. 2007): a weight for each value.

  logit = w0 + sum_f w_f + <w_z, z>     z: the explanations' features, if `text_dim` is set

Nothing interacts, so explanations enter linearly too, and without a bias beside w0. There is no hidden
layer: `embed_dim`, `mlp` and `dropout` have no say. Easy to get wrong: an absent field weighs nothing,
whatever stands in row 0 of the table, and a multi-valued field weighs the mean of its values and not
their sum, or items with many genres would be liked for having many.
"""

import chex
from flax import linen as nn
import jax

from xrec_jax.recommenders.predictor import History, Predictor, dense


class LR(Predictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations."""

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Logits [B] of ids [B, F], attributes [B, A] and explanations [B, K, d]; `history` is not looked at."""
        chex.assert_rank([ids, attributes], 2)
        return self.first_order(ids, attributes, text, train)

    def first_order(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None, train: bool) -> jax.Array:
        """w0 + sum_f w_f + <w_z, z>, [B]."""
        logits = self.bias() + self.weights(ids, attributes).sum(-1)
        z = self.texts(text, len(ids), train)
        if self.text_dim:
            logits += dense(1, ('mlp', None), 'text_out', use_bias=False)(z)[:, 0]
        return logits
