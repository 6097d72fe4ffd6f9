"""The Yelp Open Dataset from a miniature written as Yelp writes it: plain, in its tar, filtered, and damaged."""

import datetime
import io
import pathlib
import tarfile

import numpy as np
import pyarrow as pa
import pytest

from tests.data.readers.mutations import check_mutations
from xrec_jax.data import catalog, raw
from xrec_jax.data.readers import yelp
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

THAI, SHOP = 'Pns2l4eNsfO8kk83dixA6A', 'mpf3x-BjTdTEA3yCZrAYPw'
BAR, CLOSED = 'tUFrWirKiKi_TAnsVWINQQ', 'k0hlBqXX-Bt0vf1op7Jr1w'
ANN, BOB, NOBODY = 'mh_-eMZ6K5RLWhZyISBhwA', 'OyoGAe7OKpv6SyGZT5g77Q', '8g_iMtfSiwikVnbP2etR0A'
FILES = {
    'yelp_academic_dataset_business.json': (
        f'{{"business_id":"{THAI}","name":"Thai &amp; Co","address":"1616 Chapala St, Ste 2","city":"Philadelphia",'
        '"state":"PA","postal_code":"19107","latitude":39.9527241,"longitude":-75.1652215,"stars":4.5,'
        '"review_count":87,"is_open":1,"attributes":{"RestaurantsPriceRange2":"2","Alcohol":"u\'none\'",'
        '"BusinessParking":"{\'garage\': False, \'street\': True}"},'
        '"categories":"Restaurants, Beer, Wine & Spirits, Thai","hours":{"Monday":"7:0-20:0"}}\n'
        f'{{"business_id":"{SHOP}","name":"The UPS Store","address":"87 Grasso Plaza","city":"Affton","state":"MO",'
        '"postal_code":"63123","latitude":38.551126,"longitude":-90.335695,"stars":3.0,"review_count":15,"is_open":1,'
        '"attributes":null,"categories":"Shipping Centers, Naturopathic\\/Holistic","hours":null}\n'
        f'{{"business_id":"{BAR}","name":"Caf\u00e9 d\'Or","address":"","city":"St. Louis","state":"MO",'
        '"postal_code":"","latitude":38.627,"longitude":-90.199,"stars":2.0,"review_count":6,"is_open":0,"attributes":'
        '{"RestaurantsPriceRange2":"None"},"categories":"Bars, Restaurants, Books, Mags, Music & Video","hours":null}\n'
        f'{{"business_id":"{CLOSED}","name":"","address":"","city":"Camden","state":"NJ","postal_code":"08101",'
        '"latitude":39.9259463,"longitude":-75.1196199,"stars":5.0,"review_count":5,"is_open":1,"attributes":null,'
        '"categories":null,"hours":null}\n'),
    'yelp_academic_dataset_review.json': (
        f'{{"review_id":"KU_O5udG6zpxOg-VcAEodg","user_id":"{ANN}","business_id":"{THAI}","stars":3.0,"useful":0,'
        '"funny":0,"cool":0,"text":"Two hours, \\"from beginning\\" to end. \\n\\nI want to like it! '
        '\\u00e9\\ud83d\\ude00 5\\/5 &amp; up","date":"2018-07-07 22:09:11"}\n'
        f'{{"review_id":"BiTunyQ73aT9WBnpR9DZGw","user_id":"{BOB}","business_id":"{SHOP}","stars":5.0,"useful":1,'
        '"funny":0,"cool":1,"text":"Quick, {polite}\\r\\n","date":"2012-01-03 15:28:18"}\n'
        f'{{"review_id":"saUsX_uimxRlCVr67Z4Jig","user_id":"{NOBODY}","business_id":"{BAR}","stars":1.0,"useful":0,'
        '"funny":0,"cool":0,"text":"Loud; caf\u00e9 only by name","date":"2014-02-05 20:30:30"}\n'
        f'{{"review_id":"AqPFMleE6RsU23_auESxiA","user_id":"{BOB}","business_id":"{THAI}","stars":4.0,"useful":0,'
        '"funny":0,"cool":0,"text":"Good","date":"2016-02-29 00:00:00"}\n'),
    'yelp_academic_dataset_user.json': (
        f'{{"user_id":"{BOB}","name":"B&eacute;b&eacute;","review_count":585,"yelping_since":"2007-01-25 16:47:26",'
        f'"useful":7,"elite":"2007,20,20","friends":"{ANN}, NSCy54eWehBJyZdG2iE84w","fans":267,"average_stars":3.91}}\n'
        f'{{"user_id":"{ANN}","name":"Ann","review_count":1,"yelping_since":"2009-01-25 04:35:42","useful":0,'
        '"elite":"","friends":"None","fans":0,"average_stars":3.0}\n'
        '{"user_id":"PomQayG1WhMxeSl1zohAUA","name":"Cy","review_count":3,"yelping_since":"2010-01-25 04:35:42",'
        '"useful":0,"elite":"","friends":"None","fans":0,"average_stars":4.0}\n'),
}


def load(folder: pathlib.Path, **options):
    return catalog.load('yelp', folder, **options)


def publish(folder: pathlib.Path, **changes: tuple[str, str]) -> pathlib.Path:
    """Writes `FILES`; review=(old, new) replaces a text, which must be there, in the file of reviews."""
    folder.mkdir(exist_ok=True)
    for name, text in FILES.items():
        old, new = changes.get(name.removesuffix('.json').rpartition('_')[2], ('', ''))
        assert old in text
        (folder / name).write_bytes(text.replace(old, new, 1).encode('utf-8', 'surrogateescape'))
    return folder


def test_the_miniature_gives_the_tables_by_hand(tmp_path):
    dataset = load(publish(tmp_path))
    assert dataset.interactions.to_pylist() == [
        {'user_id': ANN, 'item_id': THAI, 'rating': 3.0, 'timestamp': 1531001351, 'aspects': None,
         'review': 'Two hours, "from beginning" to end. \n\nI want to like it! é😀 5/5 &amp; up'},
        {'user_id': BOB, 'item_id': SHOP, 'rating': 5.0, 'timestamp': 1325604498, 'aspects': None,
         'review': 'Quick, {polite}\r\n'},
        {'user_id': NOBODY, 'item_id': BAR, 'rating': 1.0, 'timestamp': 1391632230, 'aspects': None,
         'review': 'Loud; café only by name'},
        {'user_id': BOB, 'item_id': THAI, 'rating': 4.0, 'timestamp': 1456704000, 'aspects': None, 'review': 'Good'}]
    assert dataset.users.to_pylist() == [
        {'user_id': BOB, 'profile': [('name', 'Bébé'), ('reviews', '585'), ('member since', '2007-01-25')]},
        {'user_id': ANN, 'profile': [('name', 'Ann'), ('reviews', '1'), ('member since', '2009-01-25')]},
        {'user_id': 'PomQayG1WhMxeSl1zohAUA',
         'profile': [('name', 'Cy'), ('reviews', '3'), ('member since', '2010-01-25')]},
        {'user_id': NOBODY, 'profile': []}]
    assert dataset.items.to_pylist() == [
        {'item_id': THAI, 'title': 'Thai & Co', 'attributes': ['Restaurants', 'Beer, Wine & Spirits', 'Thai'],
         'details': [('address', '1616 Chapala St, Ste 2'), ('city', 'Philadelphia'), ('state', 'PA'), ('zip', '19107'),
                     ('price', '$$'), ('popularity', '87'), ('open', 'yes')]},
        {'item_id': SHOP, 'title': 'The UPS Store', 'attributes': ['Shipping Centers', 'Naturopathic/Holistic'],
         'details': [('address', '87 Grasso Plaza'), ('city', 'Affton'), ('state', 'MO'), ('zip', '63123'),
                     ('popularity', '15'), ('open', 'yes')]},
        {'item_id': BAR, 'title': "Café d'Or", 'attributes': ['Bars', 'Restaurants', 'Books, Mags, Music & Video'],
         'details': [('city', 'St. Louis'), ('state', 'MO'), ('popularity', '6'), ('open', 'no')]},
        {'item_id': CLOSED, 'title': None, 'attributes': [],
         'details': [('city', 'Camden'), ('state', 'NJ'), ('zip', '08101'), ('popularity', '5'), ('open', 'yes')]}]
    assert (dataset.rating_scale, dataset.domain.items) == ((1.0, 5.0), 'places')


@pytest.mark.parametrize('mode', ['w', 'w:gz'])  # what Yelp names .tar has been both
def test_the_tar_gives_the_same_tables_as_the_folder(tmp_path, mode):
    plain = load(publish(tmp_path / 'plain'))
    (tmp_path / 'packed').mkdir()
    with tarfile.open(tmp_path / 'packed' / 'yelp_dataset.tar', mode) as archive:
        others = {'Dataset_User_Agreement.pdf': '%PDF', 'yelp_academic_dataset_tip.json': '{}\n'}
        for name, text in (FILES | others).items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    packed = load(tmp_path / 'packed')
    for name in ('interactions', 'users', 'items'):
        assert getattr(packed, name).equals(getattr(plain, name))


def test_users_may_be_absent(tmp_path):
    (publish(tmp_path) / 'yelp_academic_dataset_user.json').unlink()
    assert load(tmp_path).users.to_pylist() == [{'user_id': user, 'profile': []} for user in (ANN, BOB, NOBODY)]


@pytest.mark.parametrize('options, items, reviews', [
    (dict(category='Restaurants'), [THAI, BAR], 3),
    (dict(category='Beer, Wine & Spirits'), [THAI], 2),
    (dict(state='MO'), [SHOP, BAR], 2),
    (dict(metro='St. Louis'), [SHOP, BAR], 2),  # by place, over state lines
    (dict(metro='Philadelphia'), [THAI], 2),  # Camden, NJ has no reviews
    (dict(metro='St. Louis', category='Restaurants'), [BAR], 1),
])
def test_filters_choose_businesses_with_their_reviews_and_reviewers(tmp_path, options, items, reviews):
    dataset = load(publish(tmp_path), **options)
    assert dataset.items['item_id'].to_pylist() == items
    assert dataset.interactions.num_rows == reviews
    assert set(dataset.users['user_id'].to_pylist()) == set(dataset.interactions['user_id'].to_pylist())
    assert dataset.recipe['rows_skipped'] == {}
    assert dataset.domain.items == ('restaurants' if options.get('category') == 'Restaurants' else 'places')


@pytest.mark.parametrize('options, message', [
    (dict(category='Restaurant'), 'category="Restaurant": no business has it. Did you mean "Restaurants"?'),
    (dict(metro='Filadelfia'), 'metro="Filadelfia". Did you mean "Philadelphia"?'),
    (dict(metro='Reno'), 'holds no business with category="", metro="Reno" and state=""'),
    (dict(state='PQ'), 'state="PQ": no business has it.'),
    (dict(state='PA', category='Bars'), 'holds no business with category="Bars", metro="" and state="PA"'),
])
def test_a_filter_that_leaves_nothing_is_told(tmp_path, options, message):
    with pytest.raises(UserError) as error:
        load(publish(tmp_path), **options)
    assert message in str(error.value)


@pytest.mark.parametrize('changes, message', [
    (dict(review=('"stars":5.0', '"stars":"5"')), "review.json, line 2, field stars: '5' should be double"),
    (dict(review=('"stars":5.0', '"stars":5.5')), 'line 2, column stars: "5.5" should be a number from 1 to 5'),
    (dict(review=('"stars":5.0', '"stars":NaN')), 'review.json, line 2, field stars'),
    (dict(review=('"stars":5.0,', '')), 'review.json, line 2, column stars: nothing should be a number'),
    (dict(review=('"2012-01-03 15:28:18"', '"2012-13-03 15:28:18"')), 'column date: "2012-13-03 15:28:18" should be'),
    (dict(review=('"2012-01-03 15:28:18"', '"2013-02-29 15:28:18"')), 'column date: "2013-02-29 15:28:18" should be'),
    (dict(review=('"2012-01-03 15:28:18"', '"2012-01-03"')), 'column date: "2012-01-03" should be a date and time'),
    (dict(review=('"2012-01-03 15:28:18"', '1325604498')), 'line 2, field date'),
    (dict(review=(f'"{SHOP}"', '"mpf3x"')), 'review.json, line 2, column business_id: "mpf3x" is not listed in'),
    (dict(review=(f'"{BOB}"', '" "')), 'review.json, line 2, column user_id: " " should not be empty'),
    (dict(review=('"date":"2012-01-03 15:28:18"}\n', '"da')), 'review.json, line 2: is not JSON'),
    (dict(review=('"text":"Quick', '"tex":"Quick')), 'line 2, column text: nothing should be a text'),
    (dict(review=('Quick', 'Qu\udce9ck')), 'review.json, line 2: byte 0xe9 is not UTF-8'),
    (dict(review=(FILES['yelp_academic_dataset_review.json'], '')), 'review.json: is empty'),
    (dict(business=(f'"{SHOP}"', f'"{THAI}"')),
     f'business.json, line 2, column business_id: "{THAI}" stands already in line 1'),
    (dict(business=(f'"business_id":"{SHOP}",', '')), 'line 2, column business_id: nothing should not be empty'),
    (dict(business=('"attributes":null', '"attributes":"none"')), 'business.json, line 2, field attributes'),
    (dict(business=('"categories":null', '"categories":["Bars"]')), 'business.json, line 4, field categories'),
    (dict(user=('"review_count":1', '"review_count":"many"')), 'user.json, line 2, field review_count'),
], ids=lambda x: None if isinstance(x, dict) else x[:40])
def test_each_fault_is_told_by_file_line_and_field(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        load(publish(tmp_path, **changes))
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_bad_rows_are_passed_over_and_counted_where_that_is_wished(tmp_path):
    publish(tmp_path, review=('"2012-01-03 15:28:18"', '"yesterday"'), business=(f'"{CLOSED}"', '""'),
            user=('"Cy"', '7'))
    dataset = load(tmp_path, on_bad_row='skip')
    assert dataset.recipe['rows_skipped'] == {name: 1 for name in FILES}
    assert (dataset.interactions.num_rows, dataset.items.num_rows, dataset.users.num_rows) == (3, 3, 3)


def test_damage_in_reviews_that_are_not_asked_for_is_not_their_business(tmp_path):
    publish(tmp_path, review=('"2012-01-03 15:28:18"', '"yesterday"'))
    dataset = load(tmp_path, category='Restaurants', on_bad_row='skip')
    assert (dataset.interactions.num_rows, dataset.recipe['rows_skipped']) == (3, {})


def test_the_metros_lie_apart():
    """So that a business is in one of them at most."""
    places = np.radians(np.array(list(yelp.METROS.values())))
    latitude, longitude = places[:, :1], places[:, 1:]
    cosine = (np.sin(latitude) * np.sin(latitude.T)
              + np.cos(latitude) * np.cos(latitude.T) * np.cos(longitude - longitude.T))
    distance = 6371 * np.arccos(np.clip(cosine, -1, 1)) + 1e9 * np.eye(len(places))
    assert 2 * yelp.RADIUS < 350 < distance.min()


def test_dates_agree_with_python(tmp_path):
    """Whole columns of dates, valid and not, against the standard library."""
    rng = np.random.Generator(np.random.Philox(3))
    texts = [f'{rng.integers(2000, 2030)}-{rng.integers(0, 14):02d}-{rng.integers(0, 33):02d} '
             f'{rng.integers(0, 26):02d}:{rng.integers(0, 62):02d}:{rng.integers(0, 62):02d}' for _ in range(2000)]

    def second(text):
        try:
            return int(datetime.datetime.strptime(text, '%Y-%m-%d %H:%M:%S').replace(tzinfo=datetime.UTC).timestamp())
        except ValueError:
            return None

    expected = [second(text) if not text.endswith((':60', ':61')) else None for text in texts]
    review = Records(raw.RawFile('x', None), pa.table({'date': texts}), np.arange(2000), raw.BadRows('skip'))
    found = yelp._seconds(review, 'date').to_pylist()
    assert [value if keep else None for value, keep in zip(found, review.keep)] == expected
    assert 500 < sum(value is None for value in expected) < 1500


@pytest.mark.parametrize('category, count', [('', 400), ('Restaurants', 200)])
def test_damage_is_told_or_stays_in_its_row(tmp_path, category, count):
    files = {name: text.encode() for name, text in FILES.items()}
    check_mutations(lambda folder: load(folder, category=category), files, tmp_path, count=count)
