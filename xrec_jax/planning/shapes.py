"""Shapes of published models, for planning without their files: what their `config.json` says."""

import importlib.resources
import pathlib

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import weights
from xrec_jax.language.config import DecoderConfig


def _shape(vocab: int, width: int, inner: int, layers: int, heads: int, kv_heads: int, model_type: str = 'llama',
           **more) -> dict:
    return {'model_type': model_type, 'hidden_act': 'silu', 'vocab_size': vocab, 'hidden_size': width,
            'intermediate_size': inner, 'num_hidden_layers': layers, 'num_attention_heads': heads,
            'num_key_value_heads': kv_heads, 'tie_word_embeddings': False, **more}


SHAPES = {
    'llama-2-7b': _shape(32000, 4096, 11008, 32, 32, 32, max_position_embeddings=4096),
    'llama-3-8b': _shape(128256, 4096, 14336, 32, 32, 8, max_position_embeddings=8192, rope_theta=500000.0),
    'llama-3-70b': _shape(128256, 8192, 28672, 80, 64, 8, max_position_embeddings=8192, rope_theta=500000.0),
    'mistral-7b': _shape(32768, 4096, 14336, 32, 32, 8, 'mistral', max_position_embeddings=32768,
                         rope_theta=1000000.0, sliding_window=None),
    'mixtral-8x7b': _shape(32000, 4096, 14336, 32, 32, 8, 'mixtral', max_position_embeddings=32768,
                           rope_theta=1000000.0, num_local_experts=8, num_experts_per_tok=2, sliding_window=None),
    'qwen2-7b': _shape(152064, 3584, 18944, 28, 28, 4, 'qwen2', max_position_embeddings=131072,
                       rope_theta=1000000.0, use_sliding_window=False),
}
TINY = 'tiny'  # the embedded model


def read(model: str, **overrides) -> DecoderConfig:
    """The shape of `model`: a name of `SHAPES`, 'tiny', or a directory with a `config.json`."""
    if model in SHAPES:
        return DecoderConfig.from_hf(SHAPES[model], **overrides)
    if model == TINY:
        path = importlib.resources.files('xrec_jax.language') / 'tiny'
    else:
        path = pathlib.Path(model).expanduser()
        if not path.is_dir():
            raise UserError(f'--model={model}: neither a directory nor a known shape.{nearest(model, (*SHAPES, TINY))}')
    return DecoderConfig.from_hf(weights.read_config(path), **overrides)
