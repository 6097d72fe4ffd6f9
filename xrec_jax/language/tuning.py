"""The language-model loss: how a decoder learns texts, from scratch or through an adapter.

    loss = Σ w_t · −log p(x_t | x_<t) / Σ w_t,   w = 1 on the response, `prompt_weight` on the prompt

With `prompt_weight` 0 this is the conditional loss of instruction tuning (ExpCTR eq. 4, LLMXRec eq. 2 and 3).

  `language_loss`    of a batch of one text a row, for any weights: pretraining, probes
  `packed_loss`      of a microbatch of `packing.pack`, for an adapter on a frozen base: its sums
  `Optimizer`, `tune_step`   one optimizer step on a batch of microbatches
  `evaluate`         the same sums without a step

`packed_loss` reads out only tokens that count, a few hundred at a time, and makes the gradient of their hidden states
at once, while their logits are at hand: so the logits of a whole batch (gigabytes in float32) never exist, nor are
they computed twice.
"""

import dataclasses
import functools
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from xrec_jax.errors import UserError, nearest
from xrec_jax.language.decoder import Decoder, head_product, positions_of
from xrec_jax.language.packing import Packed

CHUNK = 512  # tokens that are read out together
SCHEDULES = ('linear', 'cosine', 'constant')


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


# ------------------------------------------------------------------------------------ packed rows


@flax.struct.dataclass
class Sums:
    """Of many tokens; all float32 scalars. Sums of microbatches add up, means of means would not be the loss."""

    loss: jax.Array  # Σ w · nats
    weight: jax.Array  # Σ w
    response_loss: jax.Array  # Σ nats of response tokens
    response: jax.Array  # how many there are
    correct: jax.Array  # of those, how many the model ranks first

    @classmethod
    def zeros(cls) -> 'Sums':
        return cls(*(np.zeros((), np.float32) for _ in dataclasses.fields(cls)))

    def __add__(self, other: 'Sums') -> 'Sums':
        return jax.tree.map(jnp.add, self, other)

    def metrics(self) -> dict[str, float]:
        """loss: the objective; response_loss: nats a response token; response_accuracy. On the host."""
        sums = jax.tree.map(float, jax.device_get(self))
        count = max(sums.response, 1)
        return {'loss': sums.loss / max(sums.weight, 1e-8),
                'response_loss': sums.response_loss / count, 'response_accuracy': sums.correct / count}


def packed_loss(model: Decoder, base: Any, adapter: Any, batch: Packed, prompt_weight: float,
                dropout: jax.Array | None = None) -> tuple[jax.Array, Sums]:
    """Σ w · nats over a microbatch (fields [B, S]), and all sums; only `adapter` has a gradient, and only of the first.

    Args:
      base: frozen weights. adapter: LoRA pairs, or None for the base model.
      dropout: key for the adapter's dropout; None for none.
    """
    chex.assert_rank([batch.tokens, batch.segments, batch.positions, batch.response], 2)
    base = jax.lax.stop_gradient(base)
    variables = {'params': base} if adapter is None else {'params': base, 'lora': adapter}
    segments = batch.segments
    hidden, _ = model.apply(variables, batch.tokens, batch.positions, segments,
                            rngs=None if dropout is None else {'dropout': dropout})
    head, scale = model.apply({'params': base}, method='head')
    # The token of slot t is foretold by slot t - 1; the first of a segment by nothing.
    follows = jnp.pad(segments[:, 1:], ((0, 0), (0, 1))) == segments
    foretold = follows & (segments > 0)
    response = jnp.pad(batch.response[:, 1:], ((0, 0), (0, 1))) & foretold
    weight = jnp.where(response, 1.0, prompt_weight) * foretold
    targets = jnp.pad(batch.tokens[:, 1:], ((0, 0), (0, 1)))
    sums = read_out(hidden, head, scale, targets, weight, response, max(1, CHUNK // len(targets)),
                    model.config.tie_word_embeddings)
    return sums.loss, sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def read_out(hidden: jax.Array, head: jax.Array, scale: jax.Array | None, targets: jax.Array, weight: jax.Array,
             response: jax.Array, chunk: int, by_word: bool) -> Sums:
    """Cross-entropy of softmax(hidden · head · scale) with `targets`, where `weight` is not 0.

    Args:
      hidden: [B, S, D]; head: [D, V], or [V, D] if `by_word`, frozen: it gets no gradient.
      scale: float32 [V] or None; targets: int [B, S]; weight: float32 [B, S]; response: bool [B, S].
      chunk: slots of each row that are read out together.
    """
    return _read_out(hidden, head, scale, targets, weight, response, chunk, by_word, False)[0]


def _read_out(hidden, head, scale, targets, weight, response, chunk, by_word, with_gradient):
    """Sums, and the gradient of `loss` by hidden if asked, else None.

    The slots that count are brought to the front of their rows, so that a loop over columns ends where the longest
    row does.
    """
    batch, length, width = hidden.shape
    chunk = min(chunk, length)
    counts = weight != 0
    columns = -(-length // chunk) * chunk
    front = jnp.pad(jnp.argsort(~counts, axis=1, stable=True), ((0, 0), (0, columns - length)))
    take = lambda x: jnp.take_along_axis(x, front, axis=1)
    targets, weight, response = take(targets), take(jnp.where(counts, weight, 0)), take(response & counts)
    valid = jnp.arange(columns) < counts.sum(axis=1, keepdims=True)
    weight, response = weight * valid, response & valid
    num_chunks = -(-counts.sum(axis=1).max() // chunk)

    def step(at, carry):
        sums, gradient = carry
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, at * chunk, chunk, axis=1)
        h = jnp.take_along_axis(hidden, cut(front)[..., None], axis=1)
        target, w, r = cut(targets)[..., None], cut(weight), cut(response).astype(jnp.float32)
        logits = head_product(h, head, 1 if by_word else 0)
        if scale is not None:
            logits = logits * scale
        highest = logits.max(axis=-1, keepdims=True)
        chosen = jnp.take_along_axis(logits, target, axis=-1)
        log_total = highest + jnp.log(jnp.exp(logits - highest).sum(axis=-1, keepdims=True))
        nats = (log_total - chosen)[..., 0]
        right = (chosen >= highest)[..., 0]
        sums += Sums((nats * w).sum(), w.sum(), (nats * r).sum(), r.sum(), (right * r).sum())
        if with_gradient:
            hit = jnp.arange(logits.shape[-1]) == target
            by_logits = (jnp.exp(logits - log_total) - hit) * w[..., None]
            if scale is not None:
                by_logits = by_logits * scale
            by_hidden = head_product(by_logits.astype(head.dtype), head, 0 if by_word else 1)
            gradient = jax.lax.dynamic_update_slice_in_dim(gradient, by_hidden.astype(hidden.dtype), at * chunk, axis=1)
        return sums, gradient

    gradient = jnp.zeros((batch, columns, width), hidden.dtype) if with_gradient else None
    sums, gradient = jax.lax.fori_loop(0, num_chunks, step, (Sums.zeros(), gradient))
    if with_gradient:  # back to where they came from
        place = jnp.maximum(jnp.cumsum(counts, axis=1) - 1, 0)
        gradient = jnp.where(counts[..., None], jnp.take_along_axis(gradient, place[..., None], axis=1), 0)
    return sums, gradient


def _read_out_forward(hidden, head, scale, targets, weight, response, chunk, by_word):
    return _read_out(hidden, head, scale, targets, weight, response, chunk, by_word, True)


def _read_out_backward(chunk, by_word, gradient, by_sums):
    return (gradient * by_sums.loss.astype(gradient.dtype), *(None,) * 5)


read_out.defvjp(_read_out_forward, _read_out_backward)


# -------------------------------------------------------------------------------------- optimizer


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW on the gradients, clipped by their global norm; hashable, a static argument."""

    steps: int  # of the whole phase
    learning_rate: float = 3e-4  # the peak
    schedule: str = 'linear'  # after the warm-up: 'linear' or 'cosine' to 0, or 'constant'
    warmup_share: float = 0.1  # of all steps; LoRA's B is 0 at first, and Adam's first step a sign step
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise UserError(f'tune.optimizer.schedule="{self.schedule}": should be one of {", ".join(SCHEDULES)}.'
                            f'{nearest(self.schedule, SCHEDULES)}')
        for name, good, should in (('learning_rate', self.learning_rate > 0, 'more than 0'),
                                   ('warmup_share', 0 <= self.warmup_share < 1, 'at least 0 and less than 1'),
                                   ('max_grad_norm', self.max_grad_norm > 0, 'more than 0')):
            if not good:
                raise UserError(f'tune.optimizer.{name}={getattr(self, name)}: should be {should}.')

    def rate(self) -> optax.Schedule:
        """Learning rate by step, from 0."""
        warmup = round(self.steps * self.warmup_share)
        rest = max(self.steps - warmup, 1)
        after = {'linear': optax.linear_schedule(self.learning_rate, 0.0, rest),
                 'cosine': optax.cosine_decay_schedule(self.learning_rate, rest),
                 'constant': optax.constant_schedule(self.learning_rate)}[self.schedule]
        if not warmup:
            return after
        # Its first step already learns: a rate of 0 would waste it.
        up = optax.linear_schedule(self.learning_rate / (warmup + 1), self.learning_rate, warmup)
        return optax.join_schedules([up, after], [warmup])

    def make(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm),
            optax.adamw(self.rate(), b1=self.beta1, b2=self.beta2, eps=self.epsilon, weight_decay=self.weight_decay))


@flax.struct.dataclass
class Totals:
    """What some steps came to, for a row of metrics; float32 scalars."""

    sums: Sums
    grad_norm: jax.Array  # summed over the steps, before clipping
    steps: jax.Array
    tokens: jax.Array
    slots: jax.Array  # tokens and padding

    @classmethod
    def zeros(cls) -> 'Totals':
        return cls(Sums.zeros(), *(np.zeros((), np.float32) for _ in dataclasses.fields(cls)[1:]))

    def metrics(self) -> dict[str, float]:
        """Those of the sums, grad_norm: mean of the steps, padding: share of the slots. On the host."""
        totals = jax.tree.map(float, jax.device_get(self))
        return self.sums.metrics() | {'grad_norm': totals.grad_norm / max(totals.steps, 1),
                                      'padding': 1 - totals.tokens / max(totals.slots, 1)}


@flax.struct.dataclass
class Learner:
    """What a step changes."""

    adapter: Any
    opt_state: optax.OptState
    totals: Totals


def init_learner(adapter: Any, optimizer: Optimizer) -> Learner:
    return Learner(adapter, optimizer.make().init(adapter), Totals.zeros())


@functools.partial(jax.jit, static_argnames=('model', 'optimizer', 'prompt_weight'))
def tune_step(model: Decoder, optimizer: Optimizer, base: Any, learner: Learner, batch: Packed, prompt_weight: float,
              key: jax.Array, step: jax.Array) -> Learner:
    """One optimizer step on all microbatches of a batch; `step` counts them, for the dropout's key.

    Gradients are summed over the microbatches and divided once, by Σ w of all: it is the step of the whole batch.
    """
    adapter, num_micro = learner.adapter, batch.tokens.shape[0]
    dropout = jax.random.split(jax.random.fold_in(key, step), num_micro) if model.lora_dropout else None

    def step(at, carry):
        gradient, sums = carry
        grads, more = jax.grad(packed_loss, argnums=2, has_aux=True)(
            model, base, adapter, _microbatch(batch, at), prompt_weight, None if dropout is None else dropout[at])
        return jax.tree.map(jnp.add, gradient, grads), sums + more

    start = jax.tree.map(jnp.zeros_like, adapter), Sums.zeros()
    gradient, sums = jax.lax.fori_loop(0, batch.count, step, start)
    gradient = jax.tree.map(lambda x: x / jnp.maximum(sums.weight, 1e-8), gradient)
    updates, opt_state = optimizer.make().update(gradient, learner.opt_state, adapter)
    totals = jax.tree.map(jnp.add, learner.totals, Totals(
        sums, optax.global_norm(gradient), 1, jnp.count_nonzero(batch.segments),
        batch.count * batch.segments[0].size))
    return Learner(optax.apply_updates(adapter, updates), opt_state, totals)


@functools.partial(jax.jit, static_argnames=('model', 'prompt_weight'))
def evaluate(model: Decoder, base: Any, adapter: Any, batch: Packed, prompt_weight: float) -> Sums:
    """The sums of a batch."""
    def step(at, sums):
        return sums + packed_loss(model, base, adapter, _microbatch(batch, at), prompt_weight)[1]

    return jax.lax.fori_loop(0, batch.count, step, Sums.zeros())


def _microbatch(batch: Packed, at: jax.Array) -> Packed:
    return jax.tree.map(lambda x: x[at] if x.ndim else x, batch)
