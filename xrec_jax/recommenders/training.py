"""Training of predictors: one epoch is one `jit`, the state is one pytree.

  init_state   parameters, optimizer and book-keeping of epoch 0
  run_epoch    shuffle -> lax.scan over batches -> score the validation rows -> keep the best
  next_state   what is kept after an epoch, `better` of two scores, `finished`: also those of `ranking`
  predict      scores of any rows, in blocks; `attention` the weights that a model reads its inputs with
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

from xrec_jax.data import protocols
from xrec_jax.errors import UserError, nearest
from xrec_jax.parallel.sharding import constrain, replicate
from xrec_jax.recommenders import objectives
from xrec_jax.recommenders.fields import Fields
from xrec_jax.recommenders.order import shuffled
from xrec_jax.recommenders.predictor import History, Predictor


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


@functools.partial(jax.tree_util.register_dataclass,
                   data_fields=['user', 'item', 'label', 'text', 'history', 'history_liked', 'context', 'words'],
                   meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Rows:
    """What a predictor is trained on or asked: N pairs, each with its explanations or zeros."""

    user: jax.Array         # int32 [N], row in the users table
    item: jax.Array         # int32 [N], row in the items table
    label: jax.Array        # float32 [N], 0 or 1; of ratings the place on their scale, 0 to 1
    text: jax.Array | None  # float32 [N, K, d]; None = no explanations
    history: jax.Array | None = None        # int32 [N, L], rows in the items table, -1 pads; None = not wanted
    history_liked: jax.Array | None = None  # bool [N, L]
    context: jax.Array | None = None        # float32 [N, C], of the moment: `data.context`; None = not wanted
    words: jax.Array | None = None          # int32 [N, T], of a text on the pair: `words.encode`; None = not wanted


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


def make_rows(examples: protocols.Examples, text: np.ndarray | None = None, index: np.ndarray | None = None, *,
              history: bool = False, context: np.ndarray | None = None, words: np.ndarray | None = None,
              scale: tuple[float, float] | None = None) -> Rows:
    """Rows on the device from `examples`.

    Args:
      text: [N, K, d], the explanations; `index` [N] picks (and repeats) examples, one for each of them.
      history: whether to hand in what came before the target, for models that look at it.
      context: `data.context.context_features` of the examples, for models that look at it.
      words: int [N, T] of the examples, for models that learn from them; what is only asked about has none.
      scale: of the ratings: the label is the rating's place on it, from 0 to 1. None: the label is the like.
    """
    index = np.arange(len(examples.user)) if index is None else index
    if text is not None and (text.ndim != 3 or len(text) != len(index)):
        raise ValueError(f'text {text.shape} for {len(index)} rows: must be [N, K, d]')
    label = examples.label if scale is None else (examples.rating - scale[0]) / (scale[1] - scale[0])
    items, liked = examples.past.padded(index) if history else (None, None)
    return Rows(user=jnp.asarray(examples.user[index], jnp.int32),
                item=jnp.asarray(examples.item[index], jnp.int32),
                label=jnp.asarray(label[index], jnp.float32),
                text=None if text is None else jnp.asarray(text, jnp.float32),
                history=None if items is None else jnp.asarray(items),
                history_liked=None if liked is None else jnp.asarray(liked),
                context=None if context is None else jnp.asarray(context[index], jnp.float32),
                words=None if words is None else jnp.asarray(words[index], jnp.int32))


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
    params = model.init(init_key, *_inputs(model, fields, rows))['params']
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


def _inputs(model: Predictor, fields: Fields, rows: Rows) -> tuple[Any, ...]:
    """What `model` is called with: ids int32 [B, Fu + Fi], attributes int32 [B, A], text, history; and, if it learns
    from them, words."""
    ids = jnp.concatenate([fields.user_fields[rows.user], fields.item_fields[rows.item]], axis=1)
    history = None
    if model.uses_history:
        mask = rows.history >= 0
        past = jnp.maximum(rows.history, 0)
        history = History(ids=jnp.where(mask[..., None], fields.item_fields[past], 0),
                          attributes=jnp.where(mask[..., None], fields.item_attributes[past], 0),
                          liked=rows.history_liked, mask=mask, context=rows.context)
    inputs = ids, fields.item_attributes[rows.item], rows.text, history
    return (*inputs, rows.words) if model.uses_words else inputs


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
        logits, more = model.apply({'params': params}, *_inputs(model, fields, rows), train=True,
                                   rngs={'dropout': dropout_key}, mutable=['losses', 'statistics'])
        loss = objectives.OBJECTIVES[program.objective](logits, rows.label, mask)
        for values in jax.tree.leaves(more.get('losses', {})):
            loss += objectives.masked_mean(values, mask)
        return loss, more.get('statistics', {})

    def step(carry, batch):
        params, opt_state = carry
        index, mask, n = batch
        rows = _split(jax.tree.map(lambda x: x[index], train), program.mesh)
        (loss, statistics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, rows, mask, jax.random.fold_in(key, n))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = _replaced(optax.apply_updates(params, updates), statistics)
        return (params, opt_state), (loss, loss * mask.sum())

    (params, opt_state), (losses, sums) = jax.lax.scan(
        step, (state.params, state.opt_state),
        (order.reshape(steps, size), mask.reshape(steps, size), jnp.arange(steps)))
    score = objectives.MONITORS[program.monitor](_logits(model, params, fields, valid, program.mesh), valid.label)
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


def _split(rows: Rows, mesh: Mesh | None) -> Rows:
    """A batch, its rows spread over the mesh."""
    return jax.tree.map(lambda x: constrain(x, ('batch', *(None,) * (x.ndim - 1)), mesh), rows)


def _logits(model: Predictor, params: Any, fields: Fields, rows: Rows, mesh: Mesh | None = None, block: int = 4096):
    """Logits [N], `block` rows at a time, so that memory does not grow with N."""
    apply = lambda rows: model.apply({'params': params}, *_inputs(model, fields, _split(rows, mesh)))
    return _in_blocks(apply, rows, block)


def _in_blocks(apply: Callable[[Rows], jax.Array], rows: Rows, block: int) -> jax.Array:
    """`apply` of N rows, at most `block` at a time: its results [N, ...]."""
    num_rows = rows.user.shape[0]
    num_blocks = -(-num_rows // block)
    block = -(-num_rows // num_blocks)  # of even sizes: less is filled up
    pad = num_blocks * block - num_rows

    def blocks(x):
        return jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1)).reshape(num_blocks, block, *x.shape[1:])

    result = jax.lax.map(apply, jax.tree.map(blocks, rows))
    return result.reshape(-1, *result.shape[2:])[:num_rows]


@functools.partial(jax.jit, static_argnames=('model',))
def attention(model: Predictor, params: Any, fields: Fields, rows: Rows) -> jax.Array:
    """alpha [N, I, I] of a model that sows its attention, as RecPIE's rating network does."""

    def apply(rows):
        _, seen = model.apply({'params': params}, *_inputs(model, fields, rows), mutable=['intermediates'])
        return seen['intermediates']['attention'][0]

    return _in_blocks(apply, rows, 4096)


@functools.partial(jax.jit, static_argnames=('model',))
def predict(model: Predictor, params: Any, fields: Fields, rows: Rows) -> jax.Array:
    """Scores s = sigmoid(logit), float32 [N]: of clicks, or places on the scale of ratings.

    With `rows.text` None, ExpCTR eq. 13's ablation.
    """
    return jax.nn.sigmoid(_logits(model, params, fields, rows))


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


@functools.partial(jax.jit, static_argnames=('model',))
def predict_of_seeds(model: Predictor, params: Any, fields: Fields, rows: Rows) -> jax.Array:
    """`predict` of stacked params: [S, N]."""
    return jax.vmap(lambda params: predict(model, params, fields, rows))(params)


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
                            f'{config.learning_rate:g}) or check the text features for values that are not finite. States up to the epoch before '
                            'are sound.')
        metrics = {'epoch': epoch} | {name: float(np.mean(value)) for name, value in metrics.items()}
        if not np.isfinite(metrics['score']):
            raise UserError(f'The score "{config.monitor}" of the validation rows is '
                            f'{metrics["score"]} in epoch {metrics["epoch"]}: check their text '
                            'features for values that are not finite.')
        if on_epoch:
            on_epoch(state, metrics)
    return state
