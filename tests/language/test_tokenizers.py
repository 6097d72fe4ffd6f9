"""Tokenizers: padding against loops, and texts that come back as they went in."""

import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import tokenizers
from xrec_jax.language.tokenizers import load_tokenizer, pad, train_tokenizer

TEXTS = ['The liked movies: Alien (1979) [horror, sci-fi]; Amélie (2001) [romance].',
         'Since Alien, which the customer liked, features horror.', 'Answer: Yes.', 'Answer: No.'] * 5


@pytest.fixture(scope='module')
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=400)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_equals_a_loop(side):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 50, n).tolist() for n in (3, 0, 7, 1)]
    ids, mask = pad(rows, 7, side)
    assert ids.dtype == np.int32 and mask.dtype == bool
    for row, got, valid in zip(rows, ids.tolist(), mask.tolist()):
        blank = 7 - len(row)
        assert got == (row + [0] * blank if side == 'right' else [0] * blank + row)
        assert valid == ([True] * len(row) + [False] * blank if side == 'right' else
                         [False] * blank + [True] * len(row))


def test_padding_of_nothing_and_of_too_much():
    ids, mask = pad([], 4, 'left')
    assert ids.shape == mask.shape == (0, 4)
    with pytest.raises(ValueError, match='5 tokens, more than 4'):
        pad([[1] * 5], 4, 'left')


def test_mask_does_not_come_from_ids():
    ids, mask = pad([[0, 0], [0]], 3, 'right')
    assert not ids.any() and mask.tolist() == [[True, True, False], [True, False, False]]


def test_prompts_open_with_bos_and_responses_close_with_eos(tokenizer):
    prompt, = tokenizers.encode_prompts(tokenizer, TEXTS[:1])
    response, = tokenizers.encode_responses(tokenizer, TEXTS[:1])
    assert prompt[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in prompt
    assert response[-1] == tokenizer.eos_token_id and response[:-1] == prompt[1:]


def test_texts_come_back_as_they_were(tokenizer):
    texts = TEXTS[:4] + ['Naïve 漢字 🙂 {x}  two  spaces']
    rows = tokenizers.encode_responses(tokenizer, texts)
    ids, mask = pad(rows, max(map(len, rows)) + 3, 'right')
    ids[~mask] = 77  # whatever lies behind a response
    assert tokenizers.decode_responses(tokenizer, ids, mask.sum(axis=1)) == texts


def test_saved_tokenizer_is_loaded_again(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again(TEXTS[:3])['input_ids'] == tokenizer(TEXTS[:3])['input_ids']
    assert (again.bos_token, again.eos_token, again.pad_token) == ('<s>', '</s>', '<pad>')
    assert again.decode([again.bos_token_id] + again('a  b .', add_special_tokens=False)['input_ids'],
                        skip_special_tokens=True) == 'a  b .'


def test_eos_stands_in_for_a_missing_pad_token(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config = tmp_path / 'tokenizer_config.json'
    config.write_text(config.read_text().replace('"pad_token": "<pad>"', '"pad_token": null'))
    assert load_tokenizer(tmp_path).pad_token_id == tokenizer.eos_token_id


def test_directory_without_tokenizer_is_an_error(tmp_path):
    with pytest.raises(UserError, match='holds no tokenizer'):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize('written, expected', [
    (None, (2,)), ('{}', (2,)), ('{"eos_token_id": null}', (2,)), ('{"eos_token_id": 7}', (2, 7)),
    ('{"eos_token_id": [9, 5, 2]}', (2, 5, 9))])
def test_stop_tokens_are_those_of_the_generation_config_and_the_tokenizers(tokenizer, tmp_path, written, expected):
    if written is not None:
        (tmp_path / 'generation_config.json').write_text(written)
    assert tokenizer.eos_token_id == 2
    assert tokenizers.stop_ids(tokenizer, tmp_path) == expected


@pytest.mark.parametrize('written, message', [
    ('{"eos_token_id": [2', 'generation_config.json, line 1: not valid JSON'),
    ('[2]', 'should be one JSON object'),
    ('{"eos_token_id": "</s>"}', "eos_token_id='</s>' should be the id of a token"),
    ('{"eos_token_id": [2, -1]}', r'eos_token_id=\[2, -1\] should be'),
    ('{"eos_token_id": true}', 'eos_token_id=True')])
def test_damaged_stop_tokens_are_refused(tokenizer, tmp_path, written, message):
    (tmp_path / 'generation_config.json').write_text(written)
    with pytest.raises(UserError, match=message):
        tokenizers.stop_ids(tokenizer, tmp_path)


def test_a_model_that_nothing_ends_is_refused(tmp_path):
    class NoEos:
        eos_token_id = None

    with pytest.raises(UserError, match='names a token that ends a text'):
        tokenizers.stop_ids(NoEos(), tmp_path)


def test_label_is_all_single_tokens_that_spell_it(tokenizer):
    vocabulary = tokenizer.get_vocab()
    ids = tokenizers.first_tokens(tokenizer, 'Yes')
    assert ids and all(tokenizer.decode([one]).strip() == 'Yes' for one in ids)
    assert len(ids) == sum(word in vocabulary for word in ('Yes', 'ĠYes'))


def test_label_of_several_tokens_is_its_first_one_after_a_space(tokenizer):
    ids = tokenizers.first_tokens(tokenizer, 'Zzyzx')
    assert ids == tokenizer(' Zzyzx', add_special_tokens=False)['input_ids'][:1]
