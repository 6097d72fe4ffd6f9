"""Examples of instruction tuning as rows of tokens: several short ones to a row, told apart by segment ids.

  `encode`      (prompt, response) texts → `Encoded`: token ids, cut to a length where they are longer
  `first_fit_decreasing`   lengths → which row each example lies in
  `pack`        some examples → `Packed` rows of one static shape, in microbatches
  `epoch`       which examples an epoch sees, in which order, from sources mixed by ratio

Packing changes nothing but the layout: a batch is so many *examples*, drawn as if each had a row of its own; within a
row each example's positions start at 0 and it sees nothing but itself. So the loss and its gradients are those of
the unpacked batch, and settings of a batch mean the same with packing and without.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import numpy as np

from xrec_jax.language.tokenizers import Tokenizer, encode_responses


class Example(NamedTuple):
    """Of `prompt`, the characters from `cut_from` to `cut_to` may go, from their left on, where all is too long."""

    prompt: str
    response: str
    cut_from: int = 0
    cut_to: int | None = None  # None: the end
    whole: bool = False  # the prompt holds its own special tokens (chat templates): none is put before it


@dataclasses.dataclass(frozen=True)
class Encoded:
    """N examples, one behind the other: prompt tokens, then response tokens with EOS."""

    tokens: np.ndarray  # int32 [T]
    starts: np.ndarray  # int64 [N + 1]; example n is tokens[starts[n]:starts[n + 1]]
    prompt_lengths: np.ndarray  # int32 [N]
    num_cut: int = 0  # examples that lost the beginning of their prompt
    num_dropped: int = 0  # examples that did not fit at all, and are not here

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


@flax.struct.dataclass
class Packed:
    """A batch of examples in rows of S tokens, in M microbatches of B rows; a pytree of NumPy arrays.

    Rows behind the last example are empty, and microbatches from `count` on have none but empty ones.
    """

    tokens: np.ndarray  # int32 [M, B, S]
    segments: np.ndarray  # int32 [M, B, S], from 1; 0 is padding
    positions: np.ndarray  # int32 [M, B, S], from 0 in each example
    response: np.ndarray  # bool [M, B, S]
    count: np.ndarray  # int32 scalar


def encode(tokenizer: Tokenizer, examples: Sequence[tuple], max_length: int, together: int = 1) -> Encoded:
    """Token ids of (prompt, response) pairs or `Example`s, each of at most `max_length` tokens.

    Of a prompt that is too long, tokens go from the left of its `cut_from` to `cut_to`; an example that is too long
    even then is dropped, and with it the others of its `together` (`epoch`). Both are counted.
    """
    examples = [Example(*example) for example in examples]
    if not examples:  # which tokenizers refuse
        return Encoded(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32))
    prompts = [None] * len(examples)
    for whole in (False, True):
        rows = [row for row, example in enumerate(examples) if example.whole == whole]
        if rows:
            ids = tokenizer([examples[row].prompt for row in rows], add_special_tokens=not whole)['input_ids']
            for row, prompt in zip(rows, ids):
                prompts[row] = prompt
    responses = encode_responses(tokenizer, [example.response for example in examples])
    fitting, num_cut = [], 0
    for example, prompt, response in zip(examples, prompts, responses):
        excess = len(prompt) + len(response) - max_length
        if excess > 0:
            prompt = _cut(tokenizer, example, excess)
            num_cut += prompt is not None
        fitting.append(None if prompt is None else (prompt, response))
    groups = [fitting[n:n + together] for n in range(0, len(fitting), together)]
    kept = [pair for group in groups if None not in group for pair in group]
    lengths = np.array([len(prompt) + len(response) for prompt, response in kept], np.int64)
    return Encoded(
        tokens=np.fromiter((token for pair in kept for ids in pair for token in ids), np.int32, lengths.sum()),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        prompt_lengths=np.array([len(prompt) for prompt, _ in kept], np.int32),
        num_cut=num_cut, num_dropped=len(examples) - len(kept))


def _cut(tokenizer: Tokenizer, example: Example, excess: int) -> list[int] | None:
    """The prompt's ids without `excess` of those that may go; None where so many may not."""
    coded = tokenizer(example.prompt, add_special_tokens=not example.whole, return_offsets_mapping=True)
    end = len(example.prompt) if example.cut_to is None else example.cut_to
    # Special tokens stay, those that the text holds and those put before it (of no characters).
    ids, special = coded['input_ids'], set(tokenizer.all_special_ids)
    loose = [at for at, (first, last) in enumerate(coded['offset_mapping'])
             if example.cut_from <= first < last <= end and ids[at] not in special]
    if excess > len(loose) or excess >= len(ids):  # something has to stay, for the response to follow
        return None
    gone = set(loose[:excess])
    return [token for at, token in enumerate(ids) if at not in gone]


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The examples of all parts, in order."""
    shifts = np.cumsum([0, *(len(part.tokens) for part in parts)])
    return Encoded(
        tokens=np.concatenate([part.tokens for part in parts]),
        starts=np.concatenate([part.starts[:-1] + shift for part, shift in zip(parts, shifts)] + [shifts[-1:]]),
        prompt_lengths=np.concatenate([part.prompt_lengths for part in parts]),
        num_cut=sum(part.num_cut for part in parts), num_dropped=sum(part.num_dropped for part in parts))


def first_fit_decreasing(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each length [N]: from the longest on, the first row that still has room for it.

    Needs no more than 11/9 of the fewest rows possible, and one (Johnson 1973). Equal lengths are placed together, by
    whole columns, so that the time goes with the number of different lengths: 0.2 s for 100,000 examples.
    """
    if len(lengths) and not 0 < lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f'lengths from {lengths.min()} to {lengths.max()} do not go into rows of {capacity}')
    rows = np.empty(len(lengths), np.int64)
    free = np.empty(0, np.int64)  # tokens left in each row that is open
    order = np.argsort(-lengths, kind='stable')
    for members in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        if not len(members):
            continue
        length = lengths[members[0]]
        # First fit of equal things fills one row after the other.
        room = np.cumsum(free // length)
        missing = len(members) - (room[-1] if len(room) else 0)
        if missing > 0:
            each = capacity // length
            free = np.concatenate([free, np.full(-(-missing // each), capacity)])
            room = np.cumsum(free // length)
        placed = np.searchsorted(room, np.arange(len(members)), side='right')
        rows[members] = placed
        free -= np.bincount(placed, minlength=len(free)) * length
    return rows


def pack(examples: Encoded, index: np.ndarray, batch_size: int, microbatch_size: int, row_length: int,
         packing: bool = True) -> Packed:
    """The examples `index` (at most `batch_size`) in rows of `row_length`, `microbatch_size` rows at a time.

    The shapes depend on the sizes alone. `packing` False gives each example a row.
    """
    index = np.asarray(index)
    lengths = examples.lengths[index]
    prompts = examples.prompt_lengths[index]
    rows = first_fit_decreasing(lengths, row_length) if packing else np.arange(len(index))
    # Rows with as many response tokens as each other go through the output head together: see `tuning`.
    answers = np.bincount(rows, lengths - prompts)
    rows = np.argsort(np.argsort(-answers, kind='stable'))[rows]

    order = np.argsort(rows, kind='stable')
    index, lengths, prompts, rows = index[order], lengths[order], prompts[order], rows[order]
    before = np.cumsum(lengths) - lengths
    first = np.searchsorted(rows, rows)  # place of the first example of each one's row
    offsets = before - before[first]
    within = np.arange(lengths.sum()) - np.repeat(before, lengths)  # position in the example
    slots = np.repeat(rows * row_length + offsets, lengths) + within

    num_micro = -(-batch_size // microbatch_size)
    shape = num_micro, microbatch_size, row_length

    def placed(values, dtype):
        array = np.zeros(shape, dtype)
        array.reshape(-1)[slots] = values
        return array

    return Packed(
        tokens=placed(examples.tokens[np.repeat(examples.starts[index], lengths) + within], np.int32),
        segments=placed(np.repeat(np.arange(len(index)) - first + 1, lengths), np.int32),
        positions=placed(within, np.int32),
        response=placed(within >= np.repeat(prompts, lengths), bool),
        count=np.int32(-(-(rows.max(initial=-1) + 1) // microbatch_size)))


def padding_share(batch: Packed) -> float:
    """Share of the slots that are computed and hold no token."""
    return 1 - np.count_nonzero(batch.segments) / max(1, int(batch.count) * batch.segments[0].size)


def epoch(sizes: Sequence[int], ratio: Sequence[float], seed: tuple[int, ...], number: int, together: int = 1
          ) -> np.ndarray:
    """The examples of epoch `number` (from 0), shuffled; sources lie one behind the other, `sizes` of each.

    Without a ratio each example comes once. With one, as many come in all, by the ratio from each source, which goes
    on from epoch to epoch through shuffled passes of its own. Each source's examples lie in groups of `together`,
    which stay side by side: a step that takes so many, or a multiple, takes whole groups.
    """
    sizes = [size // together for size in sizes]
    groups = _epoch(sizes, ratio, seed, number)
    return (together * groups[:, None] + np.arange(together)).ravel()


def _epoch(sizes: Sequence[int], ratio: Sequence[float], seed: tuple[int, ...], number: int) -> np.ndarray:
    total = sum(sizes)
    if not len(ratio):
        return _random(*seed, 0, number).permutation(total)
    counts = np.diff(np.rint(np.cumsum(ratio) / np.sum(ratio) * total).astype(np.int64), prepend=0)
    chosen, start = [], 0
    for source, (size, count) in enumerate(zip(sizes, counts), 1):
        if count:
            first, last = number * count // size, -(-(number + 1) * count // size)
            stream = np.concatenate([_random(*seed, source, p).permutation(size) for p in range(first, last)])
            chosen.append(start + stream[number * count - first * size:][:count])
        start += size
    return _random(*seed, 0, number).permutation(np.concatenate(chosen))


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
