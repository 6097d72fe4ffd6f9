"""DIEN (Zhou et al. 2019): a GRU extracts interests from the history, a second one follows those of the target.

  u_t, r_t  = sigmoid(W i_t + U h_{t-1} + b)
  c_t       = tanh(W_c i_t + r_t * U_c h_{t-1} + b_c)
  h_t       = (1 - u_t) * h_{t-1} + u_t * c_t                 interest extractor; i_t = e_t, an item's fields
  a_t       = softmax_t(h_t W q)                              attention over the items that there are
  h'_t      = (1 - a_t u'_t) * h'_{t-1} + a_t u'_t * c'_t     AUGRU, the interest evolving layer; i'_t = h_t
  logit     = MLP([user's fields; h'_T; q; z])

  auxiliary = alpha mean_t [-log s(h_t, e_{t+1}) - log(1 - s(h_t, n_{t+1}))]        of a row's steps t < T

s is a small MLP on both vectors with a sigmoid (authors' code; the paper writes [h, e] only), the mean over t
that code's where the paper has a sum. n_{t+1} is a negative: an item of the batch's histories, drawn in
proportion to how often it stands there, since a model does not see the catalogue; where the draw is e_{t+1}
itself, that term is left out. The row's auxiliary loss is sown in 'losses', for `training.run_epoch` to add.

RecBole 1.2.1 has other parts here: attention by an MLP as DIN's, states as wide as an item's fields, a linear s,
and the Dice of its DIN. The gates are the same but for a second bias on U_c h_{t-1}, which PyTorch's have.

Easy to get wrong: the auxiliary loss looks at the NEXT item, h_t having seen e_t already; attention scales the
update gate, which here is the share of what is NEW (as often as not GRUs name the other share so); padding
stands on the left and moves no state.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.recommenders.din import HistoryPredictor
from xrec_jax.recommenders.predictor import History, dense


class GRU(nn.Module):
    """The GRU of the docstring above, and with `attention` the AUGRU; a masked step leaves the state as it is."""

    width: int

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array, attention: jax.Array | None = None) -> jax.Array:
        """States [B, L, width] after each of the inputs [B, L, D], from zeros; `mask`, `attention`: [B, L]."""
        kernel = self.param('kernel', nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, None)),
                            (self.width, 3 * self.width))  # U, U_r, U_c
        of_inputs = dense(3 * self.width, (None, None), 'input')(inputs)  # of all steps at once
        share = mask.astype(jnp.float32)  # a gate of 0 keeps the state, exactly
        if attention is not None:
            share *= attention

        def step(state, at):
            gates, share = at
            update, reset, candidate = jnp.split(gates, 3, axis=-1)
            of_update, of_reset, of_candidate = jnp.split(state @ kernel, 3, axis=-1)
            update = nn.sigmoid(update + of_update) * share[:, None]
            candidate = jnp.tanh(candidate + nn.sigmoid(reset + of_reset) * of_candidate)
            state = (1 - update) * state + update * candidate
            return state, state

        start = jnp.zeros((len(inputs), self.width), jnp.float32)
        _, states = jax.lax.scan(step, start, (of_inputs.swapaxes(0, 1), share.T))
        return states.swapaxes(0, 1)


class DIEN(HistoryPredictor):
    """Predicts logits [B] from ids, the history and, where `text_dim` is set, explanations."""

    hidden_dim: int = 36                        # of both GRUs; the authors' code's
    auxiliary_mlp: Sequence[int] = (100, 50)    # hidden layers of s, with sigmoids; the authors' code's
    auxiliary_weight: float = 1.0               # alpha, the authors' code's and RecBole's; 0 = without

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B]; arguments as `DeepFM` has them, and `history` is looked at.

        With `train`, sows 'auxiliary' [B] in the collection 'losses' (negatives by the 'dropout' key).
        """
        user, target, past = self.parts(ids, attributes, history)
        interests = GRU(self.hidden_dim, name='extractor')(past, history.mask)
        if self.auxiliary_weight and (train or self.is_initializing()):
            self.sow('losses', 'auxiliary', self.auxiliary_weight * self._auxiliary(interests, past, history))

        query = dense(self.hidden_dim, ('embed', None), 'attention', use_bias=False)(target)
        scores = jnp.where(history.mask, jnp.einsum('blh,bh->bl', interests, query), -1e9)
        attention = jax.nn.softmax(scores, axis=-1) * history.mask  # no history: zeros
        evolved = GRU(self.hidden_dim, name='evolving')(interests, history.mask, attention)[:, -1]

        hidden = jnp.concatenate([user, evolved, target, self.texts(text, len(ids), train)], axis=-1)
        return self.out(self.activated(hidden, self.mlp, 'mlp', train))

    def _auxiliary(self, interests: jax.Array, past: jax.Array, history: History) -> jax.Array:
        """The loss [B] of telling each next item from a negative; 0 for rows of fewer than two items."""
        drawn = draw(self.make_rng('dropout'), history.mask)[:, 1:]           # [B, L - 1]
        same = _same(history, drawn)
        negative = past.reshape(-1, past.shape[-1])[drawn]                    # [B, L - 1, D]
        items = jnp.stack([past[:, 1:], negative])                            # [2, B, L - 1, D]
        hidden = jnp.concatenate([jnp.broadcast_to(interests[:, :-1], (*items.shape[:-1], self.hidden_dim)), items], -1)
        for n, width in enumerate(self.auxiliary_mlp):
            hidden = nn.sigmoid(dense(width, ('embed' if n == 0 else None, 'mlp'), f'auxiliary_{n}')(hidden))
        positive, negative = self.out(hidden, 'auxiliary_out')
        losses = nn.softplus(-positive) + jnp.where(same, 0.0, nn.softplus(negative))
        steps = history.mask[:, :-1] & history.mask[:, 1:]
        return jnp.where(steps, losses, 0.0).sum(-1) / jnp.maximum(steps.sum(-1), 1)


def draw(key: jax.Array, mask: jax.Array) -> jax.Array:
    """For each place of `mask` [B, L] a place where it is True, all equally likely: int32 [B, L], into [B * L]."""
    counts = jnp.cumsum(mask.reshape(-1))
    nth = jax.random.randint(key, mask.shape, 1, jnp.maximum(counts[-1], 1) + 1)
    return jnp.minimum(jnp.searchsorted(counts, nth), mask.size - 1)


def _same(history: History, drawn: jax.Array) -> jax.Array:
    """Whether the item at `drawn` [B, L - 1] has all the fields of the one that really came next."""
    fields = jnp.concatenate([history.ids, history.attributes], axis=-1)
    return (fields.reshape(-1, fields.shape[-1])[drawn] == fields[:, 1:]).all(-1)
