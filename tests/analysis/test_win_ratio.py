"""Win ratio by condition and by group of users, by hand."""

import numpy as np
import pytest
import scipy.stats

from xrec_jax.analysis import win_ratio


def against(given: list[float], swapped: list[float]) -> np.ndarray:
    """Verdicts of condition 0 against reference 1: preferred when shown first, and the reference when shown first."""
    verdicts = np.full((len(given), 2, 2), np.nan)
    verdicts[:, 0, 1], verdicts[:, 1, 0] = given, swapped
    return verdicts


def test_a_condition_against_the_reference():
    nan = np.nan
    got = win_ratio.against_reference({
        'length 20': against([1, 1, 1, 0, 0, 1, nan], [0, 0, 0, 1, 0, nan, nan]), 'nothing': against([nan], [nan])},
        samples=200)
    one = got['length 20']  # won thrice and once in the order that was asked, lost once, once the second both times
    assert (one['wins'], one['ties'], one['losses'], one['count']) == (4, 1, 1, 6)
    assert one['win_ratio'] == 4.5 / 6 and one['low'] < 4.5 / 6 < one['high']
    assert one['p'] == pytest.approx(2 * (1 + 5) / 32)  # four or more, or one or fewer, of five
    assert one['flips'] == 1 / 5 and one['share_of_second'] == pytest.approx(6 / 11)
    assert got['nothing']['count'] == 0 and np.isnan(got['nothing']['win_ratio']) and np.isnan(got['nothing']['p'])
    with pytest.raises(ValueError, match='length 5'):
        win_ratio.against_reference({'length 5': np.zeros((3, 3, 3))})


def test_a_real_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(0)
    for chance, found in ((0.7, True), (0.5, False)):
        verdicts = (rng.random(400) < chance).astype(float)
        got = win_ratio.against_reference({'x': against(verdicts, 1 - verdicts)}, samples=500)['x']
        assert (got['p'] < 0.01) == found == (not got['low'] < 0.5 < got['high'])
        assert got['p'] == pytest.approx(scipy.stats.binomtest(int(verdicts.sum()), 400).pvalue)


def test_bins_have_names():
    groups, names = win_ratio.bins([1, 9, 10, 19, 20, 21, 99], (10, 20, 21))
    assert groups.tolist() == [0, 0, 1, 1, 2, 3, 3] and names == ['< 10', '10 to 19', '20', '≥ 21']
    for edges in ((), (5, 3), (3, 3)):
        with pytest.raises(ValueError, match='must rise'):
            win_ratio.bins([1], edges)


def test_win_ratio_by_group_of_users():
    verdicts = np.full((5, 3, 3), np.nan)
    verdicts[:4, 0, 1], verdicts[:4, 0, 2] = [1, 1, 0, 0], [1, 0, 0, np.nan]
    shares = win_ratio.per_user(verdicts)[:, 0]
    np.testing.assert_array_equal(shares, [1, 0.5, 0, 0, np.nan])
    groups, names = win_ratio.bins([5, 5, 30, 30, 80], (10, 50))
    got = win_ratio.by_group(shares, groups, names, samples=100)
    assert list(got) == ['< 10', '10 to 49']  # nobody judged the last
    assert got['< 10']['win_ratio'] == 0.75 and got['< 10']['count'] == 2
    assert 0.5 <= got['< 10']['low'] < 0.75 < got['< 10']['high'] <= 1
    assert (got['10 to 49']['low'], got['10 to 49']['high']) == (0, 0)
    with pytest.raises(ValueError, match='alike'):
        win_ratio.by_group(shares, groups[1:], names)
