"""`explain` with `writes='predictor'`: what a predictor that writes (PETER) says of every example, for `judge` of texts.

`settings.of` names the fit. PETER has one explanation of a pair, not one for and one against: it is kept as kind 'reason',
one a row, so that `judge(text)` compares it with all that other phases wrote of the same pairs. It is not encoded and does
not go to the run's store, and no network is fitted on it. Of several seeds the first writes. Nothing is drawn: the
likeliest word each time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.parallel import distributed
from xrec_jax.phases import explained, fit_predictor, training_words
from xrec_jax.phases.settings import settings_of
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import peter, words
from xrec_jax.runs import progress
from xrec_jax.runs.explanations import ExplanationWriter, read_explanations
from xrec_jax.runs.state import RunState

KIND = 'reason'


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Writes the texts of `settings.splits`, a split a step; goes on behind the last that is there."""
    del index
    writer = ExplanationWriter(task.workdir, phase)
    if not writer.finished:
        done = writer.last_step
        writer.rewind(done)
        count = {split: len(task.examples[split].user) for split in settings.splits}
        start = sum(count[split] for split in settings.splits[:done])
        with progress.bar(phase, sum(count.values()), start, 'texts') as advance:
            for step, split in enumerate(settings.splits[done:], done + 1):
                _add(task, state, settings, writer, split, step, advance)
                writer.flush(step)
        writer.finish()
    if distributed.is_main():
        explained.write(task, phase, {split: np.arange(len(task.examples[split].user)) for split in settings.splits})
    table = read_explanations(writer.path)
    progress.say(f'{phase}: {len(table):,} explanations ({", ".join(settings.splits)}) by fit({settings.of}); '
                 f'{np.mean(table["num_tokens"].to_numpy()):.1f} words each, '
                 f'{np.mean(table["truncated"].to_numpy(zero_copy_only=False)):.1%} truncated')
    return state.replace(explanations=state.explanations | {phase: writer.path})


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for an unknown split, or a fit that was not before, or of a model that does not write."""
    for split in settings.splits:
        if split not in task.examples:
            raise UserError(f'explain.splits: "{split}" is no split.{nearest(split, task.examples)}')
    if f'fit({settings.of})' not in earlier:
        raise UserError(f'schedule: explain({settings.name}) writes with fit({settings.of}): put that before it.'
                        f'{nearest(f"fit({settings.of})", earlier)}')
    name = settings_of(task.config, 'fit', settings.of).model.name
    model = fit_predictor.MODELS.get(name)
    if model is None or not model.uses_words:
        writers = [name for name, model in fit_predictor.MODELS.items() if model.uses_words]
        raise UserError(f'explain({settings.name}): "{name}" of fit({settings.of}) writes nothing; {", ".join(writers)} does.')


def write(task: Task, state: RunState, name: str, split: str, batch_size: int, advance=lambda count: None) -> np.ndarray:
    """int32 [N, max_words]: what fit(name) writes of the examples of a split, in words of its vocabulary."""
    fitted, examples = state.predictors[name], task.examples[split]
    params = fitted.params if fitted.seeds == 1 else jax.tree.map(lambda leaf: leaf[0], fitted.params)
    found, fields = [], task.fields
    for rows in np.split(np.arange(len(examples.user)), range(batch_size, len(examples.user), batch_size)):
        filled = np.resize(rows, batch_size)  # one static shape
        user, item = examples.user[filled], examples.item[filled]
        ids = jnp.concatenate([fields.user_fields[user], fields.item_fields[item]], axis=1)
        written = peter.generate(fitted.model, params, ids, fields.item_attributes[item], fitted.model.max_words)
        found.append(np.asarray(written)[:len(rows)])
        advance(len(rows))
    return np.concatenate(found)


def _add(task: Task, state: RunState, settings, writer: ExplanationWriter, split: str, step: int, advance) -> None:
    examples, fitted = task.examples[split], state.predictors[settings.of]
    rows = write(task, state, settings.of, split, settings.batch_size, advance)
    vocabulary = training_words.vocabulary(task, type(fitted.model), fitted.settings)
    said = (rows != words.PAD) & (rows != words.EOS)
    writer.add(user_id=task.dataset.users['user_id'].take(examples.user),
               item_id=task.dataset.items['item_id'].take(examples.item), kind=KIND, split=split,
               example=np.arange(len(rows), dtype=np.int32), text=words.decode(vocabulary, rows),
               num_tokens=said.sum(axis=1).astype(np.int32), truncated=said.all(axis=1), step=step)
