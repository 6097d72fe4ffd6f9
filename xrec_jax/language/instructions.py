"""LLMXRec's instructions (section 3.2 of the paper): from plain values to a prompt, and back.

1. `Item`, `Recommendation`: what an instruction speaks of; `shown_item` writes an item as the published texts do
2. `Parts`: which parts an instruction has, by config; `explain`: the instruction for an explanation (eq. 1)
3. `attributes`, `attribute_answer`: the instruction for attribute prediction (eq. 5) and its JSON label
4. `judge`, `judged`: two explanations of one instruction (eq. 4), and such a text taken apart again;
   `scores`: the prompt for human scores, of one explanation
5. `chat`: the frame that a model expects around an instruction
6. `parse`: a published instruction taken apart, so that it can be written again with other parts

The words stand in `templates/llmxrec/`; those for films, news and games are the published ones byte for byte, slips
included; for other domains nothing is published, and `items.jinja` puts the domain's words in. In the published
instructions a film has no year, genres begin with capitals, and the history is the last L lines of the user in the
interactions file, in the file's order: neither by time, as the paper says, nor without the held-out items. Here the
caller gives the history, oldest first.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xrec_jax.data.domains import GAMES, MOVIES, NEWS, Domain
from xrec_jax.errors import UserError, nearest
from xrec_jax.language.prompts import render

_WORDS = {MOVIES: 'movies', NEWS: 'news', GAMES: 'games'}


class Item(NamedTuple):
    """`categories` as they are shown; of `facts`, 'popularity' and 'price' are shown in attribute prediction."""

    title: str
    categories: tuple[str, ...] = ()
    facts: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """A user, their history (oldest first), and the item that a recommender gives them."""

    domain: Domain
    history: tuple[Item, ...]
    candidate: Item
    profile: Mapping[str, str | Sequence[str]] = dataclasses.field(default_factory=dict)


def shown_item(domain: Domain, title: str, categories: Sequence[str] = (), facts: Mapping[str, str] | None = None
               ) -> Item:
    """An item of a dataset as the published instructions write it.

    A film loses its year ("Toy Story (1995)") and its genres begin with capitals ("film-noir" → "Film-Noir"); a
    price of "free" is "Free to Play" for a game. Line ends within a text become blanks: a line is an item.
    """
    title, *categories = (' '.join(text.split('\n')).strip() for text in (title, *categories))
    facts = dict(facts or {})
    if domain == MOVIES:
        title = re.sub(r' \(\d{4}\)$', '', title)
        categories = [re.sub(r'(?<![^\s-])[a-z]', lambda letter: letter[0].upper(), name) for name in categories]
    if domain == GAMES and facts.get('price') == 'free':
        facts['price'] = 'Free to Play'
    return Item(title, tuple(categories), facts)


# ------------------------------------------------------------------------------------------ parts


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of an instruction for an explanation. The defaults are the published ML-100k instructions.

    The paper's ablation of figure 4 leaves out the profile or the categories; figure 3a varies `history`.
    """

    history: int = 50  # last L items; the paper: 50 for ML-100k, 10 for MIND and Steam; 0 for none
    history_categories: bool = True
    candidate_categories: bool = True
    profile: tuple[str, ...] = ('age', 'gender', 'occupation')  # keys shown where the user has them; () for none
    role: bool = True  # the paper's system instruction
    thought: bool = False  # chain of thought: in the paper's list, in none of its published prompts; words are ours
    rules: bool = True  # the closing demands on the answer
    words_at_most: int = 75

    def __post_init__(self):
        for name, low in (('history', 0), ('words_at_most', 1)):
            if getattr(self, name) < low:
                raise UserError(f'instruction part {name}={getattr(self, name)} should be {low} or more')


def parts(settings: Mapping[str, Any]) -> Parts:
    """`Parts` from a config group; UserError for a key that is none of them."""
    known = [field.name for field in dataclasses.fields(Parts)]
    for name in settings:
        if name not in known:
            raise UserError(f'"{name}" is no part of an instruction.{nearest(name, known)}')
    return Parts(**{name: tuple(value) if name == 'profile' else value for name, value in settings.items()})


def explain(recommendation: Recommendation, parts: Parts = Parts()) -> str:
    """The instruction I_e for an explanation (eq. 1)."""
    profile = {key: recommendation.profile[key] for key in parts.profile if recommendation.profile.get(key)}
    return render(
        'llmxrec/explain', **_words(recommendation.domain), profile=profile,
        history=[_stripped(item, parts.history_categories) for item in _last(recommendation.history, parts.history)],
        candidate=_stripped(recommendation.candidate, parts.candidate_categories),
        role=parts.role, thought=parts.thought, rules=parts.rules, words_at_most=parts.words_at_most)


def _words(domain: Domain) -> dict[str, Any]:
    return {'domain': domain, 'words': _WORDS.get(domain, 'items')}


def _last(history: Sequence[Item], most: int) -> Sequence[Item]:
    return history[max(0, len(history) - most):]


def _stripped(item: Item, categories: bool = True, facts: Sequence[str] = ()) -> Item:
    return Item(item.title, item.categories if categories else (),
                {name: item.facts[name] for name in facts if name in item.facts})


# ------------------------------------------------------------------------------------- attributes


class _Task(NamedTuple):
    facts: tuple[str, ...] = ()  # shown of the history's items
    history_categories: bool = True
    candidate_categories: bool = True


# Those of 'customer', 'popularity' and 'price' are published; the prompts for MIND's category and interest are not.
TASKS = {
    'customer': _Task(),
    'popularity': _Task(facts=('popularity',)),
    'price': _Task(facts=('price',)),
    'category': _Task(candidate_categories=False),
    'interest': _Task(history_categories=False),
}
_HINTS = {'age': '<accurate number of age>', 'gender': 'male or female', 'occupation': '<occupation>'}


def attribute_keys(task: str, domain: Domain, names: Sequence[str] = ('age', 'gender', 'occupation')
                   ) -> dict[str, tuple[str, str]]:
    """What an answer is made of: attribute → (its key in the JSON, the hint of the prompt).

    `names` are the profile's keys that the task 'customer' asks for. UserError for an unknown task.
    """
    if task not in TASKS:
        raise UserError(f'"{task}" is no attribute task.{nearest(task, TASKS)}')
    if task == 'customer':
        return {name: (f'user {name}', _HINTS.get(name, f'<{name}>')) for name in names}
    if task == 'popularity':
        return {task: ('popularity', '<accurate number of popularity in 1-5>')}
    item = {NEWS: 'news'}.get(domain, domain.item).capitalize()
    return {task: {
        'price': (f'{item} price', '<Free to Play or only number of the price>' if domain == GAMES
                  else '<only number of the price>'),
        'category': (f'{item} category', '<category>'),
        'interest': ('user interest', '<categories, separated by commas>'),
    }[task]}


def attributes(recommendation: Recommendation, task: str, history: int = 10,
               names: Sequence[str] = ('age', 'gender', 'occupation')) -> str:
    """The instruction I_a for attribute prediction (eq. 5), over the last `history` items.

    What is to be inferred is never shown: the candidate has no price in 'price', no categories in 'category'; in
    'interest' the history has no categories.
    """
    answer = attribute_keys(task, recommendation.domain, names)
    facts, history_categories, candidate_categories = TASKS[task]
    *first, last = answer
    listed = f'{", ".join(first)}{"," if len(first) > 1 else ""} and {last}' if first else last
    return render(
        'llmxrec/attributes', **_words(recommendation.domain), task=task, names=list(answer), listed=listed,
        history=[_stripped(item, history_categories, facts) for item in _last(recommendation.history, history)],
        candidate=_stripped(recommendation.candidate, candidate_categories), answer=dict(answer.values()))


def attribute_answer(task: str, domain: Domain, values: Mapping[str, Any]) -> str:
    """The label of `attributes`: one line of JSON, {"user age": 24, …}, in the order of `values`."""
    keys = attribute_keys(task, domain, tuple(values))
    for name in values:
        if name not in keys:
            raise UserError(f'attribute task "{task}" has no "{name}".{nearest(name, keys)}')
    return json.dumps({keys[name][0]: value for name, value in values.items()}, ensure_ascii=False)


# -------------------------------------------------------------------------------- judge and scores

_BAR = '-' * 20


JUDGE_FORMS = {'published': 'llmxrec/judge', 'short': 'llmxrec/judge_short'}  # the short one's words are ours


def judge(instruction: str, first: str, second: str, question: bool = True, form: str = 'published') -> str:
    """The judge's instruction T_d (eq. 4), to be answered with "1" or "2".

    Without the `question` the published form is what stands in the published judge_*.jsonl; the authors put that and
    the role (`role('judge')`) around it when they tuned and asked the model. Form 'short' has headings of a few tokens
    in place of rows of dashes, and no question.
    """
    if form not in JUDGE_FORMS:
        raise UserError(f'there is no form "{form}" of the judge\'s prompt.{nearest(form, JUDGE_FORMS)}')
    return render(JUDGE_FORMS[form], instruction=instruction, first=first, second=second, question=question)


def judged(text: str) -> tuple[str, str, str]:
    """Takes a judge's instruction apart: (instruction, explanation 1, explanation 2)."""
    found = re.match(f'{_BAR}Instruction{_BAR}\n(.*)\n{_BAR}Explanation 1{_BAR}\n(.*)\n'
                     f'{_BAR}Explanation 2{_BAR}\n(.*)\n-{{53}}\n', text, re.DOTALL)
    if not found:
        raise UserError('not a judge\'s instruction (headings "Instruction", "Explanation 1", "Explanation 2" between '
                        f'dashes): {text[:60]!r} …')
    return found[1], found[2], found[3]


def scores(instruction: str, explanation: str) -> str:
    """The prompt for the three human scores of one explanation, answered in JSON; the words are ours.

    In the published scores a high redundancy is good: GPT-4 and the tuned model have 8.3 to 8.9 of 10.
    """
    return render('llmxrec/scores', instruction=instruction, explanation=explanation)


# ---------------------------------------------------------------------------------------- frames

ROLES = ('explain', 'judge')
FRAMES = {  # name → template; LLaMA-2's is what the authors used, Alpaca's the usual one of instruction tuning
    'plain': None, 'alpaca': 'llmxrec/alpaca', 'llama2': 'llmxrec/llama2'}


def role(task: str) -> str:
    """The authors' system message for 'explain' or 'judge'."""
    if task not in ROLES:
        raise UserError(f'there is no role "{task}".{nearest(task, ROLES)}')
    return render(f'llmxrec/{task}_role')


def chat(instruction: str, frame: str = 'plain', role: str = '') -> str:
    """`instruction` in the frame that a model is tuned on, up to where the answer begins.

    A `role` stands where the frame has a place for it (LLaMA-2's), else above the instruction.
    """
    if frame not in FRAMES:
        raise UserError(f'there is no frame "{frame}".{nearest(frame, FRAMES)}')
    if frame != 'llama2' and role:
        instruction = f'{role}\n\n{instruction}'
    return instruction if FRAMES[frame] is None else render(FRAMES[frame], instruction=instruction, role=role)


# ----------------------------------------------------------------------------------------- parsing

# Domain → the first line, and the lines of an item: pattern and what separates the categories in it.
_PUBLISHED = {
    MOVIES: ('The history films watched by the customer are:', ((r'The class of the movie is (.*?)\.', ' '),)),
    NEWS: ('The history news viewed by the customer are:',
           ((r'The category of the news is (.*)\.', None), (r'The sub category of the news is (.*)\.', None))),
    GAMES: ('The history games played by the customer are:', ((r'The tags of the game are \[(.*)\]\.', ', '),)),
}
_POPULARITY = r'(?: And the popularity of the \w+ is (\w+)\.)?'
_PRICE = re.compile(r'The price of the \w+ is (.*)\.')
_PROFILE = re.compile(r"^The age of the customer is (.*?), the gender is (.*?) and the customer's occupation is "
                      r'(.*?)\.', re.MULTILINE)


def parse(text: str) -> Recommendation:
    """Takes a published instruction (for explanations or attributes; films, news or games) apart.

    What it has no line for is empty; lines that are no item's ("The tags of the game are nan.") are passed over.
    Raises UserError where the first line of a history or the candidate is not found.
    """
    for domain, (heading, patterns) in _PUBLISHED.items():
        _, found, rest = f'\n{text}'.partition(f'\n{heading}\n')
        if found:
            break
    else:
        raise UserError(f'not a published instruction of LLMXRec (no line "The history … are:"): {text[:60]!r} …')
    shown, _, rest = rest.partition('\n\n')
    candidate = re.search(r'with the following title[\w ]*:\n(.*)\.\n((?:.+\n)*)', rest)
    if not candidate:
        raise UserError(f'no candidate ("… with the following title …:") in the instruction {text[:60]!r} …')
    profile = _PROFILE.search(rest)
    history: list[Item] = []
    for line in shown.split('\n'):
        if line.startswith(f'{len(history) + 1}: '):
            history.append(Item(line.partition(': ')[2]))
        elif history:
            history[-1] = _with_line(history[-1], line, patterns)
    item = Item(candidate[1])
    for line in candidate[2].splitlines():
        item = _with_line(item, line, patterns)
    return Recommendation(domain, tuple(history), item,
                          dict(zip(('age', 'gender', 'occupation'), profile.groups())) if profile else {})


def _with_line(item: Item, line: str, patterns: Sequence[tuple[str, str | None]]) -> Item:
    """`item` with what `line` says of it."""
    if found := _PRICE.fullmatch(line):
        return item._replace(facts={**item.facts, 'price': found[1]})
    for pattern, separator in patterns:
        if found := re.fullmatch(pattern + _POPULARITY, line):
            names = tuple(found[1].split(separator)) if separator else (found[1],)
            facts = {**item.facts, 'popularity': found[2]} if found[2] else item.facts
            return item._replace(categories=item.categories + names, facts=facts)
    return item
