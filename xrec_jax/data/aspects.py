"""A few aspect terms an item ("thriller", "director"), as RecPIE (appendix C.1) gives with each record.

`aspect_terms` fills the terms of each item from three sources, each in turn as far as the ones before fall
short:
1. the aspects of the item's interactions, where the source of the data has them: those named most often
2. the item's attributes (genres, categories, tags), those of the fewest items first; what all items have
   tells nothing
3. words of its reviews: TF-IDF over items, of words that are used as nouns. RecPIE asks a language model
   here; this is an extraction that costs no model, for text in English:
   - a word is three letters or more, none of STOP; in any case; a plural and its singular are one word,
     shown in the form that is written more often
   - it is used as a noun: at least NOUN of its uses stand between a determiner (DETERMINERS) and a word
     of STOP, punctuation or the end, as "filter" in "the filter is"
   - reviews of at least FEWEST items and at most half of the items that have reviews use it
   - its score for an item is (n − ½) · log(I / i): n of the item's first REVIEWS reviews use it, and
     reviews of i of the I items; equals in the order of the alphabet

Interactions of the test period name what a test asks for: where terms enter a prompt or a model, give
`rows`, those of the training period. `I` items, `N` interactions, `T` tokens.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables

REVIEWS = 50  # of an item; more do not change what is said most
TOGETHER = 1 << 15  # reviews that are in memory at a time
MANY = 1 << 22  # rows of words that wait to be summed up
FEWEST = 5  # items
NOUN = 0.1  # of all uses
DETERMINERS = 'a an the this that these those my your his her its our their some any no each every'.split()
STOP = DETERMINERS + (
    'i you he she it we they me him us them who whom whose which what and or but nor so if as than then because while '
    'though although unless until of in on at to for from with without by about into onto over under up down out off '
    'after before between during through is are was were be been being am do does did done have has had having can '
    'could will would shall should may might must not just only very too also even still already again ever never '
    'there here when where why how all both more most much many few less least other another such same own one ones '
    'thing things lot bit way').split()


def aspect_terms(dataset: tables.Dataset, count: int = 3, rows: np.ndarray | None = None) -> pa.ListArray:
    """Returns list<string>[I]: at most `count` distinct terms an item, the foremost first; no case tells two apart.

    rows: int[M], the interactions whose aspects and reviews are read; all of them by default.
    """
    rows = np.arange(dataset.interactions.num_rows) if rows is None else np.sort(rows)
    item = tables.codes(dataset.interactions['item_id'])
    found = pa.concat_tables([_of_aspects(dataset, item, rows), _of_attributes(dataset)])
    terms = _foremost(found, dataset.items.num_rows, count)
    short = pc.list_value_length(terms).to_numpy() < count
    if short.any():
        found = pa.concat_tables([found, *_of_reviews(dataset, item, rows, short, 2 * count)])
        terms = _foremost(found, dataset.items.num_rows, count)
    return terms


def _found(source: int, item: np.ndarray, term: pa.Array, score: np.ndarray) -> pa.Table:
    """Terms of items, higher scores first within a source, sources with lower numbers first."""
    return pa.table({'source': np.full(len(item), source, np.int8), 'item': item.astype(np.int32),
                     'term': term.cast(pa.string()), 'score': score.astype(np.float64)})


def _foremost(found: pa.Table, items: int, count: int) -> pa.ListArray:
    """Returns list<string>[I]: the first `count` terms of each item, each once."""
    source, item, score = (found[name].to_numpy() for name in ('source', 'item', 'score'))
    order = np.lexsort((-score, source, item))  # stable
    lower = pc.dictionary_encode(tables.one_chunk(pc.utf8_lower(found['term']))).indices.to_numpy()
    order = order[np.sort(np.unique(_key(item, lower)[order], return_index=True)[1])]
    start = np.searchsorted(item[order], np.arange(items + 1))
    rank = np.arange(len(order)) - start[item[order]]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(np.diff(start), count))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, tables.one_chunk(found['term'].take(pa.array(order[rank < count]))))


def _key(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Returns int64[M]: one number for each pair of indices, sorted as the pairs are; `_pair` parts them again."""
    return high.astype(np.int64) << 32 | low


def _pair(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return key >> 32, key & 0xffffffff


def _take(column: pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    """The rows int64[M], ascending, of a column. Its own `take` joins all chunks first: 2 GB of text at most."""
    start = np.concatenate([[0], np.cumsum([len(chunk) for chunk in column.chunks])])
    bounds = np.searchsorted(rows, start)
    parts = [chunk.take(pa.array(rows[low:high] - first))
             for chunk, first, low, high in zip(column.chunks, start, bounds, bounds[1:]) if low < high]
    return pa.concat_arrays(parts) if parts else pa.array([], column.type)


# ---------------------------------------------------------------------------- aspects, attributes


def _of_aspects(dataset: tables.Dataset, item: np.ndarray, rows: np.ndarray) -> pa.Table:
    aspects = dataset.interactions['aspects']
    rows = rows[aspects.is_valid().to_numpy()[rows]]
    lists = _take(aspects, rows)
    named = pa.table({'item': item[rows][pc.list_parent_indices(lists).to_numpy()], 'term': lists.flatten(),
                      'lower': pc.utf8_lower(lists.flatten())})
    counts = named.group_by(['item', 'lower'], use_threads=False).aggregate([('term', 'first'), ([], 'count_all')])
    return _found(0, counts['item'].to_numpy(), counts['term_first'], counts['count_all'].to_numpy())


def _of_attributes(dataset: tables.Dataset) -> pa.Table:
    lists = tables.one_chunk(dataset.items['attributes'])
    item, words = pc.list_parent_indices(lists).to_numpy(), pc.dictionary_encode(lists.flatten())
    code = words.indices.to_numpy()
    items = np.bincount(_pair(np.unique(_key(item, code)))[1], minlength=len(words.dictionary))
    tells = items[code] < max(len(lists), 2)
    return _found(1, item[tells], words.dictionary_decode().filter(pa.array(tells)), -items[code][tells])


# --------------------------------------------------------------------------------------- reviews


def _of_reviews(dataset: tables.Dataset, item: np.ndarray, rows: np.ndarray, short: np.ndarray, most: int
                ) -> Iterator[pa.Table]:
    """Yields the `most` foremost words of the items that are `short` bool[I], some items at a time."""
    reviews = dataset.interactions['review']
    rows = rows[reviews.is_valid().to_numpy()[rows]]
    if not len(rows):
        return
    rows = rows[np.argsort(item[rows], kind='stable')]
    rows = rows[np.arange(len(rows)) - np.searchsorted(item[rows], item[rows]) < REVIEWS]
    words = _nouns(_sums(_uses(reviews, item, piece) for piece in _pieces(item, rows)), len(np.unique(item[rows])))
    for piece in _pieces(item, rows[short[item[rows]]]):
        yield _scores(reviews, item, piece, words, most)


def _pieces(item: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """`rows`, which are sorted by item, in pieces of about TOGETHER that hold items whole, each ascending."""
    part = np.searchsorted(item[rows], item[rows]) // TOGETHER
    return [np.sort(piece) for piece in np.split(rows, np.flatnonzero(np.diff(part)) + 1) if len(piece)]


def _tokens(reviews: pa.ChunkedArray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Returns int64[T], the position in `rows` that each token is of, int32[T], what it is, and the distinct tokens.

    Tokens are words in lower case, and '.' for any punctuation, tag or entity.
    """
    text = pc.replace_substring_regex(pc.utf8_lower(_take(reviews, rows)), r"<[^<>]*>|&[a-z]+;|[^\pL\pN'\s-]+", ' . ')
    lists = pc.utf8_split_whitespace(text)
    tokens = pc.dictionary_encode(pc.utf8_trim(lists.flatten(), "'-"))
    return pc.list_parent_indices(lists).to_numpy(), tokens.indices.to_numpy(), tokens.dictionary


def _uses(reviews: pa.ChunkedArray, item: np.ndarray, rows: np.ndarray) -> pa.Table:
    """The words of these reviews: how often they are used, how often as nouns, and by reviews of how many items."""
    review, code, distinct = _tokens(reviews, rows)

    def among(words: list[str]) -> np.ndarray:
        return pc.is_in(distinct, pa.array(words)).to_numpy(zero_copy_only=False)[code]

    def count(codes: np.ndarray) -> np.ndarray:
        return np.bincount(codes, minlength=len(distinct))

    begins = np.diff(review, prepend=-1) != 0
    ends = np.diff(review, append=-1) != 0
    noun = ~begins & np.roll(among(DETERMINERS), 1) & (ends | np.roll(among(STOP + ['.', '']), -1))
    _, items = _pair(np.unique(_key(item[rows][review], code)))
    uses = pa.table({'word': distinct, 'uses': count(code), 'noun': count(code[noun]), 'items': count(items)})
    return uses.filter(pc.match_substring_regex(distinct, r'^\pL{3,}$'))


def _sums(parts: Iterable[pa.Table]) -> pa.Table:
    """One row a word, of one or more tables of `_uses`; merged on the way, so that memory holds few rows a word."""
    waiting = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting[1:])) > max(MANY, len(waiting[0])):
            waiting = [_merged(waiting)]
    return _merged(waiting)


def _merged(parts: list[pa.Table]) -> pa.Table:
    names = parts[0].column_names[1:]
    sums = pa.concat_tables(parts).group_by('word', use_threads=False).aggregate([(name, 'sum') for name in names])
    return sums.select(['word', *(f'{name}_sum' for name in names)]).rename_columns(['word', *names])


def _nouns(words: pa.Table, reviewed: int) -> pa.Table:
    """The words that may be terms, each with its `group` (itself, or its singular), and the form and weight of that.

    words: of `_sums`; reviewed: the number of items that have reviews.
    """
    uses, noun, items = (words[name].to_numpy() for name in ('uses', 'noun', 'items'))
    fit = (noun >= NOUN * uses) & (items >= FEWEST) & (items <= reviewed / 2)
    words = words.filter(pa.array(fit & ~pc.is_in(words['word'], pa.array(STOP)).to_numpy())).sort_by('word')
    word, items = tables.one_chunk(words['word']), words['items'].to_numpy()
    own = np.arange(len(word))
    group = pc.coalesce(pc.index_in(pc.replace_substring_regex(word, '([^s])s$', r'\1'), word), own).to_numpy()
    spread, shown = np.zeros(len(word), np.int64), own.copy()
    np.maximum.at(spread, group, items)
    order = np.lexsort((-own, words['uses'].to_numpy()))
    shown[group[order]] = order  # what is assigned last stays: the form that is used most, or the singular
    return pa.table({'word': word, 'group': group, 'shown': word.take(pa.array(shown[group])),
                     'weight': np.log(reviewed / spread[group])})


def _scores(reviews: pa.ChunkedArray, item: np.ndarray, rows: np.ndarray, words: pa.Table, most: int) -> pa.Table:
    """The foremost words of the items of these reviews, which are all there are of them."""
    review, code, distinct = _tokens(reviews, rows)
    group = np.append(words['group'].to_numpy(), -1)[tables.rows(pa.chunked_array([distinct]), words['word'])[code]]
    review, group = _pair(np.unique(_key(review, group)[group >= 0]))  # each once a review
    said, times = np.unique(_key(item[rows][review], group), return_counts=True)
    owner, group = _pair(said)
    score = (times - 0.5) * words['weight'].to_numpy()[group]
    order = np.lexsort((group, -score, owner))
    rank = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
    order = order[rank < most]
    return _found(2, owner[order], words['shown'].take(pa.array(group[order])), score[order])
