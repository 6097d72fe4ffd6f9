"""Fields inside fields, by dotted names, and lists of interactions in a row: from JSON lines and parquet alike."""

import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from xrec_jax.data import raw
from xrec_jax.data.readers import jsonlines, nested
from xrec_jax.errors import UserError

ROWS = [
    {'user': 'a', 'rank': 1, 'history': [{'asin': 'x', 'rank': 7, 'product': {'title': 'X', 'tags': ['p', 'q']}},
                                         {'asin': 'y', 'rank': 8, 'product': None}]},
    {'user': 'b', 'rank': 2, 'history': []},
    {'user': 'c', 'rank': 3, 'history': None},
    {'user': 'd', 'rank': None, 'history': [{'asin': None, 'rank': 9, 'product': {'title': None, 'tags': None}}]},
]


def publish(tmp_path, rows, suffix: str) -> raw.RawFile:
    path = tmp_path / f'own.{suffix}'
    if suffix == 'parquet':
        pa.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    else:
        path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return raw.on_disk(path)


def read(file: raw.RawFile, names, policy: str = 'raise', explode: str = '') -> tuple[list[tuple], list[int],
                                                                                      raw.BadRows]:
    bad, rows, lines = raw.BadRows(policy), [], []
    stream = nested.parquet if file.name.endswith('parquet') else nested.jsonl
    for part in stream(file, names, bad, explode=explode):
        assert part.columns.column_names == list(names)
        rows += [tuple(row.values()) for row in part.columns.to_pylist()]
        lines += part.lines.tolist()
    return rows, lines, bad


@pytest.fixture(params=['jsonl', 'parquet'])
def suffix(request, monkeypatch):
    monkeypatch.setattr(nested, 'BATCH', 3)
    return request.param


def test_a_list_gives_a_row_an_element_with_the_fields_around_it(tmp_path, suffix):
    rows, lines, _ = read(publish(tmp_path, ROWS, suffix), ['user', 'asin', 'product.title', 'product.tags', 'rank'],
                          explode='history')
    assert rows == [('a', 'x', 'X', ['p', 'q'], 7), ('a', 'y', None, None, 8), ('d', None, None, None, 9)]
    assert lines == [1, 1, 4]


def test_without_exploding_rows_are_rows(tmp_path, suffix):
    rows = [{'user': 1, 'a': {'b': {'c': 'deep'}}, 'd.e': 5}, {'user': 2, 'a': {'b': None}, 'd.e': None}]
    assert read(publish(tmp_path, rows, suffix), ['user', 'a.b.c', 'd.e'])[:2] == ([(1, 'deep', 5), (2, None, None)],
                                                                                   [1, 2])


def test_a_list_of_plain_values_goes_by_its_name(tmp_path, suffix):
    rows = [{'user': 1, 'cart': {'items': [3, 5]}}, {'user': 2, 'cart': {'items': [3]}}, {'user': 3, 'cart': None}]
    assert read(publish(tmp_path, rows, suffix), ['cart.items', 'user'], explode='cart.items')[0] == [(3, 1), (5, 1),
                                                                                                      (3, 2)]


@pytest.mark.parametrize('names, explode, message', [
    (['usr'], '', ': has no column "usr". Did you mean "user"? It has user, rank, history.'),
    (['product.titel', 'asin'], 'history',
     ': has no column "product.titel". Did you mean "product.title"? It has asin, rank, product.title, product.tags, '
     'user.'),
    (['user'], 'histry', ': has no column "histry". Did you mean "history"?'),
    (['user'], 'rank', ', column rank: holds values of type int64, and explode=rank needs lists'),
    (['user'], 'history',
     ': explode=history, and no column of its elements is named in the options; they have asin, rank,'),
])
def test_names_that_lead_nowhere(tmp_path, suffix, names, explode, message):
    with pytest.raises(UserError) as error:
        read(publish(tmp_path, ROWS, suffix), names, explode=explode)
    assert f'own.{suffix}{message}' in str(error.value)


# ------------------------------------------------------------------------------------ JSON lines


def test_only_what_is_asked_for_must_be_of_one_type(tmp_path):
    rows = [{'user': 1, 'more': 1, 'history': [{'asin': 'x', 'more': 's'}]},
            {'user': 2, 'more': 's', 'history': [{'asin': 'y', 'more': 2}]}]
    file = publish(tmp_path, rows, 'jsonl')
    assert read(file, ['user', 'asin'], explode='history')[0] == [(1, 'x'), (2, 'y')]
    with pytest.raises(UserError, match='own.jsonl, column more: holds values of several types'):
        read(file, ['user', 'more'])


def test_what_looks_like_a_time_stays_text(tmp_path):
    """Arrow's own guess would be a time, and give back another text."""
    rows = [{'user': '2015-01-31', 'history': [{'asin': '2015-01-31T12:00:00'}]}]
    assert read(publish(tmp_path, rows, 'jsonl'), ['user', 'asin'],
                explode='history')[0] == [('2015-01-31', '2015-01-31T12:00:00')]


def test_fields_that_come_late_and_numbers_that_turn_out_fractions(tmp_path):
    rows = [{'user': 1}, {'user': 2, 'price': 3}, {'user': 3, 'price': 2.5, 'name': 'late'}]
    assert read(publish(tmp_path, rows, 'jsonl'), ['user', 'price', 'name'])[0] == [
        (1, None, None), (2, 3.0, None), (3, 2.5, 'late')]


@pytest.mark.parametrize('line, message', [
    ('{"user": "late", "history": []}', ", field user: 'late' should be int64"),
    ('{"user": 3, "history": [{"asin": 4}]}', ", field history: \"[{'asin': 4}]\" should be list<"),
    ('{"user": 3, "history": {"asin": "z"}}', ', field history: '),
    ('{"user": 3, "history": [{"asin": "z"}', ': is not JSON'), ('[3]', ': should be an object, is list'),
    ('', ': is not JSON')])
def test_a_line_of_another_kind_is_told_or_passed_over(tmp_path, monkeypatch, line, message):
    monkeypatch.setattr(nested, 'LOOK', 2)
    lines = ['{"user": 1, "history": [{"asin": "x"}]}', '{"user": 2, "history": [{"asin": "y"}]}', line,
             '{"user": 4, "history": [{"asin": "w"}]}']
    (tmp_path / 'own.jsonl').write_text('\n'.join(lines) + '\n')
    file = raw.on_disk(tmp_path / 'own.jsonl')
    with pytest.raises(UserError) as error:
        read(file, ['user', 'asin'], explode='history')
    assert f'own.jsonl, line 3{message}' in str(error.value)
    rows, found, bad = read(file, ['user', 'asin'], policy='skip', explode='history')
    assert rows == [(1, 'x'), (2, 'y'), (4, 'w')] and found == [1, 2, 4] and bad.skipped == {'own.jsonl': 1}


def test_a_file_without_objects(tmp_path):
    file = raw.on_disk(tmp_path / 'own.jsonl')
    (tmp_path / 'own.jsonl').write_text('no\nobject\n')
    with pytest.raises(UserError, match='own.jsonl, line 1: is not JSON'):
        read(file, ['user'])
    with pytest.raises(UserError, match='own.jsonl: holds no JSON object'):
        read(file, ['user'], policy='skip')


def test_whole_blocks_go_through_arrow(tmp_path, monkeypatch):
    """Exploded files too: Python's way, a line at a time, is for odd lines."""
    monkeypatch.setattr(jsonlines, '_by_python', None)
    assert len(read(publish(tmp_path, ROWS, 'jsonl'), ['user', 'asin'], explode='history')[0]) == 3


# --------------------------------------------------------------------------------------- parquet


def test_parquet_says_rows_and_not_lines(tmp_path):
    file = publish(tmp_path, ROWS, 'parquet')
    for part in nested.parquet(file, ['user'], raw.BadRows()):
        with pytest.raises(UserError, match='own.parquet, row 4, column user: "d" is wrong'):
            part.require(part.lines < 4, 'user', 'is wrong')


def test_only_the_columns_that_are_asked_for_are_read(tmp_path, monkeypatch):
    asked, whole = [], pa.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(pa.parquet.ParquetFile, 'iter_batches',
                        lambda self, *args, columns,
                        **options: asked.append(columns) or whole(self, *args, columns=columns, **options))
    rows = [{'user': 1, 'text': 'long', 'a': {'b': 2, 'c': 'long'}}]
    assert read(publish(tmp_path, rows, 'parquet'), ['a.b', 'user'])[0] == [(2, 1)]
    assert asked == [['a.b', 'user']]


@pytest.mark.parametrize('damage, message', [
    (lambda data: data[:-20], 'cannot be read'), (lambda data: b'', 'cannot be read'),
    (lambda data: b'user,asin\n', 'cannot be read'),
    (lambda data: data.replace(b'x1', b'\xff1'), 'cannot be read .*UTF8')])
def test_a_damaged_parquet_file_is_refused(tmp_path, damage, message):
    path = tmp_path / 'own.parquet'
    pa.parquet.write_table(pa.table({'user': ['x1', 'x2']}), path, compression='none', use_dictionary=False)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f'own.parquet: {message}'):
        read(raw.on_disk(path), ['user'])


def test_checksums_of_pages_are_verified_where_they_are_there(tmp_path):
    path = tmp_path / 'own.parquet'
    pa.parquet.write_table(pa.table({'user': [f'x{n:03d}' for n in range(50)]}), path, compression='none',
                           use_dictionary=False, write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b'x017', b'x071'))
    with pytest.raises(UserError, match='own.parquet: cannot be read .*CRC'):
        read(raw.on_disk(path), ['user'])


def test_a_table_without_rows_and_one_with_a_name_twice(tmp_path):
    pa.parquet.write_table(pa.table({'user': pa.array([], pa.string())}), tmp_path / 'own.parquet')
    with pytest.raises(UserError, match='own.parquet: has no rows'):
        read(raw.on_disk(tmp_path / 'own.parquet'), ['user'])
    sink = io.BytesIO()
    pa.parquet.write_table(pa.table([[1], [2], [3]], names=['user', 'item', 'user']), sink)
    (tmp_path / 'own.parquet').write_bytes(sink.getvalue())
    with pytest.raises(UserError, match='own.parquet: has 2 columns "user"'):
        read(raw.on_disk(tmp_path / 'own.parquet'), ['user'])
