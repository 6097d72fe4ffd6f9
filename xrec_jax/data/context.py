"""What is known of the moment for which a rating is predicted (RecPIE section 2: contextual features).

  time of week     sine and cosine of the hour of the week, and of twice and seven times that angle: week, half, day
  recency          log(1 + days since the user's latest interaction)
  history length   log(1 + interactions before)

All of it is known when a prediction is served. Where times are not known their columns are 0, and `timed` says so.
"""

import numpy as np

from xrec_jax.data import tables
from xrec_jax.data.protocols import Examples

WEEK = 7 * 24 * 3600
DAY = 24 * 3600
NAMES = ('week sine', 'week cosine', 'half-week sine', 'half-week cosine', 'day sine', 'day cosine', 'timed',
         'recency', 'recency known', 'history length')


def context_features(dataset: tables.Dataset, examples: Examples) -> np.ndarray:
    """float32 [N, len(NAMES)], one row an example."""
    times = tables.times(dataset)
    now = times[examples.interaction]
    timed = now != tables.LONG_AGO
    angle = 2 * np.pi * (np.where(timed, now, 0) % WEEK) / WEEK
    waves = [wave(k * angle) * timed for k in (1, 2, 7) for wave in (np.sin, np.cos)]
    before = _latest_before(dataset, times, examples)
    known = timed & (before != tables.LONG_AGO)
    days = np.where(known, np.maximum(now - before, 0), 0) / DAY
    columns = [*waves, timed, np.log1p(days), known, np.log1p(examples.past.length)]
    return np.stack(columns, axis=1).astype(np.float32)


def _latest_before(dataset: tables.Dataset, times: np.ndarray, examples: Examples) -> np.ndarray:
    """int64 [N]: the time of the interaction of the same user that comes before the target's; LONG_AGO without one."""
    users = tables.codes(dataset.interactions['user_id'])
    order = np.lexsort((np.arange(len(times)), times, users))  # by user and time, ties by file order
    previous = np.full(len(times), tables.LONG_AGO)
    same = users[order[1:]] == users[order[:-1]]
    previous[order[1:][same]] = times[order[:-1][same]]
    return previous[examples.interaction]
