"""Strengths against closed forms and against Hunter's MM algorithm."""

import numpy as np
import pytest

from xrec_jax.metrics import bradley_terry


def by_mm(wins: np.ndarray, steps: int = 20_000) -> np.ndarray:
    """Hunter's minorization-maximization (2004): s_i ← W_i / sum_j n_ij / (s_i + s_j)."""
    size = len(wins)
    met, strength = wins + wins.T, np.ones(size)
    for _ in range(steps):
        for i in range(size):
            strength[i] = (sum(wins[i, j] for j in range(size) if j != i)
                           / sum(met[i, j] / (strength[i] + strength[j]) for j in range(size) if j != i))
    return np.log(strength) - np.log(strength).mean()


def test_two_generators_differ_by_their_log_odds():
    value = bradley_terry.strengths(np.array([[0, 30.5], [10, 0]]))
    assert value[0] - value[1] == pytest.approx(np.log(30.5 / 10))
    assert value.sum() == pytest.approx(0)


def test_wins_as_a_model_expects_them_give_its_strengths():
    true = np.array([3.0, 1.0, -0.5, -3.5])
    wins = 100 / (1 + np.exp(true[None, :] - true[:, None]))
    wins[0, 3] = wins[3, 0] = 0  # a pair that never met
    np.testing.assert_allclose(bradley_terry.strengths(wins), true, atol=1e-8)


@pytest.mark.parametrize('seed', range(3))
def test_maximum_is_that_of_an_independent_solver(seed):
    rng = np.random.default_rng(seed)
    wins = rng.integers(0, 20, size=(5, 5)) / 2
    wins[0] *= 20
    assert bradley_terry.has_maximum(wins)
    np.testing.assert_allclose(bradley_terry.strengths(wins), by_mm(wins * (1 - np.eye(5)), 2000), atol=1e-6)


def test_a_batch_is_solved_as_its_members():
    wins = np.random.default_rng(0).integers(1, 200, size=(2, 7, 4, 4)) ** 2
    together = bradley_terry.strengths(wins)
    assert together.shape == (2, 7, 4)
    for place in np.ndindex(2, 7):
        np.testing.assert_allclose(together[place], bradley_terry.strengths(wins[place]), atol=1e-9)


def test_one_win_in_ten_thousand_is_found():
    wins = np.array([[0, 9999, 9999], [1, 0, 5000], [1, 5000, 0]])
    value = bradley_terry.strengths(wins)
    assert value[0] - value[1] == pytest.approx(np.log(9999), abs=1e-6)


def test_strengths_far_apart_are_found_where_whole_newton_steps_run_away():
    wins = np.array([[0, 0, 0, 1, 0], [726102, 0, 0, 804, 978988], [0, 0, 0, 2, 19], [0, 273726, 21848, 0, 542],
                     [0, 0, 115, 40, 0]])
    value = bradley_terry.strengths(wins)
    expected = ((wins + wins.T) / (1 + np.exp(value[None, :] - value[:, None]))).sum(1)
    np.testing.assert_allclose(expected, wins.sum(1), rtol=1e-6)  # at the maximum, as many wins as were counted


def test_whether_there_is_a_maximum():
    ring = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    line = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]])
    apart = np.kron(np.eye(2), np.array([[0, 1], [1, 0]]))
    assert bradley_terry.has_maximum(np.stack([ring, line])).tolist() == [True, False]
    assert not bradley_terry.has_maximum(apart)
    long = np.roll(np.eye(9), 1, axis=1)  # 0 beats 1 beats 2 … beats 0
    assert bradley_terry.has_maximum(long)
    for wins in (line, apart):
        with pytest.raises(ValueError, match='no finite strengths'):
            bradley_terry.strengths(wins)
    assert (np.diff(bradley_terry.strengths(line, prior=0.5)) < 0).all()


def test_a_prior_is_that_many_wins_for_both_sides_of_pairs_that_met():
    wins = np.array([[0, 4, 0], [1, 0, 2], [0, 3, 0]])
    more = np.array([[0, 4.5, 0], [1.5, 0, 2.5], [0, 3.5, 0]])
    np.testing.assert_allclose(bradley_terry.strengths(wins, prior=0.5), bradley_terry.strengths(more))


@pytest.mark.parametrize('wins', [np.ones((2, 3)), np.ones((1, 1)), np.array([[0, -1], [1, 0]]),
                                  np.array([[0, np.nan], [1, 0]])])
def test_a_table_that_is_none_is_refused(wins):
    with pytest.raises(ValueError, match='wins'):
        bradley_terry.strengths(wins)
