"""Amazon reviews from miniatures written as the three releases are, quirks included, whole and damaged."""

import gzip
import json
import pathlib
import re

import pyarrow as pa
import pytest

from tests.data.readers.mutations import check_mutations
from xrec_jax.data import catalog
from xrec_jax.data.domains import BOOKS, MOVIES, PRODUCTS
from xrec_jax.data.raw import BadRows
from xrec_jax.data.readers import amazon
from xrec_jax.errors import UserError

REAL = pathlib.Path(__file__).parents[4] / 'shared' / 'data' / 'amazon-musical-instruments-2014'

REVIEWS_2014 = (
    '{"reviewerID": "A2IBPI20UZIR0U", "asin": "1384719342", "reviewerName": "cassandra \\"Yeah, well...\\"", '
    '"helpful": '
    '[0, 0], "reviewText": "Does what it\'s supposed to: the Sound is crisp, strings &#34;ring&#34;.", "overall": 5.0, '
    '"summary": "good", "unixReviewTime": 1393545600, "reviewTime": "02 28, 2014"}\n'
    '{"reviewerID": "A14VAT5EAX3D9S", "asin": "B00004Y2UT", "helpful": [13, 14], "reviewText": "", "overall": 3.0, '
    '"summary": "No words", "unixReviewTime": 1363392000, "reviewTime": "03 16, 2013"}\n'
    '{"reviewerID": "A2IBPI20UZIR0U", "asin": "B000068NSX", "reviewerName": "cassandra", "helpful": [1, 1], '
    '"reviewText"'
    ': "Good price \\ud83d sounds\\n\\tfine \\u00e9 {}", "overall": 1.0, "summary": "}{", "unixReviewTime": '
    '1377648000, '
    '"reviewTime": "08 28, 2013"}\n')
META_2014 = (
    "{'asin': '1384719342', 'salesRank': {'Musical Instruments': 1}, 'imUrl': 'http://ecx.images-amazon.com/x.jpg', "
    "'categories': [['Musical Instruments', 'Microphones &amp; Accessories'], ['Musical Instruments', 'Filters']], "
    "'title': 'Pop Filter &amp; \"Stand\", 6&quot;', 'price': 7.5, 'brand': 'Ink\\'s', 'description': "
    "'Protects {it}'}\n"
    "{'asin': 'B00004Y2UT', 'related': {'also_bought': ['B00063678K']}, 'title': \"Player's Cable\", "
    "'price': 0.0, 'categories': [[]]}\n"
    "{'asin': 'B0NOBODYRE', 'title': 'Never reviewed', 'categories': [['Musical Instruments']]}\n"
    "{'asin': '1384719342', 'title': 'Described again', 'categories': [['Toys']]}\n")
WORDS_2014 = {
    'user_feature_sentiment.json': '{"0": {"0": 1.0, "2": -0.5, "3": 1}, "1": {"1": 1}}',
    'user_id_dict.json': '{"A2IBPI20UZIR0U": 0, "A14VAT5EAX3D9S": 1}',
    'feature_id_dict.json': '{"sound": 0, "cable": 1, "price": 2, "guitar sound": 3}',
}
REVIEWS_2018 = (
    '{"overall": 5.0, "vote": "1,234", "verified": true, "reviewTime": "03 11, 2014", "reviewerID": "A1UQBFCERIP7VJ", '
    '"asin": "0001713353", "style": {"Format:": " Hardcover"}, "reviewerName": "Margaret Picky", '
    '"reviewText": "The King, '
    'the \\"Mice\\" and the Cheese", "summary": "Five", "unixReviewTime": 1394496000}\n'
    '{"overall": 2.0, "verified": false, "reviewTime": "09 15, 2000", "reviewerID": "A39LJ0N0FFR1OG", "asin": '
    '"0001061240", "reviewerName": "Anne", "summary": "no text", "unixReviewTime": 968976000, "image": ["x.jpg"]}\n'
    '{"overall": 5.0, "vote": "2", "verified": true, "reviewTime": "03 11, 2014", "reviewerID": "A1UQBFCERIP7VJ", '
    '"asin": "0001713353", "reviewText": "again \\ud83d\\ude00", "summary": "Twice", "unixReviewTime": 1394496000}\n'
    '{"overall": 4.0, "verified": true, "reviewTime": "03 12, 2014", "reviewerID": "#oc-R1", "asin": "0002113570", '
    '"style": null, "reviewText": " ", "unixReviewTime": 1394582400}\n')
META_2018 = (
    '{"category": ["Books", "Children&#39;s Books", "</span></span>", "Books"], "tech1": "", "description": ["It is"], '
    '"fit": "", "title": "The King, the Mice &amp; the Cheese", "also_buy": [], "tech2": "", "brand": "Visit Amazon\'s '
    'Nancy  Gurney Page", "feature": [], "rank": "1,234 in Books (", "main_cat": "Books", "price": '
    '"$1,012.99", "asin": '
    '"0001713353"}\n'
    '{"category": [], "title": "var aPageStart = (new Date()).getTime();", "brand": "", "main_cat": "<img '
    'src=\\"x.png\\" '
    'class=\\"nav\\" alt=\\"Digital Music\\"/>", "price": ".a-box-inner{background-color:#fff}", "asin": '
    '"0001061240"}\n'
    '{"category": [], "title": "", "brand": "by J. Page", "main_cat": "Books", "price": "$7.5 - $12", "asin": '
    '"0002113570"}\n'
    '{"category": [], "title": "", "brand": "by J. Page", "main_cat": "Books", "price": "$7.5 - $12", "asin": '
    '"0002113570"}\n')
REVIEWS_2023 = (
    '{"rating": 5.0, "title": "Such", "text": "This spray<br />smells \\ud83d\\ude0a", "images": [{"small_image_url": '
    '"x.jpg"}], "asin": "B00YQ6X8EO", "parent_asin": "B00YQ6PARE", "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", '
    '"timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": true}\n'
    '{"rating": 0.0, "title": "Gone", "text": "", "images": [], "asin": "B07PNNCSP9", "parent_asin": "B097R46CSY", '
    '"user_id": "AEYORY2AVPMCPDV57CE337YU5LXA", "timestamp": -62135596800000, "helpful_vote": 1, "verified_purchase": '
    'false}\n'
    '{"rating": 4.0, "title": "Old", "text": "mirror", "asin": "B08BZ63GMJ", "parent_asin": "B08BZ63GMJ", "user_id": '
    '"AEYORY2AVPMCPDV57CE337YU5LXA", "sort_timestamp": 1609322563534, "helpful_votes": 5, "verified_purchase": true}\n'
    '{"rating": 1.0, "title": "x", "text": "no metadata", "images": [], "asin": "B01", "parent_asin": "B0NOWHERE1", '
    '"user_id": "AEYORY2AVPMCPDV57CE337YU5LXA", "timestamp": 1609322563000, "helpful_vote": 5, '
    '"verified_purchase": true}\n')
META_2023 = (
    '{"main_category": "All Beauty", "title": "Howard LC0008 &amp; Co", "average_rating": 4.8, "rating_number": 10, '
    '"features": [], "description": [], "price": "None", "images": [{"hi_res": null}], "videos": [], "store": "Howard  '
    'Products", "categories": [], "details": {"Package": "7.1 x 5.5"}, "parent_asin": "B00YQ6PARE", "bought_together": '
    'null}\n'
    '{"main_category": "Books", "title": "Yes \\ud83d", "subtitle": "S", "price": 14.5, "store": null, "categories": '
    '["Books", "Fiction", "Fiction"], "author": {"avatar": "x", "name": "Ann O&#39;Nym", "about": []}, "parent_asin": '
    '"B097R46CSY"}\n'
    '{"main_category": null, "title": null, "price": "from 1,204.99", "store": "\\u2014", "categories": null, '
    '"author": '
    'null, "parent_asin": "B08BZ63GMJ"}\n'
    '{"main_category": null, "title": "Never", "price": "\\u2014", "categories": [], "parent_asin": "B0NOBODYRE"}\n')
FILES = {
    2014: {'reviews_Musical_Instruments.json.gz': REVIEWS_2014, 'meta_Musical_Instruments.json.gz': META_2014,
           **WORDS_2014},
    2018: {'Books.json.gz': REVIEWS_2018, 'meta_Books.json.gz': META_2018},
    2023: {'All_Beauty.jsonl.gz': REVIEWS_2023, 'meta_All_Beauty.jsonl.gz': META_2023},
}
CATEGORY = {2014: 'Musical_Instruments', 2018: 'Books', 2023: 'All_Beauty'}


def publish(folder: pathlib.Path, year: int, *changes: tuple[str, str]) -> pathlib.Path:
    """Writes the files of a year; (old, new) replaces a text, wherever it is; it must be there."""
    files = dict(FILES[year])
    for old, new in changes:
        assert any(old in text for text in files.values()), old
        files = {name: text.replace(old, new, 1) for name, text in files.items()}
    for name, text in files.items():
        data = text.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith('.gz') else data)
    return folder


def load(folder: pathlib.Path, year: int, **options):
    return catalog.load(f'amazon-{year}', folder, **{'category': CATEGORY[year], **options})


def test_2014_gives_the_tables_by_hand(tmp_path):
    dataset = load(publish(tmp_path, 2014), 2014)
    assert dataset.interactions.to_pylist() == [
        {'user_id': 'A2IBPI20UZIR0U', 'item_id': '1384719342', 'rating': 5.0, 'timestamp': 1393545600, 'aspects': None,
         'review': 'Does what it\'s supposed to: the Sound is crisp, strings &#34;ring&#34;.'},
        {'user_id': 'A14VAT5EAX3D9S', 'item_id': 'B00004Y2UT', 'rating': 3.0, 'timestamp': 1363392000, 'aspects': None,
         'review': None},
        {'user_id': 'A2IBPI20UZIR0U', 'item_id': 'B000068NSX', 'rating': 1.0, 'timestamp': 1377648000, 'aspects': None,
         'review': 'Good price \ufffd sounds\n\tfine é {}'}]
    assert dataset.items.to_pylist() == [
        {'item_id': '1384719342', 'title': 'Pop Filter & "Stand", 6"',
         'attributes': ['Musical Instruments', 'Microphones & Accessories', 'Filters'],
         'details': [('price', '7.50'), ('brand', "Ink's")]},
        {'item_id': 'B00004Y2UT', 'title': "Player's Cable", 'attributes': [], 'details': [('price', '0.00')]},
        {'item_id': 'B000068NSX', 'title': None, 'attributes': [], 'details': []}]
    assert dataset.users.to_pylist() == [{'user_id': 'A2IBPI20UZIR0U', 'profile': []},
                                         {'user_id': 'A14VAT5EAX3D9S', 'profile': []}]
    assert (dataset.name, dataset.rating_scale, dataset.domain) == (
        'amazon-2014-Musical_Instruments', (1.0, 5.0), PRODUCTS)


def test_2018_gives_the_tables_by_hand(tmp_path):
    dataset = load(publish(tmp_path, 2018), 2018)
    assert dataset.interactions.to_pylist() == [
        {'user_id': 'A1UQBFCERIP7VJ', 'item_id': '0001713353', 'rating': 5.0, 'timestamp': 1394496000, 'aspects': None,
         'review': 'The King, the "Mice" and the Cheese'},
        {'user_id': 'A39LJ0N0FFR1OG', 'item_id': '0001061240', 'rating': 2.0, 'timestamp': 968976000, 'aspects': None,
         'review': None},
        {'user_id': 'A1UQBFCERIP7VJ', 'item_id': '0001713353', 'rating': 5.0, 'timestamp': 1394496000, 'aspects': None,
         'review': 'again 😀'},
        {'user_id': '#oc-R1', 'item_id': '0002113570', 'rating': 4.0, 'timestamp': 1394582400, 'aspects': None,
         'review': None}]
    assert dataset.items.to_pylist() == [
        {'item_id': '0001713353', 'title': 'The King, the Mice & the Cheese',
         'attributes': ['Books', "Children's Books"], 'details': [('price', '1012.99'), ('brand', 'Nancy Gurney')]},
        {'item_id': '0001061240', 'title': None, 'attributes': ['Digital Music'], 'details': []},
        {'item_id': '0002113570', 'title': None, 'attributes': ['Books'],
         'details': [('price', '7.50 - 12.00'), ('brand', 'J. Page')]}]
    assert dataset.domain == BOOKS


def test_2023_gives_the_tables_by_hand(tmp_path):
    dataset = load(publish(tmp_path, 2023), 2023)
    ann, bob = 'AGKHLEW2SOWHNMFQIJGBECAF7INQ', 'AEYORY2AVPMCPDV57CE337YU5LXA'
    assert dataset.interactions.to_pylist() == [
        {'user_id': ann, 'item_id': 'B00YQ6PARE', 'rating': 5.0, 'timestamp': 1588687728, 'aspects': None,
         'review': 'This spray<br />smells 😊'},
        {'user_id': bob, 'item_id': 'B097R46CSY', 'rating': None, 'timestamp': None, 'aspects': None, 'review': None},
        {'user_id': bob, 'item_id': 'B08BZ63GMJ', 'rating': 4.0, 'timestamp': 1609322563, 'aspects': None,
         'review': 'mirror'},
        {'user_id': bob, 'item_id': 'B0NOWHERE1', 'rating': 1.0, 'timestamp': 1609322563, 'aspects': None,
         'review': 'no metadata'}]
    assert dataset.items.to_pylist() == [
        {'item_id': 'B00YQ6PARE', 'title': 'Howard LC0008 & Co', 'attributes': ['All Beauty'],
         'details': [('store', 'Howard Products')]},
        {'item_id': 'B097R46CSY', 'title': 'Yes \ufffd', 'attributes': ['Books', 'Fiction'],
         'details': [('price', '14.50'), ('author', "Ann O'Nym")]},
        {'item_id': 'B08BZ63GMJ', 'title': None, 'attributes': [], 'details': [('price', '1204.99'), ('store', '—')]},
        {'item_id': 'B0NOWHERE1', 'title': None, 'attributes': [], 'details': []}]


def test_the_five_core_has_its_own_file(tmp_path):
    for year, name in ((2014, 'reviews_Musical_Instruments'), (2018, 'Books')):
        folder = tmp_path / str(year)
        folder.mkdir()
        publish(folder, year)
        first = FILES[year][f'{name}.json.gz'].splitlines(keepends=True)[0]
        (folder / f'{name}_5.json').write_text(first)  # unpacked: that is found too
        core = load(folder, year, five_core=True)
        assert (core.interactions.num_rows, core.items.num_rows) == (1, 1) and core.items['title'][0].as_py()
        assert core.name == f'amazon-{year}-{CATEGORY[year]}-5-core'
        assert load(folder, year).interactions.num_rows > 2


def test_a_category_has_its_nouns(tmp_path):
    (tmp_path / 'reviews_Movies_and_TV.json').write_text(REVIEWS_2014)
    dataset = load(tmp_path, 2014, category='Movies_and_TV')
    assert dataset.domain == MOVIES
    assert dataset.items['title'].null_count == dataset.items.num_rows == 3  # and no metadata: ids alone


@pytest.mark.parametrize('category', ['../Books', 'Books*', '', 5, None])
def test_a_category_that_can_be_no_part_of_a_name_is_refused(tmp_path, category):
    with pytest.raises(UserError, match='category=.*as in the publisher'):
        load(publish(tmp_path, 2018), 2018, category=category)


@pytest.mark.parametrize('option', ['five_core', 'aspects'])
def test_an_option_of_another_type_is_refused(tmp_path, option):
    with pytest.raises(UserError, match=f"{option}='no': should be True or False"):
        load(publish(tmp_path, 2014), 2014, **{option: 'no'})


def test_what_is_missing_is_fetched_from_its_publisher(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr('xrec_jax.data.fetch.fetch', lambda download, folder: asked.append(download.url))
    for year in FILES:
        publish(tmp_path, year)
    for year, options, urls in (
            (2014, dict(category='Books', five_core=True), {
                'https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_Books_5.json.gz'}),
            (2018, dict(category='Books', five_core=True), {
                'https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/Books_5.json.gz'}),
            (2018, dict(category='Movies_and_TV'), {
                'https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFiles/Movies_and_TV.json.gz',
                'https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/metaFiles2/meta_Movies_and_TV.json.gz'}),
            (2023, dict(category='Books'), {
                'https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/review_categories/Books.jsonl.gz',
                'https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/meta_categories/meta_Books.jsonl.gz'})):
        asked.clear()
        with pytest.raises(UserError, match='holds no'):  # for nothing came
            load(tmp_path, year, **options)
        assert set(asked) == urls


@pytest.mark.parametrize('price, shown', [
    (12.99, '12.99'), (0, '0.00'), (True, None), (-1.0, None), (float('nan'), None), (1e300, None), (None, None),
    ([], None),
    ('$12.99', '12.99'), (' $7 ', '7.00'), ('$1,299', '1299.00'), ('12.5', '12.50'), ('from 9.99', '9.99'),
    ('$9.99 - $20.00', '9.99 - 20.00'), ('', None), ('None', None), ('—', None), ('$', None), ('$12.99x', None),
    ('.a{}', None)])
def test_prices(price, shown):
    assert amazon._price(price) == shown


# --------------------------------------------------------------------------------------- aspects


def test_aspects_are_the_authors_words_that_stand_in_the_review(tmp_path):
    publish(tmp_path, 2014)
    assert load(tmp_path, 2014, aspects=True).interactions['aspects'].to_pylist() == [
        ['sound'],  # in any case
        None,  # no text
        ['price']]  # "sounds" is another word than "sound"
    (tmp_path / 'features').mkdir()
    for name in WORDS_2014:
        (tmp_path / name).rename(tmp_path / 'features' / name)
    assert load(tmp_path, 2014, aspects=True).interactions['aspects'].null_count == 1
    assert load(tmp_path, 2014).interactions['aspects'].null_count == 3  # an option, for they are of all times


def test_aspects_of_two_words_and_of_other_users(tmp_path):
    publish(tmp_path, 2014, ('Good price', 'Price, guitar sound.'),
            ('"reviewText": ""', '"reviewText": "sound, price and Cable"'),
            ('{"A2IBPI20UZIR0U": 0', '{"A2IBPI20UZIR0U": 0, "A0": 7'))
    assert load(tmp_path, 2014, aspects=True).interactions['aspects'].to_pylist() == [
        ['sound'], ['cable'], ['sound', 'price', 'guitar sound']]


@pytest.mark.parametrize('change, message', [
    (('{"0": {"0"', '{"7": {"0"'), 'user_feature_sentiment.json, key "7": should be a number of user_id_dict.json'),
    (('{"0": {"0"', '{"0": {"9"'), 'user_feature_sentiment.json, key "0": .* of feature_id_dict.json'),
    (('"1": {"1": 1}', '"1": [1]'), 'user_feature_sentiment.json, key "1": '),
    (('"1": {"1": 1}', '"1"'), 'user_feature_sentiment.json: is not JSON'),
    (('{"sound": 0, ', '{"sound": 1, '), 'feature_id_dict.json: should give each name an integer of its own'),
    (('"A14VAT5EAX3D9S": 1}', '"A14VAT5EAX3D9S": "1"}'), 'user_id_dict.json: should give each name an integer'),
    ((WORDS_2014['user_id_dict.json'], '[]'), 'user_id_dict.json: should be an object, is list'),
])
def test_faults_of_the_files_of_words(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load(publish(tmp_path, 2014, change), 2014, aspects=True)


def test_aspects_without_their_files_are_refused(tmp_path):
    publish(tmp_path, 2014)
    (tmp_path / 'user_id_dict.json').unlink()
    with pytest.raises(UserError, match='aspects=True needs user_id_dict.json'):
        load(tmp_path, 2014, aspects=True)


# ---------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize('year, change, message', [
    (2014, ('"asin": "B00004Y2UT", "helpful"', '"helpful"'), 'line 2, column asin: nothing should not be empty'),
    (2014, ('"reviewerID": "A14VAT5EAX3D9S"', '"reviewerID": " "'), 'line 2, column reviewerID: " " should not be'),
    (2014, ('"overall": 3.0', '"overall": 6.0'), 'line 2, column overall: "6.0" should be a number from 1 to 5'),
    (2014, ('"overall": 3.0', '"overall": NaN'), "line 2, field overall: 'nan' should be double"),
    (2014, ('"overall": 3.0', '"overall": "good"'), "line 2, field overall: 'good' should be double"),
    (2014, ('"overall": 3.0, ', ''), 'line 2, column overall: nothing should be a number'),
    (2014, ('1363392000', '1363392000000'), 'line 2, column unixReviewTime: "1363392000000" should be seconds'),
    (2014, ('1363392000', '-1'), 'line 2, column unixReviewTime: "-1" should be seconds'),
    (2014, ('"reviewText": "", ', '"reviewText": 5, '), "line 2, field reviewText: '5' should be string"),
    (2014, ('"asin": "B00004Y2UT", ', '"asin": "B00004Y2UT", "asin": "B1", '), 'line 2, field asin: stands there 2'),
    (2014, ('16, 2013"}\n', '16, 2013"}'), 'line 2: is not JSON'),
    (2014, ("{'asin': 'B00004Y2UT', ", '{'), "meta_Musical_Instruments.json.gz, line 2, field asin: 'None' should be"),
    (2014, ("{'asin': 'B00004Y2UT', ", "{'asin': 5, "), "line 2, field asin: '5' should be the id of a product"),
    (2014, ("'title': \"Player's Cable\"", "'title': 5"), "line 2, field title: '5' should be text"),
    (2014, ("'categories': [[]]", "'categories': [[5]]"), "line 2, field categories: '5' should be text"),
    (2014, ("'categories': [[]]", "'categories': open('x')"), 'line 2: is not a Python literal'),
    (2018, ('"asin": "0001061240", "reviewerName"', '"reviewerName"'), 'line 2, column asin: nothing'),
    (2018, ('"title": "", ', '"title": {"a": 1}, '), "meta_Books.json.gz, line 3, field title: .* should be text"),
    (2023, ('"rating": 4.0', '"rating": 0.5'), 'line 3, column rating: "0.5" should be a number from 1 to 5, or'),
    (2023, ('"sort_timestamp": 1609322563534', '"other": 1'), 'line 3, column timestamp: nothing should be milli'),
    (2023, ('1588687728923', '1588687728'), 'line 1, column timestamp: "1588687728" should be milliseconds since 1970'),
    (2023, ('"parent_asin": "B08BZ63GMJ", "user_id"', '"user_id"'), 'line 3, column parent_asin: nothing'),
    (2023, ('"store": "Howard  Products"', '"store": ["x"]'), 'meta_All_Beauty.jsonl.gz, line 1, field store'),
], ids=lambda x: None if isinstance(x, tuple) else str(x)[:40])
def test_each_fault_is_told_by_file_line_and_field(tmp_path, year, change, message):
    publish(tmp_path, year, change)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path, year)
    name = re.search(r'([^/ ]*\.gz), line', str(error.value))[1]
    assert name in FILES[year] and str(tmp_path) in str(error.value)
    dataset = load(tmp_path, year, on_bad_row='skip')
    assert set(dataset.recipe['rows_skipped']) == {name} and sum(dataset.recipe['rows_skipped'].values()) == 1
    published = next(iter(FILES[year].values())).count('\n')
    lost = 0 if 'meta' in name else 2 if 'is not JSON' in message else 1  # two lines are one there
    assert dataset.interactions.num_rows == published - lost


@pytest.mark.parametrize('year', FILES)
def test_a_truncated_file_is_named(tmp_path, year):
    for name in list(FILES[year])[:2]:
        path = publish(tmp_path, year) / name
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match=rf'{name}.*(truncated or damaged|is not (JSON|a Python literal))'):
            load(tmp_path, year)


def test_another_encoding_is_named(tmp_path):
    path = publish(tmp_path, 2018) / 'meta_Books.json.gz'
    path.write_bytes(gzip.compress(META_2018.replace('Gurney', 'Gürney').encode('latin-1')))
    with pytest.raises(UserError, match='meta_Books.json.gz, line 1: byte 0xfc is not UTF-8'):
        load(tmp_path, 2018)


@pytest.mark.parametrize('year', FILES)
def test_damage_is_told_or_stays_where_it_was_done(tmp_path, year):
    files = {name: text.encode() for name, text in FILES[year].items()}
    options = {'aspects': True} if year == 2014 else {}
    check_mutations(lambda folder: load(folder, year, **options), files, tmp_path)


# ------------------------------------------------------------------------------------ real files


def test_the_published_reviews_of_musical_instruments():
    if not REAL.is_dir():
        pytest.skip(f'{REAL} is not there')
    dataset = load(REAL, 2014, five_core=True, aspects=True)
    assert (dataset.interactions.num_rows, dataset.users.num_rows, dataset.items.num_rows) == (10_261, 1_429, 900)
    with gzip.open(REAL / 'reviews_Musical_Instruments_5.json.gz', 'rt') as file:
        rows = [json.loads(line) for line in file]
    assert dataset.interactions['rating'].to_pylist() == [row['overall'] for row in rows]
    assert dataset.interactions['timestamp'].to_pylist() == [row['unixReviewTime'] for row in rows]
    assert dataset.interactions['user_id'].to_pylist() == [row['reviewerID'] for row in rows]
    assert dataset.interactions['item_id'].to_pylist() == [row['asin'] for row in rows]
    assert dataset.interactions['review'].to_pylist() == [
        row['reviewText'].encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace') or None for row in rows]

    words, users, used = (json.loads((REAL / 'features' / f'{name}.json').read_text())
                          for name in ('feature_id_dict', 'user_id_dict', 'user_feature_sentiment'))
    for row, found in zip(rows[::10], dataset.interactions['aspects'].to_pylist()[::10], strict=True):
        mine = used.get(str(users.get(row['reviewerID'])), {})
        assert (found or []) == [word for word, number in words.items() if str(number) in mine
                                 and re.search(rf'\b{word}\b', row['reviewText'], re.IGNORECASE | re.ASCII)]


def test_reviews_are_read_in_little_memory(tmp_path):
    """Blocks of a file, not the file, are in memory: what Arrow holds does not grow with the file."""
    review = json.dumps(dict(reviewerID='A1', asin='B1', overall=4.0, unixReviewTime=1, reviewText='x' * 20_000))
    most = []
    for count in (2000, 8000):  # 40 MB and 160 MB
        with gzip.open(tmp_path / 'Books.json.gz', 'wt', compresslevel=1) as file:
            file.writelines(f'{review}\n' for _ in range(count))
        files = catalog.find(catalog.entry('amazon-2018'), tmp_path, dict(category='Books', five_core=False))
        before, held, rows = pa.total_allocated_bytes(), 0, 0
        for part in amazon.amazon_2018(files, BadRows()).interactions:
            rows += part.num_rows
            held = max(held, pa.total_allocated_bytes() - before)
        assert rows == count
        most.append(held)
    assert most[1] < most[0] + 20e6 and most[1] < 100e6, most
