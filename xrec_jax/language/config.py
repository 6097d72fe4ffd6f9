"""The shape of a decoder, read from Hugging Face's `config.json` and written back."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from xrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency scaling, or plain linear position scaling (`kind`)."""

    kind: str  # 'llama3' | 'linear'
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a LLaMA-family model; field names follow Hugging Face's `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    dtype: Any = jnp.float32
    remat: bool = False  # recompute each block in the backward pass: less memory, a third more time

    @classmethod
    def from_hf(cls, hf: dict, **overrides) -> 'DecoderConfig':
        """Reads Hugging Face's `config.json` (as a dict); refuses by name what is not supported."""
        if hf.get('model_type') != 'llama':
            raise UserError(f'model_type "{hf.get("model_type")}" is not supported; known: llama.')
        for key, supported in (('hidden_act', 'silu'), ('mlp_bias', False)):
            if hf.get(key, supported) != supported:
                raise UserError(f'config.json: {key}={hf[key]!r} is not supported, only {supported!r}.')
        needed = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads')
        if missing := [key for key in needed if key not in hf]:
            raise UserError(f'config.json: {", ".join(missing)} missing; is it the file of a whole model?')
        # transformers 5 writes rope_parameters; earlier versions rope_theta and rope_scaling.
        rope = dict(hf.get('rope_parameters') or hf.get('rope_scaling') or {})
        rope.setdefault('rope_theta', hf.get('rope_theta', 10000.0))
        heads = hf['num_attention_heads']
        fields = dict(
            vocab_size=hf['vocab_size'],
            hidden_size=hf['hidden_size'],
            intermediate_size=hf['intermediate_size'],
            num_layers=hf['num_hidden_layers'],
            num_heads=heads,
            num_kv_heads=hf.get('num_key_value_heads') or heads,
            head_dim=hf.get('head_dim') or hf['hidden_size'] // heads,
            max_position_embeddings=hf.get('max_position_embeddings', 2048),
            rms_norm_eps=hf.get('rms_norm_eps', 1e-6),
            rope_theta=float(rope['rope_theta']),
            rope_scaling=_rope_scaling(rope),
            tie_word_embeddings=hf.get('tie_word_embeddings', False),
            attention_bias=hf.get('attention_bias', False),
        )
        return cls(**(fields | overrides))

    def to_hf(self) -> dict:
        """The `config.json` that `from_hf` reads back, and that transformers reads."""
        rope = {'rope_type': 'default', 'rope_theta': self.rope_theta}
        if self.rope_scaling:
            scaling = dataclasses.asdict(self.rope_scaling)
            rope |= {'rope_type': scaling.pop('kind')} | scaling
        return {
            'architectures': ['LlamaForCausalLM'],
            'model_type': 'llama',
            'vocab_size': self.vocab_size,
            'hidden_size': self.hidden_size,
            'intermediate_size': self.intermediate_size,
            'num_hidden_layers': self.num_layers,
            'num_attention_heads': self.num_heads,
            'num_key_value_heads': self.num_kv_heads,
            'head_dim': self.head_dim,
            'max_position_embeddings': self.max_position_embeddings,
            'rms_norm_eps': self.rms_norm_eps,
            'rope_theta': self.rope_theta,
            'rope_parameters': rope,
            'tie_word_embeddings': self.tie_word_embeddings,
            'attention_bias': self.attention_bias,
            'mlp_bias': False,
            'hidden_act': 'silu',
        }


def _rope_scaling(rope: dict) -> RopeScaling | None:
    kind = rope.get('rope_type', rope.get('type', 'default'))
    if kind == 'default':
        return None
    if kind == 'linear':
        return RopeScaling('linear', float(rope['factor']))
    if kind == 'llama3':
        return RopeScaling(
            'llama3',
            float(rope['factor']),
            float(rope['low_freq_factor']),
            float(rope['high_freq_factor']),
            int(rope['original_max_position_embeddings']),
        )
    raise UserError(f'config.json: rope_type "{kind}" is not supported; known: default, linear, llama3.')
