"""A paper plan for runs that are too large to try: `python -m xrec_jax.planning.scaling > launch/SCALING.md`.

For each model and machine all meshes and batches are tried that the program would take and whose bytes fit, and the one
is shown that writes most explanations a second by the rooflines (planning/roofline.py). Nothing is run.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language import lora
from xrec_jax.plan import USABLE, slowed
from xrec_jax.planning import memory, roofline, shapes
from xrec_jax.planning.chips import CHIPS, Chip


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips of one kind; `domain` of them share the fast network that `fsdp` and `tensor` need."""

    name: str
    chip: str
    chips: int
    domain: int


MODELS = ('llama-3-8b', 'llama-3-70b')
# A v5p-128 has 64 chips: Google counts its cores. Eight H100 share NVLink.
MACHINES = (Machine('v5e-256', 'v5e', 256, 256), Machine('v5p-128', 'v5p', 64, 64), Machine('64 H100', 'h100', 64, 8))
EXPLANATIONS = 20_000_000 * 10  # users, and explanations of each
PROMPT, RESPONSE = 512, 128
ROLLOUT, EPOCHS = 1024, 2  # texts of an iteration of PPO, and passes over them
REACHED = {'flops': 0.4, 'bandwidth': 0.6, 'link': 0.6}  # shares of the peaks; see TEXT


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way to run a model on a machine."""

    model: memory.Model
    work: memory.Work

    def bytes(self) -> dict[str, int]:
        """Verb → bytes on one device; UserError where the program would refuse it."""
        return {title: parts['total'] for title, parts in memory.plan(self.model, self.work).items()}

    def writing(self, chip: Chip) -> float:
        """Seconds to write a batch: its prompts, then a token after the other."""
        return (roofline.prefill(self.model, self.work, chip).seconds
                + self.work.response * roofline.decode(self.model, self.work, chip).seconds)

    def explanations_a_second(self, chip: Chip) -> float:
        return self.work.batch / self.writing(chip)

    def iteration(self, chip: Chip) -> dict[str, float]:
        """Seconds of the parts of one iteration of PPO over `ROLLOUT` texts, as `phases/align.py` does it: policy and
        reference score whole sequences in a forward pass each, and the responses are read out."""
        score = 2 * ROLLOUT / self.work.batch * roofline.score(self.model, self.work, chip).seconds
        update = EPOCHS * ROLLOUT / self.work.microbatch * roofline.update(self.model, self.work, chip).seconds
        return {'write': ROLLOUT / self.work.batch * self.writing(chip), 'score': score, 'update': update}


def plans(name: str, machine: Machine) -> Iterator[Plan]:
    """All that fit: sizes are powers of two."""
    chip = CHIPS[machine.chip]
    config = shapes.read(name, remat='projections', dtype=jnp.bfloat16)
    powers = [2**n for n in range(10)]
    for fsdp, tensor in itertools.product(powers, repeat=2):
        if fsdp * tensor > machine.domain or machine.chips % (fsdp * tensor):
            continue
        mesh = memory.make_mesh({'data': machine.chips // (fsdp * tensor), 'fsdp': fsdp, 'tensor': tensor})
        model, shards = memory.Model(config, mesh, lora.LoraConfig(rank=8)), machine.chips // tensor
        for rows, micro in itertools.product(powers, (1, 2, 4, 8)):
            work = memory.Work(batch=rows * shards, microbatch=micro * shards, prompt=PROMPT, response=RESPONSE)
            if work.batch > 8 * ROLLOUT or work.microbatch > ROLLOUT:
                continue
            plan = Plan(model, work)
            try:
                if max(plan.bytes().values()) <= USABLE * chip.memory:
                    yield plan
            except UserError:
                break  # this mesh cuts heads, or splits too little: no batch will help


def best(name: str, machine: Machine) -> Plan | None:
    """The plan that writes most, and of those that write as much the one with the shortest iteration of PPO."""
    chip = CHIPS[machine.chip]
    return max(plans(name, machine), default=None, key=lambda plan: (
        round(plan.explanations_a_second(chip), 6), -sum(plan.iteration(chip).values())))


HEADS = ('', 'mesh', 'texts at once, microbatch', 'GiB a device: explain, align', 'decode, ms',
         'prefill, ms', 'tune, ms', 'new tokens/s', f'hours for {EXPLANATIONS // 10**6} M', f'PPO on {ROLLOUT:,} texts, s',
         'of it write, score, update')


def row(name: str, machine: Machine, plan: Plan, reached: dict[str, float]) -> list[str]:
    """A line of the table."""
    chip = slowed(CHIPS[machine.chip], reached)
    shape, used, parts = plan.model.mesh.shape, plan.bytes(), plan.iteration(chip)
    steps = [function(plan.model, plan.work, chip) for function in (roofline.decode, roofline.prefill, roofline.tune)]
    speed = plan.explanations_a_second(chip)
    total = sum(parts.values())
    return [f'{name.removeprefix("llama-3-").upper()}, {machine.name}',
            '×'.join(str(shape[axis]) for axis in memory.AXES),
            f'{plan.work.batch:,}, {plan.work.microbatch}',
            f'{used["explain"] / 2**30:.1f}, {max(used["align: write"], used["align: update"]) / 2**30:.1f}',
            *(f'{step.seconds * 1e3:,.3g} {step.bound}' for step in steps),
            f'{speed * plan.work.response:,.0f}', f'{EXPLANATIONS / speed / 3600:,.1f}', f'{total:,.1f}',
            ', '.join(f'{part / total:.0%}' for part in parts.values())]


def table(reached: dict[str, float]) -> str:
    lines = ['| ' + ' | '.join(HEADS) + ' |', '|' + '---|' * len(HEADS)]
    for name, machine in itertools.product(MODELS, MACHINES):
        plan = best(name, machine)
        cells = row(name, machine, plan, reached) if plan else [f'{name}, {machine.name}', 'does not fit']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


# LLaMA-3.1-8B in bf16 at a context of 1,024: milliseconds a step that others have worked out from the same peaks.
KNOWN_STEPS = {('h100', 1): {64: 7.4, 256: 15.1}, ('h200', 1): {64: 5.1, 256: 11.3}, ('v5e', 8): {64: 3.8, 256: 7.9},
               ('v5p', 4): {64: 2.2, 256: 5.3}}
KNOWN_TUNING = 12473  # tokens/s: LoRA on 8B, one H100, rows of 4,096 (NeMo AutoModel)


def checks() -> str:
    """The rooflines beside figures of others."""
    lines = ['| | here | others | |', '|---|---|---|---|']
    config = shapes.read('llama-3-8b', remat='projections', dtype=jnp.bfloat16)
    for (chip, count), steps in KNOWN_STEPS.items():
        model = memory.Model(config, memory.make_mesh({'fsdp': count}), lora.LoraConfig(rank=8))
        for batch, known in steps.items():
            work = memory.Work(batch=batch, microbatch=count, prompt=960, response=128)  # 1,024 in the middle
            step = roofline.decode(model, work, CHIPS[chip])
            ours = max(step.memory, step.compute) * 1e3  # they leave the network out
            lines.append(f'| decode of 8B, {count} × {chip}, {batch} rows, ms | {ours:.1f} | {known} | '
                         f'{ours / known:.2f} |')
    model = memory.Model(config, memory.make_mesh({}), lora.LoraConfig(rank=8))
    work = memory.Work(batch=1, microbatch=1, prompt=3584, response=512)
    ours = work.length / roofline.tune(model, work, CHIPS['h100']).seconds
    lines.append(f'| tuning 8B, 1 × h100, rows of 4,096, tokens/s | {ours:,.0f} at best | {KNOWN_TUNING:,} measured | '
                 f'{KNOWN_TUNING / ours:.2f} of it |')
    return '\n'.join(lines)


TEXT = '''# Planned on paper: 20 million users, ten explanations each

Written by `python -m xrec_jax.planning.scaling`; none of these machines was at hand. For LLaMA-3-8B and 70B in bf16 with LoRA of rank 8, prompts of {prompt} tokens and responses of {response}, every mesh (data×fsdp×tensor, powers of two) and batch was tried that the program takes and that leaves 8 % of each device's memory; shown is the one that writes most. `memory`, `compute` and `network` say what bounds a step: planning/roofline.py has the formulas, planning/chips.py the peaks and where they come from.

**At best**, by the rooflines:

{ideal}

**As planned for**, the same meshes at {flops:.0%} of the multiplications, {bandwidth:.0%} of the memory bandwidth and {link:.0%} of the links:

{planned}

These shares are assumptions, not measurements of this program on these machines. Published figures that they lean on: LoRA on 8B reaches some 41 % of an H100's peak (below), decoding of 70B in int8 on v5e-16 from 85 % (8 rows) down to 21 % (128 rows) of the bandwidth (jax-llm-examples). What is not counted: reading data, tokenising, the reward model's questions, checkpoints, preemptions, and the network between slices or nodes, over which `data` only sums gradients of an adapter.

Read it so: of the time of a batch 60 to 76 % goes into its prompts, which multiplying bounds, and the rest into decoding, which reading weights and caches bounds. The 200 million explanations take days, PPO, which needs some hundreds of iterations, minutes to hours: the machine is chosen for `explain`. A user's ten prompts share the user's history; keeping its cache would save most of the prompts' time, and is not planned for here.

**Beside figures of others**, the rooflines alone:

{checks}
'''
AGAINST = '''
**Predicted against measured**, at sizes that could be run here ({device}; `python bench/roofline.py > launch/measured.jsonl`). `at best`: the same formulas with the peaks measured in that run, {gflops:,.0f} GFLOP/s and {gb_per_second:,.0f} GB/s; `as planned for`: at the shares above; the last column is what was reached of the best:

{measured}
'''
MEASURED = pathlib.Path(__file__).parents[2] / 'launch' / 'measured.jsonl'


def measured(lines: Sequence[Mapping]) -> str:
    """The table of bench/roofline.py's lines: each step as predicted at best, as planned for, and as measured."""
    rows = ['| step | at best, ms | as planned for, ms | measured, ms | reached |', '|---|---|---|---|---|']
    for line in lines[1:]:
        share = REACHED['flops' if line['bound'] == 'compute' else 'bandwidth']
        what = (f'{line["batch"]} rows of {line["prompt"]} and {line["response"]} tokens'
                if line['step'] in ('prefill', 'decode') else f'{line["microbatch"]} rows of '
                f'{line["prompt"] + line["response"]} tokens')
        rows.append(f'| {line["shape"]}: {line["step"]}, {what} | {line["predicted_ms"]:,.1f} {line["bound"]} | '
                    f'{line["predicted_ms"] / share:,.1f} | {line["measured_ms"]:,.1f} | {line["reached"]:.0%} |')
    return '\n'.join(rows)


def text() -> str:
    """The page; with what bench/roofline.py has measured, where `MEASURED` is there."""
    page = TEXT.format(prompt=PROMPT, response=RESPONSE, ideal=table({}), planned=table(REACHED), checks=checks(),
                       **REACHED)
    if not MEASURED.exists():
        return page
    lines = [json.loads(line) for line in MEASURED.read_text().splitlines()]
    machine = lines[0]
    return page + AGAINST.format(measured=measured(lines), gflops=machine['gflops'],
                                 gb_per_second=machine['gb_per_second'],
                                 device=f'{machine["cores"]} cores of a {machine["device"]}, {machine["dtype"]}')


if __name__ == '__main__':
    print(text(), end='')
