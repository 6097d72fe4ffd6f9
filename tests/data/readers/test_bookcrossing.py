"""BookCrossing from small files as BX-CSV-Dump.zip holds them, its broken rows included."""

import gzip
import pathlib
import zipfile

import pytest

from tests.data.readers.mutations import check_mutations
from xrec_jax.data import card, catalog, raw, tables
from xrec_jax.errors import UserError


def row(*fields: str) -> str:
    return ';'.join(f'"{field}"' for field in fields) + '\r\n'


def book(isbn: str, title: str, author: str, year: str, publisher: str) -> str:
    address = f'http://images.amazon.com/images/P/{isbn}.01.%sZZZZZZZ.jpg'
    return row(isbn, title, author, year, publisher, *(address % size for size in ('THUMB', 'M', 'L')))


RATINGS = row('User-ID', 'ISBN', 'Book-Rating')
USERS = row('User-ID', 'Location', 'Age')
BOOKS = row('ISBN', 'Book-Title', 'Book-Author', 'Year-Of-Publication', 'Publisher', 'Image-URL-S', 'Image-URL-M',
            'Image-URL-L')
FILES = {
    'BX-Book-Ratings.csv': (
        RATINGS + row('276725', '034545104X', '0') + row('276726', '0155061224', '5')
        + row('276725', '0155061224', '10') + row('8', r'\"0432534220\"', '7') + row('8', '0 7336 1053 6', '0')),
    'BX-Users.csv': (
        USERS + '"8";"timmins, ontario, canada";NULL\r\n' + row('276725', 'málaga, n/a, spain', '34')
        + row('276726', ', seattle, washington, ', '0')
        + '"276727";"n/a, n/a, n/a";NULL\r\n'),
    'BX-Books.csv': (
        BOOKS
        + book('034545104X', 'Flesh Tones: A Novel; or, Light', 'M. J. Rose', '2002', 'Ballantine Books')
        + book('0155061224', r'The \"Rites of Passage\"', 'Judith Rae', '0', 'W. W. Norton &amp; Company')
        + book('0671', 'L&#39;Étranger &amp; Cie ', '', '1942', 'NULL')),
}


def encoded(files: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode('latin-1') for name, text in files.items()}


def publish(folder: pathlib.Path, **changes: str | bytes) -> pathlib.Path:
    """Writes `FILES`; `books=...` replaces the text of BX-Books.csv, `ratings`, `users` those of the others."""
    folder.mkdir(exist_ok=True)
    keys = {'BX-Book-Ratings.csv': 'ratings', 'BX-Users.csv': 'users', 'BX-Books.csv': 'books'}
    assert set(changes) <= set(keys.values())
    for name, data in encoded(FILES).items():
        text = changes.get(keys[name], data)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode('latin-1'))
    return folder


def load(folder: pathlib.Path, **options) -> tables.Dataset:
    return catalog.load('bookcrossing', folder, **options)


def same_tables(one: tables.Dataset, other: tables.Dataset) -> bool:
    return all(getattr(one, name).equals(getattr(other, name)) for name in tables.SCHEMAS)


def test_small_files_give_the_tables_by_hand(tmp_path):
    dataset = tables.validate(load(publish(tmp_path)))
    assert dataset.name == 'bookcrossing' and dataset.rating_scale == (1.0, 10.0)
    assert (dataset.domain.items, dataset.domain.consumed) == ('books', 'read')
    assert [tuple(row.values())[:3] for row in dataset.interactions.to_pylist()] == [
        ('276725', '034545104X', None), ('276726', '0155061224', 5.0), ('276725', '0155061224', 10.0),
        ('8', '"0432534220"', 7.0), ('8', '0 7336 1053 6', None)]
    for name in ('timestamp', 'review', 'aspects'):
        assert dataset.interactions[name].null_count == 5
    assert [(row['user_id'], dict(row['profile'])) for row in dataset.users.to_pylist()] == [
        ('8', {'location': 'timmins, ontario, canada'}),
        ('276725', {'age': '34', 'location': 'málaga, spain'}),
        ('276726', {'age': '0', 'location': 'seattle, washington'}),
        ('276727', {})]
    assert [(row['item_id'], row['title'], row['attributes'], dict(row['details']))
            for row in dataset.items.to_pylist()] == [
        ('034545104X', 'Flesh Tones: A Novel; or, Light', [],
         {'author': 'M. J. Rose', 'year': '2002', 'publisher': 'Ballantine Books'}),
        ('0155061224', 'The "Rites of Passage"', [], {'author': 'Judith Rae', 'publisher': 'W. W. Norton & Company'}),
        ('0671', "L'Étranger & Cie", [], {'year': '1942'}),
        ('"0432534220"', None, [], {}), ('0 7336 1053 6', None, [], {})]


def test_ratings_of_0_are_told_apart_on_the_card(tmp_path):
    assert ('ratings', '5: 33.3%  7: 33.3%  10: 33.3%  (and 2 without, implicit)') in card.card(load(publish(tmp_path)))


@pytest.mark.parametrize('end', ['\r\n', '\n'])
def test_archive_gzipped_files_and_either_line_end_give_the_same_tables(tmp_path, monkeypatch, end):
    plain = load(publish(tmp_path / 'plain'))
    monkeypatch.setitem(raw.RawFile.blocks.__kwdefaults__, 'size', 100)
    for kind in ('packed', 'gzipped'):
        (tmp_path / kind).mkdir()
    with zipfile.ZipFile(tmp_path / 'packed' / 'BX-CSV-Dump.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in encoded(FILES).items():
            data = data.replace(b'\r\n', end.encode())
            archive.writestr(name, data)
            (tmp_path / 'gzipped' / f'{name}.gz').write_bytes(gzip.compress(data))
    assert same_tables(load(tmp_path / 'packed'), plain)
    assert same_tables(load(tmp_path / 'gzipped'), plain)


def test_the_last_line_may_lack_its_end(tmp_path):
    plain = load(publish(tmp_path / 'plain'))
    assert same_tables(load(publish(tmp_path / 'x', ratings=FILES['BX-Book-Ratings.csv'][:-2],
                                    users=FILES['BX-Users.csv'][:-2], books=FILES['BX-Books.csv'][:-2])), plain)


# Rows as some of the publisher's are broken: a quote ends a title too early, a separator too many, a title that runs
# into its author, one that runs on so that all others slip by one, a quote that never closes, one that is escaped.
BROKEN = [
    book('1', 'Say"; "no', 'A', '1999', 'P'),
    book('2', 'The End";', 'A', '1999', 'P').replace(';";', ';;'),
    book('3', 'DK Readers', 'A', '1999', 'P').replace('Readers";"A', 'Readers A'),
    book('4', 'Peuple du ciel', '2003', 'Gallimard', 'P'),
    book('5', 'Open', 'A', '1999', 'P').replace('.jpg"\r\n', '.jpg\r\n'),
    book('6', 'Open', 'A', '1999', 'P').replace('"A";', r'"A\";'),
]
ODD = book('078946697X', r'DK Readers (Level 4)\"', 'Michael Teitelbaum', '2000', 'DK').replace('"Michael', 'Michael')


@pytest.mark.parametrize('text, message', zip(BROKEN, [
    'line 3: has 9 fields, should have 8 (ISBN, Book-Title, Book-Author, Year-Of-Publication, ...), separated by \';\'',
    'line 3: has 9 fields, should have 8', 'line 3: has 7 fields, should have 8',
    'line 3, column Year-Of-Publication: "Gallimard" should be a year, or 0',
    'line 3: a quote is opened and not closed', 'line 3: has 7 fields, should have 8']))
def test_broken_rows_are_refused_or_passed_over(tmp_path, text, message):
    lines = FILES['BX-Books.csv'].splitlines(keepends=True)
    folder = publish(tmp_path / 'x', books=''.join([*lines[:2], text, *lines[2:]]))
    with pytest.raises(UserError) as error:
        load(folder)
    assert f'{folder / "BX-Books.csv"}, {message}' in str(error.value)
    dataset = load(folder, on_bad_row='skip')
    assert same_tables(dataset, load(publish(tmp_path / 'sound')))
    assert dataset.recipe['rows_skipped'] == {'BX-Books.csv': 1}


def test_ratings_of_books_in_broken_rows_stay(tmp_path):
    folder = publish(tmp_path, books=FILES['BX-Books.csv'] + ''.join(BROKEN),
                     ratings=FILES['BX-Book-Ratings.csv'] + row('8', '4', '9'))
    dataset = load(folder, on_bad_row='skip')
    assert dataset.interactions.num_rows == 6 and dataset.recipe['rows_skipped'] == {'BX-Books.csv': 6}
    assert dataset.items.to_pylist()[-1] == {'item_id': '4', 'title': None, 'attributes': [], 'details': []}
    assert ('bad rows', '6 of BX-Books.csv passed over') in card.card(dataset)


def test_an_author_without_its_first_quote_is_still_read(tmp_path):
    found = load(publish(tmp_path, books=FILES['BX-Books.csv'] + ODD)).items.to_pylist()[3]
    assert (found['item_id'], found['title']) == ('078946697X', 'DK Readers (Level 4)"')
    assert dict(found['details']) == {'author': 'Michael Teitelbaum"', 'year': '2000', 'publisher': 'DK'}


R, U, B = FILES['BX-Book-Ratings.csv'], FILES['BX-Users.csv'], FILES['BX-Books.csv']


@pytest.mark.parametrize('changes, message', [
    (dict(ratings=R + row('8', '1', '11')),
     'Ratings.csv, line 7, column Book-Rating: "11" should be an integer from 0 to 10'),
    (dict(ratings=R + row('8', '1', 'good')), 'Ratings.csv, line 7, column Book-Rating: "good" should be an integer'),
    (dict(ratings=R + row('8', '5')), 'Ratings.csv, line 7: has 2 fields, should have 3'),
    (dict(ratings=R + row('8', '', '5')), 'Ratings.csv, line 7, column ISBN: "" should not be empty'),
    (dict(ratings=R + row('99', '1', '5')), 'Ratings.csv, line 7, column User-ID: "99" is not listed in'),
    (dict(ratings=R + row('8', '0 7336 1053 6', '5')),
     'Ratings.csv, line 7, column item_id: "0 7336 1053 6" stands already in line 6'),
    (dict(ratings=R[:-4]), 'Ratings.csv, line 6: a quote is opened and not closed'),
    (dict(ratings=R.encode('utf-16')), 'Ratings.csv, line 1: binary or UTF-16'),
    (dict(ratings=RATINGS), 'Ratings.csv: has no rows'),
    (dict(ratings=R.replace(';', ',')),
     'Ratings.csv, line 1: the columns are User-ID","ISBN","Book-Rating; should be User-ID, ISBN'),
    (dict(users=U + row('8', 'x', '3')), 'BX-Users.csv, line 6, column User-ID: "8" stands already in line 2'),
    (dict(users=U + row('9', 'x', 'old')),
     'BX-Users.csv, line 6, column Age: "old" should be a number of years, or NULL'),
    (dict(users=U + '"9";"x";NUL'), 'BX-Users.csv, line 6, column Age: "NUL" should be'),
    (dict(users=U + row('x', 'x', '3')),
     'BX-Users.csv, line 6, column User-ID: "x" should be an integer of at least 1'),
    (dict(users=U.encode('utf-8')), 'BX-Users.csv, line 3: UTF-8 where'),
    (dict(books=B + book('0671', 'x', 'x', '1', 'x')),
     'BX-Books.csv, line 5, column ISBN: "0671" stands already in line 4'),
    (dict(books=B + book(' ', 'x', 'x', '1', 'x')), 'BX-Books.csv, line 5, column ISBN: " " should not be empty'),
    (dict(books=B.replace('"http://images.amazon.com/images/P/0671.01.M', '"M')),
     'BX-Books.csv, line 4, column Image-URL-M: "MZZZZZZZ.jpg" should be an address'),
    (dict(books=B.encode('utf-8')), 'BX-Books.csv, line 4: UTF-8 where'),
], ids=lambda x: None if isinstance(x, dict) else x[:40])
def test_each_fault_is_told_by_file_line_and_column(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        load(publish(tmp_path, **changes))
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_stray_bytes_in_isbns_are_taken_whatever_encoding_they_may_be(tmp_path):
    folder = publish(tmp_path, ratings=R.encode() + b'"8";"\xc3\xa9\xff";"3"\r\n"8";"\xc3\xa9";"4"\r\n')
    assert load(folder).interactions['item_id'].to_pylist()[-2:] == ['Ã©ÿ', 'Ã©']


def test_bad_ratings_may_be_passed_over_and_are_counted(tmp_path):
    bad = row('8', '1', '11') + row('8', '2') + '"8";"3;"5"\r\n' + row('77', '1', '5')
    folder = publish(tmp_path / 'x', ratings=R + bad)
    dataset = load(folder, on_bad_row='skip')
    assert same_tables(dataset, load(publish(tmp_path / 'sound')))
    assert dataset.recipe['rows_skipped'] == {'BX-Book-Ratings.csv': 4}


def test_a_truncated_gz_is_named(tmp_path):
    folder = publish(tmp_path)
    (folder / 'BX-Books.csv').unlink()
    (folder / 'BX-Books.csv.gz').write_bytes(gzip.compress(B.encode('latin-1'))[:-12])
    with pytest.raises(UserError, match='BX-Books.csv.gz.*cannot be decompressed.*truncated or damaged'):
        load(folder)


def test_without_files_it_is_said_where_they_were(tmp_path):
    with pytest.raises(UserError, match='holds no BX-Book-Ratings.csv, .*BX-CSV-Dump.zip.*cziegler/BX/'):
        load(tmp_path)


def test_damage_is_told_or_stays_where_it_was_done(tmp_path):
    check_mutations(load, encoded(FILES), tmp_path)
