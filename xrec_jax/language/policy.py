"""The language model as a policy: log-probs, entropies and values of given responses.

One function, `evaluate`, serves the old policy, the new one and the reference (which is the same
model without an adapter), so the first minibatch's ratio is exactly 1.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp

from xrec_jax.language.decoder import Decoder, positions_of
from xrec_jax.rl.ppo import entropy_from_logits


@flax.struct.dataclass
class Evaluation:
    """All float32 [B, R], of response tokens; anything behind the mask."""

    log_probs: jax.Array
    entropy: jax.Array  # nats, of the distribution that the token was drawn from
    values: jax.Array  # of the state before the token; 0 without a value head


def init_value_head(hidden_size: int) -> dict:
    """A value head that says 0 everywhere."""
    return {'kernel': jnp.zeros((hidden_size,), jnp.float32), 'bias': jnp.zeros((), jnp.float32)}


def evaluate(
    model: Decoder,
    variables: dict,
    prompts: jax.Array,
    prompt_mask: jax.Array,
    responses: jax.Array,
    response_mask: jax.Array,
    *,
    temperature: float = 1.0,
    value_head: dict | None = None,
    prefix_embeddings: jax.Array | None = None,
) -> Evaluation:
    """Scores responses [B, R] to left-padded prompts [B, P], at the sampler's temperature.

    Logits and values of response token t are read one slot earlier, from the state before it. The
    gradient of `values` reaches the body (and so the adapter), as in TRL. At temperature 0 (greedy)
    the distribution is that of temperature 1.
    """
    chex.assert_rank([prompts, prompt_mask, responses, response_mask], 2)
    length = responses.shape[1]
    tokens = jnp.concatenate([prompts, responses], axis=1)
    mask = jnp.concatenate([prompt_mask, response_mask], axis=1)
    full_mask = mask
    if prefix_embeddings is not None:
        soft = jnp.ones(prefix_embeddings.shape[:2], bool)
        full_mask = jnp.concatenate([soft, mask], axis=1)
    hidden, _ = model.apply(variables, jnp.where(mask, tokens, 0), positions_of(full_mask), full_mask,
                            prefix_embeddings=prefix_embeddings)
    before = hidden[:, -length - 1:-1]
    logits = model.apply(variables, before, method='logits') / (temperature or 1.0)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    values = jnp.zeros(responses.shape, jnp.float32)
    if value_head is not None:
        values = before.astype(jnp.float32) @ value_head['kernel'] + value_head['bias']
    return Evaluation(
        log_probs=jnp.take_along_axis(log_probs, responses[..., None], axis=-1)[..., 0],
        entropy=entropy_from_logits(logits),
        values=values,
    )
