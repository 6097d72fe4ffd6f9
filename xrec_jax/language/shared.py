"""Questions that begin alike: what they share is prefilled once, and each goes on from its cache.

A judge of G explanations, asked about every two of them in both orders, has G (G - 1) questions on one recommendation.
All begin with the instruction (their *stem*), and those with the same explanation first have that in common too (their
*branch*); only the second explanation is each question's own. With five explanations a third of the tokens are left,
with a long instruction a tenth. The log-probs are those of `choices.score`, whatever is shared.

What is shared is found in the token ids: the longest common beginning of the prompts of a stem, and of a branch. Pieces
are padded on the right to a few widths, and rows to a few counts, so that few programs are compiled.
"""

import functools
import os
from collections.abc import Callable, Hashable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.language import choices as choices_
from xrec_jax.language import tokenizers
from xrec_jax.language.attention import Cache
from xrec_jax.language.decoder import Decoder, positions_of
from xrec_jax.parallel import distributed, sharding

WIDTH = 16  # pieces are padded to multiples of it


def score(model: Decoder, variables: dict, prompts: Sequence[Sequence[int]], stems: Sequence[Hashable],
          branches: Sequence[Hashable], choices: Sequence[Sequence[choices_.Spelling]], num_rows: int,
          advance: Callable[[int], object] = lambda count: None) -> tuple[np.ndarray, int]:
    """The log-prob of each choice as what follows the prompts, and how many tokens that took.

    Args:
      prompts: token ids of N prompts, of any lengths.
      stems, branches: what prompt n has in common with others: those of one stem begin alike, those of one stem and
        branch go on alike. Wrong ones cost time, not exactness.
      choices: as for `choices.score`.
      num_rows: rows of a batch; of all caches no more than three times as many are held.
      advance: called with the number of prompts whenever some are finished.

    Returns:
      (float32 [N, C], tokens without padding that went through the model).
    """
    choices = choices_.checked(model, choices)
    result, count = np.zeros((len(prompts), len(choices)), np.float32), 0
    for block in _blocks(list(zip(stems, branches)), num_rows):
        count += _score_block(model, variables, prompts, block, stems, branches, choices, num_rows, result)
        advance(len(block))
    return result, count


def _blocks(keys: Sequence[tuple], most: int) -> Iterator[list[int]]:
    """The prompts, those of a stem and branch together, in blocks of at most `most` branches (whole ones)."""
    members: dict[tuple, list[int]] = {}
    for n, key in enumerate(keys):
        members.setdefault(key, []).append(n)
    order: dict[Hashable, list[list[int]]] = {}
    for (stem, _), rows in members.items():
        order.setdefault(stem, []).append(rows)
    rows = [one for branches in order.values() for one in branches]
    for start in range(0, len(rows), most):
        yield [n for one in rows[start:start + most] for n in one]


def _score_block(model, variables, prompts, block, stems, branches, choices, num_rows, result) -> int:
    """Fills in `result[block]`; the tokens that it took."""
    of_stem, of_branch = ({}, {})
    for n in block:
        of_stem.setdefault(stems[n], []).append(prompts[n])
        of_branch.setdefault((stems[n], branches[n]), []).append(prompts[n])
    stem_length = {key: _common(rows) for key, rows in of_stem.items()}
    branch_length = {key: max(_common(rows), stem_length[key[0]]) for key, rows in of_branch.items()}
    place = {key: n for n, key in enumerate(of_stem)}
    place_of_branch = {key: n for n, key in enumerate(of_branch)}

    begun = [rows[0][:stem_length[key]] for key, rows in of_stem.items()]
    more = [rows[0][stem_length[key[0]]:branch_length[key]] for key, rows in of_branch.items()]
    rest = [prompts[n][branch_length[stems[n], branches[n]]:] for n in block]
    mesh = model.config.mesh
    shards = 1 if mesh is None else sharding.batch_shards(mesh)

    def batch(pieces, index=None, size=0):
        """Tokens, mask (and index) of some pieces, filled up with rows that are nobody's."""
        size = max(size or 1 << (len(pieces) - 1).bit_length(), shards)
        width = max(1, -(-max(map(len, pieces)) // WIDTH)) * WIDTH
        arrays = tokenizers.pad([*pieces, *[pieces[-1]] * (size - len(pieces))], width, 'right')
        if index is not None:
            arrays = (*arrays, np.resize(np.asarray(index, np.int32), size))
        return arrays if mesh is None else sharding.place_batch(arrays, mesh)

    cache, seen = _begin(model, variables, *batch(begun))
    if any(map(len, more)):
        cache, seen = _go_on(model, variables, cache, seen, *batch(more, [place[key[0]] for key in of_branch]))
        places = [place_of_branch[stems[n], branches[n]] for n in block]
    else:
        places = [place[stems[n]] for n in block]
    order = np.argsort([len(piece) for piece in rest], kind='stable')
    for start in range(0, len(order), num_rows):
        chosen = order[start:start + num_rows]
        arrays = batch([rest[n] for n in chosen], [places[n] for n in chosen], num_rows)
        log_probs = _answer(model, variables, cache, seen, *arrays, choices)
        result[np.asarray(block)[chosen]] = distributed.whole(log_probs)[:len(chosen)]
    return sum(map(len, begun)) + sum(map(len, more)) + sum(map(len, rest))


def _common(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with, and that leave at least one of each: its hidden state is the answer's."""
    return min(len(os.path.commonprefix([list(row) for row in rows])), min(map(len, rows)) - 1)


@functools.partial(jax.jit, static_argnames='model')
def _begin(model: Decoder, variables: dict, tokens: jax.Array, mask: jax.Array) -> tuple[Cache, jax.Array]:
    _, cache = model.apply(variables, jnp.where(mask, tokens, 0), positions_of(mask), mask)
    return cache, mask


@functools.partial(jax.jit, static_argnames='model')
def _go_on(model, variables, cache, seen, tokens, mask, index) -> tuple[Cache, jax.Array]:
    _, cache, seen = _continued(model, variables, cache, seen, tokens, mask, index)
    return cache, seen


@functools.partial(jax.jit, static_argnames=('model', 'choices'))
def _answer(model, variables, cache, seen, tokens, mask, index, choices) -> jax.Array:
    hidden, cache, seen = _continued(model, variables, cache, seen, tokens, mask, index)
    last = jnp.take_along_axis(hidden, mask.sum(1)[:, None, None] - 1, axis=1)[:, 0]
    return choices_.log_probs(model, variables, last, seen, cache, choices)


def _continued(model: Decoder, variables: dict, cache: Cache, seen: jax.Array, tokens: jax.Array, mask: jax.Array,
               index: jax.Array) -> tuple[jax.Array, Cache, jax.Array]:
    """Hidden states [B, S, D] of `tokens` [B, S] behind row `index[b]` of a cache, and their cache.

    `seen` bool [rows, T] says which slots of the cache hold tokens; there are gaps, so every query's sight is given.
    """
    before, length = seen[index], tokens.shape[1]
    cache = jax.tree.map(lambda x: x[:, index], cache).grown(length)
    seen = jnp.concatenate([before, mask], axis=1)
    slots, start = jnp.arange(seen.shape[1]), before.shape[1]
    sight = seen[:, None] & (slots <= start + jnp.arange(length)[:, None])
    hidden, cache = model.apply(
        variables, jnp.where(mask, tokens, 0), before.sum(1, keepdims=True) + positions_of(mask), sight, cache, start,
        key_positions=positions_of(seen))
    return hidden, cache, seen
