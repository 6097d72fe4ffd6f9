"""Damage done to a miniature at random places: a reader must answer with a UserError or a sound table."""

import collections
import gzip
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from xrec_jax.data import tables
from xrec_jax.errors import UserError

# What breaks formats, and what looks like data.
INSERTS = [b'\n', b'\r', b'\t', b',', b';', b'|', b'::', b'"', b"'", b'\\', b'{', b'}', b'[', b']', b'\x00', b'\xff', b'\xc3',
           b' ', b'-', b'.', b'0', b'9', b'e', b'x', b'null', b'NaN', b'&amp;', b'\xef\xbb\xbf']


def check_mutations(load: Callable[[pathlib.Path], tables.Dataset], files: Mapping[str, bytes], tmp_path: pathlib.Path,
                    count: int = 400, seed: int = 0, touched: int = 3) -> None:
    """Mutates one of `files` (name → content; a name in .gz is compressed here) in each of `count` trials.

    `load(folder)` must raise a UserError that names the file, or give a dataset of which at most `touched`
    rows of a table differ from the sound one: a damage is said, or it stays where it was done.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    for name, data in files.items():
        _publish(tmp_path / name, data)
    sound = _rows(load(tmp_path))
    refused = 0
    for trial in range(count):
        name = sorted(files)[int(rng.integers(len(files)))]
        data, what = _mutate(rng, files[name])
        _publish(tmp_path / name, data)
        try:
            found = _rows(load(tmp_path))
        except UserError as error:
            refused += 1
            assert name.removesuffix('.gz') in str(error), f'trial {trial}, {name}: {what}: {error}'
        except Exception as error:
            raise AssertionError(f'trial {trial}, {name}: {what}: {error!r} is no UserError') from error
        else:
            for table, rows in found.items():
                lost, new = sound[table] - rows, rows - sound[table]
                assert max(lost.total(), new.total()) <= touched, f'trial {trial}, {name}: {what}: {table}: {lost} → {new}'
        _publish(tmp_path / name, files[name])
    assert 0 < refused < count, refused  # else the miniature, or the damage, tests nothing


def _publish(path: pathlib.Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 1) if path.suffix == '.gz' else data)


def _rows(dataset: tables.Dataset) -> dict[str, collections.Counter]:
    tables.validate(dataset)
    return {name: collections.Counter(map(repr, getattr(dataset, name).to_pylist())) for name in tables.SCHEMAS}


def _mutate(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    at = int(rng.integers(len(data)))
    kind = int(rng.integers(4))
    if kind == 0:
        byte = bytes([int(rng.integers(256))])
        return data[:at] + byte + data[at + 1:], f'byte {at} {data[at:at + 1]} → {byte}'
    if kind == 1:
        return data[:at] + data[at + 1:], f'byte {at} {data[at:at + 1]} removed'
    if kind == 2:
        insert = INSERTS[int(rng.integers(len(INSERTS)))]
        return data[:at] + insert + data[at:], f'{insert} inserted at {at}'
    end = min(len(data), at + int(rng.integers(1, 20)))
    return data[:at] + data[end:], f'bytes {at} to {end} removed: {data[at:end]}'
