"""Every dataset by name: where its publisher keeps it, under which terms, and who reads it.

1. `CATALOG`: one entry a dataset; a new dataset is a reader and an entry
2. `load`: a folder that `prepare` wrote is read as it stands; else the raw files are found in a
   folder (unpacked, or still in the publisher's archive), fetched with a checksum where they must
   be, and handed to the reader. "simulated" has no raw files: options of its reader draw the world.
"""

import dataclasses
import hashlib
import http.client
import inspect
import json
import os
import pathlib
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

from xrec_jax.data import tables
from xrec_jax.data.readers import delimited, movielens, simulated
from xrec_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Entry:
    """One dataset; `reader(root, **options)` takes the folder that holds `files`."""

    reader: Callable[..., tables.Dataset]
    licence: str
    citation: str
    url: str  # the publisher's archive; '' where there is nothing to fetch
    md5: str
    files: tuple[str, ...]
    folder: str  # that holds `files` inside the archive
    options: tuple[str, ...]  # names that `reader` takes

    @property
    def archive(self) -> str:
        return self.url.rsplit('/', 1)[-1]


def _simulated(root: None, **options) -> tables.Dataset:
    del root
    return simulated.simulate(simulated.World(**options))


def _keywords(reader: Callable) -> tuple[str, ...]:
    parameters = inspect.signature(reader).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


CATALOG = {
    'ml-100k': Entry(
        reader=movielens.ml_100k, licence=movielens.LICENCE, citation=movielens.CITATION,
        url='https://files.grouplens.org/datasets/movielens/ml-100k.zip',
        md5='0e33842e24a9c977be4e0107933c0723',
        files=('u.data', 'u.item', 'u.user'), folder='ml-100k',
        options=_keywords(movielens.ml_100k)),
    'simulated': Entry(
        reader=_simulated, licence=simulated.LICENCE, citation='',
        url='', md5='', files=(), folder='',
        options=tuple(field.name for field in dataclasses.fields(simulated.World))),
}


def entry(name: str) -> Entry:
    """Returns the entry of `name`; UserError names the nearest one."""
    if name not in CATALOG:
        raise UserError(f'unknown dataset "{name}".{nearest(name, CATALOG)}')
    return CATALOG[name]


def load(name: str, data_dir: str | os.PathLike | None = None, **options: Any) -> tables.Dataset:
    """Returns the validated dataset `name`.

    Args:
      name: a key of `CATALOG`.
      data_dir: the folder of the raw files, unpacked or in the publisher's archive; the archive is
        fetched to it if it holds neither. Or a folder that `xrec_jax.prepare` (`tables.write`)
        wrote, which is read as it stands. Not needed by "simulated".
      **options: of the reader. "simulated" takes the fields of `readers.simulated.World`, "ml-100k"
        takes `whole`. With a prepared folder they must be what it was made with.

    Raises:
      UserError: an unknown name or option (names the nearest), an option of a wrong type or value,
        no `data_dir` where there are raw files, a prepared folder of another dataset, and all that
        is wrong with the files (file, line, column).
    """
    found = entry(name)
    root = pathlib.Path(data_dir).expanduser() if data_dir else None
    if root and (root / 'dataset.json').is_file():
        return _prepared(name, root, options)
    _known_options(name, options, found.options)
    if not found.url:
        if root:
            raise UserError(f'{root}: holds no prepared dataset (no dataset.json), and "{name}" has '
                            'no raw files: leave data_dir out to draw it')
        return tables.validate(found.reader(None, **options))
    if root is None:
        raise UserError(f'dataset "{name}" needs the folder of its raw files, or one to fetch '
                        f'{found.url} to: give --data_dir=DIR (in a config: data.data_dir)')
    folder, checksums = _find(found, root)
    dataset = found.reader(folder, **options)
    recipe = {'url': found.url, 'md5': checksums, **options}
    return tables.validate(dataclasses.replace(dataset, recipe=recipe))


def _prepared(name: str, root: pathlib.Path, options: dict[str, Any]) -> tables.Dataset:
    """Reads what `prepare` wrote; `options` may only repeat what is on record there."""
    dataset = tables.read(root)
    if dataset.name != name:
        raise UserError(f'{root}: is the prepared dataset "{dataset.name}", not "{name}"; give its '
                        'own name or another data_dir')
    _known_options(name, options, CATALOG[name].options)
    record = json.loads(json.dumps(dict(dataset.recipe)))  # tuples are lists there
    for key, value in options.items():
        wanted = list(value) if isinstance(value, tuple) else value
        if key in record and wanted != record[key]:
            raise UserError(f'{root}: was prepared with {key}={record[key]}, not {value}; leave '
                            f'{key} or data_dir out')
    return dataset


def _known_options(name: str, options: Iterable[str], valid: tuple[str, ...]) -> None:
    for key in options:
        if key not in valid:
            raise UserError(f'dataset "{name}" has no option "{key}".{nearest(key, valid)}')


def _find(found: Entry, data_dir: pathlib.Path) -> tuple[delimited.Path, dict[str, str]]:
    """Returns the folder of the raw files, on disk or in the archive, and their checksums."""
    if data_dir.is_file():
        raise UserError(f'{data_dir}: is a file; data_dir is the folder that holds '
                        f'{found.archive} or {", ".join(found.files)}')
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
