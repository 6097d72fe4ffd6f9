"""Inferred attributes: how answers are read, when they are right, and what guessing scores."""

import collections
import math
import pathlib
import re

import numpy as np
import pytest

from xrec_jax.metrics import inferred

SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data'


@pytest.mark.parametrize('name, answer, target, right', [
    ('age', 29, 24, True), ('age', 30, 24, False), ('age', '19', 24, True), ('age', 'about 24 years', '24', True),
    ('age', '20-30', 24, None), ('age', 'young', 24, None), ('age', True, 24, None),
    ('gender', 'Male', 'male', True), ('gender', 'F', 'female', True), ('gender', 'male or female', 'male', False),
    ('gender', 'Unknown', 'male', None),
    ('occupation', ' Student.', 'student', True), ('occupation', 'students', 'student', False),
    ('occupation', 'none', 'none', True), ('occupation', 7, 'student', None),
    ('category', ['News'], 'news', True), ('category', ['news', 'sports'], 'news', None),
    ('interest', 'news, Sports', ['sports', 'news', 'tv'], True), ('interest', ['news', 'food'], ['news'], False),
    ('interest', 'news', 'news, tv', True), ('interest', [], ['news'], None),
    ('popularity', '5', 5, True), ('popularity', 4, 5, False), ('popularity', '4 or 5', 5, None),
    ('price', 'Free to Play', 'Free', True), ('price', 0, 'free to play', True), ('price', 0.99, 'Free', False),
    ('price', '$10.00', 19.99, True), ('price', 20, 19.99, False), ('price', 9.99, 10, False),
    ('price', 40, 999, True), ('price', 'nan', 19.99, None), ('price', math.nan, 19.99, None),
    ('price_exact', '19.99 dollars', 19.99, True), ('price_exact', 19.98, 19.99, False),
    ('price_exact', 'FREE', 'Free Movie', True),
])
def test_when_an_answer_is_right(name, answer, target, right):
    got = inferred.accuracy(name, [{f'user {inferred.ATTRIBUTES[name].key}': answer}], [target])
    assert got['unread'] == (right is None) and got['accuracy'] == bool(right) and got['count'] == 1


@pytest.mark.parametrize('key, name, found', [
    ('user age', 'age', True), ('age', 'age', True), ('AGE', 'age', True), ('message', 'age', False),
    ('price_acc', 'price', True), ('Game price', 'price_exact', True), ('interests', 'interest', True),
    ('user gender', 'age', False)])
def test_a_key_is_found_by_its_words(key, name, found):
    assert inferred.is_key(key, name) == found


def test_answers_that_cannot_be_read_are_wrong_and_counted_apart():
    answers = [{'user age': 24}, {'user age': 90}, None, {'user age': 'old'}, {'gender': 'male'}, {'user age': 5}]
    got = inferred.accuracy('age', answers, [25, 25, 25, 25, 25, 'nan'])
    assert got == {'accuracy': 1 / 5, 'accuracy_read': 1 / 2, 'count': 5, 'unread': 3, 'no_target': 1}
    assert math.isnan(inferred.accuracy('age', [], [])['accuracy'])
    with pytest.raises(ValueError, match='1 answers but 2 targets'):
        inferred.accuracy('age', [None], [1, 2])


def test_guessing_by_hand():
    training = ['male', 'male', 'F', 'female', 'M']
    assert inferred.chance('gender', training, ['male', 'female', 'female', 'nan']) == 0.5
    assert inferred.majority('gender', training, ['male', 'female', 'female', 'nan']) == pytest.approx(1 / 3)
    # Ages 20, 24, 27, 40: 24 is within five years of three, 20 of two. Of the test ages 28 and 41, 24 has one.
    assert inferred.majority('age', [20, 24, 27, 40], [28, 41]) == 0.5
    assert inferred.chance('age', [20, 24, 27, 40], [28, 41]) == pytest.approx((2 + 1) / 8)
    # One interest at a time: news is in three of four histories.
    seen = ['news, tv', ['news'], ['food'], ['news', 'food']]
    assert inferred.majority('interest', seen, [['news'], ['tv']]) == 0.5
    assert inferred.chance('interest', seen, [['news'], ['tv', 'food']]) == pytest.approx((1 + 2) / 6)
    assert math.isnan(inferred.chance('age', [], [3])) and math.isnan(inferred.majority('age', [3], []))


def test_the_table_has_a_row_for_each_model_and_for_guessing():
    targets = [{'age': 24, 'gender': 'male'}, {'price': 'Free'}, {'price': 4.99}]
    answers = [{'user age': 60, 'user gender': 'male'}, {'Game price': 'Free to Play'}, {'Game price': 3}]
    table = inferred.table({'ours': answers, 'silent': [None] * 3}, targets, targets + [{'price': 9.99}])
    assert list(table) == ['age', 'gender', 'price', 'price_exact']
    assert {name: rows['ours']['accuracy'] for name, rows in table.items()} == {
        'age': 0, 'gender': 1, 'price': 1, 'price_exact': 0.5}
    assert table['price']['silent'] == {'accuracy': 0, 'accuracy_read': pytest.approx(math.nan, nan_ok=True),
                                        'count': 2, 'unread': 2, 'no_target': 0}
    assert table['price']['random']['accuracy'] == pytest.approx(1 / 3)
    assert table['price_exact']['majority']['accuracy'] == 0.5


@pytest.mark.skipif(not (SHARED / 'llmxrec').is_dir() or not (SHARED / 'ml-100k').is_dir(),
                    reason='needs ../shared/data/llmxrec and ml-100k')
def test_popularity_in_the_published_prompts_is_the_number_of_interactions():
    items = [line.split('|') for line in (SHARED / 'ml-100k' / 'u.item').read_text('latin-1').splitlines()]
    events = np.array([int(line.split('\t')[1]) for line in (SHARED / 'ml-100k' / 'u.data').read_text().splitlines()])
    titles = [re.sub(r' \(\d{4}\)$', '', item[1]) for item in items]
    counts = np.bincount(events, minlength=len(items) + 1)[1:]
    once = collections.Counter(titles)  # some films stand in ML-100k twice
    classes = {title: known for title, known in zip(titles, inferred.popularity(counts)) if once[title] == 1}
    text = (SHARED / 'llmxrec' / 'attributes_train.jsonl').read_text()
    shown = set(re.findall(r'\\n\d+: (.*?)\\n[^\\]*?popularity of the movie is (\d)\.', text))
    found = [(classes[title], int(number)) for title, number in shown if title in classes]
    assert len(found) == 760 and all(known == number for known, number in found)
