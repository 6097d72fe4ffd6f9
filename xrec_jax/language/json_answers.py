"""A language model's JSON answer, read as far as its meaning is plain."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

_PAIR = re.compile(r'''["'\u201c\u201d]?([A-Za-z][\w ]*?)["'\u201c\u201d]?\s*:\s*'''
                   r'''("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\u201c[^\u201d]*\u201d|\[[^\]]*\]|[^,{}\n]+)''')


def parse_answer(text: str) -> dict[str, Any] | None:
    """The first object in `text` that can be read, without keys whose values are empty; None where there is none.

    Read are JSON, what Python would write ('single quotes', None), and pairs whose values lack their quotes, as in
    {"price_acc": Free to Play} of LLMXRec's published labels, or whose closing brace is missing. What stands before
    and behind the object is passed over; without any brace nothing is read.
    """
    for piece in _objects(text):
        for read in (_json, _python, _pairs):
            if found := read(piece):
                return found
    return None


def _objects(text: str) -> Iterator[str]:
    """Pieces of `text` from a brace to the one that closes it, or to the end; not those within others."""
    start, depth, quoted, escaped = -1, 0, False, False
    for place, letter in enumerate(text):
        if escaped or not depth and letter != '{':
            escaped = False
        elif letter == '\\':
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif letter == '{' and not quoted:
            start, depth = (start, depth + 1) if depth else (place, 1)
        elif letter == '}' and not quoted:
            depth -= 1
            if not depth:
                yield text[start:place + 1]
    if depth:
        yield text[start:]


def _json(piece: str) -> dict[str, Any] | None:
    try:
        return _filled(json.loads(piece, strict=False))
    except (ValueError, RecursionError):
        return None


def _python(piece: str) -> dict[str, Any] | None:
    try:
        return _filled(ast.literal_eval(piece))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _pairs(piece: str) -> dict[str, Any] | None:
    """Key and value pairs one by one, each value as JSON where it is, else as the text that it is."""
    found = {}
    for key, value in _PAIR.findall(piece):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = value.strip().strip('"\'\u201c\u201d').strip()
        found.setdefault(key.strip(), value)
    return _filled(found)


def _filled(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    return {key: part for key, part in value.items() if isinstance(key, str) and part not in (None, '', [], {})} or None
