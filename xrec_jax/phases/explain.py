"""`explain`: the policy writes an explanation for every example of some splits.

Nothing is trained, and the prompts hold no label of the target. Where `prompt.click` asks for it each explanation is
scored by the frozen model (ExpCTR eq. 8), and where `encode` says so kept with its vector (eq. 11). RecPIE has two for
each example, a positive and a negative one; whether they have the form that was asked for is kept with them.

`explain.writes` says what is written, 'reasons' or one of `OTHERS`: item profiles, texts that bound what reasons can
be worth, or those of a predictor that writes (PETER). What the newest phase wrote by user and item goes to the run's
store too, for `python -m xrec_jax.explain`, and what the texts are about to `examples/<phase>.parquet` (`explained`), for
`python -m xrec_jax.report`.
"""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import jax
import ml_collections
import numpy as np

from xrec_jax.data.protocols import Examples
from xrec_jax.errors import UserError, nearest
from xrec_jax.language import generate
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import (contrast, explain_bounds, explain_predictor, explain_profiles, explain_requests, explained,
                             writing)
from xrec_jax.phases.task import Task
from xrec_jax.rl import rewards
from xrec_jax.runs import preemption, progress, store
from xrec_jax.runs.compiles import num_compiles
from xrec_jax.runs.explanations import ExplanationWriter, read_explanations
from xrec_jax.runs.state import RunState

REASONS = 'reasons'
OTHERS: dict[str, ModuleType] = {'profiles': explain_profiles, 'truth': explain_bounds, 'shuffled': explain_bounds,
                                 'predictor': explain_predictor}


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Explains `settings.splits`; `settings.adapter` False writes with the base model.

    `settings.max_examples` > 0 takes so many random examples of the train split only.
    """
    if 'requests' in settings and settings.requests.source != 'examples':
        return explain_requests.run(task, state, phase, index, settings)
    if (writes := settings.get('writes', REASONS)) != REASONS:
        return OTHERS[writes].run(task, state, phase, index, settings)
    key = jax.random.fold_in(jax.random.key(task.seed), index)
    writer = ExplanationWriter(task.workdir, phase, split=True)
    batches = [(split, rows) for split in settings.splits for rows in _batches(task, split, index, settings)]
    if not writer.finished:
        done = writer.last_step
        writer.rewind(done)
        task.metrics.rewind(phase, done)
        with progress.bar(phase, len(batches) * settings.batch_size, done * settings.batch_size,
                          'texts') as advance:
            for step, (split, rows) in enumerate(batches[done:], done + 1):
                row = _explain(task, state, split, rows, jax.random.fold_in(key, step), step, settings, writer)
                task.metrics.write(phase, step, row)
                stop = preemption.requested()
                if stop or step % settings.checkpoint_every == 0 or step == len(batches):
                    writer.flush(step)
                if stop:
                    preemption.leave(phase, step)
                advance(len(rows))
        writer.finish()
    if distributed.is_main():
        store.publish(task.workdir, writer.path)
        explained.write(task, phase, {split: np.concatenate([rows for name, rows in batches if name == split])
                                      for split in settings.splits})
    progress.say(summary(task, phase, settings, writer))
    return state.replace(explanations=state.explanations | {phase: writer.path})


def restored(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """The state after a phase that is done, from what it has on disk, which stays as it is."""
    del index
    if settings.get('writes', REASONS) == 'profiles':
        return explain_profiles.restored(task, state, phase, settings)
    path = task.workdir / 'explanations' / f'{phase}.parquet'
    return state.replace(explanations=state.explanations | {phase: path})


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for an unknown split, or a batch that cannot be shared."""
    sharding.check_batch('explain.batch_size', settings.batch_size, task.mesh)
    if 'requests' in settings and settings.requests.source != 'examples':
        return explain_requests.check(task, settings, earlier)
    if (writes := settings.get('writes', REASONS)) != REASONS:
        if writes not in OTHERS:
            raise UserError(f'explain.writes: "{writes}" is nothing to write.{nearest(writes, [REASONS, *OTHERS])}')
        return OTHERS[writes].check(task, settings, earlier)
    for split in settings.splits:
        if split not in task.examples:
            raise UserError(f'explain.splits: "{split}" is no split.{nearest(split, task.examples)}')


def _batches(task: Task, split: str, index: int, settings: ml_collections.ConfigDict) -> list[np.ndarray]:
    rows = np.arange(len(task.examples[split].user))
    if split == 'train' and 0 < settings.max_examples < len(rows):
        random = np.random.Generator(np.random.Philox(key=[task.seed, index]))
        rows = np.sort(random.permutation(rows)[:settings.max_examples])
    return np.split(rows, range(settings.batch_size, len(rows), settings.batch_size))


def _explain(task: Task, state: RunState, split: str, rows: np.ndarray, key: jax.Array, step: int, settings,
             writer: ExplanationWriter) -> dict[str, float]:
    """Explains one batch; its row of metrics."""
    watch, compiles, size, numbers = progress.Stopwatch(), num_compiles(), len(rows), []
    filled = np.resize(rows, settings.batch_size)  # the last batch is filled up: one static shape
    prompts = lambda kind: writing.prompt_batch(task, state, split, filled, (kind,))
    for columns, lengths in written(task, state, settings, task.examples[split], filled, size, prompts, key, watch):
        vector = None
        if settings.encode:
            with watch('score'):
                vector = writing.encode(task, columns['text'])
        writer.add(split=split, step=step, vector=vector, **columns)
        numbers.append(distributed.whole(lengths))
    prompted, lengths, truncated = (np.concatenate([array[:size] for array in arrays]) for arrays in zip(*numbers))
    return {**writing.figures(task, prompted.sum(), lengths, truncated, sum(watch.seconds.values())),
            'compiles': num_compiles() - compiles,
            **{f'seconds_{name}': value for name, value in watch.seconds.items()}}


def written(task: Task, state: RunState, settings: ml_collections.ConfigDict, examples: Examples, filled: np.ndarray,
            count: int, prompts: Callable[[str], tuple[jax.Array, jax.Array]], key: jax.Array,
            watch: progress.Stopwatch, sampling: SamplingConfig | None = None
            ) -> Iterator[tuple[dict, tuple[jax.Array, jax.Array, jax.Array]]]:
    """Writes a batch of explanations, kind after kind.

    Args:
      filled: int [B], rows of `examples`, of which the first `count` are wanted.
      prompts: kind → tokens and mask [B, P], on the mesh.
      key: one, or [B], one of each row; `sampling`: that of the config where it is not given.
      watch: is told the seconds to `generate` and to `score`.

    Yields of each kind the columns of `runs.explanations.SCHEMA`, of this process's wanted rows; and of all B rows,
    on the device, the prompts' lengths, the responses' and whether these were truncated.
    """
    adapter = state.adapter if settings.adapter else None
    prefix = writing.soft_prefix(task, state, examples.user[filled]) if settings.adapter else None
    here = distributed.rows_here(task.mesh, len(filled))  # of this process, as all rows and texts below
    mine, count = filled[here], int((here < count).sum())
    rows = mine[:count]
    for number, kind in enumerate(task.kinds):
        kind_key = key if len(task.kinds) == 1 else generate.keys_at(key, number)
        prompt = prompts(kind)
        with watch('generate'):
            responses = writing.write(task, adapter, prompt, kind_key, prefix, sampling)
            texts = contrast.begun(task, kind, writing.texts_of(task, responses))
        columns = {}
        with watch('score'):
            if task.explains_examples:
                scores = writing.llm_scores(task, examples.item[mine], texts)[:count]
                columns = {'llm_score': scores, 'reward': np.asarray(rewards.lc_reward(examples.label[rows], scores))}
            else:
                columns = {'in_form': contrast.in_form(task, kind, examples.item[rows], texts[:count])}
        lengths, truncated = distributed.part_here((responses.lengths, responses.truncated), task.mesh)
        yield {
            'user_id': task.dataset.users['user_id'].take(examples.user[rows]),
            'item_id': task.dataset.items['item_id'].take(examples.item[rows]),
            'kind': kind, 'example': rows.astype(np.int32), 'text': texts[:count],
            'num_tokens': lengths[:count].astype(np.int32), 'truncated': truncated[:count], **columns,
        }, (prompt[1].sum(axis=1), responses.lengths, responses.truncated)


def summary(task: Task, phase: str, settings: ml_collections.ConfigDict, writer: ExplanationWriter) -> str:
    """The line that is printed at the end."""
    table = read_explanations(writer.path)
    who = 'the tuned model' if settings.adapter else 'the frozen model'
    line = (f'{phase}: {len(table)} explanations ({", ".join(settings.splits)}) by {who}; '
            f'{np.mean(table["num_tokens"].to_numpy()):.1f} tokens each, '
            f'{np.mean(table["truncated"].to_numpy(zero_copy_only=False)):.1%} truncated')
    if task.explains_examples:
        return f'{line}, mean LC reward {np.mean(table["reward"].to_numpy()):.3f}'
    missed = [int((~table['in_form'].to_numpy(zero_copy_only=False)[table['kind'].to_numpy() == kind]).sum())
              for kind in task.kinds]
    return f'{line}; ' + ', '.join(f'{count:,} {kind} ones' for count, kind in zip(missed, task.kinds)
                                   ) + ' not in the form that was asked for (kept)'
