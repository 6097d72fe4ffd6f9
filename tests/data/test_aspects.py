"""Aspect terms by item, from aspects, attributes and reviews, against loops written out."""

import collections
import math
import pathlib
import re
import time

import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import aspects, catalog, tables
from xrec_jax.data.domains import PRODUCTS

SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data'


def build(items: list[list[str]], told: list[tuple[int, str | None, list[str] | None]], chunks: int = 1
          ) -> tables.Dataset:
    """items: the attributes of each; told: (item, review, aspects) of each interaction, in `chunks` chunks."""
    users = tables.table(tables.USERS, user_id=['u'], profile=[[]])
    listed = tables.table(tables.ITEMS, item_id=[f'i{n}' for n in range(len(items))], attributes=items)
    item, review, named = (list(column) for column in zip(*told))
    table = tables.interactions(users, listed, user=np.zeros(len(told), np.int32), item=np.array(item), review=review,
                                aspects=named)
    size = -(-len(told) // chunks)
    table = pa.concat_tables([table.slice(start, size) for start in range(0, len(told), size)])
    return tables.validate(tables.Dataset('x', table, users, listed, (1.0, 5.0), PRODUCTS, ''))


def test_aspects_that_are_named_most_come_first():
    dataset = build([[], [], []], [
        (0, None, ['price']), (1, None, ['staff', 'room']), (0, None, ['sound', 'Strings']),
        (0, None, ['strings', 'sound']), (0, None, None), (0, None, ['sound', 'strings', 'case']), (1, None, []),
        (0, None, ['strings'])])
    assert aspects.aspect_terms(dataset).to_pylist() == [['Strings', 'sound', 'price'], ['staff', 'room'], []]
    assert aspects.aspect_terms(dataset, count=1).to_pylist() == [['Strings'], ['staff'], []]
    assert aspects.aspect_terms(dataset, rows=np.array([5, 0])).to_pylist() == [['price', 'sound', 'strings'], [], []]


def test_attributes_of_few_items_tell_more_than_those_of_many():
    items = [['Books', 'Fiction', 'Poetry'], ['Books', 'Fiction'], ['Books', 'Crime', 'Fiction', 'Noir'], ['Books']]
    dataset = build(items, [(0, None, None)])
    assert aspects.aspect_terms(dataset).to_pylist() == [
        ['Poetry', 'Fiction'], ['Fiction'], ['Crime', 'Noir', 'Fiction'], []]


def test_the_only_item_keeps_its_attributes():
    assert aspects.aspect_terms(build([['a', 'b']], [(0, None, None)])).to_pylist() == [['a', 'b']]


def test_each_source_fills_up_what_the_ones_before_leave():
    reviews = [(n, 'I like the clasp.', None) for n in range(5)] + [(n, 'Look at my hinge!', None) for n in range(3, 8)]
    dataset = build([['Door'], ['Door', 'Oak'], *[[] for _ in range(10)]],
                    [(1, None, ['oak', 'CLASP']), *reviews, *[(n, 'nothing', None) for n in range(8, 12)]])
    terms = aspects.aspect_terms(dataset).to_pylist()
    assert terms[:5] == [['Door', 'clasp'], ['oak', 'CLASP', 'Door'], ['clasp'], ['clasp', 'hinge'], ['clasp', 'hinge']]
    assert terms[5:] == [['hinge']] * 3 + [[]] * 4
    assert aspects.aspect_terms(dataset, count=2).to_pylist()[1] == ['oak', 'CLASP']


def test_what_makes_a_word_of_the_reviews_a_term():
    """Each word stands in the reviews of five of twelve items, and differs in one thing."""
    said = {
        'clasp': ['The clasp is tight'],
        'hinge': ['a hinge, a "hinge"; my hinge'],
        'nib': ['<br />that nib<br />works'],  # tags are punctuation
        'lid': ['this lid &quot;it&quot;'],  # and entities
        'shiny': ['the shiny clasp broke'],  # before a noun: an adjective
        'quickly': ['came quickly the'],  # no determiner before it
        'ox': ['the ox.'],  # two letters
        'x11': ['the x11.'],
        'well-made': ['a well-made.'],
        'thing': ['the thing.'],  # of STOP
    }
    told = [(n, text, None) for texts in said.values() for text in texts for n in range(5)]
    dataset = build([[] for _ in range(12)], told + [(n, 'none', None) for n in range(5, 12)])
    terms = set(sum(aspects.aspect_terms(dataset, count=20).to_pylist(), []))
    assert terms == {'clasp', 'hinge', 'nib', 'lid'}


def test_words_of_too_few_and_of_most_items_are_no_terms():
    said = (('the clasp.', 6), ('the hinge.', 7), ('the latch.', 5), ('the bolt.', 4))
    told = [(n, text, None) for text, items in said for n in range(items)]
    dataset = build([[] for _ in range(13)], told + [(12, None, None)] + [(n, 'so', None) for n in range(12)])
    terms = aspects.aspect_terms(dataset, count=5).to_pylist()
    assert terms[0] == ['latch', 'clasp'] and set(sum(terms, [])) == {'latch', 'clasp'}  # 12 items have reviews


def test_a_plural_and_its_singular_are_one_word_in_the_form_used_more():
    said = ('the strings.', 'my strings!', 'a string', 'no boss', 'the glass')
    dataset = build([[] for _ in range(10)], [(n, text, None) for n in range(5) for text in said]
                    + [(n, 'so', None) for n in range(5, 10)])
    assert aspects.aspect_terms(dataset, count=5).to_pylist()[0] == ['strings', 'boss', 'glass']  # of 3, 1, 1 reviews


def test_a_word_counts_once_a_review_and_only_in_the_first_reviews():
    base = [(n, text, None) for n in range(1, 6) for text in ('the clasp.', 'the hinge.')]
    rest = [(n, 'so', None) for n in range(6, 12)]
    mine = [(0, 'the clasp. ' * 9, None), (0, 'the hinge.', None), (0, 'the hinge.', None)]
    dataset = build([[] for _ in range(12)], mine + base + rest)
    assert aspects.aspect_terms(dataset).to_pylist()[0] == ['hinge', 'clasp']
    late = [(0, 'the clasp.', None)] * aspects.REVIEWS
    dataset = build([[] for _ in range(12)], late + [(0, 'the hinge.', None)] * 2 * aspects.REVIEWS + base + rest)
    assert aspects.aspect_terms(dataset).to_pylist()[0] == ['clasp']


def reference(dataset: tables.Dataset, count: int) -> list[list[str]]:
    """What the module's docstring says of reviews, word by word."""
    determiners, stop = set(aspects.DETERMINERS), set(aspects.STOP) | {'.', ''}
    reviews = collections.defaultdict(list)
    for item, text in zip(tables.codes(dataset.interactions['item_id']), dataset.interactions['review'].to_pylist()):
        if text is not None and len(reviews[item]) < aspects.REVIEWS:
            text = re.sub(r"<[^<>]*>|&[a-z]+;|(?:[^\w'\s-]|_)+", ' . ', text.lower())
            reviews[item].append([token.strip("'-") for token in text.split()])
    uses, nouns, items = collections.Counter(), collections.Counter(), collections.Counter()
    for texts in reviews.values():
        for tokens in texts:
            for before, token, after in zip(['.', *tokens], tokens, [*tokens[1:], '.']):
                uses[token] += 1
                nouns[token] += before in determiners and after in stop
        items.update(set(sum(texts, [])))
    words = {word for word in uses if re.fullmatch(r'[^\W\d_]{3,}', word) and word not in stop
             and nouns[word] >= 0.1 * uses[word] and items[word] >= 5 and items[word] * 2 <= len(reviews)}
    group = {w: w[:-1] if re.search('[^s]s$', w) and w[:-1] in words else w for w in words}
    forms = collections.defaultdict(list)
    for word, one in group.items():
        forms[one].append(word)
    terms = []
    for item in range(dataset.items.num_rows):
        said = collections.Counter(one for tokens in reviews[item] for one in {group[t] for t in tokens if t in words})
        weight = {one: math.log(sum(map(bool, reviews.values())) / max(items[w] for w in forms[one])) for one in said}
        ranked = sorted(said, key=lambda one: (-(said[one] - 0.5) * weight[one], one))[:count]
        terms.append([max(sorted(forms[one]), key=lambda w: uses[w]) for one in ranked])
    return terms


def test_random_reviews_give_what_loops_give(monkeypatch):
    rng = np.random.Generator(np.random.Philox(0))
    nouns = [''.join(letters) for letters in rng.choice(list('bcdego'), (150, 4))]
    words = [*nouns, *(noun + 's' for noun in nouns[::3]), *'the a my is was very and , . !'.split() * 40]
    text = lambda: ' '.join(rng.choice(words, int(rng.integers(1, 40)))) if rng.random() < .95 else None
    dataset = build([[] for _ in range(60)], [(int(rng.integers(55)), text(), None) for _ in range(900)], chunks=7)
    expected = reference(dataset, 4)
    assert aspects.aspect_terms(dataset, 4).to_pylist() == expected
    assert len({len(terms) for terms in expected}) > 1 and sum(map(len, expected)) > 150
    monkeypatch.setattr(aspects, 'TOGETHER', 40)  # in many pieces
    monkeypatch.setattr(aspects, 'MANY', 50)
    assert aspects.aspect_terms(dataset, 4).to_pylist() == expected


def test_only_the_rows_that_are_given_speak():
    told = [(n, 'the clasp.', None) for n in range(5)] + [(n, 'the hinge.', None) for n in range(5)]
    dataset = build([[] for _ in range(10)], told + [(n, 'so', None) for n in range(5, 10)])
    rows = np.r_[14:9:-1, 0:5]
    assert aspects.aspect_terms(dataset, rows=rows).to_pylist() == [['clasp']] * 5 + [[]] * 5
    assert aspects.aspect_terms(dataset, rows=np.array([], int)).to_pylist() == [[]] * 10


def test_rows_are_taken_from_more_text_than_arrow_can_join():
    chunk = pa.array([f'{n}' + 'x' * 10_000 for n in range(2000)])
    column = pa.chunked_array([chunk] * 120)  # 2.4 GB, in 20 MB of memory
    rows = np.array([0, 1999, 2000, 239_999])
    assert [text.rstrip('x') for text in aspects._take(column, rows).to_pylist()] == ['0', '1999', '0', '1999']
    with pytest.raises(pa.ArrowInvalid):  # else `_take` is not needed any more
        column.take(pa.array(rows))


def test_its_cost_is_that_of_columns():
    words = [f'the {a}{b}{c}.' for a in 'bcd' for b in 'aeiou' for c in 'lmnr']
    told = [(n % 400, ' '.join(words[n % 50:n % 50 + 8]), None) for n in range(40_000)]
    dataset = build([[] for _ in range(400)], told)
    start = time.process_time()
    assert set(aspects.aspect_terms(dataset).value_lengths().to_pylist()) == {3}
    assert time.process_time() - start < 10  # 640,000 tokens; about one second where nothing else runs


def test_musical_instruments_have_the_terms_that_others_extracted():
    """Words that another method found in the same reviews (325 of them) are half of the terms."""
    folder = SHARED / 'amazon-musical-instruments-2014'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    dataset = catalog.load('amazon-2014', folder, category='Musical_Instruments', five_core=True)
    terms = aspects.aspect_terms(dataset).to_pylist()
    assert terms == reference(dataset, 3)
    assert all(len(each) == 3 for each in terms)
    named = catalog.load('amazon-2014', folder, category='Musical_Instruments', five_core=True, aspects=True)
    shipped = set(sum(filter(None, named.interactions['aspects'].to_pylist()), []))
    assert np.mean([term in shipped for term in sum(terms, [])]) > 0.45
    of_aspects = aspects.aspect_terms(named).to_pylist()
    assert np.mean([term in shipped for term in sum(of_aspects, [])]) > 0.9


def test_movies_have_their_genres():
    folder = SHARED / 'ml-100k'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there (MovieLens may not be passed on)')
    dataset = catalog.load('ml-100k', folder)
    assert aspects.aspect_terms(dataset)[0].as_py() == ['animation', "children's", 'comedy']
