"""LLaMA as a pure function of (params, adapter, tokens).

The map, bottom up: `LlamaConfig` (read from Hugging Face's `config.json`), rotary angles,
`Projection` (a matrix with an optional LoRA pair), `Attention`, `FeedForward`, `Block`, and
`Llama`, which scans one block over the layers.

Two ways to run it:
  - whole sequences: `hidden, cache = model.apply(vars, tokens, positions, mask)`; the cache that
    comes back holds the keys and values of all positions (prefill);
  - one new token: `hidden, cache = model.apply(vars, tokens, positions, mask, cache, slot)`.
`model.apply(vars, hidden, method='logits')` reads out the vocabulary. Variables are
`{'params': base}` or `{'params': base, 'lora': adapter}`: without the adapter it is the frozen
reference model.

Einsum letters: b batch, k kv head, g query heads of one kv head, t query slot, T key slot,
d head dim. The cache is head-major, [layers, B, K, T, d]: each head's keys lie together, which
attends several times faster on CPU than sequence-major.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.errors import UserError

# Attention scores of masked slots; finite, so that a row of pure padding stays finite.
MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency scaling, or plain linear position scaling (`kind`)."""

    kind: str  # 'llama3' | 'linear'
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
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
    def from_hf(cls, hf: dict, **overrides) -> 'LlamaConfig':
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


@flax.struct.dataclass
class Cache:
    """Keys and values of the slots written so far, each [layers, B, kv heads, T, head dim]."""

    k: jax.Array
    v: jax.Array

    def grown(self, num_slots: int) -> 'Cache':
        """The same cache with `num_slots` empty slots behind it."""
        pad = [(0, 0)] * 3 + [(0, num_slots), (0, 0)]
        return Cache(jnp.pad(self.k, pad), jnp.pad(self.v, pad))


def rope_frequencies(config: LlamaConfig) -> np.ndarray:
    """Angular frequency of each rotary pair, float32 [head_dim / 2]."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequency = config.rope_theta**-exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequency.astype(np.float32)
    if scaling.kind == 'linear':
        return (frequency / scaling.factor).astype(np.float32)
    # Llama 3.1: long wavelengths are divided by `factor`, short ones kept, a ramp between.
    turns = scaling.original_max_position_embeddings * frequency / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (frequency * (kept + (1 - kept) / scaling.factor)).astype(np.float32)


def rotate(x: jax.Array, positions: jax.Array, frequencies: np.ndarray) -> jax.Array:
    """Rotates x [B, heads, S, d] by its positions [B, S]; halves paired as (i, i + d/2)."""
    # float32 throughout: bfloat16 rounds position 257 to 256.
    angles = positions[:, None, :, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class RMSNorm(nn.Module):
    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        scale = self.param('scale', nn.with_logical_partitioning(nn.initializers.ones, ('embed',)),
                           (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return (x * scale).astype(self.dtype)


class Projection(nn.Module):
    """y = x W (+ b) (+ x A B · scale where the `lora` collection holds A and B for this matrix)."""

    features: int
    axes: tuple[str, str]  # logical names of (input, output)
    dtype: Any
    use_bias: bool = False
    lora_scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), self.axes)
        kernel = self.param('kernel', init, (x.shape[-1], self.features))
        y = x @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param('bias', nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]),
                              (self.features,))
            y = y + bias.astype(self.dtype)
        if self.has_variable('lora', 'a'):
            a, b = self.get_variable('lora', 'a'), self.get_variable('lora', 'b')
            y = y + (x @ a.astype(self.dtype)) @ b.astype(self.dtype) * self.lora_scale
        return y


class Attention(nn.Module):
    config: LlamaConfig
    lora_scale: float

    @nn.compact
    def __call__(self, x, angles, mask, cache, layer, slot):
        """x [B, S, D] → [B, S, D] and (k, v) of these positions, or the cache with them written."""
        config = self.config
        batch, length, _ = x.shape

        def project(name, heads, axis):
            y = Projection(heads * config.head_dim, ('embed', axis), config.dtype, config.attention_bias,
                           self.lora_scale, name=name)(x)
            return y.reshape(batch, length, heads, config.head_dim).transpose(0, 2, 1, 3)

        q = project('q_proj', config.num_heads, 'heads')
        k = project('k_proj', config.num_kv_heads, 'kv_heads')
        v = project('v_proj', config.num_kv_heads, 'kv_heads')
        frequencies = rope_frequencies(config)
        q, k = rotate(q, angles, frequencies), rotate(k, angles, frequencies)
        written = Cache(k, v)
        if cache is not None:
            # Written in place: the cache is a loop carry, not a scanned input copied per layer.
            cache = Cache(_write(cache.k, k, layer, slot), _write(cache.v, v, layer, slot))
            k = jax.lax.dynamic_index_in_dim(cache.k, layer, keepdims=False)
            v = jax.lax.dynamic_index_in_dim(cache.v, layer, keepdims=False)
            written = cache
        q = q.reshape(batch, config.num_kv_heads, -1, length, config.head_dim)
        scores = jnp.einsum('bkgtd,bkTd->bkgtT', q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(mask[:, None, None], scores * config.head_dim**-0.5, MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(config.dtype)
        out = jnp.einsum('bkgtT,bkTd->bkgtd', weights, v)
        out = out.reshape(batch, config.num_heads, length, config.head_dim).transpose(0, 2, 1, 3)
        out = Projection(config.hidden_size, ('heads', 'embed'), config.dtype, config.attention_bias,
                         self.lora_scale, name='o_proj')(out.reshape(batch, length, -1))
        return out, written


def _write(cache: jax.Array, new: jax.Array, layer: jax.Array, slot: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(cache, new[None].astype(cache.dtype), (layer, 0, 0, slot, 0))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    config: LlamaConfig
    lora_scale: float

    @nn.compact
    def __call__(self, x):
        def project(name, features, axes):
            return Projection(features, axes, self.config.dtype, lora_scale=self.lora_scale, name=name)

        gate = project('gate_proj', self.config.intermediate_size, ('embed', 'mlp'))(x)
        up = project('up_proj', self.config.intermediate_size, ('embed', 'mlp'))(x)
        return project('down_proj', self.config.hidden_size, ('mlp', 'embed'))(nn.silu(gate) * up)


class Block(nn.Module):
    """One pre-norm layer, in the form that `nn.scan` wants: (carry, layer) → (carry, output)."""

    config: LlamaConfig
    lora_scale: float

    @nn.compact
    def __call__(self, carry, layer, positions, mask, slot):
        x, cache = carry
        norm = lambda name: RMSNorm(self.config.rms_norm_eps, self.config.dtype, name=name)
        attended, written = Attention(self.config, self.lora_scale, name='self_attn')(
            norm('input_layernorm')(x), positions, mask, cache, layer, slot
        )
        x = x + attended
        x = x + FeedForward(self.config, self.lora_scale, name='mlp')(norm('post_attention_layernorm')(x))
        return ((x, None), written) if cache is None else ((x, written), None)


class Llama(nn.Module):
    """The decoder. `lora_scale` is alpha / rank of the adapter that is passed, if one is."""

    config: LlamaConfig
    lora_scale: float = 1.0

    def setup(self):
        config = self.config
        block = nn.remat(Block, prevent_cse=False) if config.remat else Block
        self.layers = nn.scan(
            block,
            variable_axes={'params': 0, 'lora': 0},
            split_rngs={'params': True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )(config, self.lora_scale)
        embed_init = nn.with_logical_partitioning(
            nn.initializers.normal(config.hidden_size**-0.5), ('vocab', 'embed'))
        self.embed_tokens = self.param('embed_tokens', embed_init, (config.vocab_size, config.hidden_size))
        self.norm = RMSNorm(config.rms_norm_eps, config.dtype)
        if not config.tie_word_embeddings:
            head_init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ('embed', 'vocab'))
            self.lm_head = self.param('lm_head', head_init, (config.hidden_size, config.vocab_size))

    def __call__(self, tokens, positions, mask, cache=None, slot=0, prefix_embeddings=None):
        """Runs the decoder.

        Args:
          tokens: int [B, S].
          positions: int [B, K + S], rotary position of each slot (pads count for nothing: see
            `positions_of`); K is the length of `prefix_embeddings`, else 0.
          mask: bool [B, T], which slots hold real tokens. T = K + S, or the cache's length.
          cache: None for whole sequences; else the `Cache` to read and to write at `slot`.
          slot: int scalar, first slot that `tokens` occupy in the cache.
          prefix_embeddings: float [B, K, D], soft prompts before the tokens (RecPIE), or None.

        Returns:
          hidden [B, K + S, D] after the final norm, and the `Cache` (of T slots).
        """
        config = self.config
        x = jnp.take(self.embed_tokens, tokens, axis=0).astype(config.dtype)
        if prefix_embeddings is not None:
            x = jnp.concatenate([prefix_embeddings.astype(config.dtype), x], axis=1)
        query_slot = slot + jnp.arange(x.shape[1])
        attend = (jnp.arange(mask.shape[1]) <= query_slot[:, None]) & mask[:, None, :]
        (x, carried), written = self.layers(
            (x, cache), jnp.arange(config.num_layers), positions, attend, slot
        )
        return self.norm(x), written if cache is None else carried

    def logits(self, hidden):
        """hidden [..., D] → logits float32 [..., V]."""
        if self.config.tie_word_embeddings:
            head = self.embed_tokens.T
        else:
            head = self.lm_head
        return jnp.matmul(hidden, head.astype(self.config.dtype), preferred_element_type=jnp.float32)


def positions_of(mask: jax.Array) -> jax.Array:
    """Rotary positions [B, S] of a left- or right-padded mask [B, S]: pads do not count."""
    mask = mask.astype(jnp.int32)
    return jnp.cumsum(mask, axis=1) - mask


def init_params(key: jax.Array, config: LlamaConfig) -> dict:
    """Random base weights (fan-in scaled), as plain arrays."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    variables = Llama(config).init(key, tokens, tokens, jnp.ones((1, 2), bool))
    return nn.meta.unbox(variables['params'])


def abstract_params(config: LlamaConfig) -> dict:
    """Shapes of the base weights, boxed with their logical axes; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 2), bool)
    return jax.eval_shape(Llama(config).init, jax.random.key(0), tokens, tokens, mask)['params']
