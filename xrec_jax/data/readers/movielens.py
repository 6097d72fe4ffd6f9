"""MovieLens (GroupLens): the publisher's own files → three tables.

`ml_100k` reads u.data, u.item and u.user as they stand in ml-100k.zip; the format is described in
the README there. Titles stay as published ("Usual Suspects, The (1995)"), but for blanks at the ends of
three of them. The genre words are the attributes; an item whose only genre is "unknown" has none.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.data.readers import delimited
from xrec_jax.errors import UserError

LICENCE = 'research use; no redistribution; no commercial use without permission (GroupLens)'
CITATION = ('F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. '
            'ACM TiiS 5(4), 2015, doi:10.1145/2827872')
ML_100K_LINES = {'u.data': 100_000, 'u.user': 943, 'u.item': 1_682}
ML_100K_GENRES = (
    'unknown', 'action', 'adventure', 'animation', "children's", 'comedy', 'crime', 'documentary',
    'drama', 'fantasy', 'film-noir', 'horror', 'musical', 'mystery', 'romance', 'sci-fi',
    'thriller', 'war', 'western')


def ml_100k(root: delimited.Path, *, whole: bool = True) -> tables.Dataset:
    """Reads the folder or archive `root`; `whole` refuses files shorter than the published ones."""
    rating = delimited.read_text(
        root / 'u.data', ('user_id', 'item_id', 'rating', 'timestamp'), '\t')
    user = delimited.read_text(
        root / 'u.user', ('user_id', 'age', 'gender', 'occupation', 'zip'), '|')
    item = delimited.read_text(
        root / 'u.item', ('item_id', 'title', 'released', 'video_released', 'url', *ML_100K_GENRES),
        '|', 'latin-1')
    for text in (rating, user, item):
        lines, published = text.columns.num_rows, ML_100K_LINES[text.path.name]
        if whole and lines != published:
            what = 'truncated' if lines < published else 'not the published one'
            raise UserError(f'{text.path}: has {lines:,} lines where the published file has '
                            f'{published:,}: it is {what}; get it again')

    delimited.integers(user, 'user_id', low=1)
    delimited.unique(user, 'user_id')
    delimited.integers(user, 'age', 1, 130)
    gender = pa.array(['male', 'female']).take(delimited.one_of(user, 'gender', ('M', 'F')))
    profile = {'age': user['age'], 'gender': gender,
               'occupation': delimited.filled(user, 'occupation'),
               'zip': delimited.filled(user, 'zip')}

    delimited.integers(item, 'item_id', low=1)
    delimited.unique(item, 'item_id')
    flags = np.stack([delimited.one_of(item, genre, ('0', '1')) for genre in ML_100K_GENRES], axis=1)

    delimited.known(rating, 'user_id', user)
    delimited.known(rating, 'item_id', item)
    delimited.unique(rating, 'user_id', 'item_id')
    return tables.Dataset(
        name='ml-100k',
        interactions=tables.table(
            tables.INTERACTIONS,
            user_id=rating['user_id'],
            item_id=rating['item_id'],
            rating=delimited.integers(rating, 'rating', 1, 5).astype(np.float32),
            timestamp=delimited.integers(rating, 'timestamp')),
        users=tables.table(tables.USERS, user_id=user['user_id'], profile=_maps(profile)),
        items=tables.table(
            tables.ITEMS,
            item_id=item['item_id'],
            title=pc.utf8_trim_whitespace(delimited.filled(item, 'title')),
            attributes=delimited.lists(flags[:, 1:] == 1, ML_100K_GENRES[1:])),
        rating_scale=(1.0, 5.0), domain=MOVIES, licence=LICENCE)


def _maps(columns: dict[str, pa.ChunkedArray | pa.Array]) -> pa.MapArray:
    """Returns one map a row, with the same keys in each."""
    values = np.stack([column.to_numpy(zero_copy_only=False) for column in columns.values()], axis=1)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * len(columns)
    return pa.MapArray.from_arrays(
        offsets, pa.array(list(columns) * len(values)), pa.array(values.reshape(-1), pa.string()))
