"""`explain` with `writes='truth'` or `'shuffled'`: texts that bound from above and below what reasons can be worth.

  truth     the true reason of the rating, in the form of a positive and a negative explanation: in a simulated world
            what the user loves and hates of the item; elsewhere what the user wrote of it. No system in use could
            know them
  shuffled  what the newest `explain(settings.of)` wrote, each pair of texts given to another example of its split: the
            same words, and nothing to learn from them

A network that is fitted on them is otherwise the same.
"""

from collections.abc import Sequence

import ml_collections
import numpy as np
import pyarrow as pa

from xrec_jax.data.readers import simulated
from xrec_jax.errors import UserError
from xrec_jax.phases import writing
from xrec_jax.phases.task import Task
from xrec_jax.runs import progress
from xrec_jax.runs.explanations import ExplanationWriter, newest, read_explanations
from xrec_jax.runs.state import RunState


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Writes the texts of all splits."""
    writer = ExplanationWriter(task.workdir, phase)
    if not writer.finished:
        if settings.writes == 'truth':
            _write_truth(task, writer)
        else:
            _write_shuffled(task, state, settings, writer, index)
        writer.flush(1)
        writer.finish()
    table = read_explanations(writer.path)
    empty = int((table['text'].to_numpy() == '').sum())
    progress.say(f'{phase}: {len(table):,} texts ({settings.writes}), {empty:,} of them empty')
    return state.replace(explanations=state.explanations | {phase: writer.path})


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError where there is no truth to tell, or nothing to shuffle."""
    if settings.writes == 'shuffled' and f'explain({settings.of})' not in earlier:
        raise UserError(f'schedule: explain({settings.name}) shuffles what explain({settings.of}) wrote: put that '
                        'before it.')
    reviews = task.dataset.interactions['review']
    if settings.writes == 'truth' and reviews.null_count == len(reviews):
        raise UserError(f'schedule: explain({settings.name}) tells the true reasons, and dataset "{task.dataset.name}" '
                        'has neither planted ones nor reviews: take it, and what reads it, out of the schedule.')


def true_reasons(task: Task, split: str, kind: str) -> list[str]:
    """Of each example of a split; '' where nothing speaks for it."""
    rows = task.examples[split].interaction
    reviews = [review or '' for review in task.dataset.interactions['review'].take(pa.array(rows)).to_pylist()]
    if task.dataset.name != 'simulated':
        return reviews
    domain = task.dataset.domain
    of_kind = [simulated.reasons_in(review)[kind == 'negative'] for review in reviews]
    verb = 'loves' if kind == 'positive' else 'cannot stand'
    what = domain.consumed if kind == 'positive' else f'did not {domain.consume}'
    return [f'The user {what} this {domain.item} because the user {verb} {reason} and the {domain.item} has {reason}.'
            if reason else '' for reason in of_kind]


def _write_truth(task: Task, writer: ExplanationWriter) -> None:
    for split in task.examples:
        for kind in task.kinds:
            texts = true_reasons(task, split, kind)
            vectors = writing.encode(task, texts)
            _add(task, writer, split, kind, texts, vectors * np.array([text != '' for text in texts])[:, None])


def _write_shuffled(task: Task, state: RunState, settings, writer: ExplanationWriter, index: int) -> None:
    path = newest(state.explanations, settings.of)
    for number, (split, examples) in enumerate(task.examples.items()):
        random = np.random.Generator(np.random.Philox(key=[task.seed, index << 8 | number]))
        order = another(random, len(examples.user))
        for kind in task.kinds:
            table = read_explanations(path, split, kind).sort_by('example')
            if len(table) != len(order):
                raise UserError(f'explain({settings.name}): explain({settings.of}) wrote {len(table):,} {kind} texts '
                                f'for the {len(order):,} examples of the {split} split; shuffling needs one each.')
            shuffled = table.take(pa.array(order))
            _add(task, writer, split, kind, shuffled['text'], list(shuffled['vector'].to_pylist()))


def another(random: np.random.Generator, count: int) -> np.ndarray:
    """int [N]: for each of N examples another one (where N > 1), each once: a random cycle through all."""
    cycle = random.permutation(count)
    order = np.empty(count, int)
    order[cycle] = np.roll(cycle, 1)
    return order


def _add(task: Task, writer: ExplanationWriter, split: str, kind: str, texts, vectors) -> None:
    examples = task.examples[split]
    writer.add(user_id=task.dataset.users['user_id'].take(examples.user),
               item_id=task.dataset.items['item_id'].take(examples.item), kind=kind, split=split,
               example=np.arange(len(examples.user), dtype=np.int32), text=texts, step=1, vector=vectors)
