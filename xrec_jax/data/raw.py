"""A publisher's files as they ship: plain, gzipped, or still inside a zip or tar archive.

1. `RawFile`: where a file is and how to open it; `blocks` reads it as blocks of whole lines, one block
   ahead of whoever parses them, so that memory stays flat and decompression overlaps with parsing
2. `find`: files by name in a folder or in the archives that lie in it; nothing is ever unpacked
3. `BadRows`: what happens to a row that breaks its format: refuse the file, or count and pass over
"""

import contextlib
import dataclasses
import fnmatch
import gzip
import pathlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import BinaryIO

from xrec_jax.errors import UserError, nearest

BLOCK = 1 << 24  # bytes
MAX_LINE = 1 << 24
ARCHIVES = ('.zip', '.tar', '.tar.gz', '.tgz')


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole lines of a file: `data` ends with a line end, its first line is line number `line`."""

    line: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class RawFile:
    """One file; `label` names it in messages, `open` opens it for reading, decompressed."""

    label: str
    open: Callable[[], BinaryIO]
    unit: str = 'line'  # what messages count: 'row' where a file has no lines

    @property
    def name(self) -> str:
        return posixpath.basename(self.label)

    def read_bytes(self, limit: int = 1 << 31) -> bytes:
        """The whole content; UserError for a file that is missing, damaged or longer than `limit`."""
        with _told_plainly(self.label, lambda: ''), self.open() as stream:
            blocks, length = [], 0  # read(limit) would make room for all of it first
            while length <= limit and (block := stream.read(BLOCK)):
                blocks.append(block)
                length += len(block)
        if length > limit:
            raise UserError(f'{self.label}: is longer than {limit:,} bytes')
        return b''.join(blocks)

    def blocks(self, *, size: int = BLOCK, whole_lines: bool = False) -> Iterator[Block]:
        """Yields the file in blocks of about `size` bytes.

        `whole_lines` says that the publisher ends the last line too, so that a file without it is
        truncated; else a line end is added. Raises UserError, with the line, for a file that is missing,
        empty, truncated or damaged, and for a line of more than MAX_LINE bytes.
        """
        blocks = self._blocks(size, whole_lines)
        first = next(blocks)
        if len(first.data) < size // 2:  # most likely all of it: not worth a thread
            yield first
            yield from blocks
            return
        with futures.ThreadPoolExecutor(1) as pool:
            coming = pool.submit(next, blocks, None)
            yield first
            while block := coming.result():
                coming = pool.submit(next, blocks, None)
                yield block

    def _blocks(self, size: int, whole_lines: bool) -> Iterator[Block]:
        line, rest = 1, b''
        with _told_plainly(self.label, lambda: f', line {line}'), self.open() as stream:
            while chunk := stream.read(size):
                end = chunk.rfind(b'\n') + 1
                if len(rest) + (chunk.index(b'\n') if end else len(chunk)) > MAX_LINE:
                    raise UserError(f'{self.label}, line {line}: is longer than {MAX_LINE >> 20} MiB; the file is '
                                    'damaged or not text')
                if not end:
                    rest += chunk
                    continue
                data, rest = rest + chunk[:end], chunk[end:]
                yield Block(line, data)
                line += data.count(b'\n')
        if rest:
            if whole_lines:
                raise UserError(f'{self.label}, line {line}: is cut off (no line end); the file is truncated, '
                                'get it again')
            yield Block(line, rest + b'\n')
        elif line == 1:
            raise UserError(f'{self.label}: is empty')


@contextlib.contextmanager
def _told_plainly(label: str, place: Callable[[], str]) -> Iterator[None]:
    """Turns what can go wrong while a file is opened, read and decompressed into a UserError."""
    try:
        yield
    except (FileNotFoundError, KeyError) as error:
        raise UserError(f'{label}: no such file') from error
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, NotImplementedError,
            RuntimeError) as error:  # the last two: a zip's unknown compression, a password
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(':')
        raise UserError(f'{label}{place()}: cannot be decompressed ({reason}); the file is truncated or damaged, '
                        'get it again') from error
    except OSError as error:
        raise UserError(f'{label}{place()}: cannot be read ({error.strerror or error})') from error


# ---------------------------------------------------------------------------------------- finding


def on_disk(path: pathlib.Path) -> RawFile:
    """A file on disk; one that ends in .gz is decompressed."""
    return RawFile(str(path), lambda: gzip.open(path) if path.suffix == '.gz' else open(path, 'rb'))


def members(archive: pathlib.Path) -> dict[str, RawFile]:
    """The files inside an archive by their path there.

    Raises UserError for a damaged archive, and for one with a member whose path is absolute or leaves
    the archive ('..'): nobody publishes such a thing in good faith.
    """
    is_zip = archive.suffix == '.zip'
    with _told_plainly(str(archive), lambda: ''):
        if is_zip:
            with zipfile.ZipFile(archive) as packed:
                names = [info.filename for info in packed.infolist() if not info.is_dir()]
        else:
            with tarfile.open(archive) as packed:
                names = [info.name for info in packed if info.isfile()]
                while packed.fileobj.read(1 << 20):  # to the end, where gzip has its checksum
                    pass
    for name in names:
        if name.startswith(('/', '\\')) or '..' in name.replace('\\', '/').split('/') or name[1:2] == ':':
            raise UserError(f'{archive}: its member "{name}" has a path that leaves the archive; do not trust it, '
                            'get the original')
    return {name: RawFile(f'{archive}/{name}', _opener(archive, name, is_zip)) for name in names}


def _opener(archive: pathlib.Path, name: str, is_zip: bool) -> Callable[[], BinaryIO]:
    def open_member() -> BinaryIO:
        packed = zipfile.ZipFile(archive) if is_zip else tarfile.open(archive)
        stream = packed.open(name) if is_zip else packed.extractfile(name)
        return gzip.open(stream) if name.endswith('.gz') else stream

    return open_member


def find(folder: pathlib.Path, names: Sequence[str]) -> dict[str, RawFile]:
    """The files `names` of a folder, where present: name → file.

    Each is looked for as NAME and NAME.gz in the folder, in the folders right below it, and in the
    archives that lie in it (there at any depth). A name may hold wildcards (as in `fnmatch`), the folder that
    the file must be in ('train/news.tsv'; an archive counts as a folder, without its ending), and alternatives,
    of which the first that is there counts ('books.csv|BX-Books.csv'). Raises UserError where a name fits
    several files.
    """
    found: dict[str, RawFile] = {}
    packed: list[tuple[str, RawFile]] | None = None
    for name in names:
        for one in name.split('|'):
            files = _unpacked(folder, one)
            if not files:
                packed = _packed(folder) if packed is None else packed
                files = [file for path, file in packed if _fits(path, one)]
            if len(files) > 1:
                raise UserError(f'{folder}: "{one}" may be {files[0].label} or {files[1].label}; keep one of them '
                                'there')
            if files:
                found[name] = files[0]
                break
    return found


def _unpacked(folder: pathlib.Path, name: str) -> list[RawFile]:
    """The files on disk that a name may mean: those nearest to the folder."""
    within, _, file = name.rpartition('/')
    patterns = [name, f'*/{name}', *([file] if within and fnmatch.fnmatch(folder.resolve().name, within) else [])]
    try:
        here = sorted({path for pattern in patterns for path in (*folder.glob(pattern), *folder.glob(f'{pattern}.gz'))
                       if path.is_file()})
    except (ValueError, NotImplementedError) as error:
        raise UserError(f'"{name}": should be the name of a file in {folder} ({error})') from error
    return [on_disk(path) for path in here if len(path.parts) == min(len(p.parts) for p in here)]


def _packed(folder: pathlib.Path) -> list[tuple[str, RawFile]]:
    """All files in the archives of a folder, with their paths; these begin with the name of the archive."""
    archives = [(path, path.name.removesuffix(ending)) for path in sorted(folder.glob('*')) if path.is_file()
                for ending in ARCHIVES if path.name.endswith(ending)]
    return [(f'{name}/{path}', file) for archive, name in archives for path, file in members(archive).items()
            if not path.startswith('__MACOSX')]


def _fits(path: str, name: str) -> bool:
    """Whether the end of a path is what the name says."""
    end = path.removesuffix('.gz').split('/')[-1 - name.count('/'):]
    return fnmatch.fnmatch('/'.join(end), name.removesuffix('.gz'))


# --------------------------------------------------------------------------------------- bad rows


@dataclasses.dataclass
class BadRows:
    """`policy` 'raise' refuses a file at its first bad row; 'skip' passes over and counts them by file."""

    policy: str = 'raise'
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.policy not in ('raise', 'skip'):
            raise UserError(f'on_bad_row="{self.policy}".{nearest(self.policy, ("raise", "skip"))}')

    def report(self, file: RawFile, line: int, problem: str, count: int = 1) -> None:
        """`problem` continues 'FILE, line N', as ': has 3 fields' or ', column rating: …'."""
        if self.policy == 'raise':
            raise UserError(f'{file.label}, {file.unit} {line}{problem} (on_bad_row=skip passes over such rows)')
        self.skipped[file.name] = self.skipped.get(file.name, 0) + count
