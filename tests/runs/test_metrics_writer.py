"""Rows of metrics.jsonl, through a stop in the middle of a row."""

import jax.numpy as jnp

from xrec_jax.runs.metrics_writer import MetricsWriter, read_metrics, repeatable


def test_rewind_takes_out_later_rows_of_that_phase_and_a_cut_off_row(tmp_path):
    writer = MetricsWriter(tmp_path)
    for phase, step in (('fit', 1), ('align', 1), ('align', 2), ('align', 3)):
        writer.write(phase, step, {'loss': jnp.float32(step)})
    with open(writer.path, 'a') as file:
        file.write('{"phase": "align", "st')
    writer.rewind('align', 1)
    writer.write('align', 2, {'loss': 7})
    assert [repeatable(row) for row in read_metrics(writer.path)] == [
        {'phase': 'fit', 'step': 1, 'loss': 1.0}, {'phase': 'align', 'step': 1, 'loss': 1.0},
        {'phase': 'align', 'step': 2, 'loss': 7.0}]
    assert [row['step'] for row in read_metrics(writer.path, 'fit')] == [1]
    assert 0 < read_metrics(writer.path)[0]['peak_memory_gib_host'] < 1000
