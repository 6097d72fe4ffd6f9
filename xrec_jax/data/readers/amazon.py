"""Amazon product reviews (J. McAuley's group), a category at a time: the releases of 2014, 2018 and 2023.

1. `amazon_2014`: reviews_CATEGORY.json, or reviews_CATEGORY_5.json, its 5-core, and meta_CATEGORY.json,
   whose lines are Python literals, not JSON
2. `amazon_2018`: CATEGORY.json or CATEGORY_5.json, and meta_CATEGORY.json
3. `amazon_2023`: CATEGORY.jsonl and meta_CATEGORY.jsonl; an item is the parent of its colours and sizes
4. `_items` and what cleans metadata; `Aspects`: words that others extracted from reviews of 2014

All are gzipped, one object a line. A review is the user's text as it was published, HTML and entities
included; its headline is not read. Metadata may be missing, of some products or of all: such a product has
an id and nothing else. Products of the metadata that nobody in the file reviewed are left out. Titles,
categories and names have their entities (&amp;) resolved. `attributes` are the categories, each once, from the
general to the special; where there are none, the main category. `details` are price (US dollars, '12.99' or
'12.99 - 24.99'), brand, and in 2023 store and author instead. What tells of all later reviews (average
rating, their number, sales rank) is not read, nor descriptions.

What the publishers' files hold that their pages do not tell: in 2018 titles and prices that are the page's
scripts and styles (left out; their page says to), categories that hold tags (left out), books whose brand is
"Visit Amazon's AUTHOR Page"; in 2023 reviews of 0 stars (not rated) and of negative times (not known), prices
'None', '—' and 'from 12.99', older mirrors that say sort_timestamp for timestamp; in all halves of emoji
(see `jsonlines`).
"""

import dataclasses
import html
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import BOOKS, MOVIES, PRODUCTS
from xrec_jax.data.entry import Entry
from xrec_jax.data.fetch import Download
from xrec_jax.data.ingest import Source, nothing
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import jsonlines, literals, records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

LICENCE = 'none stated; published for research; the reviews are their authors\' and Amazon\'s'
DOMAINS = {'Books': BOOKS, 'Kindle_Store': BOOKS, 'Movies_and_TV': MOVIES, 'Amazon_Instant_Video': MOVIES}
UNTIL_2018 = pa.schema([('reviewerID', pa.string()), ('asin', pa.string()), ('overall', pa.float64()),
                        ('reviewText', pa.string()), ('unixReviewTime', pa.int64())])
SINCE_2023 = pa.schema([('user_id', pa.string()), ('parent_asin', pa.string()), ('rating', pa.float64()),
                        ('text', pa.string()), ('timestamp', pa.int64()), ('sort_timestamp', pa.int64())])
TOGETHER = 10_000  # items of a table


def amazon_2014(files: Mapping[str, RawFile], bad: BadRows, *, category: str = 'Books', five_core: bool = False,
                aspects: bool = False) -> Source:
    """`aspects` gives each review the words of its author that stand in it: see `Aspects`."""
    words = _read_aspects(files) if aspects else None
    meta = files.get('meta_{category}.json')
    meta = meta and literals.as_json_lines(meta, bad)
    return _source(2014, files['reviews_{category}{core}.json'], meta, bad, category, five_core,
                   lambda part: _until_2018(part, words), _item_2014)


def amazon_2018(files: Mapping[str, RawFile], bad: BadRows, *, category: str = 'Books', five_core: bool = False
                ) -> Source:
    return _source(2018, files['{category}{core}.json'], files.get('meta_{category}.json'), bad, category, five_core,
                   _until_2018, _item_2018)


def amazon_2023(files: Mapping[str, RawFile], bad: BadRows, *, category: str = 'Books') -> Source:
    return _source(2023, files['{category}.jsonl'], files.get('meta_{category}.jsonl'), bad, category, False,
                   _since_2023, _item_2023)


def _source(year: int, reviews: RawFile, meta: RawFile | None, bad: BadRows, category: str, five_core: bool,
            events: Callable[[Records], pa.Table], item: Callable[[Mapping], tuple]) -> Source:
    fields = SINCE_2023 if year == 2023 else UNTIL_2018
    return Source(
        name=f'amazon-{year}-{category}' + five_core * '-5-core', file=reviews,
        interactions=map(events, jsonlines.stream(reviews, fields, bad)), users=nothing,
        items=(lambda: _items(meta, bad, item)) if meta else nothing,
        rating_scale=(1.0, 5.0), domain=DOMAINS.get(category, PRODUCTS), licence=LICENCE, bad=bad, unmet_stay=False)


def _names(*, category: str, five_core: bool = False, aspects: bool = False) -> dict[str, str]:
    """For the names of files; UserError where an option cannot be part of one."""
    if not isinstance(category, str) or not re.fullmatch(r'[\w&,. -]+', category):
        raise UserError(f'category={category!r}: should be named as in the publisher\'s files, as Movies_and_TV')
    for name, value in (('five_core', five_core), ('aspects', aspects)):
        if not isinstance(value, bool):
            raise UserError(f'{name}={value!r}: should be True or False')
    return {'core': '_5', 'folder': 'categoryFilesSmall'} if five_core else {'core': '', 'folder': 'categoryFiles'}


# --------------------------------------------------------------------------------------- reviews


def _until_2018(part: Records, words: 'Aspects | None' = None) -> pa.Table:
    user = records.filled(part, 'reviewerID')
    return part.events(
        user_id=user, item_id=records.filled(part, 'asin'), rating=records.numbers(part, 'overall', 1, 5),
        timestamp=_seconds(part, 'unixReviewTime', part['unixReviewTime'], 1), review=_text(part['reviewText']),
        **({'aspects': _aspects(words, user, part['reviewText'])} if words else {}))


def _since_2023(part: Records) -> pa.Table:
    stars = records.numbers(part, 'rating', 0, 5)
    part.require((stars == 0) | (stars >= 1), 'rating', 'should be a number from 1 to 5, or 0 for none')
    time = pc.coalesce(part['timestamp'], part['sort_timestamp'])
    unknown = pc.fill_null(pc.less(time, 0), False)
    seconds = _seconds(part, 'timestamp', pc.if_else(unknown, 10**11, time), 1000)
    return part.events(
        user_id=records.filled(part, 'user_id'), item_id=records.filled(part, 'parent_asin'),
        rating=pa.array(stars, mask=stars == 0), timestamp=pa.array(seconds, mask=unknown.to_numpy()),
        review=_text(part['text']))


def _seconds(part: Records, name: str, ticks: pa.ChunkedArray, per_second: int) -> np.ndarray:
    """Returns int64[N]; refuses seconds where milliseconds should stand, and the other way round."""
    ticks = pc.fill_null(ticks, -1).to_numpy()
    low, high = (0, 10**11) if per_second == 1 else (10**11, 10**14)  # 10^11 is the year 5138, or 1973
    unit = 'seconds' if per_second == 1 else 'milliseconds'
    part.require((ticks >= low) & (ticks < high), name, f'should be {unit} since 1970')
    return ticks // per_second


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with null for what is blank."""
    return pc.if_else(pc.not_equal(pc.utf8_trim_whitespace(column), ''), column, None)


# -------------------------------------------------------------------------------------- metadata


def _items(file: RawFile, bad: BadRows, item: Callable[[Mapping], tuple]) -> Iterator[pa.Table]:
    """Yields tables of `tables.ITEMS`; `item` makes (id, title, attributes, details) of a line."""
    rows = []
    for line, row in jsonlines.objects(file, bad):
        try:
            rows.append(item(row))
        except ValueError as error:
            bad.report(file, line, f', {error}')
        if len(rows) == TOGETHER:
            yield _table(rows)
            rows = []
    if rows:
        yield _table(rows)


def _table(rows: list[tuple]) -> pa.Table:
    ids, titles, attributes, details = zip(*rows)
    return tables.table(
        tables.ITEMS, item_id=ids, title=titles, attributes=attributes,
        details=[[(key, value) for key, value in each.items() if value] for each in details])


def _item_2014(row: Mapping[str, Any]) -> tuple:
    return _id(row, 'asin'), _phrase(row, 'title'), _phrases(row, 'categories'), {
        'price': _price(row.get('price')), 'brand': _phrase(row, 'brand')}


def _item_2018(row: Mapping[str, Any]) -> tuple:
    title, brand = _phrase(row, 'title'), _phrase(row, 'brand')
    brand = brand and re.sub(r"^(?:by )?(?:Visit Amazon's (.+) Page$)?", r'\1', brand)
    main = row.get('main_cat')
    if isinstance(main, str) and (alt := re.search(r'<img\b.*?\balt="([^"]*)"', main)):
        row = {**row, 'main_cat': alt[1]}  # some departments have a logo for a name
    return (_id(row, 'asin'), None if title and 'getTime' in title else title,
            _phrases(row, 'category') or _phrases(row, 'main_cat'),
            {'price': _price(row.get('price')), 'brand': brand})


def _item_2023(row: Mapping[str, Any]) -> tuple:
    author = row.get('author')  # of books
    return (_id(row, 'parent_asin'), _phrase(row, 'title'),
            _phrases(row, 'categories') or _phrases(row, 'main_category'),
            {'price': _price(row.get('price')), 'store': _phrase(row, 'store'),
             'author': _phrase(author, 'name') if isinstance(author, dict) else None})


def _id(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'field {name}: {str(value)[:80]!r} should be the id of a product')
    return value


def _phrase(row: Mapping[str, Any], name: str) -> str | None:
    """The text of a field, without entities and spare blanks; None where it is blank or missing."""
    value = row.get(name)
    if not isinstance(value, str | None):
        raise ValueError(f'field {name}: {str(value)[:80]!r} should be text')
    return ' '.join(html.unescape(value).split()) or None if value else None


def _phrases(row: Mapping[str, Any], name: str) -> list[str]:
    """The texts of a field, which is a text, a list of them or a list of such lists; those with tags are left out."""
    found, queue = {}, [row.get(name)]
    while queue:
        value = queue.pop(0)
        if isinstance(value, list):
            queue = value + queue
        elif (phrase := _phrase({name: value}, name)) and '<' not in phrase:
            found[phrase] = True
    return list(found)


_PRICE = re.compile(r'(?:from )?\$?([0-9][0-9,]*(?:\.[0-9]+)?)(?: - \$?([0-9][0-9,]*(?:\.[0-9]+)?))?')


def _price(value: Any) -> str | None:
    """'12.99' of 12.99, '$12.99' and 'from 12.99'; '1200.00 - 1300.00' of '$1,200 - $1,300'; None of all else."""
    if isinstance(value, str):
        match = _PRICE.fullmatch(value.strip())
        return match and ' - '.join(f'{float(end.replace(",", "")):.2f}' for end in match.groups() if end)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value < 1e9:
        return f'{value:.2f}'
    return None


# --------------------------------------------------------------------------------------- aspects


ASPECT_FILES = ('user_feature_sentiment.json', 'user_id_dict.json', 'feature_id_dict.json')


@dataclasses.dataclass(frozen=True)
class Aspects:
    """Words that were extracted from the reviews of a category of 2014, each with the users who used it.

    user_feature_sentiment.json says which words ('sound', 'guitar strings') the well-rated reviews of a user
    speak of, and how kindly on average; not in which review. Two more files number users and words. So the
    words of a review are taken to be those of its author that stand in it as whole words, in any case: 96 %
    of what the file for Musical_Instruments lists stands in a review of the user. Sentiments are not read,
    for they are means over reviews. The words come from all of a user's reviews, early and late: in a
    prompt they would tell of the future.
    """

    words: list[str]  # [F]
    users: pa.ChunkedArray  # [K] ids
    uses: np.ndarray  # bool[K + 1, F]; the last row is of all other users


def _read_aspects(files: Mapping[str, RawFile]) -> Aspects:
    if absent := [name for name in ASPECT_FILES if name not in files]:
        raise UserError(f'aspects=True needs {", ".join(absent)} in the folder of the reviews, or one right below it')
    sentiment, users, words = (_object(files[name]) for name in ASPECT_FILES)
    user = _numbered(users, files['user_id_dict.json'])
    column = {number: f for f, number in enumerate(_numbered(words, files['feature_id_dict.json']))}
    uses = np.zeros((len(sentiment) + 1, len(column)), bool)
    for k, (number, used) in enumerate(sentiment.items()):
        if number not in user or not isinstance(used, dict) or not used.keys() <= column.keys():
            raise UserError(f'{files["user_feature_sentiment.json"].label}, key "{number}": should be a number of '
                            f'user_id_dict.json, with numbers of words of feature_id_dict.json: {str(used)[:80]}')
        uses[k, [column[word] for word in used]] = True
    return Aspects(list(words), pa.chunked_array([pa.array([user[number] for number in sentiment], pa.string())]), uses)


def _numbered(numbers: Mapping[str, Any], file: RawFile) -> dict[str, str]:
    """Number to name, of a file that gives each name an integer of its own."""
    named = {str(number): name for name, number in numbers.items()}
    if len(named) < len(numbers) or not all(type(number) is int for number in numbers.values()):
        raise UserError(f'{file.label}: should give each name an integer of its own')
    return named


def _aspects(aspects: Aspects, user: pa.ChunkedArray, text: pa.ChunkedArray) -> pa.Array:
    """Returns list[N]: the words of each review; null where there are none."""
    lower = pc.utf8_lower(pc.fill_null(text, ''))
    owner = tables.rows(user, aspects.users)  # -1 is the last row
    flags = np.zeros((len(owner), len(aspects.words)), bool)
    for f, word in enumerate(aspects.words):
        rows = np.flatnonzero(aspects.uses[owner, f])
        flags[rows, f] = pc.match_substring_regex(lower.take(rows), rf'\b{re.escape(word.lower())}\b').to_numpy()
    return pc.if_else(pa.array(flags.any(axis=1)), records.lists(flags, aspects.words), None)


def _object(file: RawFile) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes().decode('utf-8'))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{file.label}: is not JSON ({error})') from error
    if not isinstance(value, dict):
        raise UserError(f'{file.label}: should be an object, is {type(value).__name__}')
    return value


# --------------------------------------------------------------------------------------- catalog

_SNAP = 'https://snap.stanford.edu/data/amazon/productGraph/categoryFiles'
_UCSD = 'https://mcauleylab.ucsd.edu/public_datasets/data'

ENTRIES = {
    'amazon-2014': Entry(
        amazon_2014, LICENCE,
        'R. He, J. McAuley: Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class '
        'Collaborative Filtering. WWW 2016, doi:10.1145/2872427.2883037',
        files=('reviews_{category}{core}.json',), optional=('meta_{category}.json', *ASPECT_FILES), words=_names,
        downloads=(Download(f'{_SNAP}/reviews_{{category}}{{core}}.json.gz'),
                   Download(f'{_SNAP}/meta_{{category}}.json.gz'))),
    'amazon-2018': Entry(
        amazon_2018, LICENCE,
        'J. Ni, J. Li, J. McAuley: Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained '
        'Aspects. EMNLP-IJCNLP 2019, doi:10.18653/v1/D19-1018',
        files=('{category}{core}.json',), optional=('meta_{category}.json',), words=_names,
        downloads=(Download(f'{_UCSD}/amazon_v2/{{folder}}/{{category}}{{core}}.json.gz'),
                   Download(f'{_UCSD}/amazon_v2/metaFiles2/meta_{{category}}.json.gz'))),
    'amazon-2023': Entry(
        amazon_2023, LICENCE,
        'Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley: Bridging Language and Items for Retrieval and '
        'Recommendation. 2024, arXiv:2403.03952',
        files=('{category}.jsonl',), optional=('meta_{category}.jsonl',), words=_names,
        downloads=(Download(f'{_UCSD}/amazon_2023/raw/review_categories/{{category}}.jsonl.gz'),
                   Download(f'{_UCSD}/amazon_2023/raw/meta_categories/meta_{{category}}.jsonl.gz'))),
}
