"""The table of explanations that a phase writes: `explanations/<phase>.parquet`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from xrec_jax.runs import files
from xrec_jax.runs.parts import PartsWriter

SCHEMA = pa.schema([
    ('user_id', pa.string()),  # as in the source data
    ('item_id', pa.string()),
    ('kind', pa.string()),  # what the text is for: 'reason', 'positive', 'negative'
    ('split', pa.string()),  # of the example; what else was asked for has the name of its source: `phases.requests`
    ('group', pa.string()),  # the recommender whose item is explained; null for the examples of a split
    ('example', pa.int32()),  # row in the split's examples, or among the requests
    ('text', pa.string()),
    ('llm_score', pa.float32()),  # ExpCTR eq. 8, of the frozen model that reads the text
    ('reward', pa.float32()),  # raw, of the phase that wrote it
    ('num_tokens', pa.int32()),
    ('truncated', pa.bool_()),
    ('in_form', pa.bool_()),  # whether it has the form that was asked for; null where none was
    ('step', pa.int32()),  # of the phase
    ('vector', pa.list_(pa.float32())),  # ExpCTR eq. 11; null where it was not encoded
])


class ExplanationWriter(PartsWriter):
    """Collects the rows of one phase, part by part; `split` as in `PartsWriter`."""

    def __init__(self, workdir: files.Path, phase: str, split: bool = False):
        super().__init__(workdir / 'explanations' / f'{phase}.parquet', SCHEMA, split)

    def add(self, *, vector: np.ndarray | None = None, **columns) -> None:
        """Adds rows; columns by the names of `SCHEMA`, `vector` float [N, d] or None."""
        super().add(**columns, **({} if vector is None else {'vector': list(vector)}))


def read_explanations(path: files.Path, split: str | Sequence[str] | None = None, kind: str | None = None
                      ) -> pa.Table:
    """The table of a finished phase, or its rows of one split, of one kind."""
    filters = [(name, '=', value) for name, value in (('split', split), ('kind', kind)) if value is not None]
    return files.read_table(path, filters or None)


def newest(explanations: Mapping[str, files.Path], name: str) -> files.Path:
    """The file of the newest phase `explain(name)` among `RunState.explanations`."""
    return [path for phase, path in explanations.items() if phase.endswith(f'-explain-{name}')][-1]


def vectors(table: pa.Table) -> np.ndarray:
    """The encoded texts, float32 [N, d]."""
    column = table['vector'].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
