"""From prompts to token ids: through the tokenizer's chat template where it has one, and within the context.

  `encode`   prompts → token ids that end where the answer begins; `written`: their texts; `framed`: of plain texts
  `fit`      token ids of prompts with as much of their histories as the context holds

A chat template is a tokenizer's own (`chat_template.jinja` or in `tokenizer_config.json`); it says all, special
tokens too, so none are put before it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jinja2
import numpy as np

from xrec_jax.errors import UserError
from xrec_jax.language import tokenizers
from xrec_jax.language.prompts import Prompt
from xrec_jax.language.tokenizers import Tokenizer

_MARK = 'what the system says'  # a text that no template holds by itself


def encode(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of prompts: chats up to the assistant's turn, or plain texts where there is no chat template.

    Blanks around what system and user say are taken off, as most templates do. A template that refuses or
    overlooks the system's role gets the prompt's whole text as the user's, in which the system's part stands first.

    Raises:
      UserError: a chat template that fails on a user's message alone.
    """
    if not prompts:
        return []
    texts = written(tokenizer, prompts)
    if not tokenizer.chat_template:
        return tokenizers.encode_prompts(tokenizer, texts)
    return tokenizer(texts, add_special_tokens=False)['input_ids']


def written(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[str]:
    """Prompts as `encode` writes them before they are tokens."""
    if not tokenizer.chat_template:
        return [prompt.text for prompt in prompts]
    with_system = any(prompt.system for prompt in prompts) and _takes_system(tokenizer)
    return _filled(tokenizer, [_messages(prompt, with_system) for prompt in prompts])


def framed(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The texts as a user's messages; they alone where there is no chat template."""
    return written(tokenizer, [Prompt(text=text, user=text) for text in texts])


def _messages(prompt: Prompt, with_system: bool) -> list[dict[str, str]]:
    user = prompt.user if with_system or not prompt.system else prompt.text
    messages = [{'role': 'user', 'content': user.strip()}]
    if with_system and prompt.system:
        messages.insert(0, {'role': 'system', 'content': prompt.system.strip()})
    return messages


def _takes_system(tokenizer: Tokenizer) -> bool:
    """Whether what the system says comes into the chat."""
    try:
        text, = _apply(tokenizer, [_messages(Prompt(text='', user='?', system=_MARK), True)])
    except jinja2.TemplateError:
        return False
    return _MARK in text


def _filled(tokenizer: Tokenizer, chats: list[list[dict[str, str]]]) -> list[str]:
    try:
        return _apply(tokenizer, chats)
    except jinja2.TemplateError as error:
        raise UserError(f'The chat template of {tokenizer.name_or_path or "the tokenizer"} fails ({error}); mend or '
                        'remove its chat_template.') from None


def _apply(tokenizer: Tokenizer, chats: list[list[dict[str, str]]]) -> list[str]:
    return tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """N prompts that fit into the context."""

    ids: list[list[int]]
    kept: np.ndarray  # int [N], history items that a prompt shows, the newest ones
    dropped: np.ndarray  # int [N], older ones that it lost


def fit(write: Callable[[np.ndarray, np.ndarray], list[list[int]]], history: np.ndarray, limit: int,
        strict: bool = True) -> Fitted:
    """Prompts of at most `limit` tokens: those that are longer lose items of their history, the oldest first.

    All prompts are written once; of those that are too long, the longest history that fits is found by halving,
    together, in log2 of the history's length more calls.

    Args:
      write: (rows int [n], items int [n]) → token ids of these prompts, each with its newest `items` items; the
        more items, the longer.
      history: int [N], items that there are.
      limit: tokens that a prompt may have.
      strict: False keeps a prompt that is too long without any history, with `kept` -1.

    Raises:
      UserError: a prompt that is too long without any history.
    """
    kept = np.array(history, np.int64)
    ids = write(np.arange(len(kept)), kept)
    rows = np.flatnonzero([len(prompt) > limit for prompt in ids])
    low, high = np.full(len(rows), -1), kept[rows]  # `low` items fit, `high` do not
    while (open_ := high - low > 1).any():
        middle = (low + high)[open_] // 2
        tried = write(rows[open_], middle)
        fits = np.array([len(prompt) <= limit for prompt in tried])
        low[open_], high[open_] = np.where(fits, middle, low[open_]), np.where(fits, high[open_], middle)
        for row, prompt in zip(rows[open_], tried):
            if len(prompt) <= limit or len(prompt) < len(ids[row]):
                ids[row] = prompt
    if strict and (low < 0).any():
        row = rows[low < 0][0]
        raise UserError(f'A prompt has {len(ids[row])} tokens without any history, and the context has room for '
                        f'{max(limit, 0)} beside the response: lower generate.max_length, or take a model with more '
                        'positions.')
    kept[rows] = low
    return Fitted(ids=ids, kept=kept, dropped=np.asarray(history) - np.maximum(kept, 0))
