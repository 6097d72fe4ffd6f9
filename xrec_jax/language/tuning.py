"""The language-model loss: how a LLaMA learns texts, from scratch or through an adapter.

    loss = Σ w_t · −log p(x_t | x_<t) / Σ w_t,   w = 1 on the response, `prompt_weight` on the prompt

With `prompt_weight` 0 this is the conditional loss of instruction tuning (ExpCTR eq. 4).
"""

import jax
import jax.numpy as jnp
import optax

from xrec_jax.language.decoder import Decoder, positions_of


def language_loss(model: Decoder, variables: dict, batch: dict, prompt_weight: float) -> tuple[jax.Array, dict]:
    """Weighted next-token loss of a batch.

    Args:
      batch: `tokens` int [B, S], `mask` bool [B, S], `response` bool [B, S].

    Returns:
      the loss above, and metrics: nats per response token, share of response tokens that the model
      ranks first.
    """
    tokens, mask, response = batch['tokens'], batch['mask'], batch['response']
    hidden, _ = model.apply(variables, tokens, positions_of(mask), mask)
    logits = model.apply(variables, hidden[:, :-1], method='logits')
    targets = tokens[:, 1:]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    responded = response[:, 1:].astype(jnp.float32)
    weight = jnp.where(response[:, 1:], 1.0, prompt_weight) * mask[:, 1:]
    correct = jnp.argmax(logits, axis=-1) == targets
    count = jnp.maximum(responded.sum(), 1.0)
    metrics = {
        'response_loss': (loss * responded).sum() / count,
        'response_accuracy': (correct * responded).sum() / count,
    }
    return (loss * weight).sum() / jnp.maximum(weight.sum(), 1e-8), metrics
