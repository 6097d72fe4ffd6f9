"""Whether a text names an attribute: whole words, any case, typographic signs."""

import numpy as np
import pytest

from xrec_jax.metrics import attributes


def named(text: str, *wanted: str) -> bool:
    return bool(attributes.names_any([text], [list(wanted)])[0][0])


@pytest.mark.parametrize('text, attribute, expected', [
    ('You like war films.', 'war', True),
    ('You like WAR films.', 'war', True),
    ('You like war films.', 'War', True),
    ('War', 'war', True),
    ('Star Wars', 'war', False),
    ('a warm place', 'war', False),
    ('the cold-war thriller', 'war', True),
    ('an action-packed ride', 'action', True),
    ('reaction shots', 'action', False),
    ('war_room', 'war', False),
    ('It is sci-fi at its best', 'sci-fi', True),
    ('It is sci\u2011fi at its best', 'sci-fi', True),
    ('scixfi', 'sci-fi', False),
    ('a children\u2019s film', "children's", True),
    ("a children's film", 'children\u2019s', True),
    ('children like it', "children's", False),
    ('written in C++ (really)', 'C++', True),
    ('a.b', 'a.b', True),
    ('axb', 'a.b', False),
    ('un film d\u2019été', 'été', True),
    ('l\u2019étéx', 'été', False),
    ('', 'war', False),
])
def test_an_attribute_is_named_as_whole_words(text, attribute, expected):
    assert named(text, attribute) is expected


def test_one_of_several_is_enough():
    assert named('a tale of pirates', 'war', 'pirates')
    assert not named('a tale of pirates', 'war', 'robots')


def test_rows_without_attributes_are_masked():
    hit, mask = attributes.names_any(
        ['war', 'war', 'peace', 'anything'], [['war'], [], ['war'], ['', '  ']])
    assert hit.dtype == mask.dtype == bool
    np.testing.assert_array_equal(hit, [True, False, False, False])
    np.testing.assert_array_equal(mask, [True, False, True, False])
    assert hit[mask].mean() == 0.5


def test_no_rows_give_empty_arrays():
    hit, mask = attributes.names_any([], [])
    assert hit.shape == mask.shape == (0,) and hit.dtype == mask.dtype == bool


def test_lengths_must_agree():
    with pytest.raises(ValueError, match='2 texts but 1'):
        attributes.names_any(['a', 'b'], [['a']])
