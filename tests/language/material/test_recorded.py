"""Recorded explanations: reading, and who was asked about which item."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec_jax.data.domains import GAMES
from xrec_jax.errors import UserError
from xrec_jax.language import instructions
from xrec_jax.language.material import recorded

SHARED = pathlib.Path(__file__).parents[4] / 'shared' / 'data' / 'llmxrec' / 'explanations.parquet'


def prompt(candidate: str, *history: str) -> str:
    return instructions.explain(instructions.Recommendation(
        GAMES, tuple(instructions.Item(title, ('Action',)) for title in history),
        instructions.Item(candidate, ('Indie', 'RPG'))))


def row(generator: str, number: int, instruction: str, explanation: str = 'for fun', dataset: str = 'steam',
        recommender: str = 'bpr') -> dict:
    return {'dataset': dataset, 'recommender': recommender, 'generator': generator, 'row': number,
            'instruction': instruction, 'explanation': explanation}


def as_lines(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


ROWS = [
    row('A', 7, prompt('Rust', 'Doom', 'Portal'), 'a7'), row('A', 2, prompt('Rust', 'Doom'), 'a2'),
    row('B', 2, prompt('Fez', 'Doom'), 'b2'), row('B', 7, prompt('Rust', 'Doom', 'Portal') + ' \n', 'b7'),
    row('C', 2, prompt('Fez', 'Doom'), 'c2'), row('C', 7, prompt('Rust', 'Doom'), 'c7'),
    row('D', 7, prompt('Fez', 'Doom', 'Portal'), 'd7'), row('A', 2, prompt('Fez', 'Doom'), recommender='sasrec')]


@pytest.mark.parametrize('kind', ['jsonl', 'parquet', 'large_string'])
def test_explanations_of_a_row_stand_side_by_side(tmp_path, kind):
    path = tmp_path / f'x.{"jsonl" if kind == "jsonl" else "parquet"}'
    if kind == 'jsonl':
        as_lines(path, ROWS)
    else:
        table = pa.Table.from_pylist(ROWS)
        pq.write_table(table if kind == 'parquet' else table.cast(pa.schema([
            (name, pa.int32() if name == 'row' else pa.large_string()) for name in table.column_names])), path)
    table = recorded.read_recorded(path)
    assert table.schema.equals(recorded.COLUMNS) and recorded.groups(table) == [('steam', 'bpr'), ('steam', 'sasrec')]
    group = recorded.aligned(table, 'steam', 'bpr')
    assert group.generators == ('A', 'B', 'C', 'D') and group.rows.tolist() == [2, 7]
    assert group.explanations.tolist() == [['a2', 'b2', 'c2', ''], ['a7', 'b7', 'c7', 'd7']]
    # Row 2 is asked about Fez by most; row 7 about Rust by two of four, once in other words, once for another user.
    assert group.reasons.tolist() == [['candidate', '', '', 'absent'], ['', '', 'history', 'candidate']]
    np.testing.assert_array_equal(group.same, [[False, True, True, False], [True, True, False, False]])
    assert [(one.candidate.title, [item.title for item in one.history]) for one in group.prompts] == [
        ('Fez', ['Doom']), ('Rust', ['Doom', 'Portal'])]
    assert group.instructions == (prompt('Fez', 'Doom'), prompt('Rust', 'Doom', 'Portal'))
    assert recorded.counts(group) == {'A': {'candidate': 1}, 'C': {'history': 1}, 'D': {'absent': 1, 'candidate': 1}}
    assert recorded.counts(recorded.aligned(table, 'steam', 'sasrec')) == {}


def test_an_unknown_group_is_refused(tmp_path):
    table = recorded.read_recorded(as_lines(tmp_path / 'x.jsonl', ROWS))
    with pytest.raises(UserError, match='no recorded explanations for steam under bprr.*"steam, bpr"'):
        recorded.aligned(table, 'steam', 'bprr')


@pytest.mark.parametrize('change, told', [
    ({'explanation': ' '}, 'line 2, key explanation: is empty'),
    ({'explanation': None}, 'line 2, key explanation: should be text'),
    ({'row': '3'}, 'line 2, key row: should be a whole number, is "3"'),
    ({'row': True}, 'line 2, key row: should be a whole number, is true'),
    ({'generator': 'A'}, "2 explanations by A for row 7 of steam, bpr"),
])
def test_a_bad_line_is_refused(tmp_path, change, told):
    path = as_lines(tmp_path / 'x.jsonl', [ROWS[0], ROWS[3] | change])
    with pytest.raises(UserError) as refused:
        recorded.read_recorded(path)
    assert str(path) in str(refused.value) and told in str(refused.value)


@pytest.mark.parametrize('table, told', [
    (pa.Table.from_pylist(ROWS).rename_columns(['dataset', 'recommender', 'generator', 'row', 'prompt', 'explanation']),
     'has no column "instruction"'),
    (pa.Table.from_pylist([ROWS[0], ROWS[1] | {'explanation': '\n'}]), 'row 1, column explanation: is empty'),
    (pa.Table.from_pylist([ROWS[0], ROWS[1] | {'generator': None}]), 'row 1, column generator: has no value'),
    (pa.Table.from_pylist([ROWS[0] | {'row': 'first'}]), 'row a number'),
    (pa.Table.from_pylist(ROWS).slice(0, 0), 'has no rows'),
])
def test_a_bad_table_is_refused(tmp_path, table, told):
    path = tmp_path / 'x.parquet'
    pq.write_table(table, path)
    with pytest.raises(UserError) as refused:
        recorded.read_recorded(path)
    assert str(path) in str(refused.value) and told in str(refused.value)


def test_other_files_are_refused(tmp_path):
    for name, text, told in (('x.csv', 'a', 'are .parquet or .jsonl'), ('x.parquet', 'a', 'no parquet file'),
                             ('x.jsonl', '', 'is empty')):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=told):
            recorded.read_recorded(tmp_path / name)
    with pytest.raises(UserError, match='no such file'):
        recorded.read_recorded(tmp_path / 'none.parquet')


@pytest.mark.skipif(not SHARED.is_file(), reason='needs ../shared/data/llmxrec')
def test_published_groups_that_were_asked_about_other_items():
    table = recorded.read_recorded(SHARED)
    found = {group: recorded.counts(recorded.aligned(table, *group)) for group in recorded.groups(table)}
    assert {group: count for group, count in found.items() if count} == {
        ('ml-100k', 'SASRec'): {'GPT3.5': {'history': 943}},
        ('ml-100k', 'LightGCN'): {'ChatGLM2': {'candidate': 935}},
        ('mind_small_dev', 'LightGCN'): {'ChatGLM2': {'candidate': 945}},
        ('steam', 'LightGCN'): {'ChatGLM2': {'candidate': 467}}}
    assert len(found) == 9
