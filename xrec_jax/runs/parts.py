"""A table that a phase writes part by part, so that a stopped run goes on from what it has.

While the phase runs, its rows lie in `<name>.parts/<step>-<process>.parquet`, one part for each checkpoint and process;
`manifest.json` beside them, renamed into place when all processes have written theirs, says which count, and up to
which step. `finish` joins them into `<name>.parquet`. A phase that goes on from step s first drops the rows behind s.
"""

import json
from collections.abc import Sequence

import jax
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec_jax.parallel import distributed
from xrec_jax.runs import files
from xrec_jax.runs.files import write_whole


class PartsWriter:
    """Collects rows of `schema` for the file `path`, which ends in .parquet.

    The rows of a table that is split, or rewound when it is finished, have a column 'step'. `split`: every process adds
    rows of its own. Otherwise all add the same ones, and those of process 0 are kept.
    """

    def __init__(self, path: files.Path, schema: pa.Schema, split: bool = False):
        self.path, self.schema = path, schema
        self._parts = path.with_suffix('.parts')
        self.split, self._keeps = split, split or distributed.is_main()
        self._rows: list[pa.Table] = []

    @property
    def finished(self) -> bool:
        return self.path.exists()

    @property
    def last_step(self) -> int:
        """The step up to which there are rows on disk, 0 without any."""
        return self._manifest()['step']

    def rewind(self, step: int) -> None:
        """Forgets what was written after `step`, in a finished table too."""
        self._rows = []
        distributed.barrier(f'{self.path.name}-rewind')  # all have read what they wanted to know
        distributed.main_first(lambda: self._rewind(step) if distributed.is_main() else None)

    def _rewind(self, step: int) -> None:
        manifest = self._manifest()
        if self.finished:  # the state at its end was lost, and the run goes on from an earlier one
            table = files.read_table(self.path)
            files.remove_tree(self._parts)
            manifest = {'step': step, 'parts': [self._name(step)]}
            self._write(manifest['parts'][0], table.filter(pc.less_equal(table['step'], step)))
        kept = [name for name in manifest['parts'] if _step(name) <= step]
        if kept or self._parts.exists():
            self._commit({'step': min(step, manifest['step']), 'parts': kept})
        if self.finished:
            self.path.unlink()
        for part in self._parts.glob('*.parquet*'):
            if part.name not in kept:
                part.unlink()

    def add(self, **columns) -> None:
        """Adds rows; columns by the names of the schema, a text or a number for all rows alike; left out: null."""
        if not self._keeps:
            return
        length = next(len(value) for value in columns.values() if not isinstance(value, (str, int)))
        columns = {name: [value] * length if isinstance(value, (str, int)) else value
                   for name, value in columns.items()}
        absent = {field.name: pa.nulls(length, field.type) for field in self.schema if field.name not in columns}
        self._rows.append(pa.table(columns | absent, schema=self.schema))

    def flush(self, step: int) -> None:
        """Writes what was added since the last flush as the part of `step`; it counts when all processes are here."""
        if self._rows:
            self._write(self._name(step), pa.concat_tables(self._rows))
            self._rows = []
        distributed.barrier(f'{self.path.name}-{step}')
        if distributed.is_main() and self._parts.exists():
            new = sorted(part.name for part in self._parts.glob(f'{step:08}-*.parquet'))
            self._commit({'step': step, 'parts': self._manifest()['parts'] + new})
        distributed.barrier(f'{self.path.name}-{step}-counted')

    def finish(self) -> files.Path:
        """Joins the parts into the final table, a checkpoint's after the other."""
        if distributed.is_main():
            write_whole(self.path, self._join)
            files.remove_tree(self._parts)
        distributed.barrier(f'{self.path.name}-finished')
        return self.path

    def _join(self, path) -> None:
        groups: dict[int, list[str]] = {}
        for name in self._manifest()['parts']:
            groups.setdefault(_step(name), []).append(name)
        with pq.ParquetWriter(path, self.schema) as writer:
            for step in sorted(groups):
                table = pa.concat_tables([files.read_table(self._parts / name) for name in groups[step]])
                writer.write_table(_as_of_one(table) if len(groups[step]) > 1 else table)

    def _name(self, step: int) -> str:
        return f'{step:08}-{jax.process_index():05}.parquet'

    def _write(self, name: str, table: pa.Table) -> None:
        write_whole(self._parts / name, lambda path: pq.write_table(table, path), everywhere=True)

    def _manifest(self) -> dict[str, int | Sequence[str]]:
        path = self._parts / 'manifest.json'
        return json.loads(path.read_text()) if path.exists() else {'step': 0, 'parts': []}

    def _commit(self, manifest: dict) -> None:
        write_whole(self._parts / 'manifest.json', lambda path: path.write_text(json.dumps(manifest) + '\n'))


def _as_of_one(table: pa.Table) -> pa.Table:
    """The processes' rows in the order in which one process would have written them: by step, and in it one kind of
    texts after the other, as they first appear."""
    keys = {'step': table['step']}
    if 'kind' in table.column_names:
        keys['kind'] = table['kind'].combine_chunks().dictionary_encode().indices
    return table.take(pc.sort_indices(pa.table(keys), sort_keys=[(name, 'ascending') for name in keys]))


def _step(name: str) -> int:
    return int(name.split('-')[0])
