"""Tokenizers: loading one, training our own, and turning texts into padded arrays.

Prompts are padded on the left and responses on the right, and masks come from lengths, never from
`ids != pad` (the pad id often is the EOS id).
"""

import json
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')  # it would complain that PyTorch is missing
import transformers  # noqa: E402

from xrec_jax.errors import UserError  # noqa: E402

Tokenizer = transformers.PreTrainedTokenizerBase
BOS, EOS, PAD = '<s>', '</s>', '<pad>'


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a Hugging Face directory; EOS stands in where it has no pad token."""
    if not (pathlib.Path(directory) / 'tokenizer_config.json').exists():
        raise UserError(f'{directory} holds no tokenizer (tokenizer.json, tokenizer_config.json).')
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stop_ids(tokenizer: Tokenizer, directory: str | os.PathLike) -> tuple[int, ...]:
    """The tokens that end a response, ascending: `eos_token_id` of generation_config.json, and the tokenizer's EOS.

    Chat models name several there (end of text, end of turn). The tokenizer's own EOS is always among them,
    since responses that a model is tuned on are closed by it.

    Raises:
      UserError: a generation_config.json that is no JSON, or ids that are no whole numbers, or no EOS at all.
    """
    path = pathlib.Path(directory) / 'generation_config.json'
    named = None
    if path.exists():
        try:
            settings = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f'{path}, line {error.lineno}: not valid JSON ({error.msg}).') from None
        if not isinstance(settings, dict):
            raise UserError(f'{path}: should be one JSON object.')
        named = settings.get('eos_token_id')
    ids = [] if named is None else named if isinstance(named, list) else [named]
    if not all(type(one) is int and one >= 0 for one in ids):
        raise UserError(f'{path}: eos_token_id={named!r} should be the id of a token, or a list of ids.')
    if tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    if not ids:
        raise UserError(f'{directory}: neither generation_config.json nor tokenizer_config.json names a token that '
                        'ends a text (eos_token_id, eos_token).')
    return tuple(sorted(set(ids)))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer that puts BOS before every text."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f'{BOS} $A', special_tokens=[(BOS, bpe.token_to_id(BOS))])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        clean_up_tokenization_spaces=False)


def encode_prompts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of whole prompts, with the special tokens that the tokenizer puts before them."""
    return tokenizer(list(texts))['input_ids']


def encode_responses(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of responses, each closed by EOS."""
    ids = tokenizer(list(texts), add_special_tokens=False)['input_ids']
    return [row + [tokenizer.eos_token_id] for row in ids]


def pad(rows: Sequence[Sequence[int]], length: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Pads rows with 0 to int32 [B, length], and their bool mask; `side` is 'left' or 'right'.

    Raises ValueError for a row that is longer than `length`.
    """
    lengths = np.array([len(row) for row in rows])
    if lengths.max(initial=0) > length:
        raise ValueError(f'a row has {lengths.max()} tokens, more than {length}')
    slots = np.arange(length)
    mask = slots < lengths[:, None] if side == 'right' else slots >= length - lengths[:, None]
    ids = np.zeros((len(rows), length), np.int32)
    ids[mask] = np.concatenate([np.asarray(row, np.int32) for row in rows]) if len(rows) else []
    return ids, mask


def decode_responses(tokenizer: Tokenizer, tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Texts of response tokens [B, R], of which the first `lengths` [B] count; special tokens dropped."""
    rows = [row[:length].tolist() for row, length in zip(tokens, lengths)]
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def first_tokens(tokenizer: Tokenizer, word: str) -> list[int]:
    """Ids of all single tokens that spell `word` ('Yes': 'Yes', ' Yes', …), for ExpCTR eq. 8.

    Where no single token spells it, the first token of its spelling with a space before it.
    """
    spellings = [tokenizer(text, add_special_tokens=False)['input_ids'] for text in (f' {word}', word)]
    whole = [ids[0] for ids in spellings if len(ids) == 1]
    return sorted(set(whole or [spellings[0][0]]))
