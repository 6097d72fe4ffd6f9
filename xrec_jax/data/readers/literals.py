"""Python literals, one dict a line, made into JSON lines by whole blocks.

Some publishers wrote the `repr` of each record where JSON was meant: `{u'id': u'620', u'free': False}`.
`ast.literal_eval` reads that, a line at a time and slowly. `as_json` rewrites many lines at once, three times
as fast, where nothing can be misunderstood; the lines it leaves are parsed one by one. None is evaluated.
"""

import ast
import binascii
import dataclasses
import io
import json
import re
import warnings
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.json

from xrec_jax.data.raw import BadRows, Block, RawFile

PIECE = 1 << 18  # bytes that are rewritten together
# Where no quote is escaped: the first kind of string may hold quotation marks, the second apostrophes.
STRING = re.compile(rb"""'([^']*)'|"([^"]*)\"""")
NAMES = ((b'True', b'true'), (b'False', b'false'), (b'None', b'null'))
OUTSIDE = b'{}[]:,-+.0123456789eE \n"'  # what stands outside of strings but for names; " for a string


def as_json_lines(file: RawFile, bad: BadRows) -> RawFile:
    """A file of Python literals as one of JSON, for `jsonlines`; `bad` is told of lines that are no literals."""
    return _AsJson(**vars(file), bad=bad)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AsJson(RawFile):
    """Gives its blocks in JSON."""

    bad: BadRows

    def blocks(self, **options) -> Iterator[Block]:
        for block in super().blocks(**options):
            parts, next_line = [], block.line
            for part in _rewritten(self, block, self.bad):
                if part.line != next_line:  # a line was left out: what follows is another block
                    yield from _joined(parts)
                    parts = []
                parts.append(part)
                next_line = part.line + part.data.count(b'\n')
            yield from _joined(parts)


def _joined(parts: list[Block]) -> Iterator[Block]:
    if parts:
        yield Block(parts[0].line, b''.join(part.data for part in parts))


def _rewritten(file: RawFile, block: Block, bad: BadRows) -> Iterator[Block]:
    """The block in JSON, in parts, without the lines that are no literals."""
    data, middle = block.data, len(block.data) // 2
    cut = data.find(b'\n', middle, -1) + 1 or data.rfind(b'\n', 0, middle) + 1  # 0: it is one line
    done = as_json(data) if len(data) <= PIECE or not cut else None
    if done is not None:
        yield Block(block.line, done)
    elif cut:
        yield from _rewritten(file, Block(block.line, data[:cut]), bad)
        yield from _rewritten(file, Block(block.line + data.count(b'\n', 0, cut), data[cut:]), bad)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # '\/' is no escape; Python warns and takes it as it stands
                row = ast.literal_eval(data.decode('utf-8'))
            yield Block(block.line, json.dumps(row).encode() + b'\n')
        except UnicodeDecodeError as error:
            bad.report(file, block.line, f': byte 0x{data[error.start]:02x} is not UTF-8')
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
            reason = str(error).split('(')[0].strip() or type(error).__name__
            bad.report(file, block.line, f': is not a Python literal ({reason}): {data[:80]!r}')


def as_json(data: bytes) -> bytes | None:
    """Returns lines of JSON that say, line by line, what the lines of Python literals in `data` say, or None.

    Not None for what `repr` writes: dicts of strings, numbers, True, False, None, lists and dicts, with a line
    end behind each. None for much that is rarer (tuples, comments, escapes that JSON has not) and for all that
    is no literal. A pair of escaped surrogates becomes one character, and a key that stands twice does so in
    the JSON too.
    """
    # Escapes come before strings: none holds a quote or a line end but as its own second character. Once `\\`
    # is replaced each backslash begins one. `\/` is JSON and Python, and not the same.
    data = data.replace(rb'\\', rb'\u005c')
    if rb'\/' in data:
        return None
    data = data.replace(rb"\'", rb'\u0027').replace(rb'\"', rb'\u0022').replace(rb'\x', rb'\u00')
    start, *rest = data.split(rb'\U')
    try:
        data.decode('utf-8')
        data = b''.join([start, *(_short_escapes(part[:8]) + part[8:] for part in rest)])
    except ValueError:
        return None

    parts = STRING.split(data)  # outside, string or None, string or None, outside, …
    count = len(parts) // 3
    inside = b'\n'.join([first if second is None else second for first, second in zip(parts[1::3], parts[2::3])])
    inside = inside.replace(b'"', rb'\u0022').split(b'\n')
    outside = b'"'.join(parts[::3]).replace(b'u"', b'"')
    names = outside
    for python, other in NAMES:
        outside, names = outside.replace(python, other), names.replace(python, b'')
    if names.translate(None, OUTSIDE):
        return None
    outside = outside.split(b'"')
    if len(outside) != count + 1 or len(inside) != max(count, 1):  # a quote or a line end too many
        return None
    parts = [b''] * (2 * count + 1)
    parts[::2], parts[1::2] = outside, inside[:count]
    data = b'"'.join(parts)
    return data if _is_json(data) else None


def _short_escapes(digits: bytes) -> bytes:
    r"""0001f600 → \ud83d\ude00; ValueError for what is no character outside the basic plane."""
    character = binascii.unhexlify(digits).decode('utf-32-be')
    utf16 = character.encode('utf-16-be').hex()
    if len(utf16) != 8:
        raise ValueError
    return rf'\u{utf16[:4]}\u{utf16[4:]}'.encode()


def _is_json(data: bytes) -> bool:
    """Whether each line is one JSON object."""
    count = data.count(b'\n')
    # Arrow would take two objects in a line, and one in two lines; '}{' and '}\n{' never stand inside of one.
    if not data.startswith(b'{') or not data.endswith(b'}\n') or data.count(b'}\n{') != count - 1:
        return False
    try:
        return pyarrow.json.read_json(
            io.BytesIO(data), read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=pa.schema([]), unexpected_field_behavior='ignore'),
        ).num_rows == count
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
