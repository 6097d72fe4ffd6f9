"""`judge` of pairs (LLMXRec, section 3.3): a tuned judge compares the explanations of several generators.

  calibrated   the temperature of the judge's odds, on the pairs that it was validated on
  accuracy     on labelled pairs that it has not seen, in both orders
  compared     all pairs of `settings.generators` for each request, in both orders: win ratio (eq. 6), ranking order
               (eq. 7), position bias, Bradley-Terry strengths (`metrics.pairwise`); with `settings.reference` only the
               pairs with that one, and a figure (section 4.3: `analysis.win_ratio`)

The judge answers "1" or "2" (eq. 4); its verdict is read from the logits of the two after one prefill, in which
questions share what they begin with (`language.shared`). Verdicts lie in judgements/<phase>.parquet, and a stopped run
goes on from its last part.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
import pyarrow as pa
import rich.table

from xrec_jax.analysis import output, win_ratio
from xrec_jax.errors import UserError, nearest
from xrec_jax.language import instructions, shared
from xrec_jax.language.instructions import Recommendation
from xrec_jax.language.material import judge_pairs, published
from xrec_jax.language.material.judge_pairs import Pair
from xrec_jax.language.tokenizers import Tokenizer, encode_responses
from xrec_jax.metrics import judging, pairwise
from xrec_jax.metrics.calibration import fit_temperature, log_loss
from xrec_jax.parallel import sharding
from xrec_jax.phases import requests
from xrec_jax.phases.settings import settings_of
from xrec_jax.phases.task import Task
from xrec_jax.runs import files, progress
from xrec_jax.runs.explanations import newest, read_explanations
from xrec_jax.runs.parts import PartsWriter
from xrec_jax.runs.state import RunState

SCHEMA = pa.schema([
    ('group', pa.string()),  # the recommender
    ('example', pa.int32()),  # the request
    ('first', pa.string()),  # the generator whose explanation is shown first
    ('second', pa.string()),
    ('log_odds', pa.float32()),  # of the first being better, before calibration
    ('step', pa.int32()),
])


class Question(NamedTuple):
    """Which of two explanations of a recommendation is better?"""

    recommendation: Recommendation
    first: str
    second: str


def run(task: Task, state: RunState, phase: str, settings: ml_collections.ConfigDict) -> dict:
    """Judges, prints the tables, and returns their figures for `summary.json`."""
    judge = Judge(task, state, settings)
    _, validation = tuning_pairs(task)
    odds = judge.log_odds(questions(validation), f'{phase}, calibrating')
    temperature = fit_temperature(odds, [pair.label == 1 for pair in validation])
    result = {'temperature': temperature, 'validation': accuracy(validation, odds / temperature)}
    if task.config.judge_pairs.test:
        held_out = judge_pairs.both_orders(judge_pairs.read_pairs(task.config.judge_pairs.test))
        odds = judge.log_odds(questions(held_out), f'{phase}, held-out pairs')
        result['held_out'] = accuracy(held_out, odds / temperature)
    progress.CONSOLE.print(accuracy_table(phase, result))
    if settings.generators:
        result |= told(task, phase, settings, compare(task, state, phase, settings, judge))
    if judge.dropped:
        progress.say(f'{phase}: {judge.dropped:,} items of history left out of the judge\'s prompts, which were too long')
    if judge.too_long:
        progress.say(f'{phase}: {judge.too_long:,} questions were too long even without history and were not asked')
    speed = judge.speed()
    progress.say(f'{phase}: {speed["questions_per_second"]:,.0f} questions/s, {speed["tokens_per_second"]:,.0f} tokens/s, '
                 f'{speed["tokens"] / max(speed["tokens_alone"], 1):.0%} of the questions\' tokens, as they share their '
                 'beginnings')
    return result | {'history_left_out': judge.dropped, 'too_long': judge.too_long, 'speed': speed}


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError where the judge or an explanation is not there by then, or the pairs cannot be read."""
    sharding.check_batch('judge.batch_size', settings.batch_size, task.mesh)
    instructions.parts(task.config.judge_prompt.parts.to_dict())
    for _, name in settings.generators:
        if f'explain({name})' not in earlier:
            raise UserError(f'schedule: judge({settings.name}) compares explain({name}), which is not before it.')
    sources = {repr(settings_of(task.config, 'explain', name).requests.to_dict() | {'max_rows': 0})
               for _, name in settings.generators}
    if len(sources) > 1:
        raise UserError(f'judge({settings.name}): its generators explain different requests and cannot be compared; give '
                        'their explain phases the same "requests" (max_rows may differ).')
    titles = [title for title, _ in settings.generators]
    if settings.reference and settings.reference not in titles:
        raise UserError(f'judge({settings.name}).reference: "{settings.reference}" is none of its generators.'
                        f'{nearest(settings.reference, titles)}')
    tuning_pairs(task)
    if task.config.judge_pairs.test:
        judge_pairs.read_pairs(task.config.judge_pairs.test)


def tuning_pairs(task: Task) -> tuple[list[Pair], list[Pair]]:
    """The pairs of `config.judge_pairs.train` that the judge is tuned on, and those it is validated on.

    Each pair stands in both orders; no instruction is in both parts.
    """
    settings = task.config.judge_pairs
    pairs, _ = judge_pairs.resolved(judge_pairs.read_pairs(settings.train))
    training, validation = judge_pairs.split(pairs, settings.valid_share, task.seed)
    return judge_pairs.both_orders(training), judge_pairs.both_orders(validation)


def questions(pairs: Sequence[Pair]) -> list[Question]:
    """One for each pair; those of one instruction share the `Recommendation`."""
    known = {text: instructions.parse(text) for text in {pair.instruction for pair in pairs}}
    return [Question(known[pair.instruction], pair.first, pair.second) for pair in pairs]


def writer(task: Task, asked: Sequence[Question]) -> tuple[Callable[[int, int], str], list[int]]:
    """A function that gives the judge's prompt n with so many items of history, and the longest histories."""
    settings = task.config.judge_prompt
    parts = instructions.parts(settings.parts.to_dict())
    role = instructions.role('judge') if settings.role else ''
    shown = _beginnings(task.language.tokenizer, {text for one in asked for text in (one.first, one.second)},
                        settings.explanation_tokens)

    def write(n: int, length: int) -> str:
        recommendation, first, second = asked[n]
        instruction = instructions.explain(recommendation, dataclasses.replace(parts, history=length))
        text = instructions.judge(instruction, shown[first], shown[second], settings.question, settings.form)
        return instructions.chat(text, settings.frame, role)

    return write, [min(parts.history, len(one.recommendation.history)) for one in asked]


def _beginnings(tokenizer: Tokenizer, texts: set[str], most: int) -> dict[str, str]:
    """Each text's first `most` tokens as text; 0: the whole."""
    texts = sorted(texts)
    if not most or not texts:
        return dict(zip(texts, texts))
    ends = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)['offset_mapping']
    return {text: text[:offsets[most - 1][1]] if len(offsets) > most else text for text, offsets in zip(texts, ends)}


class Judge:
    """The tuned judge, asked about many pairs at a time."""

    def __init__(self, task: Task, state: RunState, settings: ml_collections.ConfigDict):
        self._task, self._size = task, settings.batch_size
        self._variables = task.language.variables(state.adapters[settings.adapter])
        # As it was tuned to answer: `encode_responses` puts an EOS behind.
        self._answers = [[tuple(ids[:-1])] for ids in encode_responses(task.language.tokenizer, ['1', '2'])]
        model = task.language.model.config
        # Where positions are learned, the gaps between shared pieces may not reach beyond them.
        self._most = model.max_position_embeddings - (3 * shared.WIDTH if model.positions == 'learned' else 0)
        self.dropped = 0  # items of history that had no place
        self.too_long = 0  # questions that had none even without history: not asked
        self.asked = self.tokens = self.tokens_alone = 0  # of all questions; without what they share: that of each alone
        self.seconds = 0.0

    def log_odds(self, asked: Sequence[Question], title: str | None = None,
                 advance: Callable[[int], object] = lambda count: None) -> np.ndarray:
        """log p("1") - log p("2") of each question, float64 [M], NaN where it is too long; with a bar of that title."""
        start = time.perf_counter()
        fitted = requests.fitted(self._task.language.tokenizer, *writer(self._task, asked), self._most, strict=False)
        there = np.flatnonzero(fitted.kept >= 0)
        odds = np.full(len(asked), np.nan)
        with progress.bar(title, len(there), 0, 'questions') if title else contextlib.nullcontext(advance) as advance:
            log_probs, tokens = shared.score(
                self._task.language.model, self._variables, [fitted.ids[n] for n in there],
                [id(asked[n].recommendation) for n in there], [asked[n].first for n in there], self._answers, self._size,
                advance)
        odds[there] = np.diff(-log_probs.astype(np.float64))[:, 0]
        self.dropped += int(fitted.dropped.sum())
        self.too_long += len(asked) - len(there)
        self.asked += len(there)
        self.tokens += tokens
        self.tokens_alone += sum(len(fitted.ids[n]) for n in there)
        self.seconds += time.perf_counter() - start
        return odds

    def speed(self) -> dict[str, float]:
        """Of this process: questions, their tokens and how many went through the model, and both over the time."""
        seconds = max(self.seconds, 1e-9)
        return {'questions': self.asked, 'tokens': self.tokens, 'tokens_alone': self.tokens_alone,
                'questions_per_second': self.asked / seconds, 'tokens_per_second': self.tokens / seconds}


def accuracy(pairs: Sequence[Pair], odds: np.ndarray) -> dict[str, float]:
    """`judging.judge_metrics` of pairs in both orders (each followed by its swapped copy), and 'log_loss' in nats."""
    probability = 0.5 * (1 + np.tanh(odds / 2))
    labels = np.array([pair.label for pair in pairs])
    return judging.judge_metrics(labels[::2], probability[::2], probability[1::2]) | {
        'log_loss': log_loss(odds, labels == 1)}


def compare(task: Task, state: RunState, phase: str, settings: ml_collections.ConfigDict, judge: Judge) -> pa.Table:
    """The verdicts (`SCHEMA`) on all pairs of generators, in both orders."""
    writer = PartsWriter(task.workdir / 'judgements' / f'{phase}.parquet', SCHEMA)
    if writer.finished:
        return files.read_table(writer.path)
    names = [title for title, _ in settings.generators]
    texts = {}
    for name, written in settings.generators:
        for row in read_explanations(newest(state.explanations, written)).select(['group', 'user_id', 'text']).to_pylist():
            if row['text']:  # an empty explanation is compared with none
                texts[name, row['group'], row['user_id']] = row['text']
    wanted = requests.make(task, state, settings_of(task.config, 'explain', settings.generators[0][1]).requests)
    rows = range(len(wanted)) if not settings.max_requests else _spread(wanted.group, settings.max_requests)
    key = lambda name, row: (name, wanted.group[row], wanted.user_id[row])
    asked = [(row, first, second) for row in rows for first in names for second in names
             if first != second and key(first, row) in texts and key(second, row) in texts
             and settings.reference in ('', first, second)]
    size = settings.batch_size * settings.checkpoint_every
    done = writer.last_step
    writer.rewind(done)
    with progress.bar(phase, len(asked), min(done * size, len(asked)), 'comparisons') as advance:
        for step in range(done + 1, -(-len(asked) // size) + 1):
            part = asked[(step - 1) * size:step * size]
            odds = judge.log_odds([Question(wanted.recommendations[row], *(texts[key(name, row)] for name in pair))
                                   for row, *pair in part], advance=advance)
            writer.add(group=[wanted.group[row] for row, _, _ in part], example=[row for row, _, _ in part],
                       first=[first for _, first, _ in part], second=[second for _, _, second in part],
                       log_odds=odds.astype(np.float32), step=step)
            writer.flush(step)
    return files.read_table(writer.finish())


def _spread(groups: Sequence[str], most: int) -> list[int]:
    """The first `most` rows of each group."""
    count: dict[str, int] = {}
    rows = []
    for row, group in enumerate(groups):
        count[group] = count.get(group, 0) + 1
        if count[group] <= most:
            rows.append(row)
    return rows


def verdicts_of(table: pa.Table, group: str, names: Sequence[str]) -> np.ndarray:
    """Verdicts [N, G, G] of one group as `metrics.pairwise` has them: 1 where the first shown is preferred."""
    rows = table.filter(pa.compute.equal(table['group'], group))
    examples, place = np.unique(rows['example'].to_numpy(), return_inverse=True)
    number = {name: n for n, name in enumerate(names)}
    sides = [np.array([number[name] for name in rows[column].to_pylist()]) for column in ('first', 'second')]
    odds = rows['log_odds'].to_numpy()
    first = np.where(np.isfinite(odds), np.where(odds > 0, 1.0, np.where(odds < 0, 0.0, 0.5)), np.nan)
    return pairwise.verdicts(np.stack([place, *sides], axis=1), first, len(examples), len(names))


def told(task: Task, phase: str, settings: ml_collections.ConfigDict, table: pa.Table) -> dict:
    """Prints what the verdicts `table` come to, and returns it for `summary.json`."""
    names = [title for title, _ in settings.generators]
    if settings.reference:
        rows = against_reference(table, names, settings.reference, task.seed)
        progress.CONSOLE.print(output.table(rows, f'{phase}: {settings.condition}, against {settings.reference}'))
        win_ratio.write(task.workdir / 'analysis', phase, rows, settings.reference, settings.condition)
        return {'conditions': rows}
    reports = {group: pairwise.report(verdicts_of(table, group, names), names, seed=task.seed)
               for group in table['group'].unique().to_pylist()}
    for group, report in reports.items():
        progress.CONSOLE.print(comparison_table(phase, group, report, papers(task, settings, group)))
    return {'generators': reports}


def papers(task: Task, settings: ml_collections.ConfigDict, group: str) -> dict[str, tuple[float, float]]:
    """Title → the paper's win ratio and ranking order, of recorded generators and of what `settings.ours` is in its place."""
    phases = {title: settings_of(task.config, 'explain', name) for title, name in settings.generators}
    of = published.TABLE_2.get(next(iter(phases.values())).requests.dataset, {}).get(group, {})
    names = {title: 'LLaMA2-SFT' if title == settings.ours else phase.generator for title, phase in phases.items()}
    return {title: of[name] for title, name in names.items() if name in of}


def against_reference(table: pa.Table, names: Sequence[str], reference: str, seed: int) -> list[dict]:
    """`win_ratio.against_reference` of all generators but one, over the requests of all recommenders: rows of a table."""
    verdicts = np.concatenate([verdicts_of(table, group, names) for group in table['group'].unique().to_pylist()])
    other = names.index(reference)
    pairs = {name: verdicts[:, [place, other]][:, :, [place, other]] for place, name in enumerate(names) if place != other}
    return [{'condition': name} | figures for name, figures in win_ratio.against_reference(pairs, seed=seed).items()]


def accuracy_table(phase: str, result: dict) -> rich.table.Table:
    """How well the judge tells which explanation people preferred."""
    table = rich.table.Table(title=f'{phase}: the judge on labelled pairs, in both orders', title_justify='left')
    table.add_column('')
    for title in judging.LABELS.values():
        table.add_column(title, justify='right')
    for name, title in (('validation', 'validation'), ('held_out', 'held out')):
        if name in result:
            table.add_row(title, *(f'{result[name][metric]:.3f}' for metric in judging.LABELS))
    return table


def comparison_table(phase: str, group: str, report: dict, paper: Mapping[str, tuple[float, float]]) -> rich.table.Table:
    """Win ratio, ranking order and strength of each generator, with intervals over instructions, and the paper's two."""
    bias = ', '.join(f'{pairwise.LABELS[name]} {report[name]["value"]:.1%}' for name in ('share_of_second', 'flips'))
    ranked = '' if report['complete'] == report['judged'] else (
        f' ({report["complete"]:,} with an explanation by each generator: these alone are ranked)')
    progress.say(f'{phase}: {group}, {report["judged"]:,} instructions{ranked}, every pair in both orders; {bias}')
    table = rich.table.Table(title='with 95 % intervals over instructions', title_justify='left')
    table.add_column('')
    metrics = ('win_ratio', 'ranking_order', 'strength')
    for metric in metrics:
        table.add_column(pairwise.LABELS[metric], justify='right')
    for title in ('the paper: win ratio', 'ranking order') if paper else ():
        table.add_column(title, justify='right')
    compared = {name: figures for name, figures in report['generators'].items() if figures['comparisons']}
    for name, figures in sorted(compared.items(), key=lambda one: -one[1]['win_ratio']['value']):
        table.add_row(name, *(_with_interval(figures[metric]) for metric in metrics),
                      *(f'{value:.3f}' for value in paper.get(name, ())))
    for name in report['generators'].keys() - compared.keys():
        table.add_row(name, 'no explanation', *('',) * (len(metrics) - 1), *(f'{value:.3f}' for value in paper.get(name, ())))
    return table


def _with_interval(figure: Mapping[str, float]) -> str:
    """'0.807 [0.793, 0.821]', '–' for a figure that there is not."""
    return '–' if np.isnan(figure['value']) else f'{figure["value"]:.3f} [{figure["low"]:.3f}, {figure["high"]:.3f}]'
