"""`fit` for clicks and ratings: a predictor, with or without explanations as features (ExpCTR eq. 12 and 15).

With `text`, every explanation of a training example that an earlier phase wrote and encoded is one
row; training examples that have none enter once, with zeros in the explanation's place. Validation
reads the newest explanations of the validation split.

With `text` and `explanations='NAME'` (RecPIE) each training example is one row, with what the newest `explain(NAME)`
wrote of it, a positive and a negative explanation; one that was not written, or is empty, is zeros.

On a mesh a table and its moments lie in parts on the devices of `fsdp` while it is trained, and batches are split over
`data` and `fsdp`. What comes out is copied to every process, since each asks about rows of its own.

A model that learns from words (PETER) is shown those of the training examples' texts: `training_words`.

`continues` names fits, of which the first that was run before gives the start: in an alternation the consumers'
embeddings stay what the language model's soft prompt has learned to read.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pyarrow as pa

from xrec_jax.data import context
from xrec_jax.data.protocols import Examples
from xrec_jax.errors import UserError
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import models, training_words
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import rows as rows_lib, training
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
from xrec_jax.recommenders.peter import PETER
from xrec_jax.recommenders.pnn import PNN
from xrec_jax.recommenders.predictor import Predictor
from xrec_jax.recommenders.recpie import RecPIE
from xrec_jax.recommenders.sasrec import SASRecPredictor
from xrec_jax.recommenders.xdeepfm import XDeepFM
from xrec_jax.runs.explanations import newest, read_explanations, vectors
from xrec_jax.runs.state import RunState

MODELS: dict[str, type[Predictor]] = {
    'lr': LR, 'fm': FM, 'dssm': DSSM, 'deepfm': DeepFM, 'autoint': AutoInt, 'pnn': PNN, 'xdeepfm': XDeepFM,
    'fignn': FiGNN, 'dcn': DCN, 'dcnv2': DCNv2, 'din': DIN, 'dien': DIEN, 'sasrec': SASRecPredictor,
    'bert4rec': BERT4RecPredictor, 'gru4rec': GRU4RecPredictor, 'caser': CaserPredictor, 'recpie': RecPIE,
    'peter': PETER}


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for bad settings, or for text features that nothing before would write."""
    make_config(settings)
    model, fields = make_model(task, settings, 0), task.fields
    if model.uses_history and not fields.item_fields.shape[1] + fields.item_attributes.shape[1]:
        raise UserError(f'fit.fields={tuple(settings.fields)}: {settings.name} looks at the items of a history, and '
                        'there is no field of items: add "item_id".')
    if model.uses_words and settings.text:
        raise UserError(f'fit({settings.name}): model "{settings.model.name}" writes explanations and reads none: '
                        'text=False.')
    if name := settings.get('explanations', ''):
        if f'explain({name})' not in earlier:
            raise UserError(f'schedule: fit({settings.name}) reads explain({name}): put that before it.')
    elif settings.text and not any(entry.startswith(('align(', 'explain(')) for entry in earlier):
        raise UserError(f'schedule: fit({settings.name}) with text=True needs explanations: put an align or '
                        'explain phase before it.')


def make_config(settings: ml_collections.ConfigDict) -> training.TrainConfig:
    """`settings.training`, for the objective `settings.task`."""
    return training.TrainConfig(objective=settings.task, **settings.training.to_dict())


def make_model(task: Task, settings: ml_collections.ConfigDict, text_dim: int) -> Predictor:
    """The model `settings.model.name` with the rest of `settings.model`; UserError for what it does not have."""
    texts = {'num_texts': len(task.kinds)} if settings.text else {}
    model = MODELS.get(settings.model.name)
    if model and model.uses_words:
        low, high = task.dataset.rating_scale
        texts |= {'num_words': training_words.vocabulary(task, model, settings).get_vocab_size(), 'rating_range': high - low}
    return models.make(MODELS, settings, vocab_size=task.fields.vocab_size,
                       num_user_fields=task.fields.user_fields.shape[1], text_dim=text_dim,
                       context_dim=len(context.NAMES), **texts)


def make_rows(task: Task, split: str, model: Predictor | type[Predictor], text: np.ndarray | None = None,
              index: np.ndarray | None = None, scale: tuple[float, float] | None = None,
              words: np.ndarray | None = None) -> rows_lib.Rows:
    """`rows_lib.make_rows` of a split, with what `model` looks at."""
    return rows_of(task, task.examples[split], model, text, index, scale, words)


def rows_of(task: Task, examples: Examples, model: Predictor | type[Predictor], text: np.ndarray | None = None,
            index: np.ndarray | None = None, scale: tuple[float, float] | None = None,
            words: np.ndarray | None = None) -> rows_lib.Rows:
    """The same of any examples; words only where they are given, to learn from."""
    looks = 'context_dim' in models.settings_of(model)
    return rows_lib.make_rows(examples, text, index, history=model.uses_history, scale=scale, words=words,
                              context=context.context_features(task.dataset, examples) if looks else None)


class Training:
    """The training of one candidate."""

    def __init__(self, task: Task, settings: ml_collections.ConfigDict,
                 prepared: tuple[rows_lib.Rows, rows_lib.Rows, Any]):
        self.train, self.valid, self.start = prepared
        self.fields = task.fields
        self.mesh = task.mesh if task.mesh.size > 1 else None
        self.config = make_config(settings)
        self.model = make_model(task, settings, 0 if self.train.text is None else self.train.text.shape[-1])

    @property
    def note(self) -> str:
        """What it is trained on, for people."""
        rows = f'{len(self.train.user):,} rows'
        if self.train.text is None:
            return rows
        return f'{rows}, {np.mean(np.any(np.asarray(self.train.text) != 0, axis=(1, 2))):.0%} of them with an explanation'

    def init(self, keys: jax.Array) -> training.State:
        """The state before the first epoch; of several `keys` [S] stacked."""
        init = functools.partial(training.init_state if keys.ndim == 0 else training.init_seeds, self.model, self.config)
        if self.mesh is not None:
            placed = sharding.param_shardings(training.abstract_state(self.model, self.config, self.fields), self.mesh)
            if keys.ndim:
                placed = sharding.stacked(placed)
            init = jax.jit(init, out_shardings=placed)
        state = init(*(self.fields, keys) if self.mesh is None else sharding.replicate((self.fields, keys), self.mesh))
        if self.start is None:
            return state
        shapes = [[leaf.shape for leaf in jax.tree.leaves(params)] for params in (state.params, self.start)]
        if shapes[0] != shapes[1]:
            raise UserError('fit.continues: the network to go on from has another shape; give both fits one model, the '
                            'same fields and seeds.')
        start = jax.tree.map(jnp.asarray, self.start)
        if self.mesh is not None:
            start = sharding.put(start, placed.params)
        return dataclasses.replace(state, params=start, best_params=start)

    def fit(self, state: training.State, on_epoch: training.OnEpoch) -> training.State:
        return training.fit(self.model, self.config, self.fields, self.train, self.valid, state=state,
                            on_epoch=on_epoch, mesh=self.mesh)

    def result(self, state: training.State) -> Any:
        """The best parameters, on this process."""
        if self.mesh is None:
            return state.best_params
        return jax.tree.map(jnp.asarray, distributed.whole(state.best_params))


def scale_of(task: Task, settings: ml_collections.ConfigDict) -> tuple[float, float] | None:
    """The scale of the ratings where places on it are predicted; None where clicks are.

    A rating r of the scale from low to high is the place (r - low) / (high - low), from 0 to 1.
    """
    return task.dataset.rating_scale if settings.task == 'rating' else None


def prepare(task: Task, state: RunState, settings: ml_collections.ConfigDict
            ) -> tuple[rows_lib.Rows, rows_lib.Rows, Any]:
    """Training and validation rows, and the params to start from, or None."""
    model = MODELS[settings.model.name]
    rows = functools.partial(make_rows, task, model=model, scale=scale_of(task, settings))
    start = next((state.predictors[name].params for name in settings.get('continues', ()) if name in state.predictors),
                 None)
    if model.uses_words:
        return rows('train', words=training_words.words(task, model, settings)), rows('valid'), start
    if not settings.text:
        return rows('train'), rows('valid'), start
    if name := settings.get('explanations', ''):
        return *(rows(split, text=written_vectors(task, state, name, split)) for split in ('train', 'valid')), start
    corpus = pa.concat_tables([read_explanations(path, 'train') for path in state.explanations.values()])
    corpus = corpus.filter(corpus['vector'].is_valid())
    validation = newest_vectors(task, state, 'valid')
    if not len(corpus):
        raise UserError(f'schedule: fit({settings.name}) with text=True needs encoded explanations of the train '
                        'split: put an align or explain phase before it.')
    index = corpus['example'].to_numpy()
    missing = np.setdiff1d(np.arange(len(task.examples['train'].user)), index)
    text = vectors(corpus)
    text = np.concatenate([text, np.zeros((len(missing), text.shape[1]), np.float32)])
    return (rows('train', text=text[:, None], index=np.concatenate([index, missing])),
            rows('valid', text=validation[:, None]), start)


def written_vectors(task: Task, state: RunState, name: str, split: str) -> np.ndarray:
    """float32 [N, K, d]: of each example of a split what the newest `explain(name)` wrote, by kind; zeros for none."""
    path, found = newest(state.explanations, name), None
    for number, kind in enumerate(task.kinds):
        table = read_explanations(path, split, kind)
        table = table.filter(table['vector'].is_valid())
        if not len(table):
            raise UserError(f'schedule: explain({name}) has encoded no {kind} explanation of the {split} split: give it '
                            f'splits that name "{split}", and encode=True.')
        text = vectors(table)
        if found is None:
            found = np.zeros((len(task.examples[split].user), len(task.kinds), text.shape[1]), np.float32)
        found[table['example'].to_numpy(), number] = text
    return found


def newest_vectors(task: Task, state: RunState, split: str) -> np.ndarray:
    """Vectors [N, d] of the newest phase that encoded every example of a split, in their order."""
    for path in reversed(state.explanations.values()):
        table = read_explanations(path, split).sort_by('example')
        if len(table) == len(task.examples[split].user) and not table['vector'].null_count:
            return vectors(table)
    raise UserError(f'schedule: there are no encoded explanations of the {split} split: put an explain phase '
                    f'with splits that name "{split}" and encode=True before.')
