"""The planner's step times beside measured ones, at a size that this machine can run.

    python bench/roofline.py [--shape small|15m|8b] [--dtype float32]      # a minute on two idle cores

The peaks of this device are measured first: a product of 2048 × 2048 matrices (8192 on accelerators), and the sum of an
array much larger than any cache. Then `planning/roofline.py` says from these how long a prefill, a step of decoding and
a step of tuning take at best, and each is run. A JSON line each: `predicted_ms` at best, `measured_ms` (the fastest of
five, as peaks are), and `reached`, the share: what `python -m xrec_jax.plan --reached_flops=…` is for. Random weights.
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from xrec_jax.language import decoder, generate, lora, packing, tuning  # noqa: E402
from xrec_jax.language.config import DecoderConfig  # noqa: E402
from xrec_jax.language.sampling import SamplingConfig  # noqa: E402
from xrec_jax.planning import memory, roofline  # noqa: E402
from xrec_jax.planning.chips import Chip  # noqa: E402

SHAPES = {
    'small': dict(vocab_size=4096, hidden_size=512, intermediate_size=1408, num_layers=6, num_heads=8, num_kv_heads=4,
                  head_dim=64, max_position_embeddings=1024),
    '15m': dict(vocab_size=32000, hidden_size=288, intermediate_size=768, num_layers=6, num_heads=6, num_kv_heads=6,
                head_dim=48, tie_word_embeddings=True, max_position_embeddings=2048),
    '8b': dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32,
               num_kv_heads=8, head_dim=128, rope_theta=500000.0, max_position_embeddings=8192),
}


def fastest(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds, compilation aside."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measured_chip(dtype) -> Chip:
    """This device's peaks; it has no links."""
    size = 2048 if jax.default_backend() == 'cpu' else 8192
    square, long = jnp.full((size, size), 0.5, dtype), jnp.ones(2**26, jnp.float32)
    product, total = jax.jit(lambda x: x @ x), jax.jit(jnp.sum)
    return Chip(memory=np.inf, bandwidth=long.nbytes / fastest(lambda: total(long)),
                flops=2 * size**3 / fastest(lambda: product(square)), link=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--shape', choices=SHAPES, default='small')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--microbatch', type=int, default=8)
    parser.add_argument('--prompt', type=int, default=128)
    parser.add_argument('--response', type=int, default=64)
    options = parser.parse_args()
    config = DecoderConfig(**SHAPES[options.shape], dtype=jnp.dtype(options.dtype))
    chip = measured_chip(config.dtype)
    print(json.dumps({'device': jax.devices()[0].device_kind, 'gflops': round(chip.flops / 1e9, 1),
                      'gb_per_second': round(chip.bandwidth / 1e9, 1)}), flush=True)
    planned = memory.Model(config, memory.make_mesh({}), lora.LoraConfig())
    work = memory.Work(batch=options.batch, microbatch=options.microbatch, prompt=options.prompt,
                       response=options.response)
    for name, measure in MEASURES.items():
        step = getattr(roofline, name)(planned, work, chip)
        seconds = measure(config, work)
        print(json.dumps({'step': name, 'bound': step.bound, 'predicted_ms': round(step.seconds * 1e3, 3),
                          'measured_ms': round(seconds * 1e3, 3), 'reached': round(step.seconds / seconds, 3)}),
              flush=True)


def _model(config: DecoderConfig) -> tuple[decoder.Decoder, dict, dict]:
    make = lambda key: jax.tree.map(lambda x: x.astype(config.dtype), decoder.init_params(key, config))
    params = jax.jit(make)(jax.random.key(0))
    return decoder.Decoder(config, lora.LoraConfig().scale), params, lora.init_adapter(
        jax.random.key(1), params, lora.LoraConfig())


def writing(config: DecoderConfig, work: memory.Work, length: int) -> float:
    """Seconds to write `length` tokens to each prompt with the base model; no response ends early."""
    model, params, _ = _model(config)
    tokens = jax.random.randint(jax.random.key(2), (work.batch, work.prompt), 3, config.vocab_size)
    sampling = SamplingConfig(max_length=length, min_length=length)
    return fastest(lambda: generate.generate(model, {'params': params}, tokens, tokens > 0, jax.random.key(3),
                                             sampling=sampling, stop_ids=2).tokens)


def prefill(config: DecoderConfig, work: memory.Work) -> float:
    """Its one token comes from the prompt."""
    return writing(config, work, 1)


def decode(config: DecoderConfig, work: memory.Work) -> float:
    """Mean over the steps of a response."""
    return (writing(config, work, work.response) - writing(config, work, 1)) / (work.response - 1)


def tune(config: DecoderConfig, work: memory.Work) -> float:
    """A whole optimizer step of one microbatch, every token read out."""
    model, params, adapter = _model(config)
    optimizer = tuning.Optimizer(steps=1000, learning_rate=1e-4, schedule='constant', warmup_share=0.0)
    ids = np.random.default_rng(0).integers(3, config.vocab_size, work.microbatch * work.length).astype(np.int32)
    encoded = packing.Encoded(ids, np.arange(work.microbatch + 1) * work.length, np.ones(work.microbatch, np.int32))
    batch = packing.pack(encoded, np.arange(work.microbatch), work.microbatch, work.microbatch, work.length)
    learner = tuning.init_learner(adapter, optimizer)
    more = 1.0, jax.random.key(0), np.int32(1)
    step = tuning.tune_step.lower(model, optimizer, params, learner, batch, *more).compile()

    def run():
        nonlocal learner  # what went in is donated
        learner = step(params, learner.replace(totals=tuning.Totals.zeros()), batch, *more)
        return learner

    return fastest(run)


MEASURES = {'prefill': prefill, 'decode': decode, 'tune': tune}


if __name__ == '__main__':
    main()
