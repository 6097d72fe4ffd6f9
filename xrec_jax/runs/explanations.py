"""The table of explanations that a phase writes: `explanations/<phase>.parquet`.

While a phase runs, its rows lie in `explanations/<phase>.parts/<step>.parquet`, one part for each
checkpoint; `finish` joins them. A phase that goes on from step s first drops the parts behind s.
"""

import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xrec_jax.runs.files import write_whole

SCHEMA = pa.schema([
    ('user_id', pa.string()),  # as in the source data
    ('item_id', pa.string()),
    ('kind', pa.string()),  # what the text is for: 'reason'
    ('split', pa.string()),
    ('example', pa.int32()),  # row in the split's examples
    ('text', pa.string()),
    ('llm_score', pa.float32()),  # ExpCTR eq. 8, of the frozen model that reads the text
    ('reward', pa.float32()),  # raw, of the phase that wrote it
    ('num_tokens', pa.int32()),
    ('truncated', pa.bool_()),
    ('step', pa.int32()),  # of the phase
    ('vector', pa.list_(pa.float32())),  # ExpCTR eq. 11; null where it was not encoded
])


class ExplanationWriter:
    """Collects the rows of one phase, part by part."""

    def __init__(self, workdir: pathlib.Path, phase: str):
        self.path = workdir / 'explanations' / f'{phase}.parquet'
        self._parts = self.path.with_suffix('.parts')
        self._rows: list[pa.Table] = []

    @property
    def finished(self) -> bool:
        return self.path.exists()

    def rewind(self, step: int) -> None:
        """Forgets what was written after `step`."""
        self._rows = []
        for part in self._parts.glob('*'):
            if part.suffix != '.parquet' or int(part.stem) > step:
                part.unlink()

    @property
    def last_step(self) -> int:
        """The step of the newest part on disk, 0 without one."""
        return max((int(part.stem) for part in self._parts.glob('*.parquet')), default=0)

    def add(self, **columns) -> None:
        """Adds rows; columns by the names of `SCHEMA`, `vector` float [N, d] or None."""
        vector = columns.pop('vector')
        length = len(columns['text'])
        columns['vector'] = pa.nulls(length, SCHEMA.field('vector').type) if vector is None else list(vector)
        columns = {name: [value] * length if isinstance(value, (str, int)) else value
                   for name, value in columns.items()}
        self._rows.append(pa.table(columns, schema=SCHEMA))

    def flush(self, step: int) -> None:
        """Writes what was added since the last flush as the part of `step`."""
        if self._rows:
            table = pa.concat_tables(self._rows)
            write_whole(self._parts / f'{step:08}.parquet', lambda path: pq.write_table(table, path))
            self._rows = []

    def finish(self) -> pathlib.Path:
        """Joins the parts into the final table."""
        parts = [pq.read_table(part) for part in sorted(self._parts.glob('*.parquet'))]
        table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
        write_whole(self.path, lambda path: pq.write_table(table, path))
        shutil.rmtree(self._parts, ignore_errors=True)
        return self.path


def read_explanations(path: pathlib.Path, split: str | Sequence[str] | None = None) -> pa.Table:
    """The table of a finished phase, or its rows of one split."""
    return pq.read_table(path, filters=None if split is None else [('split', '=', split)])


def vectors(table: pa.Table) -> np.ndarray:
    """The encoded texts, float32 [N, d]."""
    column = table['vector'].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
