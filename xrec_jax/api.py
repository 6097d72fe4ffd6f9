"""A run in Python: what it recommends, explains and scores, and its tables as data frames.

    from xrec_jax import api
    run = api.load('runs/quickstart')
    run.recommend('u20', k=5)                 # by the run's own predictor, what the user has not met
    run.explain('u20', ['i3', 'i4'])          # as stored; what is missing is written by the trained model
    run.score('u20', ['i3', 'i4'])            # by each predictor of the run

Ids are those of the source data. Nothing is read before it is needed: the stored explanations need neither data nor
model, recommendations and scores the data and the predictors, and only writing the language model. Nothing of the run
is changed but its `store/`.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence

import ml_collections
import numpy as np
import pandas as pd
import pyarrow as pa

from xrec_jax.data import tables
from xrec_jax.errors import UserError, nearest
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import asked, recommending, restoring, scorers, task as tasks, writing
from xrec_jax.runs import files, lists, progress, store
from xrec_jax.runs.explanations import SCHEMA, newest, read_explanations
from xrec_jax.runs.metrics_writer import read_metrics
from xrec_jax.runs.state import RunState

KEEP_EVERY = 60.0  # seconds: how much writing a stop can cost
MOST_IDS = 20_000  # among which the nearest to a wrong one is looked for
Pair = tuple[str, str]  # ids of a user and an item


def load(workdir: str, data_dir: str = '') -> 'Run':
    """The run in a folder; `data_dir` is where its raw data lie now, if no longer where its config says.

    Raises UserError where the folder holds no run.
    """
    folder = files.as_path(workdir)
    config = restoring.read_config(folder)
    if data_dir and 'data' in config:
        config.data.data_dir = data_dir
    return Run(folder, config)


class Run:
    """A run; make it by `load`."""

    def __init__(self, workdir: files.Path, config: ml_collections.ConfigDict):
        self.workdir, self.config = workdir, config

    def __repr__(self) -> str:
        return f'api.load({str(self.workdir)!r})'

    # --------------------------------------------------------------------------------- what people ask

    def recommend(self, user: str, k: int = 10, predictor: str = '') -> pd.DataFrame:
        """The `k` items that a predictor puts first for a user: rank, item_id, title, score.

        predictor: the name of a fit of the schedule; by default the one that was fitted last, of those without
        explanations if there are any. `phases.recommending` says what is ranked.
        """
        if k < 1:
            raise UserError(f'k={k}: should be at least 1.')
        made = self.stored_lists(predictor)
        found = made.find(user, k) if made and made.k >= k else None
        if found is None:
            found = self._ranked([user], k, predictor).get(user)
        if found is None:
            raise UserError(f'There is no list for user "{user}": the run ranks for users who have a test item.')
        return pd.DataFrame([{'user_id': user, 'rank': rank, **one} for rank, one in enumerate(found, 1)],
                            columns=['user_id', 'rank', 'item_id', 'title', 'score'])

    def explain(self, users: str | Sequence[str], items: str | Sequence[str], write: bool = True,
                temperature: float | None = None) -> pd.DataFrame:
        """The explanations of pairs, each once: as stored, or else written by the trained model and stored.

        `users` and `items` are as many ids, or one that goes with each of the others.

        Args:
          write: False leaves pairs without a stored explanation out.
          temperature: of what is written; None: the run's own. 0: greedy.
        """
        pairs = list(dict.fromkeys(_pairs(users, items)))
        rows, missing = self.find(pairs)
        if missing and write:
            self.write(missing, temperature=temperature)
            rows, _ = self.find(pairs)
        return pd.DataFrame(rows, columns=[*store.COLUMNS, store.SCHEMA_ADDED.name])

    def score(self, users: str | Sequence[str], items: str | Sequence[str]) -> pd.DataFrame:
        """How each predictor of the run scores pairs, a column each, by the names of the run's table.

        Those that read explanations read the stored ones, and have NaN where there are none; 'llm_score' is what the
        frozen model makes of the stored explanation (ExpCTR eq. 8), the mean of several.
        """
        wanted = _pairs(users, items)
        pairs = list(dict.fromkeys(wanted))
        examples, _ = asked.examples(self.task, *self.rows(pairs))
        found, _ = self.find(pairs)
        columns = {'user_id': [user for user, _ in pairs], 'item_id': [item for _, item in pairs]}
        for name, (fit, written) in self._scorers().items():
            fitted = self.predictors.predictors[fit]
            if not fitted.settings.get('text', False):
                columns[name] = recommending.scores(self.task, fitted, examples)
            else:
                text, there = self._vectors(pairs, found, written)
                scores = recommending.scores(self.task, fitted, examples, text) if there.any() else there * np.nan
                columns[name] = np.where(there, scores, np.nan)
        of_pair: dict[Pair, list[float]] = {}
        for row in found:
            of_pair.setdefault((row['user_id'], row['item_id']), []).append(
                np.nan if row['llm_score'] is None else row['llm_score'])
        columns['llm_score'] = [np.mean(of_pair.get(pair, [np.nan])) for pair in pairs]
        row = {pair: n for n, pair in enumerate(pairs)}
        return pd.DataFrame(columns).iloc[[row[pair] for pair in wanted]].reset_index(drop=True)

    # ------------------------------------------------------------------------------------ data frames

    @property
    def explanations(self) -> pd.DataFrame:
        """All that is stored: the newest explanation of each pair."""
        return self.store.table.to_pandas() if self.store else pd.DataFrame(columns=[*store.COLUMNS, 'phase'])

    def written_by(self, name: str) -> pd.DataFrame:
        """All that the newest phase `explain(name)` wrote, with its vectors."""
        paths = {path.stem: path for path in sorted((self.workdir / 'explanations').glob('*-explain-*.parquet'))}
        names = [phase.split('-explain-')[1] for phase in paths]
        if name not in names:
            raise UserError(f'{self.workdir} has no explanations of a phase explain({name}).{nearest(name, names)}')
        return read_explanations(newest(paths, name)).to_pandas()

    @property
    def metrics(self) -> pd.DataFrame:
        """A row a step: phase, step, and what was measured."""
        return pd.DataFrame(read_metrics(self.workdir / 'metrics.jsonl'))

    @property
    def predictions(self) -> pd.DataFrame:
        """What every scorer of `judge` predicted, example by example."""
        return files.read_table(self.workdir / 'predictions.parquet').to_pandas()

    @property
    def table(self) -> pd.DataFrame:
        """The table of `judge`: a row for each scorer, split and metric."""
        figures = next((self.summary[key] for key in scorers.SUMMARY.values() if key in self.summary), {})
        return pd.DataFrame([{'scorer': name, 'split': split, **metrics} for name, by_split in figures.items()
                             for split, metrics in by_split.items()])

    @property
    def users(self) -> pd.DataFrame:
        return self.dataset.users.to_pandas()

    @property
    def items(self) -> pd.DataFrame:
        return self.dataset.items.to_pandas()

    @property
    def interactions(self) -> pd.DataFrame:
        return self.dataset.interactions.to_pandas()

    # ---------------------------------------------------------------- what `explain` and `serve` are made of

    @functools.cached_property
    def summary(self) -> dict:
        """`summary.json`."""
        return restoring.read_summary(self.workdir)

    @functools.cached_property
    def store(self) -> store.Store | None:
        """The stored explanations; None where the run has none yet."""
        return store.Store(self.workdir) if (self.workdir / store.PLACE).exists() else None

    def find(self, pairs: Sequence[Pair]) -> tuple[list[dict], list[Pair]]:
        """The stored explanations of pairs, in their order, and the pairs that have none."""
        rows, missing = [], []
        for pair in pairs:
            found = self.store.find(*pair) if self.store else []
            rows += found
            if not found:
                missing.append(pair)
        return rows, missing

    def unknown(self, pairs: Sequence[Pair]) -> dict[Pair, str]:
        """Which pairs have an id that the data do not have, and what is wrong with it."""
        wrong: dict[Pair, str] = {}
        for at, (what, table) in enumerate((('user', self.dataset.users), ('item', self.dataset.items))):
            column = table[f'{what}_id']
            rows = tables.rows(pa.chunked_array([pa.array([pair[at] for pair in pairs], pa.string())]), column)
            for n in np.flatnonzero(rows < 0).tolist():
                hint = nearest(pairs[n][at], column.to_pylist()) if len(column) <= MOST_IDS else ''
                wrong.setdefault(pairs[n], f'the data of the run have no {what} "{pairs[n][at]}".'
                                 + (hint if hint.startswith(' Did') else ''))
        return wrong

    def missing(self, user: str, item: str) -> str:
        """Says why a pair is not stored."""
        return self.store.missing(user, item) if self.store else f'no explanation is stored for user "{user}".'

    def write(self, pairs: Sequence[Pair], temperature: float | None = None, keep: bool = True,
              advance: Callable[[int], object] = lambda count: None) -> list[dict]:
        """Writes explanations of pairs with the trained model; the rows, as the store has them.

        They are put into the store once a minute and at the end, unless `keep` is False. Raises UserError for ids that
        the data do not have.
        """
        if keep and not files.is_remote(self.workdir) and not os.access(self.workdir, os.W_OK):
            raise UserError(f'{self.workdir} cannot be written to; with keep=False (--nokeep) what is written is not stored.')
        examples, split = asked.examples(self.writer_task, *self.rows(pairs))
        sampling = None if temperature is None else writing.sampling_config(self.writer_task, temperature=temperature)
        rows, kept, since = [], 0, time.monotonic()
        try:
            for table in asked.write(self.writer_task, self.writer, examples, split, sampling, advance):
                rows += table.append_column(store.SCHEMA_ADDED, pa.array([asked.PHASE] * len(table))).to_pylist()
                if keep and time.monotonic() - since > KEEP_EVERY:
                    self.keep(rows[kept:])
                    kept, since = len(rows), time.monotonic()
        finally:
            if keep:
                self.keep(rows[kept:])
        return rows

    def keep(self, rows: Sequence[dict]) -> None:
        """Puts what `write` returned into the store."""
        if rows:
            table = pa.table({name: pa.array([row[name] for row in rows], SCHEMA.field(name).type)
                              for name in store.COLUMNS})
            store.put(self.workdir, table, asked.PHASE)
            self.store = store.Store(self.workdir)  # in place of the cached one

    def stored_lists(self, predictor: str = '') -> lists.Lists | None:
        """The stored recommendations of a predictor (any, by default); None where there are none that are up to date."""
        paths = sorted((self.workdir / 'store').glob(lists.place(self.workdir, predictor or '*').name))
        for path in paths:
            made = lists.Lists(path)
            if made.made_by == self._phase_of(made.predictor) and (predictor or made.predictor == self._default()):
                return made
        return None

    def write_lists(self, k: int, predictor: str = '') -> lists.Lists:
        """Stores the `k` best items of every user, with a progress bar; nothing where they are there already."""
        made = self.stored_lists(predictor)
        if made and made.k >= k:
            return made
        name = recommending.predictor_of(self.predictors, predictor)
        ids = sorted(self.dataset.users['user_id'].to_pylist())
        with progress.bar(f'recommendations by {name}', len(ids), 0, 'users') as advance:
            parts = (self._part(found) for found in self._in_parts(ids, k, name, advance))
            if self.predictors.predictors[name].settings.task == 'ranking':  # these come in another order
                parts = [pa.concat_tables(parts).sort_by('user_id')]
            lists.write(self.workdir, name, self._phase_of(name), k, parts)
        return lists.Lists(lists.place(self.workdir, name))

    @functools.cached_property
    def task(self) -> tasks.Task:
        """Data and examples, without the language model."""
        config = self.config
        if 'data' not in config:
            raise UserError(f'{self.workdir} is a run without data: it recommends nothing.')
        dataset = tasks.load_dataset(config.data)
        return tasks.Task(config=config, workdir=self.workdir, mesh=_mesh(config.mesh), metrics=None, dataset=dataset,
                          examples=tasks.make_examples(dataset, config), language=None)

    @property
    def dataset(self) -> tables.Dataset:
        return self.task.dataset

    @functools.cached_property
    def writer_task(self) -> tasks.Task:
        """The same with the language model."""
        if 'language' not in self.config:
            raise UserError(f'{self.workdir} is a run without a language model: it explains nothing.')
        task = self.task
        return tasks.Task(config=task.config, workdir=task.workdir, mesh=task.mesh, metrics=None, dataset=task.dataset,
                          examples=task.examples, language=tasks.load_language(self.config.language, task.mesh))

    @functools.cached_property
    def writer(self) -> RunState:
        """What the run has learned to write with."""
        return restoring.restore(self.writer_task, predictors=False)

    @functools.cached_property
    def predictors(self) -> RunState:
        """What the run has learned to predict with."""
        needs_writer = restoring.predictors_need_writer(self.config)
        return restoring.restore(self.writer_task if needs_writer else self.task, writer=needs_writer)

    # ------------------------------------------------------------------------------------------ parts

    def rows(self, pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the users and items tables, int32 [N] each; UserError for an id that is in none."""
        if wrong := self.unknown(pairs):
            raise UserError(next(iter(wrong.values())))
        return tuple(tables.rows(pa.chunked_array([pa.array([pair[at] for pair in pairs], pa.string())]), table.column(0))
                     for at, table in enumerate((self.dataset.users, self.dataset.items)))

    def _default(self) -> str:
        """The name of the predictor that recommends by default, by the schedule alone."""
        fits = {settings.name: settings for _, verb, settings in restoring.done_of(self.workdir, self.config)
                if verb == 'fit'}
        alone = [name for name, settings in fits.items() if not settings.get('text', False)]
        return (alone or list(fits) or [''])[-1]

    def _phase_of(self, predictor: str) -> str:
        """The newest phase that fitted a predictor; '' for none."""
        return next((phase for phase, verb, settings in reversed(restoring.done_of(self.workdir, self.config))
                     if verb == 'fit' and settings.name == predictor), '')

    def _scorers(self) -> dict[str, tuple[str, str]]:
        """Title → fit and explain of the predictors that the table of the run has, or of all that are fitted."""
        fitted, asked_for = self.predictors.predictors, self.config.get('judge', {}).get('scorers', {})
        found = {}
        for name in scorers.in_order(self.task, asked_for) if asked_for else ():
            kind, fit, written = scorers.parse(asked_for[name])
            if kind == 'predictor' and fit in fitted:
                found[name] = fit, written or ''
        return found or {name: (name, '') for name in fitted}

    def _vectors(self, pairs: Sequence[Pair], found: Sequence[dict], written: str) -> tuple[np.ndarray, np.ndarray]:
        """Encoded explanations [N, K, d] by `explain(written)` or written since, and which pairs have all, bool [N]."""
        kinds, numbers = self.task.kinds, {pair: n for n, pair in enumerate(pairs)}
        own = [row for row in found if row['phase'] == asked.PHASE or row['phase'].endswith(f'-explain-{written}')]
        text = np.zeros((len(pairs), len(kinds), 0), np.float32)
        there = np.zeros((len(pairs), len(kinds)), bool)
        if own:
            vectors = writing.encode(self.task, [row['text'] for row in own])
            text = np.zeros((len(pairs), len(kinds), vectors.shape[1]), np.float32)
            for row, vector in zip(own, vectors):
                at = numbers[row['user_id'], row['item_id']], kinds.index(row['kind'])
                text[at], there[at] = vector, True
        return text, there.all(axis=1)

    def _ranked(self, ids: Sequence[str], k: int, predictor: str) -> dict[str, list[dict]]:
        """The lists of some users, by id."""
        found: dict[str, list[dict]] = {}
        for part in self._in_parts(ids, k, recommending.predictor_of(self.predictors, predictor)):
            found |= part
        return found

    def _in_parts(self, ids: Sequence[str], k: int, name: str, advance: Callable[[int], object] = lambda count: None
                  ) -> Iterator[dict[str, list[dict]]]:
        """Lists by user id, some users at a time; but for those of rankings in the order of `ids`."""
        users, _ = self.rows([(user, self._item_ids[0]) for user in ids])
        fitted = self.predictors.predictors[name]
        names, item_ids, titles = dict(zip(users.tolist(), ids)), self._item_ids, self.task.titles
        for rows, items, scores in recommending.best(self.task, fitted, users, k):
            part = {names[user]: [{'item_id': item_ids[item], 'title': titles[item], 'score': float(score)}
                                  for item, score in zip(of_user, score_of_user) if item >= 0]
                    for user, of_user, score_of_user in zip(rows.tolist(), items.tolist(), scores)}
            advance(len(part))
            yield part

    @functools.cached_property
    def _item_ids(self) -> list[str]:
        return self.dataset.items['item_id'].to_pylist()

    @staticmethod
    def _part(found: dict[str, list[dict]]) -> pa.Table:
        columns = {name: [[one[name] for one in items] for items in found.values()]
                   for name in ('item_id', 'title', 'score')}
        return pa.table({'user_id': list(found), **columns}, schema=lists.SCHEMA)


def _pairs(users: str | Sequence[str], items: str | Sequence[str]) -> list[Pair]:
    """Pairs of ids; UserError for lists of different lengths."""
    users, items = ([values] if isinstance(values, str) else list(values) for values in (users, items))
    if len(users) != len(items):
        if 1 not in (len(users), len(items)):
            raise UserError(f'{len(users)} users and {len(items)} items are no pairs: give as many, or one of either.')
        users, items = users * (len(items) if len(users) == 1 else 1), items * (len(users) if len(items) == 1 else 1)
    return [(str(user), str(item)) for user, item in zip(users, items)]


def _mesh(sizes: ml_collections.ConfigDict):
    """The mesh of the run, or where this machine has other devices, all of them along `data`."""
    try:
        return meshes.make_mesh(sizes.to_dict())
    except UserError:
        return meshes.make_mesh({'data': -1})
