"""MIND from a miniature written as Microsoft writes it: in folders, in archives, with and without labels."""

import pathlib
import zipfile

import numpy as np
import pytest

from tests.data.readers.mutations import check_mutations
from xrec_jax.data import catalog, raw
from xrec_jax.data.filters import Filters
from xrec_jax.data.readers import mind
from xrec_jax.errors import UserError

ENTITY = ('[{"Label": "Prince Philip", "Type": "P", "WikidataId": "Q80976", "Confidence": 1.0, '
          '"OccurrenceOffsets": [48]}]')
BEHAVIORS = (
    '1\tU13740\t11/11/2019 9:05:58 AM\tN3 N1\tN2-1 N4-0\n'
    '2\tU91836\t11/12/2019 6:11:30 PM\t\tN4-0 N2-0 N1-1 N5-1\n'
    '3\tU13740\t11/14/2019 12:00:01 AM\tN3 N1\tN4-1\n'
    '4\tU7\t2/29/2020 12:00:59 PM\tN1\tN2-1 N3-0\n')
NEWS = (
    'N1\tlifestyle\tlifestyleroyals\tThe "Brands Queen Elizabeth, Prince Charles\tShop the notebooks &amp; jackets "\t'
    f'https://assets.msn.com/labs/mind/AAGH0ET.html\t{ENTITY}\t[]\n'
    'N2\thealth\tweightloss\tTom &amp; Jerry\u2019s \u00e9tudes \t\thttps://x\t[]\t[]\n'
    'N3\tnews\tnewsworld\tThe Cost of Trump\'s Aid Freeze\tLt. Ivan Molchanets\thttps://x\t[]\t\n'
    'N4\tnews\tnewsworld\tNever clicked\tNobody\thttps://x\t\t[]\n'
    'N5\tsports\tfootball_nfl\tNFL\tAll\thttps://x\t[]\t[]\n'
    'N6\tsports\tgolf\tNever shown\tNone\thttps://x\t[]\t[]\n')
FILES = {'behaviors.tsv': BEHAVIORS, 'news.tsv': NEWS}


def publish(folder: pathlib.Path, **changes: tuple[str, str]) -> pathlib.Path:
    """Writes `FILES`; news=(old, new) replaces a text, which must be there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        old, new = changes.get(name.removesuffix('.tsv'), ('', ''))
        assert old in text, old
        (folder / name).write_bytes(text.replace(old, new, 1).encode('utf-8', 'surrogateescape'))
    return folder


def rows(dataset, *names):
    return list(zip(*(dataset.interactions[name].to_pylist() for name in names)))


CLICKS = [('U13740', 'N2', 1573463158), ('U91836', 'N1', 1573582290), ('U91836', 'N5', 1573582290),
          ('U13740', 'N4', 1573689601), ('U7', 'N2', 1582977659)]
HISTORY = [('U13740', 'N3', None), ('U13740', 'N1', None), ('U7', 'N1', None)]


def test_the_miniature_gives_the_tables_by_hand(tmp_path):
    publish(tmp_path / 'train')
    dataset = catalog.load('mind-small', tmp_path)
    assert rows(dataset, 'user_id', 'item_id', 'timestamp') == HISTORY + CLICKS
    assert dataset.interactions['rating'].null_count == dataset.interactions['review'].null_count == 8
    assert dataset.users.to_pylist() == [{'user_id': user, 'profile': []} for user in ('U13740', 'U7', 'U91836')]
    assert dataset.items.to_pylist()[:3] == [
        {'item_id': 'N1', 'title': 'The "Brands Queen Elizabeth, Prince Charles',
         'attributes': ['lifestyle', 'lifestyleroyals'], 'details': [('abstract', 'Shop the notebooks & jackets "')]},
        {'item_id': 'N2', 'title': 'Tom & Jerry’s études', 'attributes': ['health', 'weightloss'], 'details': []},
        {'item_id': 'N3', 'title': 'The Cost of Trump\'s Aid Freeze', 'attributes': ['news', 'newsworld'],
         'details': [('abstract', 'Lt. Ivan Molchanets')]}]
    assert dataset.items.num_rows == 6
    assert (dataset.name, dataset.rating_scale, dataset.domain.consumed) == ('mind-small', (0.0, 1.0), 'read')


def test_without_histories_only_clicks_stay(tmp_path):
    publish(tmp_path / 'train')
    assert rows(catalog.load('mind-small', tmp_path, history=False), 'user_id', 'item_id', 'timestamp') == CLICKS


def test_what_was_not_clicked_is_rated_0_where_it_is_asked_for(tmp_path):
    publish(tmp_path / 'train')
    dataset = catalog.load('mind-small', tmp_path, unclicked=True)
    assert [row[1:] for row in rows(dataset, 'user_id', 'item_id', 'rating')] == [
        ('N3', 1.0), ('N1', 1.0), ('N1', 1.0), ('N2', 1.0), ('N4', 0.0), ('N4', 0.0), ('N2', 0.0), ('N1', 1.0),
        ('N5', 1.0), ('N4', 1.0), ('N2', 1.0), ('N3', 0.0)]
    assert rows(dataset, 'user_id', 'timestamp')[3:] == [
        ('U13740', 1573463158)] * 2 + [('U91836', 1573582290)] * 4 + [('U13740', 1573689601)] + [('U7', 1582977659)] * 2


def test_the_counts_of_llmxrec_are_of_all_that_was_shown(tmp_path):
    """Its Table 1: MIND-small dev has 2,740,998 news shown, of 5,369 articles, to 50,000 users."""
    publish(tmp_path / 'dev')
    dataset = catalog.load('mind-small', tmp_path, split='dev', history=False, unclicked=True,
                           filters=Filters(min_per_item=1))
    shown = [word for line in BEHAVIORS.splitlines() for word in line.split('\t')[4].split(' ')]
    assert dataset.interactions.num_rows == len(shown) == 9
    assert dataset.items['item_id'].to_pylist() == sorted({word.partition('-')[0] for word in shown})
    assert dataset.users.num_rows == 3


def test_a_user_s_history_comes_once_over_all_blocks_of_a_file(tmp_path, monkeypatch):
    lines = [f'{n}\tU{n % 50}\t11/11/2019 9:05:58 AM\tN3 N{n % 50 % 6 + 1}\tN2-1 N4-0\n' for n in range(1, 1001)]
    publish(tmp_path / 'train', behaviors=(BEHAVIORS, ''.join(lines)))
    monkeypatch.setattr(raw.RawFile.blocks, '__kwdefaults__', {'size': 1000, 'whole_lines': False})
    dataset = catalog.load('mind-small', tmp_path)
    found = [(user, item) for user, item, time in rows(dataset, 'user_id', 'item_id', 'timestamp') if time is None]
    users = [*range(1, 50), 0]
    assert found == [(f'U{user}', item) for user in users for item in ('N3', f'N{user % 6 + 1}')]
    assert dataset.interactions.num_rows == 100 + 1000


# ------------------------------------------------------------------------------ where the files are


def pack(path: pathlib.Path, prefix: str, text: str = '') -> None:
    with zipfile.ZipFile(path, 'w') as packed:
        for name in FILES:
            packed.writestr(f'{prefix}{name}', FILES[name] + (text if name == 'behaviors.tsv' else ''))


MORE = '5\tU7\t11/15/2019 1:00:00 PM\tN1\tN6-1\n'


@pytest.mark.parametrize('prefix', ['', 'MINDsmall_{split}/', '__MACOSX/'])
def test_the_archives_are_read_as_they_are_and_the_split_tells_them_apart(tmp_path, prefix):
    if prefix == '__MACOSX/':  # what a Mac adds is not the data
        pack(tmp_path / 'MINDsmall_dev.zip', prefix)
        with pytest.raises(UserError, match=r'holds no MINDsmall_dev/behaviors.tsv\|dev/behaviors.tsv, .*msnews'):
            catalog.load('mind-small', tmp_path, split='dev')
        return
    pack(tmp_path / 'MINDsmall_train.zip', prefix.format(split='train'))
    pack(tmp_path / 'MINDsmall_dev.zip', prefix.format(split='dev'), MORE)
    prefix = prefix.replace('small', 'large')
    pack(tmp_path / 'MINDlarge_train.zip', prefix.format(split='train'), MORE + MORE.replace('5', '6', 1))
    assert catalog.load('mind-small', tmp_path).interactions.num_rows == 8
    assert catalog.load('mind-small', tmp_path, split='dev').interactions.num_rows == 9
    assert catalog.load('mind-large', tmp_path).interactions.num_rows == 10
    with pytest.raises(UserError, match='holds no MINDlarge_dev/behaviors.tsv'):
        catalog.load('mind-large', tmp_path, split='dev')


@pytest.mark.parametrize('folder', ['MINDsmall_train', 'train', 'mind/train', 'mind/MINDsmall_train'])
def test_a_folder_is_found_by_its_name(tmp_path, folder):
    publish(tmp_path / folder)
    assert catalog.load('mind-small', tmp_path).interactions.num_rows == 8
    # data_dir may be that very folder
    assert catalog.load('mind-small', tmp_path / folder).interactions.num_rows == 8
    with pytest.raises(UserError, match='holds no MINDsmall_dev/behaviors.tsv'):
        catalog.load('mind-small', tmp_path / folder, split='dev')


def test_two_folders_that_may_be_meant_are_told(tmp_path):
    publish(tmp_path / 'a' / 'train')
    publish(tmp_path / 'b' / 'train')
    with pytest.raises(UserError, match='"train/behaviors.tsv" may be .*a/train/behav.* or .*b/train/behav.*'):
        catalog.load('mind-small', tmp_path)


def test_an_unknown_split_is_told(tmp_path):
    with pytest.raises(UserError, match='split="trian". Did you mean "train"'):
        catalog.load('mind-small', tmp_path, split='trian')


# -------------------------------------------------------------------------------------- bad input


FAULTS = [
    (('behaviors', '\tN3 N1\tN2-1 N4-0', '\tN3 N1 N3'), 'line 1: has 4 fields, should have 5'),
    (('behaviors', '2\tU9', 'two\tU9'), 'line 2, column impression_id: "two" should be an integer'),
    (('behaviors', '2\tU9', '1\tU9'), 'line 2, column impression_id: "1" stands already in an earlier line'),
    (('behaviors', '2\tU9', '999999999\tU9'), 'line 2, column impression_id: "999999999" should be an integer'),
    (('behaviors', 'U91836', '91836'), 'line 2, column user_id: "91836" should be the id of a user, as U13740'),
    (('behaviors', '11/12/2019 6:11:30 PM', '2019-11-12 18:11:30'), 'line 2, column time: "2019-11-12 18:11:30"'),
    (('behaviors', '11/12/2019 6:11:30 PM', '11/31/2019 6:11:30 PM'), 'line 2, column time: "11/31/2019 6:11:30 PM"'),
    (('behaviors', '11/12/2019 6:11:30 PM', '11/12/2019 18:11:30 PM'), 'line 2, column time: "11/12/2019 18'),
    (('behaviors', 'N3 N1', 'N3  N1'), 'line 1, column history: "N3  N1" should be ids of news'),
    (('behaviors', 'N2-1 N4-0', 'N2 N4'), 'line 1, column impressions: "N2 N4" should be ids of news with 1'),
    (('behaviors', 'N2-1 N4-0', 'N2-1 N4-2'), 'line 1, column impressions: "N2-1 N4-2" should be'),
    (('behaviors', 'N2-1 N4-0', ''), 'line 1, column impressions: "" should be'),
    (('behaviors', 'N2-1 N4-0', 'N9-1 N4-0'), 'line 1, column impressions: "N9" is not listed in '),
    (('behaviors', 'N3 N1', 'N3 N9'), 'line 1, column history: "N9" is not listed in '),
    (('behaviors', 'U7', 'U\udcff'), 'line 4: byte 0xff where'),
    (('news', 'N2\thealth', 'N1\thealth'), 'line 2, column news_id: "N1" stands already in line 1'),
    (('news', 'N6\t', '6\t'), 'line 6, column news_id: "6" should be the id of a news article, as N88753'),
    (('news', 'weightloss\t', ''), 'line 2: has 7 fields, should have 8'),
    (('news', 'weightloss\t', '\t'), 'line 2, column subcategory: "" should not be empty'),
    (('news', 'Never clicked', ' '), 'line 4, column title: " " should not be empty'),
    (('news', ENTITY, ENTITY[:50]), 'line 1, column title_entities: "[{"Label"'),
]


@pytest.mark.parametrize('change, message', FAULTS, ids=[message for _, message in FAULTS])
def test_each_fault_is_told_by_file_line_and_column(tmp_path, change, message):
    part, old, new = change
    with pytest.raises(UserError) as error:
        catalog.load('mind-small', publish(tmp_path / 'train', **{part: (old, new)}))
    assert f'{part}.tsv, {message}' in str(error.value)


def test_bad_rows_are_passed_over_and_counted(tmp_path):
    publish(tmp_path / 'train', behaviors=('11/11/2019 9:05:58 AM', 'now'), news=('N2\thealth', '2\thealth'))
    dataset = catalog.load('mind-small', tmp_path, on_bad_row='skip')
    assert rows(dataset, 'user_id', 'item_id') == [
        ('U13740', 'N3'), ('U13740', 'N1'), ('U7', 'N1'), ('U91836', 'N1'), ('U91836', 'N5'), ('U13740', 'N4')]
    assert dataset.recipe['rows_skipped'] == {'behaviors.tsv': 2, 'news.tsv': 1}


def test_a_file_of_bad_rows_alone_leaves_nothing(tmp_path):
    publish(tmp_path / 'train', behaviors=(BEHAVIORS, '1\tU1\tnow\t\tN1-1\n'))
    with pytest.raises(UserError):
        catalog.load('mind-small', tmp_path, on_bad_row='skip')


def test_a_truncated_archive_is_said_to_be_one(tmp_path):
    pack(tmp_path / 'MINDsmall_train.zip', '')
    data = (tmp_path / 'MINDsmall_train.zip').read_bytes()
    (tmp_path / 'MINDsmall_train.zip').write_bytes(data[:-30])
    with pytest.raises(UserError, match='MINDsmall_train.zip.* truncated or damaged'):
        catalog.load('mind-small', tmp_path)


@pytest.mark.parametrize('count, options', [(400, {}), (200, {'history': False, 'unclicked': True})])
def test_damage_is_told_or_stays_where_it_is(tmp_path, count, options):
    files = {f'train/{name}': text.encode() for name, text in FILES.items()}
    check_mutations(lambda folder: catalog.load('mind-small', folder, **options), files, tmp_path, count,
                    touched=4 if options else 3)  # a line gives as many rows


def test_first_times_are_told_over_several_blocks():
    first, seen = mind._first_times(np.array([3, 1, 3]), np.zeros(0, bool))
    assert first.tolist() == [True, True, False]
    first, seen = mind._first_times(np.array([], int), seen)
    first, seen = mind._first_times(np.array([3, 5, 0, 5, 1]), seen)
    assert first.tolist() == [False, True, True, False, False]
    assert np.flatnonzero(seen).tolist() == [0, 1, 3, 5]
