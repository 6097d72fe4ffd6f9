"""Gain against uncertainty, on numbers worked out by hand and on data whose slope is known."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from xrec_jax.analysis import uncertainty
from xrec_jax.errors import UserError


def table(n=400, slope=0.3, seed=0):
    """Two models that disagree by d, and ours, nearer to the target the more so: gain = slope · d."""
    rng = np.random.default_rng(seed)
    d = rng.uniform(0, 0.4, n)
    split = np.where(np.arange(n) % 4 == 0, 'valid', 'test')
    return pa.table({'user_id': [f'u{k % 20}' for k in range(n)], 'item_id': ['i'] * n, 'split': split.tolist(),
                     'rating': np.ones(n), 'liked': np.zeros(n, bool), 'target': np.zeros(n),
                     'A': d + 0.4, 'B': 1 + 2 * d, 'Ours': d + 0.4 - slope * d + rng.normal(0, 0.01, n),
                     'Shuffled': np.full(n, 0.9)})


def test_uncertainty_is_the_scaled_variance_over_models():
    # variances 0, 0.25, 1
    np.testing.assert_allclose(uncertainty.uncertainty(np.array([[1.0, 0, 0], [1, 1, 2]])), [0, 0.25, 1])
    assert not uncertainty.uncertainty(np.ones((3, 5))).any()
    with pytest.raises(ValueError, match='two models'):
        uncertainty.uncertainty(np.ones((1, 5)))


def test_gain_is_positive_where_ours_is_nearer():
    np.testing.assert_allclose(uncertainty.gain(np.array([1.0, 0, 0.5]), np.array([0.9, 0.3, 0.5]),
                                                np.array([0.5, 0.1, 0.5])), [0.4, -0.2, 0])


def test_the_line_is_least_squares_and_users_are_drawn_whole():
    rng = np.random.default_rng(1)
    x = rng.uniform(size=300)
    y = 0.2 - 0.5 * x + rng.normal(0, 0.1, 300)
    found = uncertainty.line(x, y, np.arange(300) // 3)
    slope, intercept = np.polyfit(x, y, 1)
    assert abs(found['slope'] - slope) < 1e-10 and abs(found['intercept'] - intercept) < 1e-10
    t = slope / (np.sqrt(((y - intercept - slope * x)**2).sum() / 298 / ((x - x.mean())**2).sum()))
    assert abs(found['p'] / (2 * scipy.stats.t.sf(abs(t), 298)) - 1) < 1e-6
    assert found['low'] < -0.5 < found['high'] < -0.4
    # every user three times over: examples seem to be many more, users are not
    thrice = uncertainty.line(np.tile(x, 3), np.tile(y, 3), np.tile(np.arange(300) // 3, 3))
    np.testing.assert_allclose([thrice['low'], thrice['high']], [found['low'], found['high']])
    assert np.isnan(uncertainty.line(np.ones(3), np.ones(3), np.arange(3))['p'])


def test_harder_examples_gain_more_where_they_do(tmp_path):
    found = uncertainty.analyse(table(), 'Ours', without=['Shuffled'])
    assert found['baseline'] == 'A' and found['models'] == ['A', 'B', 'Ours'] and found['count'] == 300
    assert found['line']['slope'] > 0 and found['line']['p'] < 1e-6 and found['line']['low'] > 0
    assert [row['examples'] for row in found['deciles']] == [30] * 10
    assert found['deciles'][0]['gain'] < found['deciles'][-1]['gain']
    none = uncertainty.analyse(table(slope=0.0), 'Ours', without=['Shuffled'])
    assert abs(none['line']['slope']) < 0.02
    assert len(uncertainty.draw(found).axes) == 1


def test_runs_of_the_same_examples_stand_side_by_side_and_others_are_refused(tmp_path):
    for name, made in (('one', table()), ('two', table().select([*range(6), 6]).rename_columns(
            [*table().column_names[:6], 'SASRec'])), ('other', table(n=40))):
        (tmp_path / name).mkdir()
        pq.write_table(made, tmp_path / name / 'predictions.parquet')
    joined = uncertainty.read([tmp_path / 'one', tmp_path / 'two'])
    assert joined.column_names[6:] == ['A', 'B', 'Ours', 'Shuffled', 'SASRec']
    with pytest.raises(UserError, match='different examples'):
        uncertainty.read([tmp_path / 'one', tmp_path / 'other'])
    with pytest.raises(UserError, match='Did you mean "Ours"'):
        uncertainty.analyse(joined, 'Our')
    with pytest.raises(UserError, match='does not exist'):
        uncertainty.read([tmp_path])
