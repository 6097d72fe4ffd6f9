"""RecPIE's rating network (Wang, Li, Chen 2025, section 2.2 and appendix D.5): reasons beside ids, weighed by attention.

  tokens   x_pos, x_neg    the encoded reasons why the user would, and why not       text[:, 0], text[:, 1]
           x_c, x_p        the consumer's fields, the product's fields
           x_seq           the state of a self-attention over the items consumed before
           x_context       item attributes, and `data.context`: the moment and the history's length
  each is projected to `width` dimensions: X [I, width], I = 6
  Q, K, V  = X W_Q, X W_K, X W_V
  alpha_ij = softmax_j <q_i, k_j> / sqrt(width)                 what token i reads of token j
  logit    = MLP([x_1 + sum_j alpha_1j v_j; ...; x_I + sum_j alpha_Ij v_j])
  mean_j   = 1/I sum_i alpha_ij                                 (eq. 11) the attention that a token gets

A reason that is not there (zeros: a network without text, or the ablation inside a reward) is no token: no other
looks at it. The paper leaves open the sequence's encoder (here one layer of SASRec's), the heads (one, so that alpha
is one matrix) and the MLP. The consumer's embedding is what the language model gets as soft prompt:
`consumer_embeddings`.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.recommenders.fields import Fields
from xrec_jax.recommenders.predictor import History, dense
from xrec_jax.recommenders.sasrec import Encoder
from xrec_jax.recommenders.sequences import SequencePredictor

TOKENS = ('pos', 'neg', 'consumer', 'product', 'sequence', 'context')


class RecPIE(SequencePredictor):
    """Predicts logits [B] of the rating's place on its scale, or of a click."""

    embed_dim: int = 32
    max_length: int = 20
    num_texts: int = 2       # positive and negative reason
    width: int = 64
    mlp: Sequence[int] = (64, 32)
    heads: int = 2           # of the sequence's encoder
    inner: int = 64
    use_liked: bool = False  # adds to an item of the history what the user thought of it; not in the paper
    context_dim: int = 0     # of `History.context`

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Logits [B] of ids [B, F], attributes [B, A], reasons [B, 2, d] and the history.

        Sows alpha [B, I, I] as 'attention' into the collection 'intermediates'.
        """
        chex.assert_rank([ids, attributes], 2)
        if history is None:
            raise ValueError('RecPIE looks at histories: make_rows(..., history=True)')
        batch = len(ids)
        users, target, past, mask = self.look_up(ids, attributes, history)
        if self.use_liked:
            liked = self.param('liked', nn.with_logical_partitioning(nn.initializers.normal(0.01), (None, 'embed')),
                               (2, self.embed_dim))
            past += liked[history.liked[:, -self.max_length:].astype(jnp.int32)] * mask[..., None]
        states = Encoder(True, self.embed_dim, self.max_length, 1, self.heads, self.inner, self.dropout, self.dropout,
                         1e-6, name='encoder')(past, mask, train, last=True)
        context = target if history.context is None else jnp.concatenate([history.context, target], axis=-1)
        reasons, written = self._reasons(text, batch)
        given = [users.reshape(batch, -1), target, states[:, -1], context]
        tokens = jnp.stack([*reasons, *(dense(self.width, ('embed', 'mlp'), f'project_{name}')(x)
                                        for name, x in zip(TOKENS[2:], given))], axis=1)
        present = jnp.concatenate([written, jnp.ones((batch, len(given)), bool)], axis=1)
        mixed = self._attend(tokens, present)
        return self.out(self.deep(mixed.reshape(batch, -1), train))

    def _reasons(self, text: jax.Array | None, batch: int) -> tuple[list[jax.Array], jax.Array]:
        """The reasons as tokens, two of [B, width], and bool [B, 2], whether there are any."""
        none = jnp.zeros((batch, self.num_texts, self.text_dim or 1), jnp.float32)
        text = none if text is None else text.astype(jnp.float32)
        chex.assert_shape(text, none.shape)
        written = jnp.any(text != 0, axis=-1)
        text *= jax.lax.rsqrt(jnp.mean(jnp.square(text), -1, keepdims=True) + 1e-12)
        if not self.text_dim:
            return [jnp.zeros((batch, self.width), jnp.float32)] * self.num_texts, written
        return [dense(self.width, (None, 'mlp'), f'project_{name}', use_bias=False)(text[:, n])
                for n, name in enumerate(TOKENS[:self.num_texts])], written

    def _attend(self, tokens: jax.Array, present: jax.Array) -> jax.Array:
        """X + softmax(Q K^T / sqrt(width)) V of tokens [B, I, width], over those that are present [B, I]."""
        query, key, value = (dense(self.width, ('mlp', None), name, use_bias=False)(tokens)
                             for name in ('query', 'key', 'value'))
        scores = jnp.einsum('BiD,BjD->Bij', query, key) * self.width**-0.5
        weights = jax.nn.softmax(jnp.where(present[:, None], scores, -1e9), axis=-1)
        self.sow('intermediates', 'attention', weights)
        return tokens + jnp.einsum('Bij,BjD->BiD', weights, value)


def attention_received(weights: jax.Array) -> dict[str, jax.Array]:
    """Eq. 11: the mean attention [B] that each of `TOKENS` gets, of alpha [B, I, I]."""
    means = weights.mean(axis=1)
    return {name: means[:, n] for n, name in enumerate(TOKENS)}


def consumer_embeddings(params: dict, fields: Fields, seen: jax.Array) -> jax.Array:
    """E_c [U, E], by row of the users table: what the language model gets as soft prompt (section 2.1).

    A consumer that training did not meet (`seen` bool [U]) gets the mean of those that it met.
    """
    if 'user_id' not in fields.names:
        raise ValueError('fields without user_id have no embedding of a consumer')
    own = params['embedding'][fields.user_fields[:, fields.names.index('user_id')]]
    share = seen / jnp.maximum(seen.sum(), 1)
    return jnp.where(seen[:, None], own, share @ own)
