"""Every dataset by name: where its publisher keeps it, under which terms, and who reads it.

`load` finds the raw files in a folder (unpacked, or still in the publisher's archive), fetches the
archive with a checksum where it must, and hands them to the reader. A new dataset is a reader and
an entry in `CATALOG`.
"""

import dataclasses
import hashlib
import http.client
import os
import pathlib
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable

from xrec_jax.data import tables
from xrec_jax.data.readers import delimited, movielens
from xrec_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Entry:
    """One dataset; `reader` takes the folder that holds `files` and options of its own."""

    reader: Callable[..., tables.Dataset]
    licence: str
    citation: str
    url: str  # the publisher's archive; '' where there is nothing to fetch
    md5: str
    files: tuple[str, ...]
    folder: str  # that holds `files` inside the archive

    @property
    def archive(self) -> str:
        return self.url.rsplit('/', 1)[-1]


def _simulated(root: None, **options) -> tables.Dataset:
    from xrec_jax.data.readers import simulated  # the world is not needed to read files
    return simulated.simulate(**options)


CATALOG = {
    'ml-100k': Entry(
        reader=movielens.ml_100k, licence=movielens.LICENCE, citation=movielens.CITATION,
        url='https://files.grouplens.org/datasets/movielens/ml-100k.zip',
        md5='0e33842e24a9c977be4e0107933c0723',
        files=('u.data', 'u.item', 'u.user'), folder='ml-100k'),
    'simulated': Entry(
        reader=_simulated, licence='Apache-2.0 (made here, of nobody\'s data)', citation='',
        url='', md5='', files=(), folder=''),
}


def entry(name: str) -> Entry:
    """Returns the entry of `name`; UserError names the nearest one."""
    if name not in CATALOG:
        raise UserError(f'unknown dataset "{name}".{nearest(name, CATALOG)}')
    return CATALOG[name]


def load(name: str, data_dir: str | os.PathLike, **options) -> tables.Dataset:
    """Returns the validated dataset `name`; its raw files are in `data_dir` or are fetched to it.

    `options` go to the reader ("simulated" takes `config`, and needs no `data_dir`).
    """
    found = entry(name)
    if not found.url:
        return tables.validate(found.reader(None, **options))
    root, recipe = _find(found, pathlib.Path(data_dir).expanduser())
    dataset = found.reader(root, **options)
    return tables.validate(dataclasses.replace(dataset, recipe={'url': found.url, 'md5': recipe}))


def _find(found: Entry, data_dir: pathlib.Path) -> tuple[delimited.Path, dict[str, str]]:
    """Returns the folder of the raw files, on disk or in the archive, and their checksums."""
    for folder in (data_dir, data_dir / found.folder):
        present = [file for file in found.files if (folder / file).is_file()]
        if missing := [file for file in found.files if file not in present]:
            if present:
                raise UserError(f'{folder / missing[0]}: no such file, though {present[0]} is '
                                f'there; get {found.archive} from {found.url}')
            continue
        return folder, {file: _md5(folder / file) for file in found.files}
    path = data_dir / found.archive
    if not path.is_file():
        _fetch(found, path)
    checksum = _md5(path)
    if checksum != found.md5:
        raise UserError(f'{path}: its md5 is {checksum}, the published archive\'s is {found.md5}; '
                        f'it is truncated or not the original. Delete it and get {found.url} again')
    return zipfile.Path(path, found.folder + '/'), {found.archive: checksum}


def _md5(path: pathlib.Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch(found: Entry, path: pathlib.Path) -> None:
    """Downloads the archive to `path`, which comes to exist only whole and with the right checksum."""
    print(f'fetching {found.url}', file=sys.stderr)
    digest = hashlib.md5(usedforsecurity=False)
    with tables.plain_disk_errors(f'writing {path}'):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent) as scratch:
            fresh = pathlib.Path(scratch, path.name)
            with open(fresh, 'wb') as file:
                for block in _download(found, path):
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != found.md5:
                raise UserError(f'{found.url}: what came has md5 {digest.hexdigest()}, the published '
                                f'archive\'s is {found.md5}; nothing was kept. Try again, or put the '
                                f'original at {path}')
            fresh.rename(path)


def _download(found: Entry, path: pathlib.Path):
    """Yields the archive in blocks of a megabyte."""
    try:
        with urllib.request.urlopen(found.url, timeout=30) as response:
            while block := response.read(1 << 20):
                yield block
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f'cannot fetch {found.url} ({getattr(error, "reason", error)}). Download it elsewhere '
            f'and put it at {path}, or put {", ".join(found.files)} into {path.parent}') from error
