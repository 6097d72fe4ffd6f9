"""`predictions.parquet`: what every scorer of `judge` predicts, example by example (RecPIE, appendix D.2)."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xrec_jax.phases import scorers
from xrec_jax.phases.task import Task
from xrec_jax.runs.files import write_whole

FILE = 'predictions.parquet'
EXAMPLE = ('user_id', 'item_id', 'split', 'rating', 'liked')  # columns that say which example it is


def example_columns(task: Task, split: str) -> dict[str, pa.Array | np.ndarray]:
    """Columns `EXAMPLE` of the examples of a split; ids are those of the source."""
    examples, dataset = task.examples[split], task.dataset
    return {'user_id': dataset.users['user_id'].take(pa.array(examples.user)),
            'item_id': dataset.items['item_id'].take(pa.array(examples.item)),
            'split': pa.array([split] * len(examples.user), pa.string()),
            'rating': examples.rating, 'liked': examples.label > 0.5}


def write(task: Task, judged: str, scores: dict[str, dict[str, np.ndarray]]) -> None:
    """Writes the scores [S, N] of each scorer by split, the mean of several seeds, and 'target', what they are held
    against: the like, or the rating's place on its scale."""
    low, high = task.dataset.rating_scale
    tables = []
    for split in scorers.SPLITS:
        examples = task.examples[split]
        target = examples.label if judged == 'click' else (examples.rating - low) / (high - low)
        tables.append(pa.table({
            **example_columns(task, split), 'target': target.astype(np.float32),
            **{name: of_split[split].mean(axis=0).astype(np.float32) for name, of_split in scores.items()}}))
    write_whole(task.workdir / FILE, lambda path: pq.write_table(pa.concat_tables(tables), path))
