"""JSON answers within other text, and not quite JSON."""

import pytest

from xrec_jax.language.json_answers import parse_answer


@pytest.mark.parametrize('text, value', [
    ('{"user age": 24, "user gender": "male"}', {'user age': 24, 'user gender': 'male'}),
    ('Sure!\n```json\n{\n  "a": "b"\n}\n```\nHope {this} helps: ok', {'a': 'b'}),
    ("I think {'user age': 24, 'x': None}", {'user age': 24}),
    ('{"price_acc": Free to Play}', {'price_acc': 'Free to Play'}),
    ('{"user age": 24, "user gender": male, "user occupation": student}',
     {'user age': 24, 'user gender': 'male', 'user occupation': 'student'}),
    ('{user age: 24, "user gender": "male",}', {'user age': 24, 'user gender': 'male'}),
    ('{“user gender”: “male”}', {'user gender': 'male'}),
    ('{"a": "un}balanced {", "b": 1}', {'a': 'un}balanced {', 'b': 1}),
    ('{"a": "line\nend"}', {'a': 'line\nend'}),
    ('{"a": "said \\"x\\" {"}', {'a': 'said "x" {'}),
    ('{"a": {"b": 1}}', {'a': {'b': 1}}),
    ('{"interest": ["news", "sports"]', {'interest': ['news', 'sports']}),
    ('{"a": 1', {'a': 1}),
    ('{} {"a": ""} {nothing} {"b": 2} {"b": 3}', {'b': 2}),
    ('{"a": null}', None), ('{}', None), ('', None), ('age: 24', None), ('[1, 2]', None), ('}{', None),
    ('{' * 3000, None), ('{"a":' * 3000, None),
])
def test_the_first_object_that_can_be_read_counts(text, value):
    assert parse_answer(text) == value
