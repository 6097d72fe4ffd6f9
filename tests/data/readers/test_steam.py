"""Steam's three releases from miniatures written as their publishers write them."""

import gzip
import pathlib
import zipfile

import pytest

from tests.data.readers.mutations import check_mutations
from xrec_jax.data import catalog
from xrec_jax.data.filters import Filters
from xrec_jax.errors import UserError

GAMES = (
    "{u'publisher': u'Valve', u'genres': [u'Action', u'Adventure'], u'app_name': u'Portal 2', u'sentiment': "
    "u'Overwhelmingly Positive', u'title': u'Portal 2', u'url': u'http://store.steampowered.com/app/620/', "
    "u'release_date': u'2011-04-18', u'tags': [u'Puzzle', u'Co-op', u'Rock &amp; Roll'], u'reviews_url': u'http://x', "
    "u'specs': [u'Single-player'], u'price': 19.99, u'early_access': False, u'id': u'620', u'developer': u'Valve', "
    "u'metascore': 95}\n"
    "{u'app_name': u'Tom &amp; \"Jerry\"\\u2122', u'price': u'Free To Play', u'id': u'570', u'tags': [], "
    "u'metascore': u'NA', u'early_access': True, u'genres': [u'Free to Play'], u'discount_price': 4.49}\n"
    "{u'price': 19.99, u'early_access': False, u'url': u'http://store.steampowered.com/'}\n"
    "{u'app_name': u'Wolfenstein II', u'title': u'Wolfenstein II', u'price': u'Third-party', u'id': u'612880'}\n"
    "{u'app_name': u'Wolfenstein again', u'title': u'Wolfenstein again', u'price': 0, u'id': u'612880'}\n")
REVIEWS = (
    "{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'620', u'page_order': 0, u'date': "
    "u'2017-12-17', u'text': u'This would not be acceptable.\\n10/10 &amp; \"fun\"', u'early_access': False, u'page': "
    "1}\n"
    "{u'username': u\"\\u2665 Ha'Turnin\\xe9 \\U0001f600\", u'user_id': u'76561198007483075', u'hours': 51.1, "
    "u'products': 769, u'product_id': u'570', u'page_order': 0, u'date': u'2018-01-05', u'text': u\"I don't {like} "
    "it: u'no'\", u'early_access': True, u'page': 2, u'compensation': u'Product received for free', u'found_funny': "
    "3}\n"
    "{u'username': u'Chaos Syren', u'products': 41, u'product_id': u'620', u'page_order': 1, u'date': u'2010-10-15', "
    "u'text': u'', u'early_access': False, u'page': 1}\n"
    "{u'username': u'Chaos Syren', u'hours': 2, u'products': 41, u'product_id': u'999', u'page_order': 1, u'date': "
    "u'2012-02-29', u'text': u'[b]\\\\o/[/b]', u'early_access': False, u'page': 1}\n")
STEAM = {'steam_games.json.gz': GAMES.encode(), 'steam_reviews.json.gz': REVIEWS.encode()}

USER_REVIEWS = (
    "{'user_id': '76561197970982479', 'user_url': 'http://steamcommunity.com/profiles/76561197970982479', 'reviews': "
    "[{'funny': '', 'posted': 'Posted November 5, 2011.', 'last_edited': '', 'item_id': '1250', 'helpful': 'No "
    "ratings yet', 'recommend': True, 'review': 'Simple yet with \"great\" replayability. ♥'}, {'funny': '3 people "
    "found this review funny', 'posted': 'Posted June 24.', 'last_edited': 'Last edited November 25, 2013.', "
    "'item_id': '22200', 'helpful': '15 of 20 people (75%) found this review helpful', 'recommend': False, 'review': "
    "\"It's unique.\\nReally\"}]}\n"
    "{'user_id': 'evcentric', 'user_url': 'http://steamcommunity.com/id/evcentric', 'reviews': []}\n"
    "{'user_id': 'doctr', 'user_url': 'http://steamcommunity.com/id/doctr', 'reviews': [{'funny': '', 'posted': "
    "'Posted February 3, 2014.', 'last_edited': '', 'item_id': '620', 'helpful': 'No ratings yet', 'recommend': True, "
    "'review': ''}]}\n"
    "{'user_id': 'doctr', 'user_url': 'http://steamcommunity.com/id/doctr', 'reviews': [{'funny': '', 'posted': "
    "'Posted February 3, 2014.', 'last_edited': '', 'item_id': '620', 'helpful': 'No ratings yet', 'recommend': True, "
    "'review': ''}]}\n")
LIBRARIES = (
    "{'user_id': '76561197970982479', 'items_count': 2, 'steam_id': '76561197970982479', 'user_url': "
    "'http://steamcommunity.com/profiles/76561197970982479', 'items': [{'item_id': '10', 'item_name': \"Rock 'n' "
    "&amp; Roll\", 'playtime_forever': 6, 'playtime_2weeks': 0}, {'item_id': '1250', 'item_name': 'Killing Floor', "
    "'playtime_forever': 10006, 'playtime_2weeks': 0}]}\n"
    "{'user_id': 'js41637', 'items_count': 0, 'steam_id': '76561198035864385', 'user_url': 'http://x', 'items': []}\n"
    "{'user_id': 'evcentric', 'items_count': 1, 'steam_id': '76561198007712555', 'user_url': 'http://x', 'items': "
    "[{'item_id': '1250', 'item_name': 'Killing Floor', 'playtime_forever': 0, 'playtime_2weeks': 0}]}\n")
AUSTRALIAN = {'australian_user_reviews.json.gz': USER_REVIEWS.encode(),
              'australian_users_items.json.gz': LIBRARIES.encode()}

STEAM_200K = (
    '151603712,"The Elder Scrolls V Skyrim",purchase,1.0,0\n151603712,"The Elder Scrolls V Skyrim",play,273.0,0\n'
    '59945701,"Sid Meier\'s Civilization IV",purchase,1.0,0\n59945701,"Sid Meier\'s Civilization IV",purchase,1.0,0\n'
    '59945701,"Papers, Please &amp; ""Co""",purchase,1.0,0\n151603712,"Papers, Please &amp; ""Co""",purchase,1.0,0\n')


def publish(folder: pathlib.Path, files: dict[str, bytes], **changes: tuple[str, str]) -> pathlib.Path:
    """Writes `files`; reviews=(old, new) replaces a text, which must be there, in the one whose name holds the key."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        for part, (old, new) in changes.items():
            if part in name:
                assert old.encode() in data, old
                data = data.replace(old.encode(), new.encode('utf-8', 'surrogateescape'), 1)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith('.gz') else data)
    return folder


def rows(dataset, *names):
    return list(zip(*(dataset.interactions[name].to_pylist() for name in names)))


# -------------------------------------------------------------------------------- reviews and games


def test_reviews_and_games_give_the_tables_by_hand(tmp_path):
    dataset = catalog.load('steam', publish(tmp_path, STEAM))
    heart = "♥ Ha'Turniné 😀"
    assert dataset.interactions.to_pylist() == [
        {'user_id': 'Chaos Syren', 'item_id': '620', 'rating': None, 'timestamp': 1513468800, 'aspects': None,
         'review': 'This would not be acceptable.\n10/10 &amp; "fun"'},
        {'user_id': heart, 'item_id': '570', 'rating': None, 'timestamp': 1515110400, 'aspects': None,
         'review': "I don't {like} it: u'no'"},
        {'user_id': 'Chaos Syren', 'item_id': '620', 'rating': None, 'timestamp': 1287100800, 'aspects': None,
         'review': None},
        {'user_id': 'Chaos Syren', 'item_id': '999', 'rating': None, 'timestamp': 1330473600, 'aspects': None,
         'review': '[b]\\o/[/b]'}]
    assert dataset.users.to_pylist() == [{'user_id': 'Chaos Syren', 'profile': []}, {'user_id': heart, 'profile': []}]
    assert dataset.items.to_pylist() == [
        {'item_id': '620', 'title': 'Portal 2', 'attributes': ['Puzzle', 'Co-op', 'Rock & Roll'], 'details': [
            ('price', '19.99'), ('developer', 'Valve'), ('publisher', 'Valve'), ('released', '2011-04-18'),
            ('metascore', '95'), ('genres', 'Action, Adventure'), ('popularity', '2')]},
        {'item_id': '570', 'title': 'Tom & "Jerry"™', 'attributes': [], 'details': [
            ('price', 'free'), ('genres', 'Free to Play'), ('popularity', '1')]},
        {'item_id': '612880', 'title': 'Wolfenstein II', 'attributes': [], 'details': []},
        {'item_id': '999', 'title': None, 'attributes': [], 'details': []}]
    assert (dataset.name, dataset.rating_scale, dataset.domain.consumed) == ('steam', (0.0, 1.0), 'played')


def test_genres_may_be_the_attributes_as_in_the_prompts_of_llmxrec(tmp_path):
    items = catalog.load('steam', publish(tmp_path, STEAM), attributes='genres').items.to_pylist()
    assert items[0]['attributes'] == ['Action', 'Adventure']
    assert dict(items[0]['details'])['tags'] == 'Puzzle, Co-op, Rock & Roll'
    with pytest.raises(UserError, match='attributes="genre". Did you mean "genres"'):
        catalog.load('steam', tmp_path, attributes='genre')


def test_popularity_is_that_of_the_file_whatever_the_filters(tmp_path):
    dataset = catalog.load('steam', publish(tmp_path, STEAM), filters=Filters(repeats='last', min_per_user=2))
    assert rows(dataset, 'item_id', 'timestamp') == [('620', 1513468800), ('999', 1330473600)]
    assert dict(dataset.items.to_pylist()[0]['details'])['popularity'] == '2'


STEAM_FAULTS = [
    (('reviews', "u'username': u'Chaos Syren'", "u'username': u''"), 'line 1, column username: "" should not be empty'),
    (('reviews', "u'username': u'Chaos Syren'", "u'username': None"), 'line 1, column username: nothing should not be'),
    (('reviews', "u'username': u'Chaos Syren', ", ''), 'line 1, column username: nothing should not be empty'),
    (('reviews', "u'620'", '620'), "line 1, field product_id: '620' should be string"),
    (('reviews', "u'620'", "u'Portal'"), 'line 1, column product_id: "Portal" should be the number of a game'),
    (('reviews', "u'2018-01-05'", "u'05-01-2018'"), 'line 2, column date: "05-01-2018" should be a day, as 2017-12-17'),
    (('reviews', "u'2012-02-29'", "u'2013-02-29'"), 'line 4, column date: "2013-02-29" should be a day'),
    (('reviews', "u'2012-02-29'", "u'2012-13-29'"), 'line 4, column date: "2012-13-29" should be a day'),
    (('reviews', "u'hours': 51.1", "u'hours': __import__('os').getcwd()"), 'line 2: is not a Python literal'),
    (('reviews', "u'page': 1}", "u'page': 1"), 'line 1: is not a Python literal'),
    (('reviews', "u'This", "u'\udcffThis"), 'line 1: byte 0xff is not UTF-8'),
    (('reviews', "{u'username'", "[{u'username'"), 'line 1: is not a Python literal'),
    (('games', "u'id': u'570'", "u'id': 570"), "line 2, field id: '570' should be text"),
    (('games', "u'id': u'570'", "u'id': u'57O'"), "line 2, field id: '57O' should be the number of a game"),
    (('games', "[u'Puzzle', ", "[7, "),
     "line 1, field tags: \"[7, 'Co-op', 'Rock &amp; Roll']\" should be a list of texts"),
    (('games', "u'price': u'Third", "u'price': open('x"), 'line 4: is not a Python literal'),
]


@pytest.mark.parametrize('change, message', STEAM_FAULTS, ids=[message for _, message in STEAM_FAULTS])
def test_each_fault_is_told_by_file_line_and_field(tmp_path, change, message):
    part, old, new = change
    with pytest.raises(UserError) as error:
        catalog.load('steam', publish(tmp_path, STEAM, **{part: (old, new)}))
    assert f'steam_{part}.json.gz, {message}' in str(error.value)


def test_bad_rows_are_passed_over_and_counted(tmp_path):
    publish(tmp_path, STEAM, reviews=("u'2018-01-05'", "u'soon'"), games=("u'id': u'570'", "u'id': 570"))
    dataset = catalog.load('steam', tmp_path, on_bad_row='skip')
    assert rows(dataset, 'item_id') == [('620',), ('620',), ('999',)]
    assert dataset.items['item_id'].to_pylist() == ['620', '612880', '999']
    assert dataset.recipe['rows_skipped'] == {'steam_reviews.json.gz': 1, 'steam_games.json.gz': 1}


@pytest.mark.parametrize('name', STEAM)
def test_a_truncated_file_is_said_to_be_one(tmp_path, name):
    path = publish(tmp_path, STEAM) / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=f'{name}.*cannot be decompressed .* truncated or damaged'):
        catalog.load('steam', tmp_path)


def test_damaged_reviews_and_games_are_told_or_stay_where_they_are(tmp_path):
    check_mutations(lambda folder: catalog.load('steam', folder), STEAM, tmp_path)


# ------------------------------------------------------------------------------------- Australians


def test_reviews_are_joined_to_the_games_that_users_have(tmp_path):
    dataset = catalog.load('steam-australian', publish(tmp_path, AUSTRALIAN))
    assert dataset.interactions.to_pylist() == [
        {'user_id': '76561197970982479', 'item_id': '10', 'rating': None, 'timestamp': None, 'aspects': None,
         'review': None},
        {'user_id': '76561197970982479', 'item_id': '1250', 'rating': 1.0, 'timestamp': 1320451200, 'aspects': None,
         'review': 'Simple yet with "great" replayability. ♥'},
        {'user_id': 'evcentric', 'item_id': '1250', 'rating': None, 'timestamp': None, 'review': None, 'aspects': None},
        {'user_id': '76561197970982479', 'item_id': '22200', 'rating': 0.0, 'timestamp': None, 'aspects': None,
         'review': "It's unique.\nReally"},
        {'user_id': 'doctr', 'item_id': '620', 'rating': 1.0, 'timestamp': 1391385600, 'review': None, 'aspects': None}]
    assert dataset.items.to_pylist() == [
        {'item_id': '1250', 'title': 'Killing Floor', 'attributes': [], 'details': [('popularity', '2')]},
        {'item_id': '22200', 'title': None, 'attributes': [], 'details': []},
        {'item_id': '620', 'title': None, 'attributes': [], 'details': []},
        {'item_id': '10', 'title': "Rock 'n' & Roll", 'attributes': [], 'details': [('popularity', '1')]}]
    assert dataset.users['user_id'].to_pylist() == ['76561197970982479', 'evcentric', 'doctr']


def test_without_the_games_that_users_have_there_are_only_reviews(tmp_path):
    publish(tmp_path, AUSTRALIAN)
    dataset = catalog.load('steam-australian', tmp_path, owned=False, filters=Filters(repeats='first'))
    assert rows(dataset, 'item_id', 'rating') == [('1250', 1.0), ('22200', 0.0), ('620', 1.0)]
    assert dataset.items.to_pylist()[0] == {
        'item_id': '1250', 'title': 'Killing Floor', 'attributes': [], 'details': [('popularity', '2')]}


def test_games_are_described_where_their_file_is_there(tmp_path):
    publish(tmp_path, AUSTRALIAN | {'steam_games.json.gz': GAMES.encode()})
    items = {row['item_id']: row for row in catalog.load('steam-australian', tmp_path).items.to_pylist()}
    assert set(items) == {'1250', '22200', '620', '10'}
    assert (items['620']['title'], items['620']['attributes'][:2]) == ('Portal 2', ['Puzzle', 'Co-op'])
    assert dict(items['620']['details'])['price'] == '19.99'
    assert items['10']['title'] == "Rock 'n' & Roll"


AUSTRALIAN_FAULTS = [
    (('reviews', "'Posted June 24.'", "'Posted June 24'"), 'line 1, column posted: "Posted June 24" should be a day'),
    (('reviews', "'Posted June 24.'", "'Posted Juni 24.'"), 'line 1, column posted: "Posted Juni 24."'),
    (('reviews', "February 3, 2014", "February 30, 2014"), 'line 3, column posted: "Posted February 30, 2014."'),
    (('reviews', "'recommend': False", "'recommend': 'no'"), 'line 1, field reviews: '),
    (('reviews', "'recommend': False", "'recommend': None"),
     'line 1, column recommend: nothing should be True or False'),
    (('reviews', "'item_id': '620'", "'item_id': ''"), 'line 3, column item_id: "" should be the number of a game'),
    (('reviews', "'reviews': []", "'reviews': None"), 'line 2, column reviews: nothing should be a list'),
    (('reviews', "'reviews': []", "'reviews': {}"), "line 2, field reviews: '{}' should be"),
    (('items', "'user_id': 'js41637'", "'user_id': ''"), 'line 2, column user_id: "" should not be empty'),
    (('items', "{'item_id': '10', ", '{'), 'line 1, column item_id: nothing should be the number of a game'),
    (('items', "'item_name': 'Killing Floor'", "'item_name': 5"), 'line 1, field items: '),
]


@pytest.mark.parametrize('change, message', AUSTRALIAN_FAULTS, ids=[message for _, message in AUSTRALIAN_FAULTS])
def test_each_fault_in_nested_lists_is_told_by_file_line_and_field(tmp_path, change, message):
    part, old, new = change
    with pytest.raises(UserError) as error:
        catalog.load('steam-australian', publish(tmp_path, AUSTRALIAN, **{part: (old, new)}))
    assert f'{part}.json.gz, {message}' in str(error.value)


def test_a_bad_review_is_passed_over_and_the_user_s_others_stay(tmp_path):
    publish(tmp_path, AUSTRALIAN, reviews=("'Posted November 5, 2011.'", "'long ago'"))
    dataset = catalog.load('steam-australian', tmp_path, on_bad_row='skip')
    assert rows(dataset, 'item_id', 'rating') == [
        ('10', None), ('1250', None), ('1250', None), ('22200', 0.0), ('620', 1.0)]
    assert dataset.recipe['rows_skipped'] == {'australian_user_reviews.json.gz': 1}


def test_damaged_nested_lists_are_told_or_stay_where_they_are(tmp_path):
    check_mutations(lambda folder: catalog.load('steam-australian', folder), AUSTRALIAN, tmp_path)


# ------------------------------------------------------------------------------------- steam-200k


def test_purchases_are_the_interactions_of_steam_200k(tmp_path):
    with zipfile.ZipFile(tmp_path / 'archive.zip', 'w') as packed:
        packed.writestr('steam-200k.csv', STEAM_200K)
    dataset = catalog.load('steam-200k', tmp_path)
    papers = 'Papers, Please &amp; "Co"'
    assert rows(dataset, 'user_id', 'item_id', 'rating', 'timestamp') == [
        ('151603712', 'The Elder Scrolls V Skyrim', None, None),
        ('59945701', "Sid Meier's Civilization IV", None, None),
        ('59945701', "Sid Meier's Civilization IV", None, None), ('59945701', papers, None, None),
        ('151603712', papers, None, None)]
    assert dataset.items.to_pylist()[1:] == [
        {'item_id': "Sid Meier's Civilization IV", 'title': "Sid Meier's Civilization IV", 'attributes': [],
         'details': [('popularity', '2')]},
        {'item_id': papers, 'title': 'Papers, Please & "Co"', 'attributes': [], 'details': [('popularity', '2')]}]


FAULTS_200K = [
    (('151603712,"The', 'x,"The'), 'line 1, column user_id: "x" should be an integer of at least 1'),
    (('purchase,1.0', 'sale,1.0'), 'line 1, column behaviour: "sale" should be one of purchase, play'),
    (('play,273.0', 'play,much'), 'line 2, column hours: "much" should be a number'),
    (('purchase,1.0', 'purchase,2.0'), 'line 1, column hours: "2.0" should be 1.0 in a purchase'),
    (('273.0,0', '273.0,1'), 'line 2, column zero: "1" should be one of 0'),
    (('"Sid Meier\'s Civilization IV"', '""'), 'line 3, column game: "" should not be empty'),
    (('"Papers, Please &amp; ""Co"""', 'Papers, Please'), 'line 5: has 6 fields, should have 5'),
    (('273.0,0', '273.0'), 'line 2: has 4 fields, should have 5'),
]


@pytest.mark.parametrize('change, message', FAULTS_200K, ids=[message for _, message in FAULTS_200K])
def test_each_fault_in_steam_200k_is_told_by_line_and_column(tmp_path, change, message):
    with pytest.raises(UserError) as error:
        catalog.load('steam-200k', publish(tmp_path, {'steam-200k.csv': STEAM_200K.encode()}, steam=change))
    assert f'steam-200k.csv, {message}' in str(error.value)


def test_the_account_of_steam_200k_is_asked_for(tmp_path):
    with pytest.raises(UserError, match='holds no steam-200k.csv; get it from https://www.kaggle.com'):
        catalog.load('steam-200k', tmp_path)


def test_damaged_purchases_are_told_or_stay_where_they_are(tmp_path):
    files = {'steam-200k.csv': STEAM_200K.encode()}
    check_mutations(lambda folder: catalog.load('steam-200k', folder), files, tmp_path)
