"""What a run's predictors would give a user, and how they score a pair.

  of rankings            the list that the run measures: as of the user's test item, without what they met before it
  of clicks and ratings  all items that the user has not met, by the score of a meeting now: after all they have met

A predictor that reads explanations scores items without any (ExpCTR eq. 13's ablation), as there are none of most; in
`scores` it reads those that are given.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np

from xrec_jax.data import tables
from xrec_jax.data.protocols import Examples, Histories
from xrec_jax.errors import UserError, nearest
from xrec_jax.parallel import distributed
from xrec_jax.phases import asked, fit_predictor, fit_ranking
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import ranking, scoring
from xrec_jax.runs.state import Fitted, RunState

PAIRS = 1 << 17  # scored at once


def predictor_of(state: RunState, name: str = '') -> str:
    """`name`, or the predictor that was fitted last, one without explanations before others; UserError for none."""
    if not state.predictors:
        raise UserError('The run has fitted no predictor (yet): there is nothing that recommends.')
    if name:
        if name not in state.predictors:
            raise UserError(f'The run has fitted no predictor "{name}".{nearest(name, state.predictors)}')
        return name
    alone = [name for name, fitted in state.predictors.items() if not fitted.settings.get('text', False)]
    return (alone or list(state.predictors))[-1]


def best(task: Task, fitted: Fitted, users: np.ndarray, k: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The k best items of `users`, rows of the table, part by part: users [n], items [n, k] with -1 behind the end of a
    list, scores float32 [n, k].

    Of rankings, users without a test item are left out.
    """
    yield from (_best_ranked if fitted.settings.task == 'ranking' else _best_scored)(task, fitted, users, k)


def _best_ranked(task, fitted, users, k):
    data, queries = _ranking_data(task, fitted)
    for block in _blocks(queries, users):
        part = _block(queries, block)
        user = np.asarray(part.user).reshape(-1)
        wanted = np.isin(user, users) & part.real
        params = _first_seed(fitted)
        top = distributed.whole(ranking.recommend(fitted.model, params, data, part, k))
        scores = distributed.whole(ranking.scores(fitted.model, params, data, part))
        yield user[wanted], top[wanted], np.take_along_axis(scores, np.maximum(top, 0), axis=1)[wanted]


def _best_scored(task, fitted, users, k):
    num_items, met = task.dataset.items.num_rows, _met(task)
    size = max(1, min(PAIRS // num_items, len(users)))
    for start in range(0, len(users), size):
        part = users[start:start + size]
        filled = np.resize(part, size)  # one static shape
        scores = _predicted(task, fitted, _now(task, filled)).reshape(size, num_items)[:len(part)]
        for row, user in enumerate(part):
            scores[row, met[0][met[1][user]:met[1][user + 1]]] = -np.inf
        order = np.argsort(-scores, axis=1, kind='stable')[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        yield part, np.where(scores > -np.inf, order, -1), scores


def _now(task: Task, users: np.ndarray) -> Examples:
    """Every user with every item, [B · I], after all that the user has met."""
    num_items, line = task.dataset.items.num_rows, asked.line_of(task)
    stop, width = line.start[1:][users], task.examples['train'].past.width
    length = np.minimum(stop - line.start[:-1][users], width)
    each = lambda values: np.repeat(values.astype(np.int32), num_items)
    latest = line.row[np.maximum(stop - 1, 0)] if len(line.row) else np.zeros(len(users))
    return Examples(
        user=each(users), item=np.tile(np.arange(num_items, dtype=np.int32), len(users)),
        rating=np.full(len(users) * num_items, np.nan, np.float32), label=np.zeros(len(users) * num_items, np.float32),
        interaction=each(latest), past=Histories(line.item, line.liked, each(stop), each(length), width))


@functools.lru_cache(maxsize=1)
def _met(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Rows of items by user, [N], and where each user's begin, [U + 1]: everything in the data."""
    user, item = (tables.codes(task.dataset.interactions[name]) for name in ('user_id', 'item_id'))
    order = np.argsort(user, kind='stable')
    return item[order], np.searchsorted(user[order], np.arange(task.dataset.users.num_rows + 1))


def scores(task: Task, fitted: Fitted, pairs: Examples, text: np.ndarray | None = None) -> np.ndarray:
    """How a predictor scores pairs, float32 [N]: in (0, 1) of clicks and ratings, the mean over its seeds.

    text: [N, K, d], the explanations that it reads. Of rankings, users without a test item have NaN.
    """
    if fitted.settings.task != 'ranking':
        return _predicted(task, fitted, pairs, text)
    data, queries = _ranking_data(task, fitted)
    found = np.full(len(pairs.user), np.nan, np.float32)
    for block in _blocks(queries, pairs.user):
        part = _block(queries, block)
        of_block = distributed.whole(ranking.scores(fitted.model, _first_seed(fitted), data, part))
        row = dict(zip(np.asarray(part.user).reshape(-1)[part.real].tolist(), np.flatnonzero(part.real)))
        for n, (user, item) in enumerate(zip(pairs.user.tolist(), pairs.item.tolist())):
            if user in row:
                found[n] = of_block[row[user], item]
    return found


def _predicted(task: Task, fitted: Fitted, pairs: Examples, text: np.ndarray | None = None) -> np.ndarray:
    rows = fit_predictor.rows_of(task, pairs, fitted.model, text)
    if fitted.seeds == 1:
        return np.array(scoring.predict(fitted.model, fitted.params, task.fields, rows))
    return np.array(scoring.predict_of_seeds(fitted.model, fitted.params, task.fields, rows)).mean(axis=0)


@functools.lru_cache(maxsize=4)
def _ranking_data(task: Task, fitted: Fitted) -> tuple[ranking.Data, ranking.Queries]:
    data, queries = fit_ranking.make_data(task, fitted.model, fitted.settings)
    return data, queries['test']


def _blocks(queries: ranking.Queries, users: np.ndarray) -> np.ndarray:
    """The blocks of `queries` that ask for any of `users`."""
    return np.flatnonzero(np.isin(np.asarray(queries.user), users).any(axis=1))


def _block(queries: ranking.Queries, block: int) -> ranking.Queries:
    """One block of `queries`."""
    part = {field.name: getattr(queries, field.name)[block:block + 1] for field in dataclasses.fields(queries)
            if field.name not in ('sequence', 'widths')}
    return dataclasses.replace(queries, **part)


def _first_seed(fitted: Fitted):
    return fitted.params if fitted.seeds == 1 else jax.tree.map(lambda leaf: leaf[0], fitted.params)
