"""Columns and their promises: what holds gives values, what does not is told by file, line, column and value."""

import io

import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import tables
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError


def rows(policy: str = 'raise', unit: str = 'line', start: int = 11, **columns) -> Records:
    """Records of a file whose first row stands in line `start`."""
    table = pa.table(columns)
    lines = np.arange(start, start + table.num_rows)
    return Records(RawFile('folder/x.csv', io.BytesIO, unit), table, lines, BadRows(policy))


def text(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


# A promise, a column that keeps it with its values, and one row at a time that does not with what is said of it.
PROMISES = {
    'integers': (
        lambda r: records.integers(r, 'x', 0, 50), text('0', '7', '050'), [0, 7, 50],
        [(text(None), 'nothing should be an integer from 0 to 50'),
         *((text(v), f'"{v}" should be an integer from 0 to 50') for v in (
             '51', '-1', '1.0', '1e1', '0x1', ' 1', '', 'many', '1\n', '٣', '1' * 19))]),
    'integers of numbers': (
        lambda r: records.integers(r, 'x', low=1), pa.array([1, 2, 200], pa.uint8()), [1, 2, 200],
        [(pa.array([0], pa.uint8()), '"0" should be an integer of at least 1'),
         (pa.array([None], pa.uint8()), 'nothing should be an integer of at least 1')]),
    'numbers': (
        lambda r: records.numbers(r, 'x', 0.5, 5), text('0.5', '5', '4.', '3.25'), [0.5, 5, 4, 3.25],
        [(text(None), 'nothing should be a number from 0.5 to 5'),
         *((text(v), f'"{v}" should be a number from 0.5 to 5') for v in (
             '0.4', '5.1', '-1', 'nan', 'NaN', 'inf', '1e0', '.9', '1,5', '', ' 1', '+1'))]),
    'numbers of numbers': (
        lambda r: records.numbers(r, 'x', 1, 5), pa.array([1.0, 4.5]), [1.0, 4.5],
        [(pa.array([0.0]), '"0.0" should be a number from 1 to 5'), (pa.array([float('nan')]), '"nan" should be'),
         (pa.array([None], pa.float64()), 'nothing should be')]),
    'one_of': (
        lambda r: records.one_of(r, 'x', ('M', 'F')), text('F', 'M', 'F'), [1, 0, 1],
        [(text('m'), '"m" should be one of M, F'), (text(''), '"" should be'), (text(None), 'nothing should be')]),
    'filled': (
        lambda r: records.filled(r, 'x'), text('a', ' b '), ['a', ' b '],
        [(text(' \t'), '" \t" should not be empty'), (text(''), '"" should not be empty'),
         (text(None), 'nothing should not be empty')]),
    'matching': (
        lambda r: records.matching(r, 'x', '^[0-9]{4}$', 'should be a year'), text('1999', '0000'), ['1999', '0000'],
        [(text('99'), '"99" should be a year'), (text('1999\n'), '"1999\n" should be'),
         (text(None), 'nothing should be a year')]),
    'known': (
        lambda r: records.known(r, 'x', pa.chunked_array([text('a', 'b')]), 'users.csv'), text('b', 'a', 'b'), None,
        [(text('c'), '"c" is not listed in users.csv'), (text(''), '"" is not listed'),
         (text(None), 'nothing is not listed')]),
}
CASES = [(name, column, message) for name, (_, _, _, wrong) in PROMISES.items() for column, message in wrong]


@pytest.mark.parametrize('name', PROMISES)
def test_a_promise_kept_gives_the_values(name):
    check, sound, values, _ = PROMISES[name]
    found = check(rows(x=sound))
    if values is None:
        assert found is None
    else:
        assert found.tolist() == values if isinstance(found, np.ndarray) else found.to_pylist() == values


@pytest.mark.parametrize('name, column, message', CASES, ids=[f'{name} {column[0]}' for name, column, _ in CASES])
def test_a_promise_broken_is_told_by_file_line_column_and_value(name, column, message):
    check, sound, _, _ = PROMISES[name]
    whole = pa.concat_arrays([sound, column, sound, column])
    with pytest.raises(UserError) as error:
        check(rows(x=whole))
    assert f'folder/x.csv, line {11 + len(sound)}, column x: {message}' in str(error.value)

    skipping = rows('skip', x=whole)
    check(skipping)
    check(skipping)  # what is out is not counted again
    assert skipping.keep.tolist() == [*[True] * len(sound), False, *[True] * len(sound), False]
    assert skipping.bad.skipped == {'x.csv': 2}


def test_values_of_rows_to_keep_are_right_whatever_stands_between():
    found = rows('skip', x=text('3', 'x', None, '99', '5'), y=text('b', 'a', 'c', 'b', None))
    assert records.integers(found, 'x', 0, 10)[found.keep].tolist() == [3, 5]
    assert records.one_of(found, 'y', 'ab')[found.keep].tolist() == [1]
    assert found.keep.tolist() == [True, False, False, False, False] and found.bad.skipped == {'x.csv': 4}
    assert records.filled(found, 'y').to_pylist() == ['b', 'a', 'c', 'b', '']


def test_values_have_the_types_that_they_say():
    found = rows(x=pa.array([1, 2], pa.int32()), y=text('1', '2'))
    assert {records.integers(found, name).dtype for name in 'xy'} == {np.dtype(np.int64)}
    assert {records.numbers(found, name, 0, 5).dtype for name in 'xy'} == {np.dtype(np.float32)}


def test_a_file_without_lines_counts_rows():
    with pytest.raises(UserError, match='folder/x.csv, row 11, column x: "y" should be an integer of at least 0'):
        records.integers(rows(unit='row', x=text('y')), 'x')
    with pytest.raises(UserError, match='row 12, column x: "y" stands already in row 11'):
        records.unique(rows(unit='row', x=text('y', 'y')), 'x')


def test_a_long_value_is_shown_in_part():
    with pytest.raises(UserError) as error:
        records.integers(rows(x=text('z' * 1000)), 'x')
    assert 'z' * 80 in str(error.value) and 'z' * 81 not in str(error.value)


def test_a_value_that_stands_twice_names_its_first_line():
    values = text('a', 'b', None, 'c', 'b', 'a', 'b')
    with pytest.raises(UserError, match='x.csv, line 15, column x: "b" stands already in line 12'):
        records.unique(rows(x=values), 'x')
    found = rows('skip', x=values)
    records.unique(found, 'x')
    assert found.keep.tolist() == [True, True, True, True, False, False, False] and found.bad.skipped == {'x.csv': 3}
    records.unique(rows(x=text('a', 'b', 'A', '')), 'x')


def test_unique_and_known_take_columns_of_several_chunks():
    chunks = pa.chunked_array([text('a', 'b'), text('c'), text('a')])
    with pytest.raises(UserError, match='line 14, column x: "a" stands already in line 11'):
        records.unique(rows(x=chunks), 'x')
    with pytest.raises(UserError, match='line 12, column x: "b" is not listed'):
        records.known(rows(x=chunks), 'x', pa.chunked_array([text('c'), text('a')]), 'y')


def test_only_rows_to_keep_become_tables():
    found = rows('skip', x=text('1', 'x', '3'))
    rating = records.integers(found, 'x').astype(np.float32)
    events = found.events(user_id=text('u', 'v', 'w'), item_id=text('i', 'j', 'k'), rating=rating)
    assert events.schema == tables.EVENTS
    assert [tuple(row.values()) for row in events.to_pylist()] == [
        ('u', 'i', 1.0, None, None, None, 11), ('w', 'k', 3.0, None, None, None, 13)]
    users = found.table(tables.USERS, user_id=text('u', 'v', 'w'))
    assert users.to_pylist() == [{'user_id': 'u', 'profile': []}, {'user_id': 'w', 'profile': []}]
    kept = found.kept()
    assert kept['x'].to_pylist() == ['1', '3'] and kept.lines.tolist() == [11, 13] and kept.keep.all()


def test_parts_join_to_one_with_their_lines_and_what_they_keep():
    bad = BadRows('skip')
    parts = [rows(start=start, x=text(*values)) for start, values in ((1, 'ab'), (3, ''), (3, 'cd'))]
    for part in parts:
        part.bad = bad
    records.one_of(parts[2], 'x', 'd')
    whole = records.joined(iter(parts))
    assert whole['x'].to_pylist() == list('abcd') and whole.lines.tolist() == [1, 2, 3, 4]
    assert whole.keep.tolist() == [True, True, False, True] and whole.bad is bad and whole.file.label == 'folder/x.csv'


def test_lists_and_maps_equal_a_loop():
    rng = np.random.default_rng(0)
    words = ['war', 'drama', 'noir']
    flags = rng.integers(2, size=(50, 3)).astype(bool)
    assert records.lists(flags, words).to_pylist() == [[w for w, f in zip(words, row) if f] for row in flags]
    assert records.lists(flags[:0], words).to_pylist() == []

    values = {key: [[None, '', 'x', 'y&'][n] for n in rng.integers(4, size=50)] for key in ('age', 'city')}
    found = records.maps({'age': text(*values['age']),
                          'city': pa.chunked_array([text(*values['city'][:20]), text(*values['city'][20:])])})
    assert found.type == tables.USERS.field('profile').type and found.null_count == 0
    assert found.to_pylist() == [
        [(key, values[key][n]) for key in values if values[key][n]] for n in range(50)]
    assert records.maps({'age': text()}).to_pylist() == []


def test_html_entities_are_unescaped_once():
    column = pa.chunked_array([text('a &amp; b', None, 'plain & simple', '&#39;x&#x27;'),
                               text('&amp;lt;', '&nonsense;', '&')])
    assert records.unescaped(column).to_pylist() == ['a & b', None, 'plain & simple', "'x'", '&lt;', '&nonsense;', '&']


def test_times_have_a_form_and_days_that_exist():
    column = pa.chunked_array([text('31 01, 2014', '31 02, 2014', None, '1 2, 14', '29 02, 2012')])
    found = records.seconds(column, r'^(?P<day>[0-9]{1,2}) [0-9]{2}, [0-9]{4}$', '%d %m, %Y')
    assert found.to_pylist() == [1391126400, None, None, None, 1330473600]
