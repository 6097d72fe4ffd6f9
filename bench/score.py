"""Scoring given texts: tokens a second, share of the matmul peak, memory; beside a forward pass of transformers.

    python bench/score.py --peer /path/to/python-with-transformers          # a minute on two idle cores
    python bench/score.py --shape 8b --dtype bfloat16 --prompt 1920 --response 128 --batches 8    # on an accelerator

Prints a JSON line a measurement: `policy.evaluate` (log-prob and entropy of each response token) of B rows of
`--prompt` + `--response` tokens, against the peer's forward pass with the logits of the response, their log-softmax,
and the same two figures from it. `tokens_per_second` counts all tokens; `difference` is the largest between both
sides' log-probs. `ratio` is ours / theirs, in the same run (bench/sides.py).

FLOPs, for the share of the peak: B S (2 P + 4 L H d S) + 2 B R V D, with S = prompt + response, R the response, P the
parameters of the projections; attention is not halved for causality.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from bench import sides  # noqa: E402


def rows(batch: int, args, vocab_size: int):
    """Prompts [B, P] and responses [B, R]."""
    import numpy as np
    tokens = np.random.default_rng(batch).integers(3, vocab_size, (batch, args.prompt + args.response))
    return tokens[:, :args.prompt], tokens[:, args.prompt:]


def ours(args) -> None:
    import functools

    import jax
    import jax.numpy as jnp
    import numpy as np
    from xrec_jax.language import decoder, policy, weights
    if args.model:
        config, params = weights.load_model(args.model, dtype=jnp.dtype(args.dtype).type)
    else:
        config, params = sides.random_model(args.shape, args.dtype)
    score = jax.jit(functools.partial(policy.evaluate, decoder.Decoder(config)))
    projections, head = sides.sizes(config, params)
    states = {}

    def begin(batch):
        prompts, responses = (jnp.asarray(x, jnp.int32) for x in rows(batch, args, config.vocab_size))
        real = lambda tokens: jnp.ones(tokens.shape, bool)
        inputs = {'params': params}, prompts, real(prompts), responses, real(responses)
        start = time.perf_counter()
        program = score.lower(*inputs).compile()
        states[batch] = program, inputs
        length = args.prompt + args.response
        attention = 4 * config.num_layers * config.num_heads * config.head_dim * length
        return {'compile_seconds': time.perf_counter() - start,
                'planned_mib': program.memory_analysis().temp_size_in_bytes / 2**20,
                'flops': batch * (length * (2 * projections + attention) + 2 * args.response * head)}

    def go(batch):
        program, inputs = states[batch]
        start = time.perf_counter()
        scored = jax.block_until_ready(program(*inputs))
        return {'seconds': time.perf_counter() - start, 'log_probs': np.asarray(scored.log_probs, float).tolist()}

    sides.serve(begin=begin, go=go, about=lambda: sides.device() | sides.rooflines(args.dtype))


def theirs(args) -> None:
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()

    def go(batch):
        prompts, responses = (torch.tensor(x) for x in rows(batch, args, model.config.vocab_size))
        start = time.perf_counter()
        with torch.inference_mode():
            tokens = torch.cat([prompts, responses], dim=1)
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False,
                           logits_to_keep=args.response + 1).logits[:, :-1]
            log_probs = torch.log_softmax(logits, dim=-1)
            entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
            picked = torch.gather(log_probs, -1, responses[..., None])[..., 0]
        assert entropy.shape == picked.shape
        return {'seconds': time.perf_counter() - start, 'log_probs': picked.tolist()}

    sides.serve(begin=lambda batch: {}, go=go, about=sides.versions)


def report(args, workers: dict[str, sides.Worker], batch: int) -> None:
    import numpy as np
    begun = {side: worker.ask('begin', batch) for side, worker in workers.items()}
    answers = sides.take_turns(workers, args.rounds, 'go', batch)
    seconds = {side: sides.median(answers[side]) for side in workers}
    for side, worker in workers.items():
        line = {'claim': 'score', 'batch': batch, 'side': side, 'seconds': seconds[side],
                'tokens_per_second': batch * (args.prompt + args.response) / seconds[side], **begun[side],
                **worker.ask('about'), 'peak_mib': answers[side][-1]['peak_mib']}  # before the rooflines were measured
        if side == 'ours':
            line['share_of_peak'] = line['flops'] / line['peak_flops'] / seconds[side]
        sides.show(**line)
    if 'theirs' in workers:
        mine, others = (np.array(answers[side][-1]['log_probs']) for side in ('ours', 'theirs'))
        sides.show(claim='score', batch=batch, ratio=seconds['theirs'] / seconds['ours'],
                   difference=float(np.abs(mine - others).max()))


def main() -> None:
    parser = sides.options(__doc__, 'torch and transformers')
    parser.add_argument('--batches', type=int, nargs='+', default=[16])
    parser.add_argument('--prompt', type=int, default=192)
    parser.add_argument('--response', type=int, default=64)
    sides.run(parser, parser.parse_args(), ours, theirs, compare)


def compare(args) -> None:
    with sides.workers(__file__, args, 'prompt', 'response') as workers:
        for batch in args.batches:
            report(args, workers, batch)


if __name__ == '__main__':
    main()
