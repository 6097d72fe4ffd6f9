"""What a run has learned, read from its folder, which stays as it is: nothing is trained, written or put aside.

Phases count as done once `summary.json` has their seconds. `judge` leaves nothing that is restored.
"""

import json
from typing import Any

import ml_collections

from xrec_jax.errors import UserError
from xrec_jax.phases.schedule import VERBS, parse
from xrec_jax.phases.task import Task
from xrec_jax.runs import files, progress
from xrec_jax.runs.state import RunState


def read_config(workdir: files.Path) -> ml_collections.ConfigDict:
    """The config of a run; UserError where the folder holds none."""
    path = workdir / 'config.json'
    if not path.exists():
        raise UserError(f'{path} does not exist: --workdir should be the folder of a run.')
    try:
        return ml_collections.ConfigDict(_with_tuples(json.loads(path.read_text())))
    except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {error.lineno}: not valid JSON ({error.msg}).') from None


def _with_tuples(tree: Any) -> Any:
    """`tree` with tuples for lists, as configs have them: JSON knows no tuples, and models' settings are hashed."""
    if isinstance(tree, dict):
        return {key: _with_tuples(value) for key, value in tree.items()}
    return tuple(map(_with_tuples, tree)) if isinstance(tree, list) else tree


def read_summary(workdir: files.Path) -> dict:
    """`summary.json`; {} before the first phase is done."""
    path = workdir / 'summary.json'
    return json.loads(path.read_text()) if path.exists() else {}


def done_of(workdir: files.Path, config: ml_collections.ConfigDict
            ) -> list[tuple[str, str, ml_collections.ConfigDict]]:
    """(phase, verb, settings) of the phases at the beginning of the schedule that are done."""
    seconds, found = read_summary(workdir).get('seconds', {}), []
    for phase, verb, settings in parse(config):
        if phase not in seconds:
            break
        found.append((phase, verb, settings))
    return found


def predictors_need_writer(config: ml_collections.ConfigDict) -> bool:
    """Whether PPO changed embeddings of predictors, which are then not restored without the language model."""
    return bool(config.get('soft_prompt', {}).get('tokens', 0) and config.soft_prompt.get('tune_embeddings', False))


def restore(task: Task, *, writer: bool = True, predictors: bool = True) -> RunState:
    """The state after the phases that are done; UserError where there is none, or what they left is damaged.

    Args:
      writer: whether what writes explanations is wanted: adapters, soft prompts, profiles. Needs `task.language`.
      predictors: whether the fitted models are. The soft prompts of RecPIE need theirs in any case.
    """
    phases = done_of(task.workdir, task.config)
    if not phases:
        raise UserError(f'{task.workdir}: no phase of the run is done yet; its train command goes on with it.')
    wanted = {'explain', *(('align', 'tune') if writer else ()),
              *(('fit',) if predictors or writer and task.soft_tokens else ())}
    state = RunState()
    with progress.silence():
        for index, (phase, verb, settings) in enumerate(phases, 1):
            if verb == 'explain' and settings.get('writes') == 'profiles' and not writer:
                continue
            if verb in wanted:
                state = VERBS[verb].restored(task, state, phase, index, settings)
            elif verb == 'align':  # later fits read what it wrote
                state = state.replace(explanations=state.explanations | {
                    phase: task.workdir / 'explanations' / f'{phase}.parquet'})
    return state
