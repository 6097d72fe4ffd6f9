"""AutoInt (Song et al. 2019): multi-head self-attention over the fields, with the deep part of AutoInt+.

  e_m^0      = v_m
  a_mk^h     = softmax_k <W_Q^h e_m, W_K^h e_k>                   weight of field k for field m, head h
  e_m'       = ReLU([sum_k a_mk^1 W_V^1 e_k; ...] + W_R e_m)      one interacting layer, all heads concatenated
  logit      = w^T [e_1; ...; e_F] + b  +  MLP([v_1; ...; v_F; z])  +  w0 + sum_f w_f

Explanations z go into the MLP, or without one beside the e of the last layer.

Fields are few and narrow, so a row's products are too small for a matrix routine. Within the layers the batch is
therefore the last axis: projections are one product over all rows and fields, and on a CPU `inner` and `mixed` sum
over what a row has elementwise.

Easy to get wrong: the residual and the ReLU belong to every layer; inner products are not divided by sqrt(d');
the softmax runs over k; the projections have no bias. An absent field is a zero vector, as a query and as a key.
RecBole 1.2.1 has PyTorch's attention between two linear layers instead (scaled, with biases, 16 dimensions of both
heads together), a ReLU after the last of three layers only, and by default no residual at all.
"""

import functools
from collections.abc import Callable, Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.recommenders.predictor import History, Predictor


class AutoInt(Predictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations.

    Layers, heads and d' are the paper's (section 5.1.4). The paper leaves open how wide the deep part is:
    RecBole's, as is the dropout. The paper's plain AutoInt is `mlp=()`, `linear=False`.
    """

    mlp: Sequence[int] = (128, 128)
    num_layers: int = 3
    num_heads: int = 2
    attention_dim: int = 32  # d' of one head; RecBole's `attention_size` is of all heads together
    linear: bool = True      # the first-order part w0 + sum_f w_f, which RecBole adds

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B]; arguments as `DeepFM` has them. `dropout` also acts on the attention weights."""
        chex.assert_rank([ids, attributes], 2)
        batch = len(ids)
        v = self.embeddings(ids, attributes)
        texts = self.texts(text, batch, train)

        fields = v.transpose(2, 1, 0)  # [E, F, B]
        for n in range(self.num_layers):
            fields = self._interact(fields, n, train)
        hidden = fields.transpose(2, 1, 0).reshape(batch, -1)
        if not self.mlp:
            hidden = jnp.concatenate([hidden, texts], axis=-1)
        logit = self.out(hidden, 'attention_out')
        if self.mlp:
            deep = Dropout(self.dropout, deterministic=not train)(v.reshape(batch, -1))
            logit += self.out(self.deep(jnp.concatenate([deep, texts], axis=-1), train))
        if self.linear:
            logit += self.bias() + self.weights(ids, attributes).sum(-1)
        return logit

    def _interact(self, fields: jax.Array, n: int, train: bool) -> jax.Array:
        """Interacting layer n: [D, F, B] → [heads * d', F, B]."""
        width, axes = self.num_heads * self.attention_dim, ('embed' if n == 0 else None, 'mlp')
        kernels = [Kernel((len(fields), width), axes, name=f'{name}_{n}')()
                   for name in ('query', 'key', 'value', 'residual')]
        projected = jnp.concatenate(kernels, axis=1).T @ fields.reshape(len(fields), -1)
        query, key, value, residual = (x.reshape(self.num_heads, self.attention_dim, *fields.shape[1:])
                                       for x in jnp.split(projected, 4))
        weights = jax.nn.softmax(inner(query, key), axis=2)
        weights = Dropout(self.dropout, deterministic=not train)(weights)
        return nn.relu(mixed(weights, value) + residual).reshape(width, *fields.shape[1:])


class Kernel(nn.Module):
    """The parameter of a linear layer without a bias, [in, out], as `dense` has it."""

    shape: tuple[int, int]
    axes: tuple[str | None, str | None]

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param('kernel', nn.with_logical_partitioning(nn.initializers.lecun_normal(), self.axes), self.shape)


# Products within a row; each is the other's derivative. `H` heads, `d` dimensions, `M` and `K` fields.


@jax.custom_vjp
def inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """sum_d x_dm y_dk: [H, d, M, B], [H, d, K, B] → [H, M, K, B]."""
    return _summed('HdMB,HdKB->HMKB', lambda x, y, d: x[:, d, :, None] * y[:, d, None], x.shape[1], x, y)


@jax.custom_vjp
def mixed(weights: jax.Array, y: jax.Array) -> jax.Array:
    """sum_k w_mk y_dk: [H, M, K, B], [H, d, K, B] → [H, d, M, B]."""
    return _summed('HMKB,HdKB->HdMB', lambda w, y, k: w[:, None, :, k] * y[:, :, k, None], y.shape[2], weights, y)


def _summed(equation: str, term: Callable, number: int, x: jax.Array, y: jax.Array) -> jax.Array:
    """`equation`; on a CPU the sum of `number` terms, one at a time.

    A loop, as XLA would otherwise fuse what comes before into the sum and compute it anew for each term, or what comes
    after, and go through the sum in an order that no vector instruction can take.
    """

    def one_by_one(x, y):
        zeros = jnp.zeros_like(term(x, y, 0))
        return jax.lax.fori_loop(0, number, lambda n, total: total + term(x, y, n), zeros)

    return jax.lax.platform_dependent(x, y, cpu=one_by_one, default=functools.partial(jnp.einsum, equation))


inner.defvjp(lambda x, y: (inner(x, y), (x, y)),
             lambda saved, g: (mixed(g, saved[1]), mixed(g.swapaxes(1, 2), saved[0])))
mixed.defvjp(lambda weights, y: (mixed(weights, y), (weights, y)),
             lambda saved, g: (inner(g, saved[1]), mixed(saved[0].swapaxes(1, 2), g)))
