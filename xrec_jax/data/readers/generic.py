"""The user's own data, in the formats that data come in: csv, JSON lines, parquet, Hugging Face `datasets`.

What is in which column is said by the options, `columns.Columns`; each reader adds how its files are
called and written. Interactions are needed; items and users are files of their own, or columns of the
interactions' file (then items_file is that file too), or nowhere.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from xrec_jax.data.entry import Entry
from xrec_jax.data.ingest import Source
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import columns, hub, nested, quoted
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files(columns.Columns):
    """Names in the data_dir; a name in .gz, or inside an archive there, may leave that out."""

    interactions_file: str = ''
    items_file: str = ''  # '' for none
    users_file: str = ''

    def __post_init__(self):
        super().__post_init__()
        if not self.interactions_file:
            raise UserError(f'interactions_file={self.interactions_file!r}: should be the name of a file')

    @property
    def places(self) -> dict[str, str]:
        return {'interactions': self.interactions_file, 'items': self.items_file, 'users': self.users_file}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Csv(Files):
    interactions_file: str = 'interactions.csv'
    delimiter: str = ','  # '\t', or the two letters \t, for a tab
    quote: str = '"'  # '' where nothing is quoted
    encoding: str = 'utf-8'  # or 'latin-1'
    header: bool = True  # False: the columns are called 1, 2, 3, …


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLines(Files):
    interactions_file: str = 'interactions.jsonl'
    explode: str = ''  # a list in each row, with an interaction an element


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(Files):
    interactions_file: str = 'interactions.parquet'
    explode: str = ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFace(columns.Columns):
    """Splits are as 'train', 'train+test' or, of a subset (a "config"), 'SUBSET:train'."""

    path: str = ''  # OWNER/NAME on the hub, or a folder; a data_dir serves as well
    revision: str = ''  # of the hub's repository: a branch, tag or commit; '' for the newest
    interactions_split: str = 'train'
    items_split: str = ''  # '' for none
    users_split: str = ''
    explode: str = ''


def _files(name: str, stream):
    """A reader of the format `name`; `stream(file, names of columns, bad, options)` gives the rows of a file."""

    def read(files: Mapping[str, RawFile], bad: BadRows, options: Files) -> Source:
        found = {getattr(options, key.strip('{}')): file for key, file in files.items()}
        return columns.source(name, options.places, found[options.interactions_file],
                              lambda place, names: stream(found[place], names, bad, options), options, bad)

    return read


def _csv_rows(file: RawFile, names: Sequence[str], bad: BadRows, options: Csv) -> Iterator[Records]:
    form = quoted.Format(options.delimiter.replace('\\t', '\t'), options.quote, options.encoding)

    def choose(first: list[str]) -> dict[str, int]:
        return positions(file, names, first if options.header else [str(1 + i) for i in range(len(first))])

    return quoted.stream(file, form, choose, bad, header=options.header)


def positions(file: RawFile, names: Sequence[str], there: Sequence[str]) -> dict[str, int]:
    """The position of each of `names` among the columns that are `there`."""
    for name in names:
        if name not in there:
            raise columns.no_column(file.label, name, there)
        if there.count(name) > 1:
            raise UserError(f'{file.label}: has {there.count(name)} columns "{name}"')
    return {name: there.index(name) for name in names}


def _jsonl_rows(file: RawFile, names: Sequence[str], bad: BadRows, options: JsonLines) -> Iterator[Records]:
    return nested.jsonl(file, names, bad, explode=options.explode)


def _parquet_rows(file: RawFile, names: Sequence[str], bad: BadRows, options: Parquet) -> Iterator[Records]:
    return nested.parquet(file, names, bad, explode=options.explode)


def _huggingface(files: Mapping[str, RawFile], bad: BadRows, options: HuggingFace) -> Source:
    del files
    if not options.path:
        raise UserError('path: should be OWNER/NAME on the Hugging Face hub, or a folder')
    places = {'interactions': options.interactions_split, 'items': options.items_split, 'users': options.users_split}
    return columns.source(
        'huggingface', places, hub.place(options.path, options.interactions_split),
        lambda split, names: hub.stream(options.path, split, options.revision, names, bad, options.explode),
        options, bad)


csv = columns.options_of(Csv, _files('csv', _csv_rows))
jsonl = columns.options_of(JsonLines, _files('jsonl', _jsonl_rows))
parquet = columns.options_of(Parquet, _files('parquet', _parquet_rows))
huggingface = columns.options_of(HuggingFace, _huggingface)

NAMES = ('{interactions_file}', '{items_file}', '{users_file}')
BY_HAND = 'put it there, or name another by the options interactions_file, items_file and users_file'
ENTRIES = {
    'csv': Entry(csv, columns.LICENCE, '', files=NAMES, by_hand=BY_HAND),
    'jsonl': Entry(jsonl, columns.LICENCE, '', files=NAMES, by_hand=BY_HAND),
    'parquet': Entry(parquet, columns.LICENCE, '', files=NAMES, by_hand=BY_HAND),
    'huggingface': Entry(huggingface, columns.LICENCE, '', place='path'),
}
