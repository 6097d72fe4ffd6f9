"""PNN (Qu et al. 2016): products of the fields' embeddings between the embeddings and the MLP.

  logit = MLP([v_1; ...; v_F; p; z])
  p = [<v_f, v_g> for f < g]             inner products, IPNN
  p = vec(s s^T),  s = sum_f v_f         outer products, OPNN, in superposition
  both: one after the other

The linear signal l_z and the quadratic l_p of the paper are this one product with the first layer's kernel;
z are the explanations' features. Inner products come pair by pair, each once, as in the authors' code and
RecBole 1.2.1 (the paper's rank-1 weights over all f, g, including f = g, are a case to save memory). The
outer product is the paper's, E^2 numbers; RecBole's `use_outer` is another one, a learned v_f^T K_fg v_g of
the authors' later kernel PNN. Easy to get wrong: dropping the linear signal, or concatenating all F x F
products, symmetric copies and squared norms included.

The defaults are RecBole's (IPNN alone): the paper names no widths of layers.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError
from xrec_jax.recommenders.predictor import History, Predictor


class PNN(Predictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations."""

    mlp: Sequence[int] = (128, 256, 128)
    dropout: float = 0.0
    inner: bool = True
    outer: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not (self.inner or self.outer):
            raise UserError('inner=False, outer=False: PNN needs inner or outer products, or both.')

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Logits [B] of ids [B, F], attributes [B, A] and explanations [B, K, d]; `history` is not looked at."""
        chex.assert_rank([ids, attributes], 2)
        v = self.embeddings(ids, attributes)
        hidden = [v.reshape(len(ids), -1)]
        if self.inner:
            hidden.append(inner_products(v))
        if self.outer:
            hidden.append(outer_product(v))
        hidden = Dropout(self.dropout, deterministic=not train)(jnp.concatenate(hidden, axis=-1))
        hidden = jnp.concatenate([hidden, self.texts(text, len(ids), train)], axis=-1)
        return self.out(self.deep(hidden, train))


def inner_products(v: jax.Array) -> jax.Array:
    """<v_f, v_g> for f < g of v [B, F, E]: [B, F (F - 1) / 2], in the order 01, 02, ..., 12, ..."""
    f, g = np.triu_indices(v.shape[1], k=1)
    return jnp.einsum('BFE,BGE->BFG', v, v)[:, f, g]


def outer_product(v: jax.Array) -> jax.Array:
    """s s^T with s = sum_f v_f of v [B, F, E], row by row: [B, E^2]."""
    s = v.sum(1)
    return jnp.einsum('BD,BE->BDE', s, s).reshape(len(v), -1)
