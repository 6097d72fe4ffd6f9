"""Training of predictors: one epoch is one `jit`, the state is one pytree.

  init_state   parameters, optimizer and book-keeping of epoch 0
  run_epoch    shuffle -> lax.scan over batches -> score the validation rows -> keep the best
  next_state   what is kept after an epoch, `better` of two scores, `finished`: also those of `ranking`
  fit          the loop: run_epoch until `epochs`, or no better for `patience` epochs

An epoch's randomness comes from fold_in(state.key, state.epoch) alone, so a state that was saved
after any epoch continues to the same bits. On a mesh (`fit`'s argument) tables and their moments lie in
parts on the devices of `fsdp`, a batch is split over `data` and `fsdp`, and the rows to draw batches from
are whole on every device: numbers, but for the explanations' vectors, of which there are few.

An epoch is compiled once for a model, a `Program` and the shapes of the rows: rates, epochs and patience are
no part of the program, so the trials of a sweep over them share it.

A model in training may hand over more than logits, in two Flax collections:
  'losses'      sown, [B] each: further losses of the rows, which are added to the objective's
  'statistics'  named like leaves of its 'params' that no gradient reaches: their next values
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from xrec_jax.errors import UserError, nearest
from xrec_jax.parallel.sharding import replicate
from xrec_jax.recommenders import objectives, scoring
from xrec_jax.recommenders.fields import Fields
from xrec_jax.recommenders.order import shuffled
from xrec_jax.recommenders.predictor import Predictor
from xrec_jax.recommenders.rows import Rows, inputs, split


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a predictor is trained: `program` and `rates`, and when it stops."""

    objective: str = 'click'       # or 'rating': objectives.OBJECTIVES
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2     # decoupled (AdamW), on the MLP's and the projection's kernels
    embedding_decay: float = 1e-2  # the same on embeddings and first-order weights
    batch_size: int = 256
    epochs: int = 50               # at most
    patience: int = 5              # epochs without a better validation score before it stops
    monitor: str = 'log_loss'      # or 'auc', or of ratings 'rmse', 'mae': of the validation rows
    text_dropout: float = 0.2      # share of training rows whose explanation is withheld, so that
                                   # the ablation of ExpCTR eq. 13 has been trained for

    def __post_init__(self):
        if self.objective not in objectives.OBJECTIVES:
            raise UserError(f'objective: "{self.objective}" is nothing to train for.'
                            f'{nearest(self.objective, objectives.OBJECTIVES)}')
        if self.monitor not in objectives.MONITORS:
            raise UserError(f'monitor: "{self.monitor}" is no score to stop by.'
                            f'{nearest(self.monitor, objectives.MONITORS)}')
        for name in ('batch_size', 'epochs', 'patience'):
            if getattr(self, name) < 1:
                raise UserError(f'{name}={getattr(self, name)}: should be at least 1.')
        if not 0 < self.learning_rate < np.inf:
            raise UserError(f'learning_rate={self.learning_rate}: should be a number above 0.')
        for name in ('weight_decay', 'embedding_decay'):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f'{name}={getattr(self, name)}: should be a number of at least 0.')
        if not 0 <= self.text_dropout < 1:
            raise UserError(f'text_dropout={self.text_dropout}: should be a share of at least 0 and '
                            'below 1.')

    @property
    def program(self) -> 'Program':
        return Program(self.objective, self.batch_size, self.monitor)

    @property
    def rates(self) -> 'Rates':
        return Rates(jnp.float32(self.learning_rate), jnp.float32(self.weight_decay),
                     jnp.float32(self.embedding_decay), jnp.float32(1 - self.text_dropout))


@dataclasses.dataclass(frozen=True)
class Program:
    """What of a `TrainConfig` shapes the compiled epoch. Hashable: a static argument of `jit`."""

    objective: str
    batch_size: int
    monitor: str
    mesh: Mesh | None = None  # over which batches are split


@functools.partial(jax.tree_util.register_dataclass, meta_fields=[],
                   data_fields=['learning_rate', 'weight_decay', 'embedding_decay', 'text_kept'])
@dataclasses.dataclass(frozen=True)
class Rates:
    """What of a `TrainConfig` an epoch only computes with: traced, float32 [] each."""

    learning_rate: jax.Array
    weight_decay: jax.Array
    embedding_decay: jax.Array
    text_kept: jax.Array  # 1 - text_dropout


@functools.partial(
    jax.tree_util.register_dataclass, meta_fields=[],
    data_fields=['params', 'opt_state', 'epoch', 'key', 'best_params', 'best_score', 'best_epoch'])
@dataclasses.dataclass(frozen=True)
class State:
    """All that a resumed run needs."""

    params: Any
    opt_state: Any
    epoch: jax.Array       # int32 [], epochs done
    key: jax.Array         # typed PRNG key; never advances
    best_params: Any
    best_score: jax.Array  # float32 [], higher is better
    best_epoch: jax.Array  # int32 [], the epoch (from 1) of best_params; 0 = none yet


# Called after each epoch with the state (to save) and 'epoch', 'loss', 'score'.
OnEpoch = Callable[[State, dict[str, float]], None]


def init_state(model: Predictor, config: TrainConfig, fields: Fields, key: jax.Array) -> State:
    """State before the first epoch; pure, from one key."""
    return _init_state(model, config.rates, fields, key)


@functools.partial(jax.jit, static_argnames=('model',))
def _init_state(model: Predictor, rates: Rates, fields: Fields, key: jax.Array) -> State:
    return nn.unbox(_init(model, rates, fields, key))


def abstract_state(model: Predictor, config: TrainConfig, fields: Fields) -> State:
    """The state's shapes, boxed with their logical axes; nothing is allocated."""
    return jax.eval_shape(lambda: _init(model, config.rates, fields, jax.random.key(0)))


def state_specs(model: Predictor, config: TrainConfig, fields: Fields) -> State:
    """The state's PartitionSpecs in logical axis names."""
    return nn.get_partition_spec(abstract_state(model, config, fields))


def _init(model: Predictor, rates: Rates, fields: Fields, key: jax.Array) -> State:
    init_key, key = jax.random.split(key)
    one, none = jnp.zeros(1, jnp.int32), jnp.full((1, 1), -1, jnp.int32)
    width = getattr(model, 'context_dim', 0)
    context = jnp.zeros((1, width), jnp.float32) if width else None
    rows = Rows(one, one, one, None, none, none > 0, context)
    params = model.init(init_key, *inputs(model, fields, rows))['params']
    return State(params=params, opt_state=_optimizer(rates).init(params),
                 epoch=jnp.int32(0), key=key, best_params=params,
                 best_score=jnp.float32(-jnp.inf), best_epoch=jnp.int32(0))


def _optimizer(rates: Rates) -> optax.GradientTransformation:
    """AdamW whose decoupled decay differs between tables and kernels; biases have none."""

    def mask(names):
        return lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: any(getattr(k, 'key', None) in names for k in path), params)

    return optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(rates.weight_decay, mask(('kernel',))),
        optax.add_decayed_weights(rates.embedding_decay, mask(('embedding', 'weight'))),
        optax.scale_by_learning_rate(rates.learning_rate))


def run_epoch(model: Predictor, config: TrainConfig, fields: Fields, state: State, train: Rows,
              valid: Rows, mesh: Mesh | None = None) -> tuple[State, dict[str, jax.Array]]:
    """One pass over `train` in a new order, then a look at `valid`.

    The last batch is filled up with masked rows. Returns the next state and 'loss' (mean training
    loss over the pass, in nats), 'score' (the monitor on `valid`, higher is better) and 'bad_step': the first
    whose loss was no finite number, from 0, or -1.
    """
    program = dataclasses.replace(config.program, mesh=mesh)
    return _run_epoch(model, program, config.rates, fields, state, train, valid)


@functools.partial(jax.jit, static_argnames=('model', 'program'))
def _run_epoch(model: Predictor, program: Program, rates: Rates, fields: Fields, state: State, train: Rows,
               valid: Rows) -> tuple[State, dict[str, jax.Array]]:
    num_rows = train.user.shape[0]
    size = min(program.batch_size, num_rows)
    steps = -(-num_rows // size)
    key = jax.random.fold_in(state.key, state.epoch)
    order_key, key = jax.random.split(key)
    # Filled up with rows of the same kind, not with one row again and again: statistics of a batch see them.
    order = jnp.pad(shuffled(order_key, num_rows), (0, steps * size - num_rows), mode='wrap')
    mask = (jnp.arange(steps * size) < num_rows).astype(jnp.float32)
    optimizer = _optimizer(rates)

    def loss_fn(params, rows, mask, key):
        dropout_key, text_key = jax.random.split(key)
        text = rows.text
        if text is not None:
            keep = jax.random.bernoulli(text_key, rates.text_kept, (size, 1, 1))
            rows = dataclasses.replace(rows, text=jnp.where(keep, text, 0.0))
        logits, more = model.apply({'params': params}, *inputs(model, fields, rows), train=True,
                                   rngs={'dropout': dropout_key}, mutable=['losses', 'statistics'])
        loss = objectives.OBJECTIVES[program.objective](logits, rows.label, mask)
        for values in jax.tree.leaves(more.get('losses', {})):
            loss += objectives.masked_mean(values, mask)
        return loss, more.get('statistics', {})

    def step(carry, batch):
        params, opt_state = carry
        index, mask, n = batch
        rows = split(jax.tree.map(lambda x: x[index], train), program.mesh)
        (loss, statistics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, rows, mask, jax.random.fold_in(key, n))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = _replaced(optax.apply_updates(params, updates), statistics)
        return (params, opt_state), (loss, loss * mask.sum())

    (params, opt_state), (losses, sums) = jax.lax.scan(
        step, (state.params, state.opt_state),
        (order.reshape(steps, size), mask.reshape(steps, size), jnp.arange(steps)))
    predicted = scoring.logits(model, params, fields, valid, program.mesh)
    score = objectives.MONITORS[program.monitor](predicted, valid.label)
    bad = ~jnp.isfinite(losses)
    return next_state(state, params, opt_state, score), {
        'loss': sums.sum() / num_rows, 'score': score, 'bad_step': jnp.where(bad.any(), jnp.argmax(bad), -1)}


def better(score: jax.Array, best_score: jax.Array, digits: int | None = None) -> jax.Array:
    """bool: whether `score` is the best so far. Higher is better; NaN never is.

    digits: None: strictly higher. A number: both are rounded to so many, and an equal one counts, so that a
      plateau is no reason to stop: RecBole 1.2.1 (`utils.early_stopping`) with 4.
    """
    if digits is None:
        return score > best_score
    return jnp.round(score, digits) >= jnp.round(best_score, digits)


def next_state(state: State, params: Any, opt_state: Any, score: jax.Array, digits: int | None = None) -> State:
    """The state after an epoch that led to `params` and their `score`; `digits` as in `better`."""
    epoch = state.epoch + 1
    keep_best = functools.partial(jnp.where, better(score, state.best_score, digits))
    return State(params=params, opt_state=opt_state, epoch=epoch, key=state.key,
                 best_params=jax.tree.map(keep_best, params, state.best_params),
                 best_score=keep_best(score, state.best_score), best_epoch=keep_best(epoch, state.best_epoch))


def _replaced(params: Any, leaves: Any) -> Any:
    """`params`, a tree of dicts, with the `leaves` of a tree of the same names in place of its own."""
    if not isinstance(leaves, dict):
        return leaves
    return params | {name: _replaced(params[name], leaf) for name, leaf in leaves.items()}


def finished_seeds(state: State, config: Any) -> jax.Array:
    """bool of the shape of `state.epoch`: `finished` of each seed; `config` has `epochs` and `patience`."""
    return (state.epoch >= config.epochs) | ((state.epoch > 0) & (state.epoch - state.best_epoch >= config.patience))


def finished(state: State, config: TrainConfig) -> bool:
    """Whether training is over: all epochs done, or `patience` of them without a better score; of all seeds."""
    return bool(np.all(finished_seeds(state, config)))


def init_seeds(model: Predictor, config: TrainConfig, fields: Fields, keys: jax.Array) -> State:
    """States of several seeds, stacked: the leading axis of every leaf is that of `keys` [S]."""
    return _init_seeds(model, config.rates, fields, keys)


@functools.partial(jax.jit, static_argnames=('model',))
def _init_seeds(model: Predictor, rates: Rates, fields: Fields, keys: jax.Array) -> State:
    return jax.vmap(lambda key: _init_state(model, rates, fields, key))(keys)


def run_epoch_of_seeds(model: Predictor, config: TrainConfig, fields: Fields, states: State, train: Rows,
                       valid: Rows, mesh: Mesh | None = None) -> tuple[State, dict[str, jax.Array]]:
    """`run_epoch` of stacked states; a seed that is finished stays as it is."""
    program = dataclasses.replace(config.program, mesh=mesh)
    return _run_epoch_of_seeds(model, program, config.rates, fields, states, finished_seeds(states, config), train,
                               valid)


@functools.partial(jax.jit, static_argnames=('model', 'program'))
def _run_epoch_of_seeds(model: Predictor, program: Program, rates: Rates, fields: Fields, states: State,
                        done: jax.Array, train: Rows, valid: Rows) -> tuple[State, dict[str, jax.Array]]:

    def one(state: State, done: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        after, metrics = _run_epoch(model, program, rates, fields, state, train, valid)
        return jax.tree.map(lambda old, new: jnp.where(done, old, new), state, after), metrics

    return jax.vmap(one)(states, done)


def fit(model: Predictor, config: TrainConfig, fields: Fields, train: Rows, valid: Rows, *,
        key: jax.Array | None = None, state: State | None = None,
        on_epoch: OnEpoch | None = None, mesh: Mesh | None = None) -> State:
    """Trains until `finished`; the model is the result's `best_params`.

    Args:
      mesh: over which `state` lies, and batches are split; None: one device.
      key: of a new run; `state`: of a run to continue, or of several seeds (`init_seeds`). One of the two.
      on_epoch: called after each epoch with the state (to save) and 'epoch', 'loss', 'score'; of several
        seeds the means, of those that are finished at their last epoch.

    Raises:
      UserError: no rows, an AUC to stop by but one class, or the loss or the score of an epoch is no
        finite number; states up to the epoch before are sound.
    """
    if (key is None) == (state is None):
        raise ValueError('fit needs a key to start from or a state to continue, not both')
    for name, rows in (('train', train), ('valid', valid)):
        if rows.user.shape[0] == 0:
            raise UserError(f'The predictor has no {name} rows: use more samples (num_samples).')
    if config.monitor == 'auc' and bool(jnp.all(valid.label == valid.label[0])):
        raise UserError(f'monitor: "auc" cannot be had from {valid.user.shape[0]} valid rows of one '
                        'class: use more samples (num_samples) or monitor="log_loss".')
    state = init_state(model, config, fields, key) if state is None else state
    step = run_epoch if state.epoch.ndim == 0 else run_epoch_of_seeds
    # Left to itself the compiler may place what comes out elsewhere, and a resumed run would round otherwise.
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    if mesh is not None:
        fields, train, valid = replicate((fields, train, valid), mesh)
    while not finished(state, config):
        state, metrics = step(model, config, fields, state, train, valid, mesh)
        state = state if mesh is None else jax.device_put(state, placed)
        bad_step, epoch = np.asarray(metrics.pop('bad_step')), int(np.max(state.epoch))
        if (bad_step >= 0).any():
            steps = -(-train.user.shape[0] // min(config.batch_size, train.user.shape[0]))
            bad = int(bad_step[bad_step >= 0].min())
            raise UserError(f'The predictor\'s loss is no finite number in step {(epoch - 1) * steps + bad + 1} (epoch '
                            f'{epoch}, its step {bad + 1} of {steps}): lower learning_rate (now '
                            f'{config.learning_rate:g}) or check the text features for values that are not finite. '
                            'States up to the epoch before are sound.')
        metrics = {'epoch': epoch} | {name: float(np.mean(value)) for name, value in metrics.items()}
        if not np.isfinite(metrics['score']):
            raise UserError(f'The score "{config.monitor}" of the validation rows is '
                            f'{metrics["score"]} in epoch {metrics["epoch"]}: check their text '
                            'features for values that are not finite.')
        if on_epoch:
            on_epoch(state, metrics)
    return state
