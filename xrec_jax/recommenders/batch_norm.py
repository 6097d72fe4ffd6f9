"""Batch normalisation (Ioffe and Szegedy 2015), and moments of a batch that a predictor keeps.

  BatchNorm(s)  = scale (s - E[s]) / sqrt(Var[s] + 1e-5) + bias

E and Var are the batch's in training, where gradients go through them, and moving averages otherwise, so that a
score does not depend on who else is scored. The averages lie in 'params', as leaves without a gradient: with
`train`, their next values are written to the collection 'statistics', under the same names, and
`training.run_epoch` puts them in place.

Momentum and epsilon are PyTorch's, and so RecBole's; its moving average is of the variance over n - 1, ours over n.
"""

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
    width = s.shape[-1:]
    mean = jax.lax.stop_gradient(module.param('mean', _logical(nn.initializers.zeros, ('mlp',)), width))
    variance = jax.lax.stop_gradient(module.param('variance', _logical(nn.initializers.ones, ('mlp',)), width))
    if not train:
        return mean, variance
    shown = jnp.ones(s.shape[:-1], bool) if mask is None else mask
    chex.assert_shape(shown, s.shape[:-1])
    share = shown / jnp.maximum(shown.sum(), 1)
    here_mean = jnp.einsum('...,...n->n', share, s)
    here_variance = jnp.einsum('...,...n->n', share, jnp.square(s - here_mean))
    if module.is_mutable_collection('statistics'):
        for name, old, new in (('mean', mean, here_mean), ('variance', variance, here_variance)):
            moved = momentum * old + (1 - momentum) * jax.lax.stop_gradient(new)
            module.put_variable('statistics', name, jnp.where(shown.any(), moved, old))
    return here_mean, here_variance


class BatchNorm(nn.Module):
    """[..., N] → [..., N], each of the N by itself."""

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, s: jax.Array, train: bool) -> jax.Array:
        mean, variance = moments(self, s, train, self.momentum)
        scale = self.param('scale', _logical(nn.initializers.ones, ('mlp',)), s.shape[-1:])
        bias = self.param('bias', _logical(nn.initializers.zeros, ('mlp',)), s.shape[-1:])
        return (s - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale + bias


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
