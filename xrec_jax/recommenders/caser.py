"""Caser (Tang and Wang 2018): the last L items as an image [L, E], looked at by convolutions.

  horizontal  o_h,k = max_t relu(<F_h,k, M[t:t+h]> + b_h,k)    h = 1 … L, `horizontal` filters each: what
                                                               h items in a row say together
  vertical    c_k = sum_l G_k,l M[l] + g_k                     `vertical` filters: weighted sums of the items
  z = relu(W [o; c] + b)
  score of item i = <W'_i, [z; p_user]> + b'_i                 W' is not the input embedding

with dropout on [o; c]. L = 5 is the authors' code's; embedding 64, 8 horizontal and 4 vertical filters and dropout
0.4 are RecBole 1.2.1's. RecBole differs in L (all 50 items, the oldest in the first row and pads last, whose vector
is not zero), puts relu(W'' [z; p]) against the input embeddings, and adds 1e-4 times the norms of its weights to
the loss. The paper also predicts the next but one items; here, as in RecBole, only the next (T = 1).

Easy to get wrong: the vertical filters have no activation, the horizontal ones have ReLU and then a maximum over
time; a shorter history is padded on the left with zero vectors, so that the latest item is always in the last row.
A state looks at the L items up to its position (`window`), so that one sequence trains on all its prefixes.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.recommenders.predictor import History, dense
from xrec_jax.recommenders.sequences import SequenceModel, SequencePredictor
from xrec_jax.recommenders.tables import table


def window(items: jax.Array, length: int) -> jax.Array:
    """[B, T] → [B, T, length]: at each position the items up to it, 0 before the first."""
    padded = jnp.pad(items, ((0, 0), (length - 1, 0)))
    return jnp.stack([padded[:, n:n + items.shape[1]] for n in range(length)], axis=-1)


class Convolutions(nn.Module):
    """The last `length` embedded items to z: [..., L, E] → [..., E]."""

    embed_dim: int
    length: int
    horizontal: int
    vertical: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`x` is zero at pads; shorter ones are padded, of longer ones the latest part is seen."""
        x = x[..., -self.length:, :]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(self.length - x.shape[-2], 0), (0, 0)])
        parts = []
        for h in range(1, self.length + 1):
            runs = jnp.concatenate([x[..., n:self.length - h + 1 + n, :] for n in range(h)], axis=-1)  # [..., t, hE]
            parts.append(nn.relu(dense(self.horizontal, ('embed', 'mlp'), f'horizontal_{h}')(runs)).max(-2))
        columns = dense(self.vertical, (None, None), 'vertical')(x.swapaxes(-1, -2))  # [..., E, vertical]
        parts.append(columns.reshape(*columns.shape[:-2], -1))
        hidden = Dropout(self.dropout, deterministic=not train)(jnp.concatenate(parts, axis=-1))
        return nn.relu(dense(self.embed_dim, ('embed', 'mlp'), 'dense')(hidden))


class Caser(SequenceModel, kw_only=True):
    """Ranks items; see `sequences` for what it offers. Vectors of users and items have 2 E dimensions."""

    num_users: int
    max_length: int = 5  # L
    horizontal: int = 8
    vertical: int = 4
    dropout: float = 0.4

    def setup(self):
        E, normal = self.embed_dim, nn.initializers.normal
        self.item_embedding = table(self, 'item_embedding', normal(1 / E), self.num_items, E, 'items', self.dtype)
        self.user_embedding = table(self, 'user_embedding', normal(1 / E), self.num_users, E, 'users', self.dtype)
        self.output_vectors = table(self, 'item_output', normal(0.5 / E), self.num_items, 2 * E, 'items', self.dtype)
        self.output_bias = table(self, 'item_bias', nn.initializers.zeros, self.num_items, None, 'items')
        self.convolutions = Convolutions(self.embed_dim, self.max_length, self.horizontal, self.vertical, self.dropout)

    def states(self, items: jax.Array, train: bool = False) -> jax.Array:
        """int32 [B, L] → z [B, L, E]; with the user's vector it predicts the next item."""
        return self.convolutions(self.embed(window(items, self.max_length)), train)

    def user_vectors(self, user: jax.Array, history: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, 2 E]: [z; p_user] after the latest item."""
        z, p = self.convolutions(self.embed(history), train), self.user_embedding[user].astype(jnp.float32)
        return jnp.concatenate([z, p], axis=-1)

    def user_vectors_by_position(self, user: jax.Array, items: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, L, 2 E]: [z; p_user] after each item."""
        z, p = self.states(items, train), self.user_embedding[user].astype(jnp.float32)
        return jnp.concatenate([z, jnp.broadcast_to(p[:, None], z.shape)], axis=-1)

    def item_vectors(self) -> jax.Array:
        """W' [I, 2 E]."""
        return self.output_vectors[:self.num_items]

    def item_bias(self) -> jax.Array:
        """b' [I]."""
        return self.output_bias[:self.num_items]


class CaserPredictor(SequencePredictor):
    """Scores a target by U [z; p], with p the sum of the users' fields: logits [B].

    The target's row of W' is then U^T v, a function of its fields, as predictors have no rows of their own for items.
    """

    max_length: int = 5
    horizontal: int = 8
    vertical: int = 4
    encoder_dropout: float = 0.4

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B] from ids [B, F], attributes [B, A], explanations [B, K, d] and the history."""
        users, target, items, _ = self.look_up(ids, attributes, history)
        z = Convolutions(self.embed_dim, self.max_length, self.horizontal, self.vertical, self.encoder_dropout,
                         name='convolutions')(items, train)
        state = jnp.concatenate([z, users.sum(1)], axis=-1)
        state = dense(self.embed_dim, ('mlp', 'embed'), 'state', use_bias=False)(state)
        return self.score(state, users, target, text, train)
