"""Writing files whole or not at all."""

import os
import pathlib
from collections.abc import Callable


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
