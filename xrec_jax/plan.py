"""Will it fit, and how fast can it be? Bytes per device and step times, from shapes alone.

    python -m xrec_jax.plan --model llama-3-8b --mesh fsdp=8 --chip v5e
    python -m xrec_jax.plan --model DIR --mesh data=2,tensor=4 --chip h100 --batch 64 --microbatch 16 --format json

1. model: the `config.json` of a directory, or a built-in shape (planning/shapes.py)
2. mesh: no device is touched, none is needed; sizes that the program would refuse are refused
3. bytes of each verb on one device: planning/memory.py. Weights, adapter, optimizer and cache are exact, the rest
   was within a factor of 0.7 to 1.5 of XLA's own figure in total (tests/test_plan.py)
4. each chip: what is left of its memory, and step times by its rooflines: planning/chips.py, planning/roofline.py

What comes out of the first, and how to read it: docs/machines.md.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import rich.box
import rich.table
from absl import flags

from xrec_jax import cli
from xrec_jax.errors import UserError
from xrec_jax.language import lora
from xrec_jax.planning import memory, roofline, shapes
from xrec_jax.planning.chips import CHIPS, Chip, chip
from xrec_jax.runs import progress

USABLE = 0.92  # of a chip's memory: the runtime, programs and gaps between arrays take the rest
DTYPES = {'float32': (jnp.float32, 'none'), 'bf16': (jnp.bfloat16, 'none'), 'int8': (jnp.bfloat16, 'int8'),
          'int4': (jnp.bfloat16, 'int4')}
REMAT = {'none': False, 'projections': 'projections', 'all': True}
STEPS = {'decode': roofline.decode, 'prefill': roofline.prefill, 'tune': roofline.tune}


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    sizes = mesh_sizes(options.mesh)
    dtype, quantized = DTYPES[options.dtype]
    config = shapes.read(options.model, dtype=dtype, remat=REMAT[options.remat])
    model = memory.Model(config, memory.make_mesh(sizes), lora.LoraConfig(rank=options.rank), quantized)
    shards = model.mesh.shape['data'] * model.mesh.shape['fsdp']
    work = memory.Work(batch=options.batch or 8 * shards, microbatch=options.microbatch or shards,
                       prompt=options.prompt, response=options.response, attention=options.attention)
    reached = {'bandwidth': options.reached_bandwidth, 'flops': options.reached_flops, 'link': options.reached_link}
    names = options.chip or list(CHIPS)
    chips = {name: slowed(chip(name), reached) for name in names}
    plan = memory.plan(model, work)
    times = {name: {step: function(model, work, one) for step, function in STEPS.items()}
             for name, one in chips.items()}
    if options.format == 'json':
        print(json.dumps(report(model, work, plan, chips, times), indent=2))
        return
    progress.say(headline(options.model, options.dtype, model, work))
    progress.CONSOLE.print(bytes_table(plan))
    progress.CONSOLE.print(chips_table(work, plan, chips, times))
    progress.say(NOTE)


def mesh_sizes(text: str) -> dict[str, int]:
    """'data=1,fsdp=8' → {'data': 1, 'fsdp': 8}."""
    sizes = {}
    for pair in text.split(','):
        name, equals, size = pair.strip().partition('=')
        if not equals or not size.lstrip('-').isdigit() or name in sizes:
            raise UserError(f'--mesh={text}: should be as data=1,fsdp=8,tensor=4, each axis at most once.')
        sizes[name] = int(size)
    return sizes


def slowed(one: Chip, reached: Mapping[str, float]) -> Chip:
    """A chip at the measured shares of its peaks."""
    return dataclasses.replace(one, **{name: getattr(one, name) * share for name, share in reached.items()})


def verdict(total: int, one: Chip) -> str:
    return 'fits' if total <= USABLE * one.memory else 'tight' if total <= one.memory else 'too large'


# ---------------------------------------------------------------------------------------------- output

PARTS = ('weights', 'adapter', 'optimizer', 'update', 'cache', 'activations', 'total')
NOTE = ('Left of the published memory by each verb: below 0 it does not fit, in (brackets) less than 8 % is left.\n'
        'Times are what the rooflines allow: planning/roofline.py; --reached_flops=0.45 and its like for what was '
        'measured.')


def headline(name: str, dtype: str, model: memory.Model, work: memory.Work) -> str:
    mesh = ', '.join(f'{axis}={size}' for axis, size in model.mesh.shape.items())
    return (f'{name}: {roofline.parameters(model).total / 1e9:.2f} billion parameters in {dtype}, LoRA of rank '
            f'{model.lora.rank}, on {model.mesh.size} device(s): {mesh}\n'
            f'prompts of {work.prompt} tokens, responses of {work.response}; {work.batch} texts at once, '
            f'microbatches of {work.microbatch} rows')


def bytes_table(plan: Mapping[str, Mapping[str, int]]) -> rich.table.Table:
    table = _table('GiB on each device', plan)
    for part in PARTS:
        table.add_row(part, *(f'{parts[part] / 2**30:.2f}' if part in parts else '' for parts in plan.values()))
    return table


def chips_table(work: memory.Work, plan: Mapping[str, Mapping[str, int]], chips: Mapping[str, Chip],
                times: Mapping[str, Mapping[str, roofline.Step]]) -> rich.table.Table:
    table = _table('GiB left, and times at best', chips)
    for title, parts in plan.items():
        table.add_row(title, *(_left(parts['total'], one) for one in chips.values()))
    rows_of = {'decode': work.batch, 'prefill': work.batch * work.prompt, 'tune': work.microbatch * work.length}
    for title, tokens in rows_of.items():
        steps = [times[name][title] for name in chips]
        table.add_row(f'{title}, ms', *(f'{step.seconds * 1e3:,.3g} {step.bound}' for step in steps))
        table.add_row(f'{title}, tokens/s', *(f'{tokens / step.seconds:,.0f}' for step in steps))
    return table


def _table(title: str, columns: Iterable[str]) -> rich.table.Table:
    table = rich.table.Table(title=title, title_justify='left', box=rich.box.SIMPLE_HEAD)
    table.add_column('')
    for column in columns:
        table.add_column(column, justify='right')
    return table


def _left(total: int, one: Chip) -> str:
    text = f'{(one.memory - total) / 2**30:.1f}'
    return f'({text})' if verdict(total, one) == 'tight' else text


def report(model: memory.Model, work: memory.Work, plan, chips: Mapping[str, Chip], times) -> dict:
    """All figures, in bytes and seconds."""
    return {
        'mesh': dict(model.mesh.shape), 'work': dataclasses.asdict(work) | {'rank': model.lora.rank},
        'parameters': dataclasses.asdict(roofline.parameters(model)),
        'bytes_per_device': plan,
        'chips': {name: {
            'memory': one.memory,
            'verbs': {title: {'verdict': verdict(parts['total'], one), 'left': one.memory - parts['total']}
                      for title, parts in plan.items()},
            'seconds': {step: dataclasses.asdict(time) | {'total': time.seconds, 'bound': time.bound}
                        for step, time in times[name].items()},
            'tokens_per_second': {'decode': work.batch / times[name]['decode'].seconds,
                                  'tune': work.microbatch * work.length / times[name]['tune'].seconds},
        } for name, one in chips.items()},
    }


def define_flags() -> None:
    """Under `__main__`, not at import: flags are global, and entry points may be imported together."""
    positive = dict(lower_bound=1)
    share = dict(lower_bound=1e-3, upper_bound=1.0)
    flags.DEFINE_string('model', None, f'Directory with a config.json, or one of {", ".join(shapes.SHAPES)}, tiny.',
                        required=True)
    flags.DEFINE_string('mesh', 'data=1,fsdp=1,tensor=1', 'Sizes of the mesh axes.')
    flags.DEFINE_multi_string('chip', [], f'One of {", ".join(CHIPS)}; give it for each. All, if not given.')
    flags.DEFINE_integer('batch', None, 'Texts written at once, on all devices; 8 a device if not given.', **positive)
    flags.DEFINE_integer('microbatch', None, 'Rows of a forward and backward pass; 1 a device if not given.',
                         **positive)
    flags.DEFINE_integer('prompt', 512, 'Tokens of a prompt.', **positive)
    flags.DEFINE_integer('response', 128, 'Tokens of a response.', **positive)
    flags.DEFINE_integer('rank', 8, 'Of the LoRA adapter, on all projections.', **positive)
    flags.DEFINE_enum('dtype', 'bf16', list(DTYPES), 'Of the frozen weights; int8 and int4: the projections alone.')
    flags.DEFINE_enum('remat', 'none', list(REMAT), 'What the backward pass computes again: `language.remat`.')
    flags.DEFINE_enum('attention', 'scores', list(memory.ATTENTION), 'Whether scores [rows, heads, S, S] are ever in '
                      'memory: language/attention.py writes them, a fused kernel would not.')
    flags.DEFINE_float('reached_bandwidth', 1.0, 'Share of the memory bandwidth that was measured.', **share)
    flags.DEFINE_float('reached_flops', 1.0, 'Share of the bf16 peak that was measured.', **share)
    flags.DEFINE_float('reached_link', 1.0, 'Share of the links\' bandwidth that was measured.', **share)
    flags.DEFINE_enum('format', 'table', ['table', 'json'], 'What is printed.')


if __name__ == '__main__':
    define_flags()
    cli.run(main)
