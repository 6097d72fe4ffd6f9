"""BERT as a pure function of (params, tokens): the text encoder's network.

The map, bottom up: `BertConfig` (read from Hugging Face's `config.json`, BERT or DistilBERT),
`LayerNorm`, `Linear`, `Layer` (post-norm attention and feed-forward), `Bert`, which scans one layer
over the depth, `pool`, and `load_bert`, which fits a checkpoint's names and layouts to ours.

Text encoders are read, never trained here, so there is no dropout; token types are always 0, so the
checkpoint's row 0 is simply added; poolers and task heads of a checkpoint are left out. Norms,
softmax and pooling are in float32 whatever `dtype` is.

Einsum letters: b sentence, h head, t query slot, T key slot, d head dim.
"""

import dataclasses
import os
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.errors import UserError
from xrec_jax.language.checkpoint_files import read_config, read_tensors

# Added to the attention scores of pads; finite, so that a row of pure padding stays finite.
MASKED = -1e30
ACTIVATIONS = {
    'gelu': lambda x: jax.nn.gelu(x, approximate=False),
    'gelu_new': lambda x: jax.nn.gelu(x, approximate=True),
    'relu': jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Shape of a BERT-family encoder; field names follow Hugging Face's BERT `config.json`."""

    model_type: str  # 'bert' | 'distilbert': which tensor names the checkpoint uses
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    hidden_act: str = 'gelu'
    dtype: Any = jnp.float32

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @classmethod
    def from_hf(cls, hf: dict, **overrides) -> 'BertConfig':
        """Reads Hugging Face's `config.json` (as a dict); refuses by name what is not supported."""
        kind = hf.get('model_type')
        if kind not in ('bert', 'distilbert'):
            raise UserError(
                f'config.json: model_type "{kind}" is not supported; known: bert, distilbert.')
        supported = {'position_embedding_type': 'absolute', 'is_decoder': False}
        for key, value in supported.items():
            if hf.get(key, value) != value:
                raise UserError(f'config.json: {key}={hf[key]!r} is not supported, only {value!r}.')
        if kind == 'bert':
            names = ('hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
                     'hidden_act')
        else:
            names = ('dim', 'hidden_dim', 'n_layers', 'n_heads', 'activation')
        for name in ('vocab_size', *names[:-1]):
            if name not in hf:
                raise UserError(f'config.json: key "{name}" is missing.')
        hidden, intermediate, layers, heads = (hf[name] for name in names[:-1])
        activation = hf.get(names[-1], 'gelu')
        if activation not in ACTIVATIONS:
            raise UserError(f'config.json: {names[-1]}={activation!r} is not supported; known: '
                            f'{", ".join(ACTIVATIONS)}.')
        if hidden % heads:
            raise UserError(f'config.json: {names[0]}={hidden} is no multiple of {names[3]}={heads}.')
        fields = dict(
            model_type=kind,
            vocab_size=hf['vocab_size'],
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_layers=layers,
            num_heads=heads,
            max_position_embeddings=hf.get('max_position_embeddings', 512),
            layer_norm_eps=hf.get('layer_norm_eps', 1e-12),
            hidden_act=activation,
        )
        return cls(**(fields | overrides))


class LayerNorm(nn.Module):
    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale = self.param('scale', nn.with_logical_partitioning(ones, ('embed',)), x.shape[-1:])
        bias = self.param('bias', nn.with_logical_partitioning(zeros, ('embed',)), x.shape[-1:])
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return (x * scale + bias).astype(self.dtype)


class Linear(nn.Module):
    """y = x W + b over the last axis; W may have several output axes."""

    features: tuple[int, ...]
    axes: tuple[str | None, ...]  # logical names of (input, *outputs)
    dtype: Any

    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(
            nn.initializers.lecun_normal(out_axis=tuple(range(1, len(self.axes))), in_axis=0), self.axes)
        kernel = self.param('kernel', init, (x.shape[-1], *self.features))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:])
        bias = self.param('bias', zeros, self.features)
        y = x @ kernel.reshape(x.shape[-1], -1).astype(self.dtype) + bias.reshape(-1).astype(self.dtype)
        return y.reshape(*x.shape[:-1], *self.features)


class Layer(nn.Module):
    """One post-norm layer, in the form that `nn.scan` wants: (x, mask) → (x, None)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x, mask):
        config = self.config
        norm = lambda name: LayerNorm(config.layer_norm_eps, config.dtype, name=name)

        # One matmul for queries, keys and values.
        qkv = Linear((3, config.num_heads, config.head_dim), ('embed', None, 'heads', 'head_dim'),
                     config.dtype, name='qkv')(x)
        q, k, v = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        scores = jnp.einsum('bthd,bThd->bhtT', q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(mask[:, None, None, :], scores * config.head_dim**-0.5, MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(config.dtype)
        attended = jnp.einsum('bhtT,bThd->bthd', weights, v).reshape(x.shape)
        attended = Linear((config.hidden_size,), ('heads', 'embed'), config.dtype, name='out')(attended)
        x = norm('attention_norm')(x + attended)

        y = Linear((config.intermediate_size,), ('embed', 'mlp'), config.dtype, name='up')(x)
        y = ACTIVATIONS[config.hidden_act](y)
        y = Linear((config.hidden_size,), ('mlp', 'embed'), config.dtype, name='down')(y)
        return norm('output_norm')(x + y), None


class Bert(nn.Module):
    """Embeddings and encoder; no pooler, no head."""

    config: BertConfig

    @nn.compact
    def __call__(self, tokens, mask):
        """tokens int [B, S], mask bool [B, S] (right-padded) → last hidden state [B, S, D]."""
        config = self.config

        def table(name, rows, axis):
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (axis, 'embed'))
            return self.param(name, init, (rows, config.hidden_size))

        words = table('word_embeddings', config.vocab_size, 'vocab')
        positions = table('position_embeddings', config.max_position_embeddings, None)
        x = jnp.take(words, tokens, axis=0) + positions[: tokens.shape[1]]
        x = LayerNorm(config.layer_norm_eps, config.dtype, name='embedding_norm')(x)
        layers = nn.scan(
            Layer,
            variable_axes={'params': 0},
            split_rngs={'params': True},
            in_axes=nn.broadcast,
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )(config, name='layers')
        return layers(x, mask)[0]


def pool(hidden: jax.Array, mask: jax.Array, kind: str = 'mean') -> jax.Array:
    """Sentence vectors, float32 [B, D], from hidden [B, S, D] and mask [B, S].

    'mean' is MeanPooling of ExpCTR, eq. (11), z = MeanPooling(f_encoder(Z)): the mean of the last
    layer's hidden states over real tokens ([CLS] and [SEP] among them, as sentence-transformers
    counts). 'cls' is the first token's state, which BGE was trained with. A row with no token is 0.
    """
    if kind == 'cls':
        return hidden[:, 0].astype(jnp.float32) * mask[:, :1]
    weights = mask.astype(jnp.float32)
    total = jnp.einsum('bt,btd->bd', weights, hidden.astype(jnp.float32))
    return total / jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)


# Our module → Hugging Face's, within one layer; `qkv` is three of theirs side by side.
BERT_LAYER = {
    'qkv': ('attention.self.query', 'attention.self.key', 'attention.self.value'),
    'out': ('attention.output.dense',),
    'attention_norm': ('attention.output.LayerNorm',),
    'up': ('intermediate.dense',),
    'down': ('output.dense',),
    'output_norm': ('output.LayerNorm',),
}
DISTILBERT_LAYER = {
    'qkv': ('attention.q_lin', 'attention.k_lin', 'attention.v_lin'),
    'out': ('attention.out_lin',),
    'attention_norm': ('sa_layer_norm',),
    'up': ('ffn.lin1',),
    'down': ('ffn.lin2',),
    'output_norm': ('output_layer_norm',),
}


def load_bert(directory: str | os.PathLike, **overrides) -> tuple[BertConfig, dict]:
    """Config and weights of a Hugging Face BERT or DistilBERT directory.

    Args:
      directory: holds `config.json` and safetensors, of the bare model or of one with a head.
      **overrides: fields of `BertConfig`; `dtype` is also the dtype that the weights get.

    Raises:
      UserError: an unsupported architecture, a missing tensor, or one of a wrong shape, by name.
    """
    config = BertConfig.from_hf(read_config(directory), **overrides)
    # Models with a head carry a prefix; the oldest BERTs say gamma and beta.
    tensors = {
        name.removeprefix(config.model_type + '.')
        .replace('LayerNorm.gamma', 'LayerNorm.weight')
        .replace('LayerNorm.beta', 'LayerNorm.bias'): value
        for name, value in read_tensors(directory).items()
    }

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in tensors:
            raise UserError(f'{directory}: tensor {name} is missing.')
        if tensors[name].shape != shape:
            raise UserError(f'{directory}: tensor {name} has shape {tensors[name].shape}; config.json '
                            f'asks for {shape}.')
        return tensors[name]

    names, prefix = DISTILBERT_LAYER, 'transformer.layer'
    if config.model_type == 'bert':
        names, prefix = BERT_LAYER, 'encoder.layer'

    def layer_leaf(module: str, leaf: str, layer: int, shape: tuple[int, ...]) -> np.ndarray:
        """One layer's leaf of ours, from the one or three tensors that make it."""
        matrix = leaf == 'kernel'
        parts = []
        for theirs in names[module]:
            inputs = shape[:1] if matrix else ()
            outputs = int(np.prod(shape[len(inputs):])) // len(names[module])
            name = f'{prefix}.{layer}.{theirs}.{"bias" if leaf == "bias" else "weight"}'
            part = tensor(name, (outputs, *inputs))  # Hugging Face keeps matrices [out, in]
            parts.append(part.T if matrix else part)
        return np.concatenate(parts, axis=-1).reshape(shape)

    params = {}
    for path, box in flax.traverse_util.flatten_dict(abstract_params(config)).items():
        shape = box.unbox().shape
        if path[0] == 'layers':
            value = np.stack([layer_leaf(*path[1:], layer, shape[1:]) for layer in range(shape[0])])
        elif path[0] == 'embedding_norm':
            theirs = 'weight' if path[1] == 'scale' else 'bias'
            value = tensor(f'embeddings.LayerNorm.{theirs}', shape)
        else:
            value = tensor(f'embeddings.{path[0]}.weight', shape)
            if path[0] == 'position_embeddings' and config.model_type == 'bert':
                types = tensors.get('embeddings.token_type_embeddings.weight')
                value = value if types is None else value + types[0]
        params[path] = jnp.asarray(value, config.dtype)
    return config, flax.traverse_util.unflatten_dict(params)


def abstract_params(config: BertConfig) -> dict:
    """Shapes of the weights, boxed with their logical axes; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 2), bool)
    return jax.eval_shape(Bert(config).init, jax.random.key(0), tokens, mask)['params']
