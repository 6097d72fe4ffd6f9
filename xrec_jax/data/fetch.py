"""Publishers' files over the network: verified, and never half there."""

import dataclasses
import hashlib
import http.client
import pathlib
import sys
import tempfile
import urllib.request
from collections.abc import Iterator

from xrec_jax.data import tables
from xrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that its publisher lets anyone fetch; `md5` is '' where none is published."""

    url: str
    md5: str = ''

    @property
    def name(self) -> str:
        return self.url.rsplit('/', 1)[-1]


def verify(download: Download, folder: pathlib.Path) -> None:
    """UserError where the file lies in `folder` and is not the published one."""
    path = folder / download.name
    if download.md5 and path.is_file():
        with open(path, 'rb') as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != download.md5:
            raise UserError(f'{path}: its md5 is {found}, the published archive\'s is {download.md5}; '
                            f'it is truncated or not the original. Delete it and get {download.url} again')


def fetch(download: Download, folder: pathlib.Path) -> None:
    """Downloads to `folder`, where the file comes to exist only whole and with the right checksum."""
    path = folder / download.name
    print(f'fetching {download.url}', file=sys.stderr)
    digest = hashlib.md5(usedforsecurity=False)
    with tables.plain_disk_errors(f'writing {path}'):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=folder) as scratch:
            fresh = pathlib.Path(scratch, path.name)
            with open(fresh, 'wb') as file:
                for block in _blocks(download, path):
                    digest.update(block)
                    file.write(block)
            if download.md5 and digest.hexdigest() != download.md5:
                raise UserError(f'{download.url}: what came has md5 {digest.hexdigest()}, the published '
                                f'archive\'s is {download.md5}; nothing was kept. Try again, or put the '
                                f'original at {path}')
            fresh.rename(path)


def _blocks(download: Download, path: pathlib.Path) -> Iterator[bytes]:
    """Yields the file in blocks of a megabyte."""
    try:
        with urllib.request.urlopen(download.url, timeout=30) as response:
            while block := response.read(1 << 20):
                yield block
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f'cannot fetch {download.url} ({getattr(error, "reason", error)}). Download it elsewhere '
            f'and put it at {path}') from error
