"""Tables of explanations: parts, rewinding, joining."""

import numpy as np
import pytest

from xrec_jax.runs.explanations import ExplanationWriter, read_explanations, vectors


def add(writer, step, count=2, vector=True):
    writer.add(user_id=['u1'] * count, item_id=['i2'] * count, kind='reason', split='test',
               example=np.arange(count, dtype=np.int32), text=[f'text {step}'] * count, llm_score=[0.5] * count,
               reward=[0.25] * count, num_tokens=[3] * count, truncated=[False] * count, step=step,
               vector=np.full((count, 4), step, np.float32) if vector else None)


def test_a_rewound_writer_ends_with_the_table_of_an_unbroken_one(tmp_path):
    unbroken, broken = (ExplanationWriter(tmp_path / name, '01-explain-a') for name in 'ab')
    for step in (1, 2, 3):
        add(unbroken, step)
        unbroken.flush(step)
    add(broken, 1)
    broken.flush(1)
    add(broken, 2)
    broken.flush(2)
    again = ExplanationWriter(tmp_path / 'b', '01-explain-a')  # after a stop: the checkpoint was of step 1
    assert again.last_step == 2 and not again.finished
    again.rewind(1)
    for step in (2, 3):
        add(again, step)
        again.flush(step)
    first, second = unbroken.finish(), again.finish()
    assert read_explanations(first).equals(read_explanations(second))
    assert [path.name for path in first.parent.iterdir()] == ['01-explain-a.parquet']
    np.testing.assert_array_equal(vectors(read_explanations(first))[:, 0], [1, 1, 2, 2, 3, 3])


def test_texts_that_are_not_encoded_have_no_vector(tmp_path):
    writer = ExplanationWriter(tmp_path, 'p')
    add(writer, 1, vector=False)
    writer.flush(1)
    assert read_explanations(writer.finish(), 'test')['vector'].null_count == 2


def test_a_full_disk_leaves_earlier_parts_alone(tmp_path, monkeypatch):
    writer = ExplanationWriter(tmp_path, 'p')
    add(writer, 1)
    writer.flush(1)
    add(writer, 2)

    def full(table, path):
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('pyarrow.parquet.write_table', full)
    with pytest.raises(OSError):
        writer.flush(2)
    assert {path.name for path in (tmp_path / 'explanations' / 'p.parts').iterdir()} == {
        '00000001-00000.parquet', 'manifest.json'}
