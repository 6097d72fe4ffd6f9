"""Soft prompts: a consumer's embedding as virtual tokens before the prompt (RecPIE, section 2.1).

  `scaled`   the rating network's table E_c → embeddings of a size that does not depend on how that network was trained
  `init`     a projection that says nothing of the consumer yet
  `project`  e_i → K virtual tokens, what `Decoder` takes as `prefix_embeddings`

The paper prepends e_i itself and does not say how it gets the language model's width; here a learned linear layer
brings it there, K tokens at once. Its kernel is zero at first and its bias the embedding of the token that begins a
text: K more of those before the prompt change little, where vectors of zeros would be something no model has seen.
"""

import jax
import jax.numpy as jnp


def scaled(consumers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """E_c [U, E] divided by its root mean square, and that, float32 []; a table of zeros stays one."""
    size = jnp.sqrt(jnp.mean(jnp.square(consumers.astype(jnp.float32))) + 1e-12)
    return consumers / size, size


def init(embed_dim: int, num_tokens: int, first_token: jax.Array) -> dict:
    """The projection before training: kernel [E, K, D] of zeros, bias [K, D] = `first_token` [D], K times."""
    first_token = first_token.astype(jnp.float32)
    return {'kernel': jnp.zeros((embed_dim, num_tokens, *first_token.shape), jnp.float32),
            'bias': jnp.tile(first_token, (num_tokens, 1))}


def project(projection: dict, consumers: jax.Array) -> jax.Array:
    """e [B, E], scaled → virtual tokens float32 [B, K, D]."""
    return jnp.einsum('BE,EKD->BKD', consumers, projection['kernel']) + projection['bias']
