"""`fit`: trains a recommender; what for is `fit.task`.

  'click', 'rating'  a predictor of a user's verdict on an item, with or without explanations (`fit_predictor`)
  'ranking'          a model that ranks all items for a user (`fit_ranking`)

Several seeds are trained at once (`fit.seeds`), each stopped and chosen on validation. With values in
`config.sweep`, every candidate is trained so, and the one that validates best is the result; `sweep.csv` in the
phase's folder of checkpoints tells of all. The test split is not looked at.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import rich.table

from xrec_jax.errors import UserError, nearest
from xrec_jax.metrics.spread import spread
from xrec_jax.phases import fit_predictor, fit_ranking, models
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import sweep
from xrec_jax.recommenders.training import State, finished
from xrec_jax.runs import checkpoints, preemption, progress
from xrec_jax.runs.checkpoints import Checkpoints
from xrec_jax.runs.files import write_whole
from xrec_jax.runs.state import Fitted, RunState

# Each offers `MODELS`, `check(task, settings, earlier)`, `prepare(task, state, settings)`: what all candidates are
# trained on, and `Training(task, settings, prepared)` with `model`, `config`, `note`, `init(key)`, `fit(state)` and
# `result(state)`.
TASKS = {'click': fit_predictor, 'rating': fit_predictor, 'ranking': fit_ranking}


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Fits the model `settings.name`, or every candidate for it; goes on from the newest checkpoints."""
    trials, predictors, monitor = _fit(task, state, phase, index, settings, _train)
    if len(trials) > 1:
        _report(task, phase, trials, monitor)
    return _with_best(state, settings, trials, predictors)


def restored(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """The state after a phase that is done, from what it has on disk, which stays as it is."""
    trials, predictors, _ = _fit(task, state, phase, index, settings, _read)
    return _with_best(state, settings, trials, predictors)


def _fit(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict,
         get: Callable[..., State]) -> tuple[list[sweep.Trial], list[Fitted | None], str]:
    """Every candidate with its score, as `get` (`_train` or `_read`) has it, and what the score is."""
    kind = TASKS[settings.task]
    prepared = kind.prepare(task, state, settings)
    key = jax.random.fold_in(jax.random.key(task.seed), index)
    candidates = make_candidates(task, settings)
    trials, predictors = [], []
    for number, candidate in enumerate(candidates, 1):
        name = f'{phase}/trial-{number:03}' if len(candidates) > 1 else phase
        training = kind.Training(task, overlaid(settings, candidate), prepared)
        try:
            fitted = get(task, training, name, key, settings)
        except UserError as error:  # a loss that is no number: with other settings it may be one
            if len(candidates) == 1:
                raise
            progress.say(f'{name} with {sweep.text(candidate)}: {error}')
            trials.append(sweep.Trial(candidate, np.full(1, np.nan), np.zeros(1, int)))
            predictors.append(None)
            continue
        trials.append(sweep.Trial(candidate, np.ravel(fitted.best_score), np.ravel(fitted.best_epoch)))
        predictors.append(
            Fitted(training.model, training.result(fitted), overlaid(settings, candidate), settings.seeds))
        with_values = f' with {sweep.text(candidate)}' if candidate else ''
        progress.say(f'{name}: {training.note}{with_values}; best epoch {_range(fitted.best_epoch)} of '
                     f'{_range(fitted.epoch)}, validation {training.config.monitor} '
                     + spread(np.abs(fitted.best_score)))
    return trials, predictors, training.config.monitor


def _with_best(state: RunState, settings: ml_collections.ConfigDict, trials: list[sweep.Trial],
               predictors: list[Fitted | None]) -> RunState:
    best = predictors[sweep.ranked(trials)[0]]
    return state.replace(predictors=state.predictors | {settings.name: best})


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for bad settings of any candidate, or for what the phases before would not have made."""
    if settings.task not in TASKS:
        raise UserError(f'fit.task: "{settings.task}" is nothing to train for.{nearest(settings.task, TASKS)}')
    if settings.seeds < 1:
        raise UserError(f'fit.seeds={settings.seeds}: should be at least 1.')
    for candidate in make_candidates(task, settings):
        TASKS[settings.task].check(task, overlaid(settings, candidate), earlier)


def make_candidates(task: Task, settings: ml_collections.ConfigDict) -> list[dict[str, Any]]:
    """What `config.sweep` makes of this fit, as changes of dotted settings; [{}] without a sweep.

    Settings that the model does not have (a dropout of LR) are left out.
    """
    if 'sweep' not in task.config:
        return [{}]
    asked = task.config.sweep
    model = TASKS[settings.task].MODELS.get(settings.model.name)
    has = {'training': settings.training, 'model': models.settings_of(model) if model else ()}
    values = {f'{group}.{name}': tuple(asked[group][name]) for group in ('training', 'model')
              for name in asked[group] if len(asked[group][name]) and name in has[group]}
    if not values:
        return [{}]
    return sweep.candidates(values, search=asked.search, trials=asked.trials, seed=task.seed)


def overlaid(settings: ml_collections.ConfigDict, candidate: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """`settings` with the values of `candidate`, whose keys are dotted."""
    settings = ml_collections.ConfigDict(settings.to_dict())
    for key, value in candidate.items():
        group, name = key.split('.')
        settings[group][name] = value
    return settings


def _train(task: Task, training, name: str, key: jax.Array, settings: ml_collections.ConfigDict) -> State:
    """One candidate, all its seeds: from its newest checkpoint to the end."""
    fresh = training.init(key if settings.seeds == 1 else jax.random.split(key, settings.seeds))
    with Checkpoints(task.workdir / 'checkpoints' / name) as saved:
        done, fitted = saved.restore(fresh)
        if finished(fitted, training.config):
            return fitted
        task.metrics.rewind(name, done)
        with progress.bar(name, training.config.epochs, done, 'epochs') as advance:

            def on_epoch(fitted: State, metrics: dict[str, float]) -> None:
                epoch = metrics.pop('epoch')
                task.metrics.write(name, epoch, metrics)
                stop = preemption.requested()
                if stop or epoch % settings.checkpoint_every == 0 or finished(fitted, training.config):
                    saved.save(epoch, fitted)
                if stop:
                    preemption.leave(name, epoch)
                advance(note=f'{training.config.monitor} {abs(metrics["score"]):.4f}')

            return training.fit(fitted, on_epoch)


def _read(task: Task, training, name: str, key: jax.Array, settings: ml_collections.ConfigDict) -> State:
    """One candidate, all its seeds, as `_train` left it; UserError where that was before the end."""
    fresh = training.init(key if settings.seeds == 1 else jax.random.split(key, settings.seeds))
    _, fitted = checkpoints.read(task.workdir / 'checkpoints' / name, fresh)
    if not finished(fitted, training.config):
        raise UserError(f'{name} has not come to its end.')
    return fitted


def _report(task: Task, phase: str, trials: list[sweep.Trial], monitor: str) -> None:
    """Prints the candidates, best first, and writes `sweep.csv`."""
    header, rows = sweep.table(trials)
    path = task.workdir / 'checkpoints' / phase / 'sweep.csv'
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    write_whole(path, lambda partial: partial.write_text(text.getvalue()))
    table = rich.table.Table(title=f'{phase}: {len(trials)} candidates by validation {monitor}', title_justify='left')
    for title in header:
        table.add_column(title, justify='right')
    for row in rows:
        table.add_row(*(f'{value:.4f}' if isinstance(value, float) and 'valid' in title else str(value)
                        for title, value in zip(header, row)))
    progress.CONSOLE.print(table)


def _range(epochs: jax.Array) -> str:
    """'3', or '2 to 5' of several seeds."""
    low, high = int(np.min(epochs)), int(np.max(epochs))
    return str(low) if low == high else f'{low} to {high}'
