"""Hugging Face `datasets`: by its name on the hub, or from a folder.

A folder is either one that `save_to_disk` wrote, of one table or of several splits, or one of data files
(csv, JSON lines, parquet; many of them, "train-00000-of-00008.parquet"), which the library finds and
reads as it does on the hub. What it fetches or parses it keeps in its own cache (HF_HOME).
"""

import io
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import nested
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError, nearest
from xrec_jax.runs import progress


def place(path: str, split: str) -> RawFile:
    """Names the rows of `split` in messages; there is no file."""
    return RawFile(f'{path}, {split}', io.BytesIO, unit='row')


def stream(path: str, split: str, revision: str, names: Sequence[str], bad: BadRows, explode: str) -> Iterator[Records]:
    """Yields the rows of a split, as 'train', 'train+test' or 'SUBSET:train'.

    Raises UserError for all that the library does, with its words.
    """
    found = _load(path, split, revision)
    found.reset_format()

    def read(ways: Sequence[tuple[str, ...]]) -> Iterator[pa.RecordBatch]:
        rows = found.select_columns(list(dict.fromkeys(keys[0] for keys in ways))).with_format('arrow')
        for table in rows.iter(nested.BATCH):
            yield from table.to_batches()

    yield from nested.batches(place(path, split), found.features.arrow_schema, names, bad, explode=explode, read=read)


def _load(path: str, split: str, revision: str) -> Any:
    """Returns the `datasets.Dataset`."""
    subset, parts = re.fullmatch(r'(?:([^:[]*):)?(.*)', split).groups()  # 'train[:9]' names no subset
    folder = pathlib.Path(path).expanduser()
    try:
        import datasets  # takes seconds, and nothing else needs it

        if not progress.CONSOLE.is_terminal:
            datasets.disable_progress_bars()
        if (folder / 'dataset_dict.json').is_file() or (folder / 'state.json').is_file():
            if subset or revision:
                raise UserError(f'{path}: was written by save_to_disk and has splits only, no subset or revision')
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.Dataset):
                saved = {str(saved.split or 'train'): saved}
            for part in parts.split('+'):
                if part not in saved:
                    raise UserError(f'{path}: has no split "{part}".{nearest(part, saved)}')
            return datasets.concatenate_datasets([saved[part] for part in parts.split('+')])
        if not folder.is_dir() and path.startswith(('.', '/', '~')):
            raise UserError(f'{path}: no such folder')
        return datasets.load_dataset(str(folder) if folder.is_dir() else path, subset or None, split=parts,
                                     revision=revision or None)
    except UserError:
        raise
    except Exception as error:  # a library that reads anything from anywhere can raise anything
        reason = ' '.join(str(error).split())[:500]
        raise UserError(f'{path}, {split}: Hugging Face datasets cannot load it ({type(error).__name__}: {reason})'
                        ) from error
