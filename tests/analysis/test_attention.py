"""Attention on reasons, for high and low ratings."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec_jax.analysis import attention
from xrec_jax.errors import UserError


def write(folder, seed, shift=0.1):
    rng = np.random.default_rng(seed)
    liked = np.arange(200) % 3 == 0
    pos = 0.2 + shift * liked + rng.normal(0, 0.02, 200)
    folder.mkdir()
    pq.write_table(pa.table({
        'user_id': [f'u{n % 25}' for n in range(200)], 'split': ['test'] * 190 + ['valid'] * 10, 'liked': liked,
        'pos': pos.astype(np.float32), 'neg': (0.45 - pos).astype(np.float32)}), folder / 'attention.parquet')
    return folder


def test_high_ratings_look_at_positive_reasons_where_they_do(tmp_path):
    table = attention.read([write(tmp_path / 'a', 0), write(tmp_path / 'b', 1)], 'test')
    found = attention.analyse(table)
    assert found['high']['examples'] == 2 * 64 and found['low']['examples'] == 2 * 126
    assert found['high']['users'] == 50  # a user of another run is another one
    assert found['high']['difference'] > 0.1 and found['high']['p'] < 0.01
    assert found['low']['difference'] < -0.02 and found['low']['pos above neg'] < 0.2
    for one in found.values():
        assert all(counts.sum() == one['examples'] for counts in one['counts'].values())
    rows = attention.histogram_rows(found)
    assert len(rows) == 2 * attention.BINS and sum(row['positive reasons'] for row in rows) == 2 * 190
    assert len(attention.draw(found).axes) == 2


def test_a_run_without_attention_is_named_and_one_without_low_ratings_is_drawn(tmp_path):
    with pytest.raises(UserError, match='judge.attention writes it'):
        attention.read([tmp_path], 'test')
    table = attention.read([write(tmp_path / 'a', 0)], 'test')
    found = attention.analyse(table.filter(table['liked']))
    assert found['low'] == {'examples': 0} and len(attention.histogram_rows(found)) == attention.BINS
    attention.draw(found)
