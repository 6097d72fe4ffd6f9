"""What a user's columns may hold, and how each value is told right from wrong."""

import datetime
import decimal
import inspect
import io
import re

import ml_collections
import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import catalog, ingest, raw, tables
from xrec_jax.data.readers import columns, generic, recbole
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

FILE = raw.RawFile('own.csv', io.BytesIO)
HALF_PAST = 1_422_705_600  # 2015-01-31 12:00:00


def load(rows: dict, on_bad_row: str = 'raise', places: dict = {}, **options) -> tables.Dataset:
    """The dataset of one table of interactions, `rows`: name → array, a row a line from 2; or of several."""
    places = {'interactions': 'own', 'items': '', 'users': ''} | places
    there = {'own': rows} if 'own' not in rows else rows
    bad = raw.BadRows(on_bad_row)

    def read(place, names):
        table = pa.table(there[place])
        for start in range(0, table.num_rows, 2):  # in blocks of two rows
            part = table.slice(start, 2).select(names)
            yield Records(FILE, part, 2 + start + np.arange(part.num_rows), bad)

    return ingest.ingest(columns.source('own', places, FILE, read, columns.Columns(**options), bad))


def own(**changes) -> dict:
    return {'user_id': ['a', 'b', 'a'], 'item_id': ['x', 'x', 'y'], 'rating': ['5', '', '1.5'],
            'timestamp': ['10', '', '30']} | changes


def column(dataset: tables.Dataset, name: str) -> list:
    return dataset.interactions[name].to_pylist()


# ---------------------------------------------------------------------------------------- values


def test_blank_cells_are_not_known():
    dataset = load(own(text=['good', '  ', ''], why=['plot|cast ', '', ' | ']), review='text', aspects='why')
    assert dataset.interactions.to_pylist() == [
        dict(user_id='a', item_id='x', rating=5.0, timestamp=10, review='good', aspects=['plot', 'cast']),
        dict(user_id='b', item_id='x', rating=None, timestamp=None, review=None, aspects=None),
        dict(user_id='a', item_id='y', rating=1.5, timestamp=30, review=None, aspects=None)]


def test_no_column_of_ratings_or_times_is_no_rating_and_no_time():
    dataset = load(own(), rating='', timestamp='')
    assert column(dataset, 'rating') == column(dataset, 'timestamp') == [None] * 3


@pytest.mark.parametrize('ids', [
    pa.array([7, 8, 7]), pa.array([7, 8, 7], pa.uint16()), pa.array(['7', '8', '7'], pa.large_string()),
    pa.array([b'7', b'8', b'7']), pa.array(['7', '8', '7']).dictionary_encode(),
    pa.array(['7', '8', '7'], pa.string_view())],
    ids=lambda x: str(x.type)[:12])
def test_ids_of_any_type_are_strings(ids):
    assert column(load(own(user_id=ids)), 'user_id') == ['7', '8', '7']


@pytest.mark.parametrize('ids, kind',
                         [([7.0, 8.0, 7.0], 'double'), ([True, False, True], 'bool'), ([[1], [2], [1]], 'list')])
def test_ids_of_other_types_are_refused(ids, kind):
    with pytest.raises(UserError,
                       match=f'own.csv, column user_id: holds values of type {kind}.*should hold text or integers'):
        load(own(user_id=ids))


@pytest.mark.parametrize('ratings', [
    ['5', '', ' 1.5 '], ['5.', None, '15e-1'], [5.0, None, 1.5], [5.0, float('nan'), 1.5],
    [decimal.Decimal('5.0'), None, decimal.Decimal('1.5')], pa.array([5, None, 1.5], pa.float32())], ids=str)
def test_ratings_of_any_type(ratings):
    assert column(load(own(rating=ratings)), 'rating') == [5.0, None, 1.5]


@pytest.mark.parametrize('rating', ['five', '6', '0.99', 'nan', '-5', '5,0', '1e999', 'inf', '0x5', '٥'])
def test_a_rating_that_is_none_is_told_by_line(rating):
    with pytest.raises(UserError) as error:
        load(own(rating=['5', '4', rating]))
    assert f'own.csv, line 4, column rating: "{rating}" should be a number from 1 to 5 (rating_low, rating_high)' in str(
        error.value)


def test_the_value_for_no_rating_is_none_even_within_the_scale():
    rows = own(rating=['0', '-1', '3'])
    assert column(load(rows, rating_low=-1, unrated='-1'), 'rating') == [0.0, None, 3.0]
    assert column(load(rows, rating_low=-1, unrated='0'), 'rating') == [None, -1.0, 3.0]
    with pytest.raises(UserError, match='line 3, column rating: "-1" .* from 1 to 5 .*; 0 for none'):
        load(rows, unrated='0')


def test_a_scale_with_ends_that_are_no_short_fractions():
    dataset = load(own(rating=['0.1', '1.1', '0.7']), rating_low=0.1, rating_high=1.1)
    assert column(dataset, 'rating') == pytest.approx([0.1, 1.1, 0.7])


@pytest.mark.parametrize('times, unit', [
    ([HALF_PAST, None, 0], 's'), ([f'{HALF_PAST}', '', '0'], 's'), ([f'{HALF_PAST}.9', ' ', '0.0'], 's'),
    ([float(HALF_PAST), None, 0.5], 's'), ([HALF_PAST * 1000 + 999, None, 0], 'ms'),
    (['2015-01-31 12:00:00', '', '1970-01-01'], 'iso'),
    (['2015-01-31T12:00', None, '1970-01-01T00:00:00.999999'], 'iso'),
    (['2015-01-31T14:00:00+02:00', '', '1970-01-01T00:00:00.123456789Z'], 'iso'),
    (['31.01.2015 12:00', '', '01.01.1970 00:00'], '%d.%m.%Y %H:%M'),
    ([datetime.datetime(2015, 1, 31, 12), None, datetime.datetime(1970, 1, 1, 0, 0, 0, 999)], 's'),
    (pa.array([HALF_PAST * 10**9, None, 1], pa.timestamp('ns', 'Europe/Paris')), 'ms'),
], ids=str)
def test_times_in_every_unit(times, unit):
    assert column(load(own(timestamp=times), timestamp_unit=unit), 'timestamp') == [HALF_PAST, None, 0]


def test_days_are_their_first_second():
    days = [datetime.date(2015, 1, 31), None, datetime.date(1970, 1, 1)]
    assert column(load(own(timestamp=days)), 'timestamp') == [HALF_PAST - 43_200, None, 0]
    rows = own(timestamp=['01 7, 2015', '', '12 31, 1970'])
    assert column(load(rows, timestamp_unit='%m %d, %Y'), 'timestamp') == [1_420_588_800, None, 364 * 86_400]


@pytest.mark.parametrize('time, unit', [
    ('1422705600000', 's'), ('-1', 's'), ('noon', 's'), ('2015-01-31', 's'), ('noon', 'iso'), ('2015-02-30', 'iso'),
    ('2015-02-30T00:00:00Z', 'iso'), ('1422705600', 'iso'), ('9999-01-01', 'iso'), ('30.02.2015', '%d.%m.%Y'),
    ('2015-01-31', '%d.%m.%Y'), ('31.01.2015x', '%d.%m.%Y')])
def test_a_time_that_is_none_is_told_by_line_and_unit(time, unit):
    good = {'iso': '2015-01-31', '%d.%m.%Y': '31.01.2015'}.get(unit, '1')
    with pytest.raises(UserError) as error:
        load(own(timestamp=[good, good, time]), timestamp_unit=unit)
    assert f'own.csv, line 4, column timestamp: "{time}" should be ' in str(error.value)
    assert f'(timestamp_unit={unit}; others: ' in str(error.value)


def test_a_blank_id_is_refused_or_passed_over():
    rows = own(item_id=['x', ' ', None])
    with pytest.raises(UserError, match='own.csv, line 3, column item_id: " " should not be empty'):
        load(rows)
    dataset = load(rows, on_bad_row='skip')
    assert column(dataset, 'item_id') == ['x'] and dataset.recipe['rows_skipped'] == {'own.csv': 2}


def test_a_row_with_two_faults_counts_once():
    assert load(own(rating=['5', 'bad', '1'], user_id=['a', '', 'c']), on_bad_row='skip').recipe['rows_skipped'] == {
        'own.csv': 1}


# -------------------------------------------------------------------------------- items and users

ITEMS = {'id': [1, 2], 'title': [' Tom &amp; Jerry ', ''], 'genres': ['comedy|cats &amp; mice', ''],
         'Year': [1940, None]}
USERS = {'user_id': ['b', 'c'], 'Age': ['24', ''], 'City': ['', 'Rome ']}
SEVERAL = dict(places={'items': 'items', 'users': 'users'}, items_item_id='id', attributes='genres', details='Year',
               profile='Age, City')


def several(**changes) -> dict:
    return {'own': own(item_id=[1, 2, 3]), 'items': ITEMS, 'users': USERS} | changes


def test_items_and_users_of_their_own_files():
    dataset = load(several(), **SEVERAL)
    assert dataset.items.to_pylist() == [
        dict(item_id='1', title='Tom & Jerry', attributes=['comedy', 'cats & mice'], details=[('year', '1940')]),
        dict(item_id='2', title=None, attributes=[], details=[]),
        dict(item_id='3', title=None, attributes=[], details=[])]  # not described
    assert dataset.users.to_pylist() == [
        dict(user_id='b', profile=[('age', '24')]), dict(user_id='c', profile=[('city', 'Rome')]),
        dict(user_id='a', profile=[])]


def test_an_id_that_is_described_twice_is_refused_across_blocks():
    twice = {'id': [1, 2, 3, 1], 'title': ['a', 'b', 'c', 'd'], 'genres': [''] * 4, 'Year': [1, 2, 3, 4]}
    with pytest.raises(UserError, match='line 5, column id: "1" stands already in line 2'):
        load(several(items=twice), **SEVERAL)
    dataset = load(several(items=twice), on_bad_row='skip', **SEVERAL)
    assert dataset.items['title'].to_pylist() == ['a', 'b', 'c'] and dataset.recipe['rows_skipped'] == {'own.csv': 1}


def test_the_interactions_file_may_describe_users_and_items_too():
    rows = own(title=['first', 'second', 'other'], age=[30, None, 31], user_id=['a', 'b', 'a'])
    dataset = load(rows, places={'items': 'own', 'users': 'own'}, profile='age')
    assert dataset.items.select(['item_id', 'title']).to_pylist() == [
        dict(item_id='x', title='first'), dict(item_id='y', title='other')]
    assert dataset.users.to_pylist() == [dict(user_id='a', profile=[('age', '30')]), dict(user_id='b', profile=[])]


def test_a_bad_row_describes_nothing():
    rows = own(title=['first', 'second', 'other'], rating=['9', '1', '1'])
    dataset = load(rows, on_bad_row='skip', places={'items': 'own'})
    assert dataset.items['title'].to_pylist() == ['second', 'other'] and column(dataset, 'item_id') == ['x', 'y']


@pytest.mark.parametrize('genres, separator, wanted', [
    (['a|b', 'a | |b|', None], '|', [['a', 'b'], ['a', 'b'], []]), (['a, b', 'c', ''], ',', [['a', 'b'], ['c'], []]),
    (['a|b', 'a, b', ''], '', [['a|b'], ['a, b'], []]),
    ([['a', 'b|c'], [' ', None], None], '|', [['a', 'b|c'], [], []]),
    (pa.array([['a', 'b'], ['c'], []], pa.large_list(pa.large_string())), '|', [['a', 'b'], ['c'], []]),
    (pa.array(['a|b', 'c', 'a|b']).dictionary_encode(), '|', [['a', 'b'], ['c'], ['a', 'b']])], ids=str)
def test_attributes_from_texts_and_lists(genres, separator, wanted):
    dataset = load(own(item_id=[1, 2, 3], genres=genres), places={'items': 'own'}, title='', attributes='genres',
                   separator=separator)
    assert dataset.items['attributes'].to_pylist() == wanted


def test_a_list_of_texts_may_be_a_detail():
    rows = own(item_id=[1, 2, 3], tags=[['a', 'b'], [], None])
    assert [row['details'] for row in load(rows, places={'items': 'own'}, title='',
                                           details='tags').items.to_pylist()] == [
        [('tags', 'a, b')], [], []]


def test_columns_of_a_type_without_text_are_refused_with_a_way_out():
    with pytest.raises(UserError, match='own.csv, column user_id: holds bytes that are no text'):
        load(own(user_id=[b'a', b'\xff', b'c']))
    rows = own(product=[{'title': 'x'}] * 3)
    with pytest.raises(UserError,
                       match='column product: holds values of type struct.* name one of its fields, as product.title'):
        load(rows, places={'items': 'own'}, title='product')
    with pytest.raises(UserError, match='column rating: holds values of type bool, should hold numbers'):
        load(own(rating=[True] * 3))
    with pytest.raises(UserError, match='column item_id: holds values of type list.* explode=item_id'):
        load(own(item_id=[['x']] * 3))
    with pytest.raises(UserError, match='column genres: holds values of type list.* should hold lists of texts'):
        load(own(genres=[[1]] * 3), places={'items': 'own'}, title='', attributes='genres')


# ---------------------------------------------------------------------------------------- options


@pytest.mark.parametrize('options, message', [
    (dict(user_id=''), "user_id='': should be the name of a column"),
    (dict(rating=None), "rating=None: should be of the kind of 'rating'"),
    (dict(rating_low='1'), "rating_low='1': should be of the kind of 1.0"),
    (dict(rating_high=True), 'rating_high=True: should be of the kind of 5.0'),
    (dict(rating_low=5), 'rating_low=5 and rating_high=5: the lower end comes first'),
    (dict(unrated='none'), "unrated='none': should be a number"),
    (dict(timestamp_unit='seconds'), "timestamp_unit='seconds': should be s, ms, iso or a format"),
    (dict(timestamp_unit='%Q'), "timestamp_unit='%Q': 'Q' is a bad directive"),
    (dict(timestamp_unit='%d %d'), "timestamp_unit='%d %d': redefinition"),
    (dict(details='a.name,b.Name'), 'two of them would both be called "name"'),
    (dict(attributes='genre'), 'attributes=genre: names columns of the items, and there is no file of items'),
    (dict(profile='age'), 'profile=age: names columns of the users, and there is no file of users'),
])
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load(own(), **options)


def test_the_words_for_prompts():
    domain = load(own(), noun='song', nouns='songs', consume='hear', consumed='heard').domain
    assert (domain.item, domain.items, domain.consume, domain.consumed) == ('song', 'songs', 'hear', 'heard')


@pytest.mark.parametrize('name', [*generic.ENTRIES, *recbole.ENTRIES])
def test_options_are_plain_and_fit_into_a_config(name):
    """`items` as an option would be hidden by the method of that name, and no flag could set it."""
    options = catalog.entry(name).options
    config = ml_collections.ConfigDict(options)
    assert {key: getattr(config, key) for key in options} == options
    assert {type(value) for value in options.values()} <= {str, float, bool}
    assert not options.keys() & inspect.signature(catalog.load).parameters.keys()
    assert {'user_id', 'item_id', 'rating', 'timestamp', 'review', 'title', 'noun'} <= options.keys()
