"""What people saved from a labelling sheet → data: instruction pairs, human scores, judge pairs.

1. `read_labels`: a saved file (JSON or CSV) checked against the sheet's key
2. `instruction_pairs`, `score_table`, `judge_pairs`: the data that each kind of sheet gives
3. `import_labels`: the same from file to file

Entries that nobody labelled are passed over and counted; a file of another sheet is refused.
"""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from xrec_jax.data.scores import CRITERIA, HIGH, LOW
from xrec_jax.errors import UserError
from xrec_jax.language.instructions import judge
from xrec_jax.language.sheets import FORMAT, KINDS
from xrec_jax.runs.files import write_whole

EQUAL = 'equal'
COLUMNS = ('sheet', 'kind', 'rater', 'entry', 'position', 'answer', 'name', 'value')  # of a saved CSV


@dataclasses.dataclass(frozen=True)
class Labels:
    """One person's labels of one sheet.

    `given`: entry → the text written; or answer → criterion → score; or the answer chosen, or EQUAL. `orders`: entry →
    ids of its answers as they were shown. `entries` and `generators` are the key's.
    """

    kind: str
    rater: str
    given: Mapping[str, Any]
    orders: Mapping[str, tuple[str, ...]]
    entries: Mapping[str, Mapping[str, Any]]
    generators: tuple[str, ...]


def read_labels(path: str | pathlib.Path, key_path: str | pathlib.Path) -> Labels:
    """Reads a saved file with the key of its sheet.

    Raises:
      UserError: a file that is no saved file or no key, a saved file of another sheet, an entry or an answer that the
        sheet has not, a score that is no whole number from 1 to 10.
    """
    path, key_path = pathlib.Path(path), pathlib.Path(key_path)
    key = _json(key_path, 'the key of a sheet', ('sheet', 'kind', 'generators', 'entries'))
    text = _text(path)
    if text.lstrip('\ufeff').startswith('{'):
        saved = _json(path, 'a file saved from a sheet', ('sheet', 'kind', 'labels'))
    else:
        saved = _of_csv(path, text)
    if saved['sheet'] != key['sheet']:
        raise UserError(f'{path}: was saved from sheet {saved["sheet"]}, and {key_path} is the key of sheet '
                        f'{key["sheet"]}; give the key that was written with that sheet')
    kind, given, orders = key['kind'], {}, {}
    if kind not in KINDS or saved['kind'] != kind:
        raise UserError(f'{path}: kind "{saved["kind"]}" is not the "{kind}" of its sheet')
    for label in saved['labels']:
        entry = label.get('entry') if isinstance(label, dict) else None
        if entry not in key['entries']:
            raise UserError(f'{path}: entry "{entry}" is not in its sheet')
        if entry in given:
            raise UserError(f'{path}: entry "{entry}" stands there twice')
        known = key['entries'][entry]['answers']
        orders[entry] = tuple(label.get('order', ()))
        if sorted(orders[entry]) != sorted(known):
            raise UserError(f'{path}, entry "{entry}": its answers are not those of the sheet')
        value = label.get('value')
        if problem := _problem(kind, value, known):
            raise UserError(f'{path}, entry "{entry}": {problem}')
        if kind == 'scores':
            value = {answer: scores for answer, scores in value.items() if scores}
        if value and (kind != 'text' or value.strip()):
            given[entry] = value
    return Labels(kind, str(saved.get('rater') or ''), given, orders, key['entries'], tuple(key['generators']))


def _problem(kind: str, value: Any, answers: Mapping[str, Any]) -> str:
    """What is wrong with a label, '' if nothing is."""
    if kind == 'text':
        return '' if isinstance(value, str) else f'should be a text, is {value!r}'
    if kind == 'pairs':
        return '' if value in (*answers, EQUAL) else f'"{value}" is none of its two answers, and not "{EQUAL}"'
    if not isinstance(value, dict):
        return f'should be scores by answer, is {value!r}'
    for answer, scores in value.items():
        if answer not in answers or not isinstance(scores, dict):
            return f'answer "{answer}" is not in the sheet'
        for name, score in scores.items():
            if name not in CRITERIA:
                return f'"{name}" is none of {", ".join(CRITERIA)}'
            if not isinstance(score, int) or isinstance(score, bool) or not LOW <= score <= HIGH:
                return f'{name} should be a whole number from {LOW} to {HIGH}, is {score!r}'
    return ''


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_bytes().decode('utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error})') from error


def _json(path: pathlib.Path, what: str, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        value = json.loads(_text(path).lstrip('\ufeff'))
    except ValueError as error:
        raise UserError(f'{path}: is not {what}: no JSON ({error})') from error
    if not isinstance(value, dict) or any(name not in value for name in names):
        raise UserError(f'{path}: is not {what}: should be an object with {", ".join(names)}')
    if value.get('format') != FORMAT:
        raise UserError(f'{path}: format {value.get("format")} is not the {FORMAT} that this version reads')
    return value


def _of_csv(path: pathlib.Path, text: str) -> dict[str, Any]:
    """A saved CSV as the saved JSON: a line for each text, choice or score, and one for each answer shown."""
    rows = list(csv.reader(io.StringIO(text.lstrip('\ufeff'), newline='')))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise UserError(f'{path}, line 1: is neither JSON nor the CSV of a sheet, whose columns are '
                        f'{",".join(COLUMNS)}')
    if len(rows) < 2:
        raise UserError(f'{path}: has no line below the first')
    labels: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(COLUMNS):
            raise UserError(f'{path}, row {number}: has {len(row)} columns, the first row {len(COLUMNS)}')
        sheet, kind, rater, entry, position, answer, name, value = row
        if (sheet, kind) != tuple(rows[1][:2]):
            raise UserError(f'{path}, row {number}: is of another sheet than row 2')
        label = labels.setdefault(entry, {'entry': entry, 'shown': {}, 'value': {} if kind == 'scores' else ''})
        if name == 'shown':
            label['shown'][position] = answer
        elif kind == 'scores':
            label['value'].setdefault(answer, {})[name] = int(value) if value.isdecimal() else value
        else:
            label['value'] = value
    for label in labels.values():
        shown = label.pop('shown')
        label['order'] = [shown[place] for place in sorted(shown, key=lambda place: (len(place), place))]
    return {'sheet': rows[1][0], 'kind': rows[1][1], 'rater': rows[1][2],
            'labels': list(labels.values())}


# ------------------------------------------------------------------------------------------- data


def instruction_pairs(labels: Labels) -> list[dict[str, Any]]:
    """Alpaca's form, with the data set and row that a text is of."""
    return [{'instruction': labels.entries[entry]['instruction'], 'input': '', 'output': text.strip(),
             'dataset': labels.entries[entry]['dataset'], 'index': labels.entries[entry]['index']}
            for entry, text in labels.given.items()]


def judge_pairs(labels: Labels) -> list[dict[str, Any]]:
    """Judge's instructions (eq. 4) in the order shown, with "1" or "2"; those called equal are left out."""
    rows = []
    for entry, chosen in labels.given.items():
        if chosen != EQUAL:
            told = labels.entries[entry]
            answers = [told['answers'][answer] for answer in labels.orders[entry]]
            rows.append({
                'instruction': judge(told['instruction'], *(answer['text'] for answer in answers), question=False),
                'input': '', 'output': str(labels.orders[entry].index(chosen) + 1),
                'generators': [answer['generator'] for answer in answers],
                'dataset': told['dataset'], 'index': told['index']})
    return rows


def score_table(labels: Labels) -> str:
    """CSV as `data.scores.read_scores` reads it: dataset, index, and a dictionary of scores a generator."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(('dataset', 'index', *labels.generators))
    rows = []
    for entry, scores in labels.given.items():
        told = labels.entries[entry]
        of = {told['answers'][answer]['generator']: values for answer, values in scores.items()}
        cells = [str(of[name]) if name in of else '' for name in labels.generators]
        rows.append((told['dataset'], told['index'], *cells))
    writer.writerows(sorted(rows, key=lambda row: row[:2]))
    return out.getvalue()


def import_labels(path: str | pathlib.Path, key_path: str | pathlib.Path, out: str | pathlib.Path) -> dict[str, int]:
    """Turns a saved file into data at `out`: JSON lines for 'text' and 'pairs', CSV for 'scores'.

    Returns counts: entries of the sheet, those labelled, rows written.
    """
    labels = read_labels(path, key_path)
    if not labels.given:
        raise UserError(f'{path}: holds no label yet; nothing is written')
    if labels.kind == 'scores':
        text = score_table(labels)
        count = len(labels.given)
    else:
        rows = instruction_pairs(labels) if labels.kind == 'text' else judge_pairs(labels)
        text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
        count = len(rows)
    write_whole(pathlib.Path(out), lambda path: path.write_text(text, encoding='utf-8'))
    return {'entries': len(labels.entries), 'labelled': len(labels.given), 'rows': count}
