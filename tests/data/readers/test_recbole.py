"""RecBole's atomic files, in miniature."""

import pathlib

import pytest

from tests.data.readers import mutations
from xrec_jax.data import catalog, tables
from xrec_jax.errors import UserError

FILES = {
    'mini.inter': (b'user_id:token\titem_id:token\trating:float\ttimestamp:float\n'
                   b'1\t1193\t5\t978300760\n1\t661\t3\t978302109.0\n02\t1193\t-1\t9.78298413e8\n'),
    'mini.item': ('item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\tstudio:token\n'
                  '1193\tOne Flew Over the "Cuckoo\'s" Nest\t1975\tDrama\tFantasy Films\n'
                  '661\t"James" &amp; the Giant Peach, é\t\tAnimation Children\'s Musical\t\n'
                  '7\tUnmet\t1980\t\tX\n').encode(),
    'mini.user': (b'user_id:token\tage:token\tgender:token\tzip_code:token\tvector:float_seq\n'
                  b'02\t56\tM\t70072\t0.5 1\n1\t1\tF\t\t\n'),
}
OPTIONS = dict(title='movie_title', attributes='genre', details='release_year,studio', profile='age,gender,zip_code',
               unrated='-1')


def publish(folder: pathlib.Path, **changes: bytes | None) -> pathlib.Path:
    """Writes `FILES`; inter=... replaces mini.inter, None leaves it out."""
    folder.mkdir(exist_ok=True)
    for name, data in FILES.items():
        if (data := changes.get(name[5:], data)) is not None:
            (folder / name).write_bytes(data)
    return folder


def load(folder: pathlib.Path, **options) -> tables.Dataset:
    return catalog.load('recbole', folder, **OPTIONS | options)


def test_the_three_files_give_the_tables_by_hand(tmp_path):
    dataset = tables.validate(load(publish(tmp_path)))
    assert dataset.interactions.select(['user_id', 'item_id', 'rating', 'timestamp']).to_pylist() == [
        dict(user_id='1', item_id='1193', rating=5.0, timestamp=978300760),
        dict(user_id='1', item_id='661', rating=3.0, timestamp=978302109),
        dict(user_id='02', item_id='1193', rating=None, timestamp=978298413)]
    assert dataset.items.to_pylist() == [
        dict(item_id='1193', title='One Flew Over the "Cuckoo\'s" Nest', attributes=['Drama'],
             details=[('release_year', '1975'), ('studio', 'Fantasy Films')]),
        dict(item_id='661', title='"James" & the Giant Peach, é', attributes=['Animation', "Children's", 'Musical'],
             details=[]),
        dict(item_id='7', title='Unmet', attributes=[], details=[('release_year', '1980'), ('studio', 'X')])]
    assert dataset.users.to_pylist() == [
        dict(user_id='02', profile=[('age', '56'), ('gender', 'M'), ('zip_code', '70072')]),
        dict(user_id='1', profile=[('age', '1'), ('gender', 'F')])]


def test_a_token_is_one_word_and_a_token_seq_is_many(tmp_path):
    assert load(publish(tmp_path), attributes='studio').items['attributes'].to_pylist() == [['Fantasy Films'], [],
                                                                                            ['X']]


def test_interactions_alone_and_without_ratings(tmp_path):
    inter = b'user_id:token\titem_id:token\n1\tx\n2\ty\n'
    dataset = catalog.load('recbole', publish(tmp_path, inter=inter, item=None, user=None), rating='', timestamp='')
    assert dataset.interactions.num_rows == 2 and dataset.interactions['rating'].null_count == 2
    assert dataset.items['title'].null_count == 2


def test_other_separators_and_one_set_of_several(tmp_path):
    publish(tmp_path)
    (tmp_path / 'anime.inter').write_bytes(b'user_id:token;item_id:token;rating:float\n1;5;8\n')
    (tmp_path / 'anime.item').write_bytes(
        b'item_id:token;name:token_seq;genre:token_seq\n5;Gintama;Action, Slice of Life\n')
    with pytest.raises(UserError, match='may be .*anime.inter or .*mini.inter'):
        load(tmp_path)
    dataset = catalog.load('recbole', tmp_path, prefix='anime', title='name', attributes='genre', delimiter=';',
                           separator=',',
                           rating_high=10, timestamp='')
    assert dataset.items['attributes'].to_pylist() == [['Action', 'Slice of Life']]


@pytest.mark.parametrize('changes, options, message', [
    ({}, dict(title='title'),
     'mini.item: has no column "title". Did you mean "movie_title"? It has item_id, movie_title'),
    ({}, dict(rating='label'), 'mini.inter: has no column "label".'),
    (dict(inter=FILES['mini.inter'].replace(b'rating:float', b'rating')), {},
     'mini.inter, line 1: "rating" should be NAME:TYPE'),
    (dict(inter=FILES['mini.inter'].replace(b'rating:float', b'rating:int')), {},
     'line 1: "rating:int" should be NAME:TYPE'),
    (dict(inter=FILES['mini.inter'].replace(b'\t', b' ')), {}, 'mini.inter, line 1: '),
    (dict(inter=FILES['mini.inter'] + b'3\t1\t4\n'), {}, 'mini.inter, line 5: has 3 fields, should have 4'),
    (dict(inter=FILES['mini.inter'] + b'3\t1\tbad\t1\n'), {},
     'mini.inter, line 5, column rating: "bad" should be a number'),
    (dict(item=FILES['mini.item'] + b'7\tAgain\t\t\t\n'), {},
     'mini.item, line 5, column item_id: "7" stands already in line 4'),
    (dict(item=FILES['mini.item'].decode().encode('latin-1')), {}, 'mini.item, line 3: byte 0xe9 is not UTF-8'),
    (dict(item=None), {}, 'attributes=genre: names columns of the items, and there is no file of items'),
    (dict(inter=None), {}, 'holds no *.inter'),
], ids=lambda x: x[:40] if isinstance(x, str) else None)
def test_each_fault_is_told_by_file_line_and_column(tmp_path, changes, options, message):
    with pytest.raises(UserError) as error:
        load(publish(tmp_path, **changes), **options)
    assert message in str(error.value)


def test_damage_is_refused_or_stays_in_place(tmp_path):
    mutations.check_mutations(load, FILES, tmp_path)
