"""What `explain` is asked for where it is not the examples of a split: an item for each user, with its instruction.

  top1      the item that a fitted recommender puts first for each user, unseen by them (LLMXRec, section 2.1)
  recorded  the items of a file of recorded explanations, with the instruction that their generators had

A request's instruction is LLMXRec's (`language.instructions`); `prompts` puts it into the frame that the model is
tuned on, with the oldest of the history left out where it does not fit.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import ml_collections
import numpy as np

from xrec_jax.data.protocols import Examples
from xrec_jax.errors import UserError, nearest
from xrec_jax.language import chat, instructions
from xrec_jax.language.instructions import Recommendation
from xrec_jax.language.material import recorded as records
from xrec_jax.language.tokenizers import Tokenizer
from xrec_jax.parallel import distributed
from xrec_jax.phases import fit_ranking
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import ranking
from xrec_jax.runs.state import RunState


@dataclasses.dataclass(frozen=True)
class Requests:
    """N explanations that are wanted, in groups by recommender."""

    source: str  # 'top1' or 'recorded'
    user_id: list[str]  # of recorded ones the row in the file
    item_id: list[str]  # of recorded ones the title
    group: list[str]  # the recommender
    recommendations: list[Recommendation]
    instructions: list[str] | None = None  # as recorded; None: to be written from the recommendations

    def __len__(self) -> int:
        return len(self.user_id)


def top1(task: Task, state: RunState, settings: ml_collections.ConfigDict) -> Requests:
    """The first item of each of `settings.predictors` for every user, without what the user has met."""
    columns = {'user_id': [], 'item_id': [], 'group': [], 'recommendations': []}
    past = _past(task)
    for name in settings.predictors:
        fitted = state.predictors[name]
        data, queries = fit_ranking.make_data(task, fitted.model, fitted.settings)
        query = queries['test']
        best = distributed.whole(ranking.recommend(fitted.model, fitted.params, data, query, 1))[:, 0]
        users = distributed.whole(query.user).reshape(-1)
        order = np.argsort(users, kind='stable')
        best, users, kept = best[order], users[order], (query.real & (best >= 0))[order]
        if settings.max_rows:
            kept &= np.cumsum(kept) <= settings.max_rows
        for user, item in zip(users[kept], best[kept]):
            columns['user_id'].append(past.user_ids[user])
            columns['item_id'].append(past.item_ids[item])
            columns['group'].append(name)
            columns['recommendations'].append(past.recommendation(user, item))
    return Requests('top1', **columns)


def asked(task: Task, examples: Examples) -> Requests:
    """Any pairs, with what each user met before the test item, as `top1` shows it; without one, their own history."""
    past = _past(task)
    ids = [(past.user_ids[user], past.item_ids[item]) for user, item in zip(examples.user, examples.item)]
    return Requests('asked', [user for user, _ in ids], [item for _, item in ids], ['asked'] * len(ids), [
        past.recommendation(*one) for one in zip(examples.user.tolist(), examples.item.tolist(), examples.history)])


@functools.lru_cache(maxsize=1)
def _past(task: Task) -> '_Past':
    return _Past(task)


def popularity_levels(task: Task) -> np.ndarray:
    """int64 [I]: 1 to 5, the fifth of the items that one belongs to by its training interactions; 5 the most popular.

    LLMXRec asks for popularity "from 1 to 5" and does not say what the levels are. Items as popular as each other share
    the lower level.
    """
    count = np.bincount(task.examples['train'].item, minlength=len(task.dataset.items))
    return 1 + np.searchsorted(np.quantile(count, (0.2, 0.4, 0.6, 0.8)), count, side='left')


class _Past:
    """Items, users and what each user met before the test item, as instructions show them."""

    def __init__(self, task: Task):
        dataset, test = task.dataset, task.examples['test']
        self.domain = dataset.domain
        self.user_ids, self.item_ids = (table.column(0).to_pylist() for table in (dataset.users, dataset.items))
        self.profiles = [dict(profile or ()) for profile in dataset.users['profile'].to_pylist()]
        details = [dict(one or ()) | {'popularity': str(level)} for one, level in zip(
            dataset.items['details'].to_pylist(), popularity_levels(task))]
        self.items = [instructions.shown_item(dataset.domain, title, attributes or (), facts) for title, attributes, facts
                      in zip(task.titles, dataset.items['attributes'].to_pylist(), details)]
        self.history = dict(zip(test.user.tolist(), test.history))

    def recommendation(self, user: int, item: int, history: np.ndarray | None = None) -> Recommendation:
        """With `history`, rows of items, for users without a test item."""
        past = tuple(self.items[one] for one in self.history.get(user, history) if one >= 0)
        return Recommendation(self.domain, past, self.items[item], self.profiles[user])


def recorded(task: Task, state: RunState, settings: ml_collections.ConfigDict) -> Requests:
    """What the generators in `settings.file` were asked, of `settings.dataset` under `settings.recommenders`."""
    del task, state
    columns = {'user_id': [], 'item_id': [], 'group': [], 'recommendations': [], 'instructions': []}
    for group in recorded_groups(settings):
        columns['user_id'] += map(str, group.rows)
        columns['item_id'] += [prompt.candidate.title for prompt in group.prompts]
        columns['group'] += [group.recommender] * len(group.rows)
        columns['recommendations'] += group.prompts
        columns['instructions'] += group.instructions
    return Requests('recorded', **columns)


def recorded_groups(settings: ml_collections.ConfigDict) -> list[records.Aligned]:
    """The groups of `settings.recommenders`, the first `settings.max_rows` of each (0: all)."""
    return [_first(group, settings.max_rows)
            for group in _read_groups(settings.file, settings.dataset, tuple(settings.recommenders))]


@functools.lru_cache(maxsize=2)
def _read_groups(file: str, dataset: str, recommenders: tuple[str, ...]) -> list[records.Aligned]:
    """Read and taken apart once: every phase of a run asks for them."""
    table = records.read_recorded(file)
    return [records.aligned(table, dataset, name) for name in recommenders]


def _first(group: records.Aligned, most: int) -> records.Aligned:
    if not most:
        return group
    return dataclasses.replace(group, rows=group.rows[:most], instructions=group.instructions[:most],
                               prompts=group.prompts[:most], explanations=group.explanations[:most],
                               reasons=group.reasons[:most])


SOURCES: dict[str, Callable[[Task, RunState, ml_collections.ConfigDict], Requests]] = {
    'top1': top1, 'recorded': recorded}


def make(task: Task, state: RunState, settings: ml_collections.ConfigDict) -> Requests:
    """The requests of `settings.source`."""
    return SOURCES[settings.source](task, state, settings)


def check(task: Task, settings: ml_collections.ConfigDict, earlier: list[str]) -> None:
    """UserError for an unknown source, a recommender that is not fitted by then, or a file that does not serve."""
    if settings.source not in SOURCES:
        raise UserError(f'explain.requests.source: "{settings.source}" is none.'
                        f'{nearest(settings.source, ["examples", *SOURCES])}')
    if settings.source == 'top1':
        for name in settings.predictors:
            if f'fit({name})' not in earlier:
                raise UserError(f'schedule: explaining the first items of "{name}" needs fit({name}) before it.')
            fitted = {**task.config.get('fit', {}), **task.config.get(name, {})}
            if fitted['task'] != 'ranking' or fitted['seeds'] != 1:
                raise UserError(f'fit({name}) should have task="ranking" and seeds=1, so that it can say which item '
                                f'comes first; it has task="{fitted["task"]}" and seeds={fitted["seeds"]}.')
    else:
        recorded_groups(settings)


def prompts(task: Task, requests: Requests, most: int, changes: Mapping[str, Any] = MappingProxyType({})
            ) -> tuple[list[list[int]], int]:
    """Token ids of each request's prompt, of at most `most` tokens, and how many items of history had to go in all.

    The frame and the parts are `config.prompt`'s, with `changes` of the parts; the target is never left out.
    """
    result = fitted(task.language.tokenizer, *writer(task, requests.recommendations, requests.instructions, changes), most)
    return result.ids, int(result.dropped.sum())


def texts(task: Task, requests: Requests, changes: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """The instructions without a frame: for models that are asked through a server."""
    parts = instructions.parts(task.config.prompt.parts.to_dict() | dict(changes))
    if requests.instructions is not None and task.config.prompt.as_recorded and not changes:
        return requests.instructions
    return [instructions.explain(one, parts) for one in requests.recommendations]


def writer(task: Task, recommendations: Sequence[Recommendation], recorded: Sequence[str] | None = None,
           changes: Mapping[str, Any] = MappingProxyType({})) -> tuple[Callable[[int, int], str], list[int]]:
    """A function that gives prompt n with its latest items of history, and the longest histories [N].

    A `recorded` instruction stands as it is, until its history has to be shortened; with `prompt.as_recorded` False,
    or with `changes` of `prompt.parts`, it is written anew.
    """
    settings = task.config.prompt
    parts = instructions.parts(settings.parts.to_dict() | dict(changes))
    role = instructions.role('explain') if settings.role else ''
    recorded = recorded if settings.as_recorded and not changes else None
    shown = [len(one.history) for one in recommendations]
    lengths = shown if recorded is not None else [min(parts.history, length) for length in shown]

    def write(n: int, length: int) -> str:
        if recorded is not None and length == lengths[n]:
            text = recorded[n]
        else:
            text = instructions.explain(recommendations[n], dataclasses.replace(parts, history=length))
        return instructions.chat(text, settings.frame, role)

    return write, lengths


def fitted(tokenizer: Tokenizer, write: Callable[[int, int], str], longest: Sequence[int], most: int,
           strict: bool = True) -> chat.Fitted:
    """Token ids of N prompts with as much of their histories as fits into `most` tokens.

    `write(n, length)` gives prompt n with the latest `length` items of its history, of `longest[n]` at most; `strict` is
    `chat.fit`'s.
    """
    def ids(rows: np.ndarray, kept: np.ndarray) -> list[list[int]]:
        return tokenizer([write(n, length) for n, length in zip(rows.tolist(), kept.tolist())])['input_ids']

    return chat.fit(ids, np.asarray(longest), most, strict)
