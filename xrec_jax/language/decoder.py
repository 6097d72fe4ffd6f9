"""A decoder-only language model as a pure function of (params, adapter, tokens).

The map, bottom up: `Attention` and `FeedForward` (of `Projection`s: matrices with optional LoRA
pairs), `Block`, and `Decoder`, which scans one block over the layers. `config.py` says what shape.

Two ways to run it:
  - whole sequences: `hidden, cache = model.apply(vars, tokens, positions, mask)`; the cache that
    comes back holds the keys and values of all positions (prefill);
  - one new token: `hidden, cache = model.apply(vars, tokens, positions, mask, cache, slot)`.
`model.apply(vars, hidden, method='logits')` reads out the vocabulary. Variables are
`{'params': base}` or `{'params': base, 'lora': adapter}`: without the adapter it is the frozen
reference model.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.language.attention import Cache, attend
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.projection import Projection
from xrec_jax.language.rotary import rope_frequencies, rotate


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


class Attention(nn.Module):
    config: DecoderConfig
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
            written = cache.updated(k, v, layer, slot)
            k, v = written.layer(layer)
        out = attend(q, k, v, mask).astype(config.dtype).transpose(0, 2, 1, 3)
        out = Projection(config.hidden_size, ('heads', 'embed'), config.dtype, config.attention_bias,
                         self.lora_scale, name='o_proj')(out.reshape(batch, length, -1))
        return out, written


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    config: DecoderConfig
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

    config: DecoderConfig
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


class Decoder(nn.Module):
    """The decoder. `lora_scale` is alpha / rank of the adapter that is passed, if one is."""

    config: DecoderConfig
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
          mask: bool [B, T], which slots hold real tokens: each query sees those up to its own slot.
            T = K + S, or the cache's length. Or bool [B, K + S, T], exactly the slots that each query sees.
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
        if mask.ndim == 2:
            query_slot = slot + jnp.arange(x.shape[1])
            mask = (jnp.arange(mask.shape[1]) <= query_slot[:, None]) & mask[:, None, :]
        (x, carried), written = self.layers((x, cache), jnp.arange(config.num_layers), positions, mask, slot)
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


def init_params(key: jax.Array, config: DecoderConfig) -> dict:
    """Random base weights (fan-in scaled), as plain arrays."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    variables = Decoder(config).init(key, tokens, tokens, jnp.ones((1, 2), bool))
    return nn.meta.unbox(variables['params'])


def abstract_params(config: DecoderConfig) -> dict:
    """Shapes of the base weights, boxed with their logical axes; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 2), bool)
    return jax.eval_shape(Decoder(config).init, jax.random.key(0), tokens, tokens, mask)['params']
