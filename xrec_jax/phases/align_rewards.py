"""What `align` rewards: from the texts of a rollout batch to one raw number each, and the columns to keep.

  lc      ExpCTR eq. 9: a frozen language model reads the click off the explanation
  ic      ExpCTR eq. 13: the explanation helps the predictor
  rating  RecPIE eq. 1, of a pair of explanations
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.phases import contrast, fit_predictor, writing
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import scoring
from xrec_jax.rl import rewards
from xrec_jax.runs.state import RunState


def lc_rewards(task: Task, state: RunState, settings, rows, texts) -> tuple[np.ndarray, dict]:
    """R_LC (eq. 9) [B], with the columns to keep."""
    scores = writing.llm_scores(task, task.examples['train'].item[rows], texts)
    raw = rewards.lc_reward(task.examples['train'].label[rows], scores)
    vector = writing.encode(task, texts) if settings.encode else None
    return np.asarray(raw), {'llm_score': scores, 'vector': vector}


def ic_rewards(task: Task, state: RunState, settings, rows, texts) -> tuple[np.ndarray, dict]:
    """R_IC (eq. 13) [B], by the predictor `settings.predictor`, with the columns to keep."""
    predictor = state.predictors[settings.predictor]
    vector = writing.encode(task, texts)
    examples = task.examples['train']
    ask = functools.partial(scoring.predict, predictor.model, predictor.params, task.fields)
    make_rows = functools.partial(fit_predictor.make_rows, task, 'train', predictor.model, index=rows)
    scores, without = ask(make_rows(vector[:, None])), ask(make_rows(None))
    raw = rewards.ic_reward(examples.label[rows], scores, without)
    return np.asarray(raw), {'llm_score': [None] * len(rows), 'vector': vector}


def pair_rewards(task: Task, state: RunState, settings, rows, texts) -> tuple[np.ndarray, dict]:
    """RecPIE eq. 1 [K · B] for K texts on each of B examples (kind after kind), with the columns to keep.

    'baseline' among them, where `settings.baseline` says so, is the reward that the network has without any text: a
    control variate, not in the paper. It depends on nothing that was written, so the expected policy gradient stays
    the same; but that a rating is hard to predict is no noise to the writer any more.
    """
    predictor, count = state.predictors[settings.predictor], len(rows)
    vector = writing.encode(task, texts)
    written = vector.reshape(len(task.kinds), count, -1).swapaxes(0, 1)  # [B, K, d]
    make_rows = functools.partial(fit_predictor.make_rows, task, 'train', predictor.model, index=rows,
                                  scale=fit_predictor.scale_of(task, predictor.settings))
    label = make_rows(None).label

    def reward(text: np.ndarray | None) -> jax.Array:
        scores = scoring.predict(predictor.model, predictor.params, task.fields, make_rows(text))
        return rewards.rating_reward(label, scores)

    both = reward(written)
    left_out = jnp.stack([reward(written * (np.arange(len(task.kinds)) != k)[:, None])
                          for k in range(len(task.kinds))]) if settings.credit != 'shared' else (
        jnp.zeros((len(task.kinds), count)))
    raw = np.asarray(rewards.pair_credit(both, left_out, settings.credit)).reshape(-1)
    items = task.examples['train'].item[rows]
    columns = {'llm_score': [None] * len(texts), 'vector': vector,
               'in_form': np.concatenate([contrast.in_form(task, kind, items, of_kind) for kind, of_kind in
                                          zip(task.kinds, np.reshape(np.array(texts, object), (len(task.kinds), -1)))])}
    if settings.baseline == 'without_text' and settings.credit == 'shared':
        columns['baseline'] = np.tile(np.asarray(reward(None)), len(task.kinds))
    return raw, columns


REWARDS: dict[str, Callable] = {'lc': lc_rewards, 'ic': ic_rewards, 'rating': pair_rewards}
BY_PREDICTOR = ('ic', 'rating')  # rewards that a fitted predictor gives
BASELINES = ('none', 'without_text')  # of 'rating'
