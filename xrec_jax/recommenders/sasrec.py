"""SASRec (Kang and McAuley 2018): self-attention over a history, each position predicting the next item.

  x_t = LN(v_t + p_t)                                             v: items, p: learned positions
  x <- LN(x + O softmax(Q K^T / sqrt(E / heads)) V)               keys: real items at or before t
  x <- LN(x + W2 gelu(W1 x + b1) + b2)                            `layers` times the two
  score of item i after t = <x_t, v_i>                            v shared with the input

with dropout on x, on the attention's weights and on both branches. Defaults, post-norm, GELU (the exact one)
and LN of the sum at the input are RecBole 1.2.1's, which the project's figures are compared with; the paper
has pre-norm, ReLU, one head, an inner width of E, and v scaled by sqrt(E).

Easy to get wrong: the causal mask and the padding mask act together, not one of them (without the first a
state has seen the item it predicts, without the second it depends on how many pads there are); the state that
predicts is that of the last real item; pads are never a target.
"""

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError
from xrec_jax.recommenders.predictor import History
from xrec_jax.recommenders.sequences import SequenceModel, SequencePredictor, positions
from xrec_jax.recommenders.tables import table

NORMAL = nn.initializers.normal(0.02)


class Encoder(nn.Module):
    """The transformer of SASRec and, not causal, of BERT4Rec: embedded items to states."""

    causal: bool
    embed_dim: int
    max_length: int
    layers: int
    heads: int
    inner: int
    dropout: float
    attention_dropout: float
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool, last: bool = False) -> jax.Array:
        """[B, L, E] with a mask [B, L] of what is no pad → states [B, L, E], zero at pads.

        `last`: only that of the last position, [B, 1, E]; the last layer then asks for no other.
        """
        chex.assert_equal_shape_prefix([x, mask], 2)
        if self.embed_dim % self.heads:
            raise UserError(f'embed_dim={self.embed_dim} cannot be split over heads={self.heads}.')
        if mask.shape[1] > self.max_length:
            raise ValueError(f'{mask.shape[1]} positions for a model of max_length={self.max_length}')
        position = self.param('position_embedding', nn.with_logical_partitioning(NORMAL, (None, 'embed')),
                              (self.max_length, self.embed_dim))
        x = self._dropout(self._norm('norm', x + position[positions(mask)]), train)
        length = mask.shape[1]
        visible = jnp.broadcast_to(mask[:, None, :], (len(mask), length, length))  # [B, query, key]
        if self.causal:
            visible = visible & jnp.tril(jnp.ones((length, length), bool))
        for n in range(self.layers):
            mixed = self._attention(n, x, visible[:, -1:] if last and n == self.layers - 1 else visible, train)
            x = self._norm(f'attention_norm_{n}', x[:, -mixed.shape[1]:] + mixed)
            hidden = _linear(self.inner, ('embed', 'mlp'), f'inner_{n}')(x)
            hidden = _linear(self.embed_dim, ('mlp', 'embed'), f'outer_{n}')(gelu(hidden))
            x = self._norm(f'inner_norm_{n}', x + self._dropout(hidden, train))
        return x[:, -1:] * mask[:, -1:, None] if last else x * mask[..., None]

    def _attention(self, n: int, x: jax.Array, visible: jax.Array, train: bool) -> jax.Array:
        kernel, bias = _Projections((self.heads, self.embed_dim // self.heads), name=f'qkv_{n}')(x.shape[-1])
        attend = _attend_from_last if visible.shape[1] < x.shape[1] else _attend
        mixed = attend(x, kernel, bias, visible[:, None], Dropout(self.attention_dropout, deterministic=not train))
        mixed = _linear(self.embed_dim, ('heads', 'head_dim', 'embed'), f'attention_out_{n}', axis=(-2, -1))(mixed)
        return self._dropout(mixed, train)

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        return layer_norm(self.epsilon, name)(x)

    def _dropout(self, x: jax.Array, train: bool) -> jax.Array:
        return Dropout(self.dropout, deterministic=not train)(x)


class _Projections(nn.Module):
    """The matrices of queries, keys and values of H heads with D dimensions."""

    split: tuple[int, int]

    @nn.compact
    def __call__(self, features: int) -> tuple[jax.Array, jax.Array]:
        """W [E, 3, H, D] and b [3, H, D]."""
        axes, shape, logical = ('embed', None, 'heads', 'head_dim'), (3, *self.split), nn.with_logical_partitioning
        return (self.param('kernel', logical(NORMAL, axes), (features, *shape)),
                self.param('bias', logical(nn.initializers.zeros, axes[1:]), shape))


def _attend(x: jax.Array, kernel: jax.Array, bias: jax.Array, visible: jax.Array, dropout: Dropout) -> jax.Array:
    """[B, L, E], W [E, 3, H, D], b [3, H, D] and who sees whom [B, 1, L, L] → what each has seen [B, L, H, D]."""
    heads = jnp.einsum('BLE,EiHD->BLiHD', x, kernel) + bias
    # Heads first: the products are up to three times as fast on CPU.
    query, key, value = (heads[:, :, i].swapaxes(1, 2) for i in range(3))
    weights = dropout(_weights(jnp.einsum('BHqD,BHkD->BHqk', query, key), visible, query.shape[-1]))
    return jnp.einsum('BHqk,BHkD->BHqD', weights, value).swapaxes(1, 2)


def _attend_from_last(x: jax.Array, kernel: jax.Array, bias: jax.Array, visible: jax.Array, dropout: Dropout
                      ) -> jax.Array:
    """`_attend` of the last position, [B, 1, H, D], with `visible` [B, 1, 1, L].

    <q, W_k x_t> = <W_k^T q, x_t> and sum_t a_t W_v x_t = W_v sum_t a_t x_t: no other position has a key or a value of
    its own. b_k adds as much to all logits, so nothing to their softmax.
    """
    query = jnp.einsum('BqE,EHD->BHqD', x[:, -1:], kernel[:, 0]) + bias[0][:, None]
    logits = jnp.einsum('BHqE,BkE->BHqk', jnp.einsum('BHqD,EHD->BHqE', query, kernel[:, 1]), x)
    weights = dropout(_weights(logits, visible, query.shape[-1]))
    mixed = jnp.einsum('BHqE,EHD->BqHD', jnp.einsum('BHqk,BkE->BHqE', weights, x), kernel[:, 2])
    return mixed + weights.sum(-1).swapaxes(1, 2)[..., None] * bias[2]


def _weights(logits: jax.Array, visible: jax.Array, head_dim: int) -> jax.Array:
    # Finite, as a pad at the left edge sees nothing; its state is zeroed at the end.
    return jax.nn.softmax(jnp.where(visible, logits * head_dim ** -0.5, -1e9), axis=-1)


class SASRec(SequenceModel):
    """Ranks items; see `sequences` for what it offers."""

    layers: int = 2
    heads: int = 2
    inner: int = 256
    dropout: float = 0.5
    attention_dropout: float = 0.5
    epsilon: float = 1e-12

    def setup(self):
        self.item_embedding = table(self, 'item_embedding', NORMAL, self.num_items, self.embed_dim, 'items', self.dtype)
        self.encoder = Encoder(True, self.embed_dim, self.max_length, self.layers, self.heads, self.inner,
                               self.dropout, self.attention_dropout, self.epsilon)

    def states(self, items: jax.Array, train: bool = False) -> jax.Array:
        """int32 [B, L] → [B, L, E]; the state at a position predicts the next item."""
        return self.encoder(self.embed(items), items > 0, train)

    def last_state(self, items: jax.Array, train: bool = False) -> jax.Array:
        """int32 [B, L] → [B, E]; `states` of the last position alone."""
        return self.encoder(self.embed(items), items > 0, train, last=True)[:, -1]


class SASRecPredictor(SequencePredictor):
    """Scores a target by the state after the history: logits [B]."""

    layers: int = 2
    heads: int = 2
    inner: int = 256
    encoder_dropout: float = 0.5
    attention_dropout: float = 0.5
    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B] from ids [B, F], attributes [B, A], explanations [B, K, d] and the history."""
        users, target, items, mask = self.look_up(ids, attributes, history)
        states = Encoder(True, self.embed_dim, self.max_length, self.layers, self.heads, self.inner,
                         self.encoder_dropout, self.attention_dropout, self.epsilon,
                         name='encoder')(items, mask, train, last=True)
        return self.score(states[:, -1], users, target, text, train)


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), exact; by erf, which costs a CPU two thirds of `jax.nn.gelu`'s erfc."""
    return 0.5 * x * (1 + jax.lax.erf(x * 2 ** -0.5))


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """A layer norm whose variance is taken in two passes, as the published epsilon is below float32's rounding."""
    logical = nn.with_logical_partitioning
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name,
                        scale_init=logical(nn.initializers.ones, ('embed',)),
                        bias_init=logical(nn.initializers.zeros, ('embed',)))


def _linear(features: int | tuple[int, ...], axes: tuple[str | None, ...], name: str,
            axis: int | tuple[int, ...] = -1) -> nn.DenseGeneral:
    """A linear layer drawn from N(0, 0.02), whose kernel has the logical `axes`."""
    out = 1 if isinstance(features, int) else len(features)
    return nn.DenseGeneral(features, axis, name=name, kernel_init=nn.with_logical_partitioning(NORMAL, axes),
                           bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[-out:]))
