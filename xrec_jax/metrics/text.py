"""The quality of explanations as texts: what they cover, how they compare with a reference, how they vary.

  coverage     share of aspect terms that the explanations name (RecPIE, appendix C.3)
  bleu, rouge  overlap with a reference, by `sacrebleu` and `rouge-score`
  distinct     share of n-grams that are distinct (Li et al. 2016)
  unique       share of texts that are distinct (USR: Li, Zhang, Chen 2020)

`text_metrics` gives all of them. What a model makes of a text (BARTScore) is `language.text_scores`.
"""

import re
from collections.abc import Sequence

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer

from xrec_jax.metrics import attributes

# Of `text_metrics`: those without a reference, and those with one.
ALONE = {'coverage': 'coverage', 'distinct1': 'distinct-1', 'distinct2': 'distinct-2', 'unique': 'unique'}
COMPARED = {'bleu': 'BLEU', 'rouge1': 'ROUGE-1', 'rouge2': 'ROUGE-2', 'rougeL': 'ROUGE-L'}
LABELS = ALONE | COMPARED
# Of a model that scores texts (BARTScore, LMScore).
SCORES = {'informativeness': 'review → text', 'reverse': 'text → review', 'fluency': 'text alone'}

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def text_metrics(texts: Sequence[str], references: Sequence[str | None], terms: Sequence[Sequence[str]]
                 ) -> dict[str, float]:
    """All of `LABELS`; NaN for what there is nothing to measure by.

    Args:
      texts: [N], the explanations.
      references: [N], of each what a person wrote, or None; those of `COMPARED` are over the texts that have one.
      terms: [N], of each the aspect terms of its user and item, or none.
    """
    if not len(texts) == len(references) == len(terms):
        raise ValueError(f'{len(texts)} texts, {len(references)} references, {len(terms)} lists of terms: must be alike')
    there = [n for n, reference in enumerate(references) if reference]
    compared = {name: float('nan') for name in COMPARED}
    if there:
        pair = [texts[n] for n in there], [references[n] for n in there]
        compared = {'bleu': bleu(*pair), **rouge(*pair)}
    return {'coverage': coverage(texts, terms), 'distinct1': distinct(texts, 1), 'distinct2': distinct(texts, 2),
            'unique': unique(texts), **compared}


def coverage(texts: Sequence[str], terms: Sequence[Sequence[str]]) -> float:
    """The share of all terms that the explanation of their user and item names, as whole words; NaN without terms."""
    named, there = attributes.count_named(list(texts), [list(row) for row in terms])
    return float(named.sum() / there.sum()) if there.sum() else float('nan')


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4, from 0 to 100, with sacrebleu's defaults: 13a tokens, case counts, exponential smoothing."""
    return sacrebleu.corpus_bleu(list(texts), [list(references)]).score


def rouge(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F1 of ROUGE-1, -2 and -L, from 0 to 1, on stemmed words."""
    scorer = rouge_scorer.RougeScorer(['rouge1', 'rouge2', 'rougeL'], use_stemmer=True)
    each = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return {name: float(np.mean([one[name].fmeasure for one in each])) for name in each[0]}


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams of all texts; NaN without any."""
    grams = [gram for row in map(words, texts) for gram in zip(*(row[start:] for start in range(n)))]
    return len(set(grams)) / len(grams) if grams else float('nan')


def unique(texts: Sequence[str]) -> float:
    """Distinct texts (as sequences of words) over texts; NaN without any."""
    return len({tuple(words(text)) for text in texts}) / len(texts) if len(texts) else float('nan')
