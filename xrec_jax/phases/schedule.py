"""A schedule: a list of verbs, each with the name of its settings, run one after the other.

`('explain(icl)', 'fit(ids)', 'align(lc)', …)`: `verb(name)` runs the verb with the settings of
`config.<verb>`, overlaid by those of `config.<name>` where there are any. Phase 3 of a schedule that
runs `align(lc)` is called `03-align-lc`: in `metrics.jsonl`, `checkpoints/` and `explanations/`.

Every verb is a module with `run(task, state, phase, index, settings) → state`, which goes on from what
it has on disk (a phase that is done only reads its result, so a resumed run is the same run again),
and `check(task, settings, earlier)`, which refuses bad settings before anything is computed.
"""

import re
import time
from types import ModuleType

import ml_collections

from xrec_jax.errors import UserError, nearest
from xrec_jax.phases import align, explain, fit, judge, tune
from xrec_jax.phases.settings import settings_of
from xrec_jax.phases.task import Task
from xrec_jax.runs import preemption, progress
from xrec_jax.runs.state import RunState
from xrec_jax.runs.summary import add_seconds

VERBS: dict[str, ModuleType] = {'fit': fit, 'tune': tune, 'align': align, 'explain': explain, 'judge': judge}
WRITING = ('align', 'explain')  # verbs that write to the examples' prompts
LANGUAGE = ('tune', *WRITING)  # verbs that need the language model


def parse(config: ml_collections.ConfigDict) -> list[tuple[str, str, ml_collections.ConfigDict]]:
    """(phase, verb, settings) of every entry of `config.schedule`; UserError for one that is none."""
    phases = []
    for index, entry in enumerate(config.schedule, 1):
        parts = re.fullmatch(r'(\w+)\((\w+)\)', entry)
        if not parts:
            raise UserError(f'schedule: "{entry}" should be VERB(NAME), as "fit(ids)".')
        verb, name = parts.groups()
        if verb not in VERBS:
            raise UserError(f'schedule: "{verb}" in "{entry}" is no verb.{nearest(verb, VERBS)}')
        phases.append((f'{index:02}-{verb}-{name}', verb, settings_of(config, verb, name)))
    return phases


def check_schedule(task: Task) -> None:
    """Refuses, with a UserError, a schedule or settings that cannot work; computes nothing."""
    for index, (_, verb, settings) in enumerate(parse(task.config)):
        if verb in LANGUAGE and not task.language:
            raise UserError(f'schedule: {verb}({settings.name}) needs a language model, and the config has no '
                            '"language".')
        VERBS[verb].check(task, settings, task.config.schedule[:index])
    say_shortened(task)


def say_shortened(task: Task) -> None:
    """Says how many prompts lost history to the context; UserError where one is too long without any."""
    for split, lost in task.shortened.items():
        if lost['prompts']:
            progress.say(f'{split}: {lost["prompts"]:,} of {len(task.examples[split].user):,} prompts were too long '
                         f'for the context and lost their oldest history items, {lost["items"]:,} in all')


def run_schedule(task: Task) -> RunState:
    """Runs all phases of `task.config.schedule`."""
    state = RunState()
    for index, (phase, verb, settings) in enumerate(parse(task.config), 1):
        if preemption.requested():
            raise preemption.Stopped(f'before {phase}')
        start = time.perf_counter()
        state = VERBS[verb].run(task, state, phase, index, settings)
        add_seconds(task.workdir, phase, time.perf_counter() - start)
    return state
