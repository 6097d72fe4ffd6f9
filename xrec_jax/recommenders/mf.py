"""BPR-MF: matrix factorisation by Bayesian personalised ranking (Rendle et al. 2009).

  x_ui = <w_u, h_i>
  loss = mean over (u, i, j) of -log sigmoid(x_ui - x_uj)  +  l2 / (2 B) sum (|w_u|^2 + |h_i|^2 + |h_j|^2)

i is an item that u met, j one that u did not. Easy to get wrong: j is drawn evenly from the items that
are no known positive of that user (`ranking.draw_negatives`), one for each positive, anew each epoch; and
the norm is of the batch's rows, not of the tables.

Defaults are RecBole 1.2.1's: 64 dimensions, N(0, 2 / (U + E)) for users and N(0, 2 / (I + E)) for items
(Xavier), no l2. The paper names none of these. `B` batch, `U` users, `I` items, `E` embedding, `L` history.
"""

from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.recommenders.tables import table

_INIT = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')  # not truncated, as PyTorch's xavier_normal_


class BPRMF(nn.Module):
    """Users and items as vectors whose product is the score."""

    num_users: int
    num_items: int
    embed_dim: int = 64
    l2: float = 0.0
    dtype: Any = jnp.float32  # of the parameters; 'bfloat16' halves their size

    uses_history = False

    def setup(self):
        self.user = table(self, 'user', _INIT, self.num_users, self.embed_dim, 'users', self.dtype)
        self.item = table(self, 'item', _INIT, self.num_items, self.embed_dim, 'items', self.dtype)

    def user_vectors(self, user: jax.Array, history: jax.Array) -> jax.Array:
        """w [B, E] of users `user` [B]; `history` is not looked at."""
        return self.user[user]

    def item_vectors(self) -> jax.Array:
        """h [I, E]."""
        return self.item[:self.num_items]

    def loss(self, user: jax.Array, item: jax.Array, negative: jax.Array, mask: jax.Array) -> jax.Array:
        """The loss above, a scalar: u, i, j and the mask, all [B]."""
        # One look-up for both items: its gradient is then one scatter into one table of zeros.
        items = self.item[jnp.concatenate([item, negative])].astype(jnp.float32)
        rows = self.user[user].astype(jnp.float32), *jnp.split(items, 2)
        return bpr(*rows, mask) + (self.l2 * half_squares(*rows, mask) if self.l2 else 0)


def bpr(user: jax.Array, item: jax.Array, negative: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the mask [B] of -log sigmoid(<u, i> - <u, j>); the vectors are [B, E] each."""
    chex.assert_equal_shape([user, item, negative])
    margin = (user * (item - negative)).sum(-1)  # an einsum would not be fused on CPU
    return jnp.sum(jax.nn.softplus(-margin) * mask) / jnp.maximum(mask.sum(), 1)


def half_squares(user: jax.Array, item: jax.Array, negative: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the mask [B] of (|u|^2 + |i|^2 + |j|^2) / 2."""
    squares = (jnp.square(user) + jnp.square(item) + jnp.square(negative)).sum(-1)
    return jnp.sum(squares * mask) / (2 * jnp.maximum(mask.sum(), 1))
