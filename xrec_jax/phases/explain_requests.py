"""`explain` for requests (`phases.requests`): every generator of explanations writes rows of the same table.

  model     our language model: `settings.adapter` names the adapter it writes with, '' is the base model
  recorded  what `settings.generator` has in the file of the requests; what it was not asked about has no row
  endpoint  any OpenAI-compatible server (`language.endpoint`); answers are kept in answers/<phase>.jsonl

What was asked, with what was written as drafts, is left as instruction data (`cases`). A stopped phase goes on from its last part (model), or from the answers on disk (endpoint).
"""

import time
from collections.abc import Callable, Sequence

import jax
import ml_collections
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import endpoint as endpoints
from xrec_jax.language import instructions
from xrec_jax.parallel import distributed
from xrec_jax.phases import cases, explained, requests, writing
from xrec_jax.phases.requests import Requests
from xrec_jax.phases.settings import settings_of
from xrec_jax.phases.task import Task
from xrec_jax.runs import files, preemption, progress, store
from xrec_jax.runs.explanations import ExplanationWriter, read_explanations
from xrec_jax.runs.state import RunState
from xrec_jax.runs.summary import update_summary


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Writes an explanation for each of the requests of `settings.requests`."""
    writer = ExplanationWriter(task.workdir, phase)
    if not writer.finished or not explained.path_of(task.workdir, phase).exists():
        wanted = requests.make(task, state, settings.requests)
        explained.write_requests(task, phase, wanted)
    if not writer.finished:
        WRITERS[settings.writer](task, state, phase, index, settings, wanted, writer)
        writer.finish()
        if settings.writer != 'recorded':
            cases.write(task.workdir, phase, settings.name, wanted, requests.texts(task, wanted, changes(settings)),
                        read_explanations(writer.path))
    if settings.requests.source == 'top1' and distributed.is_main():  # these have the ids of the source data
        store.publish(task.workdir, writer.path)
    table = read_explanations(writer.path)
    words = [len(text.split()) for text in table['text'].to_pylist()]
    progress.say(f'{phase}: {len(table):,} explanations ({", ".join(table["group"].unique().to_pylist())}); '
                 f'{np.mean(words):.1f} words each, {sum(count == 0 for count in words)} empty')
    return state.replace(explanations=state.explanations | {phase: writer.path})


def changes(settings: ml_collections.ConfigDict) -> dict:
    """`settings.parts`: what of `config.prompt.parts` is otherwise in this phase (the ablations of section 4.3)."""
    return settings.get('parts', ml_collections.ConfigDict()).to_dict()


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for an unknown writer, requests that cannot be made, or a generator that the file does not have."""
    if settings.writer not in WRITERS:
        raise UserError(f'explain.writer: "{settings.writer}" is none.{nearest(settings.writer, WRITERS)}')
    requests.check(task, settings.requests, list(earlier))
    instructions.parts(task.config.prompt.parts.to_dict() | changes(settings))
    if settings.writer == 'recorded':
        if settings.requests.source != 'recorded':
            raise UserError(f'explain({settings.name}): recorded explanations are of what they were asked about: set '
                            'explain.requests.source="recorded".')
        for group in requests.recorded_groups(settings.requests):
            if settings.generator not in group.generators:
                raise UserError(f'explain({settings.name}).generator: "{settings.generator}" has written nothing in '
                                f'{settings.requests.file} for {group.recommender}.'
                                f'{nearest(settings.generator, group.generators)}')
    if settings.writer == 'endpoint':
        endpoints.endpoint(settings.endpoint.to_dict())
        if files.is_remote(task.workdir):
            raise UserError(f'explain({settings.name}): the answers of an endpoint are kept in a file that grows, which '
                            'a bucket does not have; choose a --workdir on a disk.')
    if settings.writer == 'model' and settings.adapter and not any(
            settings_of(task.config, 'tune', entry[5:-1]).adapter_name == settings.adapter
            for entry in earlier if entry.startswith('tune(')):
        raise UserError(f'explain({settings.name}).adapter: no phase tune before it makes the adapter '
                        f'"{settings.adapter}"; "" writes with the base model.')


def _by_model(task: Task, state: RunState, phase: str, index: int, settings, wanted: Requests,
              writer: ExplanationWriter) -> None:
    sampling = writing.sampling_config(task)
    most = task.language.model.config.max_position_embeddings - sampling.max_length
    rows, dropped = requests.prompts(task, wanted, most, changes(settings))
    if dropped:
        progress.say(f'{phase}: {dropped:,} items of history left out, the oldest of each prompt that is longer than '
                     f'{most:,} tokens')
    width = -(-max(map(len, rows)) // 32) * 32
    adapter = state.adapters[settings.adapter] if settings.adapter else None
    key = jax.random.fold_in(jax.random.key(task.seed), index)
    size = settings.batch_size * settings.checkpoint_every
    done = writer.last_step
    writer.rewind(done)
    task.metrics.rewind(phase, done)
    start, count = time.perf_counter(), 0
    with progress.bar(phase, len(rows), min(done * size, len(rows)), 'texts') as advance:
        for step in range(done + 1, -(-len(rows) // size) + 1):
            part = slice((step - 1) * size, step * size)
            began = time.perf_counter()
            responses = writing.write_queue(task, adapter, rows[part], jax.random.fold_in(key, step),
                                            settings.batch_size, sampling, advance, width)
            _add(writer, wanted, np.arange(len(wanted))[part], writing.texts_of(task, responses), step=step,
                 num_tokens=np.asarray(responses.lengths, np.int32), truncated=np.asarray(responses.truncated))
            count += int(responses.lengths.sum())
            task.metrics.write(phase, step, writing.figures(
                task, sum(map(len, rows[part])), np.asarray(responses.lengths), np.asarray(responses.truncated),
                time.perf_counter() - began))
            writer.flush(step)
            if preemption.requested():
                preemption.leave(phase, step)
    if count:
        seconds = time.perf_counter() - start
        prefilled = sum(map(len, rows[done * size:]))
        progress.say(f'{phase}: {count / seconds:,.0f} new tokens/s, {(count + prefilled) / seconds:,.0f} with the prompts\'')
        update_summary(task.workdir, {phase: {'new_tokens_per_second': count / seconds,
                                              'tokens_per_second': (count + prefilled) / seconds}})


def _recorded(task: Task, state: RunState, phase: str, index: int, settings, wanted: Requests,
              writer: ExplanationWriter) -> None:
    del task, state, index
    groups = requests.recorded_groups(settings.requests)
    columns = [group.generators.index(settings.generator) for group in groups]
    texts = np.concatenate([group.explanations[:, column] for group, column in zip(groups, columns)])
    same = np.concatenate([group.same[:, column] for group, column in zip(groups, columns)])
    if not same.all():
        progress.say(f'{phase}: {int((~same).sum()):,} of {len(same):,} are left out: not written, or about another item '
                     'than most generators were asked about')
    rows = np.flatnonzero(same)
    writer.rewind(0)  # a run that was stopped before the end of the phase may have written them
    _add(writer, wanted, rows, [' '.join(text.split()) for text in texts[rows]], step=1)
    writer.flush(1)


def _by_endpoint(task: Task, state: RunState, phase: str, index: int, settings, wanted: Requests,
                 writer: ExplanationWriter) -> None:
    del state, index
    endpoint = endpoints.endpoint(settings.endpoint.to_dict())
    prompts = requests.texts(task, wanted, changes(settings))
    with progress.bar(phase, len(prompts), 0, 'texts') as advance:
        # Process 0 asks; the others then find all answers in the file.
        answers = distributed.main_first(lambda: endpoints.ask(
            endpoint, prompts, task.workdir / 'answers' / f'{phase}.jsonl', advance))
    progress.say(f'{phase}: ' + ', '.join(f'{name.replace("_", " ")} {value}' for name, value in answers.summary.items()
                                          if value not in (None, 0)))
    writer.rewind(0)  # as in `_recorded`
    _add(writer, wanted, np.arange(len(wanted)), [' '.join(text.split()) for text in answers.texts], step=1,
         num_tokens=np.array([row.completion_tokens or 0 for row in answers.rows], np.int32),
         truncated=np.array([row.finish == 'length' for row in answers.rows]))
    writer.flush(1)


WRITERS: dict[str, Callable] = {'model': _by_model, 'recorded': _recorded, 'endpoint': _by_endpoint}


def _add(writer: ExplanationWriter, wanted: Requests, rows: np.ndarray, texts: Sequence[str], **columns) -> None:
    pick = lambda values: [values[row] for row in rows]
    writer.add(user_id=pick(wanted.user_id), item_id=pick(wanted.item_id), group=pick(wanted.group), kind='reason',
               split=wanted.source, example=rows.astype(np.int32), text=list(texts), **columns)
