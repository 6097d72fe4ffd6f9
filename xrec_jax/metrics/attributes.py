"""Does an explanation name the attributes that are known to matter, and how many of them?"""

import functools
import re

import numpy as np


@functools.lru_cache(maxsize=65536)
def _whole_words(attribute: str) -> re.Pattern:
    """Pattern of `attribute` not joined to further letters or digits, in any case."""
    return re.compile(rf'(?<!\w){re.escape(_plain(attribute))}(?!\w)', re.IGNORECASE)


def _plain(text: str) -> str:
    """Typographic apostrophes and hyphens as ASCII, so that "Children’s" equals "Children's"."""
    return text.replace('\u2019', "'").replace('\u2011', '-').replace('\u2010', '-')


def names_any(texts: list[str], attributes: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Whether text n names at least one of `attributes[n]`, as whole words, in any case.

    "War" is not named by "Star Wars"; "Action" is by "action-packed". A title that holds the word
    counts too: take titles out of the texts first where that matters.

    Returns:
      (named bool [N], mask bool [N]); mask is False where a row has no attributes to name. The
      share is `named[mask].mean()`.
    """
    named, there = count_named(texts, attributes)
    return named > 0, there > 0


def count_named(texts: list[str], attributes: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """How many of `attributes[n]` text n names, as `names_any` reads it, and how many there are, both int64 [N]."""
    if len(texts) != len(attributes):
        raise ValueError(f'{len(texts)} texts but {len(attributes)} lists of attributes')
    attributes = [[a for a in row if a.strip()] for row in attributes]
    named = [sum(_whole_words(a).search(text) is not None for a in row)
             for text, row in zip(map(_plain, texts), attributes)]
    return np.array(named, np.int64), np.array([len(row) for row in attributes], np.int64)
