"""What was saved from a sheet becomes data; what is not of the sheet is refused."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from xrec_jax.data.instructions import read_instructions
from xrec_jax.data.scores import CRITERIA, read_scores
from xrec_jax.errors import UserError
from xrec_jax.language import instructions, labels, sheets
from xrec_jax.language.sheets import Case

GENERATORS = ('GPT4', 'LLaMA2', 'ours')
CASES = [Case('films' if n % 2 else 'news', n // 2, f'Why "{n}",\nand what?',
              {name: f'{name} on {n}, "so"\nit is' for name in GENERATORS}) for n in range(8)]


def drawn(kind, tmp_path, **options):
    """A sheet with its key at key.json."""
    sheet = sheets.draw_sheet(CASES, kind, seed=1, **options)
    sheets.write_sheet(sheet, tmp_path / 'sheet.html', tmp_path / 'key.json')
    return sheet


def save(drawn_sheet, values, tmp_path, **changed):
    """A file as the page saves it; `values`: entry → value."""
    rows = [{'entry': entry.id, 'order': [name for name, _, _ in entry.answers], 'value': values[entry.id]}
            for entry in drawn_sheet.entries if entry.id in values]
    saved = {'format': 1, 'sheet': drawn_sheet.id, 'kind': drawn_sheet.kind, 'rater': 'Ada', 'labels': rows} | changed
    (tmp_path / 'saved.json').write_text(json.dumps(saved))
    return tmp_path / 'saved.json'


def bring(tmp_path, path, out):
    return labels.import_labels(path, tmp_path / 'key.json', tmp_path / out)


def test_scores_come_back_as_a_table(tmp_path):
    sheet = drawn('scores', tmp_path)
    rng = np.random.default_rng(0)
    values, true = {}, {}
    for entry in sheet.entries[:6]:
        given = {name: dict(zip(CRITERIA, map(int, rng.integers(1, 11, 3)))) for name, _, _ in entry.answers}
        values[entry.id] = given
        for name, generator, _ in entry.answers:
            true[entry.case.dataset, entry.case.index, generator] = list(given[name].values())
    partial = sheet.entries[6]
    values[partial.id] = {partial.answers[0][0]: {CRITERIA[1]: 4}, partial.answers[1][0]: {}}
    values[sheet.entries[7].id] = {}
    assert bring(tmp_path, save(sheet, values, tmp_path), 'scores.csv') == {'entries': 8, 'labelled': 7, 'rows': 7}
    scores = read_scores(tmp_path / 'scores.csv')
    assert scores.generators == GENERATORS
    items = list(zip(scores.datasets, scores.indices))
    assert items == sorted(items)
    for (dataset, index, generator), row in true.items():
        assert list(scores.values[items.index((dataset, index)), GENERATORS.index(generator)]) == row
    rest = scores.values[items.index(partial.case[:2])]
    assert rest[GENERATORS.index(partial.answers[0][1]), 1] == 4 and np.isfinite(rest).sum() == 1


def test_choices_come_back_as_judge_pairs_in_the_order_shown(tmp_path):
    sheet = drawn('pairs', tmp_path, pairs_per_case=0)
    values = {}
    for n, entry in enumerate(sheet.entries):  # always GPT4 where it is there, else equal
        best = [name for name, generator, _ in entry.answers if generator == 'GPT4']
        values[entry.id] = best[0] if best else labels.EQUAL
    counts = bring(tmp_path, save(sheet, values, tmp_path), 'pairs.jsonl')
    assert counts == {'entries': 24, 'labelled': 24, 'rows': 16}
    rows = [json.loads(line) for line in (tmp_path / 'pairs.jsonl').read_text().splitlines()]
    for example, row in zip(read_instructions(tmp_path / 'pairs.jsonl'), rows):
        instruction, *texts = instructions.judged(example.instruction)
        assert texts[int(example.output) - 1].startswith('GPT4 on')
        assert [text.partition(' ')[0] for text in texts] == row['generators']
        assert instruction == next(case.instruction for case in CASES if case[:2] == (row['dataset'], row['index']))
    assert {row['output'] for row in rows} == {'1', '2'}


def test_texts_come_back_as_instruction_pairs(tmp_path):
    sheet = drawn('text', tmp_path)
    values = {entry.id: f'  Since "{entry.case.index}", so.\nEnd ' for entry in sheet.entries[:3]}
    values[sheet.entries[3].id] = '  '
    assert bring(tmp_path, save(sheet, values, tmp_path), 'a.jsonl')['labelled'] == 3
    found = [(example.instruction, example.output) for example in read_instructions(tmp_path / 'a.jsonl')]
    assert found == [(entry.case.instruction, f'Since "{entry.case.index}", so.\nEnd') for entry in sheet.entries[:3]]


# The page's own code, with a document that takes anything and shows nothing.
DRIVER = '''
const fs = require('fs'), vm = require('vm');
const [script, content, given] = JSON.parse(fs.readFileSync(0));
const anything = new Proxy(function () {}, {
  get: (target, name) => name === Symbol.toPrimitive ? () => '' : name === 'textContent' ? content : anything,
  set: () => true, apply: () => anything, construct: () => anything});
const context = {document: anything, window: anything, localStorage: {getItem: () => null, setItem() {}},
                 given: given};
vm.createContext(context);
const ask = ';state.given = given; state.rater = "Ada, \\\\"A\\\\""; globalThis.result = [asJson(), asCsv()]';
vm.runInContext(script + ask, context);
console.log(JSON.stringify(context.result));
'''


@pytest.mark.skipif(not shutil.which('node'), reason='needs node')
@pytest.mark.parametrize('kind', sheets.KINDS)
def test_what_the_page_saves_is_what_is_read(tmp_path, kind):
    sheet = drawn(kind, tmp_path)
    some = sheet.entries[2:6]
    values = {entry.id: {
        'text': f'One, "two"\r\nthree {entry.id}', 'pairs': entry.answers[-1][0] if kind != 'text' else '',
        'scores': {name: {'redundancy': 10, 'reasonability': 1} for name, _, _ in entry.answers[:2]}}[kind]
        for entry in some}
    page = (tmp_path / 'sheet.html').read_text(encoding='utf-8')
    content, script = [part.partition('</script>')[0].partition('>')[2] for part in page.split('<script')[1:]]
    run = subprocess.run(['node', '-e', DRIVER], input=json.dumps([script, content, values]), text=True,
                         capture_output=True, check=True, timeout=60)
    as_json, as_csv = json.loads(run.stdout)
    read = []
    for name, text in (('saved.json', as_json), ('saved.csv', as_csv)):
        (tmp_path / name).write_text(text, newline='', encoding='utf-8')
        read.append(labels.read_labels(tmp_path / name, tmp_path / 'key.json'))
    assert read[0] == read[1] and read[0].given == values and read[0].rater == 'Ada, "A"'
    assert read[0].orders == {entry.id: tuple(name for name, _, _ in entry.answers) for entry in some}


# ----------------------------------------------------------------------------------- what is refused


def test_labels_of_another_sheet_are_refused(tmp_path):
    sheet = drawn('scores', tmp_path)
    path = save(sheet, {}, tmp_path, sheet='0123456789abcdef')
    with pytest.raises(UserError, match='was saved from sheet 0123456789abcdef, and .*key.json is the key of sheet'):
        bring(tmp_path, path, 'a.csv')
    with pytest.raises(UserError, match='kind "pairs" is not the "scores"'):
        bring(tmp_path, save(sheet, {}, tmp_path, kind='pairs'), 'a.csv')
    with pytest.raises(UserError, match='holds no label yet'):
        bring(tmp_path, save(sheet, {}, tmp_path), 'a.csv')
    assert not (tmp_path / 'a.csv').exists()


@pytest.mark.parametrize('value, message', [
    ({'reasonability': 11}, 'reasonability should be a whole number from 1 to 10, is 11'),
    ({'reasonability': '7'}, 'whole number'), ({'reasonability': True}, 'whole number'),
    ({'beauty': 3}, '"beauty" is none of'), (3, 'is not in the sheet')])
def test_bad_scores_are_refused(tmp_path, value, message):
    sheet = drawn('scores', tmp_path)
    entry = sheet.entries[0]
    with pytest.raises(UserError, match=message):
        bring(tmp_path, save(sheet, {entry.id: {entry.answers[0][0]: value}}, tmp_path), 'a.csv')


def test_bad_labels_are_refused(tmp_path):
    sheet = drawn('pairs', tmp_path)
    entry = sheet.entries[0]
    right = {'entry': entry.id, 'order': [name for name, _, _ in entry.answers], 'value': labels.EQUAL}
    for rows, message in (
            ([right | {'entry': 'zzz'}], 'entry "zzz" is not in its sheet'), ([right, right], 'stands there twice'),
            ([right | {'order': right['order'][:1]}], 'its answers are not those of the sheet'),
            ([right | {'value': 'zzz'}], '"zzz" is none of its two answers'), (['x'], 'is not in its sheet')):
        with pytest.raises(UserError, match=message):
            bring(tmp_path, save(sheet, {}, tmp_path, labels=rows), 'a.jsonl')


@pytest.mark.parametrize('text, message', [
    ('', 'neither JSON nor the CSV'), ('{"format": 1', 'no JSON'), ('{}', 'should be an object with sheet'),
    ('{"format": 9, "sheet": "", "kind": "", "labels": []}', 'format 9 is not the 1'), ('a,b\n', 'neither JSON nor'),
    (','.join(labels.COLUMNS) + '\n', 'no line below the first'),
    (','.join(labels.COLUMNS) + '\na,b\n', 'row 2: has 2 columns')])
def test_other_files_are_refused(tmp_path, text, message):
    drawn('scores', tmp_path)
    (tmp_path / 'saved').write_text(text)
    with pytest.raises(UserError, match=message):
        bring(tmp_path, tmp_path / 'saved', 'a.csv')


def test_missing_files_are_told(tmp_path):
    with pytest.raises(UserError, match='key.json: cannot be read'):
        labels.read_labels(tmp_path / 'saved.json', tmp_path / 'key.json')
