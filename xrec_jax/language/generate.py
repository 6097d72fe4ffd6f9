"""Decoding inside one `jit`: prefill, then a loop on the device that stops when every row has ended.

  `generate`   prompts → `Responses`; `sampling.py` says how tokens are drawn

Prompts are padded on the left, responses start in the first slot behind them. Shapes are static:
the prompt's width and `max_length`; callers keep to a few widths, so nothing recompiles. A batch takes
as long as its longest response; `slots.py` decodes long queues without that.
"""

import functools
from collections.abc import Sequence

import chex
import flax.struct
import jax
import jax.numpy as jnp

from xrec_jax.language import stepping
from xrec_jax.language.attention import Cache, by_layer
from xrec_jax.language.decoder import Decoder, positions_of
from xrec_jax.language.sampling import SamplingConfig, next_token
from xrec_jax.rl.ppo import response_mask


@flax.struct.dataclass
class Responses:
    """What `generate` returns; a pytree."""

    tokens: jax.Array  # int32 [B, R]; anything behind the mask
    mask: jax.Array  # bool [B, R], up to and including the first stop token
    truncated: jax.Array  # bool [B], no stop token among the R
    log_probs: jax.Array  # float32 [B, R], the sampler's own: see `sampling.next_token`

    @property
    def lengths(self) -> jax.Array:
        return self.mask.sum(axis=1)


@flax.struct.dataclass
class _Loop:
    """What a step of decoding hands to the next."""

    t: jax.Array  # int32 [], tokens drawn so far
    tokens: jax.Array  # int32 [B, R]
    log_probs: jax.Array  # float32 [B, R]
    token: jax.Array  # int32 [B], drawn last
    ended: jax.Array  # bool [B]
    cache: Cache | tuple[Cache, ...]
    seen: jax.Array | None  # bool [B, V], tokens so far; only with a repetition penalty


@functools.partial(jax.jit, static_argnames=('model', 'sampling', 'stop_ids', 'num_samples'))
def generate(
    model: Decoder,
    variables: dict,
    tokens: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    *,
    sampling: SamplingConfig,
    stop_ids: int | Sequence[int],
    num_samples: int = 1,
    prefix_embeddings: jax.Array | None = None,
) -> Responses:
    """Writes `num_samples` responses to each prompt.

    Args:
      variables: `{'params': base}`, with `'lora': adapter` to write with an adapter; or `stepping.prepared` of these,
        which saves time where several batches are written.
      tokens, mask: int [B, P], bool [B, P], padded on the left.
      key: one of all responses, or [B · num_samples], one of each; token t is drawn with `fold_in(key, t)`.
      stop_ids: one stop token, or a tuple of several.
      num_samples: responses to a prompt; they share its prefill.
      prefix_embeddings: [B, K, D], soft prompts before the tokens, or None.

    Returns:
      `Responses` of B · num_samples rows: those of the first prompt, then those of the second, …
    """
    chex.assert_rank([tokens, mask], 2)
    batch, width, length = tokens.shape[0], tokens.shape[1], sampling.max_length
    stops = jnp.atleast_1d(jnp.asarray(stop_ids, jnp.int32))
    token_mask = mask
    if prefix_embeddings is not None:
        prefix = prefix_embeddings.shape[1]
        mask = jnp.concatenate([jnp.ones((batch, prefix), bool), mask], axis=1)
        width += prefix
    variables = stepping.prepare(model, variables, batch * num_samples)
    hidden, cache = stepping.prefill(model, variables, jnp.where(token_mask, tokens, 0), positions_of(mask), mask,
                                     prefix_embeddings)
    if num_samples > 1:
        tokens, token_mask, mask, hidden = jax.tree.map(
            lambda x: jnp.repeat(x, num_samples, axis=0), (tokens, token_mask, mask, hidden))
        cache = by_layer(lambda cache: cache.repeated(num_samples), cache)
        batch *= num_samples
    # Slots behind the current one are hidden by causality, so they may count as real from the start.
    visible = jnp.concatenate([mask, jnp.ones((batch, length), bool)], axis=1)
    prompt_length = mask.sum(axis=1)

    def draw(hidden, t, seen):
        logits, vocab_axis = stepping.logits(model, variables, hidden[:, -1])
        held_back = None
        if sampling.min_length > 1:
            held_back = (t + 1 < sampling.min_length) & jnp.isin(jnp.arange(model.config.vocab_size), stops)
        return next_token(keys_at(key, t), logits, sampling, seen=seen, held_back=held_back, vocab_axis=vocab_axis)

    def going_on(loop):
        return (loop.t < length) & ~jnp.all(loop.ended)

    def step(loop):
        t = loop.t
        hidden, cache = model.apply(variables, loop.token[:, None], (prompt_length + t - 1)[:, None], visible,
                                    loop.cache, width + t - 1)
        token, log_prob = draw(hidden, t, loop.seen)
        return _Loop(t + 1, loop.tokens.at[:, t].set(token), loop.log_probs.at[:, t].set(log_prob), token,
                     loop.ended | jnp.isin(token, stops), cache, with_token(loop.seen, token))

    seen = seen_tokens(tokens, token_mask, model.config.vocab_size, sampling)
    token, log_prob = draw(hidden, 0, seen)
    loop = jax.lax.while_loop(going_on, step, _Loop(
        t=jnp.int32(1),
        tokens=jnp.zeros((batch, length), jnp.int32).at[:, 0].set(token),
        log_probs=jnp.zeros((batch, length), jnp.float32).at[:, 0].set(log_prob),
        token=token, ended=jnp.isin(token, stops), cache=by_layer(lambda cache: cache.grown(length), cache),
        seen=with_token(seen, token)))
    mask, truncated, _ = response_mask(loop.tokens, stop_ids)
    return Responses(tokens=loop.tokens, mask=mask, truncated=truncated, log_probs=loop.log_probs)


def keys_at(key: jax.Array, t: jax.Array) -> jax.Array:
    """`fold_in(key, t)` of one key, or of each of [B] keys with t, int [] or [B]."""
    if key.ndim == 0:
        return jax.random.fold_in(key, t)
    return jax.vmap(jax.random.fold_in)(key, jnp.broadcast_to(t, key.shape))


def seen_tokens(tokens: jax.Array, mask: jax.Array, vocab_size: int, sampling: SamplingConfig) -> jax.Array | None:
    """Which tokens each prompt holds, bool [B, V]; None without a repetition penalty."""
    if sampling.repetition_penalty == 1:
        return None
    rows = jnp.arange(tokens.shape[0])[:, None]
    return jnp.zeros((tokens.shape[0], vocab_size), bool).at[rows, jnp.where(mask, tokens, 0)].max(mask)


def with_token(seen: jax.Array | None, token: jax.Array) -> jax.Array | None:
    """`seen` [B, V] with one more token a row [B]."""
    return None if seen is None else seen.at[jnp.arange(token.shape[0]), token].set(True)
