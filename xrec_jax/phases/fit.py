"""`fit`: trains a predictor, with or without explanations as features (ExpCTR eq. 12 and 15).

With `text`, every explanation of a training example that an earlier phase wrote and encoded is one
row; training examples that have none enter once, with zeros in the explanation's place. Validation
reads the newest explanations of the validation split.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
import pyarrow as pa

from xrec_jax.errors import UserError, nearest
from xrec_jax.metrics.spread import spread
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import training
from xrec_jax.recommenders.autoint import AutoInt
from xrec_jax.recommenders.bert4rec import BERT4RecPredictor
from xrec_jax.recommenders.caser import CaserPredictor
from xrec_jax.recommenders.dcn import DCN
from xrec_jax.recommenders.dcnv2 import DCNv2
from xrec_jax.recommenders.deepfm import DeepFM
from xrec_jax.recommenders.dien import DIEN
from xrec_jax.recommenders.din import DIN
from xrec_jax.recommenders.dssm import DSSM
from xrec_jax.recommenders.fignn import FiGNN
from xrec_jax.recommenders.fm import FM
from xrec_jax.recommenders.gru4rec import GRU4RecPredictor
from xrec_jax.recommenders.lr import LR
from xrec_jax.recommenders.pnn import PNN
from xrec_jax.recommenders.predictor import Predictor
from xrec_jax.recommenders.sasrec import SASRecPredictor
from xrec_jax.recommenders.xdeepfm import XDeepFM
from xrec_jax.runs import progress
from xrec_jax.runs.checkpoints import Checkpoints
from xrec_jax.runs.explanations import read_explanations, vectors
from xrec_jax.runs.state import Fitted, RunState

MODELS: dict[str, type[Predictor]] = {
    'lr': LR, 'fm': FM, 'dssm': DSSM, 'deepfm': DeepFM, 'autoint': AutoInt, 'pnn': PNN, 'xdeepfm': XDeepFM,
    'fignn': FiGNN, 'dcn': DCN, 'dcnv2': DCNv2, 'din': DIN, 'dien': DIEN, 'sasrec': SASRecPredictor,
    'bert4rec': BERT4RecPredictor, 'gru4rec': GRU4RecPredictor, 'caser': CaserPredictor}


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Fits the predictor `settings.name`; goes on from its newest checkpoint."""
    config = training.TrainConfig(**settings.training.to_dict())
    train, valid = _rows(task, state, settings, config.objective)
    model = make_model(task, settings, 0 if train.text is None else train.text.shape[-1])
    key = jax.random.fold_in(jax.random.key(task.seed), index)
    if settings.seeds == 1:
        fresh = training.init_state(model, config, task.fields, key)
    else:
        fresh = training.init_seeds(model, config, task.fields, jax.random.split(key, settings.seeds))
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
                 + f'; best epoch {_range(fitted.best_epoch)} of {_range(fitted.epoch)}, validation {config.monitor} '
                 + spread(np.abs(fitted.best_score)))
    predictor = Fitted(model, fitted.best_params, settings.seeds)
    return state.replace(predictors=state.predictors | {settings.name: predictor})


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for bad training settings, or for text features that nothing before would write."""
    training.TrainConfig(**settings.training.to_dict())
    make_model(task, settings, 0)
    if settings.seeds < 1:
        raise UserError(f'fit.seeds={settings.seeds}: should be at least 1.')
    if settings.text and not any(entry.startswith(('align(', 'explain(')) for entry in earlier):
        raise UserError(f'schedule: fit({settings.name}) with text=True needs explanations: put an align or '
                        'explain phase before it.')


def make_model(task: Task, settings: ml_collections.ConfigDict, text_dim: int) -> Predictor:
    """The model `settings.model.name` with the rest of `settings.model`; UserError for what it does not have."""
    own = settings.model.to_dict()
    name = own.pop('name')
    if name not in MODELS:
        raise UserError(f'fit.model.name: "{name}" is no predictor.{nearest(name, MODELS)}')
    known = [field.name for field in dataclasses.fields(MODELS[name])
             if field.name not in ('parent', 'name', 'vocab_size', 'num_user_fields', 'text_dim')]
    for key in own:
        if key not in known:
            raise UserError(f'fit({settings.name}): model "{name}" has no setting "{key}".{nearest(key, known)}')
    return MODELS[name](vocab_size=task.fields.vocab_size, num_user_fields=task.fields.user_fields.shape[1],
                        text_dim=text_dim, **own)


def _rows(task: Task, state: RunState, settings: ml_collections.ConfigDict, objective: str
          ) -> tuple[training.Rows, training.Rows]:
    """Training and validation rows."""
    train, valid = task.examples['train'], task.examples['valid']
    history = MODELS[settings.model.name].uses_history
    scale = task.dataset.rating_scale if objective == 'rating' else None
    make_rows = functools.partial(training.make_rows, history=history, scale=scale)
    if not settings.text:
        return make_rows(train), make_rows(valid)
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
    return make_rows(train, text[:, None], np.concatenate([index, missing])), make_rows(valid, validation[:, None])


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


def _range(epochs: jax.Array) -> str:
    """'3', or '2 to 5' of several seeds."""
    low, high = int(np.min(epochs)), int(np.max(epochs))
    return str(low) if low == high else f'{low} to {high}'
