"""Batch normalisation (Ioffe and Szegedy 2015), and moments of a batch that a predictor keeps.

  BatchNorm(s)  = scale (s - E[s]) / sqrt(Var[s] + 1e-5) + bias

E and Var are the batch's in training, where gradients go through them, and moving averages otherwise, so that a
score does not depend on who else is scored. The averages lie in 'params', as leaves without a gradient: with
`train`, their next values are written to the collection 'statistics', under the same names, and
`training.run_epoch` puts them in place.

Momentum and epsilon are PyTorch's, and so RecBole's; its moving average is of the variance over n - 1, ours over n.
"""

import functools

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.recommenders.predictor import Predictor, dense

_logical = nn.with_logical_partitioning


def moments(module: nn.Module, s: jax.Array, train: bool, momentum: float, mask: jax.Array | None = None
            ) -> tuple[jax.Array, jax.Array]:
    """E and Var [N] of s [..., N] over the leading axes, where `mask` [...] is True: 'mean', 'variance' of `module`.

    An average moves to `momentum` of itself and 1 - `momentum` of the batch's; not at all where nothing is shown.
    """
    averages = _averages(module, s.shape[-1:])
    if not train:
        return averages
    shown = jnp.ones(s.shape[:-1], bool) if mask is None else mask
    chex.assert_shape(shown, s.shape[:-1])
    share = shown / jnp.maximum(shown.sum(), 1)
    mean = jnp.einsum('...,...n->n', share, s)
    variance = jnp.einsum('...,...n->n', share, jnp.square(s - mean))
    _move(module, averages, (mean, variance), momentum, shown.any())
    return mean, variance


def _averages(module: nn.Module, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return (jax.lax.stop_gradient(module.param('mean', _logical(nn.initializers.zeros, ('mlp',)), shape)),
            jax.lax.stop_gradient(module.param('variance', _logical(nn.initializers.ones, ('mlp',)), shape)))


def _move(module: nn.Module, averages: tuple[jax.Array, jax.Array], here: tuple[jax.Array, jax.Array],
          momentum: float, where: jax.Array | bool = True) -> None:
    if module.is_mutable_collection('statistics'):
        for name, old, new in zip(('mean', 'variance'), averages, here):
            moved = momentum * old + (1 - momentum) * jax.lax.stop_gradient(new)
            module.put_variable('statistics', name, jnp.where(where, moved, old))


class BatchNorm(nn.Module):
    """[..., N] → [..., N], each of the N by itself."""

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, s: jax.Array, train: bool) -> jax.Array:
        width = s.shape[-1:]
        mean, variance = _averages(self, width)
        scale = self.param('scale', _logical(nn.initializers.ones, ('mlp',)), width)
        bias = self.param('bias', _logical(nn.initializers.zeros, ('mlp',)), width)
        if not train:
            return (s - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale + bias
        rows, here = normalised(s.reshape(-1, *width), scale, bias, self.epsilon)
        _move(self, (mean, variance), here, self.momentum)
        return rows.reshape(s.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalised(s: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
               ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rows [B, N] normalised, and their E and Var [N], through which no gradient goes.

    The derivative is written out, with sums over rows as products with a vector of ones: those that XLA makes of the
    formula by itself take a CPU ten times as long.
    """
    return _normalised(s, scale, bias, epsilon)[0]


def _normalised(s, scale, bias, epsilon):
    mean = _sum_of_rows(s) / len(s)
    variance = _sum_of_rows(jnp.square(s - mean)) / len(s)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return ((s - mean) * (inverse * scale) + bias, (mean, variance)), (s, mean, inverse, scale)


def _normalised_gradient(epsilon, saved, gradients):
    del epsilon
    (s, mean, inverse, scale), (g, _) = saved, gradients
    standard = (s - mean) * inverse
    of_bias, of_scale = _sum_of_rows(g), _sum_of_rows(g * standard)
    return (g - (of_bias + standard * of_scale) / len(s)) * (inverse * scale), of_scale, of_bias


def _sum_of_rows(x: jax.Array) -> jax.Array:
    return jnp.ones(len(x), x.dtype) @ x


normalised.defvjp(_normalised, _normalised_gradient)


class BatchNormPredictor(Predictor):
    """Base of the models whose MLP normalises before each activation."""

    batch_norm: bool = True

    def deep(self, hidden: jax.Array, train: bool) -> jax.Array:
        """The MLP as `Predictor` has it, each layer normalised before its ReLU: [B, D] → [B, mlp[-1]]."""
        for n, width in enumerate(self.mlp):
            hidden = dense(width, ('embed' if n == 0 else None, 'mlp'), f'mlp_{n}')(hidden)
            hidden = nn.relu(self.normalised(hidden, f'mlp_{n}_norm', train))
            hidden = Dropout(self.dropout, deterministic=not train)(hidden)
        return hidden

    def normalised(self, hidden: jax.Array, name: str, train: bool) -> jax.Array:
        """Batch-normalised if the model does so: [..., N] → [..., N]."""
        return BatchNorm(name=name)(hidden, train) if self.batch_norm else hidden
