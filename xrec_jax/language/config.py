"""The shape of a decoder, read from Hugging Face's `config.json` and written back."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from xrec_jax.language import families
from xrec_jax.language.rotary import RopeScaling as RopeScaling


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder of any family; names follow LLaMA's `config.json`, defaults are a LLaMA's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5  # of either kind of norm
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False  # biases on q, k, v and o
    qkv_bias: bool = False  # biases on q, k and v alone
    mlp_bias: bool = False
    norm: str = 'rms'  # or 'layer': with mean and bias
    positions: str = 'rotary'  # or 'learned': an embedding for each
    rotary_dim: int | None = None  # how many dims of a head are rotated; None: all
    rotary_interleaved: bool = False  # pairs (2 i, 2 i + 1) instead of (i, i + n)
    activation: str = 'silu'  # a key of `decoder.ACTIVATIONS`
    gated: bool = True  # down(activation(gate(x)) · up(x)), else down(activation(up(x)))
    sliding_window: int | None = None  # how many tokens a query sees, itself among them; None: all
    first_window_layer: int = 0  # layers before this one see all
    num_experts: int = 0  # 0: a dense feed-forward network
    experts_per_token: int = 2
    family: str = 'llama'  # Hugging Face's `model_type`, a key of `families.FAMILIES`
    dtype: Any = jnp.float32
    # What the backward pass computes again: False, nothing; True, every block (least memory, a third more time);
    # 'projections', all but the products with weights (two fifths of the memory, and no slower).
    remat: bool | str = False
    attention: str = 'auto'  # of whole sequences: a key of `flash.KERNELS`
    # Whether a step of decoding has the layers one by one, each with matrices and a cache of its own, instead of a
    # scan over them; None: by platform and size, see `stepping.unrolled`.
    unroll: bool | None = None
    mesh: Mesh | None = None  # which activations and cache are split over: parallel/sharding.py

    @property
    def units(self) -> dict[str, int]:
        """Heads by logical axis, which no sharding may cut."""
        return {'heads': self.num_heads, 'kv_heads': self.num_kv_heads}

    @classmethod
    def from_hf(cls, hf: dict, **overrides) -> 'DecoderConfig':
        """Reads Hugging Face's `config.json` (as a dict); refuses by name what is not supported."""
        return cls(**(families.fields(hf) | overrides))

    def to_hf(self) -> dict:
        """The `config.json` that `from_hf` reads back, and that transformers reads."""
        return families.to_hf(self)
