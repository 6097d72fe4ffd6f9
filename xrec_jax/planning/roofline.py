"""Step times at best: what the rooflines of a chip allow.

Of each step three times: of reading memory, of multiplying, of sending; the longest bounds it.

  decode    one token for every row: cache / BW + max(weights / BW, 2 · rows · P / FLOPs)
  prefill   the prompts of a batch: max(weights / BW, FLOPs of a forward pass / peak)
  tune      a microbatch, forward and backward. Frozen matrices have no gradient of their own, so they are met twice
            (2 · 2 P FLOPs a token, not the 3 · 2 P of pre-training), and once more with remat of all
  update    the same of PPO, which reads out the responses alone
  score     log-probs of a batch's responses: a forward pass over whole texts

Everything is of one device. P: the parameters that a token is multiplied by, all but the embedding table, and of
experts those that it meets; in prefill the output matrix is met by the last tokens alone. Attention counts the lower
triangle. Sending overlaps with the rest at best. It is, for whole sequences, a layer's matrices over `fsdp` and the
stream over `tensor` after attention and after the feed-forward network; in decoding the partial sums that
`sharding.DECODE_RULES` leave to add up. An all-reduce sends its array twice.
"""

import dataclasses
import math

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp

from xrec_jax.planning import memory
from xrec_jax.planning.chips import Chip
from xrec_jax.planning.memory import Model, Work


@dataclasses.dataclass(frozen=True)
class Step:
    """Seconds of one step, by what it takes."""

    memory: float
    compute: float
    network: float

    @property
    def seconds(self) -> float:
        return max(self.memory, self.compute, self.network)

    @property
    def bound(self) -> str:
        return max(('memory', 'compute', 'network'), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Numbers of parameters, of the whole model."""

    total: int
    read: int  # all but a table of embeddings that is only looked up in
    met: float  # that one token is multiplied by


def parameters(model: Model) -> Parameters:
    total, read, met = 0, 0, 0.0
    config = model.config
    for path, box in flax.traverse_util.flatten_dict(model.boxed).items():
        count = math.prod(nn.unbox(box).shape)
        total += count
        if path == ('embed_positions',) or path == ('embed_tokens',) and not config.tie_word_embeddings:
            continue
        read += count
        met += count * (config.experts_per_token / config.num_experts if 'experts' in path else 1)
    return Parameters(total, read, met)


def decode(model: Model, work: Work, chip: Chip) -> Step:
    """One token for each of `batch` rows, at half of their responses."""
    config, shape, count = model.config, model.mesh.shape, parameters(model)
    fsdp, tensor, size = shape['fsdp'], shape['tensor'], jnp.dtype(config.dtype).itemsize
    # Each device multiplies its part of the weights by all rows of its shard of `data`.
    rows = -(-work.batch // shape['data'])
    touched = count.read
    if config.num_experts:  # experts that no row meets are not read
        missed = (1 - config.experts_per_token / config.num_experts) ** rows
        touched -= missed * (count.read - count.met) / (1 - config.experts_per_token / config.num_experts)
    weights = memory.weights(model) * touched / count.total / chip.bandwidth
    cache = memory.cache(model, work.batch, work.prompt + work.response // 2) / chip.bandwidth
    compute = 2 * rows * count.met / (fsdp * tensor) / chip.flops
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    layer = rows * size / tensor * (_all_reduced(heads + 2 * config.intermediate_size, fsdp)
                                    + _gathered(config.num_heads * config.head_dim, fsdp))
    layer += rows * size / fsdp * 2 * _all_reduced(config.hidden_size, tensor)
    logits = 4 * rows / tensor * _all_reduced(config.vocab_size, fsdp)
    return Step(memory=cache + max(weights, compute), compute=compute,
                network=(config.num_layers * layer + logits) / chip.link)


def prefill(model: Model, work: Work, chip: Chip) -> Step:
    """The prompts of `batch` rows, of which the last token is read out."""
    return _sequences(model, chip, work.batch, work.prompt, read_out=work.batch, passes=1, attention_passes=1)


def tune(model: Model, work: Work, chip: Chip) -> Step:
    """Forward and backward of a microbatch of rows of `prompt + response` tokens, all of which are read out."""
    return _trained(model, work, chip, work.length)


def update(model: Model, work: Work, chip: Chip) -> Step:
    """Forward and backward of a microbatch of PPO, of which the responses are read out."""
    return _trained(model, work, chip, work.response)


def score(model: Model, work: Work, chip: Chip) -> Step:
    """Log-probs of the responses of `batch` rows, by one model."""
    return _sequences(model, chip, work.batch, work.length, read_out=work.batch * work.response, passes=1,
                      attention_passes=1)


def _trained(model: Model, work: Work, chip: Chip, read_out: int) -> Step:
    again = model.config.remat is True  # with 'projections' their results are kept
    return _sequences(model, chip, work.microbatch, work.length, read_out=work.microbatch * read_out,
                      passes=2 + again, attention_passes=3 + bool(model.config.remat))


def _sequences(model: Model, chip: Chip, batch: int, length: int, read_out: int, passes: int,
               attention_passes: int) -> Step:
    config, shape = model.config, model.mesh.shape
    head = config.hidden_size * config.vocab_size
    tokens = batch * length
    flops = 2 * passes * (tokens * (parameters(model).met - head) + read_out * head)
    # Scores and their use, 2 · 2 · heads · d FLOPs for each slot seen, half of the length on average.
    flops += attention_passes * tokens * 2 * config.num_layers * config.num_heads * config.head_dim * length
    layers = config.num_layers * memory.layer_weights(model)
    stream = memory.rows(model, batch) * length * config.hidden_size * jnp.dtype(config.dtype).itemsize
    sent = passes * (_gathered(layers, shape['fsdp'])
                     + 2 * config.num_layers * _all_reduced(stream, shape['tensor']))
    return Step(memory=passes * layers / chip.bandwidth, compute=flops / model.mesh.size / chip.flops,
                network=sent / chip.link)


def _gathered(size: float, devices: int) -> float:
    """Bytes that each device sends so that all have the whole of `size` bytes."""
    return size * (devices - 1) / devices


def _all_reduced(size: float, devices: int) -> float:
    """Bytes that each device sends so that all have the sum of arrays of `size` bytes."""
    return 2 * _gathered(size, devices)
