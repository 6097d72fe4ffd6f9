"""`judge` of pairs (LLMXRec, section 3.3): a tuned judge compares the explanations of several generators.

  calibrated   the temperature of the judge's odds, on the pairs that it was validated on
  accuracy     on labelled pairs that it has not seen, in both orders
  compared     all pairs of `settings.generators` for each request, in both orders: win ratio (eq. 6), ranking order
               (eq. 7), position bias, Bradley-Terry strengths (`metrics.pairwise`)

The judge answers "1" or "2" (eq. 4); its verdict is read from the logits of the two after one prefill. Verdicts lie
in judgements/<phase>.parquet, and a stopped run goes on from its last part.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
import pyarrow as pa
import rich.table

from xrec_jax.errors import UserError
from xrec_jax.language import choices, instructions, tokenizers
from xrec_jax.language.instructions import Recommendation
from xrec_jax.language.material import judge_pairs
from xrec_jax.language.material.judge_pairs import Pair
from xrec_jax.metrics import judging, pairwise
from xrec_jax.metrics.calibration import fit_temperature, log_loss
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import requests
from xrec_jax.phases.settings import settings_of
from xrec_jax.phases.task import Task
from xrec_jax.runs import files, progress
from xrec_jax.runs.explanations import read_explanations
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
        table = compare(task, state, phase, settings, judge)
        names = [title for title, _ in settings.generators]
        result['generators'] = {group: pairwise.report(verdicts_of(table, group, names), names, seed=task.seed)
                                for group in table['group'].unique().to_pylist()}
        for group, report in result['generators'].items():
            progress.CONSOLE.print(comparison_table(phase, group, report))
    if judge.dropped:
        progress.say(f'{phase}: {judge.dropped:,} items of history left out of the judge\'s prompts, which were too long')
    if judge.too_long:
        progress.say(f'{phase}: {judge.too_long:,} questions were too long even without history and were not asked')
    return result | {'history_left_out': judge.dropped, 'too_long': judge.too_long}


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError where the judge or an explanation is not there by then, or the pairs cannot be read."""
    sharding.check_batch('judge.batch_size', settings.batch_size, task.mesh)
    instructions.parts(task.config.judge_prompt.parts.to_dict())
    for _, name in settings.generators:
        if f'explain({name})' not in earlier:
            raise UserError(f'schedule: judge({settings.name}) compares explain({name}), which is not before it.')
    sources = {repr(settings_of(task.config, 'explain', name).requests.to_dict()) for _, name in settings.generators}
    if len(sources) > 1:
        raise UserError(f'judge({settings.name}): its generators explain different requests and cannot be compared; give '
                        'their explain phases the same "requests".')
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
    return [Question(instructions.parse(pair.instruction), pair.first, pair.second) for pair in pairs]


def writer(task: Task, asked: Sequence[Question]) -> tuple[Callable[[int, int], str], list[int]]:
    """A function that gives the judge's prompt n with so many items of history, and the longest histories."""
    settings = task.config.judge_prompt
    parts = instructions.parts(settings.parts.to_dict())
    role = instructions.role('judge') if settings.role else ''

    def write(n: int, length: int) -> str:
        recommendation, first, second = asked[n]
        instruction = instructions.explain(recommendation, dataclasses.replace(parts, history=length))
        return instructions.chat(instructions.judge(instruction, first, second, settings.question), settings.frame, role)

    return write, [min(parts.history, len(one.recommendation.history)) for one in asked]


class Judge:
    """The tuned judge, asked about many pairs at a time."""

    def __init__(self, task: Task, state: RunState, settings: ml_collections.ConfigDict):
        self._task, self._size = task, settings.batch_size
        self._variables = task.language.variables(state.adapters[settings.adapter])
        self._answers = [choices.spellings(task.language.tokenizer, word) for word in ('1', '2')]
        self._most = task.language.model.config.max_position_embeddings
        self.dropped = 0  # items of history that had no place
        self.too_long = 0  # questions that had none even without history: not asked

    def log_odds(self, asked: Sequence[Question], title: str | None = None) -> np.ndarray:
        """log p("1") - log p("2") of each question, float64 [M], NaN where it is too long; with a bar of that title."""
        fitted = requests.fitted(self._task.language.tokenizer, *writer(self._task, asked), self._most, strict=False)
        rows = fitted.ids
        self.dropped += int(fitted.dropped.sum())
        self.too_long += int((fitted.kept < 0).sum())
        # Together those that are about as long: few widths are compiled, and little is padded.
        widths = np.array([-(-len(row) // 64) * 64 for row in rows])
        widths[fitted.kept < 0] = 0  # not asked
        order = np.argsort(widths, kind='stable')
        odds = np.full(len(rows), np.nan)
        bar = progress.bar(title, len(rows), 0, 'questions') if title else contextlib.nullcontext(lambda count: None)
        with bar as advance:
            for width in np.unique(widths[widths > 0]):
                alike = order[widths[order] == width]
                for start in range(0, len(alike), self._size):
                    chosen = alike[start:start + self._size]
                    filled = np.resize(chosen, self._size)  # the last batch is filled up: one static shape
                    batch = tokenizers.pad([rows[n] for n in filled], int(width), 'left')
                    log_probs = choices.score(self._task.language.model, self._variables,
                                              *sharding.place_batch(batch, self._task.mesh), self._answers)
                    odds[chosen] = distributed.whole(log_probs[:, 0] - log_probs[:, 1]).astype(np.float64)[:len(chosen)]
                    advance(len(chosen))
        return odds


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
        path = [path for done, path in state.explanations.items() if done.endswith(f'-explain-{written}')][-1]
        for row in read_explanations(path).select(['group', 'example', 'text']).to_pylist():
            if row['text']:  # an empty explanation is compared with none
                texts[name, row['group'], row['example']] = row['text']
    wanted = requests.make(task, state, settings_of(task.config, 'explain', settings.generators[0][1]).requests)
    rows = range(len(wanted)) if not settings.max_requests else _spread(wanted.group, settings.max_requests)
    asked = [(row, first, second) for row in rows for first in names for second in names
             if first != second and all((name, wanted.group[row], row) in texts for name in (first, second))]
    size = settings.batch_size * settings.checkpoint_every
    done = writer.last_step
    writer.rewind(done)
    with progress.bar(phase, len(asked), min(done * size, len(asked)), 'comparisons') as advance:
        for step in range(done + 1, -(-len(asked) // size) + 1):
            part = asked[(step - 1) * size:step * size]
            odds = judge.log_odds([Question(wanted.recommendations[row], *(texts[name, wanted.group[row], row]
                                                                           for name in pair)) for row, *pair in part])
            writer.add(group=[wanted.group[row] for row, _, _ in part], example=[row for row, _, _ in part],
                       first=[first for _, first, _ in part], second=[second for _, _, second in part],
                       log_odds=odds.astype(np.float32), step=step)
            writer.flush(step)
            advance(len(part))
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


def comparison_table(phase: str, group: str, report: dict) -> rich.table.Table:
    """Win ratio, ranking order and strength of each generator, with intervals over instructions."""
    bias = ', '.join(f'{pairwise.LABELS[name]} {report[name]["value"]:.1%}' for name in ('share_of_second', 'flips'))
    progress.say(f'{phase}: {group}, {report["judged"]:,} instructions, every pair in both orders; {bias}')
    table = rich.table.Table(title='with 95 % intervals over instructions', title_justify='left')
    table.add_column('')
    metrics = ('win_ratio', 'ranking_order', 'strength')
    for metric in metrics:
        table.add_column(pairwise.LABELS[metric], justify='right')
    for name, figures in sorted(report['generators'].items(), key=lambda one: -one[1]['win_ratio']['value']):
        table.add_row(name, *(f'{one["value"]:.3f} [{one["low"]:.3f}, {one["high"]:.3f}]'
                              for one in (figures[metric] for metric in metrics)))
    return table
