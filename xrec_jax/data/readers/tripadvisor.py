"""The pickles that the explainable-generation literature shares (NETE, PETER, PEPLER): TripAdvisor, Yelp, Amazon.

`reviews.pickle` is a list of reviews `{'user', 'item', 'rating', 'template', 'predicted'}`. `template` is
(feature, adjective, sentence, score), which Sentires took from the review: what it speaks of and how, the
sentence in which it does, and whether in praise. `predicted` is the feature that a model of the authors
foretold. There are no titles and no times. The folders 1 to 5 beside it are splits of that literature; our
protocols stand in their place.

1. `unpickled`: a pickle is a program for a stack machine, and one from the internet may be any program.
   The machine here knows only the instructions that make lists, tuples, dictionaries, texts and numbers: it
   can't name, import or call a thing of Python, and allocates nothing just because the file says so
2. `explained`: the reviews → interactions
"""

import dataclasses
import functools
import pickletools
import reprlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from xrec_jax.data.domains import HOTELS, MOVIES, PLACES, Domain
from xrec_jax.data.entry import Entry
from xrec_jax.data.ingest import Source, nothing
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError, nearest

FILE = 'reviews.pickle'
LICENCE = 'none stated; the authors share it for research'
CITATION = 'L. Li, Y. Zhang, L. Chen: Generate Neural Template Explanations for Recommendation. CIKM 2020'
BY_HAND = ('get it from the folder that https://github.com/lileipisces/NLG4RS links to, and give the folder in which '
           'reviews.pickle lies as data_dir')

# ------------------------------------------------------------------------------------- the pickle

MAX_BYTES = 1 << 29  # 400 for each review of the longest that is published, Yelp's
BYTES_PER_CONTAINER = 16  # and mark, at least: what has more is a bomb. A review takes over sixty for its three
# What can make a pickle do more than hold data, and how a person is told.
RUNS = {
    'REDUCE': 'calls a function', 'BUILD': 'sets the state of an object', 'NEWOBJ': 'makes an object',
    'NEWOBJ_EX': 'makes an object', 'OBJ': 'makes an object', 'EXT1': 'asks for a registered extension',
    'EXT2': 'asks for a registered extension', 'EXT4': 'asks for a registered extension',
    'PERSID': 'asks for a persistent object', 'BINPERSID': 'asks for a persistent object'}


class _Refused(Exception):
    """(byte, what is wrong with the pickle there, whether it is more than damage)."""


def unpickled(data: bytes, label: str) -> Any:
    """Returns the lists, tuples, dictionaries, texts, numbers, booleans and None that a pickle holds.

    The pickle is of protocol 1 to 5. Raises UserError, with the byte, for every other instruction (what asks
    for a class or a function is told by its name), and for a pickle that is cut off, goes on after its end,
    sets a key of a dictionary twice or by another thing than a text, leaves anything on its stack, or has more
    containers than fit its size.
    """
    try:
        return _run(data)
    except _Refused as error:
        at, what, runs = error.args
        advice = ('only lists, tuples, dictionaries, texts and numbers are read from a pickle, since the rest can run '
                  'any program; do not trust this file' if runs else 'the file is truncated, damaged or no such pickle')
        raise UserError(f'{label}, byte {at}: {what}; {advice}, get the original') from error


def _run(data: bytes) -> Any:
    """The machine. A text or number cut off by the end is told by the next instruction, which is not there."""
    stack: list[Any] = []
    marked: list[list[Any]] = []  # the stacks below the marks
    memo: dict[int, Any] = {}
    room = 16 + len(data) // BYTES_PER_CONTAINER  # for containers and marks
    integer = int.from_bytes
    start = at = 0
    try:
        while True:  # the most frequent instructions first
            start = at
            op = data[at]
            at += 1
            if op == 0x72:  # LONG_BINPUT
                memo[integer(data[at:at + 4], 'little')] = stack[-1]
                at += 4
            elif op == 0x58:  # BINUNICODE
                end = at + 4 + integer(data[at:at + 4], 'little')
                stack.append(data[at + 4:end].decode('utf-8'))
                at = end
            elif op == 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
            elif op == 0x6a:  # LONG_BINGET
                stack.append(memo[integer(data[at:at + 4], 'little')])
                at += 4
            elif op == 0x8c:  # SHORT_BINUNICODE
                end = at + 1 + data[at]
                stack.append(data[at + 1:end].decode('utf-8'))
                at = end
            elif op == 0x71:  # BINPUT
                memo[data[at]] = stack[-1]
                at += 1
            elif op == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
            elif op in b'KMJ':  # BININT1, BININT2, BININT
                size = {0x4b: 1, 0x4d: 2, 0x4a: 4}[op]
                stack.append(integer(data[at:at + size], 'little', signed=size == 4))
                at += size
            elif op in b'(]}\x85\x86\x87':  # MARK, EMPTY_LIST, EMPTY_DICT, TUPLE1, TUPLE2, TUPLE3
                room -= 1
                if room < 0:
                    raise _Refused(start, 'holds more containers than fit a file of its size', True)
                if op == 0x28:
                    marked.append(stack)
                    stack = []
                elif op > 0x80:
                    size = op - 0x84
                    if len(stack) < size:
                        raise IndexError
                    stack[-size:] = [tuple(stack[-size:])]
                else:
                    stack.append([] if op == 0x5d else {})
            elif op == 0x75:  # SETITEMS
                items, stack = stack, marked.pop()
                _set(stack[-1], items)
            elif op == 0x73:  # SETITEM
                items = [stack.pop(), stack.pop()][::-1]
                _set(stack[-1], items)
            elif op == 0x74:  # TUPLE
                items, stack = stack, marked.pop()
                stack.append(tuple(items))
            elif op == 0x65:  # APPENDS
                items, stack = stack, marked.pop()
                _extend(stack[-1], items)
            elif op == 0x61:  # APPEND
                items = [stack.pop()]
                _extend(stack[-1], items)
            elif op in b'N\x88\x89':  # NONE, NEWTRUE, NEWFALSE
                stack.append({0x4e: None, 0x88: True, 0x89: False}[op])
            elif op == 0x29:  # EMPTY_TUPLE
                stack.append(())
            elif op == 0x47:  # BINFLOAT
                stack.append(struct.unpack('>d', data[at:at + 8])[0])
                at += 8
            elif op == 0x8a:  # LONG1
                end = at + 1 + data[at]
                stack.append(integer(data[at + 1:end], 'little', signed=True))
                at = end
            elif op == 0x95:  # FRAME: a hint for buffering
                at += 8
            elif op == 0x80 and start == 0 and 2 <= data[1] <= 5:  # PROTO
                at += 1
            elif op == 0x2e:  # STOP
                if len(stack) != 1 or marked or at != len(data):
                    raise _Refused(start, 'ends, and not all that stands in it is part of one list', False)
                return stack[0]
            else:
                raise _Refused(start, *_unknown(data, start, stack))
    except UnicodeDecodeError as error:
        raise _Refused(start, 'a text is not UTF-8', False) from error
    except (IndexError, KeyError, TypeError, struct.error) as error:
        what = 'ends in the middle' if at >= len(data) else f'{pickletools.code2op[chr(op)].name} makes no sense there'
        raise _Refused(start, what, False) from error


def _set(into: Any, items: Sequence[Any]) -> None:
    """Puts key, value, key, value … into a dictionary. Keys are texts: the hash of deep tuples ends the process."""
    keys = items[::2]
    if type(into) is not dict or len(items) % 2 or any(type(key) is not str for key in keys):
        raise TypeError
    before = len(into)
    into.update(zip(keys, items[1::2]))
    if len(into) != before + len(keys):
        raise TypeError


def _extend(into: Any, items: Sequence[Any]) -> None:
    if type(into) is not list:
        raise TypeError
    into.extend(items)


def _unknown(data: bytes, start: int, stack: Sequence[Any]) -> tuple[str, bool]:
    """What an instruction does that is not for plain data, and whether that is more than damage."""
    known = pickletools.code2op.get(chr(data[start]))
    name = known.name if known else f'0x{data[start]:02x}'
    if name in ('GLOBAL', 'INST'):
        asked = [part.decode('ascii', 'replace')[:80] for part in data[start + 1:start + 200].split(b'\n')[:2]]
        return f'{name} asks for {".".join(asked)}', True
    if name == 'STACK_GLOBAL':
        return f'{name} asks for {".".join(str(part)[:80] for part in stack[-2:] if type(part) is str)}', True
    if name in RUNS:
        return f'{name} {RUNS[name]}', True
    return f'{name} is no instruction of plain data pickled by protocol 1 to 5', False


# ------------------------------------------------------------------------------------ the reviews

FIELDS = pa.schema([('user', pa.string()), ('item', pa.string()), ('rating', pa.float64()), ('sentence', pa.string()),
                    ('feature', pa.string()), ('adjective', pa.string()), ('predicted', pa.string())])
ASPECTS = ('feature', 'adjective', 'predicted')
ROWS = 1 << 16  # of a block


def explained(name: str, domain: Domain, files: Mapping[str, RawFile], bad: BadRows, *,
              aspects: Sequence[str] = ('feature',)) -> Source:
    """Reads reviews.pickle of the dataset `name`; the review is the sentence that the authors extracted.

    aspects: which words are the aspects of an interaction, out of feature, adjective and predicted.
    """
    aspects = (aspects,) if isinstance(aspects, str) else tuple(aspects)
    for aspect in aspects:
        if aspect not in ASPECTS:
            raise UserError(f'aspects={aspects!r}: unknown "{aspect}".{nearest(str(aspect), ASPECTS)}')
    file = dataclasses.replace(files[FILE], unit='review')
    return Source(name=name, file=file, interactions=_events(file, bad, aspects), users=nothing, items=nothing,
                  rating_scale=(1.0, 5.0), domain=domain, licence=LICENCE, bad=bad)


def _events(file: RawFile, bad: BadRows, aspects: Sequence[str]) -> Iterator[pa.Table]:
    reviews = unpickled(file.read_bytes(MAX_BYTES), file.label)
    if type(reviews) is not list or not reviews:
        raise UserError(f'{file.label}: should be a list of reviews, is {_shown(reviews)}')
    for start in range(0, len(reviews), ROWS):
        yield _block(file, reviews[start:start + ROWS], start + 1, bad, aspects)


def _block(file: RawFile, reviews: Sequence[Any], line: int, bad: BadRows, aspects: Sequence[str]) -> pa.Table:
    """Returns the interactions of `reviews`, the first of which is number `line`."""
    rows, lines = [], []
    for number, review in enumerate(reviews, line):
        if problem := _problem(review, aspects):
            bad.report(file, number, problem)
            continue
        feature, adjective, sentence, _ = review['template']
        rows.append((review['user'], review['item'], review['rating'], sentence, feature, adjective,
                     review['predicted'] if 'predicted' in aspects else None))
        lines.append(number)
    columns = list(zip(*rows)) or [[]] * len(FIELDS)
    records = Records(file, pa.table([pa.array(column, field.type) for column, field in zip(columns, FIELDS)], FIELDS),
                      np.array(lines, np.int64), bad)
    named = zip(*(columns[FIELDS.get_field_index(aspect)] for aspect in aspects)) if aspects else [()] * len(rows)
    return records.events(user_id=records['user'], item_id=records['item'], rating=records['rating'].cast(pa.float32()),
                          review=records['sentence'], aspects=pa.array(
                              [[word for word in words if word] for words in named], pa.list_(pa.string())))


def _problem(review: Any, aspects: Sequence[str]) -> str:
    """What is wrong with a review, '' where nothing is."""
    if type(review) is not dict:
        return f': should be a dictionary, is {_shown(review)}'
    for field in ('user', 'item'):
        if type(review.get(field)) is not str or not review[field].strip():
            return f', field {field}: {_shown(review.get(field))} should be a text that is not empty'
    rating, template = review.get('rating'), review.get('template')
    if type(rating) not in (int, float) or not 1 <= rating <= 5:
        return f', field rating: {_shown(rating)} should be a number from 1 to 5'
    if type(template) is not tuple or len(template) != 4 or any(type(part) is not str for part in template[:3]):
        return f', field template: {_shown(template)} should be (feature, adjective, sentence, score)'
    if 'predicted' in aspects and type(review.get('predicted')) is not str:
        return f', field predicted: {_shown(review.get("predicted"))} should be a text'
    return ''


def _shown(value: Any) -> str:
    """A thing of any size and depth in at most a line or two."""
    return reprlib.repr(value)[:200]


def _entry(name: str, domain: Domain) -> Entry:
    return Entry(functools.partial(explained, name, domain), LICENCE, CITATION, files=(FILE,), by_hand=BY_HAND)


ENTRIES = {
    'tripadvisor': _entry('tripadvisor', HOTELS),
    'peter-yelp': _entry('peter-yelp', PLACES),
    'peter-movies': _entry('peter-movies', MOVIES),
}
