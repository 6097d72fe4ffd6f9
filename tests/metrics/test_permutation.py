"""The permutation test against all permutations of a small sample, and where it must and must not find something."""

import itertools

import numpy as np
import pytest

from xrec_jax.metrics import permutation


def test_p_is_that_of_all_permutations():
    values = np.array([3.0, 5, 6, 9, 1, 2, 4, 2.5, 3.5])
    second = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], bool)
    seen = abs(values[second].mean() - values[~second].mean())
    every = []
    for chosen in itertools.combinations(range(9), 4):
        dealt = np.isin(np.arange(9), chosen)
        every.append(abs(values[dealt].mean() - values[~dealt].mean()) >= seen - 1e-12)
    got = permutation.difference_of_means(values, second, permutations=20_000, seed=0)
    assert got['p'] == pytest.approx(np.mean(every), abs=0.005) and 0 < got['p'] < 0.1
    assert got['first'] == pytest.approx(2.6) and got['second'] == 5.75 and got['difference'] == pytest.approx(3.15)
    pooled = (4 * np.var(values[~second], ddof=1) + 3 * np.var(values[second], ddof=1)) / 7
    assert got['cohens_d'] == pytest.approx(3.15 / np.sqrt(pooled))
    assert got == permutation.difference_of_means(values, second, permutations=20_000, seed=0)


def test_p_is_spread_evenly_where_groups_are_alike():
    rng = np.random.default_rng(0)
    found = [permutation.difference_of_means(rng.normal(size=30), np.arange(30) < 9, 199, seed)['p']
             for seed in range(400)]
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.045)
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_a_clear_difference_has_the_least_p_there_is():
    values = np.concatenate([np.zeros(40), np.ones(40)]) + np.random.default_rng(0).normal(0, 0.1, 80)
    got = permutation.difference_of_means(values, np.arange(80) >= 40, permutations=999)
    assert got['p'] == 1 / 1000 and got['cohens_d'] > 5
    assert (got['count_first'], got['count_second']) == (40, 40)


def test_equal_values_differ_in_nothing():
    got = permutation.difference_of_means(np.full(6, 0.1), np.arange(6) < 3, permutations=50)
    assert got['p'] == 1 and got['difference'] == pytest.approx(0, abs=1e-12) and np.isnan(got['cohens_d'])


@pytest.mark.parametrize('values, second, told', [
    ([1, 2, 3], [True, False, False], 'two units'), ([1, 2], [True], 'alike'), ([1, 2, np.nan, 4], [1, 1, 0, 0],
                                                                                'finite')])
def test_what_cannot_be_tested_is_refused(values, second, told):
    with pytest.raises(ValueError, match=told):
        permutation.difference_of_means(values, second)


def test_sign_flip_is_that_of_all_signs():
    differences = np.array([0.5, 1.0, -0.2, 0.8, 0.3, 0.9, -0.1])
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=7)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert permutation.sign_flip(differences, permutations=20_000) == pytest.approx(exact, abs=0.005)
    assert permutation.sign_flip(np.ones(40)) < 1e-3 and permutation.sign_flip([1.0, -1.0]) == 1.0


@pytest.mark.parametrize('bad', [[1.0], [1.0, np.nan]])
def test_sign_flip_refuses_what_it_cannot_test(bad):
    with pytest.raises(ValueError, match='two finite numbers'):
        permutation.sign_flip(bad)
