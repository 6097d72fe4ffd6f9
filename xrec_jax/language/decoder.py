"""A decoder-only language model as a pure function of (params, adapter, tokens).

The map, bottom up: the norms, `Attention` and `FeedForward` (of `Projection`s: matrices with optional
LoRA pairs; `experts.py` has the sparse kind), `Block`, and `Decoder`, which scans one block over the
layers. `config.py` says what shape, `families/` which checkpoint has it.

Two ways to run it:
  - whole sequences: `hidden, cache = model.apply(vars, tokens, positions, mask)`; the cache that
    comes back holds the keys and values of all positions (prefill);
  - one new token: `hidden, cache = model.apply(vars, tokens, positions, mask, cache, slot)`.
`model.apply(vars, hidden, method='logits')` reads out the vocabulary. Variables are
`{'params': base}` or `{'params': base, 'lora': adapter}`: without the adapter it is the frozen
reference model.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language import flash, rotary
from xrec_jax.language.attention import Cache, attend
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.experts import SparseFeedForward
from xrec_jax.language.projection import PROJECTION, Projection
from xrec_jax.language.quantize import HEAD, HEAD_SCALE
from xrec_jax.language.rotary import rope_frequencies, rotate
from xrec_jax.parallel.sharding import constrain, constrain_residual, look_up, spread_kv_heads

ACTIVATIONS = {  # by Hugging Face's names
    'silu': nn.silu,
    'gelu': lambda x: nn.gelu(x, approximate=False),
    'gelu_new': lambda x: nn.gelu(x, approximate=True),
}


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


class LayerNorm(nn.Module):
    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        def param(name, init):
            return self.param(name, nn.with_logical_partitioning(init, ('embed',)), (x.shape[-1],))

        scale, bias = param('scale', nn.initializers.ones), param('bias', nn.initializers.zeros)
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return (x * scale + bias).astype(self.dtype)


NORMS = {'rms': RMSNorm, 'layer': LayerNorm}


class Attention(nn.Module):
    config: DecoderConfig
    lora_scale: float
    lora_dropout: float
    last_only: bool = False

    @nn.compact
    def __call__(self, x, turns, sight, cache, layer, slot):
        """x [B, S, D] → [B, S, D] and (k, v) of these positions, or the cache with them written.

        With `last_only`, of whole sequences: [B, 1, D], of the last position.
        """
        config = self.config
        batch, length, _ = x.shape

        def project(name, heads, axis):
            y = Projection(heads * config.head_dim, ('embed', axis), config.dtype,
                           config.attention_bias or config.qkv_bias, self.lora_scale, self.lora_dropout,
                           name=name)(x)
            y = y.reshape(batch, length, heads, config.head_dim).transpose(0, 2, 1, 3)
            return constrain(y, ('batch', axis, None, None), config.mesh)

        if self.has_variable('params', 'qkv_proj'):  # side by side: `stepping.separate`
            qkv = project('qkv_proj', config.num_heads + 2 * config.num_kv_heads, 'heads')
            q, k, v = jnp.split(qkv, [config.num_heads, config.num_heads + config.num_kv_heads], axis=1)
        else:
            q = project('q_proj', config.num_heads, 'heads')
            k = project('k_proj', config.num_kv_heads, 'kv_heads')
            v = project('v_proj', config.num_kv_heads, 'kv_heads')
        if turns is not None:
            q, k = (rotate(y, *turns, config.rotary_interleaved) for y in (q, k))
        k, v = spread_kv_heads(k, config.mesh), spread_kv_heads(v, config.mesh)
        if self.last_only:
            written = Cache(k, v)
            out = attend(q[:, :, -1:], k, v, sight.mask[:, -1:])
        elif cache is None:
            written = Cache(k, v)
            out = flash.attend_sequences(q, k, v, sight, config)
        else:
            # Written in place: the cache is a loop carry, not a scanned input copied per layer.
            written = cache.updated(k, v, layer, slot)
            out = attend(q, *written.layer(layer), sight.mask)
        out = out.astype(config.dtype).transpose(0, 2, 1, 3)
        out = Projection(config.hidden_size, ('heads', 'embed'), config.dtype, config.attention_bias,
                         self.lora_scale, self.lora_dropout, name='o_proj')(out.reshape(batch, out.shape[1], -1))
        return out, written


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)); or, without gates, down(activation(up(x)))."""

    config: DecoderConfig
    lora_scale: float
    lora_dropout: float

    @nn.compact
    def __call__(self, x, activation):
        config = self.config

        def project(name, features, axes):
            return Projection(features, axes, config.dtype, config.mlp_bias, self.lora_scale, self.lora_dropout,
                              name=name)

        if self.has_variable('params', 'gate_up_proj'):  # side by side: `stepping.separate`
            both = project('gate_up_proj', 2 * config.intermediate_size, ('embed', 'mlp'))(x)
            gate, up = jnp.split(both, 2, axis=-1)
            hidden = activation(gate) * up
        elif config.gated:
            gate = project('gate_proj', config.intermediate_size, ('embed', 'mlp'))(x)
            up = project('up_proj', config.intermediate_size, ('embed', 'mlp'))(x)
            hidden = activation(gate) * up
        else:
            hidden = activation(project('up_proj', config.intermediate_size, ('embed', 'mlp'))(x))
        return project('down_proj', config.hidden_size, ('mlp', 'embed'))(hidden)


class Block(nn.Module):
    """One pre-norm layer, in the form that `nn.scan` wants: (carry, layer) → (carry, output)."""

    config: DecoderConfig
    lora_scale: float
    lora_dropout: float
    last_only: bool = False

    @nn.compact
    def __call__(self, carry, layer, turns, sight, slot):
        x, cache = carry
        config = self.config
        norm = lambda name: NORMS[config.norm](config.rms_norm_eps, config.dtype, name=name)
        attended, written = Attention(config, self.lora_scale, self.lora_dropout, self.last_only, name='self_attn')(
            norm('input_layernorm')(x), turns, sight.of_layer(layer, config.first_window_layer), cache, layer, slot
        )
        if self.last_only:
            x = x[:, -1:]
        decoding = cache is not None and x.shape[1] == 1
        x = constrain_residual(x + attended, config.mesh, decoding)
        if config.num_experts:
            feed_forward = SparseFeedForward(config, name='mlp')
        else:
            feed_forward = FeedForward(config, self.lora_scale, self.lora_dropout, name='mlp')
        x = x + feed_forward(norm('post_attention_layernorm')(x), ACTIVATIONS[config.activation])
        x = constrain_residual(x, config.mesh, decoding)
        return ((x, None), written) if cache is None else ((x, written), None)


class Decoder(nn.Module):
    """The decoder. `lora_scale` (alpha / rank) and `lora_dropout` are those of the adapter that is passed, if one is;
    nothing is dropped unless `apply` is given a 'dropout' rng."""

    config: DecoderConfig
    lora_scale: float = 1.0
    lora_dropout: float = 0.0

    def setup(self):
        config = self.config
        block = Block
        if config.remat:
            kept = jax.checkpoint_policies.save_only_these_names(PROJECTION)
            block = nn.remat(Block, prevent_cse=False, policy=kept if config.remat == 'projections' else None)
        self.layers = nn.scan(
            block,
            variable_axes={'params': 0, 'lora': 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )(config, self.lora_scale, self.lora_dropout)
        embed_init = nn.with_logical_partitioning(
            nn.initializers.normal(config.hidden_size**-0.5), ('vocab', 'embed'))
        self.embed_tokens = self.param('embed_tokens', embed_init, (config.vocab_size, config.hidden_size))
        if config.positions == 'learned':
            position_init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ('positions', 'embed'))
            self.embed_positions = self.param(
                'embed_positions', position_init, (config.max_position_embeddings, config.hidden_size))
        self.norm = NORMS[config.norm](config.rms_norm_eps, config.dtype)
        if not config.tie_word_embeddings:
            head_init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ('embed', 'vocab'))
            self.lm_head = self.param('lm_head', head_init, (config.hidden_size, config.vocab_size))

    def __call__(self, tokens, positions, mask, cache=None, slot=0, prefix_embeddings=None, key_positions=None,
                 last_only=False):
        """Runs the decoder.

        Args:
          tokens: int [B, S].
          positions: int [B, K + S], position of each token (pads count for nothing: see `positions_of`);
            K is the length of `prefix_embeddings`, else 0.
          mask: bool [B, T], which slots hold real tokens: each query sees those up to its own slot.
            T = K + S, or the cache's length. Or, of whole sequences, int [B, K + S], the segment of each slot:
            a query sees those of its own segment alone; 0 is padding. Or bool [B, K + S, T], exactly the slots
            that each query sees.
          cache: None for whole sequences; else the `Cache` to read and to write at `slot`. Where the variables are
            those of `stepping.separate`, a tuple of one for each layer, here and in what is returned.
          slot: int scalar, first slot that `tokens` occupy in the cache.
          prefix_embeddings: float [B, K, D], soft prompts before the tokens (RecPIE), or None.
          key_positions: int [B, T], position of what each slot of the cache holds, these tokens among
            them. Only a sliding window shorter than a cache asks for them, and only with a mask of
            rank 3: with one of rank 2 slots lie in the order of positions.
          last_only: of whole sequences, whether the last position's hidden state is all that is wanted. Where the
            layers are apart, the last one then computes no more than that, and all keys and values.

        Returns:
          hidden [B, K + S, D], or [B, 1, D] with `last_only`, after the final norm, and the `Cache` (of T slots).

        Raises:
          UserError: more slots than a model with learned positions has positions.
        """
        config = self.config
        x = look_up(self.embed_tokens, tokens, config.mesh).astype(config.dtype)
        if prefix_embeddings is not None:
            x = jnp.concatenate([prefix_embeddings.astype(config.dtype), x], axis=1)
        if config.positions == 'learned':
            if mask.shape[-1] > config.max_position_embeddings:
                raise UserError(f'{mask.shape[-1]} slots (prompt and response), but this model has learned '
                                f'{config.max_position_embeddings} positions; shorten the prompts or the responses.')
            x = x + jnp.take(self.embed_positions, positions, axis=0).astype(config.dtype)
        x = constrain_residual(x, config.mesh, cache is not None and x.shape[1] == 1)
        turns = rotary.turns(positions, rope_frequencies(config)) if config.positions == 'rotary' else None
        sight = self._sight(x.shape[1], positions, mask, cache, slot, key_positions)
        if isinstance(self.variables['params'].get('layers'), tuple):
            x, written = self._one_by_one(x, turns, sight, cache or (None,) * config.num_layers, slot, last_only)
            return self.norm(x), written
        (x, carried), written = self.layers((x, cache), jnp.arange(config.num_layers), turns, sight, slot)
        return self.norm(x[:, -1:] if last_only else x), written if cache is None else carried

    def _one_by_one(self, x, turns, sight, caches, slot, last_only):
        """The layers of variables that `stepping.separate` took apart, each with its cache or None."""
        layers = {name: tree['layers'] for name, tree in self.variables.items() if 'layers' in tree}
        written = []
        for layer, cache in enumerate(caches):
            variables = {name: of_each[layer] for name, of_each in layers.items()}
            last = last_only and layer == len(caches) - 1
            block = Block(self.config, self.lora_scale, self.lora_dropout, last, parent=None)
            (x, carried), of_sequence = block.apply(variables, (x, cache), layer, turns, sight, slot)
            written.append(of_sequence if cache is None else carried)
        return x, tuple(written)

    def _sight(self, length, positions, mask, cache, slot, key_positions):
        window, slots = self.config.sliding_window, jnp.arange(mask.shape[-1])
        query_slot = slot + jnp.arange(length)
        by_slot, segments = mask.ndim == 2, None
        if by_slot:
            segments = mask.astype(jnp.int32) if cache is None else None
            seen = mask[:, None, :] > 0
            if cache is None and mask.dtype != bool:
                seen = seen & (mask[:, :, None] == mask[:, None, :])
            mask = (slots <= query_slot[:, None]) & seen
        kernel = 'xla' if cache is not None else flash.choose(self.config, by_slot)
        sight = flash.Sight(mask, segments=segments, kernel=kernel)
        if window is None or mask.shape[-1] <= window:
            return sight
        if by_slot:
            return sight.replace(window=query_slot[None, :, None] - slots < window)
        if cache is None:
            key_positions = positions
        elif key_positions is None:
            raise ValueError('a sliding window over a cache, with a mask of rank 3, needs key_positions')
        return sight.replace(window=positions[:, :, None] - key_positions[:, None, :] < window)

    def logits(self, hidden):
        """hidden [..., D] → logits float32 [..., V]."""
        head, scale = self.head()
        if self.config.tie_word_embeddings:  # `stepping.with_head` has it transposed already
            head = self.get_variable('params', HEAD).astype(head.dtype) if self.has_variable('params', HEAD) else head.T
        one_token = hidden.ndim == 2  # of each row: then the states travel, not the matrix
        if one_token:
            hidden = constrain_residual(hidden, self.config.mesh, decoding=True)
        logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
        if one_token:
            logits = constrain(logits, ('batch', 'vocab'), self.config.mesh)
        return logits if scale is None else logits * scale

    def head(self):
        """The output matrix as it is stored, [V, D] if it is the embeddings', else [D, V]; and what the products of
        each word count, float32 [V], or None for 1."""
        head = self.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return head.astype(self.config.dtype), self.get_variable('params', HEAD_SCALE)


def head_product(x: jax.Array, head: jax.Array, axis: int) -> jax.Array:
    """x [..., n] times `Decoder.head`'s matrix over its `axis`, float32; the matrix is not transposed, of which a loop
    would be given a copy."""
    return jax.lax.dot_general(x, head, (((x.ndim - 1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


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
    """Shapes of the base weights, boxed with their logical axes; nothing is computed, no device is asked for."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 2), bool)
    key = jax.eval_shape(lambda: jax.random.key(0))
    # Which attention there is makes no difference to the weights; to choose it would ask for a device.
    model = Decoder(dataclasses.replace(config, attention='xla'))
    return jax.eval_shape(model.init, key, tokens, tokens, mask)['params']
