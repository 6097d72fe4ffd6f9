"""How a dataset becomes examples: targets, histories, labels and splits.

  `examples`  what comes out: `Examples` by split, their histories as ranges of one shared sequence
  `timeline`  what all protocols go by: each user's interactions in order of time
  `drawn`     `random_target` (ExpCTR): a few targets a user, drawn at random
  `by_time`   `leave_one_out` (LLMXRec) and `user_temporal` (RecPIE): every interaction, split by time

A protocol is a function of the tables, its options and a seed, all on whole arrays: the same on every
machine and in every process. A new one is a function, and a line in `PROTOCOLS`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from xrec_jax.data import tables
from xrec_jax.data.protocols.by_time import leave_one_out, user_temporal
from xrec_jax.data.protocols.drawn import random_target
from xrec_jax.data.protocols.examples import SPLITS, Examples, Histories, positive_rate
from xrec_jax.errors import UserError, nearest

__all__ = ['PROTOCOLS', 'SPLITS', 'Examples', 'Histories', 'leave_one_out', 'make', 'options', 'positive_rate',
           'random_target', 'user_temporal']

PROTOCOLS: Mapping[str, Callable[..., dict[str, Examples]]] = {
    'random_target': random_target,
    'leave_one_out': leave_one_out,
    'user_temporal': user_temporal,
}


def options(name: str) -> dict[str, Any]:
    """The options of protocol `name` with their defaults, without the seed; UserError names the nearest one."""
    if name not in PROTOCOLS:
        raise UserError(f'unknown protocol "{name}".{nearest(name, PROTOCOLS)}')
    parameters = inspect.signature(PROTOCOLS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != 'seed'}


def make(name: str, dataset: tables.Dataset, *, seed: int, **given: Any) -> dict[str, Examples]:
    """The examples of protocol `name`; UserError for an option that it does not have."""
    known = options(name)
    for key in given:
        if key not in known:
            raise UserError(f'protocol "{name}" has no option "{key}".{nearest(key, known)}')
    return PROTOCOLS[name](dataset, **given, seed=seed)
