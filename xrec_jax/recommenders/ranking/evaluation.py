"""The best items of each user by one blocked matrix product, and how well they find what is held out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
import numpy as np

from xrec_jax.metrics import ranking as metrics
from xrec_jax.parallel import distributed
from xrec_jax.parallel.sharding import RULES
from xrec_jax.recommenders import tables
from xrec_jax.recommenders.ranking.data import Data, Queries, histories

_UNSEEN = np.finfo(np.float32).min  # the score of an item unseen in training; what may not be shown has -inf


@functools.partial(jax.jit, static_argnames=('model', 'k'))
def recommend(model: nn.Module, params: Any, data: Data, queries: Queries, k: int) -> jax.Array:
    """int32 [n * b, k]: the best items of each of `queries` (its filling too), best first, -1 where there is none."""
    return best_items(model, params, data, queries, k)


def best_items(model: nn.Module, params: Any, data: Data, queries: Queries, k: int) -> jax.Array:
    """`recommend`, to be called within a `jit`."""
    num_items, score = data.counts.shape[0], _scorer(model, params, data, queries)

    def block(query):
        scores = jnp.where(data.counts > 0, score(query), _UNSEEN)
        scores = scores.at[query.seen_row, query.seen_item].set(-jnp.inf, mode='drop')
        best, top = top_k(scores, min(k, num_items), data.mesh)
        return jnp.pad(jnp.where(best > -jnp.inf, top, -1), ((0, 0), (0, max(0, k - num_items))), constant_values=-1)

    return jax.lax.map(block, dataclasses.replace(queries, sequence=None)).reshape(-1, k)


@functools.partial(jax.jit, static_argnames=('model',))
def scores(model: nn.Module, params: Any, data: Data, queries: Queries) -> jax.Array:
    """float32 [n * b, I]: how each of `queries` (its filling too) scores every item, those it has met too."""
    score = _scorer(model, params, data, queries)
    return jax.lax.map(score, dataclasses.replace(queries, sequence=None)).reshape(-1, data.counts.shape[0])


def _scorer(model: nn.Module, params: Any, data: Data, queries: Queries) -> Callable[[Queries], jax.Array]:
    """A block of `queries` → the scores [b, I] of all items: by popularity for users whom the model cannot tell apart."""
    variables = {'params': params, **data.constants}
    items = model.apply(variables, method='item_vectors')  # [I, E]
    bias = model.apply(variables, method='item_bias') if hasattr(model, 'item_bias') else jnp.zeros(items.shape[0])
    popularity = data.counts.astype(jnp.float32)

    def vectors(width: int, query: Queries) -> jax.Array:
        history = histories(queries.sequence, query.stop, query.length, width)
        return model.apply(variables, query.user, history, method='user_vectors')

    def block(query: Queries) -> jax.Array:
        of_width = [functools.partial(vectors, width) for width in queries.widths]
        own = tables.scores(jax.lax.switch(query.cut, of_width, query), items) + bias
        return jnp.where(_cold(data, query)[:, None], popularity, own)

    return block


def top_k(scores: jax.Array, k: int, mesh: Mesh | None = None) -> tuple[jax.Array, jax.Array]:
    """The k highest of `scores` [b, I] and their places, [b, k] each; of equal ones the first.

    On a mesh over which items are sharded, each device takes the top k of its own part, and only those meet: left to
    itself the compiler would gather all scores on every device first.
    """
    axis = RULES['items']
    shards = mesh.shape[axis] if mesh is not None else 1
    if shards == 1:
        return jax.lax.top_k(scores, k)
    width = -(-scores.shape[1] // shards)
    scores = jnp.pad(scores, ((0, 0), (0, shards * width - scores.shape[1])), constant_values=-jnp.inf)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P(None, axis), out_specs=P(None, axis))
    def of_part(part: jax.Array) -> tuple[jax.Array, jax.Array]:
        best, place = jax.lax.top_k(part, min(k, width))
        return best, place + width * jax.lax.axis_index(axis)

    best, place = of_part(scores)
    best, order = jax.lax.top_k(best, k)
    return best, jnp.take_along_axis(place, order, axis=1)


def _cold(data: Data, queries: Queries) -> jax.Array:
    """bool of the shape of `queries.user`: which have no history that the model could go by."""
    return queries.length == 0 if queries.widths[-1] else ~data.active[queries.user]


def evaluate(model: nn.Module, params: Any, data: Data, queries: Queries, ks: tuple[int, ...] = (5, 10, 20)
             ) -> dict[str, float]:
    """The figures of `metrics.ranking.ranking_metrics` over all items; any of `ks` may be above their number."""
    real = queries.real
    top = distributed.whole(recommend(model, params, data, queries, max(ks)))[real]
    held_out = np.asarray(queries.held_out).reshape(len(real), -1)[real]
    return metrics.ranking_metrics(top, held_out, data.counts.shape[0], ks)


def counts(data: Data, queries: Queries) -> dict[str, int]:
    """How many 'users' are ranked for, how many of them 'without_history', items 'unseen' in training, and held-out
    items among these, 'unseen_held_out' (never found but by a list that is as long as the catalogue)."""
    held_out = np.asarray(queries.held_out).reshape(-1)
    unseen = np.asarray(data.counts) == 0
    return {'users': int(queries.real.sum()),
            'without_history': int((np.asarray(_cold(data, queries)).reshape(-1) & queries.real).sum()),
            'unseen': int(unseen.sum()), 'unseen_held_out': int(unseen[held_out[held_out >= 0]].sum())}
