"""AutoInt (Song et al. 2019): multi-head self-attention over the fields, with the deep part of AutoInt+.

  e_m^0      = v_m
  a_mk^h     = softmax_k <W_Q^h e_m, W_K^h e_k>                   weight of field k for field m, head h
  e_m'       = ReLU([sum_k a_mk^1 W_V^1 e_k; ...] + W_R e_m)      one interacting layer, all heads concatenated
  logit      = w^T [e_1; ...; e_F] + b  +  MLP([v_1; ...; v_F; z])  +  w0 + sum_f w_f

Explanations z go into the MLP, or without one beside the e of the last layer.

Easy to get wrong: the residual and the ReLU belong to every layer; inner products are not divided by sqrt(d');
the softmax runs over k; the projections have no bias. An absent field is a zero vector, as a query and as a key.
RecBole 1.2.1 has PyTorch's attention between two linear layers instead (scaled, with biases, 16 dimensions of both
heads together), a ReLU after the last of three layers only, and by default no residual at all.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.recommenders.predictor import History, Predictor, dense


class AutoInt(Predictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations.

    Layers, heads and d' are the paper's (section 5.1.4). The paper leaves open how wide the deep part is:
    RecBole's, as is the dropout. The paper's plain AutoInt is `mlp=()`, `linear=False`.
    """

    mlp: Sequence[int] = (128, 128)
    num_layers: int = 3
    num_heads: int = 2
    attention_dim: int = 32  # d' of one head; RecBole's `attention_size` is of all heads together
    linear: bool = True      # the first-order part w0 + sum_f w_f, which RecBole adds

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B]; arguments as `DeepFM` has them. `dropout` also acts on the attention weights."""
        chex.assert_rank([ids, attributes], 2)
        batch = len(ids)
        v = self.embeddings(ids, attributes)
        texts = self.texts(text, batch, train)

        fields = v
        for n in range(self.num_layers):
            fields = self._interact(fields, n, train)
        hidden = fields.reshape(batch, -1)
        if not self.mlp:
            hidden = jnp.concatenate([hidden, texts], axis=-1)
        logit = self.out(hidden, 'attention_out')
        if self.mlp:
            deep = Dropout(self.dropout, deterministic=not train)(v.reshape(batch, -1))
            logit += self.out(self.deep(jnp.concatenate([deep, texts], axis=-1), train))
        if self.linear:
            logit += self.bias() + self.weights(ids, attributes).sum(-1)
        return logit

    def _interact(self, fields: jax.Array, n: int, train: bool) -> jax.Array:
        """Interacting layer n: [B, F, D] → [B, F, heads * d']."""

        def project(name):
            return dense(self.num_heads * self.attention_dim, ('embed' if n == 0 else None, 'mlp'),
                         f'{name}_{n}', use_bias=False)(fields)

        def heads(x):  # [B, F, heads, d']
            return x.reshape(*x.shape[:2], self.num_heads, self.attention_dim)

        query, key, value = (heads(project(name)) for name in ('query', 'key', 'value'))
        weights = jax.nn.softmax(jnp.einsum('bmhd,bkhd->bhmk', query, key), axis=-1)
        weights = Dropout(self.dropout, deterministic=not train)(weights)
        mixed = jnp.einsum('bhmk,bkhd->bmhd', weights, value)
        return nn.relu(mixed.reshape(*fields.shape[:2], -1) + project('residual'))
