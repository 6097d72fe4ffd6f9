"""Decoding inside one `jit`: prefill, then a loop on the device that stops when every row has ended.

  `SamplingConfig`   temperature, top-k, top-p, lengths
  `next_token`       logits → one token a row, and its log-prob at the temperature alone
  `generate`         prompts → `Responses`

Prompts are padded on the left, responses start in the first slot behind them. Shapes are static:
the prompt's width and `max_length`; callers keep to a few widths, so nothing recompiles.
"""

import dataclasses
import functools
from collections.abc import Sequence

import chex
import flax.struct
import jax
import jax.numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language.decoder import Decoder, positions_of
from xrec_jax.rl.ppo import response_mask

IMPOSSIBLE = -1e30  # logit of a token that may not be drawn


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How responses are drawn; hashable, a static argument of `jit`."""

    max_length: int = 64  # tokens of a response, EOS among them
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # draw among the k likeliest tokens; 0: among all
    top_p: float = 1.0  # draw among the likeliest tokens that together have this probability
    min_length: int = 1  # tokens before EOS may be drawn, EOS among them

    def __post_init__(self):
        if not (self.max_length >= 1 and self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1
                and 0 <= self.min_length <= self.max_length):
            raise UserError(f'{self}: needs max_length >= 1, temperature >= 0, top_k >= 0, 0 < top_p <= 1 and '
                            'min_length <= max_length.')


@flax.struct.dataclass
class Responses:
    """What `generate` returns; a pytree."""

    tokens: jax.Array  # int32 [B, R]; anything behind the mask
    mask: jax.Array  # bool [B, R], up to and including the first EOS
    truncated: jax.Array  # bool [B], no EOS among the R tokens
    log_probs: jax.Array  # float32 [B, R], the sampler's own, at the temperature (greedy: at 1)

    @property
    def lengths(self) -> jax.Array:
        return self.mask.sum(axis=1)


def next_token(key: jax.Array, logits: jax.Array, sampling: SamplingConfig) -> tuple[jax.Array, jax.Array]:
    """Draws one token a row from float32 logits [B, V]: int32 [B], and log-probs float32 [B].

    The log-probs are those of softmax(logits / temperature), without top-k and top-p: PPO scores
    all policies by that distribution.
    """
    if sampling.temperature == 0:
        token = jnp.argmax(logits, axis=-1)
    else:
        logits = logits / sampling.temperature
        token = jax.random.categorical(key, _cut(logits, sampling))
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
    return token.astype(jnp.int32), log_probs


def _cut(logits: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """Logits with the tokens outside top-k and top-p made impossible."""
    if sampling.top_k:
        kept = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0]
        logits = jnp.where(logits < kept[:, -1:], IMPOSSIBLE, logits)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs  # mass of the likelier tokens
        lowest = jnp.min(ordered, axis=-1, keepdims=True, where=before < sampling.top_p, initial=jnp.inf)
        logits = jnp.where(logits < lowest, IMPOSSIBLE, logits)
    return logits


@functools.partial(jax.jit, static_argnames=('model', 'sampling', 'eos_id'))
def generate(
    model: Decoder,
    variables: dict,
    tokens: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    *,
    sampling: SamplingConfig,
    eos_id: int | Sequence[int],
    prefix_embeddings: jax.Array | None = None,
) -> Responses:
    """Writes one response to each prompt.

    Args:
      variables: `{'params': base}`, with `'lora': adapter` to write with an adapter.
      tokens, mask: int [B, P], bool [B, P], padded on the left.
      key: of all rows; token t is drawn with `fold_in(key, t)`.
      eos_id: one stop token, or a tuple of them.
      prefix_embeddings: [B, K, D], soft prompts before the tokens, or None.
    """
    chex.assert_rank([tokens, mask], 2)
    batch, width, length = tokens.shape[0], tokens.shape[1], sampling.max_length
    stops = jnp.atleast_1d(jnp.asarray(eos_id, jnp.int32))
    if prefix_embeddings is not None:
        prefix = prefix_embeddings.shape[1]
        mask = jnp.concatenate([jnp.ones((batch, prefix), bool), mask], axis=1)
        width += prefix
    positions = positions_of(mask)
    hidden, cache = model.apply(variables, jnp.where(mask[:, -tokens.shape[1]:], tokens, 0), positions, mask,
                                prefix_embeddings=prefix_embeddings)
    # Slots behind the current one are hidden by causality, so they may count as real from the start.
    seen = jnp.concatenate([mask, jnp.ones((batch, length), bool)], axis=1)
    prompt_length = mask.sum(axis=1)

    def draw(hidden, t):
        logits = model.apply(variables, hidden[:, -1], method='logits')
        early = (t + 1 < sampling.min_length) & jnp.isin(jnp.arange(logits.shape[-1]), stops)
        return next_token(jax.random.fold_in(key, t), jnp.where(early, IMPOSSIBLE, logits), sampling)

    def going_on(carry):
        t, _, _, _, ended, _ = carry
        return (t < length) & ~jnp.all(ended)

    def step(carry):
        t, written, log_probs, token, ended, cache = carry
        hidden, cache = model.apply(variables, token[:, None], (prompt_length + t - 1)[:, None], seen,
                                    cache, width + t - 1)
        token, log_prob = draw(hidden, t)
        return (t + 1, written.at[:, t].set(token), log_probs.at[:, t].set(log_prob), token,
                ended | jnp.isin(token, stops), cache)

    token, log_prob = draw(hidden, 0)
    written = jnp.zeros((batch, length), jnp.int32).at[:, 0].set(token)
    log_probs = jnp.zeros((batch, length), jnp.float32).at[:, 0].set(log_prob)
    carry = (1, written, log_probs, token, jnp.isin(token, stops), cache.grown(length))
    _, written, log_probs, _, _, _ = jax.lax.while_loop(going_on, step, carry)

    mask, truncated, _ = response_mask(written, eos_id)
    return Responses(tokens=written, mask=mask, truncated=truncated, log_probs=log_probs)
