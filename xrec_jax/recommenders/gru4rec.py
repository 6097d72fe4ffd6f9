"""GRU4Rec (Hidasi et al. 2016) as RecBole 1.2.1 has it: a GRU over a history, projected to the items' space.

  r, z = sigmoid(W_r v_t + U_r h), sigmoid(W_z v_t + U_z h)
  n = tanh(W_n v_t + r * (U_n h))
  h <- (1 - z) n + z h                         the paper's z is 1 - z here
  x_t = W h + b
  score of item i after t = <x_t, v_i>         v shared with the input

Embedding 64, hidden 128, one layer, no bias in the GRU, dropout 0.3 on the embeddings and Xavier
initialisation are RecBole's; the paper has one-hot inputs, an output layer of its own, and ranking losses over
the other items of the batch. Trained by `sequences.softmax_cross_entropy` over all items, as RecBole does.

Easy to get wrong: the reset gate acts on U_n h, after the product, as in cuDNN and so in RecBole (the paper's
U (r * h) is another function). Pads are zero vectors and the GRU has no bias, so h is zero until the first item:
with a bias, pads on the left would change it.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.recommenders.predictor import History
from xrec_jax.recommenders.sequences import SequenceModel, SequencePredictor
from xrec_jax.recommenders.tables import table

_xavier = nn.initializers.xavier_uniform()
_xavier_normal = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')  # not truncated, as PyTorch's


class Recurrent(nn.Module):
    """Embedded items to states: dropout, GRU layers, a linear layer back to E."""

    embed_dim: int
    hidden: int
    layers: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """[B, L, E], zero at pads, with a mask [B, L] of what is none → states [B, L, E], zero at pads."""
        logical = nn.with_logical_partitioning
        x = Dropout(self.dropout, deterministic=not train)(x)
        for n in range(self.layers):
            # Columns: r, z, n.
            inputs = self.param(f'input_{n}', logical(_xavier, ('embed', 'mlp')), (x.shape[-1], 3 * self.hidden))
            recurrent = self.param(f'recurrent_{n}', logical(_xavier, ('embed', 'mlp')),
                                   (self.hidden, 3 * self.hidden))
            x = _gru(x @ inputs, recurrent)
        # PyTorch's default for a linear layer, which RecBole leaves as it is.
        uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
        bound = self.hidden ** -0.5
        bias = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
        x = nn.Dense(self.embed_dim, name='dense', kernel_init=logical(uniform, ('mlp', 'embed')),
                     bias_init=logical(bias, ('embed',)))(x)
        return x * mask[..., None]


def _gru(inputs: jax.Array, recurrent: jax.Array) -> jax.Array:
    """W x [B, L, 3H], U [H, 3H] → h [B, L, H]."""

    def step(h, of_x):
        (r_x, z_x, n_x), (r_h, z_h, n_h) = (jnp.split(a, 3, axis=-1) for a in (of_x, h @ recurrent))
        r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
        h = (1 - z) * jnp.tanh(n_x + r * n_h) + z * h
        return h, h

    start = jnp.zeros((len(inputs), recurrent.shape[0]), inputs.dtype)
    _, states = jax.lax.scan(step, start, inputs.swapaxes(0, 1))
    return states.swapaxes(0, 1)


class GRU4Rec(SequenceModel):
    """Ranks items; see `sequences` for what it offers."""

    hidden: int = 128
    layers: int = 1
    dropout: float = 0.3

    def setup(self):
        self.item_embedding = table(self, 'item_embedding', _xavier_normal, self.num_items,
                                    self.embed_dim, 'items', self.dtype)
        self.recurrent = Recurrent(self.embed_dim, self.hidden, self.layers, self.dropout)

    def states(self, items: jax.Array, train: bool = False) -> jax.Array:
        """int32 [B, L] → [B, L, E]; the state at a position predicts the next item."""
        return self.recurrent(self.embed(items), items > 0, train)


class GRU4RecPredictor(SequencePredictor):
    """Scores a target by the state after the history: logits [B]."""

    hidden: int = 128
    layers: int = 1
    encoder_dropout: float = 0.3

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B] from ids [B, F], attributes [B, A], explanations [B, K, d] and the history."""
        users, target, items, mask = self.look_up(ids, attributes, history)
        states = Recurrent(self.embed_dim, self.hidden, self.layers, self.encoder_dropout,
                           name='recurrent')(items, mask, train)
        return self.score(states[:, -1], users, target, text, train)
