"""Publishers' files over the network: resumed where they broke off, verified, and never half there.

What came so far lies beside the file as NAME.part, with NAME.part.json, which says of what it is a part.
Both go when the file is whole.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import json
import os
import pathlib
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, BinaryIO

from xrec_jax.data import tables
from xrec_jax.errors import UserError
from xrec_jax.runs import progress

BLOCK = 1 << 20  # bytes
MB = 1e6
TIMEOUT = 30  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that its publisher lets anyone fetch; `md5` is '' where none is published."""

    url: str
    md5: str = ''

    @property
    def name(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rsplit('/', 1)[-1])


def verify(download: Download, folder: pathlib.Path) -> None:
    """UserError where the file lies in `folder` and is not the published one."""
    path = folder / download.name
    if download.md5 and path.is_file() and (found := _md5(path)) != download.md5:
        raise UserError(f'{path}: its md5 is {found}, the published archive\'s is {download.md5}; '
                        f'it is truncated or not the original. Delete it and get {download.url} again')


def fetch(download: Download, folder: pathlib.Path) -> None:
    """Downloads to `folder`, where the file comes to exist only whole and with the right checksum.

    Goes on from what an earlier, broken download left, if the server still offers the same file. Raises
    UserError where the server cannot be reached, the connection breaks twice at the same place, the
    checksum is another, or another process is fetching the same file.
    """
    path = folder / download.name
    with tables.plain_disk_errors(f'writing {path}'):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(f'{path.name}.part')) as part:
            here = part.seek(0, os.SEEK_END)
            told = f', {here / MB:,.1f} MB of it are here' if here else ''
            print(f'fetching {download.url}{told}', file=sys.stderr)
            furthest = -1
            while not _receive(download, path, part):
                size = part.seek(0, os.SEEK_END)
                if size <= furthest:  # no further than the time before
                    raise UserError(f'{download.url}: the connection broke off after {size / MB:,.1f} MB; run the same '
                                    'command again, which goes on from there where the server allows it, or put the '
                                    f'whole file at {path}')
                furthest = size
            if download.md5 and (found := _md5(pathlib.Path(part.name))) != download.md5:
                _forget(part)
                raise UserError(f'{download.url}: what came has md5 {found}, the published archive\'s is '
                                f'{download.md5}; nothing was kept. Try again, or put the original at {path}')
            os.fsync(part.fileno())
            os.replace(part.name, path)
            _facts(part).unlink(missing_ok=True)


def _md5(path: pathlib.Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# ------------------------------------------------------------------------------------- the part


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[BinaryIO]:
    """The part, open for reading and writing, for this process alone; nothing stays of an empty one."""
    with open(path, 'ab+') as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f'{path}: another process is fetching it; wait for that one') from error
        try:
            yield part
        finally:
            if path.exists() and not part.seek(0, os.SEEK_END):
                _forget(part)


def _forget(part: BinaryIO) -> None:
    pathlib.Path(part.name).unlink(missing_ok=True)
    _facts(part).unlink(missing_ok=True)


def _facts(part: BinaryIO) -> pathlib.Path:
    """The file that holds address, version (`_version`) and length of what the part is a part of."""
    return pathlib.Path(f'{part.name}.json')


def _known(download: Download, part: BinaryIO) -> dict[str, Any]:
    """What was noted of the part, if it is one of this download; else the part is emptied."""
    try:
        known = json.loads(_facts(part).read_text())
        if known['url'] == download.url and known['version']:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    part.truncate(0)
    return {}


# ---------------------------------------------------------------------------------- the network


def _receive(download: Download, path: pathlib.Path, part: BinaryIO) -> bool:
    """Appends to `part` what comes until the connection ends; returns whether it is whole now."""
    known = _known(download, part)
    start = part.seek(0, os.SEEK_END)
    if start and start == known['length']:
        return True
    with _open(download, path, start, known) as response:
        version = _version(response.headers)
        if response.status == 206:
            where, _, length = response.headers.get('Content-Range', '').partition('/')
            length = _number(length)
            if not where.startswith(f'bytes {start}-') or length != known['length'] or (
                    version not in ('', known['version'])):  # a server need not repeat it
                part.truncate(0)  # a part of something else: begin anew
                return False
            version = known['version']
        else:
            start, length = 0, _number(response.headers.get('Content-Length', ''))
            part.truncate(0)
        _facts(part).write_text(json.dumps({'url': download.url, 'version': version, 'length': length}) + '\n')
        with progress.bar(f'fetching {path.name}', length and length / MB, start / MB, 'MB') as advance:
            while block := _read(response):
                part.write(block)
                advance(len(block) / MB)
        part.flush()
    return block is not None and length in (None, part.seek(0, os.SEEK_END))


def _read(response: http.client.HTTPResponse) -> bytes | None:
    """The next bytes; none at the end, None where the connection broke."""
    try:
        return response.read(BLOCK)
    except (OSError, http.client.HTTPException):
        return None


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _open(download: Download, path: pathlib.Path, start: int, known: dict[str, Any]) -> http.client.HTTPResponse:
    """Asks for the file from byte `start` on, or all of it where it is no longer the `known` one."""
    headers = {'Range': f'bytes={start}-', 'If-Range': known['version']} if start else {}
    try:
        return urllib.request.urlopen(urllib.request.Request(download.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == 416:  # it is shorter than what is here
            return _open(download, path, 0, known)
        reason = f'{error.code} {error.reason}'
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', error)
    checksum = f' (md5 {download.md5})' if download.md5 else ''
    raise UserError(f'cannot fetch {download.url} ({reason}). Download it elsewhere and put it at {path}{checksum}')


def _version(headers: http.client.HTTPMessage) -> str:
    """What changes when the file does, as `If-Range` wants it; '' where the server tells nothing."""
    tag = headers.get('ETag', '')
    return tag if tag and not tag.startswith('W/') else headers.get('Last-Modified', '')
