"""Training and evaluation of models that rank all items: one epoch is one `jit`, and so is one evaluation.

  make_data       a protocol's examples -> `Data` (what is trained on) and `Queries` by split, on the device
  draw_negatives  items that a user has not met, uniformly
  init_state      parameters, optimizer and book-keeping of epoch 0: `training.State`
  run_epoch       shuffle, draw negatives -> lax.scan over batches -> rank for the validation users -> keep the best
  fit             the loop: run_epoch until `epochs`, or no better for `patience` epochs
  recommend       the top k items of each user
  evaluate        `metrics.ranking` of them; `counts` says for how many a fallback stood in

A ranking model is a Flax module with `user_vectors(user [B], history [B, L]) -> [B, E]`, `item_vectors() -> [I, E]`
and, where it has one, `item_bias() -> [I]`; scores are their product. Histories are as in `sequences`: rows of
the items table + 1, right-aligned, 0 pads; a model without `states` gets L = 0. A model with `constants(user, item)`
gets the collections that this makes of the training interactions (a graph, counts) beside its parameters.

What is trained for is any pure function loss(params, batch, key) -> scalar, the mean over `batch.mask`; hand in
the same function object each time, as it is a static argument of `jit`. `pairwise` makes it of a model's own
`loss(user, item, negative, mask)`: that is BPR-MF and LightGCN.

Who is not ranked as the model says:
  a user without history (none of its training items known, or for a sequence model an empty history)
                                             gets the items by their count in training
  an item unseen in training                 stands after all that were seen, in the order of the items table
  k above the number of items that are left  the list ends early: -1
  what a user met in training, and for test also in validation, is never recommended, except where it is what
                                             is held out (met again), as in RecBole 1.2.1

An epoch's randomness comes from fold_in(state.key, state.epoch) alone, so a state that was saved after any
epoch continues to the same bits. All is plain `jnp`: `run_epoch` may be `vmap`ped over states (seeds), and
another learning rate needs no other compilation.

`N` targets, `U` users, `I` items, `B` batch, `L` history, `E` embedding, `Q` queries, `M` interactions.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from xrec_jax.data import protocols
from xrec_jax.errors import UserError, nearest
from xrec_jax.metrics import ranking as metrics_lib
from xrec_jax.recommenders.training import State, finished

Loss = Callable[[Any, 'Batch', jax.Array], jax.Array]

_UNSEEN = np.finfo(np.float32).min  # the score of an item unseen in training; what may not be shown has -inf
_BLOCK_SCORES = 1 << 24             # at most, in a block of users: 64 MB
_BLOCK_USERS = 1024


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """How a ranking model is trained; defaults are RecBole 1.2.1's.

    RecBole rounds the score to four digits and counts an equal one as better; here only a higher one is.
    """

    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 2048
    epochs: int = 300            # at most
    patience: int = 10           # epochs without a better validation score before it stops
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
        if name not in metrics_lib.METRICS:
            raise UserError(f'monitor: "{name}" is no score to stop by.{nearest(name, metrics_lib.METRICS)}')
        if not k.isdecimal() or int(k) < 1:
            raise UserError(f'monitor: "{self.monitor}" should name how many items count, as "{name}@10".')
        return name, int(k)


# -------------------------------------------------------------------------------------------- data

def _pytree(data: list[str], meta: list[str]):
    return functools.partial(jax.tree_util.register_dataclass, data_fields=data, meta_fields=meta)


@_pytree(['start', 'gap'], ['steps'])
@dataclasses.dataclass(frozen=True)
class Positives:
    """What each user liked in training: p_0 < p_1 < … of user u stand at start[u] … start[u + 1] - 1."""

    start: jax.Array  # int32 [U + 1]
    gap: jax.Array    # int32 [M], p_j - j: how many items below p_j are no positives
    steps: int        # of a binary search among the positives of any one user


@_pytree(['user', 'item', 'stop', 'length'], [])
@dataclasses.dataclass(frozen=True)
class Targets:
    """Positives to train on; the history of n is Data.sequence[stop[n] - length[n]:stop[n]]."""

    user: jax.Array    # int32 [N]
    item: jax.Array    # int32 [N]
    stop: jax.Array    # int32 [N]
    length: jax.Array  # int32 [N]


@_pytree(['targets', 'sequence', 'positives', 'counts', 'active', 'constants'], ['width'])
@dataclasses.dataclass(frozen=True)
class Data:
    """What a ranking model is trained on."""

    targets: Targets
    sequence: jax.Array   # int32 [M], rows of items + 1; length 1 where the model looks at no history
    positives: Positives
    counts: jax.Array     # int32 [I], times that each item is a positive
    active: jax.Array     # bool [U], whether a user has any training interaction
    constants: Mapping[str, Any]  # further collections of the model
    width: int            # L


@_pytree(['user', 'stop', 'length', 'held_out', 'seen_row', 'seen_item', 'sequence'], ['width'])
@dataclasses.dataclass(frozen=True)
class Queries:
    """Users of a split for whom items are ranked, in n blocks of b; user 0 with nothing held out fills up."""

    user: jax.Array       # int32 [n, b]
    stop: jax.Array       # int32 [n, b]; the history as in `Targets`
    length: jax.Array     # int32 [n, b]
    held_out: jax.Array   # int32 [n, b, R], -1 pads
    seen_row: jax.Array   # int32 [n, S], places in the block of what is not to be shown; b pads
    seen_item: jax.Array  # int32 [n, S]
    sequence: jax.Array   # int32 [M]
    width: int            # L

    @property
    def real(self) -> np.ndarray:
        """bool [n * b], which are no filling."""
        return np.asarray(self.held_out).reshape(-1, self.held_out.shape[-1])[:, 0] >= 0


@_pytree(['user', 'item', 'negative', 'history', 'mask', 'data'], [])
@dataclasses.dataclass(frozen=True)
class Batch:
    """What a loss is a function of."""

    user: jax.Array      # int32 [B]
    item: jax.Array      # int32 [B], the target
    negative: jax.Array  # int32 [B], uniform over what the user did not like in training; -1 where that is nothing
    history: jax.Array   # int32 [B, L], rows of items + 1, before the target; 0 pads
    mask: jax.Array      # float32 [B], 0 where the last batch is filled up
    data: Data           # all of it: the model's constants, the positives for other negatives


def make_data(model: nn.Module, examples: Mapping[str, protocols.Examples], num_users: int, num_items: int, *,
              stride: int = 1) -> tuple[Data, dict[str, Queries]]:
    """What `model` is trained on and the queries of 'valid' and 'test', from a protocol's examples.

    Liked targets are positives; of a user with several in a split all are held out at once, and the history is
    the one before the first. Disliked ones are not shown again, and may be drawn as negatives.

    Args:
      stride: of each user's training targets, every so-many-th counted from the last. A sequence model that
        learns from every position meets each target once with `stride` = the length of its history.

    Raises:
      UserError: a split without a liked target.
    """
    for split in protocols.SPLITS:
        if not (examples[split].label > 0).any():
            raise UserError(f'There is nothing to rank: the {split} split has no liked target. Use users with '
                            'more interactions, or another protocol or threshold.')
    history = hasattr(model, 'states')
    train = examples['train']
    liked = np.flatnonzero(train.label > 0)
    width = train.past.width if history else 0
    user, item = train.user[liked], train.item[liked]
    constants = model.constants(user, item) if hasattr(model, 'constants') else {}
    rows = liked[_from_the_end(user) % stride == 0]
    data = Data(
        targets=Targets(*(jnp.asarray(x[rows], jnp.int32) for x in (
            train.user, train.item, train.past.stop, train.past.length))),
        sequence=_sequence(train, history), positives=_positives(user, item, num_users, num_items),
        counts=jnp.asarray(np.bincount(item, minlength=num_items), jnp.int32),
        active=jnp.asarray(np.bincount(train.user, minlength=num_users) > 0), constants=constants, width=width)
    queries = {split: _queries([examples[s] for s in protocols.SPLITS[:n]], examples[split], history, num_items)
               for n, split in enumerate(protocols.SPLITS) if n > 0}
    return data, queries


def _sequence(examples: protocols.Examples, history: bool) -> jax.Array:
    return jnp.asarray(examples.past.item + 1 if history else np.zeros(1), jnp.int32)


def _from_the_end(user: np.ndarray) -> np.ndarray:
    """int64 [N]: how many rows of the same user come after each."""
    order = np.argsort(user, kind='stable')
    count = np.bincount(user)
    place = np.empty(len(user), np.int64)
    place[order] = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    return count[user] - 1 - place


def _positives(user: np.ndarray, item: np.ndarray, num_users: int, num_items: int) -> Positives:
    pair = np.unique(user.astype(np.int64) * num_items + item)
    user, item = pair // num_items, pair % num_items
    count = np.bincount(user, minlength=num_users)
    start = np.concatenate([[0], np.cumsum(count)])
    gap = item - (np.arange(len(pair)) - start[user])
    return Positives(start=jnp.asarray(start, jnp.int32), gap=jnp.asarray(gap, jnp.int32),
                     steps=int(count.max()).bit_length())


def _queries(before: list[protocols.Examples], split: protocols.Examples, history: bool, num_items: int) -> Queries:
    """`before` are the splits whose interactions are not to be shown."""
    held = np.unique(np.stack([split.user, split.item], 1)[split.label > 0].astype(np.int64), axis=0)  # by user, item
    user, first, number = np.unique(held[:, 0], return_index=True, return_counts=True)
    held_out = np.full((len(user), number.max()), -1)
    held_out[np.repeat(np.arange(len(user)), number), np.arange(len(held)) - np.repeat(first, number)] = held[:, 1]
    earliest = np.full(int(user[-1]) + 1, len(split.user))
    np.minimum.at(earliest, split.user[split.label > 0], np.flatnonzero(split.label > 0))
    past = earliest[user]  # the example whose history is shown

    size = max(1, min(_BLOCK_USERS, _BLOCK_SCORES // num_items, len(user)))
    blocks = -(-len(user) // size)

    def block(values, fill):
        values = np.concatenate([values, np.full((blocks * size - len(user), *values.shape[1:]), fill, values.dtype)])
        return jnp.asarray(values.reshape(blocks, size, *values.shape[1:]), jnp.int32)

    seen = np.unique(np.concatenate([e.user.astype(np.int64) * num_items + e.item for e in before]))
    seen = np.setdiff1d(seen, held[:, 0] * num_items + held[:, 1], assume_unique=True)
    place = np.searchsorted(user, seen // num_items)
    here = user[np.minimum(place, len(user) - 1)] == seen // num_items
    place, seen = place[here], seen[here] % num_items
    number = np.bincount(place // size, minlength=blocks)
    at = place // size, np.arange(len(place)) - np.repeat(np.cumsum(number) - number, number)
    seen_row = np.full((blocks, max(int(number.max()), 1)), size)
    seen_item = np.zeros_like(seen_row)
    seen_row[at], seen_item[at] = place % size, seen
    return Queries(user=block(user, 0), stop=block(split.past.stop[past], 0), length=block(split.past.length[past], 0),
                   held_out=block(held_out, -1), seen_row=jnp.asarray(seen_row, jnp.int32),
                   seen_item=jnp.asarray(seen_item, jnp.int32), sequence=_sequence(split, history),
                   width=split.past.width if history else 0)


def _histories(sequence: jax.Array, stop: jax.Array, length: jax.Array, width: int) -> jax.Array:
    """int32 [B, L] from ranges of `sequence` that end before `stop` [B]."""
    back = jnp.arange(width, 0, -1)
    shown = back <= length[:, None]
    return jnp.where(shown, sequence[jnp.where(shown, stop[:, None] - back, 0)], 0)


# ---------------------------------------------------------------------------------------- training

def draw_negatives(key: jax.Array, positives: Positives, user: jax.Array, num_items: int) -> jax.Array:
    """int32 of the shape of `user`: for each an item, uniform over those that are no positive of that user.

    Without rejection: r is drawn from the I - n items that are free, and the r-th free item is r + j, j being
    the number of positives with fewer than r + 1 free items below them. -1 where no item is free.
    """
    first, stop = positives.start[user], positives.start[user + 1]
    free = num_items - (stop - first)
    rank = jax.random.randint(key, user.shape, 0, jnp.maximum(free, 1))

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        below = (low < high) & (positives.gap[middle] <= rank)
        return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    low, _ = jax.lax.fori_loop(0, positives.steps, halve, (first, stop))
    return jnp.where(free > 0, rank + low - first, -1)


def shuffled(key: jax.Array, size: int) -> jax.Array:
    """int32 [size]: 0, 1, … in a random order.

    `jax.random.permutation` sorts twice, which for 100,000 on a CPU takes 100 ms, several times as long as all
    else in an epoch. Above 4,096 this takes [0, 2^m) through a bijection with a random key (8 rounds of
    multiply, add, shift and xor) and drops what is not below `size` (Mitchell et al. 2022, "Bandwidth-optimal
    random shuffling for GPUs").
    """
    if size <= 4096:
        return jax.random.permutation(key, size).astype(jnp.int32)
    bits = (size - 1).bit_length()
    number = jnp.arange(1 << bits, dtype=jnp.uint32)
    for factor, shift in jax.random.bits(key, (8, 2), jnp.uint32):
        number = (number * (factor | 1) + shift) & jnp.uint32((1 << bits) - 1)
        number ^= number >> (bits // 2)
    stays = number < size
    place = jnp.where(stays, jnp.cumsum(stays) - 1, size)
    return jnp.zeros(size, jnp.int32).at[place].set(number.astype(jnp.int32), mode='drop', unique_indices=True)


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


def state_specs(model: nn.Module, data: Data) -> State:
    """The state's PartitionSpecs in logical axis names; shapes only, nothing is allocated."""
    return nn.get_partition_spec(jax.eval_shape(lambda data: _init(model, data, jax.random.key(0)), data))


def _init(model: nn.Module, data: Data, key: jax.Array) -> State:
    init_key, key = jax.random.split(key)

    def touch(module, user, history):
        return module.user_vectors(user, history), module.item_vectors()

    # Not `init`, which takes no other collections.
    _, made = model.apply(dict(data.constants), jnp.zeros(1, jnp.int32), jnp.ones((1, data.width), jnp.int32),
                          method=touch, rngs={'params': init_key}, mutable=['params'])
    params = made.get('params', {})
    return State(params=params, opt_state=optax.scale_by_adam().init(params), epoch=jnp.int32(0), key=key,
                 best_params=params, best_score=jnp.float32(-jnp.inf), best_epoch=jnp.int32(0))


def run_epoch(model: nn.Module, loss: Loss, config: RankingConfig, state: State, data: Data, valid: Queries
              ) -> tuple[State, dict[str, jax.Array]]:
    """One pass over the targets in a new order with new negatives, then a look at `valid`.

    The last batch is filled up with masked rows. Returns the next state, 'loss' (mean over the pass), 'score'
    (the monitor on `valid`; NaN where a parameter is no finite number) and 'bad_step': the first whose loss
    was no finite number, from 0, or -1.
    """
    size = min(config.batch_size, data.targets.user.shape[0])
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
        history = _histories(data.sequence, rows.stop, rows.length, data.width)
        batch = Batch(rows.user, rows.item, negative, history, mask, data)
        value, grads = jax.value_and_grad(loss)(params, batch, jax.random.fold_in(key, n))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        return (params, opt_state), (value, value * mask.sum())

    (params, opt_state), (values, sums) = jax.lax.scan(
        step, (state.params, state.opt_state),
        (order.reshape(steps, size), mask.reshape(steps, size), jnp.arange(steps)))
    name, k = metric
    top = _top(model, params, data, valid, k)
    held_out = valid.held_out.reshape(top.shape[0], -1)
    number = (held_out >= 0).sum(-1)
    each = metrics_lib.METRICS[name](metrics_lib.hits(top, held_out), number)
    score = jnp.where(number > 0, each, 0).sum() / (number > 0).sum()
    finite = jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]))
    score = jnp.where(finite, score, jnp.nan)
    epoch = state.epoch + 1
    better = score > state.best_score
    keep_best = functools.partial(jnp.where, better)
    state = State(params=params, opt_state=opt_state, epoch=epoch, key=state.key,
                  best_params=jax.tree.map(keep_best, params, state.best_params),
                  best_score=keep_best(score, state.best_score), best_epoch=keep_best(epoch, state.best_epoch))
    bad = ~jnp.isfinite(values)
    return state, {'loss': sums.sum() / num_targets, 'score': score,
                   'bad_step': jnp.where(bad.any(), jnp.argmax(bad), -1)}


def fit(model: nn.Module, loss: Loss, config: RankingConfig, data: Data, valid: Queries, *,
        key: jax.Array | None = None, state: State | None = None,
        on_epoch: Callable[[State, dict[str, float]], None] | None = None) -> State:
    """Trains until `training.finished`; the model is the result's `best_params`.

    Args:
      key: of a new run; `state`: of a run to continue. One of the two.
      on_epoch: called after each epoch with the state (to save) and 'epoch', 'loss', 'score'.

    Raises:
      UserError: a loss or a parameter is no finite number; states up to the epoch before are sound.
    """
    if (key is None) == (state is None):
        raise ValueError('fit needs a key to start from or a state to continue, not both')
    state = init_state(model, data, key) if state is None else state
    num_targets = data.targets.user.shape[0]
    steps = -(-num_targets // min(config.batch_size, num_targets))
    while not finished(state, config):
        state, metrics = run_epoch(model, loss, config, state, data, valid)
        bad_step, epoch = int(metrics.pop('bad_step')), int(state.epoch)
        advice = f'lower learning_rate (now {config.learning_rate:g}) and go on from the epoch before'
        if bad_step >= 0:
            step = (epoch - 1) * steps + bad_step + 1
            raise UserError(f'The loss of {type(model).__name__} is no finite number in step {step} (epoch {epoch}, '
                            f'its step {bad_step + 1} of {steps}): {advice}.')
        metrics = {'epoch': epoch} | {name: float(value) for name, value in metrics.items()}
        if not np.isfinite(metrics['score']):
            raise UserError(f'The parameters of {type(model).__name__} are no finite numbers after step '
                            f'{epoch * steps} (epoch {epoch}): {advice}.')
        if on_epoch:
            on_epoch(state, metrics)
    return state


# -------------------------------------------------------------------------------------- evaluation

@functools.partial(jax.jit, static_argnames=('model', 'k'))
def recommend(model: nn.Module, params: Any, data: Data, queries: Queries, k: int) -> jax.Array:
    """int32 [n * b, k]: the best items of each of `queries` (its filling too), best first, -1 where there is none."""
    return _top(model, params, data, queries, k)


def _top(model, params, data, queries, k):
    variables = {'params': params, **data.constants}
    num_items = data.counts.shape[0]
    items = model.apply(variables, method='item_vectors')  # [I, E]
    bias = model.apply(variables, method='item_bias') if hasattr(model, 'item_bias') else jnp.zeros(num_items)
    users = functools.partial(model.apply, variables, method='user_vectors')
    popularity = data.counts.astype(jnp.float32)

    def block(query):
        history = _histories(queries.sequence, query.stop, query.length, queries.width)
        scores = users(query.user, history) @ items.T + bias  # [b, I]
        scores = jnp.where(_cold(data, query)[:, None], popularity, scores)
        scores = jnp.where(data.counts > 0, scores, _UNSEEN)
        scores = scores.at[query.seen_row, query.seen_item].set(-jnp.inf, mode='drop')
        best, top = jax.lax.top_k(scores, min(k, num_items))
        return jnp.pad(jnp.where(best > -jnp.inf, top, -1), ((0, 0), (0, max(0, k - num_items))), constant_values=-1)

    shared = dataclasses.replace(queries, sequence=None)
    return jax.lax.map(block, shared).reshape(-1, k)


def _cold(data: Data, queries: Queries) -> jax.Array:
    """bool of the shape of `queries.user`: which have no history that the model could go by."""
    return queries.length == 0 if queries.width else ~data.active[queries.user]


def evaluate(model: nn.Module, params: Any, data: Data, queries: Queries, ks: tuple[int, ...] = (5, 10, 20)
             ) -> dict[str, float]:
    """The figures of `metrics.ranking.ranking_metrics` over all items; any of `ks` may be above their number."""
    real = queries.real
    top = np.asarray(recommend(model, params, data, queries, max(ks)))[real]
    held_out = np.asarray(queries.held_out).reshape(len(real), -1)[real]
    return metrics_lib.ranking_metrics(top, held_out, data.counts.shape[0], ks)


def counts(data: Data, queries: Queries) -> dict[str, int]:
    """How many 'users' are ranked for, how many of them 'without_history', items 'unseen' in training, and held-out
    items among these, 'unseen_held_out' (never found but by a list that is as long as the catalogue)."""
    held_out = np.asarray(queries.held_out).reshape(-1)
    unseen = np.asarray(data.counts) == 0
    return {'users': int(queries.real.sum()),
            'without_history': int((np.asarray(_cold(data, queries)).reshape(-1) & queries.real).sum()),
            'unseen': int(unseen.sum()), 'unseen_held_out': int(unseen[held_out[held_out >= 0]].sum())}
