"""Losses of predictors and the scores by which training is stopped, on the device."""

import chex
import jax
import jax.numpy as jnp
import optax


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `values` [N] where `mask` [N] is 1; 0, not NaN, where nothing is."""
    chex.assert_equal_shape([values, mask])
    return jnp.sum(jnp.where(mask > 0, values, 0.0)) / jnp.maximum(jnp.sum(mask > 0), 1)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """L_CTR of ExpCTR eq. 3 and 15: mean over the mask of -y log s - (1 - y) log(1 - s), in nats.

    s = sigmoid(logits); computed from the logits, so it is finite for any finite logit.
    `logits`, `labels` (0 or 1) and `mask` are [N]; returns a scalar.
    """
    chex.assert_rank([logits, labels, mask], 1)
    chex.assert_equal_shape([logits, labels, mask])
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, labels), mask)


def squared_error(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the mask of (sigmoid(logits) - labels)^2; labels in [0, 1], a rating's place on its scale."""
    chex.assert_equal_shape([logits, labels, mask])
    return masked_mean(jnp.square(jax.nn.sigmoid(logits) - labels), mask)


def auc(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Area under the ROC curve in float32 by mid-ranks; NaN with one class.

    For early stopping within a `jit`; reported figures are `metrics.ctr.auc`'s.
    """
    chex.assert_rank([logits, labels], 1)
    ordered = jnp.sort(logits)
    below = jnp.searchsorted(ordered, logits, side='left')
    up_to = jnp.searchsorted(ordered, logits, side='right')
    positive = labels > 0.5
    num_positive = jnp.sum(positive)
    num_negative = labels.size - num_positive
    mid_rank = (below + up_to + 1) / 2
    # Mean before subtraction: sums of ranks outgrow float32's 24 bits, means do not.
    mean_rank = jnp.sum(jnp.where(positive, mid_rank / num_positive, 0.0))
    area = (mean_rank - (num_positive + 1) / 2) / num_negative
    return jnp.where((num_positive > 0) & (num_negative > 0), area, jnp.nan)


# (logits [N], labels [N], mask [N]) -> scalar.
OBJECTIVES = {'click': binary_cross_entropy, 'rating': squared_error}

# Higher is better: (logits [N], labels [N]) -> scalar.
MONITORS = {
    'log_loss': lambda logits, labels: -binary_cross_entropy(logits, labels, jnp.ones_like(labels)),
    'auc': auc,
    'rmse': lambda logits, labels: -jnp.sqrt(squared_error(logits, labels, jnp.ones_like(labels))),
    'mae': lambda logits, labels: -jnp.mean(jnp.abs(jax.nn.sigmoid(logits) - labels)),
}
