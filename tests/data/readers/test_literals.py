"""Python literals as JSON: whatever is rewritten says what `ast.literal_eval` says, line by line."""

import ast
import gzip
import json
import pathlib
import warnings

import numpy as np
import pyarrow as pa
import pytest

from tests.data.readers import mutations
from xrec_jax.data import raw
from xrec_jax.data.readers import jsonlines, literals
from xrec_jax.errors import UserError

FIELDS = pa.schema([('id', pa.string()), ('hours', pa.float64()), ('tags', pa.list_(pa.string()))])
LETTERS = [*'aNT\'"\\/{}[]:,u x\n\t\r\x00\x1f\x7f', 'é', '\xa0', '♥', '\u2028', '😀', 'u\'', '\\u0041', 'True',
           'None']


def python_2(value) -> str:
    """`repr` as Python 2 wrote it: u'' strings, ASCII only."""
    if isinstance(value, str):
        quote = '"' if "'" in value and '"' not in value else "'"
        escaped = value.encode('unicode_escape').decode()
        return f'u{quote}' + escaped.replace(quote, f'\\{quote}') + quote
    if isinstance(value, dict):
        return '{' + ', '.join(f'{python_2(key)}: {python_2(part)}' for key, part in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(python_2, value)) + ']'
    return repr(value)


def draw(rng: np.random.Generator, depth: int = 0):
    kind = int(rng.integers(5 if depth > 2 else 7))
    if kind < 3:
        return ''.join(LETTERS[i] for i in rng.integers(len(LETTERS), size=int(rng.integers(8))))
    if kind == 3:
        return [None, True, False, 0, -1.5, 1e-07, 1e22, 2**70][int(rng.integers(8))]
    if kind == 4:
        return int(rng.integers(-10**9, 10**9))
    parts = [draw(rng, depth + 1) for _ in range(int(rng.integers(4)))]
    return parts if kind == 5 else {f'{name}{i}': part for i, part in enumerate(parts) for name in [draw(rng, 3)]}


@pytest.mark.parametrize('write', [repr, python_2])
def test_records_that_repr_wrote_are_all_rewritten_and_say_the_same(write):
    rng = np.random.Generator(np.random.Philox(0))
    rows = [{'id': draw(rng), 'more': draw(rng), 'tags': [draw(rng)]} for _ in range(3000)]
    lines = [write(row) for row in rows]
    assert all(ast.literal_eval(line) == row for line, row in zip(lines, rows))
    data = literals.as_json(''.join(line + '\n' for line in lines).encode())
    assert data is not None
    assert [json.loads(line) for line in data.splitlines()] == rows


def test_damaged_literals_are_never_rewritten_to_something_else():
    rng = np.random.Generator(np.random.Philox(1))
    line = (b'''{u'id': u'6"2\\'0', 'free': False, "n": [1.5, None, {'t': "it's \\u2665\\x41\\U0001f600 \\\\"}],'''
            b''' u'e': ""}\n''')
    rewritten = 0
    for _ in range(20_000):
        data = line
        for _ in range(int(rng.integers(1, 4))):
            data, _ = mutations._mutate(rng, data)
        done = literals.as_json(data)
        if done is not None:
            rewritten += 1
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                expected = [ast.literal_eval(part.decode()) for part in data.split(b'\n')[:-1]]
            assert json.dumps([json.loads(part) for part in done.splitlines()]) == json.dumps(expected), data
    assert 1000 < rewritten < 19_000


@pytest.mark.parametrize('line', [
    "{'a': (1, 2)}", "{'a': 1,}", "{'a': 'b' 'c'}", "{'a': b'x'}", "{'a': '\\/'}", "{'a': '\\a'}", "{'a': '\\101'}",
    "{'a': '''x'''}", "{'a': 0x10}", "{'a': 1_000}", "{'a': 1}  # one", "{'a': 1.}", "{'a': 1}\r", " {'a': 1}"])
def test_what_json_has_not_is_left_to_python(line):
    assert literals.as_json(line.encode() + b'\n') is None
    ast.literal_eval(line.strip())


@pytest.mark.parametrize('line', [
    "{'a': true}", "{'a': null}", "{'a': NaN}", "{'a': TrTrueue}", "{'a': 1True}", "{'a': __import__('os')}",
    "{'a': 'b}", "{'a': 'b\\'}", "{'a': '\\x4'}", "{'a': '\\U0011ffff'}", "{'a': '\\U0001f6'}", '{"a": uu"b"}',
    "{'a': 1} {'a': 2}", "[{'a': 1}]", "{'a': 1", "{\\'a\\': 1}", '', 'None'])
def test_what_is_no_dict_is_not_rewritten(line):
    assert literals.as_json(line.encode() + b'\n') is None


def stream(path: pathlib.Path, bad: raw.BadRows) -> list[tuple[int, dict]]:
    return [(int(line), row) for part in jsonlines.stream(literals.as_json_lines(raw.on_disk(path), bad), FIELDS, bad)
            for line, row in zip(part.lines, part.columns.to_pylist())]


def test_lines_that_need_python_keep_their_place_among_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(literals, 'PIECE', 300)  # many pieces in a block
    lines = [f"{{u'id': u'{n}', u'hours': {n}, u'tags': [u'caf\\xe9'], u'more': {{}}}}" for n in range(100)]
    lines[37] = "{'id': '37', 'hours': 37.5, 'tags': ['x' 'y'],}"
    lines[99] = "{'id': '99', 'tags': None}"
    (tmp_path / 'x').write_text('\n'.join(lines))
    rows = stream(tmp_path / 'x', raw.BadRows())
    assert [line for line, _ in rows] == list(range(1, 101))
    assert rows[36][1] == {'id': '36', 'hours': 36.0, 'tags': ['café']}
    assert rows[37][1] == {'id': '37', 'hours': 37.5, 'tags': ['xy']}
    assert rows[99][1] == {'id': '99', 'hours': None, 'tags': None}


FAULTS = {
    2: ("{'id': open('x')}", ', line 2: is not a Python literal'),
    3: ("{'id': 'x", ', line 3: is not a Python literal'),
    5: ("{'id': 5}", ', line 5, field id: '),
    6: ("['id']", ', line 6: should be an object, is list'),
    8: ("{'id': '\udcff'}", ', line 8: byte 0xff is not UTF-8'),
}


@pytest.mark.parametrize('line', FAULTS)
def test_each_fault_is_told_by_its_line(tmp_path, line):
    fault, message = FAULTS[line]
    text = ''.join((fault if n == line else f"{{'id': '{n}'}}") + '\n' for n in range(1, 11))
    (tmp_path / 'x').write_bytes(text.encode('utf-8', 'surrogateescape'))
    with pytest.raises(UserError) as error:
        stream(tmp_path / 'x', raw.BadRows())
    assert message in str(error.value) and str(tmp_path / 'x') in str(error.value)


def test_bad_lines_are_passed_over_and_counted(tmp_path):
    text = ''.join(FAULTS.get(n, (f"{{'id': '{n}'}}",))[0] + '\n' for n in range(1, 11))
    (tmp_path / 'x.gz').write_bytes(gzip.compress(text.encode('utf-8', 'surrogateescape')))
    bad = raw.BadRows('skip')
    rows = stream(tmp_path / 'x.gz', bad)
    assert [(line, row['id']) for line, row in rows] == [(n, str(n)) for n in (1, 4, 7, 9, 10)]
    assert bad.skipped == {'x.gz': 5}


# ------------------------------------------------------------------------------ as `jsonlines.objects`


def published(folder: pathlib.Path, text: str) -> raw.RawFile:
    (folder / 'x.jsonl').write_bytes(text.encode())
    return raw.on_disk(folder / 'x.jsonl')


def objects(file: raw.RawFile, policy: str = 'raise') -> tuple[list, raw.BadRows]:
    bad = raw.BadRows(policy)
    return list(jsonlines.objects(literals.as_json_lines(file, bad), bad)), bad


def test_literals_are_parsed_and_never_evaluated(tmp_path):
    file = published(tmp_path, (
        """{u'asin': u'B01', 'price': 5.5, "t": "it's", 'ok': True, 'no': None, 'p': ('a', 1)}\n"""
        """{'t': '6" \\'pipe\\' \\xe9\\u00e9 \\ud83d\\ude00 \\ud83d', 'c': [['a', 'b'], []], 'x': u"\\/"}\n"""))
    assert objects(file)[0] == [
        (1, {'asin': 'B01', 'price': 5.5, 't': "it's", 'ok': True, 'no': None, 'p': ['a', 1]}),
        (2, {'t': '6" \'pipe\' éé 😀 \ufffd', 'c': [['a', 'b'], []], 'x': '\\/'})]


@pytest.mark.parametrize('line', [
    "__import__('os').system('true')", "{'a': open('/etc/passwd')}", "{'a': [x for x in ()]}", "{'a': 1 + }", "{'a': 'b}",
    '{' * 200 + '}' * 200, '-' * 100_000 + '1', '1+' * 100_000 + '1', "{[]: 1}", "{'a': '\\x4'}", '',
    "{'a': 9**9**9}",
    "{'a': " + '9' * 5000 + '}', "{'a': '\x00'}"])
def test_what_is_no_literal_is_named(tmp_path, line):
    file = published(tmp_path, f"{{'a': 1}}\n{line}\n{{'a': 3}}\n")
    with pytest.raises(UserError, match='x.jsonl, line 2: is not (a Python literal|JSON)'):
        objects(file)
    rows, bad = objects(file, 'skip')
    assert rows == [(1, {'a': 1}), (3, {'a': 3})] and bad.skipped == {'x.jsonl': 1}


def test_a_literal_that_is_no_object_is_named(tmp_path):
    with pytest.raises(UserError, match='x.jsonl, line 1: should be an object, is list'):
        objects(published(tmp_path, "['a']\n"))
