"""BERT4Rec (Sun et al. 2019): a transformer that sees both sides of a masked item and says which it was.

  x = transformer(v + p)                       as in `sasrec`, but keys: all real items, before and after
  h_t = LN(gelu(W x_t + b))
  score of item i at t = <h_t, v_i> + b_i      v shared with the input

Trained by the cloze task (`sequences.cloze`): some items are replaced by the mask token I + 1, and the loss is
the softmax cross-entropy at those positions alone. Layers, heads, widths, LN, N(0, 0.02) and dropout 0.2 are
RecBole 1.2.1's defaults, as is the LN of h, which the paper's text leaves out; a mask ratio of 0.2 is both's (the
paper's for MovieLens).

Easy to get wrong: a history as it stands predicts nothing, since the state of an item has seen that item. The
mask token is put after the last item and the prediction is read there; it takes one of `max_length` places, so
the history shows its latest max_length - 1 items (RecBole drops the oldest item of a short history, too; we do
not). The mask token is no item: it has no score.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.recommenders.predictor import History
from xrec_jax.recommenders.sasrec import NORMAL, Encoder, gelu, layer_norm
from xrec_jax.recommenders.sequences import SequenceModel, SequencePredictor
from xrec_jax.recommenders.tables import table


class Head(nn.Module):
    """h = LN(gelu(W x + b)): [..., E] → [..., E]."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        logical = nn.with_logical_partitioning
        x = nn.Dense(x.shape[-1], name='transform', kernel_init=logical(NORMAL, ('embed', None)),
                     bias_init=logical(nn.initializers.zeros, (None,)))(x)
        return layer_norm(self.epsilon, 'norm')(gelu(x))


class BERT4Rec(SequenceModel):
    """Ranks items; see `sequences` for what it offers. `states` takes the mask token among the items."""

    layers: int = 2
    heads: int = 2
    inner: int = 256
    dropout: float = 0.2
    attention_dropout: float = 0.2
    epsilon: float = 1e-12

    @property
    def mask_token(self) -> int:
        return self.num_items + 1

    def setup(self):
        self.item_embedding = table(self, 'item_embedding', NORMAL, self.num_items, self.embed_dim, 'items', self.dtype)
        self.mask_embedding = self.param('mask_embedding', NORMAL, (self.embed_dim,))
        self.output_bias = table(self, 'item_bias', nn.initializers.zeros, self.num_items, None, 'items')
        self.encoder = Encoder(False, self.embed_dim, self.max_length, self.layers, self.heads, self.inner,
                               self.dropout, self.attention_dropout, self.epsilon)
        self.head = Head(self.epsilon)

    def states(self, items: jax.Array, train: bool = False) -> jax.Array:
        """int32 [B, L] → [B, L, E]; the state at a mask token predicts the item of that position."""
        return self.head(self.encoder(self._embed(items), items > 0, train)) * (items > 0)[..., None]

    def last_state(self, items: jax.Array, train: bool = False) -> jax.Array:
        """int32 [B, L] → [B, E]; `states` of the last position alone."""
        last = self.encoder(self._embed(items), items > 0, train, last=True)[:, -1]
        return self.head(last) * (items[:, -1:] > 0)

    def _embed(self, items: jax.Array) -> jax.Array:
        masked = items == self.mask_token
        return jnp.where(masked[..., None], self.mask_embedding, self.embed(jnp.where(masked, 0, items)))

    def item_bias(self) -> jax.Array:
        """[I]."""
        return self.output_bias[:self.num_items]

    def user_vectors(self, user: jax.Array, history: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, E]: the state at a mask token after the latest item. `user` [B] is not looked at."""
        masks = jnp.full((len(history), 1), self.mask_token, history.dtype)
        return super().user_vectors(user, jnp.concatenate([history, masks], axis=1), train=train)

    def user_vectors_by_position(self, user: jax.Array, items: jax.Array, *, train: bool = False) -> jax.Array:
        """Refused: the states have seen what follows."""
        raise ValueError('BERT4Rec has no states that predict the next item: train it by sequences.cloze_loss')


class BERT4RecPredictor(SequencePredictor):
    """Scores a target by the state at a mask token after the history: logits [B]."""

    layers: int = 2
    heads: int = 2
    inner: int = 256
    encoder_dropout: float = 0.2
    attention_dropout: float = 0.2
    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B] from ids [B, F], attributes [B, A], explanations [B, K, d] and the history."""
        users, target, items, mask = self.look_up(ids, attributes, history)
        mask_embedding = self.param('mask_embedding', NORMAL, (self.embed_dim,))
        masks = jnp.broadcast_to(mask_embedding, (len(items), 1, self.embed_dim))
        items = jnp.concatenate([items, masks], axis=1)[:, -self.max_length:]
        mask = jnp.pad(mask, ((0, 0), (0, 1)), constant_values=True)[:, -self.max_length:]
        states = Encoder(False, self.embed_dim, self.max_length, self.layers, self.heads, self.inner,
                         self.encoder_dropout, self.attention_dropout, self.epsilon,
                         name='encoder')(items, mask, train, last=True)
        return self.score(Head(self.epsilon, name='head')(states[:, -1]), users, target, text, train)
