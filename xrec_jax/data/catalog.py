"""Every dataset by name: found or fetched, and handed to its reader.

1. `CATALOG`: the entries of all readers; a new dataset is a reader with its entry, and a line here
2. `load`: a folder that `prepare` wrote is read as it stands; else the raw files are found in a folder
   (unpacked, gzipped, or in the publisher's archive), fetched where they must and may be, and handed
   to the reader. "simulated" has no raw files: options of its reader draw the world.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from xrec_jax.data import fetch, raw, tables
from xrec_jax.data.entry import Entry
from xrec_jax.data.filters import Filters, describe
from xrec_jax.data.ingest import ingest, narrow
from xrec_jax.data.readers import (
    amazon, bookcrossing, generic, google_local, mind, movielens, recbole, simulated, steam, tripadvisor, yelp)
from xrec_jax.errors import UserError, nearest


CATALOG: Mapping[str, Entry] = {
    **amazon.ENTRIES,
    **bookcrossing.ENTRIES,
    **mind.ENTRIES,
    **movielens.ENTRIES,
    **google_local.ENTRIES,
    **generic.ENTRIES,
    **recbole.ENTRIES,
    **simulated.ENTRIES,
    **steam.ENTRIES,
    **tripadvisor.ENTRIES,
    **yelp.ENTRIES,
}


def entry(name: str) -> Entry:
    """Returns the entry of `name`; UserError names the nearest one."""
    if name not in CATALOG:
        raise UserError(f'unknown dataset "{name}".{nearest(name, CATALOG)}')
    return CATALOG[name]


def load(name: str, data_dir: str | os.PathLike | None = None, *, filters: Filters = Filters(),
         on_bad_row: str = 'raise', out: str | os.PathLike | None = None, **options: Any) -> tables.Dataset:
    """Returns the validated dataset `name`.

    Args:
      name: a key of `CATALOG`.
      data_dir: the folder of the raw files; what is missing is fetched to it where that is allowed. Or
        a folder that `xrec_jax.prepare` wrote, which is read as it stands. Not needed by "simulated".
      filters: which interactions stay. With a prepared folder, those it was made with, or none.
      on_bad_row: 'raise' or 'skip', see `raw.BadRows`. Of no meaning where no rows are parsed.
      out: a folder to write the dataset to, in a stream: data of any size, in little memory.
      **options: of the reader: `entry(name).options`.

    Raises:
      UserError: an unknown name or option (names the nearest), an option of a wrong type or value,
        no `data_dir` where there are raw files, a prepared folder of another dataset, and all that
        is wrong with the files (file, line, column).
    """
    found = entry(name)
    known = found.options
    for key in options:
        if key not in known:
            raise UserError(f'dataset "{name}" has no option "{key}".{nearest(key, known)}')
    bad = raw.BadRows(on_bad_row)
    root = pathlib.Path(data_dir).expanduser() if data_dir else None
    if root and (root / 'dataset.json').is_file():
        dataset = _prepared(name, root, filters, options)
    elif found.reader is None:
        if root:
            raise UserError(f'{root}: holds no prepared dataset (no dataset.json), and "{name}" has '
                            'no raw files: leave data_dir out to draw it')
        dataset = narrow(found.draw(found.world(**options)), filters)
    else:
        if root is None and not found.place:
            raise UserError(f'dataset "{name}" needs the folder of its raw files, or one to fetch '
                            f'them to: give --data_dir=DIR (in a config: data.data_dir)')
        options = known | options
        files = find(found, root, options) if found.files else {}
        return ingest(found.reader(files, bad, **_placed(found, root, options)), filters, out and pathlib.Path(out),
                      recipe={**options, 'catalog': name})
    if out:
        tables.write(dataset, out)
    return dataset


def _placed(found: Entry, root: pathlib.Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options, where `root` may stand for the one that names the data."""
    if not found.place or not root:
        return options
    if options[found.place]:
        raise UserError(f'data_dir={root} and {found.place}={options[found.place]}: both say where the data are; give '
                        'one of them')
    return options | {found.place: str(root)}


def _prepared(name: str, root: pathlib.Path, filters: Filters, options: dict[str, Any]) -> tables.Dataset:
    """Reads what `prepare` wrote; `options` and `filters` may only repeat what is on record there.

    An option at its default says nothing, as it stands so in every config.
    """
    dataset = tables.read(root)
    if (there := dataset.recipe.get('catalog', dataset.name)) != name:
        raise UserError(f'{root}: is the prepared dataset "{there}", not "{name}"; give its '
                        'own name or another data_dir')
    plain = lambda value: json.loads(json.dumps(value))  # tuples are lists there
    record = plain(dict(dataset.recipe))
    for key, value in options.items():
        if key in record and plain(value) not in (record[key], plain(CATALOG[name].options[key])):
            raise UserError(f'{root}: was prepared with {key}={record[key]}, not {value}; give '
                            f'{key}={record[key]} here too, or prepare it again')
    made_with = record.get('filters', describe(Filters()))
    if filters.active and describe(filters) != made_with:
        raise UserError(f'{root}: was prepared with filters: {made_with}; not {describe(filters)}. Leave the filters '
                        'out to take it as it is, or prepare it again')
    return dataset


def find(found: Entry, root: pathlib.Path, options: Mapping[str, Any]) -> dict[str, raw.RawFile]:
    """The raw files of an entry, by their names there; fetched where they are missing."""
    words = found.words(**options)

    def fill(text: str) -> str:
        return text.format(**options, **words)

    if root.is_file():
        raise UserError(f'{root}: is a file; data_dir is the folder that holds {", ".join(map(fill, found.files))}')
    downloads = [dataclasses.replace(d, url=fill(d.url)) for d in found.downloads]
    for download in downloads:
        fetch.verify(download, root)
    filled = {name: fill(name) for name in (*found.files, *found.optional)}
    filled = {name: real for name, real in filled.items() if real}  # '{items_file}' with items_file='' is no file
    needed = [filled[name] for name in found.files if name in filled]
    files = raw.find(root, list(filled.values())) if root.is_dir() else {}
    missing = [name for name in needed if name not in files]
    if missing:
        for download in _downloads_of(missing, downloads, found.by_hand, root, files):
            fetch.fetch(download, root)
        files = raw.find(root, list(filled.values()))
        for name in needed:
            if name not in files:
                raise UserError(f'{root}: holds no {name}, though all was fetched that should hold it: '
                                f'{", ".join(download.url for download in downloads)}')
    return {name: files[real] for name, real in filled.items() if real in files}


def _downloads_of(missing: list[str], downloads: list[fetch.Download], by_hand: str, root: pathlib.Path,
                  files: Mapping[str, raw.RawFile]) -> list[fetch.Download]:
    """What to fetch for the files that are `missing` beside those that are there, `files`."""
    if not downloads:
        raise UserError(f'{root}: holds no {", ".join(missing)}; {by_hand}')
    alone = {download.name.removesuffix('.gz'): download for download in downloads}
    if not files:
        # What the reader can do without comes first: broken off in between, the same command still finds more to do.
        needed = [alone.get(name.removesuffix('.gz')) for name in missing]
        return sorted((download for download in downloads if not (root / download.name).exists()),
                      key=lambda download: download in needed)
    for name in missing:
        if name.removesuffix('.gz') not in alone:  # it comes in an archive: someone took the folder apart
            raise UserError(f'{root / name}: no such file, though {next(iter(files.values())).label} is there; get '
                            + ' or '.join(download.url for download in downloads))
    return [alone[name.removesuffix('.gz')] for name in missing]
