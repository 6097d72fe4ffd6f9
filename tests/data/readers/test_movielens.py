"""MovieLens from small folders in the publisher's formats, and from the real ones if present."""

import collections
import gzip
import itertools
import pathlib
import zipfile

import numpy as np
import pytest

from tests.data.readers.mutations import check_mutations
from xrec_jax.data import card, catalog, raw, tables
from xrec_jax.data.readers import movielens
from xrec_jax.errors import UserError

SHARED = pathlib.Path(__file__).parents[4] / 'shared' / 'data'
REAL = SHARED / 'ml-100k'
REAL_1M = SHARED / 'ml-1m-users-1-2999'


def flags(*genres: str) -> str:
    return '|'.join('1' if genre in genres else '0' for genre in movielens.ML_100K_GENRES)


FILES = {
    'u.data': '1\t2\t5\t881250949\n2\t1\t3\t891717742\n1\t3\t1\t878887116\n',
    'u.user': '1|24|M|technician|85711\n2|53|F|other|94043\n',
    'u.item': (
        f'1|Toy Story (1995)|01-Jan-1995||http://x|{flags("animation", "comedy")}\n'
        f'2|Misérables, Les (1995) |01-Jan-1995||http://x|{flags("drama", "musical", "war")}\n'
        f'3|unknown||||{flags("unknown")}\n'),
}
FILES_1M = {
    'ratings.dat': '1::1193::5::978300760\n2::73::3::978298413\n1::73::4::978302109\n',
    'users.dat': '1::F::1::10::48067\n2::M::56::16::98107-2117\n3::M::25::0::55117\n',
    'movies.dat': (
        "73::Misérables, Les (1995)::Drama|Musical\n"
        '582::Metisse (Café au Lait) (1993)::Comedy\n'
        "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n"),
}
FILES_20M = {
    'ratings.csv': (
        'userId,movieId,rating,timestamp\r\n7,11,3.5,1112486027\r\n7,2,0.5,1112484676\r\n4,11,5.0,1112484819\r\n'
        '4,8,4.0,825724805\r\n'),
    'movies.csv': (
        'movieId,title,genres\r\n2,Jumanji (1995),Adventure|Children|Fantasy\r\n'
        '11,"American President, The (1995)",Comedy|Drama|Romance\r\n'
        '8,"""Great Performances"" Cats (1998)",(no genres listed)\r\n'
        '73,"Misérables, Les (1995) ",Drama|War\r\n'),
}


def encoded(files: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode('utf-8' if name.endswith('.csv') else 'latin-1') for name, text in files.items()}


def publish(folder: pathlib.Path, files: dict[str, str] = FILES, **changes: str | bytes) -> pathlib.Path:
    """Writes `files` as GroupLens does; `u_data=...` replaces the text of u.data."""
    folder.mkdir(exist_ok=True)
    for name, data in encoded(files).items():
        text = changes.get(name.replace('.', '_'), data)
        (folder / name).write_bytes(text if isinstance(text, bytes) else encoded({name: text})[name])
    return folder


def same_tables(one: tables.Dataset, other: tables.Dataset) -> bool:
    return all(getattr(one, name).equals(getattr(other, name)) for name in tables.SCHEMAS)


def ratings_of(dataset: tables.Dataset) -> list[tuple]:
    return [tuple(row.values())[:4] for row in dataset.interactions.to_pylist()]


def profiles_of(dataset: tables.Dataset) -> dict[str, dict]:
    return {row['user_id']: dict(row['profile']) for row in dataset.users.to_pylist()}


def titles_of(dataset: tables.Dataset) -> list[tuple]:
    return [(row['item_id'], row['title'], row['attributes']) for row in dataset.items.to_pylist()]


@pytest.fixture
def small_blocks(monkeypatch):
    """Files are read in blocks of about 64 bytes."""
    monkeypatch.setitem(raw.RawFile.blocks.__kwdefaults__, 'size', 64)


# --------------------------------------------------------------------------------------- ml-100k


def test_small_folder_gives_the_tables_by_hand(tmp_path):
    dataset = tables.validate(catalog.load('ml-100k', publish(tmp_path / 'x'), whole=False))
    assert dataset.name == 'ml-100k' and dataset.domain.items == 'movies'
    assert ratings_of(dataset) == [
        ('1', '2', 5.0, 881250949), ('2', '1', 3.0, 891717742), ('1', '3', 1.0, 878887116)]
    assert dataset.interactions['review'].null_count == dataset.interactions['aspects'].null_count == 3
    assert dataset.items.to_pylist() == [
        {'item_id': '1', 'title': 'Toy Story (1995)', 'attributes': ['animation', 'comedy'], 'details': []},
        {'item_id': '2', 'title': 'Misérables, Les (1995)', 'attributes': ['drama', 'musical', 'war'], 'details': []},
        {'item_id': '3', 'title': 'unknown', 'attributes': [], 'details': []}]
    assert profiles_of(dataset) == {
        '1': {'age': '24', 'gender': 'male', 'occupation': 'technician', 'zip': '85711'},
        '2': {'age': '53', 'gender': 'female', 'occupation': 'other', 'zip': '94043'}}
    assert dataset.rating_scale == (1.0, 5.0)


@pytest.mark.parametrize('name, files, folder', [
    ('ml-100k', FILES, 'ml-100k'), ('ml-1m', FILES_1M, 'ml-1m'), ('ml-20m', FILES_20M, 'ml-20m'),
    ('ml-latest', FILES_20M, 'ml-latest-small')])
def test_archive_and_gzipped_files_give_the_same_tables_as_the_folder(tmp_path, monkeypatch, name, files, folder):
    options = {} if name == 'ml-latest' else dict(whole=False)
    for kind in ('packed', 'gzipped'):
        (tmp_path / kind).mkdir()
    with zipfile.ZipFile(tmp_path / 'packed' / 'any.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        for file, data in encoded(files).items():
            archive.writestr(f'{folder}/{file}', data)
            (tmp_path / 'gzipped' / f'{file}.gz').write_bytes(gzip.compress(data))
    plain = catalog.load(name, publish(tmp_path / 'plain', files), **options)
    assert plain.name == name and plain.interactions.num_rows == (4 if files is FILES_20M else 3)
    assert same_tables(catalog.load(name, tmp_path / 'packed', **options), plain)
    assert same_tables(catalog.load(name, tmp_path / 'gzipped', **options), plain)


LINE = '1\t2\t5\t881250949\n'


@pytest.mark.parametrize('changes, message', [
    (dict(u_data=LINE + '2\t1\t6\t1\n'),
     'u.data, line 2, column rating: "6" should be an integer from 1 to 5'),
    (dict(u_data=LINE + '2\t1\t4.5\t1\n'), 'u.data, line 2, column rating: "4.5"'),
    (dict(u_data=LINE + '2\t1\t4\n'), 'u.data, line 2: has 3 fields, should have 4'),
    (dict(u_data=LINE + '\n'), 'u.data, line 2'),
    (dict(u_data=LINE + '2\t1\t4\t-7\n'), 'column timestamp: "-7" should be an integer of at least 0'),
    (dict(u_data=LINE + '2\t1\t4\tnoon\n'), 'u.data, line 2, column timestamp: "noon"'),
    (dict(u_data=LINE + '9\t1\t4\t1\n'), 'u.data, line 2, column user_id: "9" is not listed in'),
    (dict(u_data=LINE + '2\t9\t4\t1\n'), 'u.data, line 2, column item_id: "9" is not listed in'),
    (dict(u_data=LINE + LINE), 'line 2, column item_id: "2" stands already in line 1 with the same user_id'),
    (dict(u_data=LINE + '2\t1\t4'), 'u.data, line 2: is cut off'),
    (dict(u_data=LINE + '2\t1\r\t4\t1\n'), 'u.data, line 2: a carriage return stands inside the line'),
    (dict(u_data=''), 'u.data: is empty'),
    (dict(u_data=LINE.replace('\t', '::')), 'u.data, line 1: has 1 fields, should have 4'),
    (dict(u_data=LINE.encode('utf-16')), 'u.data, line 1: binary or UTF-16'),
    (dict(u_user='1|24|X|other|1\n2|53|F|other|1\n'),
     'u.user, line 1, column gender: "X" should be one of M, F'),
    (dict(u_user='1|240|M|other|1\n2|53|F|other|1\n'), 'u.user, line 1, column age: "240"'),
    (dict(u_user='1|24|M|other|1\n1|53|F|other|1\n'), 'line 2, column user_id: "1" stands already in line 1'),
    (dict(u_user='1|24|M|other|1\n2|53|F||1\n'), 'line 2, column occupation: "" should not be empty'),
    (dict(u_item=FILES['u.item'].encode('utf-8')), 'u.item, line 2: UTF-8 where'),
    (dict(u_item=FILES['u.item'].replace('|unknown||||1', '|unknown||||2')),
     'u.item, line 3, column unknown: "2" should be one of 0, 1'),
    (dict(u_item=FILES['u.item'].replace('|Toy Story (1995)|', '||')), 'u.item, line 1, column title'),
], ids=lambda x: None if isinstance(x, dict) else x[:30])
def test_each_fault_is_told_by_file_line_and_column(tmp_path, changes, message):
    folder = publish(tmp_path / 'x', **changes)
    with pytest.raises(UserError) as error:
        catalog.load('ml-100k', folder, whole=False)
    assert message in str(error.value) and str(folder) in str(error.value)


def test_a_bad_line_far_into_the_file_keeps_its_number(tmp_path, small_blocks):
    lines = [f'{1 + n % 2}\t{1 + n % 3}\t3\t{881250949 + n}\n' for n in range(6)]
    assert len(''.join(lines[:5])) > 64
    lines[5] = '1\t2\t3\n'
    with pytest.raises(UserError, match='u.data, line 6: has 3 fields'):
        catalog.load('ml-100k', publish(tmp_path / 'x', u_data=''.join(lines)), whole=False)


def test_small_blocks_give_the_same_tables(tmp_path, request):
    whole = catalog.load('ml-100k', publish(tmp_path / 'x'), whole=False)
    request.getfixturevalue('small_blocks')
    assert same_tables(catalog.load('ml-100k', tmp_path / 'x', whole=False), whole)


def test_bad_rows_may_be_passed_over_and_are_counted(tmp_path):
    folder = publish(tmp_path / 'x', u_data=FILES['u.data'] + '1\t1\n2\t2\tmany\t5\n9\t1\t3\t5\n' + LINE,
                     u_user=FILES['u.user'] + '3|24|?|other|1\n')
    dataset = catalog.load('ml-100k', folder, whole=False, on_bad_row='skip')
    assert same_tables(dataset, catalog.load('ml-100k', publish(tmp_path / 'sound'), whole=False))
    assert dataset.recipe['rows_skipped'] == {'u.data': 4, 'u.user': 1}
    assert ('bad rows', '4 of u.data passed over') in card.card(dataset)


# the files of each data set with the lengths that it publishes
PUBLISHED = [('ml-100k', FILES, movielens.ML_100K_LINES), ('ml-1m', FILES_1M, movielens.ML_1M_LINES),
             ('ml-20m', FILES_20M, movielens.ML_20M_LINES)]


@pytest.mark.parametrize('name, files, published, file', [
    (name, files, published, file) for name, files, published in PUBLISHED for file in files])
def test_a_file_cut_at_a_line_end_is_called_truncated(tmp_path, monkeypatch, name, files, published, file):
    for other, text in files.items():
        rows = text.count('\n') - other.endswith('.csv')
        assert published[other] > rows
        monkeypatch.setitem(published, other, rows)
    assert same_tables(catalog.load(name, publish(tmp_path, files)), catalog.load(name, tmp_path, whole=False))

    rows = published[file]
    monkeypatch.setitem(published, file, rows + 1_000)
    with pytest.raises(UserError, match=f'{file}: has {rows} lines where .* {rows + 1000:,}: it is truncated; get it'):
        catalog.load(name, tmp_path)
    monkeypatch.setitem(published, file, rows - 1)
    with pytest.raises(UserError, match=f'{file}: has {rows} lines where .* {rows - 1}: it is not the published one'):
        catalog.load(name, tmp_path)


def test_the_published_lengths_are_those_of_the_publishers_pages():
    assert movielens.ML_100K_LINES == {'u.data': 100_000, 'u.user': 943, 'u.item': 1_682}
    assert movielens.ML_1M_LINES == {'ratings.dat': 1_000_209, 'users.dat': 6_040, 'movies.dat': 3_883}
    assert movielens.ML_20M_LINES == {'ratings.csv': 20_000_263, 'movies.csv': 27_278}


def test_a_missing_file_is_named(tmp_path):
    folder = publish(tmp_path / 'x')
    (folder / 'u.user').unlink()
    with pytest.raises(UserError, match='u.user: no such file'):
        catalog.load('ml-100k', folder, whole=False)


@pytest.mark.parametrize('name, files', [('ml-100k', FILES), ('ml-1m', FILES_1M), ('ml-20m', FILES_20M)])
def test_a_gzipped_file_that_is_cut_off_is_named(tmp_path, name, files):
    folder = publish(tmp_path / 'x', files)
    for file, data in encoded(files).items():
        (folder / file).unlink()
        (folder / f'{file}.gz').write_bytes(gzip.compress(data)[:-9])
        with pytest.raises(UserError, match=f'{file}.gz.*cannot be decompressed.*truncated or damaged'):
            catalog.load(name, folder, whole=False)
        (folder / f'{file}.gz').write_bytes(gzip.compress(data))


def test_the_published_files_have_the_published_figures():
    if not REAL.is_dir():
        pytest.skip(f'{REAL} is not there (MovieLens may not be passed on)')
    dataset = tables.validate(catalog.load('ml-100k', REAL))
    assert (dataset.interactions.num_rows, dataset.users.num_rows, dataset.items.num_rows) == (
        100_000, 943, 1_682)
    shown = dict(card.card(dataset))  # Table 1 of LLMXRec
    assert (shown['users'], shown['items'], shown['interactions']) == ('943', '1,682', '100,000')
    assert shown['per user'].startswith('106.04 ') and shown['per item'].startswith('59.45 ')
    rating = dataset.interactions['rating'].to_numpy()
    assert np.mean(rating >= 4) == pytest.approx(0.55375, abs=1e-9)
    assert np.mean(rating == 5) == pytest.approx(0.212, abs=5e-4)
    assert all(a or not a and title for title, a in zip(
        dataset.items['title'].to_pylist(), dataset.items['attributes'].to_pylist()))
    assert sum(not a for a in dataset.items['attributes'].to_pylist()) == 2  # genre "unknown" alone


# ----------------------------------------------------------------------------------------- ml-1m


def load_1m(folder: pathlib.Path, **options) -> tables.Dataset:
    return catalog.load('ml-1m', folder, whole=False, **options)


def test_ml_1m_gives_the_tables_by_hand(tmp_path):
    dataset = tables.validate(load_1m(publish(tmp_path, FILES_1M)))
    assert dataset.name == 'ml-1m' and dataset.rating_scale == (1.0, 5.0) and dataset.domain.consumed == 'watched'
    assert ratings_of(dataset) == [
        ('1', '1193', 5.0, 978300760), ('2', '73', 3.0, 978298413), ('1', '73', 4.0, 978302109)]
    assert profiles_of(dataset) == {
        '1': {'age': 'Under 18', 'gender': 'female', 'occupation': 'K-12 student', 'zip': '48067'},
        '2': {'age': '56+', 'gender': 'male', 'occupation': 'self-employed', 'zip': '98107-2117'},
        '3': {'age': '25-34', 'gender': 'male', 'occupation': 'other or not specified', 'zip': '55117'}}
    assert titles_of(dataset) == [
        ('73', 'Misérables, Les (1995)', ['drama', 'musical']),
        ('582', 'Metisse (Café au Lait) (1993)', ['comedy']),
        ('1193', "One Flew Over the Cuckoo's Nest (1975)", ['drama'])]


def test_codes_of_age_and_occupation_have_the_words_of_the_readme(tmp_path):
    ages = {1: 'Under 18', 18: '18-24', 25: '25-34', 35: '35-44', 45: '45-49', 50: '50-55', 56: '56+'}
    jobs = {0: 'other or not specified', 1: 'academic/educator', 4: 'college/grad student', 10: 'K-12 student',
            12: 'programmer', 17: 'technician/engineer', 19: 'unemployed', 20: 'writer'}
    users = list(itertools.product(ages, jobs))
    text = ''.join(f'{n}::M::{age}::{job}::1\n' for n, (age, job) in enumerate(users, 1))
    profiles = profiles_of(load_1m(publish(tmp_path, FILES_1M, users_dat=text)))
    assert [(p['age'], p['occupation']) for p in profiles.values()] == [(ages[age], jobs[job]) for age, job in users]


@pytest.mark.parametrize('changes, message', [
    (dict(ratings_dat='1::73::0::5\n'), 'ratings.dat, line 1, column rating: "0" should be an integer from 1 to 5'),
    (dict(ratings_dat='1::73::5\n'),
     "ratings.dat, line 1: has 3 fields, should have 4 (user_id, item_id, rating, timestamp), separated by '::': '1"),
    (dict(ratings_dat='1::73::5::7::8\n'), 'ratings.dat, line 1: has 5 fields'),
    (dict(ratings_dat='1:73::5::7\n'), 'ratings.dat, line 1: has 3 fields'),
    (dict(ratings_dat='1::73:::5::7\n'), 'ratings.dat, line 1, column rating: ":5"'),
    (dict(ratings_dat='1::73::5::7\n1::\x1f::5::7\n'), 'ratings.dat, line 2: holds the control character 0x1f'),
    (dict(ratings_dat='4::73::5::7\n'), 'ratings.dat, line 1, column user_id: "4" is not listed in'),
    (dict(ratings_dat='1::74::5::7\n'), 'ratings.dat, line 1, column item_id: "74" is not listed in'),
    (dict(ratings_dat='1::73::5::7\n1::73::4::8\n'),
     'ratings.dat, line 2, column item_id: "73" stands already in line 1'),
    (dict(ratings_dat=FILES_1M['ratings.dat'][:-1]), 'ratings.dat, line 3: is cut off'),
    (dict(users_dat='1::F::2::10::48067\n'), 'users.dat, line 1, column age: "2" should be one of 1, 18, 25'),
    (dict(users_dat='1::F::1::21::48067\n'), 'users.dat, line 1, column occupation: "21" should be one of 0, 1'),
    (dict(users_dat='1::f::1::2::48067\n'), 'users.dat, line 1, column gender: "f" should be one of M, F'),
    (dict(users_dat='1::F::1::2::\n'), 'users.dat, line 1, column zip: "" should not be empty'),
    (dict(users_dat='1::F::1::2::1\n1::F::1::2::1\n'),
     'users.dat, line 2, column user_id: "1" stands already in line 1'),
    (dict(movies_dat='73::x::Drama\n1193::y::Drama|Musicle\n'),
     'movies.dat, line 2, column genres: "Drama|Musicle" should be genres'),
    (dict(movies_dat='73::x::Drama\n1193::y::\n'), 'movies.dat, line 2, column genres: "" should be genres'),
    (dict(movies_dat='73::x::Drama\n73::y::Drama\n'),
     'movies.dat, line 2, column item_id: "73" stands already in line 1'),
    (dict(movies_dat='73:: ::Drama\n'), 'movies.dat, line 1, column title: " " should not be empty'),
    (dict(movies_dat=FILES_1M['movies.dat'].encode('utf-8')), 'movies.dat, line 1: UTF-8 where'),
], ids=lambda x: None if isinstance(x, dict) else x[:40])
def test_ml_1m_faults_are_told_by_file_line_and_column(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        load_1m(publish(tmp_path, FILES_1M, **changes))
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_ml_1m_passes_over_bad_rows_when_told(tmp_path):
    folder = publish(tmp_path / 'x', FILES_1M, ratings_dat='1::2\n' + FILES_1M['ratings.dat'] + '3::73::7::1\n',
                     movies_dat=FILES_1M['movies.dat'] + '9::Odd::Tragedy\n')
    dataset = load_1m(folder, on_bad_row='skip')
    assert same_tables(dataset, load_1m(publish(tmp_path / 'sound', FILES_1M)))
    assert dataset.recipe['rows_skipped'] == {'ratings.dat': 2, 'movies.dat': 1}


def test_a_real_slice_of_ml_1m_equals_a_loop_over_its_lines():
    if not REAL_1M.is_dir():
        pytest.skip(f'{REAL_1M} is not there (MovieLens may not be passed on)')
    with pytest.raises(UserError, match='ratings.dat: has 487,650 lines where .* 1,000,209: it is truncated'):
        catalog.load('ml-1m', REAL_1M)
    dataset = tables.validate(load_1m(REAL_1M))
    assert (dataset.interactions.num_rows, dataset.users.num_rows, dataset.items.num_rows) == (487_650, 6_040, 3_883)
    rows = [line.split('::') for line in (REAL_1M / 'ratings.dat').read_text().splitlines()]
    user, item, rating, time = zip(*rows)
    assert dataset.interactions['user_id'].to_pylist() == list(user)
    assert dataset.interactions['item_id'].to_pylist() == list(item)
    assert dataset.interactions['rating'].to_pylist() == [float(r) for r in rating]
    assert dataset.interactions['timestamp'].to_pylist() == [int(t) for t in time]
    movies = [line.split('::') for line in (REAL_1M / 'movies.dat').read_text('latin-1').split('\n')[:-1]]
    assert titles_of(dataset) == [(i, title, genres.lower().split('|')) for i, title, genres in movies]
    ages = collections.Counter(line.split('::')[2] for line in (REAL_1M / 'users.dat').read_text().splitlines())
    assert collections.Counter(p['age'] for p in profiles_of(dataset).values()) == {
        movielens.ML_1M_AGES[code]: count for code, count in ages.items()}


# --------------------------------------------------------------------------- ml-20m and ml-latest


def load_20m(folder: pathlib.Path, **options) -> tables.Dataset:
    return catalog.load('ml-20m', folder, whole=False, **options)


def test_ml_20m_gives_the_tables_by_hand(tmp_path):
    dataset = tables.validate(load_20m(publish(tmp_path, FILES_20M)))
    assert dataset.name == 'ml-20m' and dataset.rating_scale == (0.5, 5.0)
    assert ratings_of(dataset) == [
        ('7', '11', 3.5, 1112486027), ('7', '2', 0.5, 1112484676), ('4', '11', 5.0, 1112484819),
        ('4', '8', 4.0, 825724805)]
    assert profiles_of(dataset) == {'7': {}, '4': {}}  # in the order of their first ratings
    assert titles_of(dataset) == [
        ('2', 'Jumanji (1995)', ['adventure', 'children', 'fantasy']),
        ('11', 'American President, The (1995)', ['comedy', 'drama', 'romance']),
        ('8', '"Great Performances" Cats (1998)', []),
        ('73', 'Misérables, Les (1995)', ['drama', 'war'])]


@pytest.mark.parametrize('name, options', [('ml-20m', dict(whole=False)), ('ml-latest', {})])
def test_csv_lines_may_end_in_lf_or_crlf_and_the_release_is_named(tmp_path, small_blocks, name, options):
    bare = {file: text.replace('\r\n', '\n') for file, text in FILES_20M.items()}
    assert bare != FILES_20M
    found = catalog.load(name, publish(tmp_path / 'bare', bare), **options)
    assert found.name == name
    assert same_tables(found, load_20m(publish(tmp_path / 'published', FILES_20M)))


def test_every_half_star_is_read(tmp_path):
    stars = [n / 2 for n in range(1, 11)]
    text = 'userId,movieId,rating,timestamp\r\n' + ''.join(f'{n},2,{star},9\r\n' for n, star in enumerate(stars, 1))
    assert load_20m(publish(tmp_path, FILES_20M, ratings_csv=text)).interactions['rating'].to_pylist() == stars


HEAD, MOVIES = 'userId,movieId,rating,timestamp\r\n', 'movieId,title,genres\r\n'


@pytest.mark.parametrize('changes, message', [
    (dict(ratings_csv=HEAD + '7,11,3.7,5\r\n'), 'ratings.csv, line 2, column rating: "3.7" should be one of 0.5, 1.0'),
    (dict(ratings_csv=HEAD + '7,11,0,5\r\n'), 'ratings.csv, line 2, column rating: "0" should be one of'),
    (dict(ratings_csv=HEAD + '7,11,3.5\r\n'), 'ratings.csv, line 2: has 3 fields, should have 4'),
    (dict(ratings_csv=HEAD + '7,3.5,11,5\r\n'), 'ratings.csv, line 2, column movieId: "3.5" is not listed in'),
    (dict(ratings_csv=HEAD + '7,99,3.5,5\r\n'), 'ratings.csv, line 2, column movieId: "99" is not listed in'),
    (dict(ratings_csv=HEAD + 'x,11,3.5,5\r\n'),
     'ratings.csv, line 2, column userId: "x" should be an integer of at least 1'),
    (dict(ratings_csv=HEAD + '7,11,3.5,2009-01-01\r\n'), 'ratings.csv, line 2, column timestamp: "2009-01-01"'),
    (dict(ratings_csv=HEAD + '7,11,3.5,5\r\n7,11,3.5,6\r\n'),
     'ratings.csv, line 3, column item_id: "11" stands already in line 2 with the same user_id "7"'),
    (dict(ratings_csv=HEAD + '7,11,3.5,5'), 'ratings.csv, line 2: is cut off'),
    (dict(ratings_csv=HEAD), 'ratings.csv: has no rows'),
    (dict(ratings_csv='7,11,3.5,5\r\n'),
     'ratings.csv, line 1: the columns are 7, 11, 3.5, 5; should be userId, movieId'),
    (dict(movies_csv=MOVIES + '11,American President, The (1995),Drama\r\n'),
     'movies.csv, line 2: has 4 fields, should have 3'),
    (dict(movies_csv=MOVIES + '2,"Jumanji,Drama\r\n11,x,Drama\r\n8,x,Drama\r\n'),
     'movies.csv, line 2: a quote is opened and not closed'),
    (dict(movies_csv=MOVIES + '2,x,Drama\r\n8,x,Drama\r\n11,"x,Drama\r\n'),
     'movies.csv, line 4: a quote is opened and not closed'),
    (dict(movies_csv=MOVIES + '11,x,Drama||War\r\n'), 'movies.csv, line 2, column genres: "Drama||War"'),
    (dict(movies_csv=MOVIES + '11,x,\r\n'), 'movies.csv, line 2, column genres: ""'),
    (dict(movies_csv=MOVIES + '11,x,Drama\r\n11,y,Drama\r\n'),
     'movies.csv, line 3, column movieId: "11" stands already in line 2'),
    (dict(movies_csv=MOVIES + 'x,y,Drama\r\n'), 'movies.csv, line 2, column movieId: "x" should be an integer'),
    (dict(movies_csv=FILES_20M['movies.csv'].encode('latin-1')), 'movies.csv, line 5: byte 0xe9 where'),
], ids=lambda x: None if isinstance(x, dict) else x[:40])
def test_ml_20m_faults_are_told_by_file_line_and_column(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        load_20m(publish(tmp_path, FILES_20M, **changes))
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_ml_20m_passes_over_bad_rows_when_told(tmp_path):
    lines = FILES_20M['movies.csv'].splitlines(keepends=True)
    lines.insert(2, '5,"Open (1995),Drama\r\n')
    folder = publish(tmp_path / 'x', FILES_20M, movies_csv=''.join(lines),
                     ratings_csv=FILES_20M['ratings.csv'] + '7,8\r\n5,2,4.2,1\r\n5,5,4.0,1\r\n')
    dataset = load_20m(folder, on_bad_row='skip')
    assert same_tables(dataset, load_20m(publish(tmp_path / 'sound', FILES_20M)))
    assert dataset.recipe['rows_skipped'] == {'movies.csv': 1, 'ratings.csv': 3}


def test_ml_latest_takes_no_length_for_the_right_one(tmp_path):
    with pytest.raises(UserError, match='dataset "ml-latest" has no option "whole"'):
        catalog.load('ml-latest', publish(tmp_path, FILES_20M), whole=False)
    with pytest.raises(UserError, match='movies.csv: has 4 lines where the published file has 27,278'):
        catalog.load('ml-20m', tmp_path)


# ----------------------------------------------------------------------------------------- all


@pytest.mark.parametrize('name, files', [('ml-100k', FILES), ('ml-1m', FILES_1M), ('ml-20m', FILES_20M)])
def test_damage_is_told_or_stays_where_it_was_done(tmp_path, name, files):
    check_mutations(lambda folder: catalog.load(name, folder, whole=False), encoded(files), tmp_path)
