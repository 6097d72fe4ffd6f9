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
from xrec_jax.data.filters import Filters
from xrec_jax.data.ingest import ingest
from xrec_jax.data.readers import movielens, simulated
from xrec_jax.errors import UserError, nearest


CATALOG: Mapping[str, Entry] = {
    **movielens.ENTRIES,
    **simulated.ENTRIES,
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
      on_bad_row: 'raise' or 'skip', see `raw.BadRows`.
      out: a folder to write the dataset to, in a stream: data of any size, in little memory.
      **options: of the reader: `entry(name).options`.

    Raises:
      UserError: an unknown name or option (names the nearest), an option of a wrong type or value,
        no `data_dir` where there are raw files, a prepared folder of another dataset, and all that
        is wrong with the files (file, line, column).
    """
    found = entry(name)
    for key in options:
        if key not in found.options:
            raise UserError(f'dataset "{name}" has no option "{key}".{nearest(key, found.options)}')
    root = pathlib.Path(data_dir).expanduser() if data_dir else None
    if root and (root / 'dataset.json').is_file():
        dataset = _prepared(name, root, options)
    elif found.reader is None:
        if root:
            raise UserError(f'{root}: holds no prepared dataset (no dataset.json), and "{name}" has '
                            'no raw files: leave data_dir out to draw it')
        dataset = tables.validate(found.draw(found.world(**options)))
    else:
        if root is None:
            raise UserError(f'dataset "{name}" needs the folder of its raw files, or one to fetch '
                            f'them to: give --data_dir=DIR (in a config: data.data_dir)')
        bad = raw.BadRows(on_bad_row)
        options = found.options | options
        files = find(found, root, options)
        dataset = ingest(found.reader(files, bad, **options), filters, out and pathlib.Path(out), recipe=options)
        return dataset
    if out:
        tables.write(dataset, out)
    return dataset


def _prepared(name: str, root: pathlib.Path, options: dict[str, Any]) -> tables.Dataset:
    """Reads what `prepare` wrote; `options` may only repeat what is on record there."""
    dataset = tables.read(root)
    if dataset.name != name:
        raise UserError(f'{root}: is the prepared dataset "{dataset.name}", not "{name}"; give its '
                        'own name or another data_dir')
    record = json.loads(json.dumps(dict(dataset.recipe)))  # tuples are lists there
    for key, value in options.items():
        wanted = list(value) if isinstance(value, tuple) else value
        if key in record and wanted != record[key]:
            raise UserError(f'{root}: was prepared with {key}={record[key]}, not {value}; leave '
                            f'{key} or data_dir out')
    return dataset


def find(found: Entry, root: pathlib.Path, options: Mapping[str, Any]) -> dict[str, raw.RawFile]:
    """The raw files of an entry, by their names there; fetched where they are missing."""
    if root.is_file():
        raise UserError(f'{root}: is a file; data_dir is the folder that holds {", ".join(found.files)}')
    fill = lambda text: text.format(**options)
    downloads = [dataclasses.replace(d, url=fill(d.url)) for d in found.downloads]
    for download in downloads:
        fetch.verify(download, root)
    wanted = {fill(name): name for name in (*found.files, *found.optional)}
    files = raw.find(root, list(wanted)) if root.is_dir() else {}
    missing = [fill(name) for name in found.files if fill(name) not in files]
    if missing and files:
        there = next(iter(files.values()))
        raise UserError(f'{root / missing[0]}: no such file, though {there.label} is there; get '
                        + (downloads[0].url if downloads else found.by_hand))
    if missing:
        if not downloads:
            raise UserError(f'{root}: holds no {", ".join(missing)}; {found.by_hand}')
        for download in downloads:
            fetch.fetch(download, root)
        files = raw.find(root, list(wanted))
    return {name: files[filled] for filled, name in wanted.items() if filled in files}
