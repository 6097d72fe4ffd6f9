"""Judging every two of five explanations in both orders: questions that share their beginnings against each alone.

    python bench/judge.py                # a minute on two idle cores

The embedded `tiny` answers the 20 questions on each of 12 recommendations (random tokens: the time is that of any).
`short`: an instruction of 24 tokens and explanations of 36, as configs/llmxrec.py has them for `tiny`; `long`: 480 and
96, nearer to what a real judge reads. Prints a JSON line for each: seconds, questions/s and tokens/s through the model,
both ways after a warm-up; `tokens`, the share of the questions' tokens that go through the model; `ratio`, the time of
each alone over that of sharing; `difference`, the largest between their log-probs.
"""

import importlib.resources
import itertools
import json
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from xrec_jax.language import choices, decoder, shared, tokenizers, weights  # noqa: E402

RECOMMENDATIONS, EXPLANATIONS, ROWS = 12, 5, 64
LENGTHS = {'short': (24, 36), 'long': (480, 96)}  # of instruction and explanation
ANSWERS = [[(20,)], [(21,)]]


def questions(instruction: int, explanation: int) -> tuple[list, list, list]:
    random = np.random.default_rng(0)
    draw = lambda length: random.integers(300, 2000, length).tolist()
    rows = []
    for stem in range(RECOMMENDATIONS):
        head = draw(instruction)
        parts = [draw(int(explanation * random.uniform(0.8, 1.0))) for _ in range(EXPLANATIONS)]
        rows += [(head + parts[i] + [30, 31] + parts[j] + [32, 33], stem, i)
                 for i, j in itertools.permutations(range(EXPLANATIONS), 2)]
    return tuple(map(list, zip(*rows)))


def timed(run) -> tuple[np.ndarray, float]:
    run()
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def main() -> None:
    config, params = weights.load_model(importlib.resources.files('xrec_jax.language') / 'tiny')
    model, variables = decoder.Decoder(config), {'params': params}
    for name, lengths in LENGTHS.items():
        prompts, stems, branches = questions(*lengths)
        width = -(-max(map(len, prompts)) // 32) * 32
        whole = sum(map(len, prompts))

        def alone():
            return np.concatenate([np.asarray(choices.score(model, variables, *tokenizers.pad(
                prompts[at:at + ROWS], width, 'left'), ANSWERS)) for at in range(0, len(prompts), ROWS)])

        def sharing():
            return shared.score(model, variables, prompts, stems, branches, ANSWERS, ROWS)

        want, slow = timed(alone)
        (got, tokens), fast = timed(sharing)
        print(json.dumps({
            'prompts': name, 'questions': len(prompts), 'tokens': round(tokens / whole, 3),
            'seconds': round(fast, 3), 'questions_per_second': round(len(prompts) / fast, 1),
            'tokens_per_second': round(tokens / fast), 'alone_seconds': round(slow, 3),
            'alone_tokens_per_second': round(whole / slow), 'ratio': round(slow / fast, 2),
            'difference': float(np.abs(got - want).max())}), flush=True)


if __name__ == '__main__':
    main()
