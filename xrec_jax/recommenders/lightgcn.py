"""LightGCN (He et al. 2020): embeddings smoothed over the graph of who met what.

  e^(0)    the only parameters: U + I rows, users' first
  e^(k+1)  = D^-1/2 A D^-1/2 e^(k)          A = [[0, R], [R^T, 0]], R_ui = 1 where u met i in training
  e        = (e^(0) + ... + e^(K)) / (K + 1)
  x_ui     = <e_u, e_i>
  loss     = BPR(x)  +  l2 / (2 B) sum (|e_u^(0)|^2 + |e_i^(0)|^2 + |e_j^(0)|^2)

Easy to get wrong: the normalisation is symmetric, 1 / sqrt(d_u d_i); there are no self-loops (layer 0 in the
mean takes their part), no weights and no activations; the mean has K + 1 layers; the penalty is on layer 0 of
the batch's rows, not on what the layers made of them. An interaction that repeats is one edge. A node
without edges keeps e^(0) / (K + 1).

The graph is data, not parameters: `constants` makes the collection 'graph', which `apply` takes beside the
parameters. Each node's neighbours stand in pieces of `_WIDTH`, filled up with a row of zeros: a piece is a
few gathers that XLA fuses with their sum, and only pieces are scattered. For ML-100k (196,228 directed edges of
64 dimensions) on two idle CPU cores that takes 0.6 ms a layer; a dense R and `segment_sum` over edges take many
times as long. The sum of all layers is a symmetric operator, so its gradient is itself: nothing is kept for the
way back.

Defaults are the paper's: 64 dimensions, Xavier (uniform), K = 3, l2 = 1e-4, learning rate 1e-3. RecBole 1.2.1
has K = 2, l2 = 1e-5, and the norms themselves in its penalty, l2 / B (|e_U| + |e_I| + |e_J|) of a batch's rows as
matrices (`require_pow=True` makes it the one above). `B` batch, `U` users, `I` items, `E` embedding, `N`
interactions, `L` history.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.recommenders.mf import bpr, half_squares
from xrec_jax.recommenders.tables import table

_WIDTH = 16  # neighbours in a piece
_INIT = nn.initializers.xavier_uniform()


class LightGCN(nn.Module):
    """Users and items as smoothed vectors whose product is the score."""

    num_users: int
    num_items: int
    embed_dim: int = 64
    num_layers: int = 3  # K
    l2: float = 1e-4
    dtype: Any = jnp.float32  # of the parameters and of the vectors to score by; layers are float32 in any case

    uses_history = False

    def constants(self, user: np.ndarray, item: np.ndarray) -> dict[str, dict[str, jax.Array]]:
        """The collection 'graph' of training interactions (user, item), [N] each."""
        return {'graph': make_graph(user, item, self.num_users, self.num_items)}

    def setup(self):
        self.user = table(self, 'user', _INIT, self.num_users, self.embed_dim, 'users', self.dtype)
        self.item = table(self, 'item', _INIT, self.num_items, self.embed_dim, 'items', self.dtype)

    def smoothed(self) -> jax.Array:
        """e [U + I, E], float32."""
        graph = [self.get_variable('graph', name) for name in ('neighbours', 'node', 'scale')]
        e0 = jnp.concatenate([self.user[:self.num_users], self.item[:self.num_items]]).astype(jnp.float32)
        return mean_of_layers(self.num_layers, e0, *graph)

    def user_vectors(self, user: jax.Array, history: jax.Array) -> jax.Array:
        """e_u [B, E] of users `user` [B]; `history` is not looked at."""
        return self.smoothed()[user].astype(self.dtype)

    def item_vectors(self) -> jax.Array:
        """e_i [I, E]."""
        return self.smoothed()[self.num_users:].astype(self.dtype)

    def loss(self, user: jax.Array, item: jax.Array, negative: jax.Array, mask: jax.Array) -> jax.Array:
        """The loss above, a scalar: u, i, j and the mask, all [B]."""
        e = self.smoothed()
        layer_0 = [row.astype(jnp.float32) for row in (self.user[user], self.item[item], self.item[negative])]
        return (bpr(e[user], e[self.num_users + item], e[self.num_users + negative], mask)
                + self.l2 * half_squares(*layer_0, mask))


def make_graph(user: np.ndarray, item: np.ndarray, num_users: int, num_items: int) -> dict[str, jax.Array]:
    """Neighbours int32 [pieces, 8] (U + I fills up), whose they are int32 [pieces], and D^-1/2 float32 [U + I]."""
    num_nodes = num_users + num_items
    edge = np.unique(np.asarray(user, np.int64) * num_items + item)
    user, item = edge // num_items, edge % num_items + num_users
    node, neighbour = np.concatenate([user, item]), np.concatenate([item, user])
    order = np.argsort(node, kind='stable')
    node, neighbour = node[order], neighbour[order]
    degree = np.bincount(node, minlength=num_nodes)
    num_pieces = -(-degree // _WIDTH)
    place = np.arange(len(node)) - np.repeat(np.cumsum(degree) - degree, degree)  # among the node's neighbours
    pieces = np.full((int(num_pieces.sum()), _WIDTH), num_nodes, np.int32)
    pieces[(np.cumsum(num_pieces) - num_pieces)[node] + place // _WIDTH, place % _WIDTH] = neighbour
    return {'neighbours': jnp.asarray(pieces),
            'node': jnp.asarray(np.repeat(np.arange(num_nodes), num_pieces), jnp.int32),
            'scale': jnp.asarray(np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0), jnp.float32)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mean_of_layers(num_layers: int, e0: jax.Array, neighbours: jax.Array, node: jax.Array, scale: jax.Array
                   ) -> jax.Array:
    """(e^(0) + ... + e^(K)) / (K + 1), [U + I, E], as e0 + Â (e0 + Â (e0 + ...)); `make_graph` has the rest."""
    total = e0
    for _ in range(num_layers):
        total = e0 + _layer(total, neighbours, node, scale)
    return total / (num_layers + 1)


def _layer(x: jax.Array, neighbours: jax.Array, node: jax.Array, scale: jax.Array) -> jax.Array:
    rows = jnp.concatenate([scale[:, None] * x, jnp.zeros((1, x.shape[1]), x.dtype)])
    pieces = sum(rows.at[neighbours[:, n]].get(mode='promise_in_bounds') for n in range(neighbours.shape[1]))
    return scale[:, None] * jax.ops.segment_sum(pieces, node, x.shape[0], indices_are_sorted=True,
                                                mode='promise_in_bounds')


def _forward(num_layers, e0, *graph):
    return mean_of_layers(num_layers, e0, *graph), graph


def _backward(num_layers, graph, gradient):
    return mean_of_layers(num_layers, gradient, *graph), None, None, None


mean_of_layers.defvjp(_forward, _backward)
