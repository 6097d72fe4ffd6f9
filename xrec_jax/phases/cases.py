"""Instruction data from any dataset (LLMXRec, section 3.2): what was asked, for people to label, and true attributes.

  cases/<phase>.jsonl             a case for each request, for `python -m xrec_jax.labelling --kind=text --cases=…`: people
                                  write or mend the answers, and what they saved is imported in Alpaca's form
  cases/<phase>-attributes.jsonl  attribute prediction in Alpaca's form, labelled with the true attributes

Both are then files of `tune.data.train`, mixed by `tune.data.ratio`.
"""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from xrec_jax.language import instructions
from xrec_jax.phases import judge_attributes
from xrec_jax.phases.requests import Requests
from xrec_jax.runs.files import write_whole


def write(workdir: pathlib.Path, phase: str, generator: str, wanted: Requests, asked: Sequence[str], written: pa.Table
          ) -> None:
    """Writes both files of a phase; `asked` [N] are the instructions, `written` the explanations of `generator`."""
    drafts = dict(zip(written['example'].to_pylist(), written['text'].to_pylist()))
    folder = workdir / 'cases'
    _write_lines(folder / f'{phase}.jsonl', (
        {'dataset': one.domain.items, 'index': n, 'user_id': wanted.user_id[n], 'item_id': wanted.item_id[n],
         'recommender': wanted.group[n], 'instruction': asked[n], 'answers': {generator: drafts.get(n, '')}}
        for n, one in enumerate(wanted.recommendations)))
    _write_lines(folder / f'{phase}-attributes.jsonl', (
        row for one in wanted.recommendations for row in attribute_examples(one)))


def attribute_examples(one: instructions.Recommendation) -> list[dict[str, str]]:
    """Lines in Alpaca's form: of each attribute task the prompt, and the true attributes as its answer."""
    rows = []
    for task in instructions.TASKS:
        values = {name: _plain(value) for name, value in judge_attributes.target(one, task).items()}
        if values:
            asked = instructions.attributes(one, task, names=tuple(values)) if task == 'customer' else (
                instructions.attributes(one, task))
            rows.append({'instruction': asked, 'input': '',
                         'output': instructions.attribute_answer(task, one.domain, values)})
    return rows


def _plain(value: Any) -> str | int:
    """As an answer has it: a number, or words separated by commas."""
    text = value if isinstance(value, str) else ', '.join(value)
    return int(text) if text.isdigit() else text


def _write_lines(path: pathlib.Path, rows: Iterable[dict]) -> None:
    write_whole(path, lambda partial: partial.write_text(''.join(json.dumps(row) + '\n' for row in rows)))
