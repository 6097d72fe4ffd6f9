"""The files of a Hugging Face directory: headers checked first, then ranges read; written in a stream.

  `read_json`, `read_config`   a JSON file of the directory; its `config.json`
  `open_tensors`               name → `Stored` for the whole directory, from the headers alone
  `open_file`                  the same for one safetensors file
  `Stored.read`                a range of rows, from the disk into a fresh array or a given one
  `read_tensors`               all tensors at once, for small models
  `write_stream`, `write_json` a safetensors file, tensor after tensor; a JSON file
  `fingerprint`                what tells one model from another, from a little of every file
  `replaced`                   a folder whose files take their places together, at the end

A safetensors file is 8 bytes (the header's length, little-endian), a JSON header (name → dtype,
shape, first and last byte), then the bytes (https://huggingface.co/docs/safetensors). It is read
here without mapping it, so that what lies in memory is what was asked for, in the file's order.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping

import ml_dtypes
import numpy as np

from xrec_jax.errors import UserError

MODEL = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
CONFIG = 'config.json'
DTYPES = {
    'F64': np.dtype(np.float64), 'F32': np.dtype(np.float32), 'F16': np.dtype(np.float16),
    'BF16': np.dtype(ml_dtypes.bfloat16), 'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
    'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2), 'I64': np.dtype(np.int64), 'I32': np.dtype(np.int32),
    'I16': np.dtype(np.int16), 'I8': np.dtype(np.int8), 'U64': np.dtype(np.uint64), 'U32': np.dtype(np.uint32),
    'U16': np.dtype(np.uint16), 'U8': np.dtype(np.uint8), 'BOOL': np.dtype(np.bool_),
}
KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
HEADER_LIMIT = 100_000_000  # bytes, as the safetensors library has it: more is damage
MOST_ROOMS = os.sysconf('SC_IOV_MAX')  # that one call reads into
PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt')


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor on disk."""

    file: pathlib.Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file

    def read(self, start: int = 0, stop: int | None = None, empty: Callable = np.empty) -> np.ndarray:
        """Rows `start` to `stop` (of the first axis; all by default), in an array that `empty(shape, dtype)` makes.

        Its rows may lie apart from each other; each lies in one piece.
        """
        if not self.shape:
            return self._read(self.offset, empty((), self.dtype))
        stop = self.shape[0] if stop is None else stop
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return self._read(self.offset + start * row, empty((stop - start, *self.shape[1:]), self.dtype))

    def _read(self, offset: int, values: np.ndarray) -> np.ndarray:
        parts = [values] if values.flags.c_contiguous else values
        rooms = collections.deque(memoryview(part.reshape(-1).view(np.uint8)) for part in parts if part.size)
        file = os.open(self.file, os.O_RDONLY)
        try:
            while rooms:
                count = os.preadv(file, list(itertools.islice(rooms, MOST_ROOMS)), offset)  # at most 2 GiB at a time
                if not count:
                    raise UserError(f'{self.file} ended within tensor {self.name}; fetch it again.')
                offset += count
                while rooms and count >= len(rooms[0]):
                    count -= len(rooms.popleft())
                if count:
                    rooms[0] = rooms[0][count:]
        finally:
            os.close(file)
        return values


def read_json(path: pathlib.Path) -> dict:
    """A JSON file that holds an object."""
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {error.lineno}: not valid JSON ({error.msg}).') from None
    except UnicodeDecodeError:
        raise UserError(f'{path} is damaged: not text in UTF-8.') from None
    if not isinstance(value, dict):
        raise UserError(f'{path}: should hold an object, {{…}}.')
    return value


def read_config(directory: str | os.PathLike) -> dict:
    """The `config.json` of a model directory."""
    path = pathlib.Path(directory) / CONFIG
    if not path.exists():
        raise UserError(f'{path} does not exist: a model directory holds config.json, *.safetensors and '
                        'tokenizer files.')
    return read_json(path)


def open_tensors(directory: str | os.PathLike) -> dict[str, Stored]:
    """All tensors of a directory's safetensors file, or of the files that its index names; no weights are read.

    Raises:
      UserError: weights that are missing, pickled or cut off, or an index that does not fit its files.
    """
    directory = pathlib.Path(directory)
    if (directory / MODEL).exists():  # first, as transformers has it
        return open_file(directory / MODEL)
    index = directory / INDEX
    if not index.exists():
        raise UserError(_nothing_to_read(directory, 'model'))
    weight_map = read_json(index).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f'{index} is damaged: it has no "weight_map"; fetch it again.')
    tensors, named_by = {}, f'; {INDEX} names it'
    for name in sorted(set(map(str, weight_map.values()))):
        if pathlib.PurePath(name).name != name:
            raise UserError(f'{index}: "{name}" is not the name of a file in the same folder.')
        held = open_file(directory / name, named_by)
        if twice := sorted(held.keys() & tensors.keys()):
            raise UserError(f'{directory / name}: tensor {twice[0]} is also in {tensors[twice[0]].file.name}.')
        tensors |= held
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            raise UserError(f'{directory / file}: tensor {name} is missing, which {INDEX} looks for there.')
    return tensors


def open_file(file: pathlib.Path, named_by: str = '') -> dict[str, Stored]:
    """The tensors of one safetensors file, from its header, in the order of their bytes."""
    if not file.exists():
        raise UserError(f'{file} does not exist{named_by}; fetch it again.')
    damaged = UserError(f'{file} is truncated or not a safetensors file; fetch it again.')
    size = file.stat().st_size
    with open(file, 'rb') as stream:
        start = stream.read(8)
        if start == b'version ' and size < 1000:
            raise UserError(f'{file} is a pointer of git-lfs, not the file itself: run "git lfs pull" there.')
        length = struct.unpack('<Q', start)[0] if len(start) == 8 else size
        if length > min(size - 8, HEADER_LIMIT):
            raise damaged
        header = stream.read(length)
    tensors, end = [], 0
    try:
        entries = json.loads(header)
        entries.pop('__metadata__', None)
        for name, entry in sorted(entries.items(), key=lambda item: item[1]['data_offsets']):
            if entry['dtype'] not in DTYPES:
                raise UserError(f'{file}: tensor {name} is stored as {entry["dtype"]}; known: {", ".join(DTYPES)}.')
            dtype, shape, (first, last) = DTYPES[entry['dtype']], tuple(entry['shape']), entry['data_offsets']
            if first != end or last - first != math.prod(shape) * dtype.itemsize:
                raise damaged
            tensors.append(Stored(file, name, dtype, shape, 8 + length + first))
            end = last
    except (ValueError, TypeError, KeyError, AttributeError):
        raise damaged from None
    if 8 + length + end != size:
        raise damaged
    return {stored.name: stored for stored in tensors}


def _nothing_to_read(directory: pathlib.Path, stem: str) -> str:
    """Why no weights `stem`.safetensors can be read from `directory`."""
    wanted = f'{stem}.safetensors'
    if parts := sorted(directory.glob(f'{stem}-*.safetensors')):
        return f'{directory / INDEX} does not exist, but {parts[0].name} does: fetch the index, too.'
    if pickles := sorted(file.name for pattern in PICKLES for file in directory.glob(pattern)):
        return (f'{directory} holds its weights as pickles only ({pickles[0]}). They run code when they are read; '
                f'weights are read from {wanted}, never from pickles. Fetch that file, or convert them where you '
                'trust them, in an environment with PyTorch: python -c "from transformers import '
                "AutoModelForCausalLM as M; M.from_pretrained('OLD').save_pretrained('NEW')\"")
    return f'{directory / wanted} does not exist; weights are read from safetensors, never from pickles.'


def read_tensors(directory: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a directory, in memory: for small models."""
    return {name: stored.read() for name, stored in open_tensors(directory).items()}


def write_stream(file: pathlib.Path, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
                 values: Iterable[np.ndarray]) -> None:
    """Writes a safetensors file whose `tensors` (name → dtype, shape) get their `values` one after another."""
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    for name, (dtype, shape) in tensors.items():
        first, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {'dtype': KINDS[dtype], 'shape': list(shape), 'data_offsets': [first, end]}
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # numbers begin at multiples of 8 bytes
    with open(file, 'wb') as stream:
        stream.write(struct.pack('<Q', len(text)) + text)
        for (name, (dtype, shape)), value in zip(tensors.items(), values, strict=True):
            if value.dtype != dtype or value.shape != shape:
                raise ValueError(f'{name}: {value.dtype} {value.shape} instead of {dtype} {shape}')
            stream.write(memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8)))
        stream.flush()
        os.fsync(stream.fileno())


def write_json(file: pathlib.Path, value: dict) -> None:
    file.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')


@contextlib.contextmanager
def replaced(directory: pathlib.Path, key: str, stale: Iterable[str]) -> Iterator[pathlib.Path]:
    """A folder for new files of `directory`; at the end they take their places, or none of them does.

    Without the file `key` the directory does not load. It goes first and comes back last, so that what is
    interrupted leaves the old files, or a directory without `key`, never a mixture that loads. Files that
    match `stale` patterns go, too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / '.partial'
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir()
    try:
        yield partial
        (directory / key).unlink(missing_ok=True)
        for pattern in stale:
            for file in directory.glob(pattern):
                file.unlink()
        for file in sorted(partial.iterdir(), key=lambda file: (file.name == key, file.name)):
            os.replace(file, directory / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fingerprint(directory: str | os.PathLike, samples: int = 16, size: int = 4096) -> str:
    """64 hexadecimal digits that tell the model of a Hugging Face directory from others.

    A hash of config.json and tokenizer.json, and of each safetensors file its name, its length and `samples` pieces of
    `size` bytes spread over it: 64 KiB a file, where the whole may be many gigabytes. Weights that differ in nothing
    but a few numbers between those pieces are taken for the same.
    """
    root, digest = pathlib.Path(directory), hashlib.sha256()
    for name in (CONFIG, 'tokenizer.json'):
        if (root / name).is_file():
            digest.update((root / name).read_bytes())
    for path in sorted(root.glob('*.safetensors')):
        length = path.stat().st_size
        digest.update(f'{path.name} {length}\n'.encode())
        with open(path, 'rb') as file:
            for start in np.linspace(0, max(length - size, 0), samples).astype(int):
                file.seek(start)
                digest.update(file.read(size))
    return digest.hexdigest()
