"""DIN (Zhou et al. 2018): every item of the history weighs what an activation unit says of it and the target.

  q, k_l    = the fields of the target, and of item l of the history, side by side: from the same tables
  a_l       = MLP_a([q; k_l; q - k_l; q * k_l])        activation unit; a number, not a share
  interest  = sum_l a_l k_l                            weighted sum pooling (eq. 3)
  logit     = MLP([user's fields; interest; q; z])

  PReLU(s)  = p s + (1 - p) alpha s,  p = 1 if s > 0 else 0
  Dice(s)   = the same with p = sigmoid((s - E[s]) / sqrt(Var[s] + 1e-8))           (eq. 9)

Easy to get wrong: no softmax over a (the strength of an interest is kept: a history twice as long weighs twice
as much); padded items weigh exactly 0 and are in no mean of Dice; E and Var are the batch's in training and
moving averages otherwise, so that a score does not depend on who else is scored. The paper's figure 2 has q, k and
their product in the unit; q - k is from the authors' code, as RecBole has it. Its MLP also reads q * interest,
which the paper's does not.

RecBole 1.2.1's unit has layers of 256, 256, 256 with sigmoids and divides a by sqrt(D); its Dice is s sigmoid(s)
after a batch normalisation, without alpha; its MLP has (256, 256, 256) and no user's fields. All of this is
otherwise in the paper (figure 2, eq. 9), which is followed. How moving averages are kept: `batch_norm`.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError, nearest
from xrec_jax.recommenders.batch_norm import moments
from xrec_jax.recommenders.predictor import History, Predictor, dense

_logical = nn.with_logical_partitioning


class PReLU(nn.Module):
    """max(s, 0) + alpha min(s, 0) with one alpha a unit (He et al. 2015, who start at 0.25)."""

    @nn.compact
    def __call__(self, s: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """[..., N] → [..., N]; `train` and `mask` are Dice's."""
        alpha = self.param('alpha', _logical(nn.initializers.constant(0.25), ('mlp',)), s.shape[-1:])
        return jnp.where(s > 0, s, alpha * s)


class Dice(nn.Module):
    """p s + (1 - p) alpha s with p = sigmoid of s, standardised; alpha starts at 0, as in the authors' code."""

    momentum: float = 0.99  # of the moving averages; TensorFlow's default, which the authors' code has
    epsilon: float = 1e-8

    @nn.compact
    def __call__(self, s: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """[..., N] → [..., N]; E and Var are over the leading axes, where `mask` [...] is True."""
        alpha = self.param('alpha', _logical(nn.initializers.zeros, ('mlp',)), s.shape[-1:])
        mean, variance = moments(self, s, train, self.momentum, mask)
        p = nn.sigmoid((s - mean) * jax.lax.rsqrt(variance + self.epsilon))
        return p * s + (1 - p) * alpha * s


ACTIVATIONS = {'dice': Dice, 'prelu': PReLU}


class HistoryPredictor(Predictor):
    """Base of DIN and DIEN: the user's fields, the target's and the history's, and an MLP as both have it.

    The MLP is the authors' code's of both; no dropout, as RecBole.
    """

    mlp: Sequence[int] = (200, 80)
    dropout: float = 0.0
    activation: str = 'dice'  # or 'prelu': ACTIVATIONS
    use_liked: bool = False   # adds to an item of the history what the user thought of it; not in the papers

    uses_history = True

    def __post_init__(self):
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise UserError(f'activation: "{self.activation}" is none of {type(self).__name__}\'s.'
                            f'{nearest(self.activation, ACTIVATIONS)}')

    def parts(self, ids: jax.Array, attributes: jax.Array, history: History | None
              ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The user [B, Fu * E], the target [B, D] and its history [B, L, D], zeros where padded."""
        chex.assert_rank([ids, attributes], 2)
        if history is None:
            raise ValueError(f'{type(self).__name__} looks at histories: make_rows(..., history=True)')
        user_ids, item_ids = jnp.split(ids, [self.num_user_fields], axis=1)
        items = self.embeddings(jnp.concatenate([item_ids[:, None], history.ids], axis=1),
                                jnp.concatenate([attributes[:, None], history.attributes], axis=1))
        items = items.reshape(*items.shape[:2], -1)
        table = nn.unbox(self.get_variable('params', 'embedding'))  # `embeddings` can be called but once
        user = table[user_ids] * (user_ids > 0)[..., None]
        past = items[:, 1:]
        if self.use_liked:
            past += nn.Embed(2, past.shape[-1], name='liked',
                             embedding_init=_logical(nn.initializers.normal(0.01), (None, 'embed'))
                             )(history.liked.astype(jnp.int32))
        return user.reshape(len(ids), -1), items[:, 0], past * history.mask[..., None]

    def activated(self, hidden: jax.Array, widths: Sequence[int], name: str, train: bool,
                  mask: jax.Array | None = None) -> jax.Array:
        """Layers of `widths` with the activation and dropout: [..., D] → [..., widths[-1]]."""
        for n, width in enumerate(widths):
            hidden = dense(width, ('embed' if n == 0 else None, 'mlp'), f'{name}_{n}')(hidden)
            hidden = ACTIVATIONS[self.activation](name=f'{name}_{n}_{self.activation}')(hidden, train, mask)
            hidden = Dropout(self.dropout, deterministic=not train)(hidden)
        return hidden


class DIN(HistoryPredictor):
    """Predicts logits [B] from ids, the history and, where `text_dim` is set, explanations."""

    attention_mlp: Sequence[int] = (36,)  # hidden layers of the activation unit: figure 2's

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B]; arguments as `DeepFM` has them, and `history` is looked at."""
        user, target, past = self.parts(ids, attributes, history)
        query = jnp.broadcast_to(target[:, None], past.shape)
        unit = jnp.concatenate([query, past, query - past, query * past], axis=-1)
        unit = self.activated(unit, self.attention_mlp, 'attention', train, history.mask)
        strength = jnp.where(history.mask, self.out(unit, 'attention_out'), 0.0)
        interest = jnp.einsum('bl,bld->bd', strength, past)

        hidden = jnp.concatenate([user, interest, target, self.texts(text, len(ids), train)], axis=-1)
        return self.out(self.activated(hidden, self.mlp, 'mlp', train))
