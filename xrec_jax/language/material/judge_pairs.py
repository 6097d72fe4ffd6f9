"""Labelled pairs for the judge (LLMXRec, section 3.3): two explanations of one instruction, and which is better.

1. `read_pairs`: a file in Alpaca's form whose instruction holds all three texts (`instructions.judged`)
2. `resolved`: pairs that stand there more than once become one, or none where their labels contradict
3. `split`: a validation part that shares no prompt with the rest
4. `both_orders`: every pair twice, swapped; `label_figures`: what an answer that never changes would score

In the published pairs the explanations stand in the order of the generators' names in the authors' list, and 82 % of
the labels are "2". Trained on them as they are, a judge learns the place; so it is trained and asked in both orders,
where a constant answer is right half of the time.
"""

import collections
import pathlib
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from xrec_jax.data.instructions import read_instructions
from xrec_jax.errors import UserError
from xrec_jax.language import instructions


class Pair(NamedTuple):
    """`label` is 1 where `first` is the better explanation of `instruction`, 2 where `second` is."""

    instruction: str
    first: str
    second: str
    label: int

    def swapped(self) -> 'Pair':
        return Pair(self.instruction, self.second, self.first, 3 - self.label)


def read_pairs(path: str | pathlib.Path) -> list[Pair]:
    """The pairs of a file, in order; texts as they stand but for blanks at the ends of the explanations.

    Raises:
      UserError: as `read_instructions`; a text without its three parts, an explanation that is empty, an output
        that is neither "1" nor "2". The message names file and line.
    """
    pairs = []
    for line, example in enumerate(read_instructions(path), 1):
        try:
            instruction, first, second = instructions.judged(example.instruction)
        except UserError as error:
            raise UserError(f'{path}, line {line}, key instruction: {error}') from error
        first, second = first.strip(), second.strip()
        for name, text in (('1', first), ('2', second)):
            if not text:
                raise UserError(f'{path}, line {line}, key instruction: explanation {name} is empty')
        if example.output.strip() not in ('1', '2'):
            raise UserError(f'{path}, line {line}, key output: should be "1" or "2", is {example.output[:40]!r}')
        pairs.append(Pair(instruction, first, second, int(example.output)))
    return pairs


def _key(pair: Pair) -> Hashable:
    """The same for a pair and its swapped copy."""
    return pair.instruction.strip(), *sorted((pair.first, pair.second))


def _winner(pair: Pair) -> str:
    return pair.first if pair.label == 1 else pair.second


def resolved(pairs: Sequence[Pair]) -> tuple[list[Pair], dict[str, int]]:
    """Each question once, in order of first appearance and as it stands there, labelled by the majority.

    A swapped copy is a copy. Where two explanations are preferred equally often the question is dropped, and so is
    one about two equal texts.

    Returns:
      (pairs, counts): 'read'; 'kept'; 'copies', lines beyond the first of a question; 'repeated', questions that
      stand there more than once; 'contradicting', those of them with both labels; 'dropped', questions left out.
    """
    same: dict[Hashable, list[Pair]] = {}
    for pair in pairs:
        same.setdefault(_key(pair), []).append(pair)
    kept, contradicting = [], 0
    for copies in same.values():
        votes = collections.Counter(map(_winner, copies))
        contradicting += len(votes) > 1
        first, *_ = copies
        if first.first == first.second or 2 * votes[first.first] == len(copies):
            continue
        kept.append(first._replace(label=1 if 2 * votes[first.first] > len(copies) else 2))
    return kept, {'read': len(pairs), 'kept': len(kept), 'copies': len(pairs) - len(same),
                  'repeated': sum(len(copies) > 1 for copies in same.values()), 'contradicting': contradicting,
                  'dropped': len(same) - len(kept)}


def split(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(training, validation): about `share` of the pairs, none of whose instructions is in the training part.

    An instruction has several pairs (of different generators), so whole instructions go to one side; which ones,
    `seed` decides. Order is kept.

    Raises:
      UserError: a share that leaves either part empty.
    """
    if not 0 < share < 1:
        raise UserError(f'the share of pairs to validate on should be between 0 and 1, is {share}')
    groups = collections.Counter(pair.instruction.strip() for pair in pairs)
    names = list(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    before = np.cumsum([0, *(groups[names[n]] for n in order)])[:-1]
    chosen = {names[n] for n, count in zip(order, before) if count < share * len(pairs)}
    parts = ([pair for pair in pairs if (pair.instruction.strip() in chosen) == held] for held in (False, True))
    training, validation = parts
    if not training or not validation:
        raise UserError(f'{len(pairs)} pairs of {len(names)} instructions cannot be split with a share of {share}')
    return training, validation


def both_orders(pairs: Sequence[Pair]) -> list[Pair]:
    """Every pair, followed by its swapped copy; 2 n and 2 n + 1 are the two orders of one question."""
    return [one for pair in pairs for one in (pair, pair.swapped())]


def label_figures(labels: Sequence[int]) -> dict[str, float]:
    """'count', 'share_of_second' and 'constant' (accuracy of the better constant answer) of labels 1 and 2."""
    second = float(np.mean(np.asarray(labels) == 2))
    return {'count': len(labels), 'share_of_second': second, 'constant': max(second, 1 - second)}
