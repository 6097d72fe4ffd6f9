"""MovieLens (GroupLens): the publisher's own files → three tables.

1. `ml_100k`: u.data, u.user, u.item, separated by tabs and '|', with a flag for each genre
2. `ml_1m`: ratings.dat, users.dat, movies.dat, separated by '::', with codes for ages and occupations
3. `ml_20m` and `ml_latest` (ml-latest-small, ml-25m and ml-32m have its format too): ratings.csv and
   movies.csv with a header, lines that end in CRLF or LF, titles quoted where they hold a comma, quotes in
   them doubled; ratings from 0.5 to 5 in halves; nothing is told of the users
4. `_source`: what they share

The old ones are latin-1, the csv files UTF-8. Users rate a movie once. Titles stay as published ("Usual
Suspects, The (1995)"), but for blanks at their ends. Genres, in lower case, are the attributes; a movie of
the genre "unknown" or "(no genres listed)" has none. Ratings are of listed users and movies only. The free
tags of the csv releases are not read: they belong to no rating.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.data.entry import Entry
from xrec_jax.data.fetch import Download
from xrec_jax.data.ingest import Source, nothing
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import delimited, records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

LICENCE = 'research use; no redistribution; no commercial use without permission (GroupLens)'
CITATION = ('F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. '
            'ACM TiiS 5(4), 2015, doi:10.1145/2827872')
RATING = ('user_id', 'item_id', 'rating', 'timestamp')

# --------------------------------------------------------------------------------------- ml-100k

ML_100K_LINES = {'u.data': 100_000, 'u.user': 943, 'u.item': 1_682}
ML_100K_GENRES = (
    'unknown', 'action', 'adventure', 'animation', "children's", 'comedy', 'crime', 'documentary',
    'drama', 'fantasy', 'film-noir', 'horror', 'musical', 'mystery', 'romance', 'sci-fi',
    'thriller', 'war', 'western')


def ml_100k(files: Mapping[str, RawFile], bad: BadRows, *, whole: bool = True) -> Source:
    """Reads u.data, u.user and u.item; `whole` refuses files of another length than the published ones."""
    lines = ML_100K_LINES if whole else {}

    def users() -> pa.Table:
        user = _read(files['u.user'], ('user_id', 'age', 'gender', 'occupation', 'zip'), '|', bad, lines,
                     encoding='ascii')
        records.integers(user, 'age', 1, 130)
        return _users(user, age=user['age'], gender=_gender(user), occupation=records.filled(user, 'occupation'),
                      zip=records.filled(user, 'zip'))

    def items() -> pa.Table:
        item = _read(files['u.item'], ('item_id', 'title', 'released', 'video_released', 'url', *ML_100K_GENRES), '|',
                     bad, lines, encoding='latin-1')
        flags = np.stack([records.one_of(item, genre, ('0', '1')) for genre in ML_100K_GENRES], axis=1)  # [N, G]
        return _items(item, records.lists(flags[:, 1:] == 1, ML_100K_GENRES[1:]))

    ratings = _stream(files['u.data'], RATING, '\t', bad, lines, encoding='ascii')
    return _source('ml-100k', files['u.data'], ratings, _stars, 1.0, bad, (files['u.item'], items),
                   (files['u.user'], users))


# ----------------------------------------------------------------------------------------- ml-1m

ML_1M_LINES = {'ratings.dat': 1_000_209, 'users.dat': 6_040, 'movies.dat': 3_883}
ML_1M_GENRES = (
    'Action', 'Adventure', 'Animation', "Children's", 'Comedy', 'Crime', 'Documentary', 'Drama', 'Fantasy',
    'Film-Noir', 'Horror', 'Musical', 'Mystery', 'Romance', 'Sci-Fi', 'Thriller', 'War', 'Western')
# Codes and words of the publisher's README.
ML_1M_AGES = {'1': 'Under 18', '18': '18-24', '25': '25-34', '35': '35-44', '45': '45-49', '50': '50-55', '56': '56+'}
ML_1M_OCCUPATIONS = (
    'other or not specified', 'academic/educator', 'artist', 'clerical/admin', 'college/grad student',
    'customer service', 'doctor/health care', 'executive/managerial', 'farmer', 'homemaker', 'K-12 student', 'lawyer',
    'programmer', 'retired', 'sales/marketing', 'scientist', 'self-employed', 'technician/engineer',
    'tradesman/craftsman', 'unemployed', 'writer')


def ml_1m(files: Mapping[str, RawFile], bad: BadRows, *, whole: bool = True) -> Source:
    """Reads ratings.dat, users.dat and movies.dat; `whole` refuses files of another length than the published ones."""
    lines = ML_1M_LINES if whole else {}

    def users() -> pa.Table:
        user = _read(files['users.dat'], ('user_id', 'gender', 'age', 'occupation', 'zip'), '::', bad, lines,
                     encoding='ascii')
        age = records.one_of(user, 'age', tuple(ML_1M_AGES))
        occupation = records.one_of(user, 'occupation', [str(code) for code in range(len(ML_1M_OCCUPATIONS))])
        return _users(user, age=pa.array(list(ML_1M_AGES.values())).take(age), gender=_gender(user),
                      occupation=pa.array(ML_1M_OCCUPATIONS).take(occupation), zip=records.filled(user, 'zip'))

    def items() -> pa.Table:
        item = _read(files['movies.dat'], ('item_id', 'title', 'genres'), '::', bad, lines, encoding='latin-1')
        genre = f'({"|".join(ML_1M_GENRES)})'
        genres = records.matching(item, 'genres', rf'^{genre}(\|{genre})*$',
                                  'should be genres of the README, separated by |')
        return _items(item, pc.split_pattern(pc.utf8_lower(genres), '|'))

    ratings = _stream(files['ratings.dat'], RATING, '::', bad, lines, encoding='ascii')
    return _source('ml-1m', files['ratings.dat'], ratings, _stars, 1.0, bad, (files['movies.dat'], items),
                   (files['users.dat'], users))


# --------------------------------------------------------------------------- ml-20m and ml-latest

ML_20M_LINES = {'ratings.csv': 20_000_263, 'movies.csv': 27_278}
HALF_STARS = ('0.5', '1.0', '1.5', '2.0', '2.5', '3.0', '3.5', '4.0', '4.5', '5.0')
NO_GENRES = '(no genres listed)'


def ml_20m(files: Mapping[str, RawFile], bad: BadRows, *, whole: bool = True) -> Source:
    """Reads ratings.csv and movies.csv; `whole` refuses files of another length than the published ones."""
    return _csv('ml-20m', files, bad, ML_20M_LINES if whole else {})


def ml_latest(files: Mapping[str, RawFile], bad: BadRows) -> Source:
    """Reads ratings.csv and movies.csv of a release that GroupLens renews, so that no length is the right one."""
    return _csv('ml-latest', files, bad, {})


def _csv(name: str, files: Mapping[str, RawFile], bad: BadRows, lines: Mapping[str, int]) -> Source:
    def items() -> pa.Table:
        item = _read(files['movies.csv'], ('movieId', 'title', 'genres'), ',', bad, lines, header=True, quote='"')
        genres = records.matching(item, 'genres', r'^[^|]+(\|[^|]+)*$', 'should be genres separated by |')
        words = pc.split_pattern(pc.utf8_lower(genres), '|')
        return _items(item, pc.if_else(pc.equal(genres, NO_GENRES), pa.scalar([], words.type), words))

    def stars(part: Records) -> np.ndarray:
        return (records.one_of(part, 'rating', HALF_STARS) + 1) / 2

    ratings = _stream(files['ratings.csv'], ('userId', 'movieId', 'rating', 'timestamp'), ',', bad, lines,
                      encoding='ascii', header=True)
    return _source(name, files['ratings.csv'], ratings, stars, 0.5, bad, (files['movies.csv'], items))


# ------------------------------------------------------------------------------ what they share


Listed = tuple[RawFile, Callable[[], pa.Table]]  # a file of movies or of users, and the reading of it


def _source(name: str, file: RawFile, ratings: Iterator[Records], stars: Callable[[Records], np.ndarray], lowest: float,
            bad: BadRows, movies: Listed, people: Listed | None = None) -> Source:
    """The source of ratings in columns that stand for user, movie, rating and time; `stars` gives their values [N].

    Where no file lists the `people`, any positive number may be one.
    """
    items = functools.cache(movies[1])
    users = functools.cache(people[1]) if people else None

    def events() -> Iterator[pa.Table]:
        for part in ratings:
            user, item, _, time = part.columns.column_names
            if users:
                records.known(part, user, users()['user_id'], people[0].label)
            else:
                records.integers(part, user, low=1)
            records.known(part, item, items()['item_id'], movies[0].label)
            yield part.events(user_id=part[user], item_id=part[item], rating=stars(part).astype(np.float32),
                              timestamp=records.integers(part, time))

    return Source(name=name, file=file, interactions=events(), users=(lambda: [users()]) if users else nothing,
                  items=lambda: [items()], rating_scale=(lowest, 5.0), domain=MOVIES, licence=LICENCE, bad=bad,
                  repeats=False)


def _stars(part: Records) -> np.ndarray:
    return records.integers(part, 'rating', 1, 5)


def _users(user: Records, **profile: pa.ChunkedArray | pa.Array) -> pa.Table:
    """The users table; ids are positive numbers, each once."""
    records.integers(user, 'user_id', low=1)
    records.unique(user, 'user_id')
    return user.table(tables.USERS, user_id=user['user_id'], profile=records.maps(profile))


def _items(item: Records, attributes: pa.ChunkedArray | pa.Array) -> pa.Table:
    """The items table; ids are positive numbers, each once, in the first column; titles are not blank."""
    key = item.columns.column_names[0]
    records.integers(item, key, low=1)
    records.unique(item, key)
    return item.table(tables.ITEMS, item_id=item[key], title=pc.utf8_trim_whitespace(records.filled(item, 'title')),
                      attributes=attributes)


def _gender(user: Records) -> pa.Array:
    return pa.array(['male', 'female']).take(records.one_of(user, 'gender', ('M', 'F')))


def _read(file: RawFile, names: Sequence[str], delimiter: str, bad: BadRows, lines: Mapping[str, int], **options
          ) -> Records:
    """`delimited.read`, which refuses a file of another number of rows than `lines` says, if it says one."""
    whole = delimited.read(file, names, delimiter, bad, **options)
    _check_length(file, whole.lines, lines, options.get('header', False))
    return whole


def _stream(file: RawFile, names: Sequence[str], delimiter: str, bad: BadRows, lines: Mapping[str, int], **options
            ) -> Iterator[Records]:
    """`delimited.stream`, which refuses a file of another number of rows than `lines` says, if it says one."""
    last = np.zeros(1, np.int64)
    for part in delimited.stream(file, names, delimiter, bad, **options):
        last = part.lines[-1:] if len(part.lines) else last
        yield part
    _check_length(file, last, lines, options.get('header', False))


def _check_length(file: RawFile, lines: np.ndarray, published: Mapping[str, int], header: bool) -> None:
    """lines: int[N], the numbers of the file's rows, at least of the last one."""
    rows, right = int(lines[-1]) - header, published.get(file.name.removesuffix('.gz'))
    if right and rows != right:
        what = 'truncated' if rows < right else 'not the published one'
        raise UserError(f'{file.label}: has {rows:,} lines where the published file has {right:,}: it is {what}; '
                        'get it again (option whole=False reads it as it stands)')


def _archive(name: str, md5: str = '') -> tuple[Download, ...]:
    return (Download(f'https://files.grouplens.org/datasets/movielens/{name}.zip', md5),)


ENTRIES = {
    'ml-100k': Entry(ml_100k, LICENCE, CITATION, files=('u.data', 'u.item', 'u.user'),
                     downloads=_archive('ml-100k', '0e33842e24a9c977be4e0107933c0723')),
    'ml-1m': Entry(ml_1m, LICENCE, CITATION, files=('ratings.dat', 'movies.dat', 'users.dat'),
                   downloads=_archive('ml-1m', 'c4d9eecfca2ab87c1945afe126590906')),
    'ml-20m': Entry(ml_20m, LICENCE, CITATION, files=('ratings.csv', 'movies.csv'),
                    downloads=_archive('ml-20m', 'cd245b17a1ae2cc31bb14903e1204af3')),
    'ml-latest': Entry(ml_latest, LICENCE, CITATION, files=('ratings.csv', 'movies.csv'),
                       downloads=_archive('ml-latest')),
}
