"""Labelling sheets: one HTML page on which a person writes, scores or compares answers, blind and in random order.

1. `Case`: an instruction and the answers to it, by generator; `read_cases` reads them
2. `Sheet`, `draw_sheet`: entries in random order with the answers in random order, under ids that say nothing
3. `write_sheet`: the page, and beside it the key that tells whose answers they are; the page alone does not

The page (`templates/labelling/sheet.jinja`) needs no network and no server; it saves a file, which `labels` reads.
Kinds: 'text' (write the answer, for instruction data), 'scores' (reasonability, attractiveness and redundancy of each
answer), 'pairs' (the better one of two, for the judge).
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np
import pyarrow.parquet as pq

from xrec_jax.data import instructions
from xrec_jax.data.raw import on_disk
from xrec_jax.data.scores import CRITERIA, HIGH, LOW
from xrec_jax.errors import UserError, nearest
from xrec_jax.runs.files import write_whole

KINDS = {'text': 0, 'scores': 1, 'pairs': 2}  # kind → answers that an entry has at least
FORMAT = 1  # of key and saved file
_TABLE = ('dataset', 'recommender', 'generator', 'row', 'instruction', 'explanation')
_PAGE = jinja2.Environment(loader=jinja2.PackageLoader('xrec_jax.language', 'templates'), autoescape=True,
                           undefined=jinja2.StrictUndefined)


class Case(NamedTuple):
    """Row `index` of `dataset`: an instruction, and generator → answer."""

    dataset: str
    index: int
    instruction: str
    answers: Mapping[str, str]


class Entry(NamedTuple):
    """What is shown at once: `answers` is (id, generator, text), in the order shown."""

    id: str
    case: Case
    answers: tuple[tuple[str, str, str], ...]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """`generators` are in the order of the input, for tables made of the labels."""

    id: str
    kind: str
    seed: int
    generators: tuple[str, ...]
    entries: tuple[Entry, ...]


# ---------------------------------------------------------------------------------------- reading


def read_cases(path: str | pathlib.Path, recommender: str = '') -> list[Case]:
    """The cases of a file.

    - JSON lines with `instruction` and `answers` ({"GPT4": "…", …}), and `dataset` and `index` where known
    - JSON lines in Alpaca's form; an `output` is an answer of the generator "output", shown as a draft
    - a parquet table as LLMXRec's authors published theirs: dataset, recommender, generator, row, instruction,
      explanation. With several recommenders one must be chosen. An answer to another instruction than most
      generators had for that row is left out.

    Raises UserError (file, line, key).
    """
    path = pathlib.Path(path)
    if path.suffix == '.parquet':
        return _cases_of_table(path, recommender)
    if recommender:
        raise UserError(f'{path}: has no recommenders to choose from; leave recommender out')
    file = on_disk(path)
    cases = []
    for line, row in instructions.lines(file):
        asked = instructions.text(file, line, row, 'instruction')
        if row.get('input'):
            asked = f'{asked}\n{instructions.text(file, line, row, "input")}'
        answers = row.get('answers', {'output': row['output']} if row.get('output') else {})
        if not isinstance(answers, dict) or not all(isinstance(text, str) for text in answers.values()):
            raise UserError(f'{file.label}, line {line}, key answers: should be an object of texts, '
                            '{"GPT4": "Since you …", …}')
        index = row.get('index', line - 1)
        if not isinstance(index, int) or isinstance(index, bool):
            raise UserError(f'{file.label}, line {line}, key index: should be a whole number, is {index!r}')
        cases.append(Case(str(row.get('dataset', path.stem)), index, asked, answers))
    return cases


def _cases_of_table(path: pathlib.Path, recommender: str) -> list[Case]:
    try:
        known = pq.read_schema(path).names
        if missing := [name for name in _TABLE if name not in known]:
            raise UserError(f'{path}: has no column {", ".join(missing)}; a table of answers has {", ".join(_TABLE)}')
        table = pq.read_table(path, columns=list(_TABLE))
    except (OSError, ValueError) as error:  # Arrow's errors are of these
        raise UserError(f'{path}: cannot be read as a parquet table ({error})') from error
    recommenders = sorted(set(table['recommender'].to_pylist()))
    if recommender and recommender not in recommenders:
        raise UserError(f'{path}: has no recommender "{recommender}".{nearest(recommender, recommenders)}')
    if not recommender and len(recommenders) > 1:
        raise UserError(f'{path}: has answers for recommendations of {", ".join(recommenders)}; choose one')
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row['recommender'] == (recommender or recommenders[0]):
            groups.setdefault((row['dataset'], row['row']), []).append(row)
    cases = []
    for (dataset, index), rows in groups.items():
        asked = [row['instruction'] for row in rows]
        most = max(asked, key=asked.count)
        cases.append(Case(dataset, index, most, {
            row['generator']: row['explanation'] or '' for row in rows if row['instruction'] == most}))
    return cases


# ---------------------------------------------------------------------------------------- drawing


def draw_sheet(cases: Sequence[Case], kind: str, seed: int = 0, most: int = 0, pairs_per_case: int = 1) -> Sheet:
    """Draws a sheet from `cases`: which, in what order, and the order of their answers, by `seed`.

    Args:
      most: cases of each data set, drawn by chance; 0 takes all.
      pairs_per_case: of kind 'pairs', drawn by chance; 0 takes all pairs of generators.

    Raises:
      UserError: an unknown kind, no case with answers enough, a row of a data set that stands there twice.
    """
    if kind not in KINDS:
        raise UserError(f'there is no kind of sheet "{kind}".{nearest(kind, KINDS)}')
    seen = set()
    for case in cases:
        if case[:2] in seen:
            raise UserError(f'row {case.index} of {case.dataset} stands twice among the cases; give each an index')
        seen.add(case[:2])
    rng = np.random.default_rng(seed)
    # An empty answer is nothing to score; where a text is to be written, it is no draft.
    cases = [case._replace(answers={name: text for name, text in case.answers.items() if text.strip()})
             for case in cases]
    fit = [case for case in cases if len(case.answers) >= KINDS[kind]]
    if not fit:
        raise UserError(f'none of {len(cases)} cases has {KINDS[kind]} answers or more, as a sheet of kind '
                        f'"{kind}" needs')
    chosen = []
    for dataset in dict.fromkeys(case.dataset for case in fit):
        rows = [case for case in fit if case.dataset == dataset]
        order = rng.permutation(len(rows))
        chosen += [rows[n] for n in order[:most or len(rows)]]
    shown = []
    for case in chosen:
        groups = [tuple(case.answers)]
        if kind == 'pairs':
            pairs = list(itertools.combinations(case.answers, 2))
            groups = [pairs[n] for n in rng.permutation(len(pairs))[:pairs_per_case or len(pairs)]]
        shown += [(case, group) for group in groups]
    entries = []
    for n in rng.permutation(len(shown)):
        case, group = shown[n]
        entries.append(Entry(_id(rng), case, tuple(
            (_id(rng), group[k], case.answers[group[k]]) for k in rng.permutation(len(group)))))
    generators = tuple(dict.fromkeys(name for case in cases for name in case.answers))
    content = json.dumps([kind, [[entry.id, *(name for name, _, _ in entry.answers)] for entry in entries]])
    return Sheet(hashlib.sha256(content.encode()).hexdigest()[:16], kind, seed, generators, tuple(entries))


def _id(rng: np.random.Generator) -> str:
    return rng.bytes(6).hex()


# ---------------------------------------------------------------------------------------- writing


def page(sheet: Sheet, title: str = 'Explanations of recommendations') -> str:
    """The page; of the answers it holds texts and ids only."""
    content = {
        'format': FORMAT, 'sheet': sheet.id, 'kind': sheet.kind, 'criteria': CRITERIA, 'low': LOW, 'high': HIGH,
        'entries': [{'id': entry.id, 'instruction': entry.case.instruction,
                     'answers': [{'id': name, 'text': text} for name, _, text in entry.answers]}
                    for entry in sheet.entries]}
    # Within a script nothing may look like markup, and no text may end the script.
    safe = json.dumps(content, ensure_ascii=True)
    for letter in '<>&':
        safe = safe.replace(letter, f'\\u{ord(letter):04x}')
    template = _PAGE.get_template('labelling/sheet.jinja')
    return template.render(title=title, kind=sheet.kind, count=len(sheet.entries), low=LOW, high=HIGH,
                           content=markupsafe.Markup(safe))


def key(sheet: Sheet) -> dict[str, Any]:
    """Whose answers they are, and all that `labels` needs to make data of the saved file."""
    return {
        'format': FORMAT, 'sheet': sheet.id, 'kind': sheet.kind, 'seed': sheet.seed, 'generators': sheet.generators,
        'entries': {entry.id: {
            'dataset': entry.case.dataset, 'index': entry.case.index, 'instruction': entry.case.instruction,
            'answers': {name: {'generator': generator, 'text': text} for name, generator, text in entry.answers},
        } for entry in sheet.entries}}


def write_sheet(sheet: Sheet, page_path: str | pathlib.Path, key_path: str | pathlib.Path, **words: str) -> None:
    """Writes the page and its key. Keep the key from those who label."""
    written = page(sheet, **words)
    write_whole(pathlib.Path(key_path), lambda path: path.write_text(json.dumps(key(sheet), indent=1) + '\n'))
    write_whole(pathlib.Path(page_path), lambda path: path.write_text(written, encoding='utf-8'))
