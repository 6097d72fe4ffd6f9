"""Device arrays filled from files, piece by piece: no host ever holds a whole parameter beside them.

  `Parameter`   one array to fill: its shape, its sharding, and where its values lie on disk
  `fill`        all of them, in the order of the files

A piece is the same part of every device's slice: one layer's matrix (one expert's, where there are
any), cut along the stored rows. Several threads read pieces at once, as disks like it.

On CPU a device's memory is the host's: slices are NumPy arrays, each piece goes from where it was read
straight to its place in them, and in the end JAX takes them as they lie. On accelerators arrays are made
first, of zeros; pieces are read ahead while others are on their way, and written in place on the device.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from xrec_jax.language.checkpoint_files import Stored
from xrec_jax.language.families.source import Source

READERS = 4  # threads
PIECE = 2**23  # numbers of a piece that goes to accelerators: 16 MiB in bfloat16
BLOCK = 2**21  # numbers of a piece that stays on the host, and in its cache
LINE = 64  # bytes of a line of the cache; XLA asks for as much of an array's beginning

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

    @functools.cached_property
    def placed(self) -> dict[jax.Device | None, Shard]:
        """Which slice each of this host's devices gets."""
        if self.sharding is None:
            return {None: (0,) * len(self.shape)}
        indices = self.sharding.addressable_devices_indices_map(self.shape)
        return {device: tuple((part.start or 0) // size for part, size in zip(index, self.local_shape))
                for device, index in indices.items()}

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
    on_host = all(parameter.on_cpu for parameter in parameters.values())
    pieces = pieces_in_order(parameters, BLOCK if on_host else PIECE)
    return (_fill_on_host if on_host else _fill_on_devices)(parameters, pieces, np.dtype(dtype))


# ------------------------------------------------------------------------------------ on the host


def _fill_on_host(parameters: Mapping[Path, Parameter], pieces: list[Piece], dtype: np.dtype) -> dict[Path, jax.Array]:
    slices = {path: {shard: _aligned(parameter.local_shape, dtype) for shard in parameter.placed.values()}
              for path, parameter in parameters.items()}
    bits = np.dtype(f'u{dtype.itemsize}')  # NumPy is slower with numbers that are not its own
    as_stored, as_wanted = _Scratch(), _Scratch()

    def read(stored: Stored, start: int, stop: int) -> np.ndarray:
        values = stored.read(start, stop, as_stored.empty)
        if values.dtype == dtype:
            return values.view(bits)
        cast = as_wanted.empty(values.shape, dtype)
        cast[...] = values  # here, where they lie side by side, ten times faster than on the way to their place
        return cast.view(bits)

    def copy(piece: Piece) -> None:
        stacked = parameters[piece.path].num_stacked
        index = tuple(slice(start, start + size) for start, size in zip(piece.at, piece.shape))
        for shard, block in _read(parameters[piece.path], piece, read):
            slices[piece.path][shard].view(bits)[(*piece.at[:stacked], *index[stacked:])] = block

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        collections.deque(pool.map(copy, pieces), maxlen=0)  # raises the first error, and drops what waits
    return {path: _array(parameter.shape, parameter.sharding,
                         {device: slices[path][shard] for device, shard in parameter.placed.items()})
            for path, parameter in parameters.items()}


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that begins where JAX on CPU takes it as its own, without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start:start + size].view(dtype).reshape(shape)


class _Scratch(threading.local):
    """Room that a thread reads into again and again; fresh memory would cost as much as reading."""

    room = np.empty(0, np.uint8)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """As `np.empty`, until the next call; rows of matrices lie a line of the cache apart.

        Rows are often multiples of 4 KiB long. Side by side, their numbers of one column would share a
        few places of the cache and drive each other out when a matrix is turned over: four times slower.
        """
        row = math.prod(shape[1:]) * dtype.itemsize
        stride = row + LINE if len(shape) > 1 else row
        if len(self.room) < shape[0] * stride:
            self.room = np.empty(shape[0] * stride, np.uint8)
        strides = (stride, *np.empty((1, *shape[1:]), dtype).strides[1:])
        return np.ndarray(shape, dtype, self.room, strides=strides)


# ------------------------------------------------------------------------------------ on accelerators


def _fill_on_devices(parameters: Mapping[Path, Parameter], pieces: list[Piece],
                     dtype: np.dtype) -> dict[Path, jax.Array]:
    arrays = {path: _zeros(parameter.shape, dtype, parameter.sharding)() for path, parameter in parameters.items()}
    for piece, blocks in _read_ahead(lambda piece: dict(_read(parameters[piece.path], piece, Stored.read)), pieces):
        parameter = parameters[piece.path]
        values = _put(parameter, piece, blocks)
        write = _writer(parameter.sharding, len(piece.shape), parameter.source.transposed)
        arrays[piece.path] = write(arrays[piece.path], values, np.asarray(piece.at, np.int32))
        arrays[piece.path].block_until_ready()  # else pieces pile up where the disk is faster than the bus
        del values, blocks
    return arrays


@functools.cache
def _zeros(shape: tuple[int, ...], dtype: np.dtype, sharding: NamedSharding | None) -> Callable[[], jax.Array]:
    return jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=sharding)


def _put(parameter: Parameter, piece: Piece, blocks: Mapping[Shard, np.ndarray]) -> jax.Array:
    """A piece of all slices, side by side, on their devices; matrices as they are stored, for the device turns
    them over in no time."""
    turned, stacked = parameter.source.transposed, (None,) * parameter.num_stacked
    slices = [size // local for size, local in zip(parameter.shape, parameter.local_shape)]
    shape = _turn([count * size for count, size in zip(slices, piece.shape)], turned)
    sharding = parameter.sharding
    if sharding is not None:
        spec = _turn(_whole_spec(sharding, len(shape)), turned)
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return _array(shape, sharding, {device: (blocks[shard].T if turned else blocks[shard])[stacked]
                                    for device, shard in parameter.placed.items()})


@functools.cache
def _writer(sharding: NamedSharding | None, ndim: int, turned: bool) -> Callable[..., jax.Array]:
    """(array, piece as it is put, where it begins in each slice) → the array, written in place."""

    def write(array, values, at):
        values = values.swapaxes(-1, -2) if turned else values
        return jax.lax.dynamic_update_slice(array, values.astype(array.dtype), tuple(at))

    if sharding is not None:
        spec = _whole_spec(sharding, ndim)
        write = jax.shard_map(write, mesh=sharding.mesh, out_specs=PartitionSpec(*spec), check_vma=False,
                              in_specs=(PartitionSpec(*spec), PartitionSpec(*_turn(spec, turned)), PartitionSpec()))
    return jax.jit(write, donate_argnums=0)


def _turn(sizes: Iterable, turned: bool) -> tuple:
    """What is said of our axes, said of those of a piece as it is put."""
    sizes = tuple(sizes)
    return (*sizes[:-2], sizes[-1], sizes[-2]) if turned else sizes


def _whole_spec(sharding: NamedSharding, ndim: int) -> tuple:
    return (*sharding.spec, *(None,) * (ndim - len(sharding.spec)))


def _read_ahead(read: Callable[[Piece], Any], pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Any]]:
    """Each piece with what `read` makes of it; the next ones are read in threads meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        waiting = collections.deque()
        for piece in pieces:
            waiting.append((piece, pool.submit(read, piece)))
            if len(waiting) > READERS:
                piece, future = waiting.popleft()
                yield piece, future.result()
                del future
        for piece, future in waiting:
            yield piece, future.result()


# ------------------------------------------------------------------------------------ pieces


def pieces_in_order(parameters: Mapping[Path, Parameter], numbers: int) -> list[Piece]:
    """All pieces, of at most `numbers` of all slices together, as they lie on disk."""
    pieces = [piece for path, parameter in parameters.items() for piece in _pieces(path, parameter, numbers)]
    return sorted(pieces, key=lambda piece: _place_on_disk(parameters[piece.path], piece))


def _pieces(path: Path, parameter: Parameter, numbers: int) -> Iterator[Piece]:
    local, stacked = parameter.local_shape, parameter.num_stacked
    # The axis along which stored rows lie. A host reads rows in full, and those of all its devices.
    axis = len(local) - 1 if parameter.source.transposed else stacked
    row = math.prod(parameter.source.stored_shape(parameter.shape[stacked:])[1:])
    most = max(1, numbers // (row * (parameter.shape[axis] // local[axis])))
    step = -(-local[axis] // -(-local[axis] // most))
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


def _read(parameter: Parameter, piece: Piece,
          read: Callable[[Stored, int, int], np.ndarray]) -> Iterator[tuple[Shard, np.ndarray]]:
    """What each slice on this host's devices gets: views of the rows that `read` returns."""
    parts = {}
    for shard in sorted(set(parameter.placed.values())):
        stored, (rows, *columns) = _stored_part(parameter, piece, shard)
        parts.setdefault((stored, rows.start, rows.stop), []).append((shard, columns))
    for (stored, start, stop), of_shards in parts.items():
        values = read(stored, start, stop)
        for shard, columns in of_shards:
            block = values[:, columns[0]] if columns else values
            yield shard, block.T if parameter.source.transposed else block


def _array(shape: tuple[int, ...], sharding: NamedSharding | None,
           slices: Mapping[jax.Device | None, np.ndarray]) -> jax.Array:
    """One array of its slices on this host's devices."""
    if sharding is None:
        return jax.device_put(slices[None])
    return jax.make_array_from_single_device_arrays(
        shape, sharding, [jax.device_put(values, device) for device, values in slices.items()])
