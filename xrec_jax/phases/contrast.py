"""The prompts for contrastive explanations (RecPIE, appendix A.1): why the user would consume the target, and why not.

For every example both are asked for, whatever its label, from the profiles of the items that the user consumed before
and the target's profile. The templates are `prompt.positive` and `prompt.negative`; a template NAME has its form in
NAME_form (`language.forms`). `prompt.begins` may say how an answer of a kind begins, for models that follow no
instructions: the prompt ends with these words, and they are part of the text.

  `Contrast`     the encoded prompts of all splits; one width for all
  `contrast_of`  those of a run, with the profiles that `explain(profiles)` wrote, or titles and attributes without
  `begun`        answers → texts, with the words that their prompts began them with
  `in_form`      which texts have the form that was asked for
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from xrec_jax.data import tables
from xrec_jax.data.protocols import Examples
from xrec_jax.language import chat, forms, prompts, tokenizers
from xrec_jax.language.prompts import Prompt, Shown
from xrec_jax.phases.task import Task
from xrec_jax.runs import files, progress
from xrec_jax.runs.state import RunState


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """By split and kind: the prompts, with as much of their histories as the context holds."""

    fitted: dict[str, dict[str, chat.Fitted]]
    width: int  # tokens, of all

    @functools.cache
    def tokens(self, split: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [N, P] and mask bool [N, P] of the examples of a split, padded on the left."""
        return tokenizers.pad(self.fitted[split][kind].ids, self.width, 'left')

    def shortened(self) -> dict[str, dict[str, int]]:
        """By split: how many prompts of either kind were too long, and how many items their histories lost."""
        lost = {split: np.stack([fitted.dropped for fitted in of_split.values()])
                for split, of_split in self.fitted.items()}
        return {split: {'prompts': int((dropped > 0).sum()), 'items': int(dropped.sum())}
                for split, dropped in lost.items()}


def contrast_of(task: Task, state: RunState) -> Contrast:
    """The prompts, with the profiles of the newest phase that wrote any."""
    return _contrast(task, state.profiles)


@functools.lru_cache(maxsize=2)
def _contrast(task: Task, path: files.Path | None) -> Contrast:
    profiles, limit = read_profiles(task, path), prompt_limit(task)
    fitted = {split: {kind: fitted_prompts(task, profiles, examples, kind) for kind in task.kinds}
              for split, examples in task.examples.items()}
    longest = max(len(ids) for of_split in fitted.values() for one in of_split.values() for ids in one.ids)
    contrast = Contrast(fitted, min(-(-longest // 32) * 32, limit))
    for split, lost in contrast.shortened().items():
        if lost['prompts']:
            progress.say(f'{split}: {lost["prompts"]:,} of {2 * len(task.examples[split].user):,} prompts were too long '
                         f'for the context and lost their oldest history items, {lost["items"]:,} in all')
    return contrast


def prompt_limit(task: Task) -> int:
    """Tokens that a prompt may have."""
    return task.prompt_limit - task.soft_tokens


def fitted_prompts(task: Task, profiles: Sequence[str], examples: Examples, kind: str) -> chat.Fitted:
    """The prompts of a kind of any examples, with as much of their histories as the context holds."""
    begin = task.language.tokenizer(begins(task, kind), add_special_tokens=False)['input_ids']
    write = lambda rows, kept: [ids + begin for ids in chat.encode(
        task.language.tokenizer, contrast_prompts(task, profiles, examples, kind, rows, kept))]
    return chat.fit(write, examples.past.length, prompt_limit(task))


def contrast_prompts(task: Task, profiles: Sequence[str], examples: Examples, kind: str, rows: np.ndarray,
                     kept: np.ndarray) -> list[Prompt]:
    """The prompts of some of the examples, each with its newest `kept` history items. No label goes in."""
    shown = _shown(task, tuple(profiles))
    items, liked = examples.past.padded(rows)
    written = []
    for n, (target, count) in enumerate(zip(examples.item[rows], kept)):
        past = [shown[good][item] for item, good in zip(items[n], liked[n]) if item >= 0]
        written.append(prompts.render_roles(
            task.config.prompt[kind], domain=task.dataset.domain, history=past[len(past) - count:],
            target=shown[True][target]))
    return written


@functools.lru_cache(maxsize=2)
def _shown(task: Task, profiles: tuple[str, ...]) -> dict[bool, list[Shown]]:
    """By liked or not, and by row of the items table."""
    attributes = task.dataset.items['attributes'].to_pylist()
    return {good: [Shown(*each, liked=good) for each in zip(task.titles, attributes, profiles)] for good in (True, False)}


def read_profiles(task: Task, path: files.Path | None) -> list[str]:
    """By row of the items table; titles with attributes where no profile was written."""
    texts = list(task.item_texts)
    if path is not None:
        table = files.read_table(path, columns=['item_id', 'text'])
        rows = tables.rows(table['item_id'], task.dataset.items['item_id'])
        for row, text in zip(rows, table['text'].to_pylist()):
            texts[row] = text or texts[row]
    return texts


def begins(task: Task, kind: str) -> str:
    """How the prompt begins an answer of a kind; '' where it does not."""
    return task.config.prompt.get('begins', {}).get(kind, '')


def begun(task: Task, kind: str, answers: Sequence[str]) -> list[str]:
    """The texts of what a model answered to prompts of a kind."""
    return [f'{begins(task, kind)} {answer}'.strip() for answer in answers]


def in_form(task: Task, kind: str, items: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """bool [N]: which texts on `items` (rows of the table) have the form that the prompt of `kind` asked for."""
    form = prompts.render(f'{task.config.prompt[kind]}_form', domain=task.dataset.domain)
    return forms.follows(form, texts, [task.titles[item] for item in items])
