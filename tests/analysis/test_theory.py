"""The simulation of RecPIE's appendix B: each estimator against its own definition, and the rates."""

import csv

import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.analysis import theory


def test_lasso_meets_its_optimality_conditions():
    x, y, _ = theory.draw(jax.random.key(0), 80, 30)
    penalty = 0.2
    beta = np.asarray(theory.lasso(x, y, penalty), np.float64)
    gradient = np.asarray(x, np.float64).T @ (np.asarray(y, np.float64) - np.asarray(x, np.float64) @ beta) / len(y)
    found = beta != 0
    assert 0 < found.sum() < 30
    np.testing.assert_allclose(gradient[found], penalty * np.sign(beta[found]), atol=1e-4)
    assert (np.abs(gradient[~found]) <= penalty + 1e-4).all()


def test_oracle_is_least_squares_on_its_features():
    x, y, beta = theory.draw(jax.random.key(1), 60, 20)
    known = np.asarray(beta) != 0
    expected = np.linalg.lstsq(np.asarray(x, np.float64)[:, known], np.asarray(y, np.float64), rcond=None)[0]
    found = np.asarray(theory.least_squares(x, y, jnp.asarray(known)))
    np.testing.assert_allclose(found[known], expected, atol=1e-4)
    assert not found[~known].any()


def test_errors_fall_with_the_root_of_n_and_knowledge_makes_p_harmless():
    def mean(n, p):
        return [float(x.mean()) for x in theory.errors(jax.random.key(2), n, p, 24)]

    few, many, wide = mean(100, 20), mean(400, 20), mean(100, 160)
    for before, after in zip(few, many):
        assert 0.38 < after / before < 0.65  # a half, by eq. 8 and 9
    assert wide[0] / few[0] > 1.15  # sqrt(log 160 / log 20) = 1.30
    assert abs(wide[1] / few[1] - 1) < 0.25
    np.testing.assert_allclose(few[1], np.sqrt(theory.SPARSITY / 100), rtol=0.2)


def test_eills_finds_the_causes_where_all_features_predict():
    x, y, support = theory.draw_environments(jax.random.key(3), 1000, 6, 6)
    beta, found = theory.eills(x, y)
    np.testing.assert_array_equal(found, support)
    np.testing.assert_allclose(beta, np.where(support, 1.0, 0.0), atol=0.1)
    pooled = np.linalg.lstsq(np.asarray(x.reshape(-1, 6)), np.asarray(y.reshape(-1)), rcond=None)[0]
    assert np.abs(pooled[~np.asarray(support)]).max() > 0.15  # effects of y pass for causes
    one_environment = theory.eills(x[:1], y[:1])[1]
    assert not (one_environment == support).all()  # a single environment cannot tell them apart


def test_the_command_writes_its_figure_and_table(tmp_path, monkeypatch):
    for name, points in (('SAMPLES', (50,)), ('FEATURES', (25,)), ('ENVIRONMENTS', (2,))):
        monkeypatch.setattr(theory, name, points)
    rows = theory.run(tmp_path / 'out', seed=0, trials=2)
    assert (tmp_path / 'out' / 'theory.png').read_bytes().startswith(b'\x89PNG')
    with open(tmp_path / 'out' / 'theory.csv') as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows) and float(read[0]['lasso']) == rows[0]['lasso']
