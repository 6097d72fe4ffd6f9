"""Writing files: whole or not at all, by one process, on a disk or in a bucket.

Everything that a run leaves goes through here (checkpoints: Orbax, which does the same). A path is a `pathlib.Path`,
or, of a place with "://" in its name (gs://BUCKET/RUN), an `epath.Path`, which has the same methods.

  `as_path`       what a user wrote → a path
  `write_whole`   a file: on a disk written beside its place and renamed to it. An object in a bucket appears when all
                  of it is there, so it is written on this machine, and sent
  `folder`        the same for several files, of libraries that know of disks alone; `mirror`, while they are written
  `append`        a line to a file. Objects cannot grow: in a bucket all of it is sent again
  `read_table`    a Parquet file
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence

from etils import epath
import pyarrow as pa
import pyarrow.parquet as pq

from xrec_jax.errors import UserError

Path = pathlib.Path | epath.Path

_writes = True


def set_writer(flag: bool) -> None:
    """Whether this is the process that writes what all of them have."""
    global _writes
    _writes = flag


def as_path(place: str | os.PathLike) -> Path:
    """'~/runs/a' or 'gs://bucket/runs/a' as a path; UserError where a package for such a bucket is missing."""
    text = os.fspath(place)
    if '://' not in text:
        return pathlib.Path(text).expanduser()
    for package in _packages(text.split('://')[0]):
        if not importlib.util.find_spec(package):
            raise UserError(f'{text}: reading and writing there needs a package: pip install {package}')
    return epath.Path(text)


def _packages(scheme: str) -> tuple[str, ...]:
    """What `epath` needs for buckets of that kind."""
    return {'gs': ('gcsfs',), 's3': ('s3fs',), 'az': ('adlfs',)}.get(scheme, ())


def is_remote(path: Path) -> bool:
    return '://' in os.fspath(path)


def write_whole(path: Path, write: Callable[[pathlib.Path], None], everywhere: bool = False) -> None:
    """Calls `write` with a temporary path, then gives what it wrote its place at `path`.

    Done by the process that writes, unless `everywhere`: for files that each process has its own of.
    """
    if not (_writes or everywhere):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = pathlib.Path(folder) / path.name
            write(partial)
            path.write_bytes(partial.read_bytes())
        return
    partial = path.with_name(path.name + '.partial')
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[pathlib.Path]:
    """A folder on this machine to write files into: `path`, or for a bucket another one, whose files are sent at the
    end."""
    local, send = mirror(path)
    yield local
    send()


def mirror(path: Path, everywhere: bool = False) -> tuple[pathlib.Path, Callable[[], None]]:
    """A folder on this machine to write into for long, `path` itself where it can be; and what sends those of its files
    to a bucket that have changed since they were sent. `everywhere` as in `write_whole`."""
    if not is_remote(path):
        return path, lambda: None
    own, sent = tempfile.TemporaryDirectory(), {}
    local = pathlib.Path(own.name)

    def send(own=own) -> None:  # the folder lives as long as this function
        for file in sorted(local.rglob('*')):
            stamp = file.stat().st_size, file.stat().st_mtime_ns
            if file.is_file() and sent.get(file) != stamp:
                write_whole(path / file.relative_to(local), functools.partial(shutil.copyfile, file), everywhere)
                sent[file] = stamp

    return local, send


def append(path: Path, text: str) -> None:
    """Adds `text` to the end of a file, by the process that writes."""
    if not _writes:
        return
    if is_remote(path):
        path.write_text((path.read_text() if path.exists() else '') + text)
        return
    with open(path, 'a') as file:
        file.write(text)


def read_table(path: Path, filters: Sequence[tuple] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet table, or the columns and the rows of it that `pyarrow.parquet.read_table` picks."""
    with path.open('rb') as file:
        return pq.read_table(file, filters=filters, columns=columns)


def remove_tree(path: Path) -> None:
    """Removes a folder with all that is in it, if there is one."""
    if is_remote(path):
        if path.exists():
            path.rmtree()
    else:
        shutil.rmtree(path, ignore_errors=True)


def move_tree(source: Path, target: Path) -> None:
    """Moves a folder to where there is none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(source):
        source.rename(target)
    else:
        os.replace(source, target)
