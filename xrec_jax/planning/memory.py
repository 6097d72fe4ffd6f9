"""Bytes on one device, by verb, from shapes alone.

  `weights`, `learner`, `cache`   exact: the shapes that the program makes, cut as `parallel/sharding.py` cuts them
  `forward`, `training`, `reading`   estimates of what a pass needs besides
  `tune`, `align`, `explain`, `judge`   the parts of each verb; `explain` is also a rollout

The estimates count the arrays that XLA was seen to keep at the peak (its buffer assignment, on CPU, in float32) and
leave out all else. Letters: n tokens on the device, D width, F feed-forward width, H and K heads, d their size, V
words, c bytes of an activation; H, K, F and V are the device's share.

  a layer, forward      2 n D for the stream, and the larger of q, k, v with 2 b H S² attention scores (float32; none
                        where attention is fused) and 3 n F of the feed-forward network
  its weights           as they are multiplied: gathered over fsdp, cut by tensor
  kept for backward     6 n F, 5 n D (two in float32), n (H + 2 K) d and 2 b H S² scores a layer; with `remat` n D
  a layer, backward     3 b H S² scores, 9 n F, 4 n D; with `remat` also what the layer would have kept
  vocabulary            3 float32 logits of the tokens read out at once
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import lora, policy, quantize, tuning
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.decoder import abstract_params
from xrec_jax.parallel import sharding
from xrec_jax.parallel.mesh import AXES

PPO_LOGITS = 6  # float32 copies of the logits read out at once in PPO's loss: log-probs, entropy, and their gradients

# Whether the scores [b, H, S, S] are ever in memory: `language/attention.py` writes them, a fused kernel would not.
ATTENTION = ('scores', 'fused')


@dataclasses.dataclass(frozen=True)
class Work:
    """What a run asks for; all sizes are of the whole mesh."""

    batch: int = 64  # texts written at once: of `explain`, and the rollout batch of `align`
    microbatch: int = 8  # rows of one forward and backward pass: `tune`, `align`
    prompt: int = 512  # tokens
    response: int = 128  # tokens
    attention: str = 'scores'  # one of `ATTENTION`

    @property
    def length(self) -> int:
        return self.prompt + self.response


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder with its adapter on a mesh of no devices."""

    config: DecoderConfig
    mesh: AbstractMesh
    lora: lora.LoraConfig
    quantized: str = 'none'  # or a key of `quantize.KINDS`

    @property
    def boxed(self) -> Any:
        """Shapes of the base weights with their logical axes."""
        return _boxed(self.config)


@functools.cache
def _boxed(config: DecoderConfig) -> Any:
    return abstract_params(config)


def make_mesh(sizes: Mapping[str, int]) -> AbstractMesh:
    """A mesh of no devices; UserError for an unknown axis or a size that is no number of devices."""
    for name, size in sizes.items():
        if name not in AXES:
            raise UserError(f'--mesh: unknown axis "{name}".{nearest(name, AXES)}')
        if size < 1:
            raise UserError(f'--mesh: {name}={size}: a plan needs the number of devices, at least 1.')
    return AbstractMesh(tuple(sizes.get(name, 1) for name in AXES), AXES)


# ------------------------------------------------------------------------------------------------ exact


@functools.cache
def weights(model: Model) -> int:
    """The frozen base weights."""
    boxed = model.boxed
    shardings = flax.traverse_util.flatten_dict(sharding.param_shardings(boxed, model.mesh, model.config.units))
    total = 0
    for path, leaf in flax.traverse_util.flatten_dict(stored_shapes(model)).items():
        if path in shardings:
            local = shardings[path].shard_shape(leaf.shape)
        else:  # scales of quantised matrices: whole but for the outputs, [layers, out] or [out]
            base = path[:-1] + ('kernel' if path[-1] == quantize.SCALE else quantize.HEAD,)
            outputs = shardings[base].spec[-1]
            local = (*leaf.shape[:-1], leaf.shape[-1] // (model.mesh.shape[outputs] if outputs else 1))
        total += _size(local, leaf.dtype)
    return total


def stored_shapes(model: Model) -> dict:
    """Shapes and types of the base weights as they lie on the devices, unboxed."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, model.config.dtype), nn.unbox(model.boxed))
    if model.quantized == 'none':
        return shapes
    return jax.eval_shape(lambda params: quantize.quantize(params, model.quantized, lora.TARGETS), shapes)


@functools.cache
def learner(model: Model) -> tuple[int, int]:
    """The adapter, and AdamW's state of it: both float32."""
    adapter = jax.eval_shape(lambda: lora.init_adapter(jax.random.key(0), stored_shapes(model), model.lora))
    state = jax.eval_shape(tuning.Optimizer(steps=1).make().init, adapter)
    return tuple(_local(tree, sharding.learner_shardings(tree, model.boxed, model.mesh, model.config.units))
                 for tree in (adapter, state))


def cache(model: Model, batch: int, slots: int) -> int:
    """Keys and values of `slots` tokens of `batch` rows."""
    config = model.config
    heads = config.num_kv_heads * sharding.kv_copies(config.num_kv_heads, model.mesh)
    shape = config.num_layers, batch, heads, slots, config.head_dim
    spec = sharding.partition((None, 'batch', 'kv_heads', None, None), shape, model.mesh)
    return 2 * _size(NamedSharding(model.mesh, spec).shard_shape(shape), config.dtype)


@functools.cache
def layer_weights(model: Model) -> int:
    """One layer as it is multiplied: gathered over fsdp, cut by tensor."""
    alone = Model(model.config, make_mesh({'tensor': model.mesh.shape['tensor']}), model.lora, model.quantized)
    rest = dataclasses.replace(model.config, num_layers=2 * model.config.num_layers)
    return (weights(dataclasses.replace(alone, config=rest)) - weights(alone)) // model.config.num_layers


def head_weights(model: Model) -> int:
    """The output matrix as it is multiplied."""
    config = model.config
    return config.hidden_size * _share(model, 'vocab', config.vocab_size) * jnp.dtype(config.dtype).itemsize


def rows(model: Model, batch: int) -> int:
    """Of a batch, on one device."""
    return NamedSharding(model.mesh, sharding.partition(('batch',), (batch,), model.mesh)).shard_shape((batch,))[0]


def _share(model: Model, name: str, size: int) -> int:
    spec = sharding.partition((name,), (size,), model.mesh)
    return NamedSharding(model.mesh, spec).shard_shape((size,))[0]


def _local(tree: Any, shardings: Any) -> int:
    return sum(_size(placed.shard_shape(leaf.shape), leaf.dtype)
               for leaf, placed in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True))


def _size(shape: tuple[int, ...], dtype: Any) -> int:
    bits = jnp.iinfo(dtype).bits if jnp.issubdtype(dtype, jnp.integer) else jnp.dtype(dtype).itemsize * 8
    count = 1
    for length in shape:
        count *= length
    return -(-count * bits // 8)


# -------------------------------------------------------------------------------------------- estimates


@dataclasses.dataclass(frozen=True)
class _Pass:
    """Sizes of the arrays of one layer in a pass over `batch` rows of `length` tokens, in bytes on one device."""

    stream: int  # n D
    inner: int  # n F: of gated networks, and of all experts that a token meets
    heads: int  # n (H + 2 K) d
    scores: int  # b H S², float32; 0 where attention is fused


def _pass(model: Model, batch: int, length: int, attention: str) -> _Pass:
    config, tensor = model.config, model.mesh.shape['tensor']
    here, size = rows(model, batch), jnp.dtype(config.dtype).itemsize
    tokens = here * length
    per_token = config.experts_per_token if config.num_experts else 1
    heads, kv_heads = config.num_heads // tensor, max(config.num_kv_heads // tensor, 1)
    return _Pass(
        stream=tokens * config.hidden_size * size,
        inner=tokens * per_token * _share(model, 'mlp', config.intermediate_size) * size,
        heads=tokens * (heads + 2 * kv_heads) * config.head_dim * size,
        scores=0 if attention == 'fused' else 4 * here * heads * length * length)


def forward(model: Model, batch: int, length: int, attention: str) -> int:
    """A forward pass, at its layer that needs most."""
    one = _pass(model, batch, length, attention)
    return 2 * one.stream + max(one.heads + 2 * one.scores, 3 * one.inner) + layer_weights(model)


def training(model: Model, batch: int, length: int, attention: str, reading: int) -> int:
    """A forward and backward pass, `reading` bytes of which are for the vocabulary."""
    config, one = model.config, _pass(model, batch, length, attention)
    wide = 4 // jnp.dtype(config.dtype).itemsize  # float32 in units of an activation
    kept = 6 * one.inner + (3 + 2 * wide) * one.stream + one.heads + (one.scores + one.scores // wide)
    if not config.remat:
        between, layer = kept, 3 * one.scores + 9 * one.inner + 4 * one.stream
    else:
        between = one.stream + (one.heads + 2 * one.inner + 2 * one.stream if config.remat == 'projections' else 0)
        layer = kept + 3 * one.inner + 3 * one.stream - between
    return config.num_layers * between + max(layer + layer_weights(model), reading)


def reading(model: Model, tokens: int, copies: int = 3) -> int:
    """Logits of `tokens` on one device, with the output matrix forward and backward where it must be gathered."""
    gathered = 2 * head_weights(model) if model.mesh.shape['fsdp'] > 1 else 0
    return copies * 4 * tokens * _share(model, 'vocab', model.config.vocab_size) + gathered


def next_logits(model: Model, batch: int) -> int:
    """Logits of one token of each row: partial sums over fsdp for all rows of a shard of `data`, then the own rows."""
    mesh, words = model.mesh, _share(model, 'vocab', model.config.vocab_size)
    partial = -(-batch // mesh.shape['data']) if mesh.shape['fsdp'] > 1 else 0
    return 4 * words * (partial + 3 * rows(model, batch))


# ------------------------------------------------------------------------------------------------ verbs


def tune(model: Model, work: Work) -> dict[str, int]:
    adapter, state = learner(model)
    here = rows(model, work.microbatch)
    chunk = here * min(work.length, max(1, tuning.CHUNK // work.microbatch))
    stream = _pass(model, work.microbatch, work.length, work.attention).stream
    read = reading(model, chunk) + 2 * stream  # the gradient of the hidden states is made there
    return {'weights': weights(model), 'adapter': adapter, 'optimizer': state,
            'update': 3 * adapter + state,  # two gradients, and what the step returns
            'activations': training(model, work.microbatch, work.length, work.attention, read)}


def align_update(model: Model, work: Work) -> dict[str, int]:
    """The pass of `align` that needs most beside its rollout, the update: scoring is a forward pass of it."""
    adapter, state = learner(model)
    here = rows(model, work.microbatch)
    chunk = policy.positions_at_once(here, _share(model, 'vocab', model.config.vocab_size), work.response)
    read = reading(model, here * chunk, PPO_LOGITS)
    return {'weights': weights(model), 'adapter': adapter, 'optimizer': state,
            'update': 3 * adapter + state,
            'activations': training(model, work.microbatch, work.length, work.attention, read)}


def align_write(model: Model, work: Work) -> dict[str, int]:
    """A rollout: `explain` with the optimizer's state at hand."""
    return explain(model, work) | {'optimizer': learner(model)[1]}


def judge(model: Model, work: Work) -> dict[str, int]:
    """A question of `prompt` tokens whose answer is read from the last of them."""
    return {'weights': weights(model), 'adapter': learner(model)[0],
            'activations': max(forward(model, work.batch, work.prompt, work.attention), next_logits(model, work.batch))}


def explain(model: Model, work: Work) -> dict[str, int]:
    held = cache(model, work.batch, work.length)
    prompts = cache(model, work.batch, work.prompt)
    prefill = prompts + forward(model, work.batch, work.prompt, work.attention)
    step = held + max(layer_weights(model), next_logits(model, work.batch))
    # The cache of the prompts is copied into the longer one.
    peak = max(prefill, prompts + held, step)
    return {'weights': weights(model), 'adapter': learner(model)[0], 'cache': held, 'activations': peak - held}


# By title, in the order of a run. `fit` trains a predictor of its own, of a size that hardly counts here.
VERBS = {'tune': tune, 'align: write': align_write, 'align: update': align_update, 'explain': explain, 'judge': judge}


def check(model: Model, work: Work) -> None:
    """UserError for a mesh or batches that the program would refuse, too."""
    config = model.config
    sharding.check_heads(config.num_heads, config.num_kv_heads, model.mesh)
    boxed = model.boxed
    sharding.check_sharded(boxed, sharding.param_shardings(boxed, model.mesh, config.units), config.units)
    sharding.check_batch('--batch', work.batch, model.mesh)
    sharding.check_batch('--microbatch', work.microbatch, model.mesh)
    if work.length > config.max_position_embeddings:
        raise UserError(f'--prompt={work.prompt} and --response={work.response} exceed the '
                        f'{config.max_position_embeddings} positions of the model.')


def plan(model: Model, work: Work) -> dict[str, dict[str, int]]:
    """Verb → part → bytes on one device; 'total' is their sum."""
    check(model, work)
    plans = {title: verb(model, work) for title, verb in VERBS.items()}
    return {title: parts | {'total': sum(parts.values())} for title, parts in plans.items()}
