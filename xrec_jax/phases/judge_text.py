"""`judge` of texts (RecPIE, appendix C.3 and table 2): how good are explanations as texts?

  coverage          share of the aspect terms of the user and item that are named
  informativeness   what the source text says that the explanation says, too. RecPIE takes it from BARTScore, with the
                    user's review as the source text: score(explanation | review), column "review → text" (BARTScore's
                    s → h). The other way round, "text → review", is how well the review follows from the explanation
  fluency           score(explanation | nothing). RecPIE names BARTScore for it, too, and not the source; given the
                    review it would be informativeness again, so it is given nothing here
  BLEU, ROUGE       against the review; distinct n-grams and texts need none: `metrics.text`

Scores are mean log-probs, nats a token, 0 at best (the paper's lie between 0 and 1; it does not say by which map).
`texts.scorer` names a BART directory; without one the run's own base model stands in, and its figures are called
LMScore, not BARTScore. The review is that of the same user and item, the newest where there are several. Every
explanation with its reference, terms and scores lies in judgements/<phase>.parquet; a stopped run goes on from its
last part.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import rich.table

from xrec_jax.data import aspects, protocols, tables
from xrec_jax.errors import UserError, nearest
from xrec_jax.language import bart, text_scores
from xrec_jax.language.checkpoint_files import read_config
from xrec_jax.metrics import text as text_metrics
from xrec_jax.phases.task import DTYPES, Task
from xrec_jax.runs import files, progress
from xrec_jax.runs.explanations import newest, read_explanations
from xrec_jax.runs.parts import PartsWriter
from xrec_jax.runs.state import RunState

SCHEMA = pa.schema([
    ('explanations', pa.string()),  # the phase `explain` that wrote the text, by its name
    ('kind', pa.string()),  # as in the table of explanations
    ('user_id', pa.string()),
    ('item_id', pa.string()),
    ('text', pa.string()),
    ('reference', pa.string()),  # the user's review of the item; null: there is none
    ('terms', pa.list_(pa.string())),
    *((name, pa.float32()) for name in text_metrics.SCORES),  # nats a token; null: nothing to score by
    ('step', pa.int32()),
])
PART = 512  # texts between checkpoints
BASE = 'language'  # `texts.scorer`: the run's own base model


def run(task: Task, state: RunState, phase: str, settings: ml_collections.ConfigDict) -> dict:
    """Scores, prints the table, and returns its figures for `summary.json`."""
    written = {name: read_explanations(newest(state.explanations, name)) for name in settings.texts.explanations}
    rows = collect(task.dataset, written, tuple(settings.texts.splits), settings.texts.num_terms)
    for line in said(rows, task.dataset.name):
        progress.say(f'{phase}: {line}')
    scorer = None
    writer = PartsWriter(task.workdir / 'judgements' / f'{phase}.parquet', SCHEMA)
    if not writer.finished:
        scorer = make_scorer(task, settings.texts.scorer)
        scored(rows, scorer, writer, phase)
    table = files.read_table(writer.path)
    names = [scorer_name(settings.texts.scorer), settings.texts.scorer]
    if settings.texts.scorer == BASE:
        names[1] = task.config.language.model
    result = {'scorer': names[0], 'scorer_model': names[1], 'texts': figures(table)}
    progress.CONSOLE.print(figures_table(f'{phase}: explanations as texts', result))
    return result


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError where the explanations are not there by then, or the scorer cannot be had."""
    if 'texts' not in settings:
        raise UserError(f'judge({settings.name}): the config has no judge.texts; configs/expctr.py shows it.')
    texts = settings.texts
    if not texts.explanations:
        raise UserError('judge.texts.explanations is empty: name phases explain, as ("icl", "final").')
    for name in texts.explanations:
        if f'explain({name})' not in earlier:
            raise UserError(f'schedule: judge({settings.name}) needs explain({name}) before it.'
                            f'{nearest(f"explain({name})", earlier)}')
    for split in texts.splits:
        if split not in protocols.SPLITS:
            raise UserError(f'judge.texts.splits: "{split}" is no split.{nearest(split, protocols.SPLITS)}')
    if task.dataset is None:
        raise UserError(f'judge({settings.name}): the config has no data, whose reviews and terms it asks for.')
    check_scorer(task, texts.scorer)


def check_scorer(task: Task, scorer: str) -> None:
    if scorer not in (BASE, 'none'):
        bart.BartConfig.from_hf(read_config(scorer))
    elif scorer == BASE and task.language is None:
        raise UserError('judge.texts.scorer="language": the config has no language model; name a BART directory, or '
                        '"none".')


def scorer_name(scorer: str) -> str | None:
    """What its figures are called: BARTScore is a BART's alone."""
    return {BASE: 'LMScore', 'none': None}.get(scorer, 'BARTScore')


def make_scorer(task: Task, scorer: str) -> text_scores.Scorer | None:
    """`texts.scorer`: 'language', 'none', or a BART directory."""
    if scorer == 'none':
        return None
    language = task.language
    if scorer == BASE:
        return text_scores.language_scorer(language.model, language.variables(None), language.tokenizer, task.mesh)
    dtype = DTYPES[task.config.language.dtype if 'language' in task.config else 'float32']
    return text_scores.load_bart_scorer(scorer, task.mesh, dtype)


# ---------------------------------------------------------------------------------------------- rows


def collect(dataset: tables.Dataset, written: Mapping[str, pa.Table], splits: Sequence[str], num_terms: int) -> pa.Table:
    """The explanations (name of their phase → table) with reference and terms: `SCHEMA` without scores and step.

    splits: which examples count; what was written to other requests counts always.
    """
    parts = []
    for name, table in written.items():
        mine = pc.or_(pc.invert(pc.is_in(table['split'], pa.array(protocols.SPLITS))),
                      pc.is_in(table['split'], pa.array(splits, pa.string())))
        table = table.filter(mine).select(['kind', 'user_id', 'item_id', 'text'])
        parts.append(table.add_column(0, 'explanations', pa.array([name] * len(table), pa.string())))
    rows = pa.concat_tables(parts).combine_chunks()
    reviews, terms = facts(dataset, rows['user_id'], rows['item_id'], num_terms)
    return rows.append_column('reference', reviews).append_column('terms', terms)


def facts(dataset: tables.Dataset, users: pa.ChunkedArray, items: pa.ChunkedArray, num_terms: int
          ) -> tuple[pa.Array, pa.Array]:
    """Of pairs of ids [N]: the user's newest review of the item, string[N], and the pair's aspect terms, list[N].

    Terms are the interaction's own aspects where the source has them, else the item's (`aspects.aspect_terms`, over all
    interactions: they measure, no model sees them).
    """
    interactions = dataset.interactions
    item = tables.rows(items, dataset.items['item_id'])
    wanted = _key(tables.rows(users, dataset.users['user_id']), item)
    key = _key(tables.codes(interactions['user_id']), tables.codes(interactions['item_id']))
    time = interactions['timestamp'].fill_null(tables.LONG_AGO).to_numpy()
    reviewed = pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(interactions['review'])), 0), False)
    reviews = _at(interactions['review'], _newest(key, time, reviewed.to_numpy(), wanted))
    own = _at(interactions['aspects'], _newest(key, time, interactions['aspects'].is_valid().to_numpy(), wanted))
    if own.null_count:
        own = pc.coalesce(own, _at(pa.chunked_array([aspects.aspect_terms(dataset, num_terms)]), item))
    return reviews, own


def _key(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """int64[N], one number a pair; negative where one of the two is not known."""
    return np.where((user < 0) | (item < 0), -1, user.astype(np.int64) << 32 | item)


def _newest(key: np.ndarray, time: np.ndarray, there: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64[N]: the latest row that is `there` and has the wanted key; -1 without one."""
    rows = np.flatnonzero(there)
    if not len(rows):
        return np.full(len(wanted), -1)
    rows = rows[np.lexsort((rows, time[rows], key[rows]))]
    at = np.searchsorted(key[rows], wanted, side='right') - 1
    return np.where((at >= 0) & (key[rows[at]] == wanted), rows[at], -1)


def _at(column: pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    """The values at `rows`, null for -1."""
    return tables.one_chunk(column.take(pa.array(rows, mask=rows < 0)))


def said(rows: pa.Table, dataset: str) -> list[str]:
    """What a reader of the figures has to know about references and terms."""
    total, missing = len(rows), rows['reference'].null_count
    lines = []
    if missing == total:
        lines.append(f'{dataset} has no review of any of the {total:,} pairs: no BLEU, no ROUGE, no informativeness; '
                     'the other figures need none')
    elif missing:
        lines.append(f'{total - missing:,} of {total:,} texts have a review of the same user and item; BLEU, ROUGE and '
                     'informativeness are over these')
    if not pc.sum(pc.list_value_length(rows['terms'])).as_py():
        lines.append(f'{dataset} has no aspect terms for these pairs: no coverage')
    return lines


# -------------------------------------------------------------------------------------------- figures


def scored(rows: pa.Table, scorer: text_scores.Scorer | None, writer: PartsWriter, title: str) -> pathlib.Path:
    """Writes `rows` of `collect` with their scores, part by part."""
    done = writer.last_step
    writer.rewind(done)
    with progress.bar(title, len(rows), min(done * PART, len(rows)), 'texts') as advance:
        for step in range(done + 1, -(-len(rows) // PART) + 1):
            part = rows.slice((step - 1) * PART, PART)
            writer.add(**{name: part[name].combine_chunks() for name in part.column_names}, **scores(part, scorer),
                       step=step)
            writer.flush(step)
            advance(len(part))
    return writer.finish()


def scores(rows: pa.Table, scorer: text_scores.Scorer | None) -> dict[str, pa.Array]:
    """Columns `SCORES` of `rows`, null where there is no reference or no text."""
    texts, references = rows['text'].to_pylist(), rows['reference'].to_pylist()
    pairs = {'informativeness': (references, texts), 'reverse': (texts, references), 'fluency': ([''] * len(texts), texts)}
    result = {}
    for name, (sources, targets) in pairs.items():
        found = np.full(len(texts), np.nan)
        there = [n for n, (text, reference) in enumerate(zip(texts, references))
                 if text and (reference or name == 'fluency')]
        if scorer and there:
            found[there], _ = scorer.score([sources[n] for n in there], [targets[n] for n in there])
        result[name] = pa.array(found, pa.float32(), from_pandas=True)
    return result


@dataclasses.dataclass(frozen=True)
class Group:
    """One row of the table."""

    title: str
    rows: pa.Table


def groups(table: pa.Table) -> list[Group]:
    """The rows of each phase, and of each kind where a phase has written several (RecPIE's 'pos' and 'neg')."""
    found = []
    for name in dict.fromkeys(table['explanations'].to_pylist()):
        of_phase = table.filter(pc.equal(table['explanations'], name))
        kinds = list(dict.fromkeys(of_phase['kind'].to_pylist()))
        found.append(Group(name, of_phase))
        if len(kinds) > 1:
            found += [Group(f'{name}, {kind}', of_phase.filter(pc.equal(of_phase['kind'], kind))) for kind in kinds]
    return found


def figures(table: pa.Table) -> dict[str, dict[str, float | None]]:
    """Of a table of `SCHEMA`: title of each group → its figures, None for what there was nothing to measure by."""
    result = {}
    for group in groups(table):
        texts = [text or '' for text in group.rows['text'].to_pylist()]
        found = {'count': len(texts), 'with_reference': len(texts) - group.rows['reference'].null_count}
        found |= text_metrics.text_metrics(texts, group.rows['reference'].to_pylist(),
                                           [row or [] for row in group.rows['terms'].to_pylist()])
        found |= {name: pc.mean(group.rows[name]).as_py() for name in text_metrics.SCORES}
        result[group.title] = {name: None if value is None or np.isnan(value) else value
                               for name, value in found.items()}
    return result


def figures_table(title: str, result: dict) -> rich.table.Table:
    """Table 2 and more; a dash for what there was nothing to measure by."""
    scorer = result['scorer']
    columns = {'count': 'texts', **text_metrics.LABELS}
    if scorer:
        columns |= {name: f'{scorer}\n{what}' for name, what in text_metrics.SCORES.items()}
    table = rich.table.Table(title=title, title_justify='left')
    table.add_column('')
    for column in columns.values():
        table.add_column(column, justify='right')
    for name, values in result['texts'].items():
        table.add_row(name, *('–' if (value := values[metric]) is None else f'{value:,}' if metric == 'count' else
                              f'{value:.2f}' if metric == 'bleu' or metric in text_metrics.SCORES else f'{value:.3f}'
                              for metric in columns))
    return table
