"""DCN (Wang et al. 2017): cross layers beside an MLP.

  x_0 = [v_1; ...; v_F]
  x_{l+1} = x_0 (x_l^T w_l) + b_l + x_l              (eq. 3) l = 0 .. L-1, x_l^T w_l is one number
  logit = <w, [x_L; MLP([x_0; z])]> + b              (eq. 5) z: the explanations' features

Features z go to the MLP alone: they are far wider than x_0, and explanations are no ids to be crossed. Easy
to get wrong: the product is with x_0, not x_l; the residual is x_l, not x_0; and b_l stands outside of the
product (in DCNv2 it stands inside). With b = 0, x_L is x_0 times a number.

The paper searches for its layers, for ads of 39 fields and embeddings of 6 n^(1/4) dimensions; the defaults
are RecBole 1.2.1's (6 cross layers as in the paper's best model). The MLP is batch-normalised, as in the paper
(section 4.2) and RecBole: `batch_norm`. RecBole starts w_l from a unit normal distribution and holds it down by
a penalty of 2 sum_l |w_l|, which is in neither the paper (it found no regularisation to help) nor here: w_l
has a variance of 1/D.
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


class DCN(BatchNormPredictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations."""

    mlp: Sequence[int] = (256, 256, 256)
    cross_layers: int = 6

    def __post_init__(self):
        super().__post_init__()
        if self.cross_layers < 1:
            raise UserError(f'cross_layers={self.cross_layers}: DCN needs at least 1.')

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Logits [B] of ids [B, F], attributes [B, A] and explanations [B, K, d]; `history` is not looked at."""
        chex.assert_rank([ids, attributes], 2)
        x0 = self.embeddings(ids, attributes).reshape(len(ids), -1)  # [B, D], D = F' E
        hidden = Dropout(self.dropout, deterministic=not train)(x0)
        hidden = jnp.concatenate([hidden, self.texts(text, len(ids), train)], axis=-1)
        return self.out(jnp.concatenate([self.cross(x0), self.deep(hidden, train)], axis=-1))

    def cross(self, x0: jax.Array) -> jax.Array:
        """x_L [B, D] of x_0 [B, D]."""
        x = x0
        for n in range(self.cross_layers):
            product = dense(1, ('embed', None), f'cross_{n}', use_bias=False)(x)  # [B, 1]
            bias = self.param(f'cross_{n}_bias', nn.with_logical_partitioning(nn.initializers.zeros, ('embed',)),
                              x0.shape[-1:])
            x = x0 * product + bias + x
        return x
