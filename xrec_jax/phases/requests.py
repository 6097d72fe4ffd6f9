"""What `explain` is asked for where it is not the examples of a split: an item for each user, with its instruction.

  top1      the item that a fitted recommender puts first for each user, unseen by them (LLMXRec, section 2.1)
  recorded  the items of a file of recorded explanations, with the instruction that their generators had

A request's instruction is LLMXRec's (`language.instructions`); `prompts` puts it into the frame that the model is
tuned on, with the oldest of the history left out where it does not fit.
"""

import dataclasses
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np

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
    past = _Past(task)
    for name in settings.predictors:
        fitted = state.predictors[name]
        data, queries = fit_ranking.make_data(task, fitted.model, fitted.settings)
        query = queries['test']
        best = distributed.whole(ranking.recommend(fitted.model, fitted.params, data, query, 1))[:, 0]
        users = distributed.whole(query.user).reshape(-1)
        kept = query.real & (best >= 0)
        for user, item in zip(users[kept], best[kept]):
            columns['user_id'].append(past.user_ids[user])
            columns['item_id'].append(past.item_ids[item])
            columns['group'].append(name)
            columns['recommendations'].append(past.recommendation(user, item))
    return Requests('top1', **columns)


class _Past:
    """Items, users and what each user met before the test item, as instructions show them."""

    def __init__(self, task: Task):
        dataset, test = task.dataset, task.examples['test']
        self.domain = dataset.domain
        self.user_ids, self.item_ids = (table.column(0).to_pylist() for table in (dataset.users, dataset.items))
        self.profiles = [dict(profile or ()) for profile in dataset.users['profile'].to_pylist()]
        details = [dict(one or ()) for one in dataset.items['details'].to_pylist()]
        self.items = [instructions.shown_item(dataset.domain, title, attributes or (), facts) for title, attributes, facts
                      in zip(task.titles, dataset.items['attributes'].to_pylist(), details)]
        self.history = dict(zip(test.user.tolist(), test.history))

    def recommendation(self, user: int, item: int) -> Recommendation:
        past = tuple(self.items[one] for one in self.history[user] if one >= 0)
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
    table = records.read_recorded(settings.file)
    return [_first(records.aligned(table, settings.dataset, name), settings.max_rows)
            for name in settings.recommenders]


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


def prompts(task: Task, requests: Requests, most: int) -> tuple[list[list[int]], int]:
    """Token ids of each request's prompt, of at most `most` tokens, and how many items of history had to go in all.

    The frame and the parts are `config.prompt`'s; the target is never left out.
    """
    result = fitted(task.language.tokenizer, *_writer(task, requests), most)
    return result.ids, int(result.dropped.sum())


def texts(task: Task, requests: Requests) -> list[str]:
    """The instructions without a frame: for models that are asked through a server."""
    parts = instructions.parts(task.config.prompt.parts.to_dict())
    if requests.instructions is not None and task.config.prompt.as_recorded:
        return requests.instructions
    return [instructions.explain(one, parts) for one in requests.recommendations]


def _writer(task: Task, requests: Requests) -> tuple[Callable[[int, int], str], list[int]]:
    """A function that gives prompt n with its latest items of history, and the longest histories [N].

    A recorded instruction stands as it is, until its history has to be shortened; with `prompt.as_recorded` False
    it is written anew with the parts that `prompt.parts` names.
    """
    settings = task.config.prompt
    parts = instructions.parts(settings.parts.to_dict())
    role = instructions.role('explain') if settings.role else ''
    recorded = requests.instructions if settings.as_recorded else None
    shown = [len(one.history) for one in requests.recommendations]
    lengths = shown if recorded is not None else [min(parts.history, length) for length in shown]

    def write(n: int, length: int) -> str:
        if recorded is not None and length == lengths[n]:
            text = recorded[n]
        else:
            text = instructions.explain(requests.recommendations[n], dataclasses.replace(parts, history=length))
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
