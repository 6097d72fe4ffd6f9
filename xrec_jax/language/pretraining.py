"""Training a small LLaMA from scratch on `stories`: optimizer, step, corpus plan."""

import dataclasses
import functools
from typing import Any

import jax
import optax

from xrec_jax.language.decoder import Decoder
from xrec_jax.language.stories import Mixture
from xrec_jax.language.tuning import language_loss


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Hashable, a static argument."""

    steps: int
    learning_rate: float  # the peak: linear warm-up, constant, linear decay over the last quarter
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A part of the curriculum."""

    mixture: Mixture
    prompt_weight: float  # of the prompt's own tokens in the loss; responses weigh 1


def make_optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    decay = config.steps // 4
    rate = optax.join_schedules(
        [optax.linear_schedule(0, config.learning_rate, config.warmup_steps),
         optax.constant_schedule(config.learning_rate),
         optax.linear_schedule(config.learning_rate, config.learning_rate * 0.02, decay)],
        [config.warmup_steps, config.steps - decay])
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm),
                       optax.adamw(rate, b1=0.9, b2=0.98, weight_decay=config.weight_decay))


@functools.partial(jax.jit, static_argnames=('model', 'config', 'prompt_weight'),
                   donate_argnames=('params', 'opt_state'))
def train_step(model: Decoder, config: PretrainConfig, params: Any, opt_state: optax.OptState, batch: dict,
               prompt_weight: float) -> tuple[Any, optax.OptState, dict[str, jax.Array]]:
    """One optimizer step on a batch of `stories.pool`: new params and state, and metrics."""

    def loss(params):
        return language_loss(model, {'params': params}, batch, prompt_weight)

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = make_optimizer(config).update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, metrics | {'loss': value}


def lesson_of(curriculum: dict, pool: int) -> Lesson:
    """The lesson of the `pool`-th pool; `curriculum` maps a first pool to the lesson from there on."""
    first = max(int(start) for start in curriculum if int(start) <= pool)
    entry = dict(curriculum[str(first)])
    return Lesson(prompt_weight=entry.pop('prompt_weight'),
                  mixture=Mixture(**entry | {'history': tuple(entry['history'])}))
