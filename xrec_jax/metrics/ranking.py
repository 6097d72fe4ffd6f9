"""How well ranked items find the held-out ones: Recall, Hit, NDCG, MRR and MAP at k, and coverage.

With h_n = 1 where the n-th recommendation is held out for the user, else 0, and R items held out:

  Recall@k = sum_{n<=k} h_n / R                    Hit@k = 1 where any h_n is, n <= k
  MRR@k    = 1 / n of the first h_n = 1, n <= k, or 0
  NDCG@k   = sum_{n<=k} h_n / log2(n + 1)  /  sum_{n<=min(R, k)} 1 / log2(n + 1)
  MAP@k    = sum_{n<=k} h_n P_n / min(R, k),       P_n = sum_{m<=n} h_m / n
  coverage = items that anyone is recommended within k / I

All as RecBole 1.2.1, where MAP divides by min(R, k) and not by R, and NDCG's ideal list has min(R, k)
items. One difference: RecBole's I counts its padding item, so that its coverage is I / (I + 1) of ours.
Users for whom nothing is held out do not count. With one held-out item a user, Recall = Hit and MRR = MAP.

The functions of a user are `jnp` and serve within `jit`; means over users are float64.
`B` users, `k` recommendations, `R` held-out items (the longest list), `I` items.
"""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

LABELS = {'recall': 'Recall', 'ndcg': 'NDCG', 'hit': 'Hit', 'mrr': 'MRR', 'map': 'MAP', 'coverage': 'Coverage'}


def hits(top: jax.Array, held_out: jax.Array) -> jax.Array:
    """bool [B, k]: which of `top` [B, k], best first, is one of `held_out` [B, R]; -1 stands for no item in both."""
    chex.assert_rank([top, held_out], 2)
    return jnp.any((top[:, :, None] == held_out[:, None, :]) & (held_out >= 0)[:, None, :], axis=-1)


def recall(hit: jax.Array, held_out: jax.Array) -> jax.Array:
    """Share [B] of the held-out items that are found; `hit` bool [B, k], `held_out` [B] their number."""
    return hit.sum(-1) / jnp.maximum(held_out, 1)


def hit_rate(hit: jax.Array, held_out: jax.Array) -> jax.Array:
    """1 [B] where any held-out item is found, else 0."""
    return hit.any(-1).astype(jnp.float32)


def ndcg(hit: jax.Array, held_out: jax.Array) -> jax.Array:
    """Discounted gain [B] of the hits over that of the best list there is."""
    gain = 1 / jnp.log2(_ranks(hit) + 1)
    ideal = jnp.where(_ranks(hit) <= jnp.maximum(held_out, 1)[:, None], gain, 0).sum(-1)
    return jnp.where(hit, gain, 0).sum(-1) / ideal


def reciprocal_rank(hit: jax.Array, held_out: jax.Array) -> jax.Array:
    """1 / rank [B] of the first hit, 0 without one."""
    return jnp.max(jnp.where(hit, 1 / _ranks(hit), 0), axis=-1)


def average_precision(hit: jax.Array, held_out: jax.Array) -> jax.Array:
    """Precision at each hit [B], summed, over the most hits that k places could have."""
    precision = jnp.cumsum(hit, axis=-1) / _ranks(hit)
    return jnp.where(hit, precision, 0).sum(-1) / jnp.clip(held_out, 1, hit.shape[-1])


def _ranks(hit: jax.Array) -> jax.Array:
    return jnp.arange(1, hit.shape[-1] + 1, dtype=jnp.float32)


# (hit bool [B, k], number of held-out items [B]) -> [B].
METRICS = {'recall': recall, 'ndcg': ndcg, 'hit': hit_rate, 'mrr': reciprocal_rank, 'map': average_precision}


def coverage(top: np.ndarray, num_items: int) -> float:
    """Share of all items that stand anywhere in `top` [B, k]; -1 stands for no item."""
    top = np.asarray(top)
    return float(np.count_nonzero(np.bincount(top[top >= 0], minlength=num_items)) / num_items)


def ranking_metrics(top: np.ndarray, held_out: np.ndarray, num_items: int, ks: Sequence[int] = (5, 10, 20)
                    ) -> dict[str, float]:
    """'recall@5', … 'coverage@20': means over the users of `top` [B, k] for whom something is held out.

    Args:
      top: int [B, k], no item twice in a row, best first; -1 where nothing is recommended.
      held_out: int [B, R], no item twice in a row; -1 pads.

    Raises:
      ValueError: nothing is held out for anyone, or one of `ks` is more than k.
    """
    top, held_out = np.asarray(top), np.asarray(held_out)
    if max(ks) > top.shape[1] or min(ks) < 1:
        raise ValueError(f'ks={tuple(ks)} of lists with {top.shape[1]} recommendations')
    number = (held_out >= 0).sum(-1)
    if not number.any():
        raise ValueError('nothing is held out for any user')
    top, held_out, number = top[number > 0], held_out[number > 0], number[number > 0]
    values = _of_users(top, held_out, number, tuple(ks))
    figures = {f'{name}@{k}': float(np.mean(np.asarray(values[name, k]), dtype=np.float64))
               for name in METRICS for k in ks}
    return figures | {f'coverage@{k}': coverage(top[:, :k], num_items) for k in ks}


@functools.partial(jax.jit, static_argnames=('ks',))
def _of_users(top: jax.Array, held_out: jax.Array, number: jax.Array, ks: tuple[int, ...]
              ) -> dict[tuple[str, int], jax.Array]:
    hit = hits(top, held_out)
    return {(name, k): metric(hit[:, :k], number) for name, metric in METRICS.items() for k in ks}
