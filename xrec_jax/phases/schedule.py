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
from xrec_jax.phases import align, explain, fit, judge
from xrec_jax.phases.task import Task
from xrec_jax.runs.state import RunState

VERBS: dict[str, ModuleType] = {'fit': fit, 'align': align, 'explain': explain, 'judge': judge}
WRITING = ('align', 'explain')  # verbs that need the language model


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
        settings = ml_collections.ConfigDict(config.get(verb, {}))
        settings = _overlaid(settings, config.get(name, {}), f'config.{name}', f'config.{verb}')
        settings.name = name
        phases.append((f'{index:02}-{verb}-{name}', verb, settings))
    return phases


def _overlaid(settings: ml_collections.ConfigDict, own: ml_collections.ConfigDict, where: str, above: str
              ) -> ml_collections.ConfigDict:
    """`settings` with those of `own` in their place, group by group; a group with a name, as `model`, as a whole."""
    result = settings.to_dict()
    for key, value in own.items():
        if key not in settings:
            raise UserError(f'schedule: "{key}" of {where} is no setting of {above}.{nearest(key, settings.keys())}')
        group = isinstance(value, ml_collections.ConfigDict) and 'name' not in value
        result[key] = _overlaid(settings[key], value, f'{where}.{key}', f'{above}.{key}') if group else value
    return ml_collections.ConfigDict(result)


def check_schedule(task: Task) -> None:
    """Refuses, with a UserError, a schedule or settings that cannot work; computes nothing."""
    for index, (_, verb, settings) in enumerate(parse(task.config)):
        if verb in WRITING and not task.language:
            raise UserError(f'schedule: {verb}({settings.name}) needs a language model, and the config has no '
                            '"language".')
        VERBS[verb].check(task, settings, task.config.schedule[:index])
    if task.language:
        task.prompt_width  # noqa: B018  (refuses prompts that are too long)


def run_schedule(task: Task) -> RunState:
    """Runs all phases of `task.config.schedule`."""
    state = RunState()
    for index, (phase, verb, settings) in enumerate(parse(task.config), 1):
        start = time.perf_counter()
        state = VERBS[verb].run(task, state, phase, index, settings)
        state = state.replace(seconds=state.seconds | {phase: round(time.perf_counter() - start, 2)})
    return state
