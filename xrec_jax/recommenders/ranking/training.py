"""Training of ranking models: the state is one pytree, an epoch one `jit`.

An epoch's randomness comes from fold_in(state.key, state.epoch) alone, so a state that was saved after any
epoch continues to the same bits.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from xrec_jax.errors import UserError, nearest
from xrec_jax.metrics import ranking as metrics
from xrec_jax.recommenders.order import shuffled
from xrec_jax.recommenders.ranking.data import Batch, Data, Queries, histories
from xrec_jax.recommenders.ranking.evaluation import best_items
from xrec_jax.recommenders.ranking.negatives import draw_negatives
from xrec_jax.recommenders.training import OnEpoch, State, finished, finished_seeds, next_state

Loss = Callable[[Any, Batch, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """How a ranking model is trained; defaults and the rule by which it stops are RecBole 1.2.1's.

    The score is rounded to four digits, and an equal one counts as better: a plateau is no reason to stop.
    """

    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 2048       # targets a step
    epochs: int = 300            # at most
    patience: int = 11           # epochs below the best validation score before it stops: RecBole's stopping_step + 1
    monitor: str = 'mrr@10'      # of the validation users: any of `metrics.ranking.METRICS`, at any k

    def __post_init__(self):
        self.metric  # refuses what is none
        for name in ('batch_size', 'epochs', 'patience'):
            if getattr(self, name) < 1:
                raise UserError(f'{name}={getattr(self, name)}: should be at least 1.')
        if not 0 < self.learning_rate < np.inf:
            raise UserError(f'learning_rate={self.learning_rate}: should be above 0.')

    @property
    def metric(self) -> tuple[str, int]:
        """Name and k of `monitor`."""
        name, _, k = self.monitor.partition('@')
        if name not in metrics.METRICS:
            raise UserError(f'monitor: "{name}" is no score to stop by.{nearest(name, metrics.METRICS)}')
        if not k.isdecimal() or int(k) < 1:
            raise UserError(f'monitor: "{self.monitor}" should name how many items count, as "{name}@10".')
        return name, int(k)


def _rows_a_step(config: RankingConfig, data: Data) -> int:
    return max(1, min(config.batch_size // data.stride, data.targets.user.shape[0]))


@functools.lru_cache(maxsize=64)
def pairwise(model: nn.Module) -> Loss:
    """The model's own `loss(user, item, negative, mask)` as the trainer takes it."""

    def loss(params, batch, key):
        mask = batch.mask * (batch.negative >= 0)
        return model.apply({'params': params, **batch.data.constants}, batch.user, batch.item,
                           jnp.maximum(batch.negative, 0), mask, method='loss')

    return loss


@functools.partial(jax.jit, static_argnames=('model',))
def init_state(model: nn.Module, data: Data, key: jax.Array) -> State:
    """State before the first epoch; pure, from one key."""
    return nn.unbox(_init(model, data, key))


def abstract_state(model: nn.Module, data: Data) -> State:
    """The state's shapes, boxed with their logical axes; nothing is allocated."""
    return jax.eval_shape(lambda data: _init(model, data, jax.random.key(0)), data)


def state_specs(model: nn.Module, data: Data) -> State:
    """The state's PartitionSpecs in logical axis names."""
    return nn.get_partition_spec(abstract_state(model, data))


def _init(model: nn.Module, data: Data, key: jax.Array) -> State:
    init_key, key = jax.random.split(key)

    def touch(module, user, history):
        return module.user_vectors(user, history), module.item_vectors()

    # Not `init`, which takes no other collections.
    _, made = model.apply(dict(data.constants), jnp.zeros(1, jnp.int32), jnp.ones((1, data.width), jnp.int32),
                          method=touch, rngs={'params': init_key}, mutable=['params'])
    params = made.get('params', {})
    return State(params=params, opt_state=optax.scale_by_adam().init(_float32(params)), epoch=jnp.int32(0), key=key,
                 best_params=params, best_score=jnp.float32(-jnp.inf), best_epoch=jnp.int32(0))


def _float32(tree: Any) -> Any:
    """Adam's moments, which move by thousandths, do not fit into bfloat16."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def run_epoch(model: nn.Module, loss: Loss, config: RankingConfig, state: State, data: Data, valid: Queries
              ) -> tuple[State, dict[str, jax.Array]]:
    """One pass over the targets in a new order with new negatives, then a look at `valid`.

    The last batch is filled up with masked rows. Returns the next state, 'loss' (mean over the pass), 'score'
    (the monitor on `valid`; NaN where a parameter is no finite number) and 'bad_step': the first whose loss
    was no finite number, from 0, or -1.
    """
    size = _rows_a_step(config, data)
    return _run_epoch(model, loss, size, config.metric, jnp.float32(config.learning_rate), state, data, valid)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _run_epoch(model, loss, size, metric, learning_rate, state, data, valid):
    targets, optimizer = data.targets, optax.scale_by_adam()
    num_targets = targets.user.shape[0]
    steps = -(-num_targets // size)
    order_key, negative_key, key = jax.random.split(jax.random.fold_in(state.key, state.epoch), 3)
    order = jnp.pad(shuffled(order_key, num_targets), (0, steps * size - num_targets))
    mask = (jnp.arange(steps * size) < num_targets).astype(jnp.float32)
    negatives = draw_negatives(negative_key, data.positives, targets.user, data.counts.shape[0])

    def step(carry, batch):
        params, opt_state = carry
        index, mask, n = batch
        rows, negative = jax.tree.map(lambda x: x[index], (targets, negatives))
        history = histories(data.sequence, rows.stop, rows.length, data.width)
        batch = Batch(rows.user, rows.item, negative, history, mask, data)
        value, grads = jax.value_and_grad(loss)(params, batch, jax.random.fold_in(key, n))
        updates, opt_state = optimizer.update(_float32(grads), opt_state)
        params = jax.tree.map(lambda p, u: (p - learning_rate * u).astype(p.dtype), params, updates)
        return (params, opt_state), (value, value * mask.sum())

    (params, opt_state), (values, sums) = jax.lax.scan(
        step, (state.params, state.opt_state),
        (order.reshape(steps, size), mask.reshape(steps, size), jnp.arange(steps)))
    name, k = metric
    top = best_items(model, params, data, valid, k)
    held_out = valid.held_out.reshape(top.shape[0], -1)
    number = (held_out >= 0).sum(-1)
    each = metrics.METRICS[name](metrics.hits(top, held_out), number)
    score = jnp.where(number > 0, each, 0).sum() / (number > 0).sum()
    finite = functools.reduce(jnp.logical_and, (jnp.isfinite(x).all() for x in jax.tree.leaves(params)), True)
    score = jnp.where(finite, jnp.round(score, 4), jnp.nan)
    state = next_state(state, params, opt_state, score, digits=4)
    bad = ~jnp.isfinite(values)
    return state, {'loss': sums.sum() / num_targets, 'score': score,
                   'bad_step': jnp.where(bad.any(), jnp.argmax(bad), -1)}


@functools.partial(jax.jit, static_argnames=('model',))
def init_seeds(model: nn.Module, data: Data, keys: jax.Array) -> State:
    """States of several seeds, stacked: the leading axis of every leaf is that of `keys` [S]."""
    return jax.lax.map(lambda key: init_state(model, data, key), keys)


def run_epoch_of_seeds(model: nn.Module, loss: Loss, config: RankingConfig, states: State, data: Data, valid: Queries
                       ) -> tuple[State, dict[str, jax.Array]]:
    """`run_epoch` of stacked states; a seed that is finished stays as it is, with NaN for its metrics.

    Side by side (`vmap`) on accelerators. On a CPU one after the other, still in one `jit`: that is faster (five
    of BPR on ML-100k take 176 ms an epoch and not 244), and a seed that is finished costs nothing.
    """
    return _run_epoch_of_seeds(model, loss, _rows_a_step(config, data), config.metric, jax.default_backend() != 'cpu',
                               jnp.float32(config.learning_rate), states, finished_seeds(states, config), data, valid)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run_epoch_of_seeds(model, loss, size, metric, side_by_side, learning_rate, states, done, data, valid):

    def run(state: State) -> tuple[State, dict[str, jax.Array]]:
        return _run_epoch(model, loss, size, metric, learning_rate, state, data, valid)

    def stay(state: State) -> tuple[State, dict[str, jax.Array]]:
        return state, {'loss': jnp.float32(jnp.nan), 'score': jnp.float32(jnp.nan), 'bad_step': jnp.int32(-1)}

    def one(state: State, done: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        return jax.lax.cond(done, stay, run, state)

    return jax.vmap(one)(states, done) if side_by_side else jax.lax.map(lambda args: one(*args), (states, done))


def fit(model: nn.Module, loss: Loss, config: RankingConfig, data: Data, valid: Queries, *,
        key: jax.Array | None = None, state: State | None = None,
        on_epoch: OnEpoch | None = None) -> State:
    """Trains until `finished`; the model is the result's `best_params`.

    Args:
      key: of a new run; `state`: of a run to continue, or of several seeds (`init_seeds`). One of the two.
      on_epoch: called after each epoch with the state (to save) and 'epoch', 'loss', 'score'; of several seeds
        the means over those that are not finished.

    Raises:
      UserError: a loss or a parameter is no finite number; states up to the epoch before are sound.
    """
    if (key is None) == (state is None):
        raise ValueError('fit needs a key to start from or a state to continue, not both')
    state = init_state(model, data, key) if state is None else state
    step = run_epoch if state.epoch.ndim == 0 else run_epoch_of_seeds
    # Left to itself the compiler may place what comes out elsewhere, and a resumed run would round otherwise.
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    while not finished(state, config):
        running = ~np.asarray(finished_seeds(state, config))
        state, values = step(model, loss, config, state, data, valid)
        state = jax.device_put(state, placed)
        epoch = int(np.max(state.epoch))
        values = {name: np.asarray(value)[running] for name, value in values.items()}
        _check_finite(type(model).__name__, config, data, epoch, values)
        if on_epoch:
            on_epoch(state, {'epoch': epoch, 'loss': float(values['loss'].mean()),
                             'score': float(values['score'].mean())})
    return state


def _check_finite(name: str, config: RankingConfig, data: Data, epoch: int, values: dict[str, np.ndarray]) -> None:
    """UserError unless the losses and scores of all seeds are finite numbers; names the step."""
    steps = -(-data.targets.user.shape[0] // _rows_a_step(config, data))
    advice = f'lower learning_rate (now {config.learning_rate:g}) and go on from the epoch before'
    bad = values['bad_step'][values['bad_step'] >= 0]
    if bad.size:
        raise UserError(f'The loss of {name} is no finite number in step {(epoch - 1) * steps + bad.min() + 1} (epoch '
                        f'{epoch}, its step {bad.min() + 1} of {steps}): {advice}.')
    if not np.isfinite(values['score']).all():
        raise UserError(f'The parameters of {name} are no finite numbers after step {epoch * steps} (epoch {epoch}): '
                        f'{advice}.')
