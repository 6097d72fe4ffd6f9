"""Alpaca's form: what is read, and what is refused where."""

import gzip
import json

import pytest

from xrec_jax.data.instructions import Example, read_instructions
from xrec_jax.errors import UserError


def written(tmp_path, *lines) -> str:
    path = tmp_path / 'pairs.jsonl'
    path.write_text(''.join(f'{line if isinstance(line, str) else json.dumps(line)}\n' for line in lines))
    return path


def test_examples_stand_in_the_order_of_the_file(tmp_path):
    rows = [{'instruction': 'say é', 'input': '', 'output': 'é'}, {'instruction': 'a\nb', 'input': 'c', 'output': 'd'}]
    path = written(tmp_path, *rows)
    assert read_instructions(path) == [Example('say é', '', 'é'), Example('a\nb', 'c', 'd')]
    (tmp_path / 'packed.jsonl.gz').write_bytes(gzip.compress(path.read_bytes()))
    assert read_instructions(str(tmp_path / 'packed.jsonl.gz')) == read_instructions(path)


@pytest.mark.parametrize('absent', [{}, {'input': None}, {'input': ''}, {'input': {}}, {'more': 1}])
def test_an_input_that_is_not_there_is_empty(tmp_path, absent):
    path = written(tmp_path, {'instruction': 'a', 'output': 'b'} | absent)
    assert read_instructions(path) == [('a', '', 'b')]


@pytest.mark.parametrize('row, told', [
    ({'instruction': 'a', 'response': 'b'}, 'line 2: has no "output"; its keys: instruction, response'),
    ({'output': 'b'}, 'line 2: has no "instruction"'),
    ({'instruction': 'a', 'output': ' \n'}, 'line 2, key output: is empty'),
    ({'instruction': '', 'output': 'b'}, 'line 2, key instruction: is empty'),
    ({'instruction': 'a', 'output': {'x': 1}}, 'line 2, key output: should be text, is dict'),
    ({'instruction': 'a', 'output': 1}, 'line 2, key output: should be text, is int'),
    ({'instruction': 'a', 'input': ['x'], 'output': 'b'}, 'line 2, key input: should be text, is list'),
    ('{"instruction": "a", "output": ', 'line 2: is not JSON'),
    ('', 'line 2: is not JSON'),
    ('["a", "b"]', 'line 2: should be an object, is list'),
])
def test_a_bad_line_is_refused_with_its_place(tmp_path, row, told):
    path = written(tmp_path, {'instruction': 'a', 'output': 'b'}, row, {'instruction': 'a', 'output': 'b'})
    with pytest.raises(UserError) as refused:
        read_instructions(path)
    assert str(refused.value).startswith(f'{path}, {told}')


def test_an_array_is_refused_with_the_way_to_lines(tmp_path):
    path = written(tmp_path, '[', {'instruction': 'a', 'output': 'b'}, ']')
    with pytest.raises(UserError, match="one object a line.*jq -c '.\\[\\]' pairs.jsonl"):
        read_instructions(path)


def test_a_file_that_is_empty_or_missing_is_refused(tmp_path):
    with pytest.raises(UserError, match='is empty'):
        read_instructions(written(tmp_path))
    with pytest.raises(UserError, match='no such file'):
        read_instructions(tmp_path / 'none.jsonl')
