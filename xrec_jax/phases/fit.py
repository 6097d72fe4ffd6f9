"""`fit`: trains a predictor, with or without explanations as features (ExpCTR eq. 12 and 15).

With `text`, every explanation of a training example that an earlier phase wrote and encoded is one
row; training examples that have none enter once, with zeros in the explanation's place. Validation
reads the newest explanations of the validation split.
"""

from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
import pyarrow as pa

from xrec_jax.errors import UserError
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import deepfm, training
from xrec_jax.runs import progress
from xrec_jax.runs.checkpoints import Checkpoints
from xrec_jax.runs.explanations import read_explanations, vectors
from xrec_jax.runs.state import Predictor, RunState


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Fits the predictor `settings.name`; goes on from its newest checkpoint."""
    train, valid = _rows(task, state, settings)
    model = make_model(task, settings, 0 if train.text is None else train.text.shape[-1])
    config = training.TrainConfig(**settings.training.to_dict())
    fresh = training.init_state(model, config, task.fields, jax.random.fold_in(jax.random.key(task.seed), index))
    with Checkpoints(task.workdir / 'checkpoints' / phase) as checkpoints:
        done, fitted = checkpoints.restore(fresh)
        if not training.finished(fitted, config):
            task.metrics.rewind(phase, done)
            with progress.bar(phase, config.epochs, done, 'epochs') as advance:

                def on_epoch(fitted: training.State, metrics: dict[str, float]) -> None:
                    epoch = metrics.pop('epoch')
                    task.metrics.write(phase, epoch, metrics)
                    if epoch % settings.checkpoint_every == 0 or training.finished(fitted, config):
                        checkpoints.save(epoch, fitted)
                    advance(note=f'{config.monitor} {abs(metrics["score"]):.4f}')

                fitted = training.fit(model, config, task.fields, train, valid, state=fitted, on_epoch=on_epoch)
    progress.say(f'{phase}: {len(train.user):,} rows'
                 + (f', {_with_text(train):.0%} of them with an explanation' if train.text is not None else '')
                 + f'; best epoch {int(fitted.best_epoch)} of {int(fitted.epoch)}, '
                   f'validation {config.monitor} {abs(float(fitted.best_score)):.4f}')
    predictor = Predictor(model, fitted.best_params)
    return state.replace(predictors=state.predictors | {settings.name: predictor})


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for bad training settings, or for text features that nothing before would write."""
    training.TrainConfig(**settings.training.to_dict())
    if settings.text and not any(entry.startswith(('align(', 'explain(')) for entry in earlier):
        raise UserError(f'schedule: fit({settings.name}) with text=True needs explanations: put an align or '
                        'explain phase before it.')


def make_model(task: Task, settings: ml_collections.ConfigDict, text_dim: int) -> deepfm.DeepFM:
    shape = settings.model.to_dict()
    return deepfm.DeepFM(vocab_size=task.fields.vocab_size, text_dim=text_dim,
                         **shape | {'mlp': tuple(shape['mlp'])})


def _rows(task: Task, state: RunState, settings: ml_collections.ConfigDict
          ) -> tuple[training.Rows, training.Rows]:
    """Training and validation rows."""
    train, valid = task.examples['train'], task.examples['valid']
    if not settings.text:
        return training.make_rows(train), training.make_rows(valid)
    corpus = pa.concat_tables([read_explanations(path, 'train') for path in state.explanations.values()])
    corpus = corpus.filter(corpus['vector'].is_valid())
    validation = newest_vectors(task, state, 'valid')
    if not len(corpus):
        raise UserError(f'schedule: fit({settings.name}) with text=True needs encoded explanations of the train '
                        'split: put an align or explain phase before it.')
    index = corpus['example'].to_numpy()
    missing = np.setdiff1d(np.arange(len(train.user)), index)
    text = vectors(corpus)
    text = np.concatenate([text, np.zeros((len(missing), text.shape[1]), np.float32)])
    return (training.make_rows(train, text[:, None], np.concatenate([index, missing])),
            training.make_rows(valid, validation[:, None]))


def newest_vectors(task: Task, state: RunState, split: str) -> np.ndarray:
    """Vectors [N, d] of the newest phase that encoded every example of a split, in their order."""
    for path in reversed(state.explanations.values()):
        table = read_explanations(path, split).sort_by('example')
        if len(table) == len(task.examples[split].user) and not table['vector'].null_count:
            return vectors(table)
    raise UserError(f'schedule: there are no encoded explanations of the {split} split: put an explain phase '
                    f'with splits that name "{split}" and encode=True before.')


def _with_text(rows: training.Rows) -> float:
    return float(np.mean(np.any(np.asarray(rows.text) != 0, axis=(1, 2))))
