"""What sequence models share: the interface for ranking, a base for scoring a target, the training losses.

A history is int32 [B, L]: row in the items table + 1, oldest first, right-aligned, 0 pads. Every ranking
model of the project offers

  user_vectors(user [B], history [B, L]) -> [B, D]    what the scores of a user's next item are made from
  item_vectors() -> [I, D]
  item_bias() -> [I]                                  only where the model has one

and scores all items by user_vectors @ item_vectors.T (+ item_bias). A sequence model also offers

  states(items [B, L], train) -> [B, L, D]

whose state at a position predicts the item of the next position (SASRec, GRU4Rec) or, for BERT4Rec, of
that very position; so `user_vectors` is the last state (Caser adds the user's own vector to it).
`user_vectors_by_position` (user [B], items [B, L]) -> [B, L, D] is what a model would say after each item.
States at pads are zero but for Caser's, and so is the vector of a user without history but for Caser's and BERT4Rec's.

Positions are counted from the oldest item shown, not from the left edge of the array: the number of pads
changes nothing, and the causal models' state at position t is that of the history cut off after t. One pass
over a sequence trains on all its prefixes, which RecBole makes rows of their own.

  SequenceModel        base of the ranking models
  SequencePredictor    base of the models that score a target (CTR, rating)
  next_items           a sequence as inputs and targets
  cloze                a sequence with masked items, and what they were
  softmax_cross_entropy, binary_cross_entropy    losses over states
  next_item_loss, cloze_loss                     the same as `ranking` takes them

`B` batch, `L` positions, `E` embedding, `D` width of states (E but for Caser), `I` items, `K` negatives.
"""

import functools
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError, nearest
from xrec_jax.recommenders.objectives import masked_mean
from xrec_jax.recommenders.predictor import History, Predictor
from xrec_jax.recommenders.ranking import Batch, Loss, draw_negatives
from xrec_jax.recommenders.tables import scores


class SequenceModel(nn.Module):
    """Base of the ranking models; a subclass has `item_embedding`, a table of the items, and `states`."""

    num_items: int
    embed_dim: int = 64
    max_length: int = 50      # items that the model looks at, the latest ones
    dtype: Any = jnp.float32  # of the tables of items and users; all else is float32

    def embed(self, items: jax.Array) -> jax.Array:
        """[B, L] → [B, L, E], zeros where padded."""
        return self.item_embedding[jnp.maximum(items - 1, 0)].astype(jnp.float32) * (items > 0)[..., None]

    def item_vectors(self) -> jax.Array:
        """[I, E], by row of the items table."""
        return self.item_embedding[:self.num_items]

    def user_vectors(self, user: jax.Array, history: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, E]: the state after the latest item. `user` [B] is not looked at."""
        del user
        return self.last_state(history[:, -self.max_length:], train)

    def last_state(self, items: jax.Array, train: bool = False) -> jax.Array:
        """[B, L] → [B, D]; a model that has it for less than all `states` overrides this."""
        return self.states(items, train)[:, -1]

    def user_vectors_by_position(self, user: jax.Array, items: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, L, E]: the state after each item; L is at most `max_length`. `user` [B] is not looked at."""
        del user
        return self.states(items, train)

    def __call__(self, user: jax.Array, history: jax.Array, *, train: bool = False) -> jax.Array:
        """Scores of all items, [B, I]; also what `init` is called with."""
        all_scores = scores(self.user_vectors(user, history, train=train), self.item_vectors())
        return all_scores + self.item_bias() if hasattr(self, 'item_bias') else all_scores


class SequencePredictor(Predictor):
    """Base of the models that score a target: logit = <state, v_target> + MLP([v_users; v_target; state; z]).

    An item's v is the sum of its fields' embeddings (with the ids alone: the item's embedding, as in the
    papers). The inner product is the papers' score; the MLP is ours, so that explanations z and users'
    fields have a place as in the other predictors. Verdicts (`History.liked`) are not looked at, as in the papers.
    """

    embed_dim: int = 64
    max_length: int = 50

    uses_history = True

    def look_up(self, ids: jax.Array, attributes: jax.Array, history: History
                ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """v of the users' fields [B, Fu, E], the target [B, E] and the latest items [B, L, E]; their mask [B, L]."""
        # One look-up for all, as a parameter is asked for once; absent fields add zeros.
        past, many, mask = (x[:, -self.max_length:] for x in (history.ids, history.attributes, history.mask))
        users, target = ids[:, None, :self.num_user_fields], ids[:, None, self.num_user_fields:]
        width = max(users.shape[-1], target.shape[-1])
        steps = jnp.concatenate([jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-1])))
                                 for x in (users, target, past)], axis=1)
        many = jnp.concatenate([jnp.zeros_like(attributes)[:, None], attributes[:, None], many], axis=1)
        v = self.embeddings(steps, many)  # [B, 2 + L, F', E]
        return v[:, 0, :users.shape[-1]], v[:, 1].sum(1), v[:, 2:].sum(2) * mask[..., None], mask

    def score(self, state: jax.Array, users: jax.Array, target: jax.Array, text: jax.Array | None,
              train: bool) -> jax.Array:
        """Logits [B] from a state [B, E] and what `look_up` gave."""
        hidden = jnp.concatenate([users.reshape(len(users), -1), target, state], axis=-1)
        hidden = Dropout(self.dropout, deterministic=not train)(hidden)
        hidden = jnp.concatenate([hidden, self.texts(text, len(target), train)], axis=-1)
        return (state * target).sum(-1) + self.out(self.deep(hidden, train))


def positions(mask: jax.Array) -> jax.Array:
    """[..., L] → int32 [..., L]: 0 for the oldest item shown and on; 0 at pads before it."""
    return jnp.maximum(jnp.cumsum(mask, -1, dtype=jnp.int32) - 1, 0)


def next_items(sequence: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, L + 1] → items [B, L] and targets [B, L]: the item that follows; 0 (no target) where there is no item."""
    chex.assert_rank(sequence, 2)
    items, targets = sequence[:, :-1], sequence[:, 1:]
    return items, jnp.where(items > 0, targets, 0)


def cloze(key: jax.Array, items: jax.Array, mask_token: int, ratio: float = 0.2, last_share: float = 0.5
          ) -> tuple[jax.Array, jax.Array]:
    """BERT4Rec's training rows (Sun 2019, "Model Learning"): items and targets [B, L], 0 where not masked.

    An item is masked with probability `ratio`; in a share `last_share` of the rows only the last item is, as
    in prediction. Both defaults are RecBole's (`mask_ratio`, `ft_ratio`, which it draws for a whole batch).
    """
    chex.assert_rank(items, 2)
    some_key, last_key = jax.random.split(key)
    some = jax.random.bernoulli(some_key, ratio, items.shape)
    last = jnp.arange(items.shape[1]) == items.shape[1] - 1
    only_last = jax.random.bernoulli(last_key, last_share, (len(items), 1))
    masked = jnp.where(only_last, last, some) & (items > 0)
    return jnp.where(masked, mask_token, items), jnp.where(masked, items, 0)


def softmax_cross_entropy(states: jax.Array, vectors: jax.Array, targets: jax.Array,
                          bias: jax.Array | None = None) -> jax.Array:
    """Mean over targets of -log softmax(states @ vectors.T + bias)[target], over all items, in nats.

    `states` [..., D], `vectors` [I, D], `bias` [I], `targets` [...] as row + 1, 0 = none; returns a scalar,
    0 where there is no target at all. Holds logits [..., I].
    """
    chex.assert_equal_shape_prefix([states, targets], targets.ndim)
    logits = scores(states, vectors)
    logits = logits if bias is None else logits + bias
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets - 1, 0))
    return masked_mean(loss, targets > 0)


def binary_cross_entropy(states: jax.Array, vectors: jax.Array, targets: jax.Array, negatives: jax.Array,
                         bias: jax.Array | None = None) -> jax.Array:
    """Mean over targets of -log s(target) - sum_K log(1 - s(negative)), s = sigmoid(<state, v> + bias).

    SASRec's loss (Kang 2018, "Network Training") with K = 1. Shapes as in `softmax_cross_entropy`; `negatives` [..., K]
    as row + 1, 0 = none, never the target.
    """
    chex.assert_equal_shape_prefix([states, targets, negatives], targets.ndim)
    rows = jnp.maximum(jnp.concatenate([targets[..., None], negatives], axis=-1) - 1, 0)  # [..., 1 + K]
    logits = jnp.einsum('...D,...KD->...K', states, vectors[rows].astype(jnp.float32))
    logits = logits if bias is None else logits + bias[rows]
    loss = jax.nn.softplus(-logits[..., 0]) + (jax.nn.softplus(logits[..., 1:]) * (negatives > 0)).sum(-1)
    return masked_mean(loss, targets > 0)


OBJECTIVES = ('softmax', 'binary')


@functools.lru_cache(maxsize=64)
def next_item_loss(model: SequenceModel, objective: str = 'softmax') -> Loss:
    """What `ranking` trains SASRec, GRU4Rec and Caser for: the latest `data.stride` items of history + target.

    With a stride of 1 that is the target alone, each prefix being a row, as in RecBole; with `max_length` one
    pass predicts every item that the model looks at. In between, each prediction has at least `max_length` -
    stride items to go by, where the user has as many.

    Args:
      objective: 'softmax' over all items, or 'binary' with one negative a target that the user never liked.
    """
    if objective not in OBJECTIVES:
        raise UserError(f'objective: "{objective}" is nothing to train for.{nearest(objective, OBJECTIVES)}')

    def loss(params, batch, key):
        dropout_key, negative_key = jax.random.split(key)
        stride = min(batch.data.stride, model.max_length)
        items, targets = next_items(_sequence(batch, model.max_length + 1))
        method = 'user_vectors' if stride == 1 else 'user_vectors_by_position'
        vectors = model.apply({'params': params}, batch.user, items, train=True, method=method,
                              rngs={'dropout': dropout_key})
        vectors = vectors[:, None] if stride == 1 else vectors[:, -stride:]
        targets = targets[:, -stride:] * (batch.mask > 0)[:, None]
        apply = functools.partial(model.apply, {'params': params})
        item_vectors = apply(method='item_vectors')
        bias = apply(method='item_bias') if hasattr(model, 'item_bias') else None
        if objective == 'softmax':
            return softmax_cross_entropy(vectors, item_vectors, targets, bias)
        user = jnp.broadcast_to(batch.user[:, None], targets.shape)
        negatives = draw_negatives(negative_key, batch.data.positives, user, model.num_items) + 1
        return binary_cross_entropy(vectors, item_vectors, targets, negatives[..., None], bias)

    return loss


@functools.lru_cache(maxsize=64)
def cloze_loss(model: SequenceModel, ratio: float = 0.2, last_share: float = 0.5) -> Loss:
    """What `ranking` trains BERT4Rec for: `cloze` on history + target."""

    def loss(params, batch, key):
        dropout_key, cloze_key = jax.random.split(key)
        apply = functools.partial(model.apply, {'params': params})
        items, targets = cloze(cloze_key, _sequence(batch, model.max_length), model.mask_token, ratio, last_share)
        states = apply(items, True, method='states', rngs={'dropout': dropout_key})
        targets = targets * (batch.mask > 0)[:, None]
        return softmax_cross_entropy(states, apply(method='item_vectors'), targets, apply(method='item_bias'))

    return loss


def _sequence(batch: Batch, length: int) -> jax.Array:
    """The latest `length` items of history + target, [B, up to length]."""
    return jnp.concatenate([batch.history, batch.item[:, None] + 1], axis=1)[:, -length:]
