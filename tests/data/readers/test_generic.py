"""The user's own csv, JSON lines, parquet and Hugging Face datasets: miniatures, real files, and damage."""

import csv
import gzip
import io
import json
import pathlib
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.data.readers import mutations
from xrec_jax.data import catalog, readers, tables
from xrec_jax.errors import UserError

REAL = pathlib.Path(__file__).parents[4] / 'shared' / 'data'

# As a spreadsheet and a person's script leave them: a byte order mark, both kinds of line ends, quoted line
# ends and quotes, an inch mark, blank cells, a blank line, columns of no interest.
CSV = {
    'interactions.csv': (
        '\ufeffreviewer,stars,book,when,"what, in words",why\r\n'
        'ann,5,b1,2015-01-31,"Great, ""really""\r\ngreat.\n\nBuy it",plot; cast\r\n'
        'bob,,b1,,,\n'
        '\n'
        'ann,1.5,7,2015-02-01 10:00:00,the 12" edition,\r\n'
        '"cy, jr",4,b2,2016-12-31T23:59:59+01:00,"Ünïcode",cast\n').encode(),
    'books.csv': (
        b'id,title,genres,price,Author\n'
        b'b1,"Tom &amp; Jerry, ""the book""",cartoon;cats &amp; mice,7.98,"Doe, J."\n'
        b'b2,,"",,\n'
        b'b3,Unread, drama ;,0,Roe\n'),
    'people.csv': b'reviewer,age,city\n"cy, jr",,Rome\nann,24, \n',
}
CSV_OPTIONS = dict(
    items_file='books.csv', users_file='people.csv', user_id='reviewer', item_id='book', rating='stars',
    timestamp='when',
    timestamp_unit='iso', review='what, in words', aspects='why', items_item_id='id', attributes='genres',
    details='Author, price', profile='age,city', separator=';', noun='book', nouns='books', consume='read',
    consumed='read')
CSV_TABLES = {
    'interactions': [
        dict(user_id='ann', item_id='b1', rating=5.0, timestamp=1_422_662_400,
             review='Great, "really"\r\ngreat.\n\nBuy it', aspects=['plot', 'cast']),
        dict(user_id='bob', item_id='b1', rating=None, timestamp=None, review=None, aspects=None),
        dict(user_id='ann', item_id='7', rating=1.5, timestamp=1_422_784_800, review='the 12" edition', aspects=None),
        dict(user_id='cy, jr', item_id='b2', rating=4.0, timestamp=1_483_225_199, review='Ünïcode', aspects=['cast'])],
    'users': [dict(user_id='cy, jr', profile=[('city', 'Rome')]), dict(user_id='ann', profile=[('age', '24')]),
              dict(user_id='bob', profile=[])],
    'items': [
        dict(item_id='b1', title='Tom & Jerry, "the book"', attributes=['cartoon', 'cats & mice'],
             details=[('author', 'Doe, J.'), ('price', '7.98')]),
        dict(item_id='b2', title=None, attributes=[], details=[]),
        dict(item_id='b3', title='Unread', attributes=['drama'], details=[('author', 'Roe'), ('price', '0')]),
        dict(item_id='7', title=None, attributes=[], details=[])],
}

# Each line a user, with a list of what they met, and of each what it is.
HISTORIES = [
    {'user': {'id': 7}, 'age': 30, 'history': [
        {'asin': 'x', 'stars': 5, 'ms': 1586445693499, 'text': 'good',
         'product': {'title': 'X &amp; Y', 'price': 7.98, 'tags': ['a', 'b']}},
        {'asin': 'y', 'stars': 2.5, 'ms': 1586445699000, 'text': None,
         'product': {'title': None, 'price': None, 'tags': []}}]},
    {'user': {'id': 8}, 'age': None, 'history': []},
    {'user': {'id': 9}, 'age': 31,
     'history': [{'asin': 'x', 'stars': None, 'ms': None, 'text': 'ok', 'product': None}]},
]
NESTED_OPTIONS = dict(
    explode='history', user_id='user.id', item_id='asin', rating='stars', timestamp='ms', timestamp_unit='ms',
    review='text',
    title='product.title', attributes='product.tags', details='product.price', profile='age', noun='product')
NESTED_TABLES = {
    'interactions': [
        dict(user_id='7', item_id='x', rating=5.0, timestamp=1586445693, review='good', aspects=None),
        dict(user_id='7', item_id='y', rating=2.5, timestamp=1586445699, review=None, aspects=None),
        dict(user_id='9', item_id='x', rating=None, timestamp=None, review='ok', aspects=None)],
    'users': [dict(user_id='7', profile=[('age', '30')]), dict(user_id='9', profile=[('age', '31')])],
    'items': [dict(item_id='x', title='X & Y', attributes=['a', 'b'], details=[('price', '7.98')]),
              dict(item_id='y', title=None, attributes=[], details=[])],
}


def one_file(name: str) -> dict[str, str]:
    """Interactions, items and users all from there."""
    return {'interactions_file': name, 'items_file': name, 'users_file': name}


def publish(folder: pathlib.Path, files: dict[str, bytes] = CSV, **changes: bytes) -> pathlib.Path:
    """Writes `files`; interactions=... replaces interactions.csv."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(changes.get(name.removesuffix('.csv'), data))
    return folder


def load_csv(folder: pathlib.Path, **options) -> tables.Dataset:
    return catalog.load('csv', folder, **{**CSV_OPTIONS, **options})


def contents(dataset: tables.Dataset) -> dict[str, list]:
    tables.validate(dataset)
    return {name: getattr(dataset, name).to_pylist() for name in tables.SCHEMAS}


# ------------------------------------------------------------------------------------------- csv


def test_csv_gives_the_tables_by_hand(tmp_path):
    dataset = load_csv(publish(tmp_path))
    assert contents(dataset) == CSV_TABLES
    assert dataset.rating_scale == (1.0, 5.0) and dataset.domain.consumed == 'read' and dataset.name == 'csv'


def test_csv_in_other_clothes_is_the_same(tmp_path):
    """A tab between fields, another quote, latin-1, gzip."""
    for name, data in CSV.items():
        data = data.decode('utf-8-sig').replace("'", '').replace('""', "''").replace('"', "'").replace("''", '"')
        data = data.replace('12\' edition', '12" edition').replace('b2,,",,', 'b2,,,,')
        rows = csv.reader(io.StringIO(data, newline=''), quotechar="'")
        text = ''.join('\t'.join(f"'{cell}'" if set(cell) & set('\t\r\n\'"') else cell for cell in row) + '\n'
                       for row in rows)
        (tmp_path / f'{name}.gz').write_bytes(gzip.compress(text.encode('latin-1')))
    dataset = load_csv(tmp_path, delimiter='\\t', quote="'", encoding='latin-1')
    assert contents(dataset) == CSV_TABLES


def test_csv_without_a_header_has_columns_by_number(tmp_path):
    (tmp_path / 'ratings.csv').write_bytes(b'A1,B1,5.0,1400000000\nA2,B1,3.0,1400000001\n')
    dataset = catalog.load('csv', tmp_path, interactions_file='ratings.csv', header=False, user_id='1', item_id='2',
                           rating='3', timestamp='4')
    assert dataset.interactions['user_id'].to_pylist() == ['A1', 'A2']
    assert dataset.interactions['rating'].to_pylist() == [5.0, 3.0]
    assert dataset.interactions['timestamp'].to_pylist() == [1_400_000_000, 1_400_000_001]


def test_files_may_stay_in_an_archive(tmp_path):
    publish(tmp_path / 'plain')
    (tmp_path / 'packed').mkdir()
    with tarfile.open(tmp_path / 'packed' / 'own.tar.gz', 'w:gz') as archive:
        archive.add(tmp_path / 'plain', 'own')
    assert contents(load_csv(tmp_path / 'packed')) == CSV_TABLES


def test_interactions_alone_are_enough(tmp_path):
    (tmp_path / 'interactions.csv').write_bytes(b'user_id,item_id\na,x\nb,x\n')
    dataset = catalog.load('csv', tmp_path, rating='', timestamp='')
    assert dataset.interactions.num_rows == 2 and dataset.items['title'].to_pylist() == [None]


def test_a_stream_to_disk_gives_the_same(tmp_path):
    dataset = load_csv(publish(tmp_path / 'own'), out=tmp_path / 'out')
    assert contents(dataset) == CSV_TABLES
    again = catalog.load('csv', tmp_path / 'out', **CSV_OPTIONS)
    assert contents(again) == CSV_TABLES and again.recipe['user_id'] == 'reviewer'
    with pytest.raises(UserError, match='was prepared with user_id=reviewer, not user'):
        catalog.load('csv', tmp_path / 'out', user_id='user')


ROW = b'ann,5,b1,2015-01-31,x,y\n'
HEAD = b'reviewer,stars,book,when,"what, in words",why\n'


@pytest.mark.parametrize('changes, options, message', [
    ({}, dict(user_id='reviewr'),
     'interactions.csv: has no column "reviewr". Did you mean "reviewer"? It has reviewer, '
     'stars, book, when, what, in words, why. Name the columns in the options'),
    ({}, dict(rating='rating'), 'interactions.csv: has no column "rating". Known: '),
    ({}, dict(title='name'), 'books.csv: has no column "name".'),
    ({}, dict(profile='income'), 'people.csv: has no column "income".'),
    ({}, dict(items_file='movies.csv'), 'holds no movies.csv; put it there, or name another by the options'),
    ({}, dict(interactions_file='/tmp/x.csv'), '"/tmp/x.csv": should be the name of a file in'),
    ({}, dict(interactions_file=''), "interactions_file='': should be the name of a file"),
    ({}, dict(delimiter=';'), 'interactions.csv: has no column'),
    (dict(interactions=HEAD.replace(b'why', b'book') + ROW), dict(aspects=''),
     'interactions.csv: has 2 columns "book"'),
    (dict(interactions=HEAD + ROW + b'bob,five,b1,,,\n'), {},
     'interactions.csv, line 3, column stars: "five" should be a number'),
    (dict(interactions=HEAD + ROW + b'bob,6,b1,,,\n'), {},
     'interactions.csv, line 3, column stars: "6" should be a number from 1 to 5'),
    (dict(interactions=HEAD + b'bob,5,b1,,"a\n\nb",\n,5,b1,,,\n'), {},
     'interactions.csv, line 5, column reviewer: "" should not be empty'),
    (dict(interactions=HEAD + ROW + b'bob,5,b1,noon,,\n'), {},
     'interactions.csv, line 3, column when: "noon" should be a time'),
    (dict(interactions=HEAD + ROW + b'bob,5,b1\n'), {}, 'interactions.csv, line 3: has 3 fields, should have 6'),
    (dict(interactions=HEAD + ROW + b'bob,5,b1,,"x,\n'), {},
     'interactions.csv, line 3: a field begins with a quote, and does not'),
    (dict(interactions=HEAD + ROW + 'bob,5,b1,,é,\n'.encode('latin-1')), {},
     'interactions.csv, line 3: byte 0xe9 is not UTF-8'),
    (dict(interactions=(HEAD + ROW).decode().encode('utf-16')), {}, 'interactions.csv, line 1: holds a zero byte'),
    (dict(interactions=b''), {}, 'interactions.csv: is empty'),
    (dict(interactions=HEAD), {}, 'interactions.csv: has no rows'),
    (dict(books=CSV['books.csv'] + b'b1,Again,,,\n'), {},
     'books.csv, line 5, column id: "b1" stands already in line 2'),
    (dict(people=CSV['people.csv'] + b',1,Oslo\n'), {}, 'people.csv, line 4, column reviewer: "" should not be empty'),
], ids=lambda x: x[:40] if isinstance(x, str) else None)
def test_each_fault_is_told_by_file_line_and_column(tmp_path, changes, options, message):
    with pytest.raises(UserError) as error:
        load_csv(publish(tmp_path, **changes), **options)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_bad_rows_are_counted_by_file(tmp_path):
    dataset = load_csv(publish(
        tmp_path, interactions=CSV['interactions.csv'] + b'dan,9,b1,,,\ndan,1,b1\ndan,1,b1,,"x\ndan,2,b9,,,\n',
        books=CSV['books.csv'] + b'b1,Again,,,\n'), on_bad_row='skip')
    assert dataset.recipe['rows_skipped'] == {'interactions.csv': 3, 'books.csv': 1}
    assert contents(dataset)['interactions'] == CSV_TABLES['interactions'] + [
        dict(user_id='dan', item_id='b9', rating=2.0, timestamp=None, review=None, aspects=None)]


def test_a_truncated_gz_is_refused(tmp_path):
    publish(tmp_path)
    data = gzip.compress((tmp_path / 'interactions.csv').read_bytes())
    (tmp_path / 'interactions.csv').unlink()
    (tmp_path / 'interactions.csv.gz').write_bytes(data[:-9])
    with pytest.raises(UserError, match='interactions.csv.gz, line 1: cannot be decompressed .* truncated'):
        load_csv(tmp_path)


def test_damaged_csv_is_refused_or_damaged_in_place(tmp_path):
    mutations.check_mutations(load_csv, CSV, tmp_path)


# ------------------------------------------------------------------------------------ JSON lines


def as_lines(rows) -> bytes:
    return b''.join(json.dumps(row).encode() + b'\n' for row in rows)


def load_jsonl(folder: pathlib.Path) -> tables.Dataset:
    return catalog.load('jsonl', folder, **one_file('own.jsonl'), **NESTED_OPTIONS)


def test_jsonl_gives_the_tables_by_hand(tmp_path):
    (tmp_path / 'own.jsonl.gz').write_bytes(gzip.compress(as_lines(HISTORIES)))
    assert contents(load_jsonl(tmp_path)) == NESTED_TABLES


def test_jsonl_of_several_files(tmp_path):
    (tmp_path / 'interactions.jsonl').write_bytes(as_lines([dict(user_id=1, item_id='x', rating=3, timestamp=5)]))
    (tmp_path / 'items.jsonl').write_bytes(as_lines([dict(asin='x', title='X', tags='a|b'),
                                                     dict(asin='y', title='Y', tags=None)]))
    dataset = catalog.load('jsonl', tmp_path, items_file='items.jsonl', items_item_id='asin', attributes='tags')
    assert contents(dataset)['items'] == [dict(item_id='x', title='X', attributes=['a', 'b'], details=[]),
                                          dict(item_id='y', title='Y', attributes=[], details=[])]


def test_damaged_jsonl_is_refused_or_damaged_in_place(tmp_path):
    mutations.check_mutations(load_jsonl, {'own.jsonl': as_lines(HISTORIES)}, tmp_path)


# --------------------------------------------------------------------------------------- parquet


def test_parquet_gives_the_tables_by_hand(tmp_path):
    pa.parquet.write_table(pa.Table.from_pylist(HISTORIES), tmp_path / 'own.parquet', row_group_size=2)
    dataset = catalog.load('parquet', tmp_path, **one_file('own.parquet'), **NESTED_OPTIONS)
    assert contents(dataset) == NESTED_TABLES


def test_parquet_of_the_types_that_dataframes_have(tmp_path):
    rows = pa.table({'user_id': pa.array(['a', 'b']).dictionary_encode(), 'item_id': pa.array([1, 2], pa.uint32()),
                     'rating': pa.array([4, None], pa.int8()),
                     'timestamp': pa.array([10**18, None], pa.timestamp('ns'))})
    pa.parquet.write_table(rows, tmp_path / 'interactions.parquet')
    pa.parquet.write_table(pa.table({'item_id': [1, 2], 'title': ['One', 'Two']}), tmp_path / 'items.parquet')
    dataset = catalog.load('parquet', tmp_path, items_file='items.parquet')
    assert dataset.interactions.select(['item_id', 'rating', 'timestamp']).to_pylist() == [
        dict(item_id='1', rating=4.0, timestamp=10**9), dict(item_id='2', rating=None, timestamp=None)]
    assert dataset.items['title'].to_pylist() == ['One', 'Two']


def test_damaged_parquet_is_refused_or_damaged_in_place(tmp_path):
    sink = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(HISTORIES), sink)
    mutations.check_mutations(lambda folder: catalog.load('parquet', folder, **one_file('own.parquet'),
                                                          **NESTED_OPTIONS),
                              {'own.parquet': sink.getvalue()}, tmp_path)


# ---------------------------------------------------------------------------------- Hugging Face


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The library with its cache in a folder that goes, and no network."""
    library = pytest.importorskip('datasets')
    monkeypatch.setattr(library.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    library.disable_progress_bars()
    return library


def splits(library):
    return library.DatasetDict({
        'train': library.Dataset.from_list(HISTORIES[:2]), 'rest': library.Dataset.from_list(HISTORIES[2:]).cast(
            library.Dataset.from_list(HISTORIES[:2]).features)})


SPLITS = dict(interactions_split='train+rest', items_split='train+rest', users_split='train+rest')


def test_a_saved_dataset_gives_the_tables_by_hand(hub, tmp_path):
    splits(hub).save_to_disk(tmp_path / 'saved')
    assert contents(catalog.load('huggingface', tmp_path / 'saved', **SPLITS, **NESTED_OPTIONS)) == NESTED_TABLES
    by_path = catalog.load('huggingface', path=str(tmp_path / 'saved'), **SPLITS, **NESTED_OPTIONS)
    assert contents(by_path) == NESTED_TABLES


def test_a_saved_dataset_of_one_table_is_its_train_split(hub, tmp_path):
    hub.Dataset.from_list(HISTORIES).save_to_disk(tmp_path / 'saved')
    one = dict.fromkeys(SPLITS, 'train')
    assert contents(catalog.load('huggingface', tmp_path / 'saved', **one, **NESTED_OPTIONS)) == NESTED_TABLES


def test_a_folder_of_data_files_is_read_as_on_the_hub(hub, tmp_path):
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / 'train-00000-of-00002.jsonl').write_bytes(as_lines(HISTORIES[:2]))
    (tmp_path / 'own' / 'train-00001-of-00002.jsonl').write_bytes(as_lines(HISTORIES[2:]))
    one = dict.fromkeys(SPLITS, 'train')
    assert contents(catalog.load('huggingface', tmp_path / 'own', **one, **NESTED_OPTIONS)) == NESTED_TABLES


def test_a_name_on_the_hub_goes_to_the_library_as_it_stands(hub, monkeypatch):
    calls = []

    def load_dataset(path, subset, *, split, revision):
        calls.append((path, subset, split, revision))
        return hub.Dataset.from_list(HISTORIES[:2] if subset == 'meta' else HISTORIES)

    monkeypatch.setattr(hub, 'load_dataset', load_dataset)
    dataset = catalog.load('huggingface', path='owner/name', revision='v2', interactions_split='reviews:train[:9]',
                           items_split='meta:full', **NESTED_OPTIONS | dict(profile=''))
    assert calls == [('owner/name', 'reviews', 'train[:9]', 'v2'), ('owner/name', 'meta', 'full', 'v2')]
    assert contents(dataset)['interactions'] == NESTED_TABLES['interactions']


@pytest.mark.parametrize('options, message', [
    (dict(path=''), 'path: should be OWNER/NAME on the Hugging Face hub, or a folder'),
    (dict(path='./nowhere'), './nowhere: no such folder'),
    (dict(path='owner/name'),
     "owner/name, train: Hugging Face datasets cannot load it (ConnectionError: no network in tests)"),
    (dict(path='SAVED', interactions_split='trian'), 'has no split "trian". Did you mean "train"?'),
    (dict(path='SAVED', interactions_split='a:train'), 'was written by save_to_disk and has splits only'),
    (dict(path='SAVED', user_id='user'), 'saved, train: has no column "user". Did you mean "user.id"?'),
])
def test_what_the_library_cannot_load(hub, tmp_path, monkeypatch, options, message):
    def load_dataset(*args, **options):
        raise ConnectionError('no network\nin tests')

    monkeypatch.setattr(hub, 'load_dataset', load_dataset)
    splits(hub).save_to_disk(tmp_path / 'saved')
    options = {key: value.replace('SAVED', str(tmp_path / 'saved')) for key, value in options.items()}
    with pytest.raises(UserError) as error:
        catalog.load('huggingface', **NESTED_OPTIONS | dict(title='', attributes='', details='', profile='') | options)
    assert message in str(error.value)


def test_a_data_dir_and_a_path_are_one_too_many(tmp_path):
    with pytest.raises(UserError, match='data_dir=.* and path=owner/name: both say where the data are'):
        catalog.load('huggingface', tmp_path, path='owner/name')


def test_a_prepared_folder_needs_no_path(hub, tmp_path):
    splits(hub).save_to_disk(tmp_path / 'saved')
    catalog.load('huggingface', tmp_path / 'saved', out=tmp_path / 'out', **SPLITS, **NESTED_OPTIONS)
    options = catalog.entry('huggingface').options | SPLITS | NESTED_OPTIONS  # all of them, as a config gives them
    assert contents(catalog.load('huggingface', tmp_path / 'out', **options)) == NESTED_TABLES


def test_the_library_is_imported_only_where_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)  # an import fails
    assert not hasattr(readers.hub, 'datasets') and contents(load_csv(publish(tmp_path))) == CSV_TABLES
    with pytest.raises(UserError, match='cannot load it .ModuleNotFoundError: import of datasets halted'):
        catalog.load('huggingface', path='owner/name')


# ------------------------------------------------------------------------------------ real files

AMAZON_2023 = dict(
    explode='history', item_id='parent_asin', timestamp='timestamp_ms', timestamp_unit='ms', review='review_full',
    title='product.title', attributes='product.main_category', details='product.brand,product.price',
    noun='product', nouns='products', consume='buy', consumed='bought')
XREC = dict(user_id='uid', item_id='iid', rating='', timestamp='', review='explanation', details='item_summary',
            profile='user_summary')


def real(*parts: str) -> pathlib.Path:
    folder = REAL.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    return folder


def counts(dataset: tables.Dataset) -> tuple[int, int, int]:
    return dataset.users.num_rows, dataset.items.num_rows, dataset.interactions.num_rows


def test_the_amazon_2023_sample():
    """Each of its 691 lines has four reviews; some users have lines in several categories."""
    folder = real('amazon-2023-sample')
    found = {name: catalog.load('jsonl', folder, interactions_file=f'{name}.jsonl', items_file=f'{name}.jsonl',
                                **AMAZON_2023)
             for name in ('training', 'validation', 'test')}
    assert {name: counts(dataset) for name, dataset in found.items()} == {
        'training': (316, 2271, 2392), 'validation': (46, 276, 280), 'test': (11, 92, 92)}
    lines = [json.loads(line) for line in (folder / 'training.jsonl').read_text().splitlines()]
    wanted = [(line['user_id'], one['parent_asin'], one['rating'], one['timestamp_ms'] // 1000,
               one['review_full'] if one['review_full'].strip() else None)
              for line in lines for one in line['history']]
    rows = found['training'].interactions
    assert wanted == [tuple(row.values())[:5] for row in rows.to_pylist()]


@pytest.mark.parametrize('name, wanted',
                         [('amazon', (1830, 2545, 3000)), ('google', (2479, 2531, 3000)), ('yelp', (2228, 2473, 3000))])
def test_the_xrec_explanations(name, wanted):
    dataset = catalog.load('jsonl', real('xrec', name), **one_file('tst.jsonl'), **XREC)
    assert counts(dataset) == wanted
    assert dataset.interactions['review'].null_count == 0 and dataset.items['title'].null_count == 0
    assert all('user_summary' in dict(row['profile']) for row in dataset.users.to_pylist())


@pytest.mark.parametrize('name, file, wanted, options', [
    ('google', 'total_trn.csv', (22582, 16557, 329_472), {}), ('yelp', 'total.csv', (15962, 14085, 393_680), {}),
    ('amazon', 'total_tst.csv', (12383, 12640, 36_084), dict(timestamp='Time', timestamp_unit='%m %d, %Y'))])
def test_the_xrec_interactions(name, file, wanted, options):
    dataset = catalog.load('csv', real('xrec', name), interactions_file=file, user_id='user', item_id='item', rating='',
                           **{'timestamp': ''} | options)
    assert counts(dataset) == wanted
    if options:
        assert dataset.interactions['timestamp'][0].as_py() == 1_420_588_800  # "01 7, 2015"
