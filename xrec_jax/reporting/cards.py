"""Explanations of finished runs as the page's browser wants them: one card for each text that was asked for.

A card is what some phases `explain` wrote about one example (or request) for one purpose: its texts, a column a phase,
beside the history, the target, the label and what every scorer of `judge` predicts. All comes from the workdir:

  explanations/<phase>.parquet   texts, rewards, scores of the language model
  examples/<phase>.parquet       histories, targets, labels (`phases.explained`); an older run has none, which is noted
  predictions.parquet            every scorer's prediction of the examples of valid and test

`of_run` gives plain lists and strings for JSON, items and words once each. Texts are as the models wrote them: the page
never takes them for markup.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.phases import explained, predictions, scorers
from xrec_jax.reporting.collect import Run
from xrec_jax.runs import files

MOST = 10_000  # cards of a page
SPLITS = ('test', 'valid', 'train')  # whose cards come first where not all have room; requests before 'train'
COLUMNS = ('user_id', 'item_id', 'kind', 'split', 'group', 'example', 'text', 'llm_score', 'reward')
NO_EXAMPLES = ('This run keeps no histories and targets beside its explanations: it was made by an earlier version. The '
               'same train command on its folder adds them, without writing anything anew.')


class _Once:
    """Values that are kept once each; calling it gives a value's place."""

    def __init__(self):
        self.place: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        return self.place.setdefault(value, len(self.place))

    @property
    def values(self) -> list:
        return list(self.place)


def of_run(run: Run, name: str, most: int = MOST) -> dict[str, Any] | None:
    """What the browser shows of a run, at most so many cards of it; None of a run without explanations.

    By column: of cards `example`, `kind` and for each phase `texts`, `rewards`, `llm_scores`; of examples users, items,
    labels, histories and for each scorer its `scores`. Numbers stand for places in `items`, `words`, `kinds`, `splits`.
    """
    tables = _tables(run)
    if not tables:
        return None
    phases = list(tables)
    before, after = _sides(run, phases)
    total = _count(tables)
    tables = _chosen(tables, phases[after], most)
    contexts, scale = _contexts(run, tables)
    rows = {}  # of a card: key → phase → row
    for number, table in enumerate(tables.values()):
        for row in table.to_pylist():
            key = (row['split'], row['group'], row['example'], row['user_id'], row['item_id'])
            rows.setdefault((key, row['kind']), {})[number] = row
    order = sorted(rows, key=lambda card: (_rank(card[0][0]), card[0][1] or '', card[0][2], card[0][3], card[0][4],
                                           card[1] == 'negative', card[1]))
    once = {name: _Once() for name in ('items', 'words', 'kinds', 'splits', 'groups')}
    keys = list(dict.fromkeys(key for key, _ in order))
    number = {key: n for n, key in enumerate(keys)}
    predicted = _predictions(run, keys, scale)
    column = lambda name, digits=None: [[_rounded(of.get(n, {}).get(name), digits) for of in map(rows.get, order)]
                                        for n in range(len(phases))]
    return {
        'name': name, 'phases': phases, 'before': before, 'after': after, 'total': total,
        'note': '' if contexts else NO_EXAMPLES,
        'example': [number[key] for key, _ in order], 'kind': [once['kinds'](kind) for _, kind in order],
        'texts': column('text'), 'rewards': column('reward', 4), 'llm_scores': column('llm_score', 4),
        **_examples(keys, contexts, predicted, once),
        **_scorers(run, predicted, phases), **_likes(run, predicted.judged),
        **{name: one.values for name, one in once.items()},
    }


def _tables(run: Run) -> dict[str, pa.Table]:
    """What each phase `explain` wrote by user and item, in the order of the schedule."""
    return {path.stem: files.read_table(path, columns=list(COLUMNS))
            for path in sorted((run.workdir / 'explanations').glob('*-explain-*.parquet'))}


def _sides(run: Run, phases: Sequence[str]) -> tuple[int, int]:
    """The phases that are compared at first: those of `judge.before` and `judge.after`, or the first and the last."""
    last = {phase.split('-explain-', 1)[1]: n for n, phase in enumerate(phases)}
    found = [last.get(run.config.get(f'judge.{side}.explain')) for side in ('before', 'after')]
    return (0 if found[0] is None else found[0]), (len(phases) - 1 if found[1] is None else found[1])


def _count(tables: Mapping[str, pa.Table]) -> int:
    """How many cards there are in all."""
    names = ['split', 'group', 'example', 'user_id', 'item_id', 'kind']
    return len(pa.concat_tables([table.select(names) for table in tables.values()]).group_by(names).aggregate([]))


def _rank(split: str) -> int:
    """Requests stand between valid and train."""
    return {'test': 0, 'valid': 1, 'train': 3}.get(split, 2)


def _chosen(tables: Mapping[str, pa.Table], shown: str, most: int) -> dict[str, pa.Table]:
    """The rows of at most `most` cards: those of test first, those of phase `shown` first, else drawn, always alike."""
    if sum(map(len, tables.values())) <= most:
        return dict(tables)
    every = pa.concat_tables([table.select(['split', 'example', 'kind']).append_column(
        'shown', pa.array([phase == shown] * len(table))) for phase, table in tables.items()])
    wanted = every.group_by(['split', 'example']).aggregate([('shown', 'max'), ('kind', 'count_distinct')]).sort_by(
        [('split', 'ascending'), ('example', 'ascending')])
    random = np.random.Generator(np.random.Philox(0)).permutation(len(wanted))
    rank = np.array([_rank(split) for split in wanted['split'].to_pylist()])
    order = np.lexsort((random, ~wanted['shown_max'].to_numpy(zero_copy_only=False), rank))
    kept = order[np.cumsum(wanted['kind_count_distinct'].to_numpy()[order]) <= most]
    kept = _code(wanted.take(pa.array(kept)))
    return {phase: _of(table, kept) for phase, table in tables.items()}


def _code(table: pa.Table) -> pa.ChunkedArray:
    """Split and number of an example as one text."""
    return pc.binary_join_element_wise(table['split'], table['example'].cast(pa.string()), '/')


def _of(table: pa.Table, codes: pa.ChunkedArray) -> pa.Table:
    """The rows of those examples."""
    return table.filter(pc.is_in(_code(table), value_set=codes))


def _contexts(run: Run, tables: Mapping[str, pa.Table]) -> tuple[dict[tuple, dict], tuple[float, float] | None]:
    """Example → what it is about, of all phases that kept it, and the scale of ratings."""
    found, scale = {}, None
    for phase, written in tables.items():
        path = explained.path_of(run.workdir, phase)
        if path.exists():
            table, scale = explained.read(path)
            for row in _of(table, _code(written)).to_pylist():
                found.setdefault((row['split'], row['group'], row['example'], row['user_id'], row['item_id']), row)
    return found, scale


@dataclasses.dataclass(frozen=True)
class _Predicted:
    judged: str  # 'click', 'rating', or '' without predictions
    scorers: list[str]
    rows: dict[tuple, dict]  # (split, example) → columns


def _predictions(run: Run, keys: Sequence[tuple], scale: tuple[float, float] | None) -> _Predicted:
    """What every scorer predicts of the examples `keys`: a probability, or for ratings stars where the scale is known."""
    path = run.workdir / predictions.FILE
    if not path.exists():
        return _Predicted('', [], {})
    table = files.read_table(path)
    names = [name for name in table.column_names if name not in (*predictions.EXAMPLE, 'target')]
    judged = 'rating' if scorers.SUMMARY['rating'] in run.summary else 'click'
    if judged == 'rating' and scale:
        low, high = scale
        for name in names:
            stars = pa.array(low + (high - low) * table[name].to_numpy())
            table = table.set_column(table.column_names.index(name), name, stars)
    splits = table['split'].to_numpy(zero_copy_only=False)
    place = {split: np.flatnonzero(splits == split) for split in set(splits)}  # of a split's examples, in their order
    wanted = list(dict.fromkeys((split, example) for split, _, example, _, _ in keys
                                if example < len(place.get(split, ()))))
    rows = table.take(pa.array([place[split][example] for split, example in wanted], pa.int64())).to_pylist()
    return _Predicted(judged, names, dict(zip(wanted, rows)))


def _examples(keys: Sequence[tuple], contexts: Mapping[tuple, dict], predicted: _Predicted, once: Mapping[str, _Once]
              ) -> dict[str, list]:
    """The columns of the examples. A history is a list of 3 × item + (0 disliked, 1 liked, 2 no opinion)."""
    columns: dict[str, list] = {name: [] for name in (
        'user', 'item', 'split', 'group', 'target', 'history', 'lengths', 'liked', 'rating', 'aspects', 'profile')}

    def item(title: str, attributes: Sequence[str]) -> int:
        return once['items']((title, tuple(once['words'](word) for word in attributes)))

    scores: list[list] = [[] for _ in predicted.scorers]
    for key in keys:
        split, group, example, user_id, item_id = key
        about = contexts.get(key, {})
        row = predicted.rows.get((split, example), {})
        if (row.get('user_id'), row.get('item_id')) != (user_id, item_id):
            row = {}
        liked = about.get('liked', row.get('liked'))
        columns['user'].append(user_id)
        columns['item'].append(item_id)
        columns['split'].append(once['splits'](split))
        columns['group'].append(-1 if group is None else once['groups'](group))
        columns['target'].append(item(about['title'], about['attributes']) if about else -1)
        columns['history'].append([3 * item(one['title'], one['attributes'])
                                   + (2 if one['liked'] is None else int(one['liked']))
                                   for one in about.get('history', ())])
        columns['lengths'].append(about.get('history_length', 0))
        columns['liked'].append(-1 if liked is None else int(liked))
        columns['rating'].append(_rounded(about.get('rating', row.get('rating')), 2))
        columns['aspects'].append([once['words'](word) for word in about.get('aspects') or ()])
        columns['profile'].append(', '.join(f'{name} {value}' for name, value in about.get('profile') or ()))
        for of_scorer, name in zip(scores, predicted.scorers):
            of_scorer.append(_rounded(row.get(name), 4))
    return columns | {'scores': scores}


def _scorers(run: Run, predicted: _Predicted, phases: Sequence[str]) -> dict[str, list]:
    """Names of the scorers, the phase whose texts each reads (-1: none), and which one of the others it is held against:
    those of `judge.before` and `judge.after` of the same kind."""
    last = {phase.split('-explain-', 1)[1]: n for n, phase in enumerate(phases)}
    parsed = {}
    for key, text in run.config.items():
        if '.scorers.' in key and isinstance(text, str):
            parsed[key.split('.scorers.', 1)[1]] = scorers.parse(text)
    sides = [run.config.get(f'judge.{side}.scorers') or () for side in ('before', 'after')]
    against = {}
    for name in predicted.scorers:
        other = next((here for here, there in (sides, sides[::-1]) if name in there for here in here if
                      name in parsed and parsed.get(here, ('',))[0] == parsed[name][0]), None)
        against[name] = predicted.scorers.index(other) if other in predicted.scorers else -1
    return {'scorers': predicted.scorers,
            'reads': [last.get(parsed.get(name, (None, None, None))[2], -1) for name in predicted.scorers],
            'against': [against[name] for name in predicted.scorers],
            'judging': next((predicted.scorers.index(name) for name in reversed(sides[1]) if name in predicted.scorers),
                            len(predicted.scorers) - 1)}


def _likes(run: Run, judged: str) -> dict[str, Any]:
    """From which prediction on a scorer says "liked"; strictly above it where the config says so."""
    threshold = run.config.get('data.threshold')
    stars = judged == 'rating' and threshold is not None
    return {'judged': judged, 'threshold': threshold if stars else 0.5,
            'above': stars and run.config.get('data.comparison') == 'above'}


def _rounded(value: Any, digits: int | None) -> Any:
    if value is None or digits is None:
        return value
    return round(float(value), digits) if np.isfinite(value) else None


def embedded(runs: Sequence[Mapping[str, Any]]) -> str:
    """The runs as JSON that can stand in a `<script type="application/json">`: nothing in it ends that element."""
    text = json.dumps({'runs': runs}, ensure_ascii=False, separators=(',', ':'), allow_nan=False)
    for letter in '<>&\u2028\u2029':  # they stand in strings alone
        text = text.replace(letter, f'\\u{ord(letter):04x}')
    return text
