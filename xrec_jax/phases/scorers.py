"""What the table of `judge` has rows of: the language model or a fitted predictor, and their figures.

A scorer is text in the config: 'llm(EXPLAIN)', 'predictor(FIT)' or 'predictor(FIT, EXPLAIN)', by the names of the
phases that made it and wrote what it reads; or 'direct(KEY)', the frozen model asked by the template config.prompt.KEY,
and 'direct(KEY, TUNE)', the model that `tune(TUNE)` tuned to answer it.
`figures` are {split: {metric: [a value of each seed]}}; which metrics there are, `judge.task` says, as `fit.task` does:

  'click'    AUC, LogLoss, MAE, RMSE of the likes (ExpCTR table 1)
  'rating'   RMSE, MAE of the ratings' place on their scale, and in stars (RecPIE table 1)
  'ranking'  Recall, NDCG, … at k over all items
"""

import re

import jax
import ml_collections
import numpy as np
import pyarrow as pa

from xrec_jax.errors import UserError
from xrec_jax.metrics import ctr, ranking as ranking_metrics, rating
from xrec_jax.phases import direct, fit_predictor, fit_ranking
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import ranking, recpie, scoring
from xrec_jax.recommenders.rows import Rows
from xrec_jax.runs.explanations import newest, read_explanations
from xrec_jax.runs.state import Fitted, RunState

SPLITS = ('valid', 'test')
SUMMARY = {'click': 'ctr', 'rating': 'rating', 'ranking': 'ranking'}  # `judge.task` → key of summary.json
Figures = dict[str, dict[str, list[float]]]  # by split and metric, a value of each seed


def explanations(state: RunState, name: str) -> dict[str, pa.Table]:
    """What the newest phase `explain(name)` wrote, by split, in the order of the examples."""
    path = newest(state.explanations, name)
    order = [('example', 'ascending'), ('kind', 'descending')]  # the positive one first
    return {split: read_explanations(path, split).sort_by(order) for split in SPLITS}


def joined_texts(task: Task, table: pa.Table) -> list[str]:
    """The texts of `explanations` by example, several of one with a line break between."""
    texts, count = table['text'].to_pylist(), len(task.kinds)
    return ['\n'.join(texts[start:start + count]) for start in range(0, len(texts), count)]


def form_shares(task: Task, table: pa.Table) -> dict[str, float]:
    """By kind: the share of the texts of `explanations` that have the form which was asked for."""
    kind, formed = table['kind'].to_numpy(), table['in_form'].to_numpy(zero_copy_only=False).astype(bool)
    return {name: float(formed[kind == name].mean()) for name in task.kinds}


def parse(text: str) -> tuple[str, str, str | None]:
    """As above → 'llm', 'direct' or 'predictor'; what stands first; name of `explain`, or of `tune` for 'direct'."""
    parts = re.fullmatch(r'(llm|direct|predictor)\((\w+)(?:, *(\w+))?\)', text)
    if not parts or (parts[1] == 'llm' and parts[3]):
        raise UserError(f'judge.scorers: "{text}" should be llm(EXPLAIN), direct(KEY), direct(KEY, TUNE), predictor(FIT) '
                        'or predictor(FIT, EXPLAIN).')
    kind, name, second = parts.groups()
    return kind, name, name if kind == 'llm' else second


def phases_of(text: str) -> list[str]:
    """The entries of the schedule that a scorer needs."""
    kind, name, second = parse(text)
    verb = 'tune' if kind == 'direct' else 'explain'
    return [f'fit({name})'] * (kind == 'predictor') + [f'{verb}({second})'] * bool(second)


def in_order(task: Task, scorers: ml_collections.ConfigDict) -> list[str]:
    """The names of the scorers in the order in which the schedule comes to have them (a config sorts its keys)."""
    schedule = list(task.config.schedule)
    return sorted(scorers, key=lambda name: max(map(schedule.index, phases_of(scorers[name])), default=-1))


def check(task: Task, text: str, judged: str) -> None:
    """UserError where the scorer `text` is not of `judge.task` `judged`."""
    kind, name, _ = parse(text)
    if kind == 'llm' and judged != 'click':
        raise UserError(f'judge.scorers: "{text}" scores clicks, and judge.task is "{judged}".')
    if kind == 'direct':
        direct.check(task, name)
    fitted = task.config.get(name, {}).get('task', task.config.get('fit', {}).get('task'))
    if kind == 'predictor' and fitted != judged:
        raise UserError(f'judge.scorers: "{text}" is fitted for fit.task="{fitted}", and judge.task is "{judged}".')


def predictions(task: Task, state: RunState, text: str) -> dict[str, np.ndarray]:
    """Scores [S, N] by split, each in (0, 1); S > 1 for a predictor of several seeds."""
    kind, name, written = parse(text)
    if kind == 'llm':
        tables = explanations(state, written)
        return {split: table['llm_score'].to_numpy()[None] for split, table in tables.items()}
    if kind == 'direct':
        return {split: direct.scores(task, state, name, split, tuned=written or '')[None] for split in SPLITS}
    predictor = state.predictors[name]
    predict = scoring.predict if predictor.seeds == 1 else scoring.predict_of_seeds

    def rows(split: str) -> Rows:
        text = fit_predictor.written_vectors(task, state, written, split) if written else None
        return fit_predictor.make_rows(task, split, predictor.model, text)

    return {split: np.atleast_2d(predict(predictor.model, predictor.params, task.fields, rows(split)))
            for split in SPLITS}


def attention(task: Task, state: RunState, text: str) -> dict[str, dict[str, np.ndarray]]:
    """By split: the attention [N] that each input gets in the rating network of a scorer (RecPIE eq. 11)."""
    _, name, written = parse(text)
    predictor, found = state.predictors[name], {}
    for split in SPLITS:
        vectors = fit_predictor.written_vectors(task, state, written, split) if written else None
        rows = fit_predictor.make_rows(task, split, predictor.model, vectors)
        weights = scoring.attention(predictor.model, predictor.params, task.fields, rows)
        found[split] = {name: np.asarray(values) for name, values in recpie.attention_received(weights).items()}
    return found


def click_figures(task: Task, scores: dict[str, np.ndarray]) -> Figures:
    """`ctr.ctr_metrics` of scores [S, N] by split."""
    return {split: _by_metric([ctr.ctr_metrics(task.examples[split].label, row) for row in rows])
            for split, rows in scores.items()}


def rating_figures(task: Task, scores: dict[str, np.ndarray]) -> Figures:
    """`rating.rating_metrics` of scores [S, N] by split, places on the scale of the ratings."""
    scale = task.dataset.rating_scale
    return {split: _by_metric([rating.rating_metrics(task.examples[split].rating, row, scale) for row in rows])
            for split, rows in scores.items()}


def ranking_figures(task: Task, predictor: Fitted, ks: tuple[int, ...]) -> tuple[Figures, dict[str, dict[str, int]]]:
    """`ranking.evaluate` of each seed by split, and `ranking.counts` by split."""
    data, queries = fit_ranking.make_data(task, predictor.model, predictor.settings)
    each = [predictor.params] if predictor.seeds == 1 else [
        jax.tree.map(lambda leaf: leaf[seed], predictor.params) for seed in range(predictor.seeds)]
    figures = {split: _by_metric([ranking.evaluate(predictor.model, params, data, queries[split], ks)
                                  for params in each]) for split in SPLITS}
    return figures, {split: ranking.counts(data, queries[split]) for split in SPLITS}


def unseen(task: Task, split: str) -> dict[str, int]:
    """How many examples of a split have a user or an item that is in no training example."""
    train, rows = task.examples['train'], task.examples[split]
    return {'users': int((~np.isin(rows.user, train.user)).sum()),
            'items': int((~np.isin(rows.item, train.item)).sum())}


def labels(judged: str, ks: tuple[int, ...] = ()) -> dict[str, str]:
    """Metric → column title, of all figures for `judge.task` `judged`."""
    if judged == 'ranking':
        return {f'{name}@{k}': f'{title}@{k}' for k in ks for name, title in ranking_metrics.LABELS.items()}
    return {'click': ctr.LABELS, 'rating': rating.LABELS}[judged]


def _by_metric(each: list[dict[str, float]]) -> dict[str, list[float]]:
    return {metric: [figures[metric] for figures in each] for metric in each[0]}
