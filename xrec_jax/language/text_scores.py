"""How likely a model finds one text given another: BARTScore (Yuan, Neubig, Liu 2021), and the same by a decoder.

  score(h | s) = 1/T sum_t log p(h_t | h_<t, s)        in nats a token, 0 at best

  `load_bart_scorer`    a BART directory → `Scorer` 'BARTScore': T counts <s> and </s>, as in the authors' code
  `language_scorer`     a decoder → `Scorer` 'LMScore': the source as text before the target. It is the same formula
                        under another model, and its figures cannot be held against those of BARTScore
  `Scorer.score`        pairs of texts → scores

Pairs are sorted into batches of a few static shapes (powers of two), so that nothing compiles once they are met. Texts
that are too long lose their end (BART, as its tokenizer cuts), or the source its beginning (a decoder).
"""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from xrec_jax.errors import UserError
from xrec_jax.language import bart, decoder, encoders, tokenizers
from xrec_jax.language.likelihood import masked_mean, token_log_probs
from xrec_jax.parallel import sharding

NARROWEST = 32  # tokens
Rows = list[list[int]]  # token ids


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """Scores texts given others."""

    name: str  # 'BARTScore' or 'LMScore'
    encode: Callable[[Sequence[str], Sequence[str]], tuple[Rows, Rows, int]]  # also: how many pairs lost tokens
    compute: Callable[..., jax.Array]  # source, its mask, target, its mask → scores [B]
    source_side: str  # where a source is padded: 'left' | 'right'
    widest: int  # tokens of a source, or of a target
    mesh: Mesh | None = None
    tokens_per_batch: int = 4096

    def score(self, sources: Sequence[str], targets: Sequence[str],
              advance: Callable[[int], object] = lambda count: None) -> tuple[np.ndarray, int]:
        """Scores float64 [N] of N targets given their sources, and how many pairs were too long and cut.

        A source may be empty: then it is the score of the target alone. NaN for a target without tokens.
        """
        if len(sources) != len(targets):
            raise ValueError(f'{len(sources)} sources but {len(targets)} targets')
        if not len(targets):
            return np.zeros(0), 0
        given, wanted, cut = self.encode(sources, targets)
        scores = np.full(len(wanted), np.nan)
        shapes = collections.defaultdict(list)
        for row, (source, target) in enumerate(zip(given, wanted)):
            if target:
                shapes[self._width(len(source)), self._width(len(target))].append(row)
        for (source_width, target_width), rows in sorted(shapes.items(), reverse=True):  # the largest fail at once
            size = self._size(source_width + target_width)
            for start in range(0, len(rows), size):
                chosen = rows[start:start + size]
                filled = np.resize(chosen, size)  # the last batch is filled up: one static shape
                batch = (*tokenizers.pad([given[row] for row in filled], source_width, self.source_side),
                         *tokenizers.pad([wanted[row] for row in filled], target_width, 'right'))
                batch = jax.device_put(batch) if self.mesh is None else sharding.place_batch(batch, self.mesh)
                scores[chosen] = np.asarray(self.compute(*batch), np.float64)[:len(chosen)]
                advance(len(chosen))
        return scores, cut

    def _width(self, length: int) -> int:
        """The power of two that holds so many tokens, or all that there may be."""
        return min(max(NARROWEST, 1 << (length - 1).bit_length()), self.widest)

    def _size(self, width: int) -> int:
        """Rows of a batch whose sources and targets are together so wide."""
        shards = 1 if self.mesh is None else sharding.batch_shards(self.mesh)
        return -(-max(1, self.tokens_per_batch // width) // shards) * shards


# ------------------------------------------------------------------------------------------- BARTScore


def load_bart_scorer(directory: str | os.PathLike, mesh: Mesh | None = None, dtype: Any = jnp.float32) -> Scorer:
    """BARTScore under the BART of a Hugging Face directory (the authors': facebook/bart-large-cnn)."""
    config, params = bart.load_bart(directory, mesh, dtype=dtype)
    tokenizer = encoders.read_tokenizer(pathlib.Path(directory))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    most = config.max_position_embeddings
    if tokenizer.num_special_tokens_to_add(False) >= most:
        raise UserError(f'{directory}: config.json has {most} positions, too few for a text.')

    def encode(sources, targets):
        whole = [[encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))] for texts in (sources, targets)]
        cut = sum(max(len(source), len(target)) > most for source, target in zip(*whole))
        # As its own truncation has it: the end goes, </s> stays. The mask token of bart-large-cnn has no row in its
        # table; no text should hold it.
        given, wanted = ([[min(token, config.vocab_size - 1) for token in _cut(row, most)] for row in rows]
                         for rows in whole)
        return given, wanted, cut

    return Scorer('BARTScore', encode, functools.partial(_bart_scores, params, config=config), 'right', most, mesh)


def _cut(row: list[int], most: int) -> list[int]:
    return row if len(row) <= most else [*row[:most - 1], row[-1]]


@functools.partial(jax.jit, static_argnames='config')
def _bart_scores(params, source, source_mask, target, target_mask, *, config):
    return masked_mean(bart.log_probs(params, source, source_mask, target, config=config), target_mask)


# -------------------------------------------------------------------------------------------- LMScore


def language_scorer(model: decoder.Decoder, variables: dict, tokenizer: tokenizers.Tokenizer, mesh: Mesh | None = None
                    ) -> Scorer:
    """LMScore under a decoder: a line with the source, then the target, whose tokens are scored (without EOS).

    Of the model's positions a target may take half.
    """
    most = model.config.max_position_embeddings
    start = tokenizer('')['input_ids'] or [tokenizer.eos_token_id]  # the first token is foretold by something

    def encode(sources, targets):
        given = tokenizer([f'{text}\n' if text else '' for text in sources], add_special_tokens=False)['input_ids']
        wanted = tokenizer(list(targets), add_special_tokens=False)['input_ids']
        room = most // 2 - len(start)
        cut = sum(len(source) > room or len(target) > most // 2 for source, target in zip(given, wanted))
        return ([[*start, *(source[-room:])] for source in given], [target[:most // 2] for target in wanted], cut)

    return Scorer('LMScore', encode, functools.partial(_language_scores, model, variables), 'left', most // 2, mesh)


@functools.partial(jax.jit, static_argnames='model')
def _language_scores(model, variables, source, source_mask, target, target_mask):
    tokens = jnp.concatenate([source, target], axis=1)
    mask = jnp.concatenate([source_mask, target_mask], axis=1)
    hidden, _ = model.apply(variables, jnp.where(mask, tokens, 0), decoder.positions_of(mask), mask)
    head, scale = model.apply(variables, method='head')
    found = token_log_probs(hidden[:, -target.shape[1] - 1:-1], head, target, scale=scale,
                            by_word=model.config.tie_word_embeddings)
    return masked_mean(found, target_mask)
