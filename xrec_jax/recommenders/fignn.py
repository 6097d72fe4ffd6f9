"""Fi-GNN (Li et al. 2019): the fields are nodes of a complete directed graph and pass messages along its edges.

  H^0   = ReLU([head_1; head_2; ...])       head = softmax_k(Q K^T / sqrt(d / heads)) V over the embeddings v
  A_ij  = softmax over j != i of LeakyReLU(w^T [h^0_i; h^0_j]),  A_ii = 0       edge from field i to field j
  a_i   = sum_j A_ji W_in^i W_out^j h_j + b          what reaches field i: matrices of its own for each field
  h_i   = GRU(h_i, a_i) + h^0_i                      `num_steps` times, with the same parameters
  logit = sum_i MLP_2([h_i; z]) MLP_1([h_i; z])      attentional scoring: a weight and a score of each field

Easy to get wrong: edges are directed and node i's outgoing weights sum to 1, so what comes in is A's column;
no node is its own neighbour; the residual is to h^0 and not to the state before; the scoring weights are no
softmax. RecBole 1.2.1 normalises what comes in, has linear layers around the attention and a residual beside it,
matrices W_in and W_out of their own for each step, and MLP_2 read all states at once.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError
from xrec_jax.recommenders.predictor import History, Predictor, dense


class FiGNN(Predictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations.

    Size of a state, heads, steps (its `n_layers` - 1), the depth of MLP_1 and MLP_2 (one linear layer each)
    and dropout are RecBole 1.2.1's; the paper tuned them by dataset.
    """

    mlp: Sequence[int] = ()  # hidden layers of MLP_1
    state_dim: int = 16      # d, of all heads together
    num_heads: int = 2
    num_steps: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads < 1 or self.state_dim % self.num_heads:
            raise UserError(f'state_dim={self.state_dim} and num_heads={self.num_heads}: heads should share the '
                            'state evenly.')

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B]; arguments as `DeepFM` has them. `dropout` acts on v and the attention weights."""
        chex.assert_rank([ids, attributes], 2)
        v = Dropout(self.dropout, deterministic=not train)(self.embeddings(ids, attributes))
        first = self._attend(v, train)
        # w^T [h_i; h_j] is one half of w on h_i and the other on h_j.
        source, target = (dense(1, ('mlp', None), f'edge_{end}', use_bias=False)(first)[..., 0]
                          for end in ('source', 'target'))
        states = self._propagate(first, edge_weights(source, target))

        texts = self.texts(text, len(ids), train)[:, None]
        texts = jnp.broadcast_to(texts, (*states.shape[:2], texts.shape[-1]))
        hidden = jnp.concatenate([states, texts], axis=-1)
        return (self.out(hidden, 'weight_out') * self.out(self.deep(hidden, train))).sum(-1)

    def _attend(self, v: jax.Array, train: bool) -> jax.Array:
        """H^0: [B, F, E] → [B, F, d]."""

        def heads(name):  # [B, F, heads, d / heads]
            x = dense(self.state_dim, ('embed', 'mlp'), name, use_bias=False)(v)
            return x.reshape(*v.shape[:2], self.num_heads, -1)

        query, key, value = heads('query'), heads('key'), heads('value')
        scores = jnp.einsum('bihd,bkhd->bhik', query, key) / jnp.sqrt(query.shape[-1])
        weights = Dropout(self.dropout, deterministic=not train)(jax.nn.softmax(scores, axis=-1))
        return nn.relu(jnp.einsum('bhik,bkhd->bihd', weights, value).reshape(*v.shape[:2], -1))

    def _propagate(self, first: jax.Array, edges: jax.Array) -> jax.Array:
        """States [B, F, d] after `num_steps` rounds of messages."""
        num_fields, dim = first.shape[1:]
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(batch_axis=0), (None, None, 'mlp'))
        send, receive = (nn.Einsum((num_fields, dim, dim), 'bid,ide->bie', use_bias=False, kernel_init=init, name=name)
                         for name in ('send', 'receive'))  # W_out, W_in
        bias = self.param('message_bias', nn.with_logical_partitioning(nn.initializers.zeros, ('mlp',)), (dim,))
        gates_in = dense(3 * dim, (None, 'mlp'), 'gru_input')
        gates_state = dense(3 * dim, (None, 'mlp'), 'gru_state')
        states = first
        for _ in range(self.num_steps):
            inbox = receive(jnp.einsum('bji,bjd->bid', edges, send(states))) + bias
            states = _gru(gates_in(inbox), gates_state(states), states) + first
        return states


def edge_weights(source: jax.Array, target: jax.Array) -> jax.Array:
    """A [B, F, F], from field (row) to field (column), by what either end [B, F] says of an edge."""
    scores = nn.leaky_relu(source[:, :, None] + target[:, None], 0.01)
    others = 1 - jnp.eye(source.shape[1])
    return jax.nn.softmax(jnp.where(others > 0, scores, -1e9), axis=-1) * others  # a field alone has no edge


def _gru(inputs: jax.Array, gates: jax.Array, state: jax.Array) -> jax.Array:
    """One step of a GRU from its two linear maps [..., 3 d] (update, reset, candidate) and its state [..., d]."""
    update, reset, candidate = jnp.split(inputs, 3, axis=-1)
    of_update, of_reset, of_candidate = jnp.split(gates, 3, axis=-1)
    update = nn.sigmoid(update + of_update)
    candidate = jnp.tanh(candidate + nn.sigmoid(reset + of_reset) * of_candidate)
    return (1 - update) * state + update * candidate
