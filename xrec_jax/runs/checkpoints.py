"""States of one phase on disk, by Orbax: whole or not at all, the newest few kept.

A phase restores its newest state into the shape of a fresh one, goes on from there, and saves under
the number of steps done. What is restored has the shardings of the fresh state, so a run may go on
with another mesh.
"""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from xrec_jax.errors import UserError


class Checkpoints:
    """The checkpoints of one phase; close it (or use `with`) so that the last one is on disk."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        self.directory = directory
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def restore(self, fresh: Any) -> tuple[int, Any]:
        """(steps done, state): the newest one, or (0, `fresh`) where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return 0, fresh
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, fresh)
        try:
            return step, self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, FileNotFoundError) as error:
            raise UserError(f'{self.directory / str(step)} is damaged or of another version ({error}). Delete '
                            'that folder; the run goes on from the state before it.') from error

    def save(self, step: int, state: Any) -> None:
        """Saves `state`, in the background: the previous save is waited for."""
        self._manager.save(step, args=ocp.args.StandardSave(state))
        self._manager.check_for_errors()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *unused) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
