"""Tables: each promise of `validate` broken once, all-or-nothing writes, damaged folders."""

import dataclasses
import errno
import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import tables
from xrec_jax.data.domains import MOVIES, PRODUCTS
from xrec_jax.errors import UserError


def small(**changes) -> tables.Dataset:
    users = tables.table(tables.USERS, user_id=['u1', 'u2'], profile=[[('age', '25')], []])
    items = tables.table(tables.ITEMS, item_id=['i1', 'i2', 'i3'], title=['A', 'Bé', None],
                         attributes=[['war', 'drama'], [], ['comedy']], details=[[('city', 'Rome')], [], []])
    dataset = tables.Dataset(
        name='small',
        interactions=tables.interactions(
            users, items, user=['u1', 'u1', 'u2', 'u2'], item=['i2', 'i1', 'i2', 'i1'],
            rating=pa.array([4.0, 1.0, 5.0, None], pa.float32()), timestamp=[0, 86_400, 5, None],
            review=['good', None, None, None], aspects=[['war'], None, [], None]),
        users=users, items=items,
        rating_scale=(1.0, 5.0), domain=MOVIES, licence='none', recipe={'seed': 3})
    return dataclasses.replace(dataset, **changes)


def with_column(table: pa.Table, name: str, values) -> pa.Table:
    at = table.column_names.index(name)
    if not isinstance(values, pa.Array):
        values = pa.array(values, table.schema.field(name).type)
    return table.set_column(at, pa.field(name, values.type), values)


def same(a: tables.Dataset, b: tables.Dataset) -> bool:
    return all(getattr(a, name).equals(getattr(b, name)) for name in tables.SCHEMAS) and (
        dataclasses.replace(a, interactions=None, users=None, items=None)
        == dataclasses.replace(b, interactions=None, users=None, items=None))


def test_a_sound_dataset_passes():
    dataset = small()
    assert tables.validate(dataset) is dataset


def test_columns_left_out_are_null_or_empty():
    table = tables.table(tables.EVENTS, user_id=['a'], item_id=['b'])
    assert table.schema == tables.EVENTS
    assert table.to_pylist() == [{'user_id': 'a', 'item_id': 'b', 'rating': None, 'timestamp': None, 'review': None,
                                  'aspects': None, 'line': None}]
    assert tables.table(tables.ITEMS, item_id=['a', 'b']).to_pylist() == [
        {'item_id': name, 'title': None, 'attributes': [], 'details': []} for name in 'ab']
    assert tables.table(tables.USERS, user_id=[]).num_rows == 0
    with pytest.raises(AssertionError):
        tables.table(tables.EVENTS, user_id=['a'])


def test_interactions_are_encoded_by_the_ids_of_their_tables():
    dataset = small()
    by_row = tables.interactions(dataset.users, dataset.items, user=np.array([0, 0, 1, 1]), item=np.array([1, 0, 1, 0]),
                                 **{name: dataset.interactions[name] for name in tables.INTERACTIONS.names[2:]})
    assert by_row.schema == tables.INTERACTIONS and by_row.equals(dataset.interactions)
    assert by_row['item_id'].to_pylist() == ['i2', 'i1', 'i2', 'i1']
    assert by_row['item_id'].chunk(0).dictionary.to_pylist() == ['i1', 'i2', 'i3']
    np.testing.assert_array_equal(tables.codes(by_row['user_id']), [0, 0, 1, 1])
    np.testing.assert_array_equal(tables.codes(by_row['item_id']), [1, 0, 1, 0])
    assert tables.codes(by_row['item_id']).dtype == np.int32


def test_an_unknown_id_is_no_interaction():
    with pytest.raises(AssertionError):
        tables.interactions(D.users, D.items, user=['u1'], item=['i9'])


def test_unknown_times_are_earlier_than_all():
    np.testing.assert_array_equal(tables.times(small()), [0, 86_400, 5, tables.LONG_AGO])
    assert tables.LONG_AGO < -10**15 and tables.LONG_AGO - 1 > np.iinfo(np.int64).min


def test_one_chunk_copies_nothing_where_there_is_one():
    column = pa.chunked_array([['a', 'b']])
    assert tables.one_chunk(column).buffers()[2].address == column.chunk(0).buffers()[2].address
    assert tables.one_chunk(pa.chunked_array([['a'], ['b']])).equals(pa.array(['a', 'b']))
    assert tables.one_chunk(pa.chunked_array([], pa.string())).equals(pa.array([], pa.string()))


def test_rows_are_positions_and_minus_one_where_unknown():
    column = pa.chunked_array([['b', 'a'], ['c']])
    found = tables.rows(pa.chunked_array([['c', 'x'], ['b', 'a', 'a']]), column)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, [2, -1, 0, 1, 1])


D = small()
BROKEN = {
    'other users': (
        dict(users=with_column(D.users, 'user_id', ['u1', 'u9'])),
        'table interactions, column user_id: its dictionary is not the ids of table users'),
    'items in another order': (
        dict(items=D.items.take([1, 0, 2])),
        'table interactions, column item_id: its dictionary is not the ids of table items'),
    'one chunk of other items': (
        dict(interactions=pa.concat_tables([D.interactions, tables.interactions(
            D.users, D.items.take([2, 1, 0]), user=['u1'], item=['i3'])])),
        'table interactions, column item_id: its dictionary is not the ids of table items'),
    'ids as text': (
        dict(interactions=with_column(D.interactions, 'item_id', D.interactions['item_id'].chunk(0).cast(pa.string()))),
        'column item_id: type string should be dictionary'),
    'user twice': (
        dict(users=with_column(D.users, 'user_id', ['u1', 'u1'])),
        'table users, column user_id: "u1" stands there more than once'),
    'item twice': (
        dict(items=with_column(D.items, 'item_id', ['i1', 'i3', 'i3'])),
        'table items, column item_id: "i3" stands there more than once'),
    'null user': (
        dict(interactions=with_column(D.interactions, 'user_id', pa.DictionaryArray.from_arrays(
            pa.array([0, 0, None, 1], pa.int32()), D.users['user_id'].chunk(0)))),
        'table interactions, column user_id: row 2 is null'),
    'rating above the scale': (
        dict(interactions=with_column(D.interactions, 'rating', [4.0, 5.5, 1.0, None])),
        'column rating, row 1: 5.5 is outside the scale of 1 to 5'),
    'rating below the scale': (
        dict(interactions=with_column(D.interactions, 'rating', [None, 5.0, 0.0, 1.0])),
        'row 2: 0.0 is outside'),
    'rating not a number': (
        dict(interactions=with_column(D.interactions, 'rating', [float('nan'), 5.0, 1.0, 1.0])),
        'row 0: nan is outside'),
    'null attributes': (
        dict(items=with_column(D.items, 'attributes', [['war'], None, []])),
        'table items, column attributes: row 1 is null'),
    'wrong type': (
        dict(interactions=with_column(D.interactions, 'timestamp', pa.array([1.0, 2.0, 3.0, 4.0]))),
        'column timestamp: type double should be int64'),
    'column missing': (
        dict(items=D.items.drop_columns('title')),
        'table items: columns are item_id, attributes, details; should be item_id, title, attributes, details'),
    'no rows': (dict(interactions=D.interactions.slice(0, 0)), 'table interactions: it has no rows'),
    'scale upside down': (dict(rating_scale=(5.0, 1.0)), 'rating_scale: 5.0 to 1.0'),
}


@pytest.mark.parametrize('changes, message', BROKEN.values(), ids=BROKEN)
def test_every_broken_promise_is_named_with_its_place(changes, message):
    with pytest.raises(UserError) as error:
        tables.validate(small(**changes))
    assert 'dataset "small"' in str(error.value) and message in str(error.value)


def test_what_is_read_is_what_was_written(tmp_path):
    dataset = small(domain=PRODUCTS)
    tables.write(dataset, tmp_path / 'a' / 'b.arrow')
    assert same(tables.read(tmp_path / 'a' / 'b.arrow'), dataset)
    assert os.listdir(tmp_path / 'a') == ['b.arrow']  # nothing temporary stays


def test_a_dataset_may_be_written_over_itself_or_another(tmp_path):
    tables.write(small(), tmp_path / 'x')
    other = small(name='other', licence='mine')
    tables.write(other, tmp_path / 'x')
    tables.write(tables.read(tmp_path / 'x'), tmp_path / 'x')
    assert same(tables.read(tmp_path / 'x'), other)
    (tmp_path / 'empty').mkdir()
    tables.write(other, tmp_path / 'empty')


@pytest.mark.parametrize('make', [
    lambda p: p.write_text('mine'), lambda p: (p.mkdir(), (p / 'thesis.tex').write_text('mine'))],
    ids=['file', 'folder'])
def test_what_is_no_dataset_is_never_replaced(tmp_path, make):
    make(tmp_path / 'x')
    with pytest.raises(UserError, match='not a dataset'):
        tables.write(small(), tmp_path / 'x')
    kept = tmp_path / 'x' if (tmp_path / 'x').is_file() else tmp_path / 'x' / 'thesis.tex'
    assert kept.read_text() == 'mine'


def test_an_invalid_dataset_is_not_written(tmp_path):
    with pytest.raises(UserError):
        tables.write(small(rating_scale=(1.0, 4.0)), tmp_path / 'x')
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('step', ['mkdir', 'write', 'json', 'rename'])
def test_full_disk_is_said_plainly_and_loses_nothing(tmp_path, monkeypatch, step):
    tables.write(small(), tmp_path / 'x')
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*args, **kwargs):
        raise full

    if step == 'write':
        monkeypatch.setattr(pa.ipc, 'new_file', fail)
    elif step == 'rename':
        rename = pathlib.Path.rename
        monkeypatch.setattr(pathlib.Path, 'rename', lambda self, to: fail() if self.name == 'new'
                            else rename(self, to))
    else:
        monkeypatch.setattr(pathlib.Path, {'mkdir': 'mkdir', 'json': 'write_text'}[step], fail)
    with pytest.raises(UserError, match='the disk is full'):
        tables.write(small(name='other'), tmp_path / 'x')
    monkeypatch.undo()
    assert same(tables.read(tmp_path / 'x'), small())
    assert os.listdir(tmp_path) == ['x']


def test_tables_of_many_chunks_are_read_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, 'BATCH', 3)
    dataset = small()
    dataset = dataclasses.replace(dataset, interactions=pa.concat_tables([dataset.interactions] * 5))
    tables.write(dataset, tmp_path / 'x')
    again = tables.read(tmp_path / 'x')
    assert again.interactions['user_id'].num_chunks == 10 and same(again, dataset)
    np.testing.assert_array_equal(tables.codes(again.interactions['item_id']), [1, 0, 1, 0] * 5)


def test_a_full_disk_below_arrow_is_told_as_such(tmp_path):
    if not os.path.exists('/dev/full'):
        pytest.skip('needs /dev/full')
    with pytest.raises(UserError, match='the disk is full'):
        with tables.plain_disk_errors('writing'), open('/dev/full', 'wb') as file:
            with pa.ipc.new_file(file, tables.INTERACTIONS) as writer:
                writer.write_table(small().interactions)


def test_interrupt_while_replacing_puts_the_old_dataset_back(tmp_path, monkeypatch):
    tables.write(small(), tmp_path / 'x')
    rename = pathlib.Path.rename

    def interrupted(self, to):
        if self.name == 'new':
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(pathlib.Path, 'rename', interrupted)
    with pytest.raises(KeyboardInterrupt):
        tables.write(small(name='other'), tmp_path / 'x')
    monkeypatch.undo()
    assert same(tables.read(tmp_path / 'x'), small())


def damage_json(change):
    def apply(root):
        facts = json.loads((root / 'dataset.json').read_text())
        change(facts)
        (root / 'dataset.json').write_text(json.dumps(facts))
    return apply


def cut(name):
    def apply(root):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[:len(data) // 2])
    return apply


@pytest.mark.parametrize('damage, message', [
    (lambda root: (root / 'dataset.json').unlink(), 'dataset.json: no such file'),
    (lambda root: (root / 'items.arrow').unlink(), 'items.arrow: no such file'),
    (cut('interactions.arrow'), 'interactions.arrow: damaged'),
    (cut('dataset.json'), 'dataset.json: damaged'),
    (damage_json(lambda facts: facts.update(format=99)), 'format 99'),
    (damage_json(lambda facts: facts['rows'].update(users=7)), 'has 2 rows where dataset.json says 7'),
    (damage_json(lambda facts: facts.pop('licence')), 'damaged'),
], ids=['no json', 'no table', 'cut table', 'cut json', 'format', 'count', 'key'])
def test_damage_is_told_by_file(tmp_path, damage, message):
    tables.write(small(), tmp_path / 'x')
    damage(tmp_path / 'x')
    with pytest.raises(UserError) as error:
        tables.read(tmp_path / 'x')
    assert message in str(error.value) and str(tmp_path / 'x') in str(error.value)
