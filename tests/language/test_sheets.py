"""Labelling sheets: who wrote an answer cannot be read from the page, order is by chance, nothing breaks out."""

import collections
import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import sheets
from xrec_jax.language.sheets import Case, draw_sheet

GENERATORS = ('GPT4', 'LLaMA2', 'ours')
CASES = [Case('films', n, f'Why film {n}?', {name: f'text {n}{letter}' for name, letter in zip(GENERATORS, 'xyz')})
         for n in range(40)]
EVIL = '</script <p>x</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> & "\u2028" {{ 7 * 7 }}'
SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'llmxrec'


class Page(html.parser.HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        (self.scripts if self.elements and self.elements[-1][0] == 'script' and self.cdata_elem
         else self.words).append(data)


def content(text):
    return json.loads(Page(text).scripts[0])


def entries(sheet):
    return [(entry.case.index, [name for _, name, _ in entry.answers]) for entry in sheet.entries]


# ---------------------------------------------------------------------------------------- drawing


def test_each_case_stands_once_with_all_its_answers():
    sheet = draw_sheet(CASES, 'scores')
    assert sorted(index for index, _ in entries(sheet)) == list(range(40))
    assert all(sorted(names) == sorted(GENERATORS) for _, names in entries(sheet))
    assert sheet.generators == GENERATORS
    ids = [entry.id for entry in sheet.entries] + [name for entry in sheet.entries for name, _, _ in entry.answers]
    assert len(set(ids)) == len(ids) == 40 * 4 and all(re.fullmatch('[0-9a-f]{12}', name) for name in ids)


def test_orders_are_by_chance_and_by_seed():
    sheet = draw_sheet(CASES, 'scores', seed=3)
    assert sheet == draw_sheet(CASES, 'scores', seed=3)
    assert entries(sheet) != entries(draw_sheet(CASES, 'scores', seed=4))
    assert [index for index, _ in entries(sheet)] != list(range(40))
    first = collections.Counter(names[0] for _, names in entries(sheet))
    assert min(first[name] for name in GENERATORS) > 5


def test_pairs_are_of_two_generators():
    one = draw_sheet(CASES, 'pairs', seed=1)
    assert len(one.entries) == 40 and all(len(set(names)) == 2 for _, names in entries(one))
    assert len({tuple(names) for _, names in entries(one)}) == 6  # both orders of all three pairs
    every = draw_sheet(CASES, 'pairs', seed=1, pairs_per_case=0)
    assert len({(index, *sorted(names)) for index, names in entries(every)}) == len(every.entries) == 120


def test_most_is_of_each_data_set():
    cases = CASES + [case._replace(dataset='news') for case in CASES]
    sheet = draw_sheet(cases, 'scores', most=5)
    assert collections.Counter(entry.case.dataset for entry in sheet.entries) == {'films': 5, 'news': 5}


def test_empty_answers_are_not_shown():
    cases = [Case('films', 0, 'Why?', {'GPT4': ' \n', 'ours': 'Since.'})]
    assert entries(draw_sheet(cases, 'scores')) == [(0, ['ours'])]
    with pytest.raises(UserError, match='none of 1 cases has 2 answers or more'):
        draw_sheet(cases, 'pairs')
    assert entries(draw_sheet([Case('films', 0, 'Why?', {})], 'text')) == [(0, [])]


def test_bad_wishes_are_refused():
    with pytest.raises(UserError, match='no kind of sheet "score".*"scores"'):
        draw_sheet(CASES, 'score')
    with pytest.raises(UserError, match='row 0 of films stands twice'):
        draw_sheet([CASES[0], CASES[0]], 'scores')


# ---------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize('kind', sheets.KINDS)
def test_page_names_no_generator_and_key_does(kind):
    sheet = draw_sheet(CASES, kind)
    text = sheets.page(sheet)
    for name in ('GPT', 'LLaMA', 'ours"'):
        assert name not in text
    shown = content(text)
    assert shown['sheet'] == sheet.id and len(shown['entries']) == len(sheet.entries)
    key = json.loads(json.dumps(sheets.key(sheet)))
    for entry in shown['entries']:
        told = key['entries'][entry['id']]
        assert told['instruction'] == entry['instruction']
        assert list(told['answers']) == [answer['id'] for answer in entry['answers']]
        for answer in entry['answers']:
            of = told['answers'][answer['id']]
            assert CASES[told['index']].answers[of['generator']] == of['text'] == answer['text']


@pytest.mark.parametrize('kind', sheets.KINDS)
def test_no_text_breaks_out_of_the_page(kind):
    plain = Page(sheets.page(draw_sheet([Case('d', 0, 'Why?', {'a': 'x', 'b': 'y'})], kind), title='Films'))
    text = sheets.page(draw_sheet([Case('d', 0, EVIL, {'a': EVIL, 'b': 'y'})], kind), title=EVIL)
    evil = Page(text)
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in plain.elements]
    assert content(text)['entries'][0]['instruction'] == EVIL
    assert EVIL in ''.join(evil.words)  # the title, as words
    assert evil.scripts[1:] == plain.scripts[1:]
    assert not set('<>&') & set(evil.scripts[0])  # browsers end a script at "</script " too


@pytest.mark.parametrize('kind', sheets.KINDS)
def test_page_loads_nothing(kind):
    text = sheets.page(draw_sheet(CASES, kind))
    elements = Page(text).elements
    policy = next(attributes['content'] for _, attributes in elements
                  if attributes.get('http-equiv') == 'Content-Security-Policy')
    assert policy.startswith("default-src 'none'") and 'http' not in policy
    assert not {'link', 'img', 'iframe', 'form', 'object'} & {tag for tag, _ in elements}
    assert not any('src' in attributes or 'href' in attributes for _, attributes in elements)
    assert not re.search(r'https?://|@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(', text)


def test_page_is_labelled_for_those_who_cannot_see_it():
    elements = Page(sheets.page(draw_sheet(CASES, 'scores'))).elements
    assert ('html', {'lang': 'en'}) in elements
    ids = {attributes['id'] for _, attributes in elements if 'id' in attributes}
    for tag, attributes in elements:
        if tag == 'input':
            assert ('label', {'for': attributes['id']}) in elements
        if tag == 'progress':
            assert attributes['aria-label']
        if 'aria-labelledby' in attributes:
            assert attributes['aria-labelledby'] in ids
    script = Page(sheets.page(draw_sheet(CASES, 'scores'))).scripts[-1]
    for name in re.findall(r"byId\('([\w-]+)'\)", script):
        assert name in ids


@pytest.mark.skipif(not shutil.which('node'), reason='needs node')
def test_script_is_sound(tmp_path):
    (tmp_path / 'page.js').write_text(Page(sheets.page(draw_sheet(CASES, 'scores'))).scripts[-1])
    subprocess.run(['node', '--check', 'page.js'], cwd=tmp_path, check=True, timeout=60)


def test_sheet_and_key_are_written(tmp_path):
    sheet = draw_sheet(CASES, 'scores')
    sheets.write_sheet(sheet, tmp_path / 'new' / 'sheet.html', tmp_path / 'key.json', title='Ü')
    assert '<title>Ü</title>' in (tmp_path / 'new' / 'sheet.html').read_text(encoding='utf-8')
    assert json.loads((tmp_path / 'key.json').read_text())['sheet'] == sheet.id


# ---------------------------------------------------------------------------------------- reading


def test_cases_of_json_lines(tmp_path):
    path = tmp_path / 'films.jsonl'
    path.write_text('{"instruction": "Why?", "answers": {"a": "x", "b": ""}, "dataset": "d", "index": 7}\n'
                    '{"instruction": "Say it.", "input": "It", "output": "Said."}\n'
                    '{"instruction": "Write."}\n')
    assert sheets.read_cases(path) == [
        Case('d', 7, 'Why?', {'a': 'x', 'b': ''}), Case('films', 1, 'Say it.\nIt', {'output': 'Said.'}),
        Case('films', 2, 'Write.', {})]


@pytest.mark.parametrize('line, message', [
    ('{"answers": {}}', 'line 1: has no "instruction"'), ('{"instruction": ""}', 'key instruction: is empty'),
    ('{"instruction": "x", "answers": ["a"]}', 'key answers: should be an object'),
    ('{"instruction": "x", "answers": {"a": 1}}', 'key answers: should be an object'),
    ('{"instruction": "x", "index": "1"}', 'key index: should be a whole number'), ('nonsense', 'line 1')])
def test_bad_lines_are_refused(tmp_path, line, message):
    (tmp_path / 'a.jsonl').write_text(line + '\n')
    with pytest.raises(UserError, match=message):
        sheets.read_cases(tmp_path / 'a.jsonl')


def test_cases_of_a_table(tmp_path):
    rows = [(recommender, generator, row, f'Why {row}?' if (generator, row) != ('c', 1) else 'Else?',
             f'{recommender}{generator}{row}')
            for recommender in ('BPR', 'SAS') for row in (0, 1) for generator in 'abc']
    names = ('recommender', 'generator', 'row', 'instruction', 'explanation')
    table = pa.table(dict(zip(names, map(list, zip(*rows)))) | {'dataset': ['d'] * 12})
    pq.write_table(table, tmp_path / 'a.parquet')
    assert sheets.read_cases(tmp_path / 'a.parquet', 'SAS') == [
        Case('d', 0, 'Why 0?', {'a': 'SASa0', 'b': 'SASb0', 'c': 'SASc0'}),
        Case('d', 1, 'Why 1?', {'a': 'SASa1', 'b': 'SASb1'})]  # c was asked something else
    with pytest.raises(UserError, match='recommendations of BPR, SAS; choose one'):
        sheets.read_cases(tmp_path / 'a.parquet')
    with pytest.raises(UserError, match='no recommender "SA".*"SAS"'):
        sheets.read_cases(tmp_path / 'a.parquet', 'SA')
    pq.write_table(table.drop_columns(['row']), tmp_path / 'b.parquet')
    with pytest.raises(UserError, match='has no column row;'):
        sheets.read_cases(tmp_path / 'b.parquet')
    (tmp_path / 'c.parquet').write_text('no table')
    with pytest.raises(UserError, match='cannot be read as a parquet table'):
        sheets.read_cases(tmp_path / 'c.parquet')


@pytest.mark.skipif(not SHARED.is_dir(), reason='needs ../shared/data/llmxrec')
def test_published_answers_make_a_sheet():
    cases = sheets.read_cases(SHARED / 'explanations.parquet', 'BPR-MF')
    counts = collections.Counter(case.dataset for case in cases)
    assert counts == {'ml-100k': 943, 'mind_small_dev': 1000, 'steam': 1000}
    assert sum(len(case.answers) == 5 for case in cases) > 2900
    text = sheets.page(draw_sheet(cases, 'scores', most=20))
    for name in ('LLaMA2', 'ChatGLM2', 'GPT3.5', 'GPT4', 'BPR', 'SFT'):
        assert name not in text
