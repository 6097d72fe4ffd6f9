"""What every CTR and rating model has in common: embeddings of fields, a place for explanations, an MLP.

A model is a `Predictor` whose `__call__(ids, attributes, text, history, train)` returns logits [B]. Ids
are of one shared vocabulary (`fields.Fields`), 0 = absent; users' fields come first. The parts here are
methods and not modules of their own, so that a model's parameters stand flat under their plain names.

`B` batch, `F` fields (Fu of the user, then Fi of the item), `A` values of the multi-valued field, `L`
items of history, `E` embedding, `K` explanations of `d` dimensions.
"""

import dataclasses
import functools
from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout


@functools.partial(jax.tree_util.register_dataclass, data_fields=['ids', 'attributes', 'liked', 'mask', 'context'],
                   meta_fields=[])
@dataclasses.dataclass(frozen=True)
class History:
    """The items before the target, oldest first, right-aligned; with the fields that the target has."""

    ids: jax.Array         # int32 [B, L, Fi], 0 where padded
    attributes: jax.Array  # int32 [B, L, A]
    liked: jax.Array       # bool [B, L]
    mask: jax.Array        # bool [B, L], False where padded
    context: jax.Array | None = None  # float32 [B, C], of the moment: `data.context`


class Predictor(nn.Module):
    """Base of the models; a subclass adds its own settings and `__call__`.

    Explanations z enter beside the hidden representation that the model's MLP reads (ExpCTR eq. 12).
    Encoders differ in scale and their vectors are far wider than the ids' embeddings, so each is scaled to
    a root mean square of 1 and, with `text_projection`, brought to that many dimensions. Neither has a bias:
    zero vectors stay zero, so no explanation, the ablation of eq. 13, is exactly z = 0.
    """

    vocab_size: int
    num_user_fields: int = 1  # Fu: ids[:, :Fu] are the user's
    embed_dim: int = 10
    mlp: Sequence[int] = (64, 32)
    dropout: float = 0.2
    text_dim: int = 0         # d of an encoded explanation; 0 = the model has no place for any
    num_texts: int = 1        # K explanations a row
    text_projection: int = 0  # dimensions after the projection; 0 = as the encoder made them
    text_projection_dropout: float = 0.0

    uses_history = False      # whether `__call__` wants `history`
    uses_words = False        # whether it learns from `words`, in training alone; with True `__call__` has that argument

    def __post_init__(self):
        for field in dataclasses.fields(self):  # a config's lists cannot be hashed
            if isinstance(value := getattr(self, field.name, None), list):
                object.__setattr__(self, field.name, tuple(value))
        super().__post_init__()

    def embeddings(self, ids: jax.Array, attributes: jax.Array) -> jax.Array:
        """v [B, F', E]: a field's embedding, zeros where it is absent; last the mean of the attributes', if A > 0.

        Leading axes may be more than one: [B, L, F] and [B, L, A] give [B, L, F', E].
        """
        table = self.param('embedding', nn.with_logical_partitioning(nn.initializers.normal(0.01), ('ids', None)),
                           (self.vocab_size, self.embed_dim))
        return pooled(table, ids, attributes)

    def weights(self, ids: jax.Array, attributes: jax.Array) -> jax.Array:
        """w [B, F']: the first-order weights, one a field, as `embeddings` has them."""
        table = self.param('weight', nn.with_logical_partitioning(nn.initializers.zeros, ('ids',)),
                           (self.vocab_size,))
        return pooled(table[:, None], ids, attributes)[..., 0]

    def bias(self) -> jax.Array:
        """w0, a scalar."""
        return self.param('bias', nn.initializers.zeros, ())

    def texts(self, text: jax.Array | None, batch: int, train: bool) -> jax.Array:
        """Explanations [B, K, d] (None: zeros) as features [B, K * d']; zeros for zeros; [B, 0] without `text_dim`."""
        if not self.text_dim:
            if text is not None:
                raise ValueError(f'text features for a {type(self).__name__} without a place for them: set text_dim')
            return jnp.zeros((batch, 0), jnp.float32)
        shape = (batch, self.num_texts, self.text_dim)
        text = jnp.zeros(shape, jnp.float32) if text is None else text.astype(jnp.float32)
        chex.assert_shape(text, shape)
        text *= jax.lax.rsqrt(jnp.mean(jnp.square(text), -1, keepdims=True) + 1e-12)
        if self.text_projection:
            text = dense(self.text_projection, (None, 'mlp'), 'text_projection', use_bias=False)(text)
        text = Dropout(self.text_projection_dropout, deterministic=not train)(text)
        return text.reshape(batch, -1)

    def deep(self, hidden: jax.Array, train: bool) -> jax.Array:
        """The MLP with ReLU and dropout, without an output layer: [B, D] → [B, mlp[-1]]."""
        for n, width in enumerate(self.mlp):
            hidden = dense(width, ('embed' if n == 0 else None, 'mlp'), f'mlp_{n}')(hidden)
            hidden = Dropout(self.dropout, deterministic=not train)(nn.relu(hidden))
        return hidden

    def out(self, hidden: jax.Array, name: str = 'mlp_out') -> jax.Array:
        """A linear layer to one logit: [B, D] → [B]."""
        return dense(1, ('mlp', None), name)(hidden)[..., 0]


def dense(width: int, axes: tuple[str | None, str | None], name: str | None, use_bias: bool = True) -> nn.Dense:
    """A linear layer whose kernel has the logical `axes`; `name` None where `setup` gives it one."""
    logical = nn.with_logical_partitioning
    return nn.Dense(width, use_bias=use_bias, name=name, kernel_init=logical(nn.initializers.lecun_normal(), axes),
                    bias_init=logical(nn.initializers.zeros, axes[1:]))


def pooled(table: jax.Array, ids: jax.Array, attributes: jax.Array) -> jax.Array:
    """Rows of `table` [V, E] by field: [..., F, E], with the mean over the attributes [..., A] as one more."""
    present = (ids > 0).astype(jnp.float32)
    rows = table[ids] * present[..., None]
    if attributes.shape[-1]:
        share = (attributes > 0).astype(jnp.float32)
        share /= jnp.maximum(share.sum(-1, keepdims=True), 1)
        mean = jnp.einsum('...A,...AE->...E', share, table[attributes])
        rows = jnp.concatenate([rows, mean[..., None, :]], axis=-2)
    return rows
