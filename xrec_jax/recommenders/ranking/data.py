"""What ranking models are trained on and asked for, from a protocol's examples, as arrays on the device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from xrec_jax.data import protocols
from xrec_jax.errors import UserError

_BLOCK_SCORES = 1 << 24  # at most, in a block of users: 64 MB
# On a CPU few, so that what is made of them stays in its cache: SASRec took 130 ms for 943 users, not 375.
_BLOCK_USERS = {'cpu': 64}  # elsewhere 1024
_WIDTHS = 10  # at most, that blocks of histories are cut to; each is compiled
_LEAST_WIDTH = 5  # by which two of them differ at least


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


@_pytree(['targets', 'sequence', 'positives', 'counts', 'active', 'constants'], ['width', 'stride', 'mesh'])
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
    stride: int           # targets that a row stands for: its own and those before it
    mesh: Mesh | None     # on whose axis `ITEMS` the items' vectors lie in parts; None: on one device


@_pytree(['user', 'stop', 'length', 'held_out', 'seen_row', 'seen_item', 'cut', 'sequence'], ['widths'])
@dataclasses.dataclass(frozen=True)
class Queries:
    """Users of a split for whom items are ranked, in n blocks of b; user 0 with nothing held out fills up.

    Users with as long histories stand together: a block is as wide as its own, not as the longest of all.
    """

    user: jax.Array       # int32 [n, b]
    stop: jax.Array       # int32 [n, b]; the history as in `Targets`
    length: jax.Array     # int32 [n, b]
    held_out: jax.Array   # int32 [n, b, R], -1 pads
    seen_row: jax.Array   # int32 [n, S], places in the block of what is not to be shown; b pads
    seen_item: jax.Array  # int32 [n, S]
    cut: jax.Array        # int32 [n], which of `widths` the histories of a block are cut to
    sequence: jax.Array   # int32 [M]
    widths: tuple[int, ...]  # L of the blocks, ascending; (0,) where the model looks at no history

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
              stride: int = 1, mask_seen: bool = True, mesh: Mesh | None = None) -> tuple[Data, dict[str, Queries]]:
    """What `model` is trained on and the queries of 'valid' and 'test', from a protocol's examples.

    Liked targets are positives; of a user with several in a split all are held out at once, and the history is
    the one before the first. Disliked ones are not shown again, and may be drawn as negatives.

    Args:
      stride: every so-many-th of a user's training targets is a row, counted from the last. A sequence model
        whose loss is of the `stride` latest items of a row meets each target once, with a history of at least
        L - `stride` items where there are as many.
      mask_seen: whether what a user has met is kept from its lists.
      mesh: over which the items' table is sharded, None on one device.

    Raises:
      UserError: a split without a liked target.
    """
    if stride < 1:
        raise UserError(f'stride={stride}: should be at least 1.')
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
        sequence=_sequence(train, history), positives=positives_of(user, item, num_users, num_items),
        counts=jnp.asarray(np.bincount(item, minlength=num_items), jnp.int32),
        active=jnp.asarray(np.bincount(train.user, minlength=num_users) > 0), constants=constants, width=width,
        stride=stride, mesh=mesh)
    shown = min(width, getattr(model, 'max_length', width))
    queries = {split: _queries([examples[s] for s in protocols.SPLITS[:n] if mask_seen], examples[split], shown,
                               num_items) for n, split in enumerate(protocols.SPLITS) if n > 0}
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


def positives_of(user: np.ndarray, item: np.ndarray, num_users: int, num_items: int) -> Positives:
    """`Positives` of interactions (user, item), [N] each, in any order; those that repeat count once."""
    pair = np.unique(user.astype(np.int64) * num_items + item)
    user, item = pair // num_items, pair % num_items
    count = np.bincount(user, minlength=num_users)
    start = np.concatenate([[0], np.cumsum(count)])
    gap = item - (np.arange(len(pair)) - start[user])
    return Positives(start=jnp.asarray(start, jnp.int32), gap=jnp.asarray(gap, jnp.int32),
                     steps=int(count.max()).bit_length())


def _queries(before: list[protocols.Examples], split: protocols.Examples, width: int, num_items: int) -> Queries:
    """`before` are the splits whose interactions are not to be shown; `width`: items that the model looks at."""
    held = np.unique(np.stack([split.user, split.item], 1)[split.label > 0].astype(np.int64), axis=0)  # by user, item
    user, first, number = np.unique(held[:, 0], return_index=True, return_counts=True)
    held_out = np.full((len(user), number.max()), -1)
    held_out[np.repeat(np.arange(len(user)), number), np.arange(len(held)) - np.repeat(first, number)] = held[:, 1]
    earliest = np.full(int(user[-1]) + 1, len(split.user))
    np.minimum.at(earliest, split.user[split.label > 0], np.flatnonzero(split.label > 0))
    past = earliest[user]  # the example whose history is shown
    length = np.minimum(split.past.length[past], width)
    order = np.argsort(length, kind='stable')

    size = max(1, min(_BLOCK_USERS.get(jax.default_backend(), 1024), _BLOCK_SCORES // num_items, len(user)))
    blocks = -(-len(user) // size)

    def block(values, fill):
        values = np.concatenate([values, np.full((blocks * size - len(user), *values.shape[1:]), fill, values.dtype)])
        return jnp.asarray(values.reshape(blocks, size, *values.shape[1:]), jnp.int32)

    seen = np.unique(np.concatenate([np.zeros(0, np.int64),
                                     *(e.user.astype(np.int64) * num_items + e.item for e in before)]))
    seen = np.setdiff1d(seen, held[:, 0] * num_items + held[:, 1], assume_unique=True)
    place = np.searchsorted(user, seen // num_items)
    here = user[np.minimum(place, len(user) - 1)] == seen // num_items
    place, seen = np.argsort(order)[place[here]], seen[here] % num_items
    place, seen = (x[np.argsort(place, kind='stable')] for x in (place, seen))
    number = np.bincount(place // size, minlength=blocks)
    at = place // size, np.arange(len(place)) - np.repeat(np.cumsum(number) - number, number)
    seen_row = np.full((blocks, max(int(number.max()), 1)), size)
    seen_item = np.zeros_like(seen_row)
    seen_row[at], seen_item[at] = place % size, seen
    past, length = past[order], length[order]
    widths, cut = _cuts(length, width, size)
    return Queries(user=block(user[order], 0), stop=block(split.past.stop[past], 0), length=block(length, 0),
                   held_out=block(held_out[order], -1), seen_row=jnp.asarray(seen_row, jnp.int32),
                   seen_item=jnp.asarray(seen_item, jnp.int32), cut=jnp.asarray(cut, jnp.int32),
                   sequence=_sequence(split, width > 0), widths=tuple(widths.tolist()))


def _cuts(length: np.ndarray, width: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What widths blocks of `size` histories are cut to, and which of them each block, from ascending lengths [N]."""
    step = max(-(-width // _WIDTHS), _LEAST_WIDTH)
    longest = np.append(length[size - 1:-1:size], length[-1])  # of each block
    return np.unique(np.clip(-(-longest // step) * step, min(step, width), width), return_inverse=True)


def histories(sequence: jax.Array, stop: jax.Array, length: jax.Array, width: int) -> jax.Array:
    """int32 [B, L] from ranges of `sequence` that end before `stop` [B]."""
    back = jnp.arange(width, 0, -1)
    shown = back <= length[:, None]
    return jnp.where(shown, sequence[jnp.where(shown, stop[:, None] - back, 0)], 0)
