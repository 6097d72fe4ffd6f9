"""DeepFM (Guo et al. 2017), with explanations as further features (ExpCTR, Yu et al., eq. 12).

  logit = w0 + sum_f w_f  +  sum_{f<g} <v_f, v_g>  +  MLP([v_1; ...; v_F; z])
          first order        FM second order          deep part

The deep part is (64, 32) wide, for ExpCTR's small data sets. The paper has (400, 400, 400) and dropout 0.5 for
45 million rows of Criteo; RecBole 1.2.1 has (128, 128, 128) and dropout 0.2, and differs otherwise only in adding
up the first-order weights of a multi-valued field, whose mean is taken here.
"""

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.recommenders import fm
from xrec_jax.recommenders.predictor import History, Predictor


class DeepFM(Predictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations."""

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B].

        Args:
          ids: int32 [B, F], users' and items' fields side by side; 0 = absent.
          attributes: int32 [B, A], one multi-valued field, 0 = pad; A = 0 means no such field.
          text: [B, K, d] with K = `num_texts`, d = `text_dim`; zero rows mean no explanation and
            None means zeros everywhere.
          history: not looked at.
          train: with dropout (needs the 'dropout' key).
        """
        chex.assert_rank([ids, attributes], 2)
        v, w = self.embeddings(ids, attributes), self.weights(ids, attributes)
        first_order = self.bias() + w.sum(-1)
        second_order = fm.pairs(v)

        hidden = Dropout(self.dropout, deterministic=not train)(v.reshape(len(ids), -1))
        hidden = jnp.concatenate([hidden, self.texts(text, len(ids), train)], axis=-1)
        return first_order + second_order + self.out(self.deep(hidden, train))
