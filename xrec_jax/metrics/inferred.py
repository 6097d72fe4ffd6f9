"""How many hidden attributes a language model infers rightly (LLMXRec, section 3.3 and table 3).

1. `ATTRIBUTES`: what each answer is read as, and when it is right
2. `accuracy`: of one attribute; an answer that cannot be read is wrong, and counted apart
3. `chance`, `majority`: what guessing would score, at random among the values or always the same
4. `table`: all attributes and models, with both rows

  age                    within five years
  gender, occupation,    the same word, in any case
  category
  interest               all interests that are named are categories of the user's past interactions, at least one is
                         named (a model that names everything is wrong)
  popularity             the same of five classes. In the published prompts these are an item's number of
                         interactions: 1 to 49, 50 to 99, 100 to 149, 150 to 199, 200 and more (`popularity`; it gives
                         the class of all 760 films in the prompts whose title stands in ML-100k once)
  price                  the same class: free, or below or from each of `PRICE_EDGES`. The prompt asks for "Free to
                         Play or only number of the price", and the paper does not say what counts as right; its
                         random row, 0.15, is that of six or seven classes. These are ours
  price_exact            free, or the same number

Answers and targets come as read from JSON: texts or numbers. `N` examples.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

AGE_WITHIN = 5
PRICE_EDGES = (5.0, 10.0, 20.0, 30.0, 40.0)
POPULARITY_EDGES = (50, 100, 150, 200)
NO_ANSWERS = {'', 'unknown', 'unknow', 'null', 'none given', 'n/a', 'nan', 'not available', '-', '?'}


class Attribute(NamedTuple):
    """`key` is a word of the JSON key that holds it; `read` gives the value, or None; `right(answer, target)`."""

    key: str
    read: Callable[[Any], Any]
    right: Callable[[Any, Any], bool]


def popularity(counts: npt.ArrayLike) -> np.ndarray:
    """Classes int64 [I], 1 to 5, of items with that many interactions [I], as in LLMXRec's prompts for ML-100k."""
    return np.digitize(counts, POPULARITY_EDGES) + 1


def _word(value: Any) -> str | None:
    """One text in lower case, blanks squeezed; None where it says that it says nothing."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        return None
    word = ' '.join(value.casefold().split()).strip('.')
    return None if word in NO_ANSWERS else word


def _gender(value: Any) -> str | None:
    return {'m': 'male', 'f': 'female', 'man': 'male', 'woman': 'female'}.get(word := _word(value), word)


def _number(value: Any) -> float | None:
    """A number, or the only number in a text ("24 years", "$ 9.99")."""
    if isinstance(value, str):
        found = re.findall(r'(?<![\d.-])\d+(?:\.\d+)?(?![\d.-]*\d)', value.replace(',', ''))
        value = float(found[0]) if len(found) == 1 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _price(value: Any) -> float | None:
    """0 for what is free."""
    if (word := _word(value)) and word.startswith('free'):
        return 0.0
    return _number(value)


def _words(value: Any) -> frozenset[str] | None:
    """Several texts, of a list or separated by commas."""
    parts = value.split(',') if isinstance(value, str) else value if isinstance(value, (list, tuple)) else ()
    return frozenset(word for part in parts if (word := _word(part))) or None


def _same(answer: Any, target: Any) -> bool:
    return answer == target


def _price_class(price: float) -> int:
    return -1 if price == 0 else int(np.digitize(price, PRICE_EDGES))


ATTRIBUTES = {
    'age': Attribute('age', _number, lambda answer, target: abs(answer - target) <= AGE_WITHIN),
    'gender': Attribute('gender', _gender, _same),
    'occupation': Attribute('occupation', _word, _same),
    'category': Attribute('category', _word, _same),
    'interest': Attribute('interest', _words, lambda answer, target: answer <= target),
    'popularity': Attribute('popularity', _number, _same),
    'price': Attribute('price', _price, lambda answer, target: _price_class(answer) == _price_class(target)),
    'price_exact': Attribute('price', _price, lambda answer, target: abs(answer - target) < 0.005),
}


def value_of(answer: Mapping[str, Any] | None, name: str) -> Any:
    """The value of an attribute in a JSON answer, as it is read; None where there is none, or it cannot be read."""
    for key, value in (answer or {}).items():
        if is_key(key, name):
            return ATTRIBUTES[name].read(value)
    return None


def is_key(key: str, name: str) -> bool:
    """Whether a JSON key is that of an attribute: one of its words is ("user age", "Game price", "interests")."""
    word = ATTRIBUTES[name].key
    return not {word, f'{word}s'}.isdisjoint(re.findall('[a-z]+', key.casefold()))


def _targets(name: str, targets: Sequence[Any]) -> list[Any]:
    return [ATTRIBUTES[name].read(target) for target in targets]


def accuracy(name: str, answers: Sequence[Mapping[str, Any] | None], targets: Sequence[Any]) -> dict[str, float]:
    """How often attribute `name` is right.

    Args:
      answers: [N], each a JSON object, None where there was none (`language.json_answers.parse_answer`).
      targets: [N], the true values.

    Returns:
      'accuracy' over all examples with a target, unread answers wrong; 'accuracy_read' of those that could be read;
      'count' of examples with a target, 'unread' answers among them; 'no_target', examples without (a price of nan).
    """
    if len(answers) != len(targets):
        raise ValueError(f'{len(answers)} answers but {len(targets)} targets')
    pairs = [(value_of(answer, name), target) for answer, target in zip(answers, _targets(name, targets))
             if target is not None]
    read = [ATTRIBUTES[name].right(answer, target) for answer, target in pairs if answer is not None]
    return {'accuracy': sum(read) / len(pairs) if pairs else math.nan,
            'accuracy_read': sum(read) / len(read) if read else math.nan,
            'count': len(pairs), 'unread': len(pairs) - len(read), 'no_target': len(targets) - len(pairs)}


def _hits(name: str, values: Sequence[Any], targets: Sequence[Any]) -> np.ndarray:
    """bool [V, N]: which of the values would be right for which target."""
    distinct = list(dict.fromkeys(targets))  # targets repeat: every (value, target) is looked at once
    place = {target: n for n, target in enumerate(distinct)}
    right = np.array([[ATTRIBUTES[name].right(value, target) for target in distinct] for value in values], bool)
    return right[:, [place[target] for target in targets]]


def _guesses(name: str, training: Sequence[Any]) -> list[Any]:
    """What may be guessed: the values in the training part; of interests one at a time."""
    values = [target for target in _targets(name, training) if target is not None]
    if name == 'interest':
        values = [frozenset([word]) for target in values for word in sorted(target)]
    return list(dict.fromkeys(values))


def chance(name: str, training: Sequence[Any], targets: Sequence[Any]) -> float:
    """Expected accuracy of an answer drawn evenly from the values that occur in `training`."""
    targets = [target for target in _targets(name, targets) if target is not None]
    values = _guesses(name, training)
    return float(_hits(name, values, targets).mean()) if values and targets else math.nan


def majority(name: str, training: Sequence[Any], targets: Sequence[Any]) -> float:
    """Accuracy of the one answer that would have been right most often in `training` (the first such)."""
    targets = [target for target in _targets(name, targets) if target is not None]
    known = [target for target in _targets(name, training) if target is not None]
    values = _guesses(name, training)
    if not values or not targets:
        return math.nan
    best = values[int(_hits(name, values, known).sum(1).argmax())]
    return float(_hits(name, [best], targets).mean())


def table(answers: Mapping[str, Sequence[Mapping[str, Any] | None]], targets: Sequence[Mapping[str, Any]],
          training: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """attribute → row → figures; the rows are 'random', 'majority' and the models of `answers`.

    Args:
      answers: model → [N] JSON objects, one for each example.
      targets: [N], the attributes that an example asks for, by name in `ATTRIBUTES`; 'price' stands for
        'price_exact' too.
      training: the same of the examples that guesses may be taken from.
    """
    result = {}
    for name, attribute in ATTRIBUTES.items():
        asked = [n for n, target in enumerate(targets) if attribute.key in target]
        if not asked:
            continue
        true = [targets[n][attribute.key] for n in asked]
        known = [example[attribute.key] for example in training if attribute.key in example]
        result[name] = {'random': {'accuracy': chance(name, known, true)},
                        'majority': {'accuracy': majority(name, known, true)},
                        **{model: accuracy(name, [given[n] for n in asked], true) for model, given in answers.items()}}
    return result
