"""Texts as whole words, for models that learn to write: a vocabulary, texts → numbers, numbers → texts.

A text is put into lower case and parted at white space and around every punctuation mark. The vocabulary holds the words
that stand most often in the texts it was trained on, of as many the alphabetically first: the same texts, in whatever
order, give the same vocabulary. A text as a row of numbers is its words, EOS, and PAD up to a fixed width.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

SPECIAL = ('<pad>', '<bos>', '<eos>', '<unk>')
PAD, BOS, EOS, UNK = range(len(SPECIAL))  # words follow


def train_vocabulary(texts: Iterable[str], most: int) -> tokenizers.Tokenizer:
    """A tokenizer whose vocabulary holds `SPECIAL` and the most frequent words of `texts`, `most` together at most."""
    if most <= len(SPECIAL):
        raise ValueError(f'a vocabulary of {most}: {len(SPECIAL)} of them are no words')
    counted = _parting(models.WordLevel())
    counted.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=most - len(SPECIAL), special_tokens=[], show_progress=False))
    found = counted.get_vocab()
    names = [*SPECIAL, *sorted(found, key=found.get)]
    # Made anew: a trainer's special tokens would be found in texts that spell them.
    return _parting(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token=SPECIAL[UNK]))


def encode(vocabulary: tokenizers.Tokenizer, texts: Sequence[str], most_words: int) -> np.ndarray:
    """int32 [N, most_words + 1]: the first words of each text, EOS, PAD; UNK for words that are not known."""
    rows = np.full((len(texts), most_words + 1), PAD, np.int32)
    for row, found in zip(rows, vocabulary.encode_batch(list(texts), add_special_tokens=False)):
        ids = found.ids[:most_words]
        row[:len(ids) + 1] = [*ids, EOS]
    return rows


def decode(vocabulary: tokenizers.Tokenizer, rows: np.ndarray) -> list[str]:
    """The words of rows [N, W] up to EOS or PAD as texts, with a blank between, but none before a mark that ends or
    parts a sentence."""
    texts = []
    for row in rows.tolist():
        ended = [n for n, word in enumerate(row) if word in (EOS, PAD)]
        text = ' '.join(map(vocabulary.id_to_token, row[:ended[0]] if ended else row))
        texts.append(re.sub(r' ([.,;:!?])', r'\1', text))
    return texts


def _parting(model: models.Model) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return tokenizer
