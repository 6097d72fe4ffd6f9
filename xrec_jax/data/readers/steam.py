"""Steam, the games' shop: the files of the McAuley lab (UCSD) and of Tamber (Kaggle) → three tables.

`steam` reads steam_reviews.json.gz and steam_games.json.gz, Python literals, one dict a line:
- a review is a purchase: of its author, known by `username` (a name for show; some are shared), whose
  Steam id is there for a part only. There is no rating; `hours` (played) and `products` (owned) are left out.
  A user may review a game several times: `repeats=last` keeps one of them.
- two of the games have no id, and one stands there twice. A price is a number, or words: 'Free To Play',
  'Free Demo' and so on are "free", others ('Third-party', 'Starting at $499.00') no price.
- users' verdicts on a game as a whole (`sentiment`) are left out: the reviews to be told of made them.
LLMXRec's Table 1 has 2,567,538 users, 32,135 items and 3,043,146 actions, as RecBole's file "steam (duplicate
removal)" is described: the users are right, the items are the lines of steam_games.json.gz (32,132 ids; 15,474 of
them are reviewed), and the actions are no pairs of user and game: RecBole's converter takes `products` for
`product_id` when it removes duplicates. The reviews are 7,793,069, of 6,889,728 pairs. LLMXRec's "tags" of a
game are its genres: `attributes=genres`.

`steam_australian` reads australian_user_reviews.json.gz and australian_users_items.json.gz, literals too, one
user a line (some hundred users have two). The games that a user has are purchases. Where the user reviewed
one the purchase has the verdict (recommended: 1, not: 0), the text and the day, which is not known where
the review is of the year of the crawl ('Posted June 24.'); reviews of games that the user no longer has
come last. Playing times are left out. Tags and prices come from steam_games.json.gz, where it is there.

`steam_200k` reads steam-200k.csv: the rows 'purchase'; of 'play' (hours) a purchase always stands before.
Games have no ids but their names, and no tags.

Popularity is the number of interactions in the files, before filters; of Australians, that of libraries which
hold a game.
"""

import collections
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import GAMES
from xrec_jax.data.entry import Entry
from xrec_jax.data.fetch import Download
from xrec_jax.data.ingest import Source, nothing
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import delimited, jsonlines, literals, records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError, nearest

LICENCE = 'none stated; the publisher asks that three papers be cited'
CITATION = ('W.-C. Kang, J. McAuley: Self-Attentive Sequential Recommendation. ICDM 2018; M. Wan, J. McAuley: Item '
            'Recommendation on Monotonic Behavior Chains. RecSys 2018; A. Pathak, K. Gupta, J. McAuley: Generating and '
            'Personalizing Bundle Recommendations on Steam. SIGIR 2017')
LICENCE_200K = 'Open Database License, contents under the Database Contents License (as Kaggle lists it)'
REVIEWS, METADATA = 'steam_reviews.json', 'steam_games.json'
AUSTRALIAN_REVIEWS, LIBRARIES = 'australian_user_reviews.json', 'australian_users_items.json'
REVIEW = pa.schema([(name, pa.string()) for name in ('username', 'product_id', 'date', 'text')])
USER_REVIEWS = pa.schema([('user_id', pa.string()), ('reviews', pa.list_(pa.struct([
    ('item_id', pa.string()), ('posted', pa.string()), ('recommend', pa.bool_()), ('review', pa.string())])))])
LIBRARY = pa.schema([('user_id', pa.string()), ('items', pa.list_(pa.struct([
    ('item_id', pa.string()), ('item_name', pa.string())])))])
PURCHASES = ('user_id', 'game', 'behaviour', 'hours', 'zero')
ATTRIBUTES = ('tags', 'genres')
_ID = '^[0-9]{1,10}$'
_DATE = '^[0-9]{4}-[0-9]{2}-(?P<day>[0-9]{2})$'
_MONTH = '(?:January|February|March|April|May|June|July|August|September|October|November|December)'
_POSTED = f'^Posted {_MONTH} (?P<day>[0-9]{{1,2}}), [0-9]{{4}}\\.$'
_POSTED_THIS_YEAR = f'^Posted {_MONTH} [0-9]{{1,2}}\\.$'


def steam(files: Mapping[str, RawFile], bad: BadRows, *, attributes: str = 'tags') -> Source:
    """Reads reviews and games; `attributes` of a game: its 'tags', or its 'genres' as in LLMXRec's prompts."""
    _check_attributes(attributes)
    met = collections.Counter()

    def interactions() -> Iterator[pa.Table]:
        for review in jsonlines.stream(literals.as_json_lines(files[REVIEWS], bad), REVIEW, bad):
            # Not `filled`: a name for show may be of characters that show nothing.
            review.require(pc.not_equal(review['username'], ''), 'username', 'should not be empty')
            time = records.seconds(review['date'], _DATE, '%Y-%m-%d')
            review.require(pc.is_valid(time), 'date', 'should be a day, as 2017-12-17')
            part = review.events(
                user_id=pc.fill_null(review['username'], ''), timestamp=time, review=_not_blank(review['text']),
                item_id=records.matching(review, 'product_id', _ID, 'should be the number of a game'))
            met.update(_counts(part['item_id']))
            yield part

    def items() -> Iterator[pa.Table]:
        yield _table((game, title, words, details | _popularity(met, game))
                     for game, title, words, details in _games(files[METADATA], bad, attributes))

    return Source(name='steam', file=files[REVIEWS], interactions=interactions(), users=nothing, items=items,
                  rating_scale=(0.0, 1.0), domain=GAMES, licence=LICENCE, bad=bad)


def steam_australian(files: Mapping[str, RawFile], bad: BadRows, *, owned: bool = True, attributes: str = 'tags'
                     ) -> Source:
    """Reads the reviews and libraries of users in Australia.

    Args:
      owned: whether games that a user has and did not review are interactions; where not, popularity still
        is the number of libraries that hold a game.
      attributes: see `steam`; for games that steam_games.json.gz describes, where it is there.
    """
    _check_attributes(attributes)
    met, names = collections.Counter(), {}

    def library() -> Iterator[Records]:
        for user in jsonlines.stream(literals.as_json_lines(files[LIBRARIES], bad), LIBRARY, bad):
            item = _one_a_row(user, 'items')
            records.matching(item, 'item_id', _ID, 'should be the number of a game')
            item = item.kept()
            met.update(_counts(item['item_id']))
            first = np.unique(tables.codes(pc.dictionary_encode(item['item_id'])), return_index=True)[1]
            names.update({row['item_id']: names.get(row['item_id']) or row['item_name']
                          for row in item.columns.select(['item_id', 'item_name']).take(pa.array(first)).to_pylist()})
            yield item

    def interactions() -> Iterator[pa.Table]:
        review = pa.concat_tables(_reviews(files[AUSTRALIAN_REVIEWS], bad)).combine_chunks()
        names.update(dict.fromkeys(pc.unique(review['item_id']).to_pylist()))
        if not owned:
            yield review
            return
        pairs = tables.one_chunk(_pairs(review['user_id'], review['item_id']))
        there = np.zeros(len(pairs), bool)
        for item in library():
            row = pc.index_in(_pairs(item['user_id'], item['item_id']), value_set=pairs)  # null: not reviewed
            there[row.drop_null().to_numpy()] = True
            yield item.events(user_id=item['user_id'], item_id=item['item_id'],
                              **{name: review[name].take(row) for name in ('rating', 'timestamp', 'review')})
        first = pc.index_in(pairs, value_set=pairs).to_numpy()  # row of the same pair
        yield review.filter(pa.array(~there[first] & (first == np.arange(len(first)))))

    def items() -> Iterator[pa.Table]:
        if not owned:
            collections.deque(library(), maxlen=0)
        described = {game: rest for game, *rest in (
            _games(files[METADATA], bad, attributes) if METADATA in files else ())}
        for game in names:
            title, words, details = described.get(game, (None, [], {}))
            described[game] = (_title(names[game]) or title, words, details | _popularity(met, game))
        yield _table((game, *described[game]) for game in names)

    return Source(name='steam-australian', file=files[LIBRARIES if owned else AUSTRALIAN_REVIEWS],
                  interactions=interactions(), users=nothing, items=items, rating_scale=(0.0, 1.0), domain=GAMES,
                  licence=LICENCE, bad=bad)


def steam_200k(files: Mapping[str, RawFile], bad: BadRows) -> Source:
    """Reads the purchases."""
    (file,) = files.values()
    met = collections.Counter()

    def interactions() -> Iterator[pa.Table]:
        for part in delimited.stream(file, PURCHASES, ',', bad, quote='"', whole_lines=False):
            records.integers(part, 'user_id', low=1)
            bought = records.one_of(part, 'behaviour', ('purchase', 'play')) == 0
            hours = records.numbers(part, 'hours', 0, 1_000_000)
            part.require(~bought | (hours == 1), 'hours', 'should be 1.0 in a purchase')
            records.one_of(part, 'zero', ('0',))
            game = records.filled(part, 'game')
            part.keep &= bought
            part = part.events(user_id=part['user_id'], item_id=game)
            met.update(_counts(part['item_id']))
            yield part

    def items() -> Iterator[pa.Table]:
        yield _table((game, _title(game), [], _popularity(met, game)) for game in met)

    return Source(name='steam-200k', file=file, interactions=interactions(), users=nothing, items=items,
                  rating_scale=(0.0, 1.0), domain=GAMES, licence=LICENCE_200K, bad=bad)


# ---------------------------------------------------------------------------- reviews and libraries


def _reviews(file: RawFile, bad: BadRows) -> Iterator[pa.Table]:
    """Yields the reviews of Australian users as interactions."""
    for user in jsonlines.stream(literals.as_json_lines(file, bad), USER_REVIEWS, bad):
        review = _one_a_row(user, 'reviews')
        time = records.seconds(review['posted'], _POSTED, 'Posted %B %d, %Y.')
        this_year = pc.match_substring_regex(review['posted'], _POSTED_THIS_YEAR)
        review.require(pc.or_(pc.is_valid(time), this_year), 'posted',
                       'should be a day, as "Posted November 5, 2011." or "Posted June 24."')
        review.require(pc.is_valid(review['recommend']), 'recommend', 'should be True or False')
        yield review.events(
            user_id=review['user_id'], rating=review['recommend'].cast(pa.float32()), timestamp=time,
            item_id=records.matching(review, 'item_id', _ID, 'should be the number of a game'),
            review=_not_blank(review['review']))


def _one_a_row(user: Records, name: str) -> Records:
    """A row for each struct in the lists `name` of users: its fields, and the `user_id`."""
    records.filled(user, 'user_id')
    user.require(pc.is_valid(user[name]), name, 'should be a list')
    user = user.kept()
    lists = tables.one_chunk(user[name])
    structs, row = pc.list_flatten(lists), pc.list_parent_indices(lists)
    columns = {field.name: pc.struct_field(structs, field.name) for field in structs.type}
    return Records(user.file, pa.table({'user_id': user['user_id'].take(row), **columns}), user.lines[row.to_numpy()],
                   user.bad)


def _pairs(user: pa.ChunkedArray, item: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(item, user, ' ')  # numbers first: no two pairs read the same


def _not_blank(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with null for ''."""
    return pc.if_else(pc.equal(text, ''), None, text)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(column)
    return dict(zip(counts.field('values').to_pylist(), counts.field('counts').to_pylist()))


# --------------------------------------------------------------------------------------------- games


def _check_attributes(attributes: str) -> None:
    if attributes not in ATTRIBUTES:
        raise UserError(f'attributes="{attributes}".{nearest(str(attributes), ATTRIBUTES)}')


def _games(file: RawFile, bad: BadRows, attributes: str) -> Iterator[tuple[str, str | None, list[str], dict[str, str]]]:
    """Yields id, title, attributes and details of each game in steam_games.json that has an id."""
    (other,) = (name for name in ATTRIBUTES if name != attributes)
    for line, game in jsonlines.objects(literals.as_json_lines(file, bad), bad):
        if game.get('id') is None:
            continue
        if fault := _fault(game):
            bad.report(file, line, fault)
            continue
        words = {name: [html.unescape(word) for word in game.get(name) or []] for name in ATTRIBUTES}
        details = {
            'price': _price(game.get('price')), 'developer': _title(game.get('developer')),
            'publisher': _title(game.get('publisher')), 'released': game.get('release_date'),
            'metascore': str(game['metascore']) if type(game.get('metascore')) is int else None,
            other: ', '.join(words[other])}
        yield (game['id'], _title(game.get('title')) or _title(game.get('app_name')), words[attributes],
               {key: value for key, value in details.items() if value})


def _fault(game: Mapping[str, Any]) -> str:
    """What is wrong with the fields of a game, '' where nothing is."""
    for name in ('id', 'title', 'app_name', 'developer', 'publisher', 'release_date'):
        value = game.get(name)
        if value is not None and not isinstance(value, str):
            return f', field {name}: {str(value)[:80]!r} should be text'
    if not re.search(_ID, game['id']):
        return f', field id: {game["id"][:80]!r} should be the number of a game'
    for name in ATTRIBUTES:
        value = game.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(word, str) for word in value)):
            return f', field {name}: {str(value)[:80]!r} should be a list of texts'
    return ''


def _price(value: Any) -> str | None:
    """'19.99', 'free', or None where it is no price."""
    if type(value) in (int, float):
        return f'{value:.2f}'
    return 'free' if isinstance(value, str) and value.lower().startswith('free') else None


def _title(text: str | None) -> str | None:
    """The text without HTML entities and blanks at its ends; None where nothing is left."""
    return html.unescape(text or '').strip() or None


def _popularity(met: Mapping[str, int], game: str) -> dict[str, str]:
    return {'popularity': str(met[game])} if game in met else {}


def _table(games: Iterable[tuple[str, str | None, list[str], dict[str, str]]]) -> pa.Table:
    rows = [(game, title, words, list(details.items())) for game, title, words, details in games]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(tables.ITEMS.names)}
    return tables.table(tables.ITEMS, **columns)


ENTRIES = {
    'steam': Entry(steam, LICENCE, CITATION, files=(REVIEWS, METADATA), downloads=tuple(
        Download(f'https://cseweb.ucsd.edu/~wckang/{name}.gz') for name in (REVIEWS, METADATA))),
    'steam-australian': Entry(
        steam_australian, LICENCE, CITATION, files=(AUSTRALIAN_REVIEWS, LIBRARIES), optional=(METADATA,),
        downloads=tuple(Download(f'https://mcauleylab.ucsd.edu/public_datasets/data/steam/{name}.gz')
                        for name in (AUSTRALIAN_REVIEWS, LIBRARIES))),
    'steam-200k': Entry(
        steam_200k, LICENCE_200K, 'Tamber: Steam Video Games, https://www.kaggle.com/datasets/tamber/steam-video-games',
        files=('steam-200k.csv',), by_hand='get it from https://www.kaggle.com/datasets/tamber/steam-video-games (with '
        'a free account); the zip may stay as it is'),
}
