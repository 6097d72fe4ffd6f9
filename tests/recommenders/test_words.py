"""Words: what a vocabulary holds, and texts there and back."""

import numpy as np
import pytest

from xrec_jax.recommenders import words
from xrec_jax.recommenders.words import EOS, PAD, SPECIAL, UNK

TEXTS = ['I liked it. What I enjoy is <eos> pirates!', "It was fine, I LIKED it, wasn't it?"]


def test_the_most_frequent_words_are_kept_in_a_fixed_order():
    vocabulary = words.train_vocabulary(TEXTS, 8)
    assert [vocabulary.id_to_token(n) for n in range(8)] == [*SPECIAL, 'it', 'i', ',', 'liked']
    again = words.train_vocabulary(TEXTS[::-1], 8)
    assert again.get_vocab() == vocabulary.get_vocab() and vocabulary.get_vocab_size() == 8
    with pytest.raises(ValueError, match='no words'):
        words.train_vocabulary(TEXTS, 4)


def test_texts_are_cut_closed_and_padded():
    vocabulary = words.train_vocabulary(TEXTS, 100)
    number = vocabulary.token_to_id
    rows = words.encode(vocabulary, ['It,\n liked', 'IT was fine it was', ' ', 'unheard  it'], 3)
    np.testing.assert_array_equal(rows, [[number('it'), number(','), number('liked'), EOS],
                                         [number('it'), number('was'), number('fine'), EOS],
                                         [EOS, PAD, PAD, PAD], [UNK, number('it'), EOS, PAD]])


def test_a_text_that_spells_a_special_token_does_not_end_there():
    vocabulary = words.train_vocabulary(TEXTS, 100)
    row = words.encode(vocabulary, ['is <eos> pirates'], 8)[0]
    assert row.tolist().index(EOS) == 5  # is < eos > pirates


def test_rows_come_back_as_texts():
    vocabulary = words.train_vocabulary(TEXTS, 100)
    rows = words.encode(vocabulary, ['It was fine, liked!', '', 'it'], 8)
    assert words.decode(vocabulary, rows) == ['it was fine, liked!', '', 'it']
    assert words.decode(vocabulary, rows[:, :3]) == ['it was fine', '', 'it']  # cut off: no end to be seen
