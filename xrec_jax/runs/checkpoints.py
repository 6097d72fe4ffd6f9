"""States of one phase on disk, by Orbax: whole or not at all, the newest few kept.

A phase restores its newest state into the shape of a fresh one, goes on from there, and saves under
the number of steps done. What is restored has the shardings of the fresh state, so a run may go on
with another mesh. A state that cannot be read is put aside (`damaged/`), and the one before is taken.

Over several processes each writes what lies on its devices. What a process has for itself (a predictor that all train
alike) is saved once, and comes back to each.
"""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
import orbax.checkpoint as ocp

from xrec_jax.errors import UserError
from xrec_jax.parallel import distributed, sharding
from xrec_jax.runs import files, progress


class Checkpoints:
    """The checkpoints of one phase; close it (or use `with`) so that the last one is on disk."""

    def __init__(self, directory: files.Path, keep: int = 2):
        self.directory = directory
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(
            directory if files.is_remote(directory) else directory.absolute(), options=options)

    def restore(self, fresh: Any) -> tuple[int, Any]:
        """(steps done, state): the newest one that can be read, or (0, `fresh`) where there is none."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _everywhere(fresh))
        for step in sorted(self._manager.all_steps(), reverse=True):
            state, said = None, ''
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            # What Orbax and TensorStore raise for files that are missing, cut off or of other contents.
            except (ValueError, KeyError, OSError) as error:
                said = _first_line(error)
            if not distributed.any_of(state is None):
                return step, _as_before(state, fresh)
            self._put_aside(step, said or 'as another process says')
        return 0, fresh

    def save(self, step: int, state: Any) -> None:
        """Saves `state`, in the background: the previous save is waited for."""
        self._manager.save(step, args=ocp.args.StandardSave(_everywhere(state)))
        self._manager.check_for_errors()

    def _put_aside(self, step: int, why: str) -> None:
        aside = self.directory / 'damaged' / str(step)
        progress.warn(f'{self.directory / str(step)} is damaged or of another version ({why}); it is '
                      f'put aside as {aside}, and the run goes on from the state before it')
        if distributed.is_main():
            files.remove_tree(aside)
            files.move_tree(self.directory / str(step), aside)
        distributed.barrier(f'{self.directory}-aside-{step}')
        self._manager.reload()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind, *unused) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
        if kind is None:
            distributed.barrier(f'{self.directory}-closed')


def read(directory: files.Path, fresh: Any) -> tuple[int, Any]:
    """(steps done, state) of the newest checkpoint, in the shape of `fresh`, with nothing changed on disk.

    Of one process alone. UserError where there is none, or it cannot be read.
    """
    if not directory.exists():
        raise UserError(f'{directory} does not exist: the run has lost its checkpoints, or never came to them.')
    place = directory if files.is_remote(directory) else directory.absolute()
    with ocp.CheckpointManager(place, options=ocp.CheckpointManagerOptions(create=False)) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f'{directory} holds no checkpoint.')
        try:
            return step, manager.restore(step, args=ocp.args.StandardRestore(
                jax.tree.map(ocp.utils.to_shape_dtype_struct, fresh)))
        except (ValueError, KeyError, OSError) as error:  # as in `Checkpoints.restore`
            raise UserError(f'{directory / str(step)} is damaged or of another version ({_first_line(error)}); the '
                            'train command of the run makes it anew.') from error


def _everywhere(state: Any) -> Any:
    """`state` as global arrays: with several processes, what each has for itself as copies on all devices."""
    if jax.process_count() == 1:
        return state
    whole = NamedSharding(jax.make_mesh((jax.device_count(),), ('all',)), PartitionSpec())
    return jax.tree.map(lambda x: sharding.put(x, whole) if _is_own(x) else x, state)


def _is_own(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _as_before(state: Any, fresh: Any) -> Any:
    """`state` where `fresh` lies."""
    if jax.process_count() == 1:
        return state

    def own(x, like):
        if not _is_own(like):
            return x
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(own(jax.random.key_data(x), like), impl=jax.random.key_impl(x))
        value = x.addressable_data(0)
        return jax.numpy.asarray(jax.device_get(value))

    return jax.tree.map(own, state, fresh)


def _first_line(error: Exception) -> str:
    return (str(error).strip().split('\n')[0] or type(error).__name__)[:200]
