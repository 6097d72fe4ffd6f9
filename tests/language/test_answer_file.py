"""The file of answers: what a killed run leaves, what is refused."""

import json

import pytest

from xrec_jax.errors import UserError
from xrec_jax.language.answer_file import Answer, AnswerFile, request_key

FIRST, SECOND = Answer('Déjà "vu"\n\u2028{', 'stop', 3, 4), Answer('', 'refused')


def test_answers_come_back(tmp_path):
    path = tmp_path / 'new' / 'answers.jsonl'
    with AnswerFile(path) as kept:
        kept.add('a', FIRST)
        assert 'a' in kept and 'b' not in kept
        kept.add('b', SECOND)
    with AnswerFile(path) as kept:
        assert (kept['a'], kept['b'], len(kept)) == (FIRST, SECOND, 2)
    assert [json.loads(line)['key'] for line in path.read_text().splitlines()] == ['a', 'b']


def test_answer_is_on_the_disk_before_the_next_is_asked(tmp_path):
    path = tmp_path / 'answers.jsonl'
    with AnswerFile(path) as kept:
        kept.add('a', FIRST)
        assert json.loads(path.read_bytes())['text'] == FIRST.text


@pytest.mark.parametrize('cut', range(1, 40, 7))
def test_half_written_last_line_is_cut_off(tmp_path, cut):
    path = tmp_path / 'answers.jsonl'
    with AnswerFile(path) as kept:
        kept.add('a', FIRST)
        kept.add('b', SECOND)
    path.write_bytes(path.read_bytes()[:-cut])
    with AnswerFile(path) as kept:
        assert 'a' in kept and 'b' not in kept
        kept.add('c', SECOND)
    with AnswerFile(path) as kept:
        assert len(kept) == 2 and kept['c'] == SECOND


@pytest.mark.parametrize('line', ['nonsense', '[]', '{"text": "no key", "finish": "stop"}', '{"key": "k"}'])
def test_other_files_are_refused_and_left_as_they_are(tmp_path, line):
    path = tmp_path / 'answers.jsonl'
    text = '{"key": "a", "text": "x", "finish": "stop"}\n' + line + '\nhalf'
    path.write_text(text)
    with pytest.raises(UserError, match=r'answers.jsonl, line 2: is no answer of an endpoint'):
        AnswerFile(path).__enter__()
    assert path.read_text() == text


def test_one_run_at_a_time(tmp_path):
    with AnswerFile(tmp_path / 'answers.jsonl'):
        with pytest.raises(UserError, match='another run'):
            AnswerFile(tmp_path / 'answers.jsonl').__enter__()
    with AnswerFile(tmp_path / 'answers.jsonl'):
        pass


def test_key_tells_apart_all_that_changes_the_answer():
    messages = [{'role': 'user', 'content': 'Hi'}]
    key = request_key('m', messages, {'temperature': 0, 'seed': 1})
    assert key == request_key('m', messages, {'seed': 1, 'temperature': 0})
    others = [request_key('n', messages, {'temperature': 0, 'seed': 1}), request_key('m', messages, {'temperature': 0}),
              request_key('m', [*messages, *messages], {'temperature': 0, 'seed': 1}),
              request_key('m', messages, {'temperature': 1, 'seed': 1})]
    assert len({key, *others}) == 5
