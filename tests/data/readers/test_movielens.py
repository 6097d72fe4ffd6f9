"""MovieLens-100k from a small folder in the publisher's format, and from the real one if present."""

import pathlib
import zipfile

import numpy as np
import pytest

from xrec_jax.data import tables
from xrec_jax.data.readers import movielens
from xrec_jax.errors import UserError

REAL = pathlib.Path(__file__).parents[4] / 'shared' / 'data' / 'ml-100k'


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


def publish(folder: pathlib.Path, **changes: str | bytes) -> pathlib.Path:
    """Writes `FILES` as GroupLens does; `u_data=...` replaces the text of u.data."""
    folder.mkdir(exist_ok=True)
    for name, text in FILES.items():
        text = changes.get(name.replace('.', '_'), text)
        data = text if isinstance(text, bytes) else text.encode('latin-1')
        (folder / name).write_bytes(data)
    return folder


def test_small_folder_gives_the_tables_by_hand(tmp_path):
    dataset = tables.validate(movielens.ml_100k(publish(tmp_path / 'x'), whole=False))
    assert dataset.interactions.select(['user_id', 'item_id', 'rating', 'timestamp']).to_pydict() == {
        'user_id': ['1', '2', '1'], 'item_id': ['2', '1', '3'], 'rating': [5.0, 3.0, 1.0],
        'timestamp': [881250949, 891717742, 878887116]}
    assert dataset.interactions['review'].null_count == 3
    assert dataset.items.to_pylist() == [
        {'item_id': '1', 'title': 'Toy Story (1995)', 'attributes': ['animation', 'comedy']},
        {'item_id': '2', 'title': 'Misérables, Les (1995)', 'attributes': ['drama', 'musical', 'war']},
        {'item_id': '3', 'title': 'unknown', 'attributes': []}]
    assert [dict(row['profile']) for row in dataset.users.to_pylist()] == [
        {'age': '24', 'gender': 'male', 'occupation': 'technician', 'zip': '85711'},
        {'age': '53', 'gender': 'female', 'occupation': 'other', 'zip': '94043'}]
    assert dataset.rating_scale == (1.0, 5.0)


def test_archive_gives_the_same_tables_as_the_folder(tmp_path):
    folder = publish(tmp_path / 'ml-100k')
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
        for name in FILES:
            archive.write(folder / name, f'ml-100k/{name}')
    packed = movielens.ml_100k(zipfile.Path(tmp_path / 'x.zip', 'ml-100k/'), whole=False)
    plain = movielens.ml_100k(folder, whole=False)
    for name in tables.SCHEMAS:
        assert getattr(packed, name).equals(getattr(plain, name))


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
        movielens.ml_100k(folder, whole=False)
    assert message in str(error.value) and str(folder) in str(error.value)


def test_a_bad_line_far_into_the_file_keeps_its_number(tmp_path):
    """Arrow reads in blocks of a megabyte; line numbers must not start again in each."""
    lines = [f'1\t2\t3\t{881250949 + n}\n' for n in range(120_000)]
    lines[110_000] = '1\t2\t3\n'
    with pytest.raises(UserError, match='u.data, line 110001: has 3 fields'):
        movielens.ml_100k(publish(tmp_path / 'x', u_data=''.join(lines)), whole=False)


def test_a_file_cut_at_a_line_end_is_called_truncated(tmp_path):
    with pytest.raises(UserError, match='u.data: has 3 lines where .* 100,000: it is truncated'):
        movielens.ml_100k(publish(tmp_path / 'x'))


def test_a_missing_file_is_named(tmp_path):
    folder = publish(tmp_path / 'x')
    (folder / 'u.user').unlink()
    with pytest.raises(UserError, match='u.user: no such file'):
        movielens.ml_100k(folder, whole=False)


def test_the_published_files_have_the_published_figures():
    if not REAL.is_dir():
        pytest.skip(f'{REAL} is not there (MovieLens may not be passed on)')
    dataset = tables.validate(movielens.ml_100k(REAL))
    assert (dataset.interactions.num_rows, dataset.users.num_rows, dataset.items.num_rows) == (
        100_000, 943, 1_682)
    rating = dataset.interactions['rating'].to_numpy()
    assert np.mean(rating >= 4) == pytest.approx(0.55375, abs=1e-9)
    assert np.mean(rating == 5) == pytest.approx(0.212, abs=5e-4)
    assert all(a or not a and title for title, a in zip(
        dataset.items['title'].to_pylist(), dataset.items['attributes'].to_pylist()))
    assert sum(not a for a in dataset.items['attributes'].to_pylist()) == 2  # genre "unknown" alone
