"""How likely a model finds given tokens, without all logits in memory at once."""

import chex
import jax
import jax.numpy as jnp

CHUNK = 1024  # tokens that are read out together: over 128 k words 0.5 GB of logits


def token_log_probs(hidden: jax.Array, head: jax.Array, targets: jax.Array, bias: jax.Array | None = None,
                    scale: jax.Array | None = None, *, by_word: bool = True) -> jax.Array:
    """log softmax(hidden · head · scale + bias) at the targets, float32 [B, T].

    Args:
      hidden: [B, T, D], the states that foretell the targets; head: [V, D] if `by_word`, else [D, V].
      targets: int [B, T]; bias, scale: float [V] or None.
    """
    chex.assert_rank([hidden, targets], [3, 2])
    batch, length = targets.shape
    chunk = min(length, max(1, CHUNK // batch))
    steps = -(-length // chunk)
    pad = steps * chunk - length

    def columns(x):
        """[B, T, …] → [steps, B, chunk, …]: rows stay whole, on the devices that they lie on."""
        x = jnp.pad(x, ((0, 0), (0, pad), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(batch, steps, chunk, *x.shape[2:]), 1, 0)

    def one(part):
        states, wanted = part
        # The head is contracted as it is stored: a loop would be given a transposed copy.
        logits = jax.lax.dot_general(states, head, (((2,), (1 if by_word else 0,)), ((), ())),
                                     preferred_element_type=jnp.float32)
        logits = logits if scale is None else logits * scale
        logits = logits if bias is None else logits + bias
        picked = jnp.take_along_axis(logits, wanted[..., None], axis=-1)[..., 0]
        return picked - jax.nn.logsumexp(logits, axis=-1)

    found = jax.lax.map(one, (columns(hidden), columns(targets)))
    return jnp.moveaxis(found, 0, 1).reshape(batch, steps * chunk)[:, :length]


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean [B] of values [B, T] where mask [B, T] says so; NaN for a row without any."""
    return jnp.where(mask, values, 0).sum(axis=1) / mask.sum(axis=1)
