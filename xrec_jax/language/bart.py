"""BART (Lewis et al. 2019), an encoder-decoder, as a pure function of (params, source, target): it scores texts.

The map, bottom up: `BartConfig` (read from Hugging Face's `config.json`), `Attention` (of a sequence to itself or to
another), `FeedForward`, `EncoderLayer` and `DecoderLayer` (post-norm), `Bart`, which scans one layer of each over its
depth, `sources`, which says where a checkpoint keeps what, `load_bart`, and `log_probs`.

A BART is read, never trained here: no dropout, no cache. Learned positions start at row 2 of their table, as BART's
do. Both sides are padded on the right. Norms, softmax and log-probs are in float32 whatever `dtype` is.

Array letters: B batch, S source, T target, D model.
"""

import dataclasses
import functools
import os
import pathlib
import re
from typing import Any

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xrec_jax.errors import UserError
from xrec_jax.language.attention import attend
from xrec_jax.language.checkpoint_files import open_tensors, read_config
from xrec_jax.language.decoder import LayerNorm
from xrec_jax.language.families.reading import check_only, check_present, choice
from xrec_jax.language.families.source import Source
from xrec_jax.language.filling import Parameter, Path, fill
from xrec_jax.language.likelihood import token_log_probs
from xrec_jax.language.projection import Projection
from xrec_jax.language.weights import locate
from xrec_jax.parallel import sharding

POSITION_OFFSET = 2  # the table of positions begins with two rows that are never read
ACTIVATIONS = {
    'gelu': functools.partial(jax.nn.gelu, approximate=False),
    'gelu_new': functools.partial(jax.nn.gelu, approximate=True),
    'relu': jax.nn.relu,
}
BIAS = ('final_logits_bias',)
# Copies of the tied table, and what the first versions saved.
UNREAD = re.compile(r'(model\.)?((en|de)coder\.(embed_tokens\.weight|version)|shared\.weight)|lm_head\.weight')


@dataclasses.dataclass(frozen=True)
class BartConfig:
    """Shape of a BART; field names follow Hugging Face's `config.json`."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_position_embeddings: int = 1024
    activation_function: str = 'gelu'
    scale_embedding: bool = False  # words times sqrt(d_model)
    decoder_start_token_id: int = 2
    dtype: Any = jnp.float32
    mesh: Mesh | None = None  # which activations are split over

    @classmethod
    def from_hf(cls, hf: dict, **overrides) -> 'BartConfig':
        """Reads Hugging Face's `config.json` (as a dict); refuses by name what is not supported."""
        if hf.get('model_type') != 'bart':
            raise UserError(f'config.json: model_type "{hf.get("model_type")}" is not supported here, only "bart".')
        # The last five are of the models that BART's first implementation served, too (mBART, Marian, Pegasus).
        check_only(hf, is_encoder_decoder=True, tie_word_embeddings=True, quantization_config=None,
                   normalize_before=False, normalize_embedding=True, add_final_layer_norm=False,
                   static_position_embeddings=False, extra_pos_embeddings=POSITION_OFFSET)
        names = ('vocab_size', 'd_model', *(f'{side}_{what}' for side in ('encoder', 'decoder')
                                            for what in ('layers', 'attention_heads', 'ffn_dim')))
        check_present(hf, *names)
        for side in ('encoder', 'decoder'):
            if hf['d_model'] % hf[f'{side}_attention_heads']:
                raise UserError(f'config.json: d_model={hf["d_model"]} is no multiple of '
                                f'{side}_attention_heads={hf[f"{side}_attention_heads"]}.')
        fields = {name: hf[name] for name in names} | {
            'max_position_embeddings': hf.get('max_position_embeddings', 1024),
            'activation_function': choice(hf, 'activation_function', 'gelu', {name: name for name in ACTIVATIONS}),
            'scale_embedding': hf.get('scale_embedding', False),
            'decoder_start_token_id': hf.get('decoder_start_token_id', 2)}
        return cls(**(fields | overrides))

    @property
    def units(self) -> dict[str, int]:
        """Heads by logical axis, which no sharding may cut."""
        return {'heads': min(self.encoder_attention_heads, self.decoder_attention_heads)}


class Attention(nn.Module):
    """From x [B, T, D] to what `context` [B, S, D] holds, where mask bool [B, T, S] lets it."""

    config: BartConfig
    heads: int

    @nn.compact
    def __call__(self, x, context, mask):
        config = self.config

        def project(name, states):
            y = Projection(config.d_model, ('embed', 'heads'), config.dtype, True, name=name)(states)
            return y.reshape(*y.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)

        attended = attend(project('q_proj', x), project('k_proj', context), project('v_proj', context), mask)
        attended = attended.transpose(0, 2, 1, 3).reshape(x.shape)
        return Projection(config.d_model, ('heads', 'embed'), config.dtype, True, name='out_proj')(attended)


class FeedForward(nn.Module):
    config: BartConfig
    features: int

    @nn.compact
    def __call__(self, x):
        config = self.config
        y = Projection(self.features, ('embed', 'mlp'), config.dtype, True, name='fc1')(x)
        y = ACTIVATIONS[config.activation_function](y)
        return Projection(config.d_model, ('mlp', 'embed'), config.dtype, True, name='fc2')(y)


def norm(config: BartConfig, name: str) -> LayerNorm:
    return LayerNorm(1e-5, config.dtype, name=name)  # PyTorch's default, which BART has


class EncoderLayer(nn.Module):
    """In the form that `nn.scan` wants: (x, mask) → (x, None)."""

    config: BartConfig

    @nn.compact
    def __call__(self, x, mask):
        config = self.config
        attended = Attention(config, config.encoder_attention_heads, name='self_attn')(x, x, mask)
        x = norm(config, 'self_attn_layer_norm')(x + attended)
        x = norm(config, 'final_layer_norm')(x + FeedForward(config, config.encoder_ffn_dim, name='mlp')(x))
        return sharding.constrain_residual(x, config.mesh, False), None


class DecoderLayer(nn.Module):
    """(x, encoded, mask over the source, mask over the target) → (x, None)."""

    config: BartConfig

    @nn.compact
    def __call__(self, x, encoded, source_mask, causal):
        config = self.config
        attended = Attention(config, config.decoder_attention_heads, name='self_attn')(x, x, causal)
        x = norm(config, 'self_attn_layer_norm')(x + attended)
        attended = Attention(config, config.decoder_attention_heads, name='encoder_attn')(x, encoded, source_mask)
        x = norm(config, 'encoder_attn_layer_norm')(x + attended)
        x = norm(config, 'final_layer_norm')(x + FeedForward(config, config.decoder_ffn_dim, name='mlp')(x))
        return sharding.constrain_residual(x, config.mesh, False), None


class Side(nn.Module):
    """Encoder or decoder: words and positions, a norm, the layers."""

    config: BartConfig
    layer: type[nn.Module]
    depth: int

    @nn.compact
    def __call__(self, words, *given):
        config = self.config
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ('positions', 'embed'))
        positions = self.param('embed_positions', init,
                               (config.max_position_embeddings + POSITION_OFFSET, config.d_model))
        x = words + positions[POSITION_OFFSET:POSITION_OFFSET + words.shape[1]].astype(config.dtype)
        x = sharding.constrain_residual(norm(config, 'layernorm_embedding')(x), config.mesh, False)
        layers = nn.scan(self.layer, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=nn.broadcast,
                         length=self.depth, metadata_params={nn.PARTITION_NAME: 'layers'})(config, name='layers')
        return layers(x, *given)[0]


class Bart(nn.Module):
    """Encoder and decoder over one table of words, which also reads out."""

    config: BartConfig

    def setup(self):
        config = self.config
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ('vocab', 'embed'))
        self.shared = self.param('shared', init, (config.vocab_size, config.d_model))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, (None, 'vocab'))
        self.final_logits_bias = self.param('final_logits_bias', zeros, (1, config.vocab_size))
        self.encoder = Side(config, EncoderLayer, config.encoder_layers)
        self.decoder = Side(config, DecoderLayer, config.decoder_layers)

    def __call__(self, source, source_mask, target):
        """source int [B, S], its mask bool [B, S], target int [B, T] → (encoded [B, S, D], decoded [B, T, D]).

        Slot t of `decoded` has seen target[:t + 1]. Both are padded on the right, so that the target needs no mask.
        """
        (batch, width), length = source.shape, target.shape[1]
        most = self.config.max_position_embeddings
        if max(width, length) > most:
            raise ValueError(f'source of {width} and target of {length} tokens, but {most} positions')
        encoded = self.encoder(self._words(source), jnp.broadcast_to(source_mask[:, None], (batch, width, width)))
        across = jnp.broadcast_to(source_mask[:, None], (batch, length, width))
        causal = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (batch, length, length))
        return encoded, self.decoder(self._words(target), encoded, across, causal)

    def _words(self, tokens):
        words = sharding.look_up(self.shared, tokens, self.config.mesh).astype(self.config.dtype)
        return words * self.config.d_model**0.5 if self.config.scale_embedding else words

    def head(self):
        """The table that reads out, [V, D], and what is added to the logits, float32 [V]."""
        return self.shared.astype(self.config.dtype), self.final_logits_bias[0].astype(jnp.float32)


@functools.partial(jax.jit, static_argnames='config')
def log_probs(params: dict, source: jax.Array, source_mask: jax.Array, target: jax.Array, *, config: BartConfig
              ) -> jax.Array:
    """Log-prob of each target token given the source and the target before it, float32 [B, T].

    The decoder starts with `decoder_start_token_id`, so that the first token of the target (<s>) is foretold, too.

    Args:
      source, source_mask: int [B, S], bool [B, S], padded on the right; target: int [B, T], padded on the right,
        with whatever its tokenizer puts around it. What comes out at its pads means nothing.
    """
    chex.assert_rank([source, source_mask, target], 2)
    model, variables = Bart(config), {'params': params}
    before = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=config.decoder_start_token_id)
    _, decoded = model.apply(variables, jnp.where(source_mask, source, 0), source_mask, before)
    table, bias = model.apply(variables, method='head')
    return token_log_probs(decoded, table, target, bias)


# ---------------------------------------------------------------------------------------- checkpoints


def sources(config: BartConfig) -> dict[Path, Source]:
    """Where a checkpoint keeps each parameter; a bare `BartModel` leaves out the prefix "model."."""

    def source(name, *more, **range_of):
        return Source('model.' + name, also=(name, *more), **range_of)

    tied = [f'{prefix}{side}.embed_tokens.weight' for prefix in ('model.', '') for side in ('encoder', 'decoder')]
    found = {('shared',): source('shared.weight', *tied, 'lm_head.weight'), BIAS: Source('final_logits_bias')}
    for side, attentions in (('encoder', ('self_attn',)), ('decoder', ('self_attn', 'encoder_attn'))):
        found[side, 'embed_positions'] = source(f'{side}.embed_positions.weight')
        norms = [*(f'{name}_layer_norm' for name in attentions), 'final_layer_norm']
        for stored, leaf in (('weight', 'scale'), ('bias', 'bias')):
            found[side, 'layernorm_embedding', leaf] = source(f'{side}.layernorm_embedding.{stored}')
            for name in norms:
                found[side, 'layers', name, leaf] = source(f'{side}.layers.{{layer}}.{name}.{stored}')
        for stored, leaf in (('weight', 'kernel'), ('bias', 'bias')):
            for attention in attentions:
                for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
                    found[side, 'layers', attention, name, leaf] = source(
                        f'{side}.layers.{{layer}}.{attention}.{name}.{stored}', transposed=leaf == 'kernel')
            for name in ('fc1', 'fc2'):
                found[side, 'layers', 'mlp', name, leaf] = source(
                    f'{side}.layers.{{layer}}.{name}.{stored}', transposed=leaf == 'kernel')
    return found


def load_bart(directory: str | os.PathLike, mesh: Mesh | None = None, **overrides) -> tuple[BartConfig, dict]:
    """Config and weights of a Hugging Face BART directory (`BartForConditionalGeneration` or `BartModel`).

    Args:
      directory: holds `config.json` and safetensors, as facebook/bart-large-cnn does.
      mesh: where `sharding.RULES` split the weights over; None: the default device.
      **overrides: fields of `BartConfig`; `dtype` is also the dtype that the weights get.

    Raises:
      UserError: an option that is not supported, files that are missing or damaged, a tensor that is missing, of a
        wrong shape or unknown, by name.
    """
    config = BartConfig.from_hf(read_config(directory), **({'mesh': mesh} | overrides))
    boxed, placed = abstract_params(config), {}
    if mesh is not None:
        sharding.check_heads(config.units['heads'], config.units['heads'], mesh)
        placed = flax.traverse_util.flatten_dict(sharding.param_shardings(boxed, mesh, config.units))
    places = sources(config)
    wanted = {path: (nn.unbox(box).shape, places[path])
              for path, box in flax.traverse_util.flatten_dict(boxed).items()}
    # A bare model has no bias of the logits, and old ones keep it as zeros.
    shape, source = wanted[BIAS]
    without_bias = source.name not in open_tensors(directory)
    if without_bias:
        del wanted[BIAS]
    stored = locate(pathlib.Path(directory), wanted, 'bart', lambda name: UNREAD.fullmatch(name) is not None)
    filled = fill({path: Parameter(shape, source, stored[path], placed.get(path))
                   for path, (shape, source) in wanted.items()}, config.dtype)
    if without_bias:
        filled[BIAS] = jax.device_put(jnp.zeros(shape, config.dtype), placed.get(BIAS))
    return config, flax.traverse_util.unflatten_dict(filled)


def abstract_params(config: BartConfig) -> dict:
    """Shapes of the weights, boxed with their logical axes; nothing is computed."""
    tokens, mask = jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1, 2), bool)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(Bart(dataclasses.replace(config, mesh=None)).init, key, tokens, mask, tokens)['params']
