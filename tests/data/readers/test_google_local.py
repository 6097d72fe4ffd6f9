"""Google Local (2021) from a miniature written as UCSD writes it: gzipped, filtered by zip code, and damaged."""

import gzip
import pathlib

import pytest

from tests.data.readers.mutations import check_mutations
from xrec_jax.data import catalog, fetch
from xrec_jax.data.readers import google_local
from xrec_jax.errors import UserError

CAFE, PARK, FAR, LOST = ('0x808fb0a29ca9c5d1:0xdb2ba8689ed0920d', '0x808fb730a4c1ac3d:0x9b1f4a4c6c0d9a2e',
                         '0x54901545d5e902b1:0x809dba0423e59752', '0x1:0x2')
ANN, BOB = '111142189554954458264', '101472591654930353638'
META, REVIEW = 'meta-California.json.gz', 'review-California.json.gz'
FILES = {
    META: (
        f'{{"name": "Caf\\u00e9 &amp; Bar", "address": "Caf\\u00e9 &amp; Bar, 400 Castro St, Mountain View, CA 94041", '
        f'"gmap_id": "{CAFE}", "description": "Laid-back spot, with a deck.", "latitude": 37.39, "longitude": '
        '-122.08, "category": ["Cafe", "Wine bar"], "avg_rating": 4.6, "num_of_reviews": 998, "price": "$$", "hours": '
        '[["Thursday", "12\\u20139PM"]], "MISC": {"Amenities": ["Good for kids"]}, "state": "Open", '
        f'"relative_results": ["{PARK}"], "url": "https://www.google.com/maps/place//data=!4m2"}}\n'
        f'{{"name": "Rengstorff Park", "address": "Rengstorff Park, Mountain View, CA 94040-1234", "gmap_id": '
        f'"{PARK}", '
        '"description": null, "latitude": 37.4, "longitude": -122.09, "category": null, "avg_rating": 4.3, '
        '"num_of_reviews": 8, "price": null, "hours": null, "MISC": null, "state": null, "relative_results": null, '
        '"url": "https://"}\n'
        f'{{"name": null, "address": null, "gmap_id": "{FAR}", "description": null, "latitude": 34.0, "longitude": '
        '-118.2, "category": ["Tire shop"], "avg_rating": 5.0, "num_of_reviews": 1, "price": "\\u20a9", "hours": null, '
        '"MISC": null, "state": "Permanently closed", "relative_results": null, "url": "https://"}\n'
        f'{{"name": "Cafe again", "address": "1 Castro St, Mountain View, CA 94041", "gmap_id": "{CAFE}", '
        f'"description": null, '
        '"latitude": 37.39, "longitude": -122.08, "category": null, "avg_rating": 4.6, "num_of_reviews": 999, "price": '
        'null, "hours": null, "MISC": null, "state": null, "relative_results": null, "url": "https://"}\n'),
    REVIEW: (
        f'{{"user_id": "{ANN}", "name": "Ann", "time": 1618351936147, "rating": 5, "text": '
        f'"Beautiful view.\\nBring kids \\ud83d'
        '\\ude00 &amp; dogs", "pics": [{"url": ["https://lh5.googleusercontent.com/p/A"]}], "resp": {"time": '
        f'1628455067818, "text": "Thank you!"}}, "gmap_id": "{CAFE}"}}\n'
        f'{{"user_id": "{BOB}", "name": "Jim Earlam", "time": 1617637670999, "rating": 1, "text": null, "pics": '
        f'null, "resp": null, "gmap_id": "{PARK}"}}\n'
        f'{{"user_id": "{BOB}", "name": "Jim Earlam", "time": 1617637670999, "rating": 1, "text": null, "pics": '
        f'null, "resp": null, "gmap_id": "{PARK}"}}\n'
        f'{{"user_id": "{ANN}", "name": "Ann", "time": 662601600000, "rating": 3, "text": '
        f'"(Translated by Google) Fine", "pics": null, "resp": null, "gmap_id": "{FAR}"}}\n'
        f'{{"user_id": "{ANN}", "name": "Ann", "time": 1262304000000, "rating": 4, "text": "Gone", "pics": null, '
        f'"resp": null, "gmap_id": "{LOST}"}}\n'),
}


def load(folder: pathlib.Path, **options):
    return catalog.load('google-local', folder, **options)


def publish(folder: pathlib.Path, **changes: tuple[str, str]) -> pathlib.Path:
    """Writes `FILES`; review=(old, new) replaces a text, which must be there, in the file of reviews."""
    folder.mkdir(exist_ok=True)
    for name, text in FILES.items():
        old, new = changes.get(name.partition('-')[0], ('', ''))
        assert old in text
        (folder / name).write_bytes(gzip.compress(text.replace(old, new, 1).encode('utf-8', 'surrogateescape')))
    return folder


REVIEWS = [
    {'user_id': ANN, 'item_id': CAFE, 'rating': 5.0, 'timestamp': 1618351936, 'aspects': None,
     'review': 'Beautiful view.\nBring kids 😀 &amp; dogs'},
    {'user_id': BOB, 'item_id': PARK, 'rating': 1.0, 'timestamp': 1617637670, 'aspects': None, 'review': None},
    {'user_id': BOB, 'item_id': PARK, 'rating': 1.0, 'timestamp': 1617637670, 'aspects': None, 'review': None},
    {'user_id': ANN, 'item_id': FAR, 'rating': 3.0, 'timestamp': 662601600, 'aspects': None,
     'review': '(Translated by Google) Fine'},
    {'user_id': ANN, 'item_id': LOST, 'rating': 4.0, 'timestamp': 1262304000, 'aspects': None, 'review': 'Gone'}]
ITEMS = [
    {'item_id': CAFE, 'title': 'Café & Bar', 'attributes': ['Cafe', 'Wine bar'],
     'details': [('address', 'Café & Bar, 400 Castro St, Mountain View, CA 94041'), ('city', 'Mountain View'),
                 ('zip', '94041'), ('price', '$$'), ('popularity', '998'),
                 ('description', 'Laid-back spot, with a deck.')]},
    {'item_id': PARK, 'title': 'Rengstorff Park', 'attributes': [],
     'details': [('address', 'Rengstorff Park, Mountain View, CA 94040-1234'), ('city', 'Mountain View'),
                 ('zip', '94040'), ('popularity', '8')]},
    {'item_id': FAR, 'title': None, 'attributes': ['Tire shop'], 'details': [('price', '₩'), ('popularity', '1')]},
    {'item_id': LOST, 'title': None, 'attributes': [], 'details': []}]


def test_the_miniature_gives_the_tables_by_hand(tmp_path):
    dataset = load(publish(tmp_path))
    assert dataset.interactions.to_pylist() == REVIEWS
    assert dataset.users.to_pylist() == [{'user_id': ANN, 'profile': []}, {'user_id': BOB, 'profile': []}]
    assert dataset.items.to_pylist() == ITEMS
    assert (dataset.rating_scale, dataset.domain.items) == ((1.0, 5.0), 'places')


@pytest.mark.parametrize('zip_codes, kept', [
    (google_local.MOUNTAIN_VIEW, [0, 1, 2]), ((94041,), [0]), (('94040', '10001'), [1, 2])])
def test_zip_codes_choose_businesses_with_their_reviews_and_reviewers(tmp_path, zip_codes, kept):
    dataset = load(publish(tmp_path), zip_codes=zip_codes)
    assert dataset.interactions.to_pylist() == [REVIEWS[row] for row in kept]
    met = {REVIEWS[row]['item_id'] for row in kept}
    assert dataset.items.to_pylist() == [item for item in ITEMS if item['item_id'] in met]
    assert set(dataset.users['user_id'].to_pylist()) == {REVIEWS[row]['user_id'] for row in kept}
    assert dataset.recipe['rows_skipped'] == {}


def test_mountain_view_is_the_nine_codes_of_recpie():
    assert google_local.MOUNTAIN_VIEW[0] == '94035' and google_local.MOUNTAIN_VIEW[-1] == '94043'
    assert len(google_local.MOUNTAIN_VIEW) == 9


@pytest.mark.parametrize('zip_codes, message', [
    (('9404',), "zip_codes: '9404' should be five digits"),
    ('94041', "zip_codes: '9' should be five digits; give a tuple"),
    ((True,), 'zip_codes: True should be'),
    (('10001',), 'meta-California.json.gz: no address ends with one of the zip codes 10001'),
])
def test_zip_codes_that_cannot_be_meant_are_told(tmp_path, zip_codes, message):
    with pytest.raises(UserError) as error:
        load(publish(tmp_path), zip_codes=zip_codes)
    assert message in str(error.value)


def test_state_and_core_name_the_files(tmp_path):
    publish(tmp_path)
    (tmp_path / META).rename(tmp_path / 'meta-New_York.json.gz')
    (tmp_path / REVIEW).rename(tmp_path / 'review-New_York_10.json.gz')
    assert load(tmp_path, state='New York', core=10).interactions.to_pylist() == REVIEWS
    with pytest.raises(UserError, match="core=5: should be 0, for all reviews, or 10, for the publisher's 10-core"):
        load(tmp_path, state='New York', core=5)


def test_files_that_are_missing_are_fetched_from_the_publisher(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(fetch, 'fetch', lambda download, root: (fetched.append(download.url), publish(root)))
    assert load(tmp_path / 'new').interactions.to_pylist() == REVIEWS
    address = 'https://mcauleylab.ucsd.edu/public_datasets/gdrive/googlelocal/'
    assert fetched == [address + REVIEW, address + META]


@pytest.mark.parametrize('changes, message', [
    (dict(review=('"rating": 1', '"rating": "1"')), 'review-California.json.gz, line 2, field rating'),
    (dict(review=('"rating": 1', '"rating": 0')), 'line 2, column rating: "0.0" should be a number from 1 to 5'),
    (dict(review=('"rating": 1', '"rating": null')), 'line 2, column rating: nothing should be a number from 1 to 5'),
    (dict(review=('"time": 1617637670999', '"time": -1')), 'line 2, column time: "-1" should be an integer of'),
    (dict(review=('"time": 1617637670999', '"time": "2021"')), 'line 2, field time'),
    (dict(review=('"time": 1617637670999, ', '')), 'line 2, column time: nothing should be an integer'),
    (dict(review=(f'"user_id": "{BOB}"', '"user_id": null')), 'line 2, column user_id: nothing should not be empty'),
    (dict(review=(f'"gmap_id": "{PARK}"', '"gmap_id": ""')), 'line 2, column gmap_id: "" should not be empty'),
    (dict(review=('Jim', 'J\udce9m')), 'review-California.json.gz, line 2: byte 0xe9 is not UTF-8'),
    (dict(review=('"rating": 1,', '"rating": 1')), 'review-California.json.gz, line 2: is not JSON'),
    (dict(meta=('"category": null', '"category": "Park"')), 'meta-California.json.gz, line 2, field category'),
    (dict(meta=(f'"gmap_id": "{PARK}", ', '')), 'meta-California.json.gz, line 2, column gmap_id: nothing'),
], ids=lambda x: None if isinstance(x, dict) else x[:40])
def test_each_fault_is_told_by_file_line_and_field(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        load(publish(tmp_path, **changes))
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_a_download_that_broke_off_is_told(tmp_path):
    data = (publish(tmp_path) / REVIEW).read_bytes()
    (tmp_path / REVIEW).write_bytes(data[:-20])
    with pytest.raises(UserError, match='review-California.json.gz, line 1: cannot be decompressed'):
        load(tmp_path)


def test_bad_rows_are_passed_over_and_counted_where_that_is_wished(tmp_path):
    publish(tmp_path, review=('"rating": 1', '"rating": 7'), meta=(f'"{FAR}"', '7'))
    dataset = load(tmp_path, on_bad_row='skip')
    assert dataset.recipe['rows_skipped'] == {REVIEW: 1, META: 1}
    assert dataset.interactions.to_pylist() == REVIEWS[:1] + REVIEWS[2:]
    assert dataset.items.to_pylist() == [*ITEMS[:2], ITEMS[2] | {'attributes': [], 'details': []}, ITEMS[3]]


@pytest.mark.parametrize('zip_codes, count', [((), 400), (google_local.MOUNTAIN_VIEW, 200)])
def test_damage_is_told_or_stays_in_its_row(tmp_path, zip_codes, count):
    files = {name: text.encode() for name, text in FILES.items()}
    check_mutations(lambda folder: load(folder, zip_codes=zip_codes), files, tmp_path, count=count)
