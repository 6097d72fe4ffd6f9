"""From logical axes to shardings: the one table, and how arrays are put where it says.

Modules name what an axis *is* (`embed`, `heads`, `mlp`, …); `RULES` says which mesh axis it lies on.
An axis that a mesh axis does not divide stays whole. Adapters, heads and optimizer state are small
and are copied to every device.
"""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xrec_jax.errors import UserError

RULES = {
    'batch': ('data', 'fsdp'),
    'embed': 'fsdp',
    'heads': 'tensor',
    'kv_heads': 'tensor',
    'head_dim': None,
    'mlp': 'tensor',
    'vocab': 'tensor',
    'layers': None,
    'users': 'fsdp',
    'items': 'fsdp',
}
BATCH = PartitionSpec(RULES['batch'])


def param_shardings(abstract_params: Any, mesh: Mesh) -> Any:
    """The NamedSharding of each parameter; `abstract_params` carries logical axes (boxed shapes)."""

    def sharding(box):
        names = box.names if isinstance(box, nn.Partitioned) else ()
        shape = nn.unbox(box).shape
        used, axes = set(), []
        for name, size in zip(names, shape):
            if name is not None and name not in RULES:
                raise ValueError(f'logical axis "{name}" is not in RULES')
            axis = RULES[name] if name is not None else None
            if axis is not None and axis in used:
                raise ValueError(f'two axes of a {names} parameter lie on mesh axis "{axis}"')
            axis = axis if axis is not None and size % mesh.shape[axis] == 0 else None
            used.add(axis)
            axes.append(axis)
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(sharding, abstract_params, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def place_params(params: Any, abstract_params: Any, mesh: Mesh) -> Any:
    """Puts parameters where `RULES` wants them."""
    return jax.device_put(params, param_shardings(abstract_params, mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a whole copy of every leaf on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def place_batch(tree: Any, mesh: Mesh) -> Any:
    """Splits the first axis of every leaf over the batch axes of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, BATCH))


def batch_shards(mesh: Mesh) -> int:
    """How many parts a batch is split into."""
    return int(np.prod([mesh.shape[axis] for axis in RULES['batch']]))


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """UserError where a batch of `size` (of config key `name`) cannot be split evenly."""
    if size % batch_shards(mesh):
        raise UserError(f'{name}={size} must be a multiple of {batch_shards(mesh)}, the devices that share a '
                        'batch (mesh axes data and fsdp).')
