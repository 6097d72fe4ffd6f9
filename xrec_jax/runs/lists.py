"""Recommendations by user, ready to be served: `store/recommendations-<predictor>.arrow`, sorted by user.

As the store of explanations (`runs.store`) it is mapped into memory, and a user is found by halving. `made_by` in its
metadata is the phase whose predictor ranked; lists of another phase are out of date.
"""

import bisect
from collections.abc import Iterable

import pyarrow as pa

from xrec_jax.errors import UserError
from xrec_jax.runs import files

SCHEMA = pa.schema([('user_id', pa.string()), ('item_id', pa.list_(pa.string())), ('title', pa.list_(pa.string())),
                    ('score', pa.list_(pa.float32()))])


def place(workdir: files.Path, predictor: str) -> files.Path:
    return workdir / 'store' / f'recommendations-{predictor}.arrow'


def write(workdir: files.Path, predictor: str, made_by: str, k: int, parts: Iterable[pa.Table]) -> None:
    """Writes lists of `k` items at most; `parts` have `SCHEMA`, and users in the order of their ids."""
    schema = SCHEMA.with_metadata({'made_by': made_by, 'k': str(k), 'predictor': predictor})

    def write(partial: files.Path) -> None:
        with pa.OSFile(str(partial), 'wb') as file, pa.ipc.new_file(file, schema) as writer:
            for part in parts:
                writer.write_table(part.replace_schema_metadata(schema.metadata))

    files.write_whole(place(workdir, predictor), write)


class Lists:
    """The stored lists of a predictor."""

    def __init__(self, path: files.Path):
        self.path = path
        try:
            source = path.read_bytes() if files.is_remote(path) else pa.memory_map(str(path))
            self.table = pa.ipc.open_file(source).read_all()
            told = {key.decode(): value.decode() for key, value in self.table.schema.metadata.items()}
            self.k, self.made_by, self.predictor = int(told['k']), told['made_by'], told['predictor']
        except (pa.ArrowInvalid, KeyError, ValueError, AttributeError) as error:
            raise UserError(f'{path}: damaged ({error}); delete it, and it is made anew.') from error
        self._chunks = self.table['user_id'].chunks
        self._starts = [0]
        for chunk in self._chunks:
            self._starts.append(self._starts[-1] + len(chunk))

    def __len__(self) -> int:
        return len(self.table)

    def find(self, user: str, k: int) -> list[dict] | None:
        """The first `k` items of a user's list, best first: item_id, title, score; None for a user without a list."""
        row = bisect.bisect_left(range(len(self)), user, key=self._user)
        if row == len(self) or self._user(row) != user:
            return None
        names = ('item_id', 'title', 'score')
        columns = [self.table[name][row].as_py()[:k] for name in names]
        return [dict(zip(names, one)) for one in zip(*columns)]

    def _user(self, row: int) -> str:
        chunk = bisect.bisect_right(self._starts, row) - 1
        return self._chunks[chunk][row - self._starts[chunk]].as_py()
