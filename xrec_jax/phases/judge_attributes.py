"""`judge` of attributes (LLMXRec, section 3.3 and table 3): does the model infer what it was not told?

For the requests of `settings.requests` (the items that recommenders put first) each model of `settings.models` answers
the instruction for attribute prediction in JSON; `metrics.inferred` says what is right. Rows for a random guess and
for the commonest value stand beside the models. Answers lie in judgements/<phase>.parquet.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import pyarrow as pa
import rich.table

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import instructions
from xrec_jax.language.instructions import Recommendation
from xrec_jax.language.json_answers import parse_answer
from xrec_jax.metrics import inferred
from xrec_jax.phases import requests, writing
from xrec_jax.phases.task import Task
from xrec_jax.runs import files, progress
from xrec_jax.runs.parts import PartsWriter
from xrec_jax.runs.state import RunState

SCHEMA = pa.schema([
    ('group', pa.string()),  # the recommender
    ('example', pa.int32()),  # the request
    ('attributes', pa.string()),  # the task of `instructions.TASKS`
    ('model', pa.string()),
    ('answer', pa.string()),
    ('step', pa.int32()),
])


def run(task: Task, state: RunState, phase: str, settings: ml_collections.ConfigDict) -> dict:
    """Asks, prints a table for each recommender, and returns their figures for `summary.json`."""
    wanted = requests.make(task, state, settings.requests)
    targets = {name: [target(one, name) for one in wanted.recommendations] for name in settings.attributes}
    answers = _answers(task, state, phase, settings, wanted)
    result = {}
    for group in dict.fromkeys(wanted.group):
        rows = [row for row, name in enumerate(wanted.group) if name == group]
        result[group] = {}
        for asked in settings.attributes:
            known = [targets[asked][row] for row in rows]
            given = {model: [parse_answer(answers[model, asked, row]) for row in rows] for model in settings.models}
            result[group] |= inferred.table(given, known, training=known)
        progress.CONSOLE.print(accuracy_table(phase, group, result[group]))
    return result


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for an unknown attribute task, or requests that cannot be made by then."""
    for name in settings.attributes:
        if name not in instructions.TASKS:
            raise UserError(f'judge.attributes: "{name}" is no task.{nearest(name, instructions.TASKS)}')
    requests.check(task, settings.requests, list(earlier))


def target(one: Recommendation, asked: str) -> Mapping[str, Any]:
    """The true values of a task's attributes, those that are known."""
    if asked == 'customer':
        known = {name: one.profile.get(name) for name in ('age', 'gender', 'occupation')}
    elif asked == 'category':
        known = {'category': one.candidate.categories[0] if one.candidate.categories else None}
    elif asked == 'interest':
        known = {'interest': sorted({name for item in one.history for name in item.categories}) or None}
    else:
        known = {asked: one.candidate.facts.get(asked)}
    return {name: value for name, value in known.items() if value}


def _answers(task: Task, state: RunState, phase: str, settings: ml_collections.ConfigDict, wanted: requests.Requests
             ) -> dict[tuple[str, str, int], str]:
    """Answer by model, attribute task and row; written model after model, a part each."""
    writer = PartsWriter(task.workdir / 'judgements' / f'{phase}.parquet', SCHEMA)
    if not writer.finished:
        done = writer.last_step
        writer.rewind(done)
        asked = [(model, name) for model in settings.models for name in settings.attributes]
        with progress.bar(phase, len(asked) * len(wanted), done * len(wanted), 'answers') as advance:
            for step, (model, name) in enumerate(asked[done:], done + 1):
                texts, left_out = _ask(task, state, settings, settings.models[model], name, wanted, step, advance)
                if left_out:
                    progress.say(f'{phase}: {left_out:,} items of history left out of the prompts for {name}, the oldest '
                                 'of each that was too long')
                writer.add(group=wanted.group, example=np.arange(len(wanted), dtype=np.int32), attributes=name,
                           model=model, answer=texts, step=step)
                writer.flush(step)
        writer.finish()
    return {(row['model'], row['attributes'], row['example']): row['answer']
            for row in files.read_table(writer.path).to_pylist()}


def _ask(task: Task, state: RunState, settings: ml_collections.ConfigDict, adapter: str, name: str,
         wanted: requests.Requests, step: int, advance) -> tuple[list[str], int]:
    """The answers of one model to one task, in the order of the requests, greedy; how many items of history had no
    place in the prompts."""
    sampling = writing.sampling_config(task, temperature=0.0, max_length=settings.max_length)
    most = task.language.model.config.max_position_embeddings - sampling.max_length
    frame = task.config.prompt.frame

    def write(n: int, length: int) -> str:
        return instructions.chat(instructions.attributes(wanted.recommendations[n], name, length), frame)

    lengths = [min(settings.history, len(one.history)) for one in wanted.recommendations]
    fitted = requests.fitted(task.language.tokenizer, write, lengths, most)
    responses = writing.write_queue(
        task, state.adapters[adapter] if adapter else None, fitted.ids,
        jax.random.fold_in(jax.random.key(task.seed), step), settings.batch_size, sampling, advance)
    return writing.texts_of(task, responses), int(fitted.dropped.sum())


def accuracy_table(phase: str, group: str, figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> rich.table.Table:
    """Table 3: a row for guesses and for each model, a column for each attribute; unread answers counted apart."""
    table = rich.table.Table(title=f'{phase}: {group}, accuracy (answers that could not be read)', title_justify='left')
    table.add_column('')
    for name in figures:
        table.add_column(name, justify='right')
    for row in next(iter(figures.values())):
        table.add_row(row, *(f'{one[row]["accuracy"]:.3f}' + (f' ({one[row]["unread"]:,.0f})' if 'unread' in one[row] else '')
                             for one in figures.values()))
    return table
