"""From logical axes to shardings: the rules, and how arrays are put where they say.

Modules name what an axis *is* (`embed`, `heads`, `mlp`, …); a rules table says which mesh axis it lies on:

  `RULES`          parameters, and activations of whole sequences (training, scoring, prefill)
  `DECODE_RULES`   activations of one new token a row

  `partition`            names and shape → PartitionSpec; `param_shardings`, of a tree of parameters
  `learner_shardings`    of adapters and optimizer state, derived from the base weights'
  `constrain`            inside a model: where an activation lies
  `check_heads`, `check_batch`, `check_sharded`: refusals, before long work starts

An axis that a mesh axis does not divide stays whole, and one that holds attention heads is never cut
inside a head. Key-value heads fewer than `tensor` are copied in groups: see `kv_copies`.

Decoding. With whole sequences the matrices of a layer are gathered over `fsdp` as the layer is used:
bytes of weights, paid once for thousands of tokens. A single new token a row would pay them each time,
so `DECODE_RULES` leave the weights where they lie and move the activations, which are thousands of
times smaller (the "weight-stationary 2D" layout of Pope et al. 2022, arXiv 2211.05102): the residual
stream is split over `fsdp` by width, not by rows, and each matrix multiplies what its device holds.
Each device then reads 1 / (fsdp · tensor) of the weights a token. There is no second copy of the
parameters, so this needs no setting. Attention and its cache are split by rows and heads in both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

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
    'experts': None,
    'positions': None,
    'users': 'fsdp',
    'items': 'fsdp',
    'ids': 'fsdp',  # rows of a predictor's one table: users, items, values of their fields
    # The residual stream, [rows, sequence, width].
    'rows': ('data', 'fsdp'),
    'width': None,
}
DECODE_RULES = RULES | {'rows': 'data', 'width': 'fsdp'}
BATCH = PartitionSpec(RULES['batch'])
WHOLE_SHARE = 0.05  # of the bytes of parameters, that may lie whole on every device

AnyMesh = Mesh | AbstractMesh


def partition(names: Sequence[str | None], shape: Sequence[int], mesh: AnyMesh,
              rules: Mapping[str, Any] = RULES, units: Mapping[str, int] | None = None) -> PartitionSpec:
    """Where an array of `shape` lies, whose axes are called `names` (None: whole).

    Args:
      units: logical axis → number of parts that may not be cut (attention heads), where that is not
        the axis's length.

    Raises:
      ValueError: a name that is not in `rules`, or two axes on one mesh axis.
    """
    used, spec = set(), []
    for name, size in zip(names, shape, strict=True):
        if name is not None and name not in rules:
            raise ValueError(f'logical axis "{name}" is not in the rules')
        wanted = rules[name] if name is not None else None
        kept, parts = [], (units or {}).get(name, size)
        for axis in (wanted,) if isinstance(wanted, str) else wanted or ():
            if axis in used:
                raise ValueError(f'two axes of an array {tuple(names)} lie on mesh axis "{axis}"')
            used.add(axis)
            shards = mesh.shape[axis]
            # A batch that data and fsdp together do not divide may still be split over data.
            if size % shards == 0 and parts % shards == 0:
                size, parts = size // shards, parts // shards
                kept.append(axis)
            else:
                break
        spec.append((kept[0] if len(kept) == 1 else tuple(kept)) if kept else None)
    return PartitionSpec(*spec)


def param_shardings(abstract_params: Any, mesh: AnyMesh, units: Mapping[str, int] | None = None) -> Any:
    """The NamedSharding of each parameter by `RULES`; `abstract_params` carries logical axes (boxed shapes).

    `units` as in `partition`: `DecoderConfig.units` for a decoder.
    """

    def sharding(box):
        names = box.names if isinstance(box, nn.Partitioned) else ()
        shape = nn.unbox(box).shape
        return NamedSharding(mesh, partition(names, shape[:len(names)], mesh, units=units))

    return jax.tree.map(sharding, abstract_params, is_leaf=_is_box)


def stacked(shardings: Any) -> Any:
    """Of arrays of several seeds [S, ...], which lie as those of one seed do."""
    return jax.tree.map(lambda one: NamedSharding(one.mesh, PartitionSpec(None, *one.spec)), shardings)


def learner_shardings(tree: Any, abstract_params: Any, mesh: AnyMesh, units: Mapping[str, int] | None = None) -> Any:
    """Shardings of what is trained beside frozen base weights: adapters, heads, their optimizer state.

    A LoRA pair lies as its matrix does: A [..., in, r] is split as the matrix's input, B [..., r, out]
    as its output, and so are moments of the same shape, under whatever keys they stand. All else is
    small and is copied to every device.
    """
    modules = {path[:-1]: box for path, box in flax.traverse_util.flatten_dict(abstract_params).items()
               if path[-1] == 'kernel' and isinstance(box, nn.Partitioned)}

    def sharding(path, leaf):
        keys = tuple(getattr(key, 'key', None) for key in path)
        module = next((keys[start:-1] for start in range(len(keys)) if keys[start:-1] in modules), None)
        if module is None or keys[-1] not in ('a', 'b'):
            return NamedSharding(mesh, PartitionSpec())
        *stacked, fan_in, fan_out = modules[module].names
        names = (*stacked, fan_in, None) if keys[-1] == 'a' else (*stacked, None, fan_out)
        # Counted from the right: adapters may be stacked (several seeds), base weights are not.
        names = (None,) * (leaf.ndim - len(names)) + names
        return NamedSharding(mesh, partition(names, leaf.shape, mesh, units=units))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def place_params(params: Any, abstract_params: Any, mesh: Mesh, units: Mapping[str, int] | None = None) -> Any:
    """Puts parameters where `RULES` want them; UserError as in `check_sharded`."""
    shardings = param_shardings(abstract_params, mesh, units)
    check_sharded(abstract_params, shardings, units)
    return put(params, shardings)


def place_learner(tree: Any, abstract_params: Any, mesh: Mesh, units: Mapping[str, int] | None = None) -> Any:
    """Puts adapters, heads and optimizer state beside the base weights: see `learner_shardings`."""
    return put(tree, learner_shardings(tree, abstract_params, mesh, units))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a whole copy of every leaf on every device."""
    return put(tree, NamedSharding(mesh, PartitionSpec()))


def place_batch(tree: Any, mesh: Mesh) -> Any:
    """Splits the first axis of every leaf over the batch axes of the mesh."""
    return put(tree, NamedSharding(mesh, BATCH))


def put(tree: Any, shardings: Any) -> Any:
    """`jax.device_put`, and over several processes the same of values that all of them have.

    Each puts what lies on its own devices; JAX would first compare the values of all.
    """

    def one(x, to: Sharding):
        here = not isinstance(x, jax.Array) or x.is_fully_addressable
        if to.is_fully_addressable or not here:
            return jax.device_put(x, to)
        if jax.dtypes.issubdtype(getattr(x, 'dtype', None), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x), to), impl=jax.random.key_impl(x))
        value = np.asarray(x)
        return jax.make_array_from_callback(value.shape, to, lambda index: value[index])

    if isinstance(shardings, Sharding):
        return jax.tree.map(lambda x: one(x, shardings), tree)
    return jax.tree.map(one, tree, shardings)


def constrain(x: jax.Array, names: Sequence[str | None], mesh: Mesh | None,
              rules: Mapping[str, Any] = RULES) -> jax.Array:
    """Says inside a jitted function where an activation lies; `x` itself without a mesh or on one device.

    The mesh is an argument, not a context: what jit compiled for one mesh is then never used on another.
    """
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition(names, x.shape, mesh, rules)))


def constrain_residual(x: jax.Array, mesh: Mesh | None, decoding: bool) -> jax.Array:
    """The residual stream [B, S, D], or of one token a row [B, D]: by rows, or by width for decoding."""
    names = ('rows', *(None,) * (x.ndim - 2), 'width')
    return constrain(x, names, mesh, DECODE_RULES if decoding else RULES)


def look_up(table: jax.Array, tokens: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Rows of an embedding table [V, D] for tokens [B, S] → [B, S, D], split by width as the table is.

    Tokens travel, not the table: each device looks up its columns for all rows of its `data` shard.
    """
    tokens = constrain(tokens, ('rows', None), mesh, DECODE_RULES)
    return constrain_residual(jnp.take(table, tokens, axis=0), mesh, decoding=True)


def spread_kv_heads(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Keys or values [B, kv heads, S, d], each head repeated `kv_copies` times and put on its shard."""
    if mesh is None or mesh.size == 1:
        return x
    return constrain(jnp.repeat(x, kv_copies(x.shape[1], mesh), axis=1), ('batch', 'kv_heads', None, None), mesh)


def kv_copies(num_kv_heads: int, mesh: AnyMesh | None) -> int:
    """How often keys and values are repeated so that each `tensor` shard holds the kv heads it reads.

    2 kv heads on tensor=4 → 2: each kv head lies on two devices, next to its query heads, and each device
    holds one of the cache's heads. 1 where there are as many kv heads as shards, or more.
    """
    return 1 if mesh is None else max(1, mesh.shape['tensor'] // num_kv_heads)


def legal_tensor(num_heads: int, num_kv_heads: int) -> list[int]:
    """The sizes of mesh axis `tensor` that cut no head: divisors of the heads, with whole groups of kv heads."""
    return [size for size in range(1, num_heads + 1)
            if num_heads % size == 0 and (num_kv_heads % size == 0 or size % num_kv_heads == 0)]


def check_heads(num_heads: int, num_kv_heads: int, mesh: AnyMesh) -> None:
    """UserError where mesh axis `tensor` would cut attention heads; it names the legal sizes."""
    legal, size = legal_tensor(num_heads, num_kv_heads), mesh.shape['tensor']
    if size not in legal:
        raise UserError(f'mesh: tensor={size} does not fit {num_heads} heads and {num_kv_heads} kv heads, which are '
                        f'never cut; legal sizes: {", ".join(map(str, legal))}.')


def check_sharded(abstract_params: Any, shardings: Any, units: Mapping[str, int] | None = None) -> None:
    """UserError where much of the parameters lies whole on every device of a mesh that is to split them.

    More than `WHOLE_SHARE` of their bytes; the message names the largest. Keys and values that are copied
    in groups (`kv_copies`) are meant to be whole, and do not count.
    """
    boxes = jax.tree_util.tree_leaves_with_path(abstract_params, is_leaf=_is_box)
    total, whole = 0, []
    for (path, box), sharding in zip(boxes, jax.tree.leaves(shardings), strict=True):
        shape, names = nn.unbox(box), box.names if isinstance(box, nn.Partitioned) else ()
        size = int(np.prod(shape.shape)) * shape.dtype.itemsize
        total += size
        mesh = sharding.mesh
        grouped = 'kv_heads' in names and units and mesh.shape['tensor'] % units['kv_heads'] == 0
        if _parts(mesh) > 1 and not grouped and sharding.shard_shape(shape.shape) == shape.shape:
            whole.append((size, jax.tree_util.keystr(path, simple=True, separator='/'), shape.shape))
    if sum(size for size, _, _ in whole) > WHOLE_SHARE * total:
        share, (size, name, shape) = sum(size for size, _, _ in whole) / total, max(whole)
        raise UserError(
            f'mesh: fsdp={mesh.shape["fsdp"]}, tensor={mesh.shape["tensor"]} leaves {share:.0%} of the bytes of '
            f'parameters whole on every device, most of it {name} {list(shape)} ({size / 2**20:.1f} MiB): fsdp should '
            'divide the width of the model, tensor its heads, its MLP width and its vocabulary.')


def batch_shards(mesh: AnyMesh) -> int:
    """How many parts a batch is split into."""
    return int(np.prod([mesh.shape[axis] for axis in RULES['batch']]))


def check_batch(name: str, size: int, mesh: AnyMesh) -> None:
    """UserError where a batch of `size` (of config key `name`) cannot be split evenly."""
    if size % batch_shards(mesh):
        raise UserError(f'{name}={size} must be a multiple of {batch_shards(mesh)}, the devices that share a '
                        'batch (mesh axes data and fsdp).')


def _parts(mesh: AnyMesh) -> int:
    """Over how many devices a parameter may be split."""
    return mesh.shape['fsdp'] * mesh.shape['tensor']


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)
