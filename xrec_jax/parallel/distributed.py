"""Several processes as one program: who they are, what each holds, how they meet.

`initialize` is called once, by the entry points, before anything touches a device. Afterwards `jax.devices()` are
those of all processes, and every process runs the same program on the same global arrays.

  of a batch       a process makes the rows that lie on its devices (`rows_here`), hands them in (`place_rows`) and gets
                   back what was computed of them (`part_here`): texts are made, read and written where their rows lie
  of all           `whole`: an array on every host, for what is small
  of one           process 0 prints and writes (`cli.join_processes`); the others wait for it where they read what it
                   wrote (`barrier`, `main_first`)

With one process all of this is what NumPy and `jax.device_put` do.
"""

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.parallel import sharding

SETTING = 'XREC_DISTRIBUTED'
METHODS = {'tpu': None, 'slurm': 'slurm'}  # JAX's own detection; None: it looks for a TPU's environment by itself
PATIENCE = 120  # seconds that a process which has failed waits for the others to end, before it leaves them
ADDRESS, COUNT, INDEX = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes where the environment says that there are any.

    By `XREC_DISTRIBUTED`: 'tpu' or 'slurm', what the launch scripts set; 'off'. Without it, by
    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. A process that none of these
    speaks of is alone.

    Raises UserError for an unknown setting, or where the three are not all given.
    """
    setting = environment.get(SETTING, '')
    if setting not in ('', 'off', *METHODS):
        raise UserError(f'{SETTING}={setting} should be one of off, {", ".join(METHODS)}.'
                        f'{nearest(setting, ("off", *METHODS))}')
    given = [name for name in (ADDRESS, COUNT, INDEX) if environment.get(name)]
    if setting == 'off' or not setting and not given:
        return
    # Its handler of SIGTERM would take the place of ours (`runs.preemption`).
    jax.config.update('jax_enable_preemption_service', False)
    if setting:
        jax.distributed.initialize(cluster_detection_method=METHODS[setting], shutdown_timeout_seconds=PATIENCE)
    else:
        if len(given) < 3:
            raise UserError(f'{", ".join(given)} given, but not all of {ADDRESS}, {COUNT}, {INDEX}.')
        try:
            count, index = int(environment[COUNT]), int(environment[INDEX])
        except ValueError:
            raise UserError(f'{COUNT}={environment[COUNT]} and {INDEX}={environment[INDEX]} should be whole numbers.'
                            ) from None
        if not 0 <= index < count:
            raise UserError(f'{INDEX}={index} should be from 0 to {count - 1}: {COUNT} is {count}.')
        jax.distributed.initialize(environment[ADDRESS], count, index, shutdown_timeout_seconds=PATIENCE)


def is_main() -> bool:
    """Whether this is process 0, which prints and writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here; `name` is for the error where they are at different places."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process; all ask together."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def largest(number: int) -> int:
    """The largest of the processes' numbers: for shapes that must be the same on all."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def main_first(do: Callable[[], Any]) -> Any:
    """Runs `do` in process 0, then in the others, which see what it wrote. A UserError of process 0 ends them all."""
    if jax.process_count() == 1:
        return do()
    result, error = None, None
    if is_main():
        try:
            result = do()
        except UserError as raised:
            error = raised
    refused = any_of(error is not None)
    if error is not None:
        raise error
    if refused:
        raise UserError('process 0 has refused to go on; it says why.')
    return result if is_main() else do()


# ----------------------------------------------------------------------------------------- rows of a batch


def rows_here(mesh: Mesh, size: int) -> np.ndarray:
    """Which rows of a batch of `size` lie on the devices of this process, ascending; with one process all."""
    indices = NamedSharding(mesh, sharding.BATCH).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in indices]))


def place_rows(tree: Any, mesh: Mesh) -> Any:
    """Puts batches together on the mesh: every process hands in its `rows_here` of each leaf [B, ...]."""
    rows = NamedSharding(mesh, sharding.BATCH)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, np.asarray(x)), tree)


def part_here(tree: Any, mesh: Mesh) -> Any:
    """Of global arrays [B, ...] this process's `rows_here`, on the host; NumPy arrays are there already."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)

    def part(x):
        if isinstance(x, np.ndarray):
            return x
        x = jax.device_put(x, NamedSharding(mesh, sharding.BATCH))
        shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])

    return jax.tree.map(part, tree)


def whole(tree: Any) -> Any:
    """Arrays on every host, whole: for what is small."""

    def gathered(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(gathered, tree)


def num_distinct(texts: Sequence[str], mesh: Mesh) -> int:
    """How many different texts a batch has, of which every process hands in its rows."""
    if jax.process_count() == 1:
        return len(set(texts))
    codes = np.array([[zlib.crc32(text.encode()), zlib.adler32(text.encode())] for text in texts], np.uint32)
    return len(np.unique(whole(place_rows(codes, mesh)), axis=0))
