"""MovieLens (GroupLens): the publisher's own files → three tables.

`ml_100k` reads u.data, u.item and u.user as they stand in ml-100k.zip; the format is described in
the README there. Titles stay as published ("Usual Suspects, The (1995)"), but for blanks at the ends of
three of them. The genre words are the attributes; an item whose only genre is "unknown" has none.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.data.entry import Entry
from xrec_jax.data.fetch import Download
from xrec_jax.data.ingest import Source
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import delimited, records
from xrec_jax.errors import UserError

LICENCE = 'research use; no redistribution; no commercial use without permission (GroupLens)'
CITATION = ('F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. '
            'ACM TiiS 5(4), 2015, doi:10.1145/2827872')
ML_100K_LINES = {'u.data': 100_000, 'u.user': 943, 'u.item': 1_682}
ML_100K_GENRES = (
    'unknown', 'action', 'adventure', 'animation', "children's", 'comedy', 'crime', 'documentary',
    'drama', 'fantasy', 'film-noir', 'horror', 'musical', 'mystery', 'romance', 'sci-fi',
    'thriller', 'war', 'western')


def ml_100k(files: Mapping[str, RawFile], bad: BadRows, *, whole: bool = True) -> Source:
    """Reads u.data, u.user and u.item; `whole` refuses files of another length than the published ones."""
    rating = delimited.read(files['u.data'], ('user_id', 'item_id', 'rating', 'timestamp'), '\t', bad, encoding='ascii')
    user = delimited.read(files['u.user'], ('user_id', 'age', 'gender', 'occupation', 'zip'), '|', bad, encoding='ascii')
    item = delimited.read(files['u.item'], ('item_id', 'title', 'released', 'video_released', 'url', *ML_100K_GENRES),
                          '|', bad, encoding='latin-1')
    for part in (rating, user, item):
        lines, published = part.columns.num_rows, ML_100K_LINES[part.file.name]
        if whole and lines != published:
            what = 'truncated' if lines < published else 'not the published one'
            raise UserError(f'{part.file.label}: has {lines:,} lines where the published file has '
                            f'{published:,}: it is {what}; get it again')

    records.integers(user, 'user_id', low=1)
    records.unique(user, 'user_id')
    records.integers(user, 'age', 1, 130)
    gender = pa.array(['male', 'female']).take(records.one_of(user, 'gender', ('M', 'F')))
    profile = {'age': user['age'], 'gender': gender,
               'occupation': records.filled(user, 'occupation'), 'zip': records.filled(user, 'zip')}

    records.integers(item, 'item_id', low=1)
    records.unique(item, 'item_id')
    flags = np.stack([records.one_of(item, genre, ('0', '1')) for genre in ML_100K_GENRES], axis=1)
    title = pc.utf8_trim_whitespace(records.filled(item, 'title'))

    records.known(rating, 'user_id', user['user_id'], files['u.user'].label)
    records.known(rating, 'item_id', item['item_id'], files['u.item'].label)
    stars, timestamp = records.integers(rating, 'rating', 1, 5), records.integers(rating, 'timestamp')
    return Source(
        name='ml-100k', file=files['u.data'],
        interactions=[rating.events(user_id=rating['user_id'], item_id=rating['item_id'],
                                    rating=stars.astype(np.float32), timestamp=timestamp)],
        users=lambda: [user.table(tables.USERS, user_id=user['user_id'], profile=records.maps(profile))],
        items=lambda: [item.table(tables.ITEMS, item_id=item['item_id'], title=title,
                                  attributes=records.lists(flags[:, 1:] == 1, ML_100K_GENRES[1:]))],
        rating_scale=(1.0, 5.0), domain=MOVIES, licence=LICENCE, bad=bad, repeats=False)


ENTRIES = {
    'ml-100k': Entry(ml_100k, LICENCE, CITATION, files=('u.data', 'u.item', 'u.user'), downloads=(Download(
        'https://files.grouplens.org/datasets/movielens/ml-100k.zip', md5='0e33842e24a9c977be4e0107933c0723'),)),
}
