"""Instruction data in Alpaca's form, one JSON object a line: what was asked, and the answer wanted.

1. `Example`: instruction, input and output of a line
2. `read_instructions`: the lines of a file, checked; every refusal names file, line and key
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from xrec_jax.data.raw import BadRows, RawFile, on_disk
from xrec_jax.data.readers import jsonlines
from xrec_jax.errors import UserError


class Example(NamedTuple):
    """`input` is what the instruction is about, '' where the instruction says it all."""

    instruction: str
    input: str
    output: str


@dataclasses.dataclass
class _Refuse(BadRows):
    """Labels are few and written by hand: none is passed over."""

    def report(self, file: RawFile, line: int, problem: str, count: int = 1) -> None:
        raise UserError(f'{file.label}, {file.unit} {line}{problem}')


def read_instructions(path: str | pathlib.Path) -> list[Example]:
    """The examples of a file (plain or .gz), in order.

    `instruction` and `output` are texts that are not blank. `input` may be missing, null, '' or {} (the
    material of LLMXRec has the last): all mean ''. Other keys are passed over.

    Raises:
      UserError: no such file, nothing in it, a line that is no JSON object, a key that is missing or blank or no
        text; the message names file, line and key.
    """
    file = on_disk(pathlib.Path(path))
    examples = []
    for line, row in lines(file):
        about = row.get('input')
        examples.append(Example(text(file, line, row, 'instruction'),
                                text(file, line, row, 'input', blank=True) if about else '',
                                text(file, line, row, 'output')))
    return examples


def lines(file: RawFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, object) of each line; UserError for one that is no object."""
    if next(file.blocks()).data.lstrip().startswith(b'['):
        raise UserError(f'{file.label}, line 1: begins a JSON array; should be one object a line '
                        f"(jq -c '.[]' {file.name} writes it so)")
    return jsonlines.objects(file, _Refuse())


def text(file: RawFile, line: int, row: dict[str, Any], key: str, blank: bool = False) -> str:
    """The text of a key of a line; UserError where it is missing, no text, or blank and should not be."""
    if key not in row:
        raise UserError(f'{file.label}, line {line}: has no "{key}"; its keys: {", ".join(row) or "none"}')
    value = row[key]
    if not isinstance(value, str):
        raise UserError(f'{file.label}, line {line}, key {key}: should be text, is {type(value).__name__}: '
                        f'{str(value)[:80]!r}')
    if not blank and not value.strip():
        raise UserError(f'{file.label}, line {line}, key {key}: is empty; write the text or take the line out')
    return value
