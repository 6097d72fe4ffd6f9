"""How the next token is drawn from the logits.

  `SamplingConfig`        lengths, temperature, cuts, repetition penalty
  `next_token`            logits → one token a row, and its log-prob at the temperature alone
  `penalize_repetition`   logits, lower where a token was seen
  `greatest`              argmax, without its scalar loop
  `likeliest`             the threshold of top-p, without sorting the vocabulary

In the order in which transformers applies them: repetition penalty, stop tokens held back (`min_length`),
temperature, top-k, top-p, min-p.
"""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp

from xrec_jax.errors import UserError

IMPOSSIBLE = -1e30  # logit of a token that may not be drawn
BLOCK = 256  # words at most, of whose maxima `greatest` takes the first
_BITS_OF_ONE = 0x3F800000  # of the float32 1.0; the bits of floats >= 0 are in the order of the floats


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How responses are drawn; hashable, a static argument of `jit`."""

    max_length: int = 64  # tokens of a response, the stop token among them
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # draw among the k likeliest tokens; 0: among all
    top_p: float = 1.0  # draw among the likeliest tokens that together have this probability
    min_length: int = 1  # tokens before a stop token may be drawn, that one among them
    min_p: float = 0.0  # draw among tokens at least this likely, as a share of the likeliest one's probability
    repetition_penalty: float = 1.0  # above 1: tokens of the prompt and of the response so far are less likely

    def __post_init__(self):
        if not (self.max_length >= 1 and self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1
                and 0 <= self.min_length <= self.max_length and 0 <= self.min_p <= 1
                and self.repetition_penalty > 0):
            raise UserError(f'{self}: needs max_length >= 1, temperature >= 0, top_k >= 0, 0 < top_p <= 1, '
                            'min_length <= max_length, 0 <= min_p <= 1 and repetition_penalty > 0.')


def next_token(
    key: jax.Array,
    logits: jax.Array,
    sampling: SamplingConfig,
    *,
    seen: jax.Array | None = None,
    held_back: jax.Array | None = None,
    vocab_axis: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Draws one token a row.

    Args:
      key: one of all rows, or [B], one of each row.
      logits: float32 [B, V]; [V, B] with `vocab_axis` 0.
      seen: bool [B, V], tokens of the prompt and of the response so far; with a repetition penalty.
      held_back: bool [V] or [B, V], tokens that may not be drawn now, or None.

    Returns:
      tokens int32 [B], and their log-probs float32 [B]: those of softmax(logits / temperature) (greedy: at
      1), without penalty, held-back tokens and cuts, since PPO scores all policies by that distribution.
    """
    chex.assert_rank(logits, 2)
    scaled = logits / sampling.temperature if sampling.temperature else logits
    allowed = logits
    as_logits = lambda x: x if vocab_axis == 1 else jnp.atleast_2d(x).T
    if sampling.repetition_penalty != 1:
        allowed = penalize_repetition(allowed, as_logits(seen), sampling.repetition_penalty)
    if held_back is not None:
        allowed = jnp.where(as_logits(held_back), IMPOSSIBLE, allowed)
    if sampling.temperature == 0:
        token = greatest(allowed, vocab_axis)
    else:
        token = _draw(key, as_logits(allowed) / sampling.temperature, sampling)
    # log_softmax at one token: no array of log-probs.
    top = jnp.max(scaled, axis=vocab_axis, keepdims=True)
    picked = jnp.take_along_axis(scaled, jnp.expand_dims(token, vocab_axis), axis=vocab_axis) - top
    log_probs = picked - jnp.log(jnp.sum(jnp.exp(scaled - top), axis=vocab_axis, keepdims=True))
    return token.astype(jnp.int32), jnp.squeeze(log_probs, vocab_axis)


def greatest(logits: jax.Array, axis: int = 1) -> jax.Array:
    """The first of the greatest along an axis of [B, V] or [V, B], int32 [B]; V is at most 2²⁴.

    XLA on CPU compares the pairs of an argmax one after the other: fourteen times as long as these two passes, the
    second over places as floats, which have a vector minimum. With the vocabulary as axis 0 (CPU alone, see
    `stepping.logits`) one pass does, for the maxima of blocks; the second is over one block.
    """
    if axis == 0 and (size := math.gcd(BLOCK, len(logits))) > 1:
        blocks = logits.reshape(-1, size, logits.shape[1])
        block = greatest(blocks.max(axis=1), 0)
        return block * size + greatest(blocks[block, :, jnp.arange(len(block))])
    last = logits.shape[axis] - 1
    places = jnp.expand_dims(jnp.arange(last + 1, dtype=jnp.float32), 1 - axis)
    top = jnp.max(logits, axis=axis, keepdims=True)
    return jnp.min(jnp.where(logits >= top, places, last), axis=axis).astype(jnp.int32)


def penalize_repetition(logits: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Logits [B, V] with those of `seen` tokens divided by the penalty, or times it where negative.

    Keskar et al. 2019 (arXiv 1909.05858), in the form of transformers' RepetitionPenaltyLogitsProcessor.
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def _draw(key: jax.Array, logits: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """Token ids [B] from logits [B, V] at the temperature, after the cuts."""
    categorical = jax.vmap(jax.random.categorical) if key.ndim else jax.random.categorical
    if not 0 < sampling.top_k < logits.shape[-1]:
        return categorical(key, _cut(logits, sampling))
    # Noise for k candidates, not for the vocabulary.
    logits, ids = jax.lax.top_k(logits, sampling.top_k)
    chosen = categorical(key, _cut(logits, sampling))
    return jnp.take_along_axis(ids, chosen[:, None], axis=-1)[:, 0]


def _cut(logits: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """Logits [B, C] with the tokens outside top-p and min-p made impossible."""
    if sampling.top_p == 1 and sampling.min_p == 0:
        return logits
    shares = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))  # of the likeliest token's probability
    lowest = jnp.full_like(shares[:, :1], sampling.min_p)
    if sampling.top_p < 1:
        lowest = jnp.maximum(lowest, likeliest(shares, sampling.top_p))
    return jnp.where(shares < lowest, IMPOSSIBLE, logits)


def likeliest(shares: jax.Array, top_p: float) -> jax.Array:
    """The smallest share [B, 1] among the likeliest tokens that together have the probability `top_p`.

    shares: float32 [B, C] in [0, 1], proportional to the probabilities, 1 of the likeliest. A token belongs to
    them where those that are likelier (not equally likely ones) have less than `top_p`. Halving the range of
    float32 thirty times finds the threshold exactly, for a twentieth of what sorting 32,000 words takes on CPU.
    """
    goal = top_p * jnp.sum(shares, axis=-1, keepdims=True)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        threshold = jax.lax.bitcast_convert_type(middle, jnp.float32)
        enough = jnp.sum(jnp.where(shares > threshold, shares, 0.0), axis=-1, keepdims=True) < goal
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low = jnp.zeros((shares.shape[0], 1), jnp.int32)
    low, _ = jax.lax.fori_loop(0, 30, halve, (low, jnp.full_like(low, _BITS_OF_ONE)))
    return jax.lax.bitcast_convert_type(low, jnp.float32)
