"""MIND, Microsoft's news: the publisher's own files → three tables.

`mind_small` and `mind_large` read behaviors.tsv and news.tsv of one split, 'train' (9 to 14 November 2019) or 'dev'
(the 15th), from MINDsmall_train.zip as it is, or a folder MINDsmall_train or train. The test split has no
labels and is refused. No field is quoted.
- A row of behaviors.tsv is one page shown: user, local time without a zone (taken as UTC), the news that the
  user had clicked before the data begin (`history`, blank for a few), and the news on the page with 1 for clicked.
- A history stands in each row of its user, always the same: it is taken once, at the user's first row. Its
  clicks have no time, and come in their order.
- A user may be shown, and click, a news article again: `repeats=first` keeps the first time.
- news.tsv: category and subcategory are the attributes. Entities and addresses are left out.

LLMXRec's Table 1 has 50,001 users, 5,370 items and 2,740,998 actions: the dev split of MIND-small with all that
was shown, clicked or not, and no histories: `split=dev, history=False, unclicked=True, min_per_item=1`. That
gives 50,000 users, 5,369 items and 2,740,998 interactions: the paper took its counts from RecBole, which adds one
user and one item to pad with.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import NEWS
from xrec_jax.data.entry import Entry
from xrec_jax.data.ingest import Source, nothing
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import delimited, records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError, nearest

LICENCE = 'Microsoft Research License Terms: research use; no redistribution, no commercial use'
CITATION = ('F. Wu et al.: MIND: A Large-scale Dataset for News Recommendation. ACL 2020, '
            'doi:10.18653/v1/2020.acl-main.331')
MOST = 100_000_000  # of impressions and users; the publisher has 2,232,748 and 1,000,000
SPLITS = ('train', 'dev')
BEHAVIORS = ('impression_id', 'user_id', 'time', 'history', 'impressions')
ARTICLES = ('news_id', 'category', 'subcategory', 'title', 'abstract', 'url', 'title_entities', 'abstract_entities')
_USER = '^U[0-9]{1,8}$'
_NEWS = '^N[0-9]{1,8}$'
_TIME = '^[0-9]{1,2}/(?P<day>[0-9]{1,2})/[0-9]{4} [0-9]{1,2}:[0-9]{2}:[0-9]{2} [AP]M$'
_HISTORY = '^(N[0-9]{1,8}( N[0-9]{1,8})*)?$'
_IMPRESSIONS = '^N[0-9]{1,8}-[01]( N[0-9]{1,8}-[01])*$'


def mind_small(files: Mapping[str, RawFile], bad: BadRows, *, split: str = 'train', history: bool = True,
               unclicked: bool = False) -> Source:
    """Reads MIND-small.

    Args:
      split: 'train' or 'dev'.
      history: whether the clicks before the data begin are interactions.
      unclicked: whether what was shown and not clicked is, too: with the rating 0, clicks with 1. Else no
        interaction has a rating.
    """
    del split  # it is in the names of the files
    return _mind('mind-small', files, bad, history, unclicked)


def mind_large(files: Mapping[str, RawFile], bad: BadRows, *, split: str = 'train', history: bool = True,
               unclicked: bool = False) -> Source:
    """Reads MIND (large); see `mind_small`."""
    del split
    return _mind('mind-large', files, bad, history, unclicked)


def _mind(name: str, files: Mapping[str, RawFile], bad: BadRows, history: bool, unclicked: bool) -> Source:
    behaviors, articles = files.values()

    @functools.cache
    def news() -> Records:  # moderate, and needed to check the behaviours
        article = delimited.read(articles, ARTICLES, '\t', bad, whole_lines=False)
        records.matching(article, 'news_id', _NEWS, 'should be the id of a news article, as N88753')
        records.unique(article, 'news_id')
        for column in ('category', 'subcategory', 'title'):
            records.filled(article, column)
        for column in ('title_entities', 'abstract_entities'):
            records.matching(article, column, r'^(\[.*\])?$', 'should be a list in JSON, or blank')
        return article.kept()

    def interactions() -> Iterator[pa.Table]:
        users, impressions = np.zeros(0, bool), np.zeros(0, bool)  # those that were there already, by number
        for part in delimited.stream(behaviors, BEHAVIORS, '\t', bad, whole_lines=False):
            part = _sound(part)
            new, impressions = _first_times(part['impression_id'].cast(pa.int64()).to_numpy(), impressions)
            part.require(new, 'impression_id', 'stands already in an earlier line')
            part = part.kept()
            if history:
                number = pc.utf8_slice_codeunits(part['user_id'], 1).cast(pa.int64()).to_numpy()
                new, users = _first_times(number, users)
                new &= pc.not_equal(part['history'], '').to_numpy()
                ids, row = _words(part['history'].filter(pa.array(new)))
                yield _events(part, 'history', ids, np.flatnonzero(new)[row], news(),
                              rating=np.ones(len(ids), np.float32) if unclicked else None)
            ids, row = _words(part['impressions'])
            clicked = pc.ends_with(ids, '-1')
            if not unclicked:
                ids, row = ids.filter(clicked), row[clicked.to_numpy(zero_copy_only=False)]
            yield _events(part, 'impressions', pc.utf8_slice_codeunits(ids, 0, -2), row, news(),
                          timestamp=part['seconds'].take(pa.array(row)),
                          rating=clicked.cast(pa.float32()) if unclicked else None)

    def items() -> Iterator[pa.Table]:
        article = news()
        words = pc.binary_join_element_wise(article['category'], article['subcategory'], '\t')
        yield article.table(
            tables.ITEMS, item_id=article['news_id'],
            title=pc.utf8_trim_whitespace(records.unescaped(article['title'])),
            attributes=pc.split_pattern(words, '\t'),
            details=records.maps({'abstract': pc.utf8_trim_whitespace(records.unescaped(article['abstract']))}))

    return Source(name=name, file=behaviors, interactions=interactions(), users=nothing, items=items,
                  rating_scale=(0.0, 1.0), domain=NEWS, licence=LICENCE, bad=bad)


def _sound(part: Records) -> Records:
    """Returns the rows of behaviors.tsv that keep their promises, with a column `seconds` of their times."""
    records.integers(part, 'impression_id', 1, MOST)
    records.matching(part, 'user_id', _USER, 'should be the id of a user, as U13740')
    time = records.seconds(part['time'], _TIME, '%m/%d/%Y %I:%M:%S %p')
    part.require(pc.is_valid(time), 'time', 'should be a time, as 11/11/2019 9:05:58 AM')
    records.matching(part, 'history', _HISTORY, 'should be ids of news, as "N55189 N42782", or blank')
    records.matching(part, 'impressions', _IMPRESSIONS, 'should be ids of news with 1 for clicked and 0 for not, as '
                     '"N129416-0 N26703-1" (the test split has no such labels)')
    return Records(part.file, part.columns.append_column('seconds', time), part.lines, part.bad, part.keep).kept()


def _first_times(numbers: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows hold their number first, bool[N], where `seen` marks numbers of rows before; and `seen` with these."""
    seen = np.concatenate([seen, np.zeros(max(0, numbers.max(initial=-1) + 1 - len(seen)), bool)])
    first = np.zeros(len(numbers), bool)
    first[np.unique(numbers, return_index=True)[1]] = True
    first &= ~seen[numbers]
    seen[numbers] = True
    return first, seen


def _words(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """All words of a column of texts, and the row of each, int64[number of words]."""
    lists = pc.split_pattern(tables.one_chunk(column), ' ')
    return pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()


def _events(part: Records, column: str, ids: pa.Array, row: np.ndarray, news: Records, **columns) -> pa.Table:
    """Interactions of the users in the rows `row` with the news `ids`, which come from `column`."""
    each = Records(part.file, pa.table({'user_id': part['user_id'].take(pa.array(row)), column: ids}), part.lines[row],
                   part.bad)
    records.known(each, column, news['news_id'], news.file.label)
    return each.events(user_id=each['user_id'], item_id=ids,
                       **{name: values for name, values in columns.items() if values is not None})


def _entry(size: str, reader: Callable[..., Source]) -> Entry:
    files = tuple(f'MIND{size}_{{split}}/{name}|{{split}}/{name}' for name in ('behaviors.tsv', 'news.tsv'))
    return Entry(
        reader, LICENCE, CITATION, files=files, words=_check_split,
        by_hand=f'accept the terms at https://msnews.github.io and put MIND{size}_train.zip and MIND{size}_dev.zip, as '
                'they are, there')


def _check_split(*, split: str, **options) -> dict[str, str]:
    """No words of names; UserError for a split that is none."""
    if split not in SPLITS:
        raise UserError(f'split="{split}".{nearest(str(split), SPLITS)}')
    return {}


ENTRIES = {'mind-small': _entry('small', mind_small), 'mind-large': _entry('large', mind_large)}
