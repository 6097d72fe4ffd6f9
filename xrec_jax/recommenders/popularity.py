"""Popularity: everyone is recommended the items that were met most often in training.

  x_ui = n_i / max n,   n_i = interactions of item i in training

Nothing is learned; there are no parameters. Items of one count stand in the order of the items table. As
RecBole 1.2.1's Pop. `B` batch, `I` items, `N` interactions, `L` history.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Popularity(nn.Module):
    """Ranks by count; `apply` takes what `constants` gives as further collections."""

    num_users: int
    num_items: int

    uses_history = False

    def constants(self, user: np.ndarray, item: np.ndarray) -> dict[str, dict[str, jax.Array]]:
        """The collection 'counts' of training interactions (user, item), [N] each."""
        return {'counts': {'item': jnp.asarray(np.bincount(item, minlength=self.num_items), jnp.float32)}}

    def user_vectors(self, user: jax.Array, history: jax.Array) -> jax.Array:
        """1, for each user [B]: [B, 1]."""
        return jnp.ones((len(user), 1), jnp.float32)

    def item_vectors(self) -> jax.Array:
        """n / max n [I, 1]."""
        count = self.get_variable('counts', 'item')
        return (count / jnp.maximum(count.max(), 1))[:, None]

    def loss(self, user: jax.Array, item: jax.Array, negative: jax.Array, mask: jax.Array) -> jax.Array:
        """0: there is nothing to learn."""
        return jnp.float32(0)
