"""JSON lines: Arrow's parser by blocks and Python's by lines give the same rows, and name the same faults."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data.raw import BadRows, Block, RawFile, on_disk
from xrec_jax.data.readers import jsonlines
from xrec_jax.errors import UserError

FIELDS = pa.schema([('s', pa.string()), ('d', pa.float64()), ('i', pa.int64()), ('b', pa.bool_()),
                    ('l', pa.list_(pa.string())), ('o', pa.struct([('x', pa.int64()), ('y', pa.string())]))])
EMPTY = {'s': None, 'd': None, 'i': None, 'b': None, 'l': None, 'o': None}


def publish(folder: pathlib.Path, text: str | bytes) -> RawFile:
    path = folder / 'x.jsonl'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return on_disk(path)


def stream(file: RawFile, policy: str = 'raise', fields: pa.Schema = FIELDS) -> tuple[list[dict], list[int], BadRows]:
    bad = BadRows(policy)
    parts = list(jsonlines.stream(file, fields, bad))
    for part in parts:
        part.columns.validate(full=True)
        assert part.columns.schema == fields and len(part.lines) == part.columns.num_rows
    return ([row for part in parts for row in part.columns.to_pylist()],
            [int(line) for part in parts for line in part.lines], bad)


@pytest.fixture
def by_line(monkeypatch):
    """Turns the fast path off."""
    return lambda: monkeypatch.setattr(jsonlines, '_by_arrow', lambda *_: None)


@pytest.fixture
def fast_only(monkeypatch):
    def refuse(*_):
        raise AssertionError('a line went the slow way')

    return lambda: monkeypatch.setattr(jsonlines, '_by_python', refuse)


VALID = [  # a line, and what it gives beside nulls
    ('{}', {}),
    ('{"s":"a","d":1.5,"i":-7,"b":true,"l":["x",null,""],"o":{"x":1,"y":"z"}}',
     {'s': 'a', 'd': 1.5, 'i': -7, 'b': True, 'l': ['x', None, ''], 'o': {'x': 1, 'y': 'z'}}),
    ('{"s":null,"d":null,"i":null,"b":null,"l":null,"o":null}', {}),
    ('{"s":"\\u00e9\\ud83d\\ude00 \\"\\\\ \\/ \\n\\t"}', {'s': 'é😀 "\\ / \n\t'}),
    ('{"s":"é😀\u2028"}', {'s': 'é😀\u2028'}),
    ('{"s":"}{"}', {'s': '}{'}),
    ('{"d":5}', {'d': 5.0}),
    ('{"d":123456789012345678901}', {'d': 123456789012345678901.0}),
    ('{"d":-0.0}', {'d': -0.0}),
    ('{"d":1E5}', {'d': 1e5}),
    ('{"i":9223372036854775807}', {'i': 2**63 - 1}),
    ('{"l":[]}', {'l': []}),
    ('{"o":{"z":[1,{"x":5}],"y":"w"}}', {'o': {'x': None, 'y': 'w'}}),
    ('{"other":{"s":"no","deep":[[[null]]]},"s":"yes"}', {'s': 'yes'}),
    ('{"other":1,"other":"x","s":"a"}', {'s': 'a'}),  # what is not read may stand twice, and change its type
    ('{ "s" :\t"a" }', {'s': 'a'}),
    ('{"\\u0073":"a"}', {'s': 'a'}),
]


def test_the_fast_and_the_slow_path_agree(tmp_path, by_line, fast_only, monkeypatch):
    file = publish(tmp_path, ''.join(line + '\n' for line, _ in VALID))
    expected = [EMPTY | row for _, row in VALID]
    fast_only()
    assert stream(file)[:2] == (expected, list(range(1, len(VALID) + 1)))
    monkeypatch.undo()
    by_line()
    assert stream(file)[:2] == (expected, list(range(1, len(VALID) + 1)))


@pytest.mark.parametrize('text', ['{"s":"a"}\r\n{"s":"b"}\r\n', '\ufeff{"s":"a"}\n{"s":"b"}\n'])
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path, fast_only, text):
    fast_only()
    assert stream(publish(tmp_path, text))[:2] == ([EMPTY | {'s': 'a'}, EMPTY | {'s': 'b'}], [1, 2])


def test_a_last_line_without_an_end_is_read(tmp_path):
    assert stream(publish(tmp_path, '{"i":1}\n{"i":2}'))[0] == [EMPTY | {'i': 1}, EMPTY | {'i': 2}]


@pytest.mark.parametrize('line, row', [
    ('{"i":5.0}', {'i': 5}),  # an integer, however it is written
    ('{"i":1e9}', {'i': 10**9}),
    (' {"s":"a"} ', {'s': 'a'}),
    ('{"s":"\\ud83d"}', {'s': '\ufffd'}),  # half a pair: an emoji that was cut in two
    ('{"s":"a\\ud83d b \\ude00 \\ud83d\\ude00","l":["\\udc00"]}', {'s': 'a\ufffd b \ufffd 😀', 'l': ['\ufffd']}),
    ('{"s":"\\\\ud83d"}', {'s': '\\ud83d'}),  # a backslash before "ud83d", no surrogate
    ('{"other":"\\ud83d","s":"a"}', {'s': 'a'}),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_arrow_refuses_and_json_means_is_read(tmp_path, line, row):
    rows, lines, _ = stream(publish(tmp_path, f'{{"s":"before"}}\n{line}\n{{"s":"after"}}\n'))
    assert rows == [EMPTY | {'s': 'before'}, EMPTY | row, EMPTY | {'s': 'after'}] and lines == [1, 2, 3]


BAD = [  # a line, and how it is named
    ('{"i":"12"}', ", field i: '12' should be int64"),
    ('{"i":5.5}', ', field i: \'5.5\' should be int64'),
    ('{"i":true}', ", field i: 'True' should be int64"),
    ('{"i":9223372036854775808}', ', field i: \'9223372036854775808\' should be int64'),
    ('{"d":"1.5"}', ", field d: '1.5' should be double"),
    ('{"d":NaN}', ", field d: 'nan' should be double"),
    ('{"d":-Infinity}', ", field d: '-inf' should be double"),
    ('{"d":1e400}', ", field d: 'inf' should be double"),
    ('{"d":false}', ", field d: 'False' should be double"),
    ('{"s":5}', ", field s: '5' should be string"),
    ('{"s":["a"]}', ', field s: "[\'a\']" should be string'),
    ('{"b":1}', ", field b: '1' should be bool"),
    ('{"l":"a"}', ", field l: 'a' should be list"),
    ('{"l":["a",1]}', ', field l: "[\'a\', 1]" should be list'),
    ('{"o":[]}', ", field o: '[]' should be struct"),
    ('{"o":{"x":"1"}}', ', field o: "{\'x\': \'1\'}" should be struct'),
    ('{"s":"a","s":"b"}', ', field s: stands there 2 times'),
    ('{"s":"a","s":null,"s":"a"}', ', field s: stands there 3 times'),
    ('', ': is not JSON (Expecting value'),
    ('{"s":"a"}{"s":"b"}', ': is not JSON (Extra data'),
    ('{"s":"a"}null{"s":"b"}', ': is not JSON (Extra data'),
    ('{"s":"a"', ": is not JSON (Expecting ',' delimiter"),
    ('{"s":"a\tb"}', ': is not JSON (Invalid control character'),
    ("{'s':'a'}", ': is not JSON (Expecting property name'),
    ('null', ': should be an object, is NoneType'),
    ('[{"s":"a"}]', ': should be an object, is list'),
    ('\x00', ': is not JSON (Expecting value'),
    ('{"s":' + '[' * 100_000, ': is not JSON (maximum recursion depth exceeded'),
    ('{"i":' + '1' * 5000 + '}', ': is not JSON (Exceeds the limit'),
]


@pytest.mark.parametrize('line, message', BAD, ids=[line[:30] for line, _ in BAD])
def test_a_bad_line_is_named_or_passed_over(tmp_path, line, message):
    file = publish(tmp_path, f'{{"s":"before"}}\n{line}\n{{"s":"after"}}\n')
    with pytest.raises(UserError) as error:
        stream(file)
    assert f'x.jsonl, line 2{message}' in str(error.value) and len(str(error.value)) < 400
    rows, lines, bad = stream(file, 'skip')
    assert rows == [EMPTY | {'s': 'before'}, EMPTY | {'s': 'after'}] and lines == [1, 3]
    assert bad.skipped == {'x.jsonl': 1}


@pytest.mark.parametrize('line', ['null', '5', '', '[]'])
def test_a_bad_line_that_comes_first_is_named_too(tmp_path, line):
    """Arrow crashes, process and all, on a block that begins with null."""
    with pytest.raises(UserError, match='x.jsonl, line 1: '):
        stream(publish(tmp_path, f'{line}\n{{"s":"a"}}\n'))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    for text in (b'{"s":"caf\xe9"}\n', b'{"s":"x","other":"caf\xe9"}\n'):
        with pytest.raises(UserError, match='x.jsonl, line 2: byte 0xe9 is not UTF-8'):
            stream(publish(tmp_path, b'{"s":"a"}\n' + text))


@pytest.mark.parametrize('text, lines', [
    ('{"s":"a"}{"s":"b"}\n\n{"s":"c"}\n', [3]),  # as many objects as lines
    ('{"s":"a"}\n{"s":\n"b"}{"s":"c"}\n', [1]),
    ('{"s":"a"}\n{"o":{"x":1}\n,"s":"b"}\n{"s":"c"} {"s":"d"}\n', [1]),
])
def test_two_faults_that_cancel_out_in_the_count_do_not_shift_lines(tmp_path, text, lines):
    assert stream(publish(tmp_path, text), 'skip')[1] == lines


def test_numbers_of_lines_hold_in_later_pieces_and_blocks(tmp_path, monkeypatch):
    """A bad line far into the file is found by its number, and only its own piece goes the slow way."""
    slow = []
    by_python = jsonlines._by_python
    monkeypatch.setattr(jsonlines, '_by_python', lambda *x: slow.append(len(x[1].data)) or by_python(*x))
    lines = [json.dumps({'i': n, 's': 'x' * 9000}) for n in range(4000)]  # three blocks
    lines[3000] = '{"i":"x"}'
    file = publish(tmp_path, '\n'.join(lines) + '\n')
    with pytest.raises(UserError, match='line 3001, field i'):
        stream(file)
    slow.clear()
    rows, numbers, bad = stream(file, 'skip')
    assert [row['i'] for row in rows] == [n for n in range(4000) if n != 3000]
    assert numbers == [n + 1 for n in range(4000) if n != 3000] and bad.skipped == {'x.jsonl': 1}
    assert len(slow) == 1 and slow[0] < jsonlines.PIECE + 10_000


def test_pieces_are_the_block_again():
    rng = np.random.Generator(np.random.Philox(0))
    for size in (1, 3, 10, 1000):
        data = b''.join(b'x' * int(n) + b'\n' for n in rng.integers(0, 8, 50))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsonlines, 'PIECE', size)
            pieces = list(jsonlines._pieces(Block(7, data)))
        assert b''.join(piece.data for piece in pieces) == data
        assert all(piece.data.endswith(b'\n') for piece in pieces)
        assert [piece.line for piece in pieces] == [
            7 + b''.join(p.data for p in pieces[:k]).count(b'\n') for k in range(len(pieces))]


def test_mutated_lines_give_the_same_by_either_path(tmp_path, by_line):
    """What Arrow takes, Python takes for the same; what it refuses goes through Python anyway."""
    rng = np.random.Generator(np.random.Philox(0))
    sound = ''.join(line + '\n' for line, _ in VALID).encode()
    inserts = [b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', b'\n', b'\r', b' ', b'0', b'-', b'.', b'e', b'null',
               b'\\ud83d', b'\xff', b'"s":"q",', b'NaN', b'true', b'}{']
    texts = []
    for _ in range(600):
        at = int(rng.integers(len(sound)))
        insert = inserts[int(rng.integers(len(inserts)))]
        texts.append(sound[:at] + insert + sound[at + int(rng.integers(3)):])
    fast = [stream(publish(tmp_path, text), 'skip') for text in texts]
    assert 50 < sum(bad.skipped == {} for *_, bad in fast) < 300  # neither kind is rare
    by_line()
    for text, (rows, lines, bad) in zip(texts, fast):
        again = stream(publish(tmp_path, text), 'skip')
        assert (again[0], again[1], again[2].skipped) == (rows, lines, bad.skipped), text


# --------------------------------------------------------------------------------------- objects


def objects(file: RawFile, policy: str = 'raise') -> tuple[list, BadRows]:
    bad = BadRows(policy)
    return list(jsonlines.objects(file, bad)), bad


def test_objects_of_json_keep_the_types_they_have(tmp_path):
    file = publish(tmp_path, '{"price":5.5,"x":{"y":[1,null]}}\n{"price":"$5","x":[]}\n'
                             '{"price":null,"price":7,"t":"\\ud83d!"}\n')
    assert objects(file)[0] == [(1, {'price': 5.5, 'x': {'y': [1, None]}}), (2, {'price': '$5', 'x': []}),
                                (3, {'price': 7, 't': '\ufffd!'})]
