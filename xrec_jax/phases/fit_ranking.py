"""`fit` for ranking: a model of users and items that puts all items in order for a user.

On a mesh the tables of users and items lie in parts on the devices of `fsdp`, and so do the scores.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import ml_collections

from xrec_jax.errors import UserError
from xrec_jax.parallel import sharding
from xrec_jax.phases import models
from xrec_jax.phases.task import DTYPES, Task
from xrec_jax.recommenders import ranking, sequences, training
from xrec_jax.recommenders.bert4rec import BERT4Rec
from xrec_jax.recommenders.caser import Caser
from xrec_jax.recommenders.gru4rec import GRU4Rec
from xrec_jax.recommenders.lightgcn import LightGCN
from xrec_jax.recommenders.mf import BPRMF
from xrec_jax.recommenders.popularity import Popularity
from xrec_jax.recommenders.sasrec import SASRec
from xrec_jax.runs.state import RunState

MODELS: dict[str, type[nn.Module]] = {
    'popularity': Popularity, 'bpr': BPRMF, 'lightgcn': LightGCN, 'sasrec': SASRec, 'bert4rec': BERT4Rec,
    'gru4rec': GRU4Rec, 'caser': Caser}


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for bad settings."""
    del earlier
    make_config(settings)
    model = make_model(task, settings)
    make_loss(model, settings)
    width = task.examples['train'].past.width
    if hasattr(model, 'states') and width < model.max_length:
        raise UserError(f'fit({settings.name}): the model looks at {model.max_length} items, but histories have '
                        f'{width}: raise data.history_length, or lower {settings.name}.model.max_length.')


def make_config(settings: ml_collections.ConfigDict) -> ranking.RankingConfig:
    """`settings.training`; a model without parameters has one epoch."""
    config = ranking.RankingConfig(**settings.training.to_dict())
    return dataclasses.replace(config, epochs=1) if settings.model.name == 'popularity' else config


def make_model(task: Task, settings: ml_collections.ConfigDict) -> nn.Module:
    """The model `settings.model.name` with the rest of `settings.model`; UserError for what it does not have."""
    settings = ml_collections.ConfigDict(settings)
    if 'dtype' in settings.model:
        if settings.model.dtype not in DTYPES:
            raise UserError(f'fit({settings.name}): dtype="{settings.model.dtype}": should be one of '
                            f'{", ".join(DTYPES)}.')
        settings.model = settings.model.to_dict() | {'dtype': DTYPES[settings.model.dtype]}
    return models.make(MODELS, settings, num_users=task.dataset.users.num_rows, num_items=task.dataset.items.num_rows)


def make_loss(model: nn.Module, settings: ml_collections.ConfigDict) -> ranking.Loss:
    """What `model` is trained for: its own pairwise loss, or as `settings.sequence` says."""
    if isinstance(model, BERT4Rec):
        return sequences.cloze_loss(model, settings.sequence.mask_ratio, settings.sequence.last_share)
    if hasattr(model, 'states'):
        return sequences.next_item_loss(model, settings.sequence.loss)
    return ranking.pairwise(model)


def make_data(task: Task, model: nn.Module, settings: ml_collections.ConfigDict
              ) -> tuple[ranking.Data, dict[str, ranking.Queries]]:
    """What `model` is trained on and asked, whole on every device."""
    stride = 1
    if hasattr(model, 'states'):
        stride = min(settings.sequence.stride or model.max_length, model.max_length)
    made = ranking.make_data(
        model, task.examples, task.dataset.users.num_rows, task.dataset.items.num_rows, stride=stride,
        mask_seen=settings.mask_seen, mesh=task.mesh if task.mesh.size > 1 else None)
    return sharding.replicate(made, task.mesh)


def prepare(task: Task, state: RunState, settings: ml_collections.ConfigDict
            ) -> tuple[ranking.Data, dict[str, ranking.Queries]]:
    """`make_data` of the model of `settings`."""
    del state
    return make_data(task, make_model(task, settings), settings)


class Training:
    """The training of one candidate."""

    def __init__(self, task: Task, settings: ml_collections.ConfigDict,
                 data: tuple[ranking.Data, dict[str, ranking.Queries]]):
        self.data, self.queries = data
        self.mesh = task.mesh
        self.config = make_config(settings)
        self.model = make_model(task, settings)
        self.loss = make_loss(self.model, settings)

    @property
    def note(self) -> str:
        """What it is trained on, for people."""
        return f'{int(self.data.counts.sum()):,} interactions'

    def init(self, keys: jax.Array) -> training.State:
        """The state before the first epoch; of several `keys` [S] stacked."""
        placed = sharding.param_shardings(ranking.abstract_state(self.model, self.data), self.mesh)
        if keys.ndim == 0:
            init = ranking.init_state
        else:
            init = ranking.init_seeds
            placed = sharding.stacked(placed)
        return jax.jit(functools.partial(init, self.model), out_shardings=placed)(self.data, keys)

    def fit(self, state: training.State, on_epoch: training.OnEpoch) -> training.State:
        return ranking.fit(self.model, self.loss, self.config, self.data, self.queries['valid'], state=state,
                           on_epoch=on_epoch)

    def result(self, state: training.State) -> Any:
        """The best parameters, where they lie."""
        return state.best_params
