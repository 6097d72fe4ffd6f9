"""Prompts: what a template says with what it is given."""

import jinja2
import pytest

from xrec_jax.data.domains import MOVIES, PRODUCTS
from xrec_jax.errors import UserError
from xrec_jax.language.prompts import item_text, render

SHOWN = {'domain': MOVIES, 'liked': ['Alien', 'Amélie'], 'disliked': [], 'target': 'Aliens'}


def test_explain_prompt_of_the_paper():
    text = render('expctr/explain', **SHOWN)
    assert 'The liked movies: Alien; Amélie.' in text
    assert 'The disliked movies: none.' in text
    assert 'predict how the customer will consider Aliens and give a reason' in text
    assert text.endswith('within one sentence.\n')  # the reason stands on its own line


def test_click_prompt_of_the_paper_ends_where_the_answer_begins():
    text = render('expctr/click', domain=PRODUCTS, reason='It is a lamp.', target='Lamp')
    assert '"Yes." or "No."' in text and 'The user thought: It is a lamp.' in text
    assert text.endswith('Whether the user will like the target product Lamp:')


def test_domain_words_are_used_throughout():
    for name, extra in (('expctr/explain', SHOWN), ('tiny/recall', SHOWN),
                        ('expctr/click', {'reason': 'r', 'target': 't'})):
        text = render(name, **(extra | {'domain': PRODUCTS}))
        assert 'product' in text and 'movie' not in text


def test_texts_are_taken_as_they_are():
    text = render('expctr/explain', **(SHOWN | {'target': '{{ 7 * 7 }} <b> & "x"'}))
    assert '{{ 7 * 7 }} <b> & "x"' in text


def test_missing_variable_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match='reason'):
        render('expctr/click', domain=MOVIES, target='Alien')


def test_unknown_template_names_the_nearest():
    with pytest.raises(UserError, match='"expctr/explian".*Did you mean "expctr/explain"'):
        render('expctr/explian')
    with pytest.raises(UserError, match='Known: .*expctr/click, expctr/explain'):
        render('zzz')


def test_item_is_its_title_with_attributes_and_opinions_where_given():
    title, attributes = 'Toy Story (1995)', ['animation', 'comedy']
    assert item_text(title, attributes) == 'Toy Story (1995) - animation, comedy'
    assert item_text(title, attributes, 'liked') == 'Toy Story (1995) - animation liked, comedy liked'
    assert item_text(title, []) == item_text(title, [], 'liked') == title
