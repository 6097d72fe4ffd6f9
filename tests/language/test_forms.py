"""The form that a prompt asks for, and which texts have it."""

import pytest

from xrec_jax.data.domains import HOTELS, MOVIES
from xrec_jax.language import forms, prompts

FORM = prompts.render('recpie/positive_form', domain=MOVIES)


def follows(text, form=FORM, name=''):
    return bool(forms.follows(form, [text], [name])[0])


@pytest.mark.parametrize('text', [
    'The user watched this movie because the user likes war and the movie is about war.',
    '"the user watched this movie because the user likes war and peace, and the movie has both"',
    '  The user watched this movie because  the user likes Dr. No and the movie has a spy!  ',
])
def test_one_sentence_of_the_form_has_it(text):
    assert follows(text)


@pytest.mark.parametrize('text', [
    '',
    'The user watched this movie because the user likes war.',
    'The user did not watch this movie because the user hates war and the movie is about war.',
    'The user watched this movie because the users like war and the movie is good.',
    'The user watched this movie because the user likes war and the movie has it. It is long.',
    'Sure! The user watched this movie because the user likes war and the movie has it.',
    'The user watched this movie because the user and the movie',
])
def test_anything_else_has_it_not(text):
    assert not follows(text)


def test_full_stops_of_a_title_end_no_sentence():
    text = 'The user watched this movie because the user likes aliens and the movie is Gone. Again. The End.'
    assert not follows(text) and follows(text, name='Gone. Again. The End')


def test_several_lines_are_several_forms():
    form = prompts.render('recpie/tiny_negative_form', domain=MOVIES)
    assert follows('With war disliked before, I predict that the customer will probably not like X.', form)
    assert follows('The war disliked before suggests that the customer will likely dislike X.', form)
    assert not follows('I predict that the customer will probably like X because it looks well made.', form)


def test_the_prompt_quotes_the_form_in_the_words_of_the_domain():
    text = prompts.render('recpie/negative', domain=HOTELS, history=[], target=prompts.Shown('Ritz', (), 'Ritz'))
    form = prompts.render('recpie/negative_form', domain=HOTELS)
    assert form == 'The user did not stay at this hotel because the user ... and the hotel ...'
    assert f"format: '{form}'" in text and 'why this user did not stay at this hotel' in text and 'none\n' in text
