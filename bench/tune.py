"""LoRA tuning: tokens a second, share of the matmul peak, memory; beside transformers' Trainer with PEFT.

    python bench/tune.py --peer /path/to/python-with-peft      # all parts, some minutes on two cores
    python bench/tune.py --only speed --shape 8b --dtype bfloat16 --rows 4 --tokens 2048   # on an accelerator, alone
    python bench/tune.py --only quality

Prints a JSON line a measurement. The peer (torch, transformers, peft, accelerate) runs in an interpreter of its own,
with the same weights, the same adapter and the same tokens; both processes stay, and take turns for `--rounds`
rounds of `--steps` steps: figures are medians over all steps but those of the first round. `ratio` is ours / theirs:
above 1, we are faster; `ratio_of_fastest`, of the fastest step of each, says more where others use the machine.
`loss` shows that both do the same thing.

  speed    a whole optimizer step (forward, backward, clipping, AdamW) on `--rows` × `--tokens` tokens, LoRA of rank 8
           on all projections, no dropout; in three cases:
             all      every token is foretold: a language model's loss, the same work for both
             half     the first half of each row is prompt: we read out only the rest, the peer all
             short    examples of 16 to `--tokens` / 2 tokens, a quarter of each response: ours packed, the peer's
                      padded to the longest; tokens a second count real ones only
           FLOPs a token, for the share of the peak: 4 (P + V D) + 6 A + 12 L H d S, where P are the weights of the
           projections, V D the head, A the adapter (2 forward, 2 for the gradient of what comes in; 2 more for that
           of the weights, which only the adapter has), the last attention over S slots, not halved for causality.
           Peak: the best of float32 (or `--dtype`) products 2048³ (8192³ on accelerators) in the same process.
  quality  nats and perplexity a token of held-out stories, of the embedded model in float32, int8 and int4:
             reason   of the reason alone, given its prompt, which nearly says it
             answer   of the Yes or No
             text     of prompt and reason, from the first token on: titles and histories that nothing foretells
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from bench import sides  # noqa: E402

RATE = 1e-4
CASES = ('all', 'half', 'short')


def examples(case: str, rows: int, tokens: int, vocab_size: int) -> list[tuple[list[int], int]]:
    """(token ids, how many of them are prompt) of each example; of one step."""
    import numpy as np
    rng = np.random.default_rng(CASES.index(case))
    if case == 'short':
        lengths = rng.integers(16, tokens // 2 + 1, size=4 * rows)
        prompts = lengths - lengths // 4
    else:
        lengths = np.full(rows, tokens)
        prompts = np.full(rows, 1 if case == 'all' else tokens // 2)
    return [(rng.integers(3, vocab_size, length).tolist(), int(prompt)) for length, prompt in zip(lengths, prompts)]


# ------------------------------------------------------------------------------------------- ours


def ours(args):
    """Yields what to do in a round, for `serve`: case → seconds of each step and the last loss."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from xrec_jax.language import decoder, lora, packing, peft, tuning, weights

    if args.model:
        config, params = weights.load_model(args.model, remat=sides.REMAT[args.remat], dtype=jnp.dtype(args.dtype).type)
        lora_config, adapter = peft.load_adapter(args.model / 'adapter', config)
    else:
        config, params = sides.random_model(args.shape, args.dtype, remat=sides.REMAT[args.remat])
        lora_config = lora.LoraConfig()
        adapter = lora.init_adapter(jax.random.key(1), params, lora_config)
    model = decoder.Decoder(config, lora_config.scale)
    optimizer = tuning.Optimizer(steps=1000, learning_rate=RATE, schedule='constant', warmup_share=0.0)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    projections, head = sides.sizes(config, params)
    flops = (4 * (projections + head) + 6 * count(adapter)
             + 12 * config.num_layers * config.num_heads * config.head_dim * args.tokens)
    states = {}

    def begin(case):
        data = examples(case, args.rows, args.tokens, config.vocab_size)
        lengths = np.array([len(ids) for ids, _ in data])
        encoded = packing.Encoded(np.concatenate([ids for ids, _ in data]).astype(np.int32), np.cumsum([0, *lengths]),
                                  np.array([prompt for _, prompt in data], np.int32))
        micro = args.microbatch or (max(1, args.rows // 4) if case == 'short' else args.rows)
        batch = packing.pack(encoded, np.arange(len(data)), max(len(data), micro), micro, args.tokens)
        learner = tuning.init_learner(adapter, optimizer)
        fixed = (batch, 0.0, jax.random.key(0), np.int32(0))
        start = time.perf_counter()
        step = tuning.tune_step.lower(model, optimizer, params, learner, *fixed).compile()
        states[case] = learner, lambda learner: step(params, learner, fixed[0], *fixed[2:])
        return {'compile_seconds': time.perf_counter() - start, 'tokens': int(lengths.sum()),
                'rows': int((batch.segments.any(axis=-1)).sum()), 'padding': packing.padding_share(batch),
                'planned_mib': step.memory_analysis().temp_size_in_bytes / 2**20}

    def go(case, steps):
        learner, step = states[case]
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            learner = jax.block_until_ready(step(learner.replace(totals=tuning.Totals.zeros())))
            seconds.append(time.perf_counter() - start)
        states[case] = learner, step
        return {'seconds': seconds, 'loss': learner.totals.metrics()['loss']}

    sides.serve(begin=begin, go=go, about=lambda: sides.device() | {'flops_per_token': flops},
                rooflines=lambda: sides.rooflines(args.dtype))


# ------------------------------------------------------------------------------------------ theirs


def theirs(args):
    """The same for transformers' Trainer with PEFT."""
    import peft
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    states = {}

    class Clock(transformers.TrainerCallback):
        def __init__(self):
            self.seconds, self.losses = [], []

        def on_step_begin(self, *unused, **also_unused):
            self.start = time.perf_counter()

        def on_step_end(self, *unused, **also_unused):
            self.seconds.append(time.perf_counter() - self.start)

        def on_log(self, args, state, control, logs=None, **unused):
            if 'loss' in logs:
                self.losses.append(logs['loss'])

    def collate(batch):
        width = max(len(ids) for ids, _ in batch)
        tokens, labels = torch.zeros(len(batch), width, dtype=torch.long), torch.full((len(batch), width), -100)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for row, (ids, prompt) in enumerate(batch):
            tokens[row, :len(ids)], mask[row, :len(ids)] = torch.tensor(ids), 1
            labels[row, prompt:len(ids)] = torch.tensor(ids[prompt:])
        return {'input_ids': tokens, 'attention_mask': mask, 'labels': labels}

    def begin(case):
        base = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(base, args.model / 'adapter', is_trainable=True)
        states[case] = model, examples(case, args.rows, args.tokens, base.config.vocab_size)
        return {'tokens': sum(len(ids) for ids, _ in states[case][1]), 'rows': len(states[case][1])}

    def go(case, steps):
        model, data = states[case]
        clock = Clock()
        settings = transformers.TrainingArguments(
            output_dir=tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=len(data), learning_rate=RATE,
            lr_scheduler_type='constant', weight_decay=0.0, max_grad_norm=1.0, use_cpu=True, report_to=[],
            save_strategy='no', logging_steps=1, disable_tqdm=True, remove_unused_columns=False,
            dataloader_num_workers=0)
        trainer = transformers.Trainer(model=model, args=settings, train_dataset=data, data_collator=collate,
                                       callbacks=[clock])
        with open(os.devnull, 'w') as sink:
            out, sys.stdout = sys.stdout, sink
            try:
                trainer.train()
            finally:
                sys.stdout = out
        return {'seconds': clock.seconds, 'loss': clock.losses[-1]}

    sides.serve(begin=begin, go=go, about=lambda: sides.versions() | {'peft': peft.__version__})


# ------------------------------------------------------------------------------------------ parts


def speed(args) -> None:
    with sides.workers(__file__, args, 'rows', 'tokens', 'remat', 'microbatch') as workers:
        for case in args.cases:
            report(args, case, workers)


def report(args, case: str, workers: dict[str, sides.Worker]) -> None:
    """Takes turns, and prints a line a side."""
    begun = {side: worker.ask('begin', case) for side, worker in workers.items()}
    rounds = sides.take_turns(workers, args.rounds, 'go', case, args.steps)
    rates, best = {}, {}
    for side, worker in workers.items():
        seconds = [value for one in rounds[side] for value in one['seconds']]
        rates[side] = begun[side]['tokens'] / statistics.median(seconds)
        best[side] = begun[side]['tokens'] / min(seconds)
        line = {'claim': 'tune', 'case': case, 'side': side, 'tokens_per_second': round(rates[side], 1),
                'step_seconds': round(statistics.median(seconds), 3), 'fastest': round(min(seconds), 3),
                'slowest': round(max(seconds), 3), 'loss': round(rounds[side][-1]['loss'], 5),
                **begun[side], **worker.ask('about')}
        if side == 'ours':
            peak = worker.ask('rooflines')['peak_flops']
            share = line['flops_per_token'] * rates[side] / peak
            line |= {'matmul_gflops': round(peak / 1e9, 1), 'share_of_peak': round(share, 3) if case == 'all' else None}
        print(json.dumps(line), flush=True)
    if 'theirs' in rates:
        print(json.dumps({'claim': 'tune', 'case': case, 'ratio': round(rates['ours'] / rates['theirs'], 2),
                          'ratio_of_fastest': round(best['ours'] / best['theirs'], 2),
                          'load_average': os.getloadavg()[0]}), flush=True)


def quality(args) -> None:
    import importlib.resources

    import numpy as np
    from xrec_jax.language import decoder, lora, probes, quantize, tokenizers, weights
    directory = importlib.resources.files('xrec_jax.language') / 'tiny'
    config, params = weights.load_model(directory)
    tokenizer, held_out = tokenizers.load_tokenizer(directory), probes.tell_many(0, args.stories, 6)
    pairs = {'reason': [(story.explain_prompt, story.reason) for story in held_out],
             'answer': [(story.click_prompt, story.answer) for story in held_out],
             'text': [('', story.explain_prompt + story.reason) for story in held_out]}
    bases = {'float32': params} | {kind: quantize.quantize(params, kind, lora.TARGETS) for kind in quantize.KINDS}
    whole = None
    for kind, base in bases.items():
        losses = probes.losses(decoder.Decoder(config), base, tokenizer, pairs)
        whole = whole or losses
        print(json.dumps({
            'claim': 'quantize', 'kind': kind, 'stories': args.stories, 'mib': round(quantize.num_bytes(base) / 2**20, 2),
            **{f'{name}_loss': round(value, 5) for name, value in losses.items()},
            **{f'{name}_perplexity': round(float(np.exp(value)), 5) for name, value in losses.items()},
            **{f'{name}_perplexity_lost': f'{np.expm1(value - whole[name]):+.3%}' for name, value in losses.items()},
        }), flush=True)


def main() -> None:
    parser = sides.options(__doc__, 'torch, transformers, peft and accelerate')
    parser.add_argument('--only', choices=('speed', 'quality'))
    parser.add_argument('--rows', type=int, default=16)
    parser.add_argument('--tokens', type=int, default=256)
    parser.add_argument('--microbatch', type=int, default=0, help='rows of a pass of ours; 0: all, a quarter where packed')
    parser.add_argument('--remat', choices=sides.REMAT, default='projections')
    parser.add_argument('--cases', nargs='+', choices=CASES, default=CASES)
    parser.add_argument('--steps', type=int, default=2)
    parser.add_argument('--stories', type=int, default=512)
    sides.run(parser, parser.parse_args(), ours, theirs, lead)


def lead(args) -> None:
    for name, part in (('speed', speed), ('quality', quality)):
        if args.only in (None, name):
            part(args)


if __name__ == '__main__':
    main()
