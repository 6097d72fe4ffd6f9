"""LoRA: low-rank pairs beside frozen matrices (Hu et al. 2021, arXiv 2106.09685).

An adapter is the pytree that `Decoder` looks up in its `lora` collection: at the path of each target
matrix W [layers, in, out] a pair A [layers, in, r] and B [layers, r, out]; the layer computes
x W + dropout(x) A B · scale. B starts at zero, so a fresh adapter changes nothing. The pair is float32
whatever the base is: bfloat16, or integers (`quantize.py`).
"""

import dataclasses
import math

import flax.traverse_util
import jax
import jax.numpy as jnp

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import quantize

TARGETS = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = TARGETS
    dropout: float = 0.0  # of what enters A, while training
    rslora: bool = False  # scale alpha / √r, so that large ranks learn too (Kalajdzievski 2023, arXiv 2312.03732)

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f'lora.rank={self.rank}: should be at least 1.')
        if not 0 <= self.dropout < 1:
            raise UserError(f'lora.dropout={self.dropout}: should be at least 0 and less than 1.')
        for target in self.targets:
            if target not in TARGETS:
                raise UserError(f'lora.targets: "{target}" is not a projection.{nearest(target, TARGETS)}')


def init_adapter(key: jax.Array, params: dict, config: LoraConfig) -> dict:
    """A fresh adapter for the base weights `params` (arrays or shapes): A uniform as in PEFT, B zero.

    UserError where the model has none of the targets.
    """
    adapter = {}
    kernels = flax.traverse_util.flatten_dict(params)
    for path, kernel in sorted(kernels.items()):
        if path[-1] != 'kernel' or path[-2] not in config.targets:
            continue
        *layers, fan_in, fan_out = kernel.shape
        key, subkey = jax.random.split(key)
        bound = math.sqrt(1 / fan_in)  # Kaiming uniform with a = √5, PEFT's default
        shape = (*layers, fan_in, config.rank)
        adapter[path[:-1] + ('a',)] = jax.random.uniform(subkey, shape, jnp.float32, -bound, bound)
        adapter[path[:-1] + ('b',)] = jnp.zeros((*layers, config.rank, fan_out), jnp.float32)
    if not adapter:
        raise UserError(f'lora.targets: the model has none of {", ".join(config.targets)}.')
    return flax.traverse_util.unflatten_dict(adapter)


def merge(params: dict, adapter: dict, config: LoraConfig) -> dict:
    """Base weights with the adapter added in: W + A B · scale; quantised ones become float32."""
    flat = dict(flax.traverse_util.flatten_dict(quantize.dequantize(params)))
    pairs = flax.traverse_util.flatten_dict(adapter)
    for path in {path[:-1] for path in pairs}:
        delta = jnp.einsum('...ir,...ro->...io', pairs[path + ('a',)], pairs[path + ('b',)])
        kernel = flat[path + ('kernel',)]
        flat[path + ('kernel',)] = (kernel + delta * config.scale).astype(kernel.dtype)
    return flax.traverse_util.unflatten_dict(flat)
