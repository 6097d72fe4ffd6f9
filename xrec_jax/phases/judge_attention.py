"""What RecPIE's rating network attends to, example by example (its appendix D.5, eq. 11).

  `attention.parquet`  of every validation and test example: the rating, the predicted place on the scale, and the mean
                       attention that each input gets
  the summary          means for high and low ratings, and whether positive and negative reasons differ in what they
                       get: a sign-flip test of the differences by user, since a user's examples are not independent

High is a like, low is none: `data.threshold` and `data.comparison`.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xrec_jax.data import protocols
from xrec_jax.errors import UserError
from xrec_jax.metrics import permutation
from xrec_jax.phases import predictions, scorers
from xrec_jax.phases.task import Task
from xrec_jax.recommenders.recpie import TOKENS
from xrec_jax.runs import progress
from xrec_jax.runs.files import write_whole
from xrec_jax.runs.state import RunState


def check(task: Task, scorer: str) -> None:
    """UserError for a scorer without attention to look at, or of several seeds."""
    kind, name, written = scorers.parse(scorer)
    settings = {**task.config.fit.to_dict(), **task.config.get(name, {})}
    if kind != 'predictor' or not written or settings['model']['name'] != 'recpie' or settings['seeds'] != 1:
        raise UserError(f'judge.attention: "{scorer}" should be predictor(FIT, EXPLAIN) of fit.model.name="recpie" with '
                        'fit.seeds=1.')


def run(task: Task, state: RunState, scorer: str, scores: dict[str, np.ndarray]) -> dict[str, dict]:
    """Writes `attention.parquet`; the summary by split. `scores` [1, N] by split are the scorer's."""
    received = scorers.attention(task, state, scorer)
    tables = [_table(task, split, received[split], scores[split][0]) for split in scorers.SPLITS]
    write_whole(task.workdir / 'attention.parquet', lambda path: pq.write_table(pa.concat_tables(tables), path))
    summary = {split: summarise(task.examples[split], received[split]) for split in scorers.SPLITS}
    for name, figures in summary['test'].items():
        progress.say(f'test, {name} ratings ({figures["examples"]:,}): attention {figures["pos"]:.4f} on positive and '
                     f'{figures["neg"]:.4f} on negative reasons, p = {figures["p"]:.2g}')
    return summary


def summarise(examples: protocols.Examples, received: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """By 'high' and 'low' ratings: the mean attention that each input gets, the difference between positive and
    negative reasons, and the p of a sign-flip test of it over users."""
    summary = {}
    for name, which in (('high', examples.label > 0.5), ('low', examples.label <= 0.5)):
        difference = (received['pos'] - received['neg'])[which]
        _, user = np.unique(examples.user[which], return_inverse=True)
        by_user = np.bincount(user, difference) / np.maximum(np.bincount(user), 1)
        summary[name] = {
            'examples': int(which.sum()), 'users': len(by_user),
            **{token: float(received[token][which].mean()) if which.any() else float('nan') for token in TOKENS},
            'difference': float(difference.mean()) if which.any() else float('nan'),
            'p': permutation.sign_flip(by_user) if len(by_user) > 1 else float('nan')}
    return summary


def _table(task: Task, split: str, received: dict[str, np.ndarray], scores: np.ndarray) -> pa.Table:
    return pa.table({**predictions.example_columns(task, split), 'prediction': scores.astype(np.float32),
                     **{token: received[token].astype(np.float32) for token in TOKENS}})
