"""Device arrays filled from files, piece by piece: no host ever holds a whole parameter.

  `Parameter`   one array to fill: its shape, its sharding, and where its values lie on disk
  `fill`        all of them, in the order of the files

All arrays are made first, of zeros, on their devices. A piece is the same part of every device's
slice: one layer's matrix (one expert's, where there are any), cut along the stored rows so that all
devices' parts together have at most `PIECE` numbers. A thread reads one piece ahead while another is
on its way to its device; each is written into its array in place (the array is donated).
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from xrec_jax.language.checkpoint_files import Stored
from xrec_jax.language.families.source import Source

PIECE = 2**23  # numbers; 16 MiB in bfloat16, of which malloc uses the same room again

Path = tuple[str, ...]
Shard = tuple[int, ...]  # the how-manieth slice along each axis


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An array [*stacked, *matrix] or [*stacked, width], and its places on disk."""

    shape: tuple[int, ...]
    source: Source
    stored: Mapping[tuple[int, ...], Stored]  # by index in the stacked axes
    sharding: NamedSharding | None  # None: on the default device

    @property
    def num_stacked(self) -> int:
        return self.source.stacked + self.source.per_expert

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of one device's slice."""
        return self.shape if self.sharding is None else self.sharding.shard_shape(self.shape)

    @property
    def turned(self) -> bool:
        """Whether a piece is put as it is stored, [out, in], and transposed on the device.

        An accelerator does so in no time. On CPU the runtime's copy of a transposed view is several
        times as fast as XLA's transposition.
        """
        return self.source.transposed and not self.on_cpu

    @property
    def on_cpu(self) -> bool:
        return 'cpu' == (jax.default_backend() if self.sharding is None
                         else self.sharding.mesh.devices.flat[0].platform)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Part of every device's slice of the parameter at `path`."""

    path: Path
    at: tuple[int, ...]  # where it begins in the slice
    shape: tuple[int, ...]  # its size there


def fill(parameters: Mapping[Path, Parameter], dtype: Any) -> dict[Path, jax.Array]:
    """The arrays in `dtype`, with their values from disk. Every process of the mesh has to call this."""
    # XLA on CPU writes a whole bfloat16 array anew for each piece, one of integers in place: bits go first.
    bits = dtype == jnp.bfloat16 and all(parameter.on_cpu for parameter in parameters.values())
    arrays = {path: _zeros(parameter.shape, jnp.uint16 if bits else dtype, parameter.sharding)()
              for path, parameter in parameters.items()}
    pieces = [piece for path, parameter in parameters.items() for piece in _pieces(path, parameter)]
    pieces.sort(key=lambda piece: _place_on_disk(parameters[piece.path], piece))
    for piece, blocks in _read_ahead(lambda piece: _read(parameters[piece.path], piece), pieces):
        parameter = parameters[piece.path]
        values = _put(parameter, piece, blocks)
        write = _writer(parameter.sharding, len(piece.shape), parameter.turned, bits)
        arrays[piece.path] = write(arrays[piece.path], values, np.asarray(piece.at, np.int32))
        arrays[piece.path].block_until_ready()  # else pieces pile up where the disk is faster than the bus
        del values, blocks
    return {path: _from_bits(array, parameters[path].sharding) if bits else array for path, array in arrays.items()}


@functools.cache
def _zeros(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding | None) -> Callable[[], jax.Array]:
    return jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=sharding)


def _pieces(path: Path, parameter: Parameter) -> Iterator[Piece]:
    local, stacked = parameter.local_shape, parameter.num_stacked
    # The axis along which stored rows lie. A host reads rows in full, and those of all its devices.
    axis = len(local) - 1 if parameter.source.transposed else stacked
    row = math.prod(parameter.source.stored_shape(parameter.shape[stacked:])[1:])
    most = max(1, PIECE // (row * (parameter.shape[axis] // local[axis])))
    step = -(-local[axis] // -(-local[axis] // most))  # parts of about equal size
    for place in itertools.product(*map(range, local[:stacked])):
        for start in range(0, local[axis], step):
            at, shape = [*place, *(0 for _ in local[stacked:])], [*(1 for _ in place), *local[stacked:]]
            at[axis], shape[axis] = start, min(step, local[axis] - start)
            yield Piece(path, tuple(at), tuple(shape))


def _place_on_disk(parameter: Parameter, piece: Piece) -> tuple:
    """File and offset for the first slice, so that all processes sort alike."""
    stored, (rows, *_) = _stored_part(parameter, piece, (0,) * len(piece.shape))
    return str(stored.file), stored.offset, rows.start, piece.path


def _stored_part(parameter: Parameter, piece: Piece, shard: Shard) -> tuple[Stored, tuple[slice, ...]]:
    """The tensor that a slice's part of a piece comes from, and which part of it."""
    starts = [number * size + at for number, size, at in zip(shard, parameter.local_shape, piece.at)]
    index = tuple(slice(start, start + size) for start, size in zip(starts, piece.shape))
    stacked = parameter.num_stacked
    stored = parameter.stored[tuple(starts[:stacked])]
    return stored, parameter.source.stored_index(parameter.shape[stacked:], index[stacked:])


def _layout(parameter: Parameter, piece: Piece) -> tuple[tuple[int, ...], NamedSharding | None]:
    """Shape and sharding of a piece of all slices, side by side, as it is put."""
    slices = [size // local for size, local in zip(parameter.shape, parameter.local_shape)]
    shape = _turn(parameter, [count * size for count, size in zip(slices, piece.shape)])
    if parameter.sharding is None:
        return shape, None
    spec = _turn(parameter, _whole_spec(parameter.sharding, len(shape)))
    return shape, NamedSharding(parameter.sharding.mesh, PartitionSpec(*spec))


def _turn(parameter: Parameter, sizes: Iterable) -> tuple:
    """What is said of our axes, said of those of a piece as it is put."""
    sizes = tuple(sizes)
    return (*sizes[:-2], sizes[-1], sizes[-2]) if parameter.turned else sizes


def _whole_spec(sharding: NamedSharding, ndim: int) -> tuple:
    return (*sharding.spec, *(None,) * (ndim - len(sharding.spec)))


def _read(parameter: Parameter, piece: Piece) -> dict[Shard, np.ndarray]:
    """What the slices on this host's devices get, as it is put (views of what was read)."""
    shape, sharding = _layout(parameter, piece)
    if sharding is None:
        shards = [(0,) * len(shape)]
    else:
        indices = sharding.addressable_devices_indices_map(shape).values()
        shards = sorted({_shard(parameter, piece, index) for index in indices})
    rows_read, blocks = {}, {}
    for shard in shards:
        stored, (rows, *columns) = _stored_part(parameter, piece, shard)
        key = stored.name, rows.start, rows.stop
        if key not in rows_read:
            rows_read[key] = stored.read(rows.start, rows.stop)
        block = rows_read[key][:, columns[0]] if columns else rows_read[key]
        if parameter.source.transposed and not parameter.turned:
            block = block.T
        blocks[shard] = block[(None,) * parameter.num_stacked]
    return blocks


def _shard(parameter: Parameter, piece: Piece, index: tuple[slice, ...]) -> Shard:
    """The slice that `index` of the whole piece, as it is put, belongs to."""
    return tuple((part.start or 0) // size for part, size in zip(_turn(parameter, index), piece.shape))


def _put(parameter: Parameter, piece: Piece, blocks: Mapping[Shard, np.ndarray]) -> jax.Array:
    shape, sharding = _layout(parameter, piece)
    if sharding is None:
        return jax.device_put(*blocks.values())
    return jax.make_array_from_callback(shape, sharding, lambda index: blocks[_shard(parameter, piece, index)])


@functools.cache
def _writer(sharding: NamedSharding | None, ndim: int, turned: bool, bits: bool) -> Callable[..., jax.Array]:
    """(array, piece, where it begins in each slice) → the array, written in place."""

    def write(array, values, at):
        values = values.swapaxes(-1, -2) if turned else values
        if bits:
            values = jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)
        return jax.lax.dynamic_update_slice(array, values.astype(array.dtype), tuple(at))

    if sharding is not None:
        spec = _whole_spec(sharding, ndim)
        put = (*spec[:-2], spec[-1], spec[-2]) if turned else spec
        write = jax.shard_map(write, mesh=sharding.mesh, out_specs=PartitionSpec(*spec), check_vma=False,
                              in_specs=(PartitionSpec(*spec), PartitionSpec(*put), PartitionSpec()))
    return jax.jit(write, donate_argnums=0)


def _from_bits(array: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """uint16 on CPU as bfloat16, in the same memory (a jitted bitcast would write it anew)."""
    if sharding is None:
        return jax.device_put(np.asarray(array).view(jnp.bfloat16))
    slices = [jax.device_put(np.asarray(shard.data).view(jnp.bfloat16), shard.device)
              for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, slices)


def _read_ahead(read: Callable[[Piece], Any], pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Any]]:
    """Each piece with what `read` makes of it; the next one is read in a thread meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = collections.deque()
        for piece in pieces:
            waiting.append((piece, pool.submit(read, piece)))
            if len(waiting) > 1:
                piece, future = waiting.popleft()
                yield piece, future.result()
                del future
        for piece, future in waiting:
            yield piece, future.result()
