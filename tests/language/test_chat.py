"""Chat templates of several kinds, and histories cut to the context against a slow loop."""

import numpy as np
import pytest

from xrec_jax.data.domains import MOVIES
from xrec_jax.errors import UserError
from xrec_jax.language import chat, prompts, tokenizers
from xrec_jax.language.prompts import Prompt

ASSISTANT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# As LLaMA-3 and ChatML write it: BOS, then each message with its role.
ROLES = ("{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
         + ASSISTANT)
# As LLaMA-2 does: what the system says stands within the first message of the user.
INSIDE = ("{% if messages[0]['role'] == 'system' %}{% set say = '<<' + messages[0]['content'] + '>>' %}"
          "{% set messages = messages[1:] %}{% else %}{% set say = '' %}{% endif %}"
          "{{ bos_token }}[INST] {{ say + messages[0]['content'] }} [/INST]")
# As Gemma does.
REFUSES = ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
           + ROLES)
# As the first Mistral did: any other order of roles is an error.
ALTERNATES = ("{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
              "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + ROLES)
OVERLOOKS = ROLES.replace("for m in messages", "for m in messages if m['role'] != 'system'")
BROKEN = "{{ raise_exception('not today') }}"

PROMPT = Prompt(text='Be kind. Name a film.\n', user='Name a film.\n', system='Be kind.')
WITH_ROLE = '<s><|system|>Be kind.<|end|><|user|>Name a film.<|end|><|assistant|>'
WITHOUT_ROLE = '<s><|user|>Be kind. Name a film.<|end|><|assistant|>'


@pytest.fixture(scope='module')
def tokenizer():
    return tokenizers.train_tokenizer(['Be kind. Name a film. [INST] <<>> <|system|> <|assistant|>'] * 20, 300)


def said(tokenizer, template, *asked):
    tokenizer.chat_template = template
    try:
        return [tokenizer.decode(ids) for ids in chat.encode(tokenizer, asked)]
    finally:
        tokenizer.chat_template = None


@pytest.mark.parametrize('template, expected', [
    (ROLES, WITH_ROLE), (INSIDE, '<s>[INST] <<Be kind.>>Name a film. [/INST]'), (REFUSES, WITHOUT_ROLE),
    (ALTERNATES, WITHOUT_ROLE), (OVERLOOKS, WITHOUT_ROLE), (None, '<s>Be kind. Name a film.\n')],
    ids=['roles', 'inside', 'refuses', 'alternates', 'overlooks', 'plain'])
def test_prompts_go_through_the_chat_template(tokenizer, template, expected):
    assert said(tokenizer, template, PROMPT, PROMPT) == [expected] * 2  # one BOS, never two


def test_a_prompt_without_a_system_is_all_the_users(tokenizer):
    alone = Prompt(text='Name a film.', user='Name a film.')
    for template in (ROLES, REFUSES):
        assert said(tokenizer, template, alone, PROMPT)[0] == '<s><|user|>Name a film.<|end|><|assistant|>'


def test_framed_texts_are_what_is_encoded(tokenizer):
    texts = ['Name a film.', ' Be kind. \n']
    assert chat.framed(tokenizer, texts) == texts
    encoded = said(tokenizer, ROLES, *[Prompt(text=text, user=text) for text in texts])
    tokenizer.chat_template = ROLES
    try:
        assert chat.framed(tokenizer, texts) == encoded
    finally:
        tokenizer.chat_template = None


def test_a_template_that_fails_on_the_user_too_is_named(tokenizer):
    with pytest.raises(UserError, match=r'chat template of .* fails \(not today\)'):
        said(tokenizer, BROKEN, PROMPT)


def test_no_prompts_are_no_chats(tokenizer):
    assert said(tokenizer, ROLES) == said(tokenizer, None) == []


def test_roles_of_our_template_are_its_text():
    given = {'domain': MOVIES, 'liked': ['Alien'], 'disliked': [], 'target': 'Aliens'}
    prompt = prompts.render_roles('expctr/explain', **given)
    assert prompt.text == prompts.render('expctr/explain', **given) == f'{prompt.system} {prompt.user}\n'
    assert prompt.system.startswith('You are a helpful') and prompt.system.endswith('movie reviews.')
    assert prompt.user.startswith('A customer has provided') and 'Aliens' in prompt.user
    assert prompts.render_roles('expctr/click', domain=MOVIES, reason='It is.', target='Alien').system == ''


# ------------------------------------------------------------------------------------ the context


def written(sizes):
    """A writer of prompts: 5 tokens of its own, then `sizes[row][i]` of item i, the oldest first."""
    calls = []

    def write(rows, items):
        calls.append(len(rows))
        return [[row] * 5 + [100 + i for i in range(len(sizes[row]) - count, len(sizes[row]))
                             for _ in range(sizes[row][i])] for row, count in zip(rows.tolist(), items.tolist())]

    return write, calls


def test_the_oldest_items_go_until_it_fits():
    random = np.random.default_rng(0)
    sizes = [random.integers(1, 9, length).tolist() for length in random.integers(0, 40, 300)]
    history = np.array([len(one) for one in sizes])
    write, calls = written(sizes)
    fitted = chat.fit(write, history, 60)
    for row, one in enumerate(sizes):
        most = max(n for n in range(len(one) + 1) if 5 + sum(one[len(one) - n:]) <= 60)
        assert fitted.kept[row] == most and fitted.dropped[row] == len(one) - most
        assert fitted.ids[row] == write(np.array([row]), np.array([most]))[0] and len(fitted.ids[row]) <= 60
    assert 0 < (fitted.dropped > 0).mean() < 1 and 0 in history
    # All at once, then those that are too long, halving the search each time: 6 calls for up to 40 items.
    assert calls[0] == 300 and len([count for count in calls if count > 1]) <= 7
    assert calls[1] == (fitted.dropped > 0).sum()


def test_what_fits_is_written_once():
    write, calls = written([[3, 3], [], [50]])
    fitted = chat.fit(write, np.array([2, 0, 1]), 55)
    assert calls == [3] and fitted.dropped.tolist() == [0, 0, 0]


@pytest.mark.parametrize('sizes', [[[3, 3], []], [[3, 3], [2, 2, 2]]], ids=['no history', 'all of it gone'])
def test_a_prompt_that_is_too_long_without_history_is_refused(sizes):
    write, _ = written(sizes)
    with pytest.raises(UserError, match='has 5 tokens without any history, and the context has room for 4 beside'):
        chat.fit(write, np.array([len(one) for one in sizes]), 4)
    fitted = chat.fit(write, np.array([len(one) for one in sizes]), 4, strict=False)
    assert fitted.kept.tolist() == [-1, -1] and fitted.dropped.tolist() == [len(one) for one in sizes]
    assert fitted.ids == [[0] * 5, [1] * 5]
