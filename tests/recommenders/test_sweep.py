"""Which candidates a sweep tries, and which it takes."""

import collections
import math

import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.recommenders import sweep
from xrec_jax.recommenders.sweep import Trial

GRID = {'training.learning_rate': (1e-4, 1e-3, 1e-2), 'model.dropout': (0.0, 0.2),
        'training.monitor': ('auc', 'log_loss')}


def random(settings, trials, seed=0):
    return sweep.candidates(settings, search='random', trials=trials, seed=seed)


def test_a_grid_has_every_combination_in_the_order_of_its_settings():
    expected = [{'training.learning_rate': rate, 'model.dropout': dropout, 'training.monitor': monitor}
                for rate in (1e-4, 1e-3, 1e-2) for dropout in (0.0, 0.2) for monitor in ('auc', 'log_loss')]
    assert sweep.candidates(GRID) == expected
    assert [list(candidate) for candidate in sweep.candidates(GRID)] == [list(GRID)] * 12


def test_random_points_are_distinct_and_of_the_grid():
    grid = sweep.candidates(GRID)
    for seed in range(20):
        points = random(GRID, 7, seed)
        assert len(points) == 7 and all(point in grid for point in points)
        assert len({tuple(point.values()) for point in points}) == 7
    assert len({str(random(GRID, 7, seed)) for seed in range(20)}) == 20


def test_every_point_is_as_likely_as_any_other():
    counts = collections.Counter(str(point) for seed in range(1200) for point in random(GRID, 3, seed))
    assert len(counts) == 12  # of 1200 × 3 / 12 = 300 each; the standard deviation is 15
    assert all(abs(count - 300) < 75 for count in counts.values())


def test_more_trials_than_points_are_all_points():
    key = lambda point: str(point)
    for trials in (12, 13, 1000):
        assert sorted(random(GRID, trials), key=key) == sorted(sweep.candidates(GRID), key=key)


def test_the_first_points_of_a_seed_do_not_depend_on_their_number():
    for settings in (GRID, {**GRID, 'training.weight_decay': ('log', 1e-5, 1.0)}):
        assert random(settings, 3) == random(settings, 8)[:3] != random(settings, 3, seed=1)


def test_a_grid_too_large_to_write_down_can_be_drawn_from():
    settings = {f'model.a{n}': tuple(range(100)) for n in range(12)}
    assert len(random(settings, 5)) == 5


def test_ranges_are_drawn_uniformly_or_log_uniformly():
    points = random({'training.learning_rate': ('log', 1e-5, 1e-1), 'model.dropout': ('uniform', 0, 0.5),
                     'model.embed_dim': [8, 16]}, 4000)
    assert len(points) == 4000
    rates, dropouts, sizes = (np.array([point[name] for point in points]) for name in points[0])
    for drawn, low, high in ((np.log10(rates), -5, -1), (dropouts, 0, 0.5)):
        places = np.sort((drawn - low) / (high - low))
        assert 0 <= places[0] and places[-1] <= 1
        # Kolmogorov and Smirnov's distance from the uniform distribution: above 2 / sqrt(n) once in 1,500 times.
        assert np.abs(places - (np.arange(4000) + 0.5) / 4000).max() < 2 / math.sqrt(4000)
    assert set(sizes) == {8, 16} and abs(np.mean(sizes == 8) - 0.5) < 0.05
    assert abs(np.corrcoef(np.log(rates), dropouts)[0, 1]) < 0.06


def test_values_are_plain_python():
    for search in sweep.SEARCHES:
        point = sweep.candidates({'a.b': (np.float32(0.5),), 'a.c': (np.int32(3),)}, search=search)[0]
        assert point == {'a.b': 0.5, 'a.c': 3} and [type(value) for value in point.values()] == [float, int]


@pytest.mark.parametrize('settings, options, message', [
    (GRID, dict(search='gird'), 'Did you mean "grid"'), ({}, {}, 'nothing to sweep over'),
    (GRID, dict(search='random', trials=0), 'trials=0.*at least 1'),
    (GRID, dict(search='random', trials=2.5), 'trials=2.5.*whole number'),
    ({'a.b': 1e-3}, {}, r'a\.b=0\.001: should be a tuple'), ({'a.b': 'auc'}, {}, r"'auc': should be a tuple"),
    ({'a.b': ()}, {}, 'should be a tuple'), ({'a.b': (1, None)}, {}, 'None is neither a number nor a string'),
    ({'a.b': (1, (2, 3))}, {}, r'\(2, 3\) is neither'), ({'a.b': (1, math.nan)}, {}, 'nan is neither'),
    ({'a.b': (1j,)}, {}, '1j is neither'), ({'a.b': (1, 2, 1)}, {}, 'has a value twice'),
    ({'a.b': ('log', 1e-5, 1e-2)}, {}, 'is a range: use search="random"'),
    ({'a.b': ('log', 1e-5)}, dict(search='random'), r'should be \("log", low, high\)'),
    ({'a.b': ('log', 1e-5, 'x')}, dict(search='random'), r'should be \("log", low, high\)'),
    ({'a.b': ('uniform', 0.5, 0.5)}, dict(search='random'), 'low < high'),
    ({'a.b': ('uniform', 0, 1, 2)}, dict(search='random'), r'should be \("uniform", low, high\)'),
    ({'a.b': ('log', 0, 1)}, dict(search='random'), 'low should be above 0'),
    ({'a.b': ('log', 1e-5, math.inf)}, dict(search='random'), 'inf is neither')])
def test_what_is_no_sweep_is_refused(settings, options, message):
    with pytest.raises(UserError, match=message):
        sweep.candidates(settings, **options)


# ----------------------------------------------------------------------------------- what is taken


def test_the_highest_mean_is_first_and_the_earlier_of_equals():
    trials = [Trial({}, scores, [1, 1]) for scores in ([0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [-1.0, 2.5], [0.625, 0.625])]
    assert sweep.ranked(trials) == [3, 1, 4, 0, 2]


@pytest.mark.parametrize('bad', [math.nan, -math.inf, math.inf])
def test_a_trial_without_a_finite_score_is_last(bad):
    trials = [Trial({}, [bad, -0.1], [1, 1]), Trial({}, [-9.0, -9.0], [1, 1])]
    assert sweep.ranked(trials) == [1, 0]
    with pytest.raises(UserError, match='none of 1 trials'):
        sweep.ranked(trials[:1])


def test_the_table_is_best_first_and_names_the_chosen():
    trials = [Trial({'training.learning_rate': 1e-3}, np.float32([-0.75, -0.5]), [3, 3]),
              Trial({'training.learning_rate': 1e-2, 'model.dropout': 0.2}, np.float32([-0.5, -0.25]), [2, 5])]
    header, rows = sweep.table(trials)
    assert header == ['training.learning_rate', 'model.dropout', 'validation mean', 'validation std', 'best epoch',
                      'chosen']
    spread = pytest.approx(0.25 / math.sqrt(2))
    assert rows == [[1e-2, 0.2, 0.375, spread, '2 to 5', 'yes'], [1e-3, '', 0.625, spread, '3', '']]


def test_one_seed_has_no_spread():
    _, rows = sweep.table([Trial({'a.b': 1}, [0.5], [4])])
    assert rows == [[1, 0.5, '', '4', 'yes']]


def test_a_candidate_in_a_line():
    assert sweep.text({'training.learning_rate': 0.00123456789, 'model.embed_dim': 16, 'training.monitor': 'auc'}) == (
        'training.learning_rate=0.00123457, model.embed_dim=16, training.monitor=auc')
