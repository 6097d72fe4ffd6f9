"""Questions whose answer is one of a few words: the log-prob of each, from one prefill.

  `spellings`   a word → the token ids that spell it ("Yes", " Yes")
  `score`       prompts and choices → log-probs of the choices (`shared.score`: of prompts that begin alike)

A choice is a set of spellings; its probability is the sum of theirs (ExpCTR eq. 8 sums so over V_pos and V_neg).
"""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.errors import UserError
from xrec_jax.language import stepping
from xrec_jax.language.attention import Cache
from xrec_jax.language.decoder import Decoder, positions_of
from xrec_jax.language.tokenizers import Tokenizer

Spelling = tuple[int, ...]  # token ids


def spellings(tokenizer: Tokenizer, word: str) -> tuple[Spelling, ...]:
    """The token ids of `word`, with a space before it and without, each once."""
    rows = tokenizer([f' {word}', word], add_special_tokens=False)['input_ids']
    return tuple(sorted({tuple(row) for row in rows}))


def score(model: Decoder, variables: dict, tokens: jax.Array, mask: jax.Array,
          choices: Sequence[Sequence[Spelling]]) -> jax.Array:
    """The log-prob of each choice as what follows the prompts, float32 [B, C].

    Args:
      tokens, mask: int [B, P], bool [B, P], padded on the left.
      choices: of each, its spellings (`spellings`), which count once each. The log-prob of a spelling is that
        of a text that *begins* with it: where one choice begins as another ("1", "12"), close both with what
        follows them (".").

    Raises:
      ValueError: a choice without spellings, an empty one, or ids outside the vocabulary.
      UserError: two choices with the same spelling.
    """
    chex.assert_rank([tokens, mask], 2)
    return _score(model, variables, tokens, mask, checked(model, choices))


def checked(model: Decoder, choices: Sequence[Sequence[Spelling]]) -> tuple[tuple[Spelling, ...], ...]:
    """The choices as `log_probs` wants them, hashable; raises what `score` raises."""
    choices = tuple(tuple(sorted({tuple(map(int, spelling)) for spelling in choice})) for choice in choices)
    flat = [spelling for choice in choices for spelling in choice]
    if not all(choices) or not all(flat):
        raise ValueError(f'choices {choices}: each needs a spelling, and each spelling a token')
    if min(map(min, flat)) < 0 or max(map(max, flat)) >= model.config.vocab_size:
        raise ValueError(f'choices {choices} go beyond the vocabulary of {model.config.vocab_size}')
    if twice := {spelling for spelling in flat if flat.count(spelling) > 1}:
        raise UserError(f'Two choices are spelled with the same tokens {sorted(twice)}: they cannot be told apart. '
                        'Name them so that they differ.')
    return choices


@functools.partial(jax.jit, static_argnames=('model', 'choices'))
def _score(model: Decoder, variables: dict, tokens: jax.Array, mask: jax.Array,
           choices: tuple[tuple[Spelling, ...], ...]) -> jax.Array:
    hidden, cache = stepping.prefill(model, variables, jnp.where(mask, tokens, 0), positions_of(mask), mask)
    return log_probs(model, variables, hidden[:, -1], mask, cache, choices)


def log_probs(model: Decoder, variables: dict, last: jax.Array, mask: jax.Array, cache: Cache,
              choices: tuple[tuple[Spelling, ...], ...]) -> jax.Array:
    """What `score` returns, after a prefill: `last` [B, D] is the hidden state of each prompt's last token, `cache` that
    of slots of which `mask` [B, T] says which hold tokens."""
    first = jax.nn.log_softmax(model.apply(variables, last, method='logits'), axis=-1)
    longer = [spelling for choice in choices for spelling in choice if len(spelling) > 1]
    rest = dict(zip(longer, _rest(model, variables, mask, cache, longer))) if longer else {}

    def log_prob(choice):
        picked = first[:, jnp.array([spelling[0] for spelling in choice])]
        if any(spelling in rest for spelling in choice):
            picked += jnp.stack([rest.get(spelling, jnp.zeros(len(picked))) for spelling in choice], axis=1)
        return jax.nn.logsumexp(picked, axis=-1)

    return jnp.stack([log_prob(choice) for choice in choices], axis=1)


def _rest(model: Decoder, variables: dict, mask: jax.Array, cache: Cache, longer: Sequence[Spelling]) -> jax.Array:
    """Log-probs float32 [M, B] of the second and later tokens of M spellings.

    All spellings stand side by side behind the prompt, in one pass over its one cache: the mask lets a token
    see the prompt and its own spelling, and its position is as if the others were not there.
    """
    (batch, width), length = mask.shape, max(map(len, longer)) - 1
    ids = np.array([spelling + (0,) * (length + 1 - len(spelling)) for spelling in longer])  # [M, K + 1]
    counted = np.arange(length) < np.array([len(spelling) - 1 for spelling in longer])[:, None]
    slots = len(longer) * length
    own = np.kron(np.eye(len(longer), dtype=bool), np.tril(np.ones((length, length), bool)))
    sight = jnp.concatenate([jnp.broadcast_to(mask[:, None], (batch, slots, width)),
                             jnp.broadcast_to(own, (batch, slots, slots))], axis=2)
    positions = mask.sum(axis=1, keepdims=True) + jnp.asarray(np.tile(np.arange(length), len(longer)))
    hidden, _ = model.apply(
        variables, jnp.broadcast_to(ids[:, :-1].reshape(-1), (batch, slots)), positions, sight, cache.grown(slots),
        width, key_positions=jnp.concatenate([positions_of(mask), positions], axis=1))

    def of_one(spelling):
        """One spelling at a time: the logits of all, over a large vocabulary, would be gigabytes."""
        hidden, targets, counted = spelling  # [B, K, D], [K], [K]
        log_probs = jax.nn.log_softmax(model.apply(variables, hidden, method='logits'), axis=-1)
        picked = jnp.take_along_axis(log_probs, jnp.broadcast_to(targets[:, None], (batch, length, 1)), axis=-1)
        return jnp.where(counted, picked[..., 0], 0).sum(axis=1)

    hidden = hidden.reshape(batch, len(longer), length, -1).swapaxes(0, 1)
    return jax.lax.map(of_one, (hidden, jnp.asarray(ids[:, 1:]), jnp.asarray(counted)))
