"""`explain` with `writes='profiles'`: the frozen model writes a short profile of every item that an example shows.

From title, attributes and a few reviews of the training split, by the template `prompt.profile` (RecPIE, section 2.1:
"the profile of the past products"; the paper gives no prompt for it). Profiles depend on nothing that is learned later,
so they are written once: to the folder `profile.store` (the run's own `profiles/` by default), in a file whose name is
a hash of the model, the sampling and all prompts. `profile.stop` cuts a text where it first stands. A run that asks for the same reads the file; where anything differs
it writes another.

A review of the training split may be of the very pair that is a training example, whose label it then tells; none is
of a validation or test pair. `profile.reviews=0` leaves them out.
"""

import hashlib
import time
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
import pyarrow as pa

from xrec_jax.data import tables
from xrec_jax.errors import UserError
from xrec_jax.language import chat, prompts
from xrec_jax.language.checkpoint_files import fingerprint
from xrec_jax.language.prompts import Shown
from xrec_jax.phases import writing
from xrec_jax.phases.task import Task, model_directory
from xrec_jax.runs import files, preemption, progress
from xrec_jax.runs.parts import PartsWriter
from xrec_jax.runs.state import RunState

SCHEMA = pa.schema([
    ('item_id', pa.string()),
    ('title', pa.string()),  # null where the source has none
    ('text', pa.string()),
    ('num_tokens', pa.int32()),
    ('truncated', pa.bool_()),
    ('num_reviews', pa.int32()),  # that the prompt showed
    ('model', pa.string()),
    ('prompt', pa.string()),  # the template's name
    ('version', pa.string()),  # hash of model, sampling and prompts
])


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Writes the profiles that are wanted, or finds them written."""
    del index
    own, sampling = settings.profile, _sampling(task, settings)
    items, fitted, name, path = planned(task, settings)
    writer = PartsWriter(path, SCHEMA)
    if writer.finished:
        progress.say(f'{phase}: profiles of {len(items):,} items as they stand in {path}')
        return state.replace(profiles=path)
    size = settings.batch_size * settings.checkpoint_every
    done = writer.last_step
    writer.rewind(done)
    task.metrics.rewind(phase, done)
    limit = task.language.model.config.max_position_embeddings - sampling.max_length
    width = -(-max(map(len, fitted.ids)) // 32) * 32
    with progress.bar(phase, len(items), min(done * size, len(items)), 'profiles') as advance:
        for step in range(done + 1, -(-len(items) // size) + 1):
            part = slice((step - 1) * size, step * size)
            start = time.perf_counter()
            responses = writing.write_queue(task, None, fitted.ids[part], jax.random.key(step), settings.batch_size,
                                            sampling, advance, min(width, limit))
            rows = pa.array(items[part])
            texts = [text.split(own.stop)[0].strip() if own.stop else text for text in writing.texts_of(task, responses)]
            writer.add(item_id=task.dataset.items['item_id'].take(rows), title=task.dataset.items['title'].take(rows),
                       text=texts, num_tokens=np.asarray(responses.lengths, np.int32),
                       truncated=np.asarray(responses.truncated), num_reviews=fitted.kept[part].astype(np.int32),
                       model=str(task.config.language.model), prompt=task.config.prompt.profile, version=name)
            task.metrics.write(phase, step, writing.figures(
                task, sum(map(len, fitted.ids[part])), np.asarray(responses.lengths), np.asarray(responses.truncated),
                time.perf_counter() - start))
            writer.flush(step)
            if preemption.requested():
                preemption.leave(phase, step)
    writer.finish()
    table = files.read_table(path)
    progress.say(f'{phase}: profiles of {len(table):,} items, {np.mean(table["num_tokens"].to_numpy()):.1f} tokens each, '
                 f'{np.mean(table["truncated"].to_numpy(zero_copy_only=False)):.1%} truncated, '
                 f'{np.mean(table["num_reviews"].to_numpy() == 0):.1%} without a review to go by; in {path}')
    return state.replace(profiles=path)


def restored(task: Task, state: RunState, phase: str, settings: ml_collections.ConfigDict) -> RunState:
    """The state with the profiles that are written; UserError where they are not."""
    path = planned(task, settings)[-1]
    if not path.exists():
        raise UserError(f'{phase}: the profiles of the run are not there any more ({path}), or its data or model have '
                        'changed since.')
    return state.replace(profiles=path)


def planned(task: Task, settings: ml_collections.ConfigDict) -> tuple[np.ndarray, chat.Fitted, str, files.Path]:
    """The items that get a profile [N], their prompts, the version of all that, and the file for the profiles."""
    own, sampling = settings.profile, _sampling(task, settings)
    items = shown_items(task)
    reviews = training_reviews(task, own.reviews, own.review_words)
    limit = task.language.model.config.max_position_embeddings - sampling.max_length
    shown = [Shown(task.titles[item], row, task.item_texts[item])
             for item, row in enumerate(task.dataset.items['attributes'].to_pylist())]

    def write(rows: np.ndarray, kept: np.ndarray) -> list[list[int]]:
        return chat.encode(task.language.tokenizer, [
            prompts.render_roles(task.config.prompt.profile, domain=task.dataset.domain, target=shown[items[row]],
                                 reviews=reviews.get(items[row], [])[:count]) for row, count in zip(rows, kept)])

    fitted = chat.fit(write, np.array([len(reviews.get(item, ())) for item in items]), limit)
    name = version(_model(task), f'{sampling} {own.stop!r}', fitted.ids)
    folder = files.as_path(own.store) if own.store else task.workdir / 'profiles'
    return items, fitted, name, folder / f'{name}.parquet'


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for a template that there is not, or bad settings."""
    del earlier
    if 'profile' not in task.config.prompt:
        raise UserError(f'schedule: explain({settings.name}) writes profiles, and the config has no prompt.profile.')
    if settings.profile.reviews < 0 or settings.profile.review_words < 1:
        raise UserError(f'profile.reviews={settings.profile.reviews}, profile.review_words='
                        f'{settings.profile.review_words}: should be at least 0 and 1.')
    target = Shown(task.titles[0], (), task.titles[0])
    prompts.render(task.config.prompt.profile, domain=task.dataset.domain, target=target, reviews=[])
    _sampling(task, settings)


def _sampling(task: Task, settings: ml_collections.ConfigDict):
    return writing.sampling_config(task, max_length=settings.profile.max_length,
                                   temperature=settings.profile.temperature)


def _model(task: Task) -> str:
    """The model's identity: its files, and what reading them was asked to change."""
    settings = task.config.language
    return f'{fingerprint(model_directory(settings))} {settings.dtype} {settings.get("quantize", "none")}'


def shown_items(task: Task) -> np.ndarray:
    """Rows of the items that are a target or in a history of any split, ascending."""
    return np.unique(np.concatenate([np.concatenate([rows.item, rows.history[rows.history >= 0]])
                                     for rows in task.examples.values()]))


def training_reviews(task: Task, count: int, words: int) -> dict[int, list[str]]:
    """By row of the items table: the first `count` reviews of training interactions, `words` words of each at most."""
    found: dict[int, list[str]] = {}
    column = task.dataset.interactions['review']
    if not count or column.null_count == len(column):
        return found
    rows = np.sort(task.examples['train'].interaction)
    items = tables.codes(task.dataset.interactions['item_id'])[rows]
    for item, review in zip(items.tolist(), column.take(pa.array(rows)).to_pylist()):
        if review and len(of_item := found.setdefault(item, [])) < count:
            shown = review.split()
            of_item.append(' '.join(shown[:words]) + (' …' if len(shown) > words else ''))
    return found


def version(model: str, sampling: str, ids: Sequence[Sequence[int]]) -> str:
    """What profiles depend on, as 16 hexadecimal digits."""
    digest = hashlib.sha256(f'{model}\n{sampling}\n'.encode())
    for row in ids:
        digest.update(np.asarray([len(row), *row], np.int64).tobytes())
    return digest.hexdigest()[:16]
