"""The planner's step times beside measured ones, at sizes that this machine can run.

    python bench/roofline.py > launch/measured.jsonl     # two minutes on two idle cores
    python -m xrec_jax.planning.scaling > launch/SCALING.md     # puts them into a table
    python bench/roofline.py --shapes 8b --dtype bfloat16 --batch 64     # on an accelerator

The peaks of this device are measured first (bench/sides.py): products of square matrices, and a large matrix times a
vector. Then `planning/roofline.py` says from these how long a prefill, a step of decoding, a step of tuning and of PPO's
update take at best, and each is run. A JSON line each: `predicted_ms` at best, `measured_ms` (the fastest of five, as
peaks are), and `reached`, the share: what `python -m xrec_jax.plan --reached_flops=…` is for. Random weights.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from bench import sides  # noqa: E402
from xrec_jax.language import decoder, generate, lora, packing, policy, tuning  # noqa: E402
from xrec_jax.language.config import DecoderConfig  # noqa: E402
from xrec_jax.language.sampling import SamplingConfig  # noqa: E402
from xrec_jax.phases import align  # noqa: E402
from xrec_jax.planning import memory, roofline  # noqa: E402
from xrec_jax.planning.chips import Chip  # noqa: E402
from xrec_jax.rl import ppo, update as ppo_update  # noqa: E402

def fastest(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds, compilation aside."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--shapes', nargs='+', choices=sides.SHAPES, default=('small', '15m'))
    parser.add_argument('--dtype', choices=sides.DTYPES, default='float32')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--microbatch', type=int, default=8)
    parser.add_argument('--prompt', type=int, default=128)
    parser.add_argument('--response', type=int, default=64)
    options = parser.parse_args()
    peaks = sides.rooflines(options.dtype)
    chip = Chip(memory=np.inf, bandwidth=peaks['bandwidth'], flops=peaks['peak_flops'], link=1.0)
    sides.show(device=jax.devices()[0].device_kind, cores=len(os.sched_getaffinity(0)), dtype=options.dtype,
               gflops=chip.flops / 1e9, gb_per_second=chip.bandwidth / 1e9)
    work = memory.Work(batch=options.batch, microbatch=options.microbatch, prompt=options.prompt,
                       response=options.response)
    for shape in options.shapes:
        config, params = sides.random_model(shape, options.dtype)
        planned = memory.Model(config, memory.make_mesh({}), lora.LoraConfig())
        for name, measure in MEASURES.items():
            step = getattr(roofline, name)(planned, work, chip)
            seconds = measure(config, params, work)
            sides.show(shape=shape, step=name, bound=step.bound, predicted_ms=step.seconds * 1e3,
                       measured_ms=seconds * 1e3, reached=step.seconds / seconds, **dataclasses.asdict(work))


def _model(config: DecoderConfig, params: dict) -> tuple[decoder.Decoder, dict]:
    """With an adapter."""
    return decoder.Decoder(config, lora.LoraConfig().scale), lora.init_adapter(
        jax.random.key(1), params, lora.LoraConfig())


def _prompts(config: DecoderConfig, work: memory.Work) -> jax.Array:
    return jax.random.randint(jax.random.key(2), (work.batch, work.prompt), 3, config.vocab_size)


def writing(config: DecoderConfig, params: dict, work: memory.Work, length: int) -> float:
    """Seconds to write `length` tokens to each prompt with the base model; no response ends early."""
    (model, _), tokens = _model(config, params), _prompts(config, work)
    sampling = SamplingConfig(max_length=length, min_length=length)
    return fastest(lambda: generate.generate(model, {'params': params}, tokens, tokens > 0, jax.random.key(3),
                                             sampling=sampling, stop_ids=2).tokens)


def prefill(config: DecoderConfig, params: dict, work: memory.Work) -> float:
    """Its one token comes from the prompt."""
    return writing(config, params, work, 1)


def decode(config: DecoderConfig, params: dict, work: memory.Work) -> float:
    """Mean over the steps of a response."""
    return (writing(config, params, work, work.response) - writing(config, params, work, 1)) / (work.response - 1)


def tune(config: DecoderConfig, params: dict, work: memory.Work) -> float:
    """A whole optimizer step of one microbatch, every token read out."""
    model, adapter = _model(config, params)
    optimizer = tuning.Optimizer(steps=1000, learning_rate=1e-4, schedule='constant', warmup_share=0.0)
    ids = np.random.default_rng(0).integers(3, config.vocab_size, work.microbatch * work.length).astype(np.int32)
    encoded = packing.Encoded(ids, np.arange(work.microbatch + 1) * work.length, np.ones(work.microbatch, np.int32))
    batch = packing.pack(encoded, np.arange(work.microbatch), work.microbatch, work.microbatch, work.length)
    learner = tuning.init_learner(adapter, optimizer)
    more = jax.random.key(0), np.int32(1)
    step = tuning.tune_step.lower(model, optimizer, params, learner, batch, 0.0, *more).compile()

    def run():
        nonlocal learner  # what went in is donated
        learner = step(params, learner.replace(totals=tuning.Totals.zeros()), batch, *more)
        return learner

    return fastest(run)


def update(config: DecoderConfig, params: dict, work: memory.Work) -> float:
    """A step of PPO's update: one microbatch, its responses read out."""
    model, adapter = _model(config, params)
    rows, size = work.microbatch, (work.microbatch, work.response)
    learning = ppo_update.UpdateConfig(epochs=1, minibatch_size=rows, microbatch_size=rows)
    learner = {'lora': adapter, 'value_head': policy.init_value_head(config.hidden_size)}
    state, ones = ppo_update.make_optimizer(learning).init(learner), jnp.ones(size)
    mask = ones > 0
    prompts = _prompts(config, work)[:rows]
    inputs = {'prompts': prompts, 'prompt_mask': prompts > 0, 'response_mask': mask,
              'responses': jax.random.randint(jax.random.key(4), size, 3, config.vocab_size)}
    rollout = ppo.Rollout(log_probs=-ones, ref_log_probs=-ones, values=0 * ones, advantages=ones, returns=ones, mask=mask)
    return fastest(lambda: ppo_update.ppo_update(
        learner, state, params, inputs, rollout, jax.random.key(5), evaluate=align.evaluator(model, 1.0),
        config=learning, ppo_config=ppo.PPOConfig()))


MEASURES = {'prefill': prefill, 'decode': decode, 'tune': tune, 'update': update}


if __name__ == '__main__':
    main()
