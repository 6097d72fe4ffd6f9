"""Examples of attribute prediction (LLMXRec, section 3.2): a prompt, and a JSON object with the true attributes.

Faults of the published file: 223 of its 302 prices are no JSON ({"price_acc": Free to Play}), all prices stand under
another key than the prompt asks for ("Game price"), one is nan, and 29 prompts stand there twice. `label` writes an
answer as the prompt asks for it.
"""

import pathlib
from typing import Any, NamedTuple

from xrec_jax.data.instructions import read_instructions
from xrec_jax.errors import UserError
from xrec_jax.language import instructions
from xrec_jax.language.json_answers import parse_answer
from xrec_jax.metrics import inferred

_TASKS = {'age': 'customer', 'gender': 'customer', 'occupation': 'customer', 'popularity': 'popularity',
          'price': 'price', 'category': 'category', 'interest': 'interest'}


class AttributeExample(NamedTuple):
    """`values`: attribute (a key of `inferred.ATTRIBUTES`) → what the output says; `task` as in `instructions`."""

    instruction: str
    task: str
    values: dict[str, Any]

    @property
    def usable(self) -> bool:
        """Whether every value can be read (a price of nan cannot)."""
        return all(inferred.ATTRIBUTES[name].read(value) is not None for name, value in self.values.items())


def read_attribute_examples(path: str | pathlib.Path) -> list[AttributeExample]:
    """The examples of a file in Alpaca's form, in order.

    Raises:
      UserError: as `read_instructions`; an output that is no object, or names none of the attributes, or those of
        several tasks. The message names file and line.
    """
    examples = []
    for line, example in enumerate(read_instructions(path), 1):
        answer = parse_answer(example.output)
        names = [name for name in _TASKS if _has(answer, name)]
        tasks = {_TASKS[name] for name in names}
        if len(tasks) != 1:
            raise UserError(f'{path}, line {line}, key output: should be a JSON object with the attributes of one task '
                            f'({", ".join(_TASKS)}), is {example.output[:80]!r}')
        examples.append(AttributeExample('\n'.join(filter(None, (example.instruction, example.input))), *tasks,
                                         {name: _raw(answer, name) for name in names}))
    return examples


def _raw(answer: dict[str, Any] | None, name: str) -> Any:
    """The value under the attribute's key as it stands."""
    return next((value for key, value in (answer or {}).items() if inferred.is_key(key, name)), None)


def _has(answer: dict[str, Any] | None, name: str) -> bool:
    return _raw(answer, name) is not None


def label(example: AttributeExample) -> str:
    """The answer as the prompt asks for it: one line of JSON under the prompt's own keys."""
    domain = instructions.parse(example.instruction).domain
    values = {name: 'Free to Play' if name == 'price' and inferred.ATTRIBUTES['price'].read(value) == 0 else value
              for name, value in example.values.items()}
    return instructions.attribute_answer(example.task, domain, values)
