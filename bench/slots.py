"""Decoding a queue in continuous slots against plain batches: steps, not seconds.

    python bench/slots.py                # some twenty seconds on two idle cores

A random model answers 1,024 prompts with responses of very unequal lengths (1 to 128 tokens, 22 on average). A
plain batch of 32 takes a step for each token of its longest response but the first, which comes from the prefill;
in slots (`xrec_jax/language/slots.py`) rows whose response has ended take the next prompts of the queue, `prefill`
at a time. Prints a JSON line a way of decoding: `steps`; `busy`, the share of rows that wrote a token a step;
and `ratio`, the steps of plain batches over these. The texts are the same in all lines.
"""

import json
import pathlib
import sys

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from xrec_jax.language import decoder, slots  # noqa: E402
from xrec_jax.language.config import DecoderConfig  # noqa: E402
from xrec_jax.language.sampling import SamplingConfig  # noqa: E402

PROMPTS, WIDTH, ROWS, STOP = 1024, 8, 32, 2
CONFIG = DecoderConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2, num_kv_heads=1,
                       head_dim=8, max_position_embeddings=256)
SAMPLING = SamplingConfig(max_length=128, temperature=1.5)


def main() -> None:
    model = decoder.Decoder(CONFIG)
    params = jax.tree.map(lambda x: x * 2, decoder.init_params(jax.random.key(0), CONFIG))
    random = np.random.default_rng(0)
    tokens = random.integers(3, CONFIG.vocab_size, (PROMPTS, WIDTH))
    mask = np.arange(WIDTH) >= WIDTH - random.integers(1, WIDTH + 1, (PROMPTS, 1))
    first = None
    for prefill in (1, 2, 4, 8, 16, 32):
        responses, steps = slots.generate_queue(
            model, {'params': params}, tokens, mask, jax.random.key(1), sampling=SAMPLING, stop_ids=STOP,
            num_slots=ROWS, prefill_size=prefill)
        written = responses.lengths - 1  # by steps; the first token comes from the prefill
        if first is None:
            first, plain = responses, int(written.reshape(-1, ROWS).max(axis=1).sum())
            report('plain batches', plain, written, plain, mean_length=round(float(responses.lengths.mean()), 1),
                   longest=int(responses.lengths.max()))
        assert (responses.tokens == first.tokens).all()
        report('slots', steps, written, plain, prefill=prefill)


def report(way: str, steps: int, written: np.ndarray, plain: int, **more) -> None:
    print(json.dumps({'way': way, 'rows': ROWS, **more, 'steps': steps,
                      'busy': round(written.sum() / (steps * ROWS), 3), 'ratio': round(plain / steps, 2)}), flush=True)


if __name__ == '__main__':
    main()
