"""BookCrossing (Cai-Nicolas Ziegler, 2004): BX-Book-Ratings.csv, BX-Books.csv, BX-Users.csv → three tables.

The files of BX-CSV-Dump.zip are latin-1, with a header; lines end in CRLF or LF; fields are separated by ';'
and quoted, a quote in a field is escaped by a backslash. Their quirks, and what becomes of them:
- a rating of 0 is no rating: the user had the book, without a word on it (rating null); the scale is 1 to 10
- there is no time (timestamp null)
- ages are 0 to 244, and NULL, without quotes, where not told; a location is "city, region, country", where
  blank and "n/a" parts are left out
- some rated ISBNs stand in no list of books, some are no ISBN at all; they stay, as published, without a title
- years of 0, and authors and publishers that are blank or NULL, are not known; `&amp;` in names is unescaped
- a few rows of BX-Books.csv are broken (an author without its first quote, a stray quote or separator). What
  can be read stays, fields that slipped into other columns are refused: the published files as a whole need
  on_bad_row=skip, and the card tells how many rows it passed over (the books' ratings stay)
"""

import functools
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import BOOKS
from xrec_jax.data.entry import Entry
from xrec_jax.data.ingest import Source
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import delimited, records
from xrec_jax.data.readers.records import Records

LICENCE = 'free for research that cites Ziegler et al. 2005'
CITATION = ('C.-N. Ziegler, S. M. McNee, J. A. Konstan, G. Lausen: Improving Recommendation Lists Through Topic '
            'Diversification. WWW 2005, doi:10.1145/1060745.1060754')
RATINGS = ('User-ID', 'ISBN', 'Book-Rating')
BOOK = ('ISBN', 'Book-Title', 'Book-Author', 'Year-Of-Publication', 'Publisher', 'Image-URL-S', 'Image-URL-M',
        'Image-URL-L')
USER = ('User-ID', 'Location', 'Age')
FORM = dict(header=True, quote='"', escape='\\', whole_lines=False)  # a cut leaves a quote open, or a field out


def bookcrossing(files: Mapping[str, RawFile], bad: BadRows) -> Source:
    """Reads BX-Book-Ratings.csv, BX-Books.csv and BX-Users.csv."""
    ratings, books, people = (files[f'BX-{name}.csv'] for name in ('Book-Ratings', 'Books', 'Users'))
    users = functools.cache(lambda: _users(delimited.read(people, USER, ';', bad, encoding='latin-1', **FORM)))

    def events() -> Iterator[pa.Table]:
        for part in delimited.stream(ratings, RATINGS, ';', bad, encoding='any', **FORM):
            records.known(part, 'User-ID', users()['user_id'], people.label)
            rating = records.integers(part, 'Book-Rating', 0, 10)
            yield part.events(user_id=part['User-ID'], item_id=records.filled(part, 'ISBN'),
                              rating=pa.array(rating.astype(np.float32), mask=rating == 0))

    return Source(
        name='bookcrossing', file=ratings, interactions=events(), users=lambda: [users()],
        items=lambda: [_items(delimited.read(books, BOOK, ';', bad, encoding='latin-1', **FORM))],
        rating_scale=(1.0, 10.0), domain=BOOKS, licence=LICENCE, bad=bad, repeats=False)


def _users(user: Records) -> pa.Table:
    records.integers(user, 'User-ID', low=1)
    records.unique(user, 'User-ID')
    age = records.matching(user, 'Age', '^([0-9]{1,3}|NULL)$', 'should be a number of years, or NULL')
    places = [', '.join(part.strip() for part in place.split(',') if part.strip() not in ('', 'n/a'))
              for place in user['Location'].to_pylist()]
    profile = {'age': pc.replace_substring(age, 'NULL', ''), 'location': _told(pa.chunked_array([places], pa.string()))}
    return user.table(tables.USERS, user_id=user['User-ID'], profile=records.maps(profile))


def _items(book: Records) -> pa.Table:
    records.filled(book, 'ISBN')
    records.unique(book, 'ISBN')
    # The year, and what must be an address, show whether the fields stand in their columns.
    year = records.matching(book, 'Year-Of-Publication', '^[0-9]{1,4}$', 'should be a year, or 0')
    for size in 'SML':
        records.matching(book, f'Image-URL-{size}', '^https?://', 'should be an address')
    details = {'author': _told(book['Book-Author']), 'year': pc.if_else(pc.equal(year, '0'), '', year),
               'publisher': _told(book['Publisher'])}
    none = pa.array([[]] * len(book.lines), pa.list_(pa.string()))
    return book.table(tables.ITEMS, item_id=book['ISBN'], title=_told(book['Book-Title']), attributes=none,
                      details=records.maps(details))


def _told(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names as one reads them: HTML entities unescaped, no blanks around; null for '' and NULL."""
    plain = pc.utf8_trim_whitespace(records.unescaped(texts))
    return pc.if_else(pc.is_in(plain, pa.array(['', 'NULL'])), None, plain)


ENTRIES = {
    'bookcrossing': Entry(
        bookcrossing, LICENCE, CITATION, files=('BX-Book-Ratings.csv', 'BX-Books.csv', 'BX-Users.csv'),
        by_hand='put a copy of BX-CSV-Dump.zip that you trust there (its publisher, '
                'http://www2.informatik.uni-freiburg.de/~cziegler/BX/, no longer has it online)'),
}
