"""A table that a phase writes part by part, so that a stopped run goes on from what it has.

While the phase runs, its rows lie in `<name>.parts/<step>.parquet`, one part for each checkpoint; `finish` joins them
into `<name>.parquet`. A phase that goes on from step s first drops the parts behind s.
"""

import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_jax.runs.files import write_whole


class PartsWriter:
    """Collects rows of `schema` for the file `path`, which ends in .parquet."""

    def __init__(self, path: pathlib.Path, schema: pa.Schema):
        self.path, self.schema = path, schema
        self._parts = path.with_suffix('.parts')
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
        """Adds rows; columns by the names of the schema, a text or a number for all rows alike; left out: null."""
        length = next(len(value) for value in columns.values() if not isinstance(value, (str, int)))
        columns = {name: [value] * length if isinstance(value, (str, int)) else value
                   for name, value in columns.items()}
        absent = {field.name: pa.nulls(length, field.type) for field in self.schema if field.name not in columns}
        self._rows.append(pa.table(columns | absent, schema=self.schema))

    def flush(self, step: int) -> None:
        """Writes what was added since the last flush as the part of `step`."""
        if self._rows:
            table = pa.concat_tables(self._rows)
            write_whole(self._parts / f'{step:08}.parquet', lambda path: pq.write_table(table, path))
            self._rows = []

    def finish(self) -> pathlib.Path:
        """Joins the parts into the final table."""
        parts = [pq.read_table(part) for part in sorted(self._parts.glob('*.parquet'))]
        table = pa.concat_tables(parts) if parts else self.schema.empty_table()
        write_whole(self.path, lambda path: pq.write_table(table, path))
        shutil.rmtree(self._parts, ignore_errors=True)
        return self.path
