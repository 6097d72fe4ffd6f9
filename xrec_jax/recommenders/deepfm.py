"""DeepFM (Guo et al. 2017), with explanations as further features (ExpCTR, Yu et al., eq. 12).

  logit = w0 + sum_f w_f  +  sum_{f<g} <v_f, v_g>  +  MLP([v_1; ...; v_F; z])
          first order        FM second order          deep part

Field f of a user or item is one id of a shared vocabulary with weight w_f and embedding v_f; the
multi-valued field (the item's attributes) has the mean of its values' weights and embeddings. An
absent value (id 0) counts as zeros. FM's pairs cost O(F E) by (|sum v|^2 - sum |v|^2) / 2.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp


class DeepFM(nn.Module):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations.

    Explanations z enter beside the hidden representation h = [v_1; ...; v_F], before the MLP
    (eq. 12). Encoders differ in scale and their vectors are far wider than the ids' embeddings, so
    each is scaled to a root mean square of 1 and, with `text_projection`, brought to that many
    dimensions. Neither has a bias: zero vectors stay zero, so no explanation, the ablation of
    eq. 13, is exactly z = 0.
    """

    vocab_size: int
    embed_dim: int = 10
    mlp: Sequence[int] = (64, 32)
    dropout: float = 0.2
    text_dim: int = 0         # d of an encoded explanation; 0 = the model has no place for any
    num_texts: int = 1        # K explanations a row
    text_projection: int = 0  # dimensions after the projection; 0 = as the encoder made them
    text_projection_dropout: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, 'mlp', tuple(self.mlp))  # a config's list cannot be hashed
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None, *,
                 train: bool = False) -> jax.Array:
        """Returns logits [B].

        Args:
          ids: int32 [B, F], users' and items' fields side by side; 0 = absent.
          attributes: int32 [B, A], one multi-valued field, 0 = pad; A = 0 means no such field.
          text: [B, K, d] with K = `num_texts`, d = `text_dim`; zero rows mean no explanation and
            None means zeros everywhere.
          train: with dropout (needs the 'dropout' key).
        """
        chex.assert_rank([ids, attributes], 2)
        batch = ids.shape[0]
        logical = nn.with_logical_partitioning
        embedding = self.param('embedding', logical(nn.initializers.normal(0.01), ('vocab', 'embed')),
                               (self.vocab_size, self.embed_dim))
        weight = self.param('weight', logical(nn.initializers.zeros, ('vocab',)), (self.vocab_size,))
        bias = self.param('bias', nn.initializers.zeros, ())

        present = (ids > 0).astype(jnp.float32)                          # [B, F]
        v, w = embedding[ids] * present[..., None], weight[ids] * present
        if attributes.shape[1]:
            share = (attributes > 0).astype(jnp.float32)                 # [B, A]
            share /= jnp.maximum(share.sum(-1, keepdims=True), 1)
            mean_v = jnp.einsum('BA,BAE->BE', share, embedding[attributes])
            v = jnp.concatenate([v, mean_v[:, None]], axis=1)
            w = jnp.concatenate([w, (share * weight[attributes]).sum(-1, keepdims=True)], axis=1)

        first_order = bias + w.sum(-1)
        second_order = 0.5 * (jnp.square(v.sum(1)) - jnp.square(v).sum(1)).sum(-1)

        hidden = nn.Dropout(self.dropout, deterministic=not train)(v.reshape(batch, -1))
        if self.text_dim:
            hidden = jnp.concatenate([hidden, self._text(text, batch, train)], axis=-1)
        elif text is not None:
            raise ValueError('text features for a DeepFM without a place for them: set text_dim')
        for n, width in enumerate(self.mlp):
            hidden = _dense(width, ('embed' if n == 0 else None, 'mlp'), f'mlp_{n}')(hidden)
            hidden = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(hidden))
        return first_order + second_order + _dense(1, ('mlp', None), 'mlp_out')(hidden)[:, 0]

    def _text(self, text: jax.Array | None, batch: int, train: bool) -> jax.Array:
        """Explanations [B, K, d] as features [B, K * d']; zeros for zeros."""
        shape = (batch, self.num_texts, self.text_dim)
        text = jnp.zeros(shape, jnp.float32) if text is None else text.astype(jnp.float32)
        chex.assert_shape(text, shape)
        text *= jax.lax.rsqrt(jnp.mean(jnp.square(text), -1, keepdims=True) + 1e-12)
        if self.text_projection:
            text = _dense(self.text_projection, (None, 'mlp'), 'text_projection', bias=False)(text)
        text = nn.Dropout(self.text_projection_dropout, deterministic=not train)(text)
        return text.reshape(batch, -1)


def _dense(width: int, axes: tuple[str | None, str | None], name: str, bias: bool = True) -> nn.Dense:
    logical = nn.with_logical_partitioning
    return nn.Dense(width, use_bias=bias, name=name,
                    kernel_init=logical(nn.initializers.lecun_normal(), axes),
                    bias_init=logical(nn.initializers.zeros, axes[1:]))
