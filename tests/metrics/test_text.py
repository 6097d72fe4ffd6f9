"""Metrics of texts against values worked out by hand."""

import math

import numpy as np
import pytest

from xrec_jax.metrics import text

TEXTS = ['The price is right, the sound is good.', 'Good sound!', 'the price is right the sound is good']


def test_coverage_is_the_share_of_all_terms_that_are_named():
    terms = [['price', 'sound', 'case'], [], ['Price', 'battery']]
    assert text.coverage(TEXTS, terms) == 3 / 5
    assert text.coverage(['priceless soundtrack', 'a'], [['price', 'sound'], []]) == 0  # no whole words
    assert math.isnan(text.coverage(TEXTS, [[], [], ['']]))


def test_distinct_and_unique_count_words_in_any_case_without_punctuation():
    # 18 words, of which the, price, is, right, sound, good are distinct
    assert text.distinct(TEXTS, 1) == 6 / 18
    # the price, price is, is right, right the, the sound, sound is, is good; good sound
    assert text.distinct(TEXTS, 2) == 8 / 15
    assert text.unique(TEXTS) == 2 / 3
    assert math.isnan(text.distinct(['one', ''], 2)) and math.isnan(text.unique([]))
    assert text.words("It's user-friendly — naïve") == ["it's", 'user-friendly', 'naïve']


def test_bleu_of_one_pair_by_hand():
    # "the cat sat on the mat" for "the cat sat on a mat": n-grams 5/6, 3/5, 2/4, 1/3; equally long
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert abs(text.bleu(['the cat sat on the mat'], ['the cat sat on a mat']) - expected) < 1e-9
    # half as long: every n-gram there is is right, and the brevity penalty is exp(1 - 12/6)
    twice = 'the cat sat on a mat and then it fell asleep soon'
    assert abs(text.bleu(['the cat sat on a mat'], [twice]) - 100 * math.exp(1 - 2)) < 1e-9


def test_rouge_of_two_pairs_by_hand():
    found = text.rouge(['the cat sat', 'dogs bark'], ['the cat ran away', 'a dog barks'])
    # stemmed: {the, cat} of 3 and 4, {dog, bark} of 2 and 3; bigrams 1 of 2 and 3, 1 of 1 and 2
    f1 = lambda precision, recall: 2 * precision * recall / (precision + recall)
    assert abs(found['rouge1'] - np.mean([f1(2 / 3, 2 / 4), f1(2 / 2, 2 / 3)])) < 1e-12
    assert abs(found['rouge2'] - np.mean([f1(1 / 2, 1 / 3), f1(1 / 1, 1 / 2)])) < 1e-12
    assert abs(found['rougeL'] - found['rouge1']) < 1e-12


def test_what_has_no_reference_or_term_does_not_count():
    found = text.text_metrics(TEXTS[:2], [None, 'Good sound'], [['price'], []])
    assert list(found) == list(text.LABELS)
    assert found['rouge1'] == 1 and found['coverage'] == 1
    alone = text.text_metrics(TEXTS, [None, '', None], [[], [], []])
    assert all(math.isnan(alone[name]) for name in ('coverage', 'bleu', 'rouge1', 'rouge2', 'rougeL'))
    assert alone['unique'] == 2 / 3
    with pytest.raises(ValueError, match='3 texts, 1 references'):
        text.text_metrics(TEXTS, [None], [[], [], []])
