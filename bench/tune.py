"""LoRA tuning: tokens a second, share of the matmul peak, memory; beside transformers' Trainer with PEFT.

    python bench/tune.py --peer /path/to/python-with-peft      # all parts, some minutes on two cores
    python bench/tune.py --only speed --shape 8b --dtype bfloat16 --rows 4 --tokens 2048   # on an accelerator, alone
    python bench/tune.py --only quality

Prints a JSON line a measurement. The peer (torch, transformers, peft, accelerate) runs in an interpreter of its own,
with the same weights, the same adapter and the same tokens; both processes stay, and take turns for `--rounds`
rounds of `--steps` steps: figures are medians over all steps but those of the first round. `ratio` is ours / theirs:
above 1, we are faster; `ratio_of_fastest`, of the fastest step of each, says more where others use the machine. `loss` shows that both do the same thing.

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

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
SHAPES = {
    '15m': dict(vocab_size=32000, hidden_size=288, intermediate_size=768, num_layers=6, num_heads=6, num_kv_heads=6,
                head_dim=48, tie_word_embeddings=True, max_position_embeddings=2048),
    '8b': dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32,
               num_kv_heads=8, head_dim=128, rope_theta=500000.0, max_position_embeddings=8192),
}
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
    from xrec_jax.language.config import DecoderConfig

    dtype = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}[args.dtype]
    if args.model:
        config, params = weights.load_model(args.model, remat=args.remat, dtype=dtype)
        lora_config, adapter = peft.load_adapter(args.model / 'adapter', config)
    else:
        config = DecoderConfig(**SHAPES[args.shape], remat=args.remat, dtype=dtype)
        make = lambda key: jax.tree.map(lambda x: x.astype(dtype), decoder.init_params(key, config))
        params, lora_config = jax.jit(make)(jax.random.key(0)), lora.LoraConfig()
        adapter = lora.init_adapter(jax.random.key(1), params, lora_config)
    model = decoder.Decoder(config, lora_config.scale)
    optimizer = tuning.Optimizer(steps=1000, learning_rate=RATE, schedule='constant', warmup_share=0.0)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    projections = count([leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if 'kernel' in str(path)])
    flops = (4 * (projections + config.vocab_size * config.hidden_size) + 6 * count(adapter)
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

    def peak():
        size = 2048 if jax.default_backend() == 'cpu' else 8192
        x = jnp.full((size, size), 0.5, dtype)
        product = jax.jit(lambda x: x @ x)
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            product(x).block_until_ready()
            seconds.append(time.perf_counter() - start)
        return 2 * size**3 / min(seconds)

    device = jax.devices()[0]
    memory = lambda: (device.memory_stats() or {}).get('peak_bytes_in_use')
    serve(begin, go, peak, lambda: {'device': device.device_kind, 'flops_per_token': flops, 'device_peak_bytes': memory()})


# ------------------------------------------------------------------------------------------- peer


def peer(args):
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

    def peak():
        x, seconds = torch.full((2048, 2048), 0.5), []
        for _ in range(6):
            start = time.perf_counter()
            x @ x
            seconds.append(time.perf_counter() - start)
        return 2 * 2048**3 / min(seconds)

    serve(begin, go, peak, lambda: {'versions': f'torch {torch.__version__}, transformers {transformers.__version__}, '
                                                f'peft {peft.__version__}', 'threads': torch.get_num_threads()})


def serve(begin, go, peak, about):
    """Answers the lines of standard input, a JSON line each, with the peak of this process's memory."""
    verbs = {'begin': begin, 'go': go, 'peak': lambda: {'peak_flops': peak()}, 'about': about}
    for line in sys.stdin:
        verb, *rest = json.loads(line)
        answer = verbs[verb](*rest) | {'peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
        print('@' + json.dumps(answer), flush=True)


class Worker:
    """A process that serves."""

    def __init__(self, python: str, *arguments: str):
        environment = os.environ | {'PYTHONPATH': str(ROOT), 'TRANSFORMERS_VERBOSITY': 'error',
                                    'TOKENIZERS_PARALLELISM': 'false'}
        self.process = subprocess.Popen([python, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)

    def ask(self, *request) -> dict:
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('@'):
                return json.loads(line[1:])
        raise SystemExit(f'the worker for {request} ended with status {self.process.wait()}')

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ------------------------------------------------------------------------------------------ parts


def save_material(directory: pathlib.Path, shape: str) -> None:
    """Random weights and a random adapter, as Hugging Face and PEFT keep them."""
    import jax
    from xrec_jax.language import decoder, lora, peft, weights
    from xrec_jax.language.config import DecoderConfig
    config = DecoderConfig(**SHAPES[shape])
    params = jax.jit(lambda: decoder.init_params(jax.random.key(0), config))()
    lora_config = lora.LoraConfig(rank=8, alpha=16.0)
    weights.save_model(directory, config, params)
    peft.save_adapter(directory / 'adapter', config, lora.init_adapter(jax.random.key(1), params, lora_config), lora_config)


def speed(args) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        common = ['--shape', args.shape, '--dtype', args.dtype, '--rows', str(args.rows), '--tokens', str(args.tokens),
                  '--remat', args.remat, '--microbatch', str(args.microbatch)]
        if args.peer:  # written by another process: this one holds no device
            subprocess.run([sys.executable, __file__, '--worker', 'save', '--model', folder, '--shape', args.shape],
                           check=True, env=os.environ | {'PYTHONPATH': str(ROOT)})
            common += ['--model', str(folder)]
        workers = {'ours': Worker(sys.executable, '--worker', 'ours', *common)}
        if args.peer:
            workers['theirs'] = Worker(args.peer, '--worker', 'peer', *common)
        try:
            for case in args.cases:
                report(args, case, workers)
        finally:
            for worker in workers.values():
                worker.close()


def report(args, case: str, workers: dict[str, Worker]) -> None:
    """Takes turns, and prints a line a side."""
    begun = {side: worker.ask('begin', case) for side, worker in workers.items()}
    rounds = {side: [] for side in workers}
    for _ in range(args.rounds + 1):
        for side, worker in workers.items():
            rounds[side].append(worker.ask('go', case, args.steps))
    rates, best = {}, {}
    for side, worker in workers.items():
        seconds = [value for one in rounds[side][1:] for value in one['seconds']]
        rates[side] = begun[side]['tokens'] / statistics.median(seconds)
        best[side] = begun[side]['tokens'] / min(seconds)
        line = {'claim': 'tune', 'case': case, 'side': side, 'tokens_per_second': round(rates[side], 1),
                'step_seconds': round(statistics.median(seconds), 3), 'fastest': round(min(seconds), 3),
                'slowest': round(max(seconds), 3), 'first_loss': round(rounds[side][0]['loss'], 5),
                **begun[side], **worker.ask('about')}
        if side == 'ours':
            peak = worker.ask('peak')['peak_flops']
            share = line['flops_per_token'] * rates[side] / peak
            line |= {'matmul_gflops': round(peak / 1e9, 1), 'share_of_peak': round(share, 3) if case == 'all' else None}
        print(json.dumps(line), flush=True)
    if 'theirs' in rates:
        print(json.dumps({'claim': 'tune', 'case': case, 'ratio': round(rates['ours'] / rates['theirs'], 2),
                          'ratio_of_fastest': round(best['ours'] / best['theirs'], 2), 'load_average': os.getloadavg()[0]}), flush=True)


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', help='a Python that has torch, transformers, peft and accelerate')
    parser.add_argument('--only', choices=('speed', 'quality'))
    parser.add_argument('--shape', choices=SHAPES, default='15m')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    parser.add_argument('--rows', type=int, default=16)
    parser.add_argument('--tokens', type=int, default=256)
    parser.add_argument('--microbatch', type=int, default=0, help='rows of a pass of ours; 0: all, a quarter where packed')
    parser.add_argument('--remat', choices=('none', 'projections', 'all'), default='projections')
    parser.add_argument('--cases', nargs='+', choices=CASES, default=CASES)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=2)
    parser.add_argument('--stories', type=int, default=512)
    parser.add_argument('--worker', choices=('ours', 'peer', 'save'), help=argparse.SUPPRESS)
    parser.add_argument('--model', type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer and args.shape != '15m':
        parser.error('the peer is measured in the shape 15m')
    if args.worker == 'save':
        save_material(args.model, args.shape)
    elif args.worker:
        args.remat = {'none': False, 'all': True}.get(args.remat, args.remat)
        {'ours': ours, 'peer': peer}[args.worker](args)
    else:
        for name, part in (('speed', speed), ('quality', quality)):
            if args.only in (None, name):
                part(args)


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    main()
