"""An iteration of PPO, part by part; beside TRL's PPO trainer.

    python bench/ppo.py --peer /path/to/python-with-trl       # trl<1, peft; some minutes on two cores
    python bench/ppo.py --shape 8b --dtype bfloat16 --rollout 64 --microbatch 8 --prompt 512 --remat projections \
        --response 128                                        # on an accelerator, alone: with rooflines

The peer (trl 0.29: `trl.experimental.ppo.PPOTrainer`) runs in an interpreter of its own, with the same base weights, the
same adapter (LoRA of rank 8 on all projections) and the same prompts; both processes stay, and take turns for `--rounds`
rounds of `--steps` iterations: figures are medians over all iterations but those of the first round. `ratio` is
theirs / ours in seconds of whole iterations: above 1, we are faster; `ratio_of_fastest`, of the fastest of each, says
more where others use the machine.

Both sides write `--response` tokens to each of `--rollout` prompts (random tokens, half to all of `--prompt`, padded on
the left) at temperature 1, no stop token; take the share of even tokens in a response for its score, which costs
nothing; score the texts by the reference (the base without the adapter) and give values; and go `--epochs` times over
the batch, `--microbatch` rows a pass, one optimizer step an epoch (TRL's accumulation makes one of it whatever its
`num_mini_batches` says). KL (k1) 0.05, GAE 0.95, clip 0.2, values' weight 0.1, Adam 1e-4, no gradient checkpointing,
float32. Where they differ:

  ours    one body gives logits and values; old log-probs are computed by it once more after writing, so that the first
          ratio is exactly 1; rewards are normalised and clipped; logits of responses alone; gradients clipped at 1
  theirs  old log-probs are the sampler's; values come from a network of their own, run beside the policy; logits of
          prompts too. The network for values, `--values`:
            shared   the policy's own body with its adapter, and a head: our mathematics, in two passes
            frozen   the base's body, which is not tuned, and a head: the least that the trainer can be made to do
            own      as TRL's examples have it: a body of its own, all of whose weights are tuned

A JSON line a side: seconds of an iteration, `parts` of it (`write`, of which `prefill` as measured alone; `score`;
`reward` and, in theirs, values; `update`; `host`, the rest), new tokens a second, and what shows that both do the same:
`kl`, `entropy`, `score_mean` of the last iteration (random draws: alike, not equal). Ours has `reached` besides: the
time that planning/roofline.py allows over that measured, with peaks measured in the same process (bench/sides.py).
"""

import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time
import types

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from bench import sides  # noqa: E402

PAD = 0  # TRL tells padding by its id; no prompt holds it
RATE, KL_COEF = 1e-4, 0.05
VALUES = ('shared', 'frozen', 'own')


def prompts(args, vocab_size: int):
    """Tokens int [B, P] padded on the left with `PAD`."""
    import numpy as np
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, vocab_size, (args.rollout, args.prompt))
    lengths = rng.integers(args.prompt // 2, args.prompt + 1, args.rollout)
    lengths[0] = args.prompt
    return np.where(np.arange(args.prompt) < args.prompt - lengths[:, None], PAD, tokens)


# ------------------------------------------------------------------------------------------- ours


def ours(args) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from xrec_jax.language import decoder, generate, lora, peft, policy, weights
    from xrec_jax.language.sampling import SamplingConfig
    from xrec_jax.phases import align
    from xrec_jax.planning import memory
    from xrec_jax.rl import ppo, update
    from xrec_jax.runs.progress import Stopwatch

    if args.model:
        config, base = weights.load_model(args.model, remat=sides.REMAT[args.remat], dtype=jnp.dtype(args.dtype).type)
        lora_config, adapter = peft.load_adapter(args.model / 'adapter', config)
    else:
        config, base = sides.random_model(args.shape, args.dtype, remat=sides.REMAT[args.remat])
        lora_config = lora.LoraConfig()
        adapter = lora.init_adapter(jax.random.key(1), base, lora_config)
    model = decoder.Decoder(config, lora_config.scale)
    tokens = jnp.asarray(prompts(args, config.vocab_size), jnp.int32)
    mask = tokens != PAD
    learning = update.UpdateConfig(epochs=args.epochs, minibatch_size=args.rollout, microbatch_size=args.microbatch,
                                   learning_rate=RATE, warmup_steps=0)
    ppo_config = ppo.PPOConfig()
    learner = {'lora': adapter, 'value_head': policy.init_value_head(config.hidden_size)}
    state = {'learner': learner, 'opt_state': update.make_optimizer(learning).init(learner), 'step': 0}
    done = jax.block_until_ready

    def write(length: int) -> generate.Responses:
        return done(generate.generate(
            model, {'params': base, 'lora': state['learner']['lora']}, tokens, mask, key_of('write'),
            sampling=SamplingConfig(max_length=length, temperature=1.0), stop_ids=config.vocab_size + 1))

    def key_of(what: str) -> jax.Array:
        return jax.random.fold_in(jax.random.key(len(what)), state['step'])

    def iteration(watch: Stopwatch) -> dict:
        """What `phases.align.iterate` does with a batch, each part waited for."""
        with watch('write'):
            responses = write(args.response)
            written = np.asarray(responses.tokens)
        with watch('reward'):
            raw = jnp.asarray((written % 2 == 0).mean(axis=1), jnp.float32)
        inputs = {'prompts': tokens, 'prompt_mask': mask, 'responses': responses.tokens,
                  'response_mask': responses.mask}
        with watch('score'):
            scored = align.score(model, base, state['learner'], inputs, temperature=1.0,
                                 num_chunks=args.rollout // args.microbatch)
            rollout, _, metrics = done(align.make_rollout(
                scored, raw, jnp.zeros(args.rollout), responses, KL_COEF, center=False, clip=1.0, penalty=0.0,
                config=ppo_config))
        with watch('update'):
            state['learner'], state['opt_state'], updated = done(update.ppo_update(
                state['learner'], state['opt_state'], base, inputs, rollout, key_of('update'),
                evaluate=align.evaluator(model, 1.0), config=learning, ppo_config=ppo_config))
        state['step'] += 1
        return {'kl': float(metrics['kl_response']), 'entropy': float(updated['entropy']),
                'score_mean': float(raw.mean())}

    def go(steps: int) -> dict:
        answer = {'seconds': [], 'parts': []}
        for _ in range(steps):
            watch, start = Stopwatch(), time.perf_counter()
            told = iteration(watch)
            answer['seconds'].append(time.perf_counter() - start)
            answer['parts'].append(watch.seconds)
        start = time.perf_counter()
        write(1)
        return answer | told | {'prefill': time.perf_counter() - start}

    def about() -> dict:
        planned = memory.Model(config, memory.make_mesh({}), lora_config)
        return sides.device() | {'at_best': at_best(args, planned, sides.rooflines(args.dtype))}

    sides.serve(go=go, about=about)


def at_best(args, planned, peaks: dict[str, float]) -> dict[str, float]:
    """Seconds of the parts by `planning.roofline`; `score` is of policy and reference over whole texts, whose
    responses are read out."""
    from xrec_jax.planning import memory, roofline
    from xrec_jax.planning.chips import Chip
    chip = Chip(memory=float('inf'), bandwidth=peaks['bandwidth'], flops=peaks['peak_flops'], link=1.0)
    work = memory.Work(batch=args.rollout, microbatch=args.microbatch, prompt=args.prompt, response=args.response)
    times = {'prefill': 1, 'decode': args.response - 1, 'score': 2, 'update': args.epochs * args.rollout // args.microbatch}
    return {name: count * getattr(roofline, name)(planned, work, chip).seconds for name, count in times.items()}


# ------------------------------------------------------------------------------------------ theirs


def theirs(args) -> None:
    """The same by TRL's trainer, whose functions are timed where it calls them."""
    os.environ |= {'TRL_EXPERIMENTAL_SILENCE': '1'}
    import peft
    import torch
    import transformers
    import trl
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
    transformers.logging.set_verbosity_error()
    watch = {}

    def timed(name, function):
        def call(*arguments, **named):
            what = 'update' if torch.is_grad_enabled() else name(*arguments)
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                if what != 'update':  # forward passes of the update are told by the rest
                    watch[what] = watch.get(what, 0.0) + time.perf_counter() - start
        return call

    class Evens(torch.nn.Module):
        """A reward model in TRL's form: the share of even tokens behind the prompt."""
        base_model_prefix = 'body'

        def __init__(self):
            super().__init__()
            self.body, self.score = self.share, torch.nn.Identity()

        def share(self, input_ids, **unused):
            even = (input_ids[:, args.prompt:] % 2 == 0).float().mean(dim=1)
            return types.SimpleNamespace(hidden_states=[even[:, None, None].expand(-1, input_ids.shape[1], 1)])

    class Values(torch.nn.Module):
        """A body and a head that says 0 at first."""
        base_model_prefix = 'body'

        def __init__(self, body, width):
            super().__init__()
            self.body, self.score = body, torch.nn.Linear(width, 1)
            torch.nn.init.zeros_(self.score.weight)
            torch.nn.init.zeros_(self.score.bias)

    load = lambda: transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    (kind,), base = args.values, load()
    vocab_size, width = base.config.vocab_size, base.config.hidden_size
    tuned = peft.PeftModel.from_pretrained(base, args.model / 'adapter', is_trainable=True)
    if kind == 'shared':
        body = tuned.base_model.model.model
    else:
        body = load().model.requires_grad_(kind == 'own')
    rewards, values = Evens(), Values(body, width)
    ids = [row.tolist() for row in prompts(args, vocab_size)]

    class Clock(transformers.TrainerCallback):
        def __init__(self):
            self.answer, self.told = {'seconds': [], 'parts': []}, {}

        def on_train_begin(self, *unused, **also_unused):
            watch.clear()
            self.start = time.perf_counter()

        def on_step_end(self, *unused, **also_unused):
            seconds = time.perf_counter() - self.start
            self.answer['seconds'].append(seconds)
            self.answer['parts'].append(watch | {'update': seconds - sum(watch.values())})
            watch.clear()
            self.start = time.perf_counter()

        def on_log(self, args, state, control, logs=None, **unused):
            self.told = {'kl': logs['objective/kl'], 'entropy': logs['policy/entropy_avg'],
                         'score_mean': logs['objective/scores']} if 'objective/kl' in logs else self.told

    ppo_trainer.batch_generation = timed(lambda *unused: 'write', ppo_trainer.batch_generation)
    ppo_trainer.forward = timed(lambda *unused: 'score', ppo_trainer.forward)
    ppo_trainer.get_reward = timed(lambda model, *unused: 'reward' if model is rewards else 'values',
                                   ppo_trainer.get_reward)
    settings = PPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=args.microbatch,
        gradient_accumulation_steps=args.rollout // args.microbatch, total_episodes=args.rollout * args.steps,
        num_mini_batches=1, num_ppo_epochs=args.epochs, local_rollout_forward_batch_size=args.rollout,
        response_length=args.response, temperature=1.0, kl_coef=KL_COEF, learning_rate=RATE,
        lr_scheduler_type='constant', bf16=False, gradient_checkpointing=False, use_cpu=True, report_to=[],
        save_strategy='no', logging_steps=1, disable_tqdm=True, num_sample_generations=0)
    clock = Clock()
    data = [{'input_ids': row} for row in ids]
    with silent():
        trainer = PPOTrainer(
            args=settings, processing_class=types.SimpleNamespace(pad_token_id=PAD, eos_token_id=2), model=tuned,
            ref_model=None, reward_model=rewards, value_model=values, train_dataset=data, eval_dataset=data,
            data_collator=lambda rows: {'input_ids': torch.tensor([row['input_ids'] for row in rows])},
            callbacks=[clock])

    def go(steps: int) -> dict:
        assert steps == args.steps
        clock.__init__()
        with silent():
            trainer.train()
            one = transformers.GenerationConfig(max_new_tokens=1, do_sample=True, top_k=0)
            tokens = torch.tensor(ids)
            start = time.perf_counter()
            with torch.no_grad():
                tuned.generate(input_ids=tokens, attention_mask=tokens != PAD, generation_config=one)
        return clock.answer | clock.told | {'prefill': time.perf_counter() - start}

    sides.serve(go=go, about=lambda: sides.versions() | {'peft': peft.__version__, 'trl': trl.__version__,
                                                         'values': kind})


@contextlib.contextmanager
def silent():
    """What is printed meanwhile is no answer."""
    with open(os.devnull, 'w') as sink, contextlib.redirect_stdout(sink):
        yield


# ------------------------------------------------------------------------------------------- both


def report(args, workers: dict[str, sides.Worker]) -> list[dict]:
    """Takes turns; a line a side, and the ratio."""
    rounds, lines = sides.take_turns(workers, args.rounds, 'go', args.steps), []
    for side, answers in rounds.items():
        seconds = [value for answer in answers for value in answer['seconds']]
        parts = [part for answer in answers for part in answer['parts']]
        middle = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
        line = {'claim': 'ppo', 'side': side, 'seconds': statistics.median(seconds), 'fastest': min(seconds),
                'slowest': max(seconds), 'tokens_per_second': args.rollout * args.response / statistics.median(seconds),
                'parts': middle | {'host': max(0.0, statistics.median(seconds) - sum(middle.values()))},
                'prefill': sides.median(answers, 'prefill'), 'peak_mib': max(answer['peak_mib'] for answer in answers),
                **{name: answers[-1][name] for name in ('kl', 'entropy', 'score_mean')}, **workers[side].ask('about')}
        line['share'] = {name: part / line['seconds'] for name, part in split(line).items()}
        if 'at_best' in line:
            line['reached'] = {name: best / split(line)[name] for name, best in line.pop('at_best').items()}
        lines.append(line)
    if 'theirs' in rounds:
        one, other = lines
        lines.append({'claim': 'ppo', 'values': args.values, 'ratio': other['seconds'] / one['seconds'],
                      'ratio_of_fastest': other['fastest'] / one['fastest'], 'load_average': os.getloadavg()[0]})
    return lines


def split(line: dict) -> dict[str, float]:
    """The parts with writing as prefill and decoding."""
    parts = {name: part for name, part in line['parts'].items() if name != 'write'}
    return {'prefill': line['prefill'], 'decode': line['parts']['write'] - line['prefill'], **parts}


def main() -> None:
    parser = sides.options(__doc__, 'torch, transformers, peft and trl<1')
    parser.add_argument('--rollout', type=int, default=32, help='texts an iteration')
    parser.add_argument('--microbatch', type=int, default=16, help='rows of a pass of the update')
    parser.add_argument('--prompt', type=int, default=128)
    parser.add_argument('--response', type=int, default=64)
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--remat', choices=sides.REMAT, default='none', help='of ours')
    parser.add_argument('--values', nargs='+', choices=VALUES, default=VALUES, help='where theirs come from')
    parser.add_argument('--steps', type=int, default=2)
    args = parser.parse_args()
    if args.rollout % args.microbatch:
        parser.error('--microbatch must divide --rollout')
    sides.run(parser, args, ours, theirs, compare)


def compare(args) -> None:
    """Each kind of values in turn (ours are the same in all), or ours alone."""
    for args.values in args.values if args.peer else ['shared']:
        with sides.workers(__file__, args, 'rollout', 'microbatch', 'prompt', 'response', 'epochs', 'remat', 'values',
                           'steps') as workers:
            for line in report(args, workers):
                sides.show(**line)


if __name__ == '__main__':
    main()
