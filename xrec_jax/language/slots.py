"""Decoding a long queue of prompts in a few slots: a row whose response has ended takes the next prompt.

  `generate_queue`   all prompts → `Responses` on the host, in their order
  `stream`           the same, group after group, as they are finished

A plain batch takes as many steps as its longest response. Here B rows are decoded at once; as soon as G of
them have ended, one prefill fills them with the next G prompts of the queue. It pays where lengths are
unequal and the queue is several times longer than B: 1,024 responses of 1 to 128 tokens, 22 on average, take
2,488 steps in batches of 32, and 748 in 32 slots with G = 4 (bench/slots.py). Where all responses are about as
long, `generate.generate` does the same steps with less ado.

Per request the result is that of `generate.generate` on its prompt alone with the key `fold_in(key, i)`
(i: place in the queue), whatever slot it ran in, and when.

How it works. All rows share a ring of T = P + R cache slots: a step writes slot t mod T of every row, a
contiguous update. Keys are stored with their positions in them, so the order of slots says nothing, and a
prompt that arrives at step t is rolled to the P slots before it. `Slots.positions` says what each row may
see; a row's own slots are P + R - 1 at most, so they are used up only when it ends. Two programs are
compiled, `_refill` and `_decode`. Neither waits for the host: `_decode` stops by itself when G rows are
free, `_refill` finds them and hands out what they held.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.errors import UserError
from xrec_jax.language import stepping
from xrec_jax.language.attention import Cache, by_layer
from xrec_jax.language.decoder import Decoder, positions_of
from xrec_jax.language.generate import Responses, keys_at, seen_tokens, with_token
from xrec_jax.language.sampling import SamplingConfig, next_token
from xrec_jax.parallel import distributed, sharding

NOTHING = -1  # request of a free row; position of a slot that a row may not see


@flax.struct.dataclass
class Slots:
    """B rows at work on the device, over a ring of T cache slots."""

    cache: Cache | tuple[Cache, ...]  # [layers, B, kv heads, T, d], or of each layer
    positions: jax.Array  # int32 [B, T], of the token that a slot holds, or NOTHING
    slot: jax.Array  # int32 [], of the ring, that the next step writes
    steps: jax.Array  # int32 [], done so far
    request: jax.Array  # int32 [B], place in the queue, or NOTHING
    key: jax.Array  # keys [B], of the request
    prompt_length: jax.Array  # int32 [B]
    count: jax.Array  # int32 [B], tokens drawn
    token: jax.Array  # int32 [B], drawn last
    running: jax.Array  # bool [B]
    tokens: jax.Array  # int32 [B, R]
    log_probs: jax.Array  # float32 [B, R]
    seen: jax.Array | None  # bool [B, V], with a repetition penalty


@flax.struct.dataclass
class _Ended:
    """Rows of `Slots` that are free: what they held."""

    request: jax.Array  # int32 [G]
    count: jax.Array  # int32 [G]
    running: jax.Array  # bool [G], never
    tokens: jax.Array  # int32 [G, R]
    log_probs: jax.Array  # float32 [G, R]
    steps: jax.Array  # int32 []


@dataclasses.dataclass(frozen=True)
class Finished:
    """Some responses, on the host."""

    index: np.ndarray  # int32 [n], places of their prompts in the queue
    tokens: np.ndarray  # int32 [n, R]; anything behind the lengths
    lengths: np.ndarray  # int32 [n], the stop token counted
    truncated: np.ndarray  # bool [n], no stop token among the R
    log_probs: np.ndarray  # float32 [n, R]
    steps: int  # of decoding, done so far for the whole queue


def generate_queue(
    model: Decoder,
    variables: dict,
    tokens: np.ndarray,
    mask: np.ndarray,
    key: jax.Array,
    *,
    sampling: SamplingConfig,
    stop_ids: int | tuple[int, ...],
    num_slots: int,
    prefill_size: int,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[Responses, int]:
    """Writes one response to each prompt of a queue: `stream`, put in order.

    Args:
      advance: called with the number of responses whenever some are finished (`progress.bar`).

    Returns:
      `Responses` of NumPy arrays [N, R], in the order of the prompts, 0 behind the masks; and the steps of
      decoding that it took.
    """
    shape = (len(tokens), sampling.max_length)
    written, log_probs = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    lengths, truncated = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), bool)
    steps = 0
    for finished in stream(model, variables, tokens, mask, key, sampling=sampling, stop_ids=stop_ids,
                           num_slots=num_slots, prefill_size=prefill_size):
        written[finished.index], log_probs[finished.index] = finished.tokens, finished.log_probs
        lengths[finished.index], truncated[finished.index] = finished.lengths, finished.truncated
        steps = finished.steps
        advance(len(finished.index))
    valid = np.arange(sampling.max_length) < lengths[:, None]
    return Responses(np.where(valid, written, 0), valid, truncated, np.where(valid, log_probs, 0)), steps


def stream(
    model: Decoder,
    variables: dict,
    tokens: np.ndarray,
    mask: np.ndarray,
    key: jax.Array,
    *,
    sampling: SamplingConfig,
    stop_ids: int | tuple[int, ...],
    num_slots: int,
    prefill_size: int,
) -> Iterator[Finished]:
    """Yields the responses to a queue of prompts, some at a time, soon after they are finished.

    Args:
      variables: `{'params': base}`, with `'lora': adapter` to write with an adapter.
      tokens, mask: int [N, P], bool [N, P], padded on the left, on the host.
      key: request i is drawn with `fold_in(key, i)`.
      stop_ids: one stop token, or a tuple of several.
      num_slots: B, rows decoded at once.
      prefill_size: G, prompts prefilled at once. A free row waits until there are G, so a small G keeps rows
        busy, and a large one makes prefills dense; an eighth of B is a fair start.

    Raises:
      UserError: sizes that do not fit each other or the mesh.
    """
    mesh = model.config.mesh
    if not 1 <= prefill_size <= num_slots:
        raise UserError(f'prefill_size={prefill_size} should be from 1 to num_slots={num_slots}.')
    if mesh is not None:
        sharding.check_batch('num_slots', num_slots, mesh)
        sharding.check_batch('prefill_size', prefill_size, mesh)
    variables = stepping.prepared(model, variables, num_slots)
    settings = dict(model=model, sampling=sampling, stop_ids=stop_ids)
    state = _empty(variables, key, num_slots=num_slots, width=tokens.shape[1], **settings)
    underway = collections.deque()
    for start in range(0, len(tokens), prefill_size):
        # The last group is filled up with prompts that are nobody's.
        group = np.arange(start, start + prefill_size)
        rows = np.minimum(group, len(tokens) - 1)
        index = np.where(group < len(tokens), group, NOTHING).astype(np.int32)
        batch = (np.asarray(tokens[rows], np.int32), np.asarray(mask[rows], bool), index)
        batch = batch if mesh is None else sharding.place_batch(batch, mesh)
        state = _decode(variables, state, np.int32(prefill_size), **settings)
        state, ended = _refill(variables, state, *batch, key, **settings)
        underway.append(ended if jax.process_count() > 1 else jax.copy_to_host_async(ended))
        # The device is kept two groups ahead of the host.
        if len(underway) > 2:
            yield from _on_host(underway.popleft(), stop_ids)
    state = _decode(variables, state, np.int32(num_slots), **settings)
    underway.append(_held(state))
    while underway:
        yield from _on_host(underway.popleft(), stop_ids)


def _on_host(ended: _Ended, stop_ids: int | tuple[int, ...]) -> Iterator[Finished]:
    ended = distributed.whole(ended)
    real = ended.request != NOTHING
    if real.any():
        length = ended.count[real]
        last = np.take_along_axis(ended.tokens[real], length[:, None] - 1, axis=1)[:, 0]
        yield Finished(index=ended.request[real], tokens=ended.tokens[real], lengths=length,
                       truncated=~np.isin(last, stop_ids), log_probs=ended.log_probs[real], steps=int(ended.steps))


def _held(state: Slots, rows: jax.Array | slice = slice(None)) -> _Ended:
    return _Ended(**{field.name: getattr(state, field.name)[rows] for field in dataclasses.fields(_Ended)
                     if field.name != 'steps'}, steps=state.steps)


@functools.partial(jax.jit, static_argnames=('model', 'sampling', 'stop_ids', 'num_slots', 'width'))
def _empty(variables, key, *, model, sampling, stop_ids, num_slots, width) -> Slots:
    """B free rows, and a ring of width + max_length slots."""
    del stop_ids
    one = jnp.zeros((1, 1), jnp.int32)
    _, cache = jax.eval_shape(model.apply, variables, one, one, one > 0)
    ring = width + sampling.max_length

    def zeros(shape):
        *layers, _, heads, _, head_dim = shape.shape
        return jnp.zeros((*layers, num_slots, heads, ring, head_dim), shape.dtype)

    rows = lambda dtype, *shape: jnp.zeros((num_slots, *shape), dtype)
    seen = None if sampling.repetition_penalty == 1 else rows(bool, model.config.vocab_size)
    return _constrained(model, Slots(
        cache=jax.tree.map(zeros, cache), positions=rows(jnp.int32, ring) + NOTHING, slot=jnp.int32(0),
        steps=jnp.int32(0), request=rows(jnp.int32) + NOTHING, key=jnp.broadcast_to(key, (num_slots,)),
        prompt_length=rows(jnp.int32), count=rows(jnp.int32), token=rows(jnp.int32), running=rows(bool),
        tokens=rows(jnp.int32, sampling.max_length), log_probs=rows(jnp.float32, sampling.max_length), seen=seen))


@functools.partial(jax.jit, static_argnames=('model', 'sampling', 'stop_ids'), donate_argnames='state')
def _decode(variables, state, enough, *, model, sampling, stop_ids) -> Slots:
    """Steps until `enough` rows are free."""

    def step(state: Slots) -> Slots:
        position = jnp.maximum(state.prompt_length + state.count - 1, 0)
        positions = jax.lax.dynamic_update_slice(
            state.positions, jnp.where(state.running, position, NOTHING)[:, None], (0, state.slot))
        hidden, cache = model.apply(variables, state.token[:, None], position[:, None], (positions >= 0)[:, None],
                                    state.cache, state.slot, key_positions=positions)
        state = state.replace(cache=cache, positions=positions, steps=state.steps + 1,
                              slot=(state.slot + 1) % positions.shape[1])
        return _drawn(model, variables, state, hidden[:, -1], sampling, stop_ids)

    return _constrained(model, jax.lax.while_loop(lambda state: (~state.running).sum() < enough, step, state))


@functools.partial(jax.jit, static_argnames=('model', 'sampling', 'stop_ids'), donate_argnames='state')
def _refill(variables, state, tokens, mask, index, key, *, model, sampling, stop_ids) -> tuple[Slots, _Ended]:
    """Puts G prompts [G, P] into free rows, of which there are as many; returns also what these held."""
    (group, width), ring = tokens.shape, state.positions.shape[1]
    rows = jnp.argsort(state.running, stable=True)[:group]  # free ones first
    ended = _held(state, rows)
    positions = positions_of(mask)
    hidden, cache = stepping.prefill(model, variables, jnp.where(mask, tokens, 0), positions, mask)

    def rolled(x, axis):
        """To the slots before the one that is written next."""
        return jnp.roll(x, state.slot - width, axis=axis)

    empty = ring - width
    seen_at = jnp.pad(jnp.where(mask, positions, NOTHING), [(0, 0), (0, empty)], constant_values=NOTHING)
    grown = jax.tree.map(lambda x: rolled(x, -2), by_layer(lambda cache: cache.grown(empty), cache))
    new = Slots(
        cache=None, positions=rolled(seen_at, 1), slot=state.slot, steps=state.steps, request=index,
        key=keys_at(jnp.broadcast_to(key, (group,)), index), prompt_length=mask.sum(axis=1),
        count=jnp.zeros(group, jnp.int32), token=jnp.zeros(group, jnp.int32), running=index != NOTHING,
        tokens=jnp.zeros((group, sampling.max_length), jnp.int32),
        log_probs=jnp.zeros((group, sampling.max_length), jnp.float32),
        seen=seen_tokens(tokens, mask, model.config.vocab_size, sampling))
    new = _drawn(model, variables, new, hidden[:, -1], sampling, stop_ids)

    def put(old, new):
        return old.at[rows].set(new, unique_indices=True) if old.ndim else old

    kept = jax.tree.map(put, state.replace(cache=None), new)
    cache = jax.tree.map(lambda old, new: old.at[..., rows, :, :, :].set(new, unique_indices=True), state.cache, grown)
    return _constrained(model, kept.replace(cache=cache)), ended


def _drawn(model, variables, state: Slots, hidden, sampling: SamplingConfig, stop_ids) -> Slots:
    """With one more token in each running row, from the hidden states [B, D] before it."""
    stops = jnp.atleast_1d(jnp.asarray(stop_ids, jnp.int32))
    logits, vocab_axis = stepping.logits(model, variables, hidden)
    held_back = None
    if sampling.min_length > 1:
        early = (state.count + 1 < sampling.min_length)[:, None]
        held_back = early & jnp.isin(jnp.arange(model.config.vocab_size), stops)
    token, log_prob = next_token(keys_at(state.key, state.count), logits, sampling, seen=state.seen,
                                 held_back=held_back, vocab_axis=vocab_axis)
    here = state.running[:, None] & (jnp.arange(sampling.max_length) == state.count[:, None])
    count = state.count + state.running
    return state.replace(
        token=token, count=count, tokens=jnp.where(here, token[:, None], state.tokens),
        log_probs=jnp.where(here, log_prob[:, None], state.log_probs), seen=with_token(state.seen, token),
        running=state.running & ~jnp.isin(token, stops) & (count < sampling.max_length))


def _constrained(model: Decoder, state: Slots) -> Slots:
    """Rows split over the batch axes of the model's mesh, the cache also by its heads."""
    mesh = model.config.mesh
    rows = lambda x: sharding.constrain(x, ('batch', *[None] * (x.ndim - 1)) if x.ndim else (), mesh)
    axes = ('batch', 'kv_heads', None, None)
    cache = jax.tree.map(lambda x: sharding.constrain(x, (None,) * (x.ndim - 4) + axes, mesh), state.cache)
    return jax.tree.map(rows, state.replace(cache=None)).replace(cache=cache)
