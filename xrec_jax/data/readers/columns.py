"""The user's own data: which of their columns is what.

1. `Columns`: the column map, options of every reader of the user's own data
2. `source`: the interactions, users and items of rows that a format's reader gives, one file for each or
   one file for several: where the items' file is the interactions' file, titles come from there too
3. `_interactions`, `_users`, `_items`: rows → columns of the tables

A blank cell is a value that is not known: no rating, no time, no review, no title, no age. A blank id is
refused. HTML entities in titles and attributes are unescaped; all else stays as it stands.
"""

import dataclasses
import datetime
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import ingest, tables
from xrec_jax.data.domains import Domain
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import cells, records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError, nearest

LICENCE = 'that of whoever gave the data; it is not known here'


# ------------------------------------------------------------------------------------- the column map


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the user's columns, '' where there is none; and what stands in them.

    Raises UserError for a value of another type than its default, or one that cannot be meant.
    """

    user_id: str = 'user_id'
    item_id: str = 'item_id'
    rating: str = 'rating'
    timestamp: str = 'timestamp'
    review: str = ''
    aspects: str = ''
    items_item_id: str = ''  # in the items' file; '' where it has the name of item_id
    title: str = 'title'
    attributes: str = ''
    details: str = ''  # one or more, with commas between them
    users_user_id: str = ''  # in the users' file; '' where it has the name of user_id
    profile: str = ''  # one or more, with commas between them
    separator: str = '|'  # of the words in one cell of attributes or aspects; '' for one word a cell
    rating_low: float = 1.0
    rating_high: float = 5.0
    unrated: str = ''  # a rating that says that there is none, as '0' or '-1'
    timestamp_unit: str = 's'  # or 'ms', 'iso' (2015-01-31 12:00:00), or a format of strptime, as '%d.%m.%Y'
    noun: str = 'item'  # the words for prompts
    nouns: str = 'items'
    consume: str = 'choose'
    consumed: str = 'chose'

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not kind:
                raise UserError(f'{field.name}={value!r}: should be of the kind of {field.default!r}')
        for name in ('user_id', 'item_id'):
            if not getattr(self, name):
                raise UserError(f'{name}={getattr(self, name)!r}: should be the name of a column')
        if not self.rating_low < self.rating_high:
            raise UserError(f'rating_low={self.rating_low:g} and rating_high={self.rating_high:g}: the lower end comes '
                            'first')
        if self.unrated and not re.search(cells.NUMBER, self.unrated):
            raise UserError(f'unrated={self.unrated!r}: should be a number, or empty')
        for name in ('details', 'profile'):
            keys = [_key(column) for column in _several(getattr(self, name))]
            if len(set(keys)) < len(keys):
                raise UserError(f'{name}={getattr(self, name)!r}: two of them would both be called '
                                f'"{max(keys, key=keys.count)}"')
        if '%' in self.timestamp_unit:
            try:
                datetime.datetime.strptime('', self.timestamp_unit)
            except (ValueError, re.error) as error:
                if 'does not match' not in str(error):
                    raise UserError(f'timestamp_unit={self.timestamp_unit!r}: {error}') from error
        elif self.timestamp_unit not in ('s', 'ms', 'iso'):
            raise UserError(f'timestamp_unit={self.timestamp_unit!r}: should be s, ms, iso or a format of strptime, as '
                            '%d.%m.%Y')

    @property
    def of_interactions(self) -> list[str]:
        return [self.user_id, self.item_id,
                *filter(None, (self.rating, self.timestamp, self.review, self.aspects))]

    @property
    def of_users(self) -> list[str]:
        return [self.users_user_id or self.user_id, *_several(self.profile)]

    @property
    def of_items(self) -> list[str]:
        return [self.items_item_id or self.item_id, *filter(None, (self.title, self.attributes)),
                *_several(self.details)]


def _several(names: str) -> list[str]:
    return [name.strip() for name in names.split(',') if name.strip()]


def _key(column: str) -> str:
    """'product.Brand' → 'brand'."""
    return column.rsplit('.', 1)[-1].lower()


def options_of(kind: type[Columns], read: Callable[[Mapping[str, RawFile], BadRows, Any], ingest.Source]
               ) -> Callable[..., ingest.Source]:
    """`read(files, bad, options)` as a reader whose options are the fields of the dataclass `kind`."""

    def reader(files: Mapping[str, RawFile], bad: BadRows, **options) -> ingest.Source:
        return read(files, bad, kind(**options))

    # The two dozen options stand in one place instead of in five signatures; `Entry.options` lists them.
    files, bad, _ = inspect.signature(reader).parameters.values()
    reader.__signature__ = inspect.Signature([files, bad, *inspect.signature(kind).parameters.values()])
    return reader


def no_column(label: str, name: str, names: Iterable[str]) -> UserError:
    """For a column that a file, or another place called `label`, does not have."""
    there = list(names)
    hint = nearest(name, there)
    return UserError(f'{label}: has no column "{name}".{hint}'
                     + (f' It has {", ".join(there)[:500]}.' if 'Known' not in hint else '')
                     + ' Name the columns in the options; an empty name says that there is none')


# ----------------------------------------------------------------------------------------- the source


def source(name: str, places: Mapping[str, str], file: RawFile,
           rows: Callable[[str, Sequence[str]], Iterator[Records]], columns: Columns, bad: BadRows) -> ingest.Source:
    """What `ingest` reads.

    Args:
      places: 'interactions', 'users' and 'items' → where their rows are, '' for none.
      file: of the interactions.
      rows: (place, names of columns) → the rows there, with (at least) those columns, of any type.
    """
    makers = {'users': (tables.USERS, columns.of_users, _users), 'items': (tables.ITEMS, columns.of_items, _items)}
    for role, names in (('items', ('attributes', 'details')), ('users', ('profile',))):
        for option in names:
            if getattr(columns, option) and not places[role]:
                raise UserError(f'{option}={getattr(columns, option)}: names columns of the {role}, and there is no '
                                f'file of {role}; it may be the interactions\' own file')
    beside = {role: makers[role] for role in makers if places[role] == places['interactions']}
    found: dict[str, list[pa.Table]] = {role: [] for role in beside}

    def interactions() -> Iterator[pa.Table]:
        names = dict.fromkeys([*columns.of_interactions, *(name for _, more, _ in beside.values() for name in more)])
        seen = {role: set() for role in beside}
        for part in rows(places['interactions'], list(names)):
            events = part.events(**_interactions(part, columns))
            for role, (schema, (key, *_), make) in beside.items():
                new = _not_seen(part, key, seen[role])
                found[role].append(new.table(schema, **make(new, columns)))
            yield events

    def owners(role: str) -> Callable[[], Iterable[pa.Table]]:
        if not places[role]:
            return ingest.nothing
        if role in beside:
            return lambda: found[role]
        schema, names, make = makers[role]
        return lambda: [_each_once(rows(places[role], list(dict.fromkeys(names))), names[0],
                                   lambda part: part.table(schema, **make(part, columns)))]

    low, high = (float(np.float32(end)) for end in (columns.rating_low, columns.rating_high))  # as ratings are
    return ingest.Source(
        name=name, file=file, interactions=interactions(), users=owners('users'), items=owners('items'),
        rating_scale=(low, high), domain=Domain(columns.noun, columns.nouns, columns.consume, columns.consumed),
        licence=LICENCE, bad=bad)


def _not_seen(part: Records, key: str, seen: set[str]) -> Records:
    """The first row of each id in the column `key` that is not in `seen`, where all are then."""
    rows = np.flatnonzero(part.keep)
    ids = tables.one_chunk(cells.texts(part, key)).take(pa.array(rows)).dictionary_encode()
    _, first = np.unique(ids.indices.to_numpy(), return_index=True)  # [distinct ids], as the dictionary is
    distinct = ids.dictionary.to_pylist()
    rows = rows[[first[i] for i, value in enumerate(distinct) if value not in seen]]
    seen.update(distinct)
    return Records(part.file, part.columns.take(pa.array(rows)), part.lines[rows], part.bad)


def _each_once(parts: Iterable[Records], key: str, make: Callable[[Records], pa.Table]) -> pa.Table:
    """All users or items of a file; an id that stands in an earlier row, in the column `key`, is reported."""
    made, lines = [], []
    for part in parts:
        made.append(make(part))
        lines.append(part.lines[part.keep])
    whole = pa.concat_tables(made)
    together = Records(part.file, pa.table({key: whole[0]}), np.concatenate(lines), part.bad)
    records.unique(together, key)
    return whole.filter(pa.array(together.keep))


def _interactions(part: Records, columns: Columns) -> dict[str, Any]:
    found = {'user_id': cells.ids(part, columns.user_id), 'item_id': cells.ids(part, columns.item_id)}
    if columns.rating:
        found['rating'] = _ratings(part, columns)
    if columns.timestamp:
        found['timestamp'] = cells.seconds(part, columns.timestamp, columns.timestamp_unit)
    if columns.review:
        found['review'] = cells.blank_to_null(cells.texts(part, columns.review))
    if columns.aspects:
        words = cells.words(part, columns.aspects, columns.separator)
        found['aspects'] = pc.if_else(pc.equal(pc.list_value_length(words), 0), pa.scalar(None, words.type), words)
    return found


def _users(part: Records, columns: Columns) -> dict[str, Any]:
    return {'user_id': cells.ids(part, columns.of_users[0]), **_map(part, 'profile', columns.profile)}


def _items(part: Records, columns: Columns) -> dict[str, Any]:
    found = {'item_id': cells.ids(part, columns.of_items[0]), **_map(part, 'details', columns.details)}
    if columns.title:
        title = pc.utf8_trim_whitespace(cells.texts(part, columns.title))
        found['title'] = records.unescaped(cells.blank_to_null(title))
    if columns.attributes:
        found['attributes'] = cells.words(part, columns.attributes, columns.separator)
    return found


def _ratings(part: Records, columns: Columns) -> pa.Array:
    """float32[N], null where blank or `unrated`."""
    should = (f'should be a number from {columns.rating_low:g} to {columns.rating_high:g} (rating_low, rating_high'
              + (f'; {columns.unrated} for none)' if columns.unrated else ')'))
    values = cells.numbers(part, columns.rating, should)
    if columns.unrated:
        values = np.where(values == float(columns.unrated), np.nan, values)
    none = np.isnan(values)
    part.require(none | (values >= columns.rating_low) & (values <= columns.rating_high), columns.rating, should)
    return pa.array(values.astype(np.float32), mask=none)


def _map(part: Records, role: str, names: str) -> dict[str, pa.MapArray]:
    """{role: one map a row of the columns `names`}; nothing where there are none."""
    texts = {_key(name): pc.utf8_trim_whitespace(cells.texts(part, name)) for name in _several(names)}
    return {role: records.maps(texts)} if texts else {}
