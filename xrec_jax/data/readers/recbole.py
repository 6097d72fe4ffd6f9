"""RecBole's atomic files: NAME.inter, and, where they are there, NAME.item and NAME.user.

Tab-separated text without quotes, in UTF-8. The first line names each field with its type:
"user_id:token", "rating:float", "genre:token_seq" (words, with blanks between them), "vector:float_seq".
Titles are a "token_seq" too, and are taken whole; attributes are split where their type says so. Times are
floats of seconds. A set made of clicks has no rating, and some have no time: rating= and timestamp= (empty).
The names of all but the ids differ by set: title=movie_title, attributes=genre for MovieLens.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from xrec_jax.data import tables
from xrec_jax.data.entry import Entry
from xrec_jax.data.ingest import Source
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import cells, columns, generic, quoted
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

TYPES = ('token', 'token_seq', 'float', 'float_seq')
SUFFIXES = {'interactions': '{prefix}.inter', 'items': '{prefix}.item', 'users': '{prefix}.user'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecBole(columns.Columns):
    prefix: str = '*'  # NAME, of the files; '*' where only one set is there
    delimiter: str = '\t'  # RecBole's field_separator
    separator: str = ' '  # its seq_separator


def _read(files: Mapping[str, RawFile], bad: BadRows, options: RecBole) -> Source:
    places = {role: name if name in files else '' for role, name in SUFFIXES.items()}
    return columns.source('recbole', places, files['{prefix}.inter'],
                          lambda place, names: _rows(files[place], names, bad, options), options, bad)


def _rows(file: RawFile, names: Sequence[str], bad: BadRows, options: RecBole) -> Iterator[Records]:
    form = quoted.Format(options.delimiter.replace('\\t', '\t'), quote='')
    types = {}

    def choose(first: list[str]) -> dict[str, int]:
        for field in first:
            name, _, types[name] = field.partition(':')
            if not name or types[name] not in TYPES:
                raise UserError(f'{file.label}, line 1: "{field[:80]}" should be NAME:TYPE, with a type of '
                                f'{", ".join(TYPES)}, and {form.delimiter!r} between fields')
        return generic.positions(file, names, [field.partition(':')[0] for field in first])

    for part in quoted.stream(file, form, choose, bad):
        for name in {options.attributes, options.aspects} & set(names):
            if types[name] == 'token':  # "Sci-Fi & Fantasy" is one word then
                at = part.columns.column_names.index(name)
                part.columns = part.columns.set_column(at, name, cells.one_word(tables.one_chunk(part[name])))
        yield part


recbole = columns.options_of(RecBole, _read)
ENTRIES = {
    'recbole': Entry(
        recbole, columns.LICENCE, 'W. X. Zhao et al.: RecBole: Towards a Unified, Comprehensive and Efficient '
        'Framework for Recommendation Algorithms. CIKM 2021, doi:10.1145/3459637.3482016',
        files=('{prefix}.inter',), optional=('{prefix}.item', '{prefix}.user'),
        by_hand='put NAME.inter there, and say prefix=NAME where there are several (recbole.io/dataset_list.html)'),
}
