"""A judge of pairs, by hand."""

import numpy as np
import pytest

from xrec_jax.metrics.judging import judge_metrics


def test_figures_by_hand():
    labels = [1, 2, 2, 2]
    given = [0.9, 0.2, 0.6, np.nan]  # right, right, wrong, unreadable
    swapped = [0.4, 0.9, 0.7, 0.8]  # right, right, right, right
    got = judge_metrics(labels, given, swapped)
    assert got['accuracy_given'] == 0.5 and got['accuracy_swapped'] == 1 and got['accuracy'] == 0.75
    assert got['accuracy_averaged'] == 1  # the third: (0.6 + 0.3) / 2 < 0.5; the fourth by its swapped order alone
    assert got['share_of_second'] == pytest.approx(2 / 7)  # 0.2 and 0.4
    assert got['flips'] == pytest.approx(1 / 3) and got['unreadable'] == 1


def test_a_judge_without_a_choice_is_half_right():
    got = judge_metrics([1, 2], [0.5, 0.5], [0.5, 0.5])
    assert got['accuracy'] == got['accuracy_averaged'] == got['share_of_second'] == 0.5 and got['flips'] == 0


def test_constant_answers_average_to_ties():
    got = judge_metrics([1, 2, 2, 2], np.zeros(4), np.zeros(4))
    assert got['accuracy_given'] == 0.75 and got['accuracy'] == got['accuracy_averaged'] == 0.5
    assert got['share_of_second'] == got['flips'] == 1


def test_nothing_readable_is_all_wrong():
    got = judge_metrics([1], [np.nan], [np.nan])
    assert got['accuracy'] == got['accuracy_averaged'] == 0 and got['unreadable'] == 2
    assert np.isnan(got['flips']) and np.isnan(got['share_of_second'])


@pytest.mark.parametrize('arrays', [([1], [0.1, 0.2], [0.1]), ([3], [0.1], [0.1]), ([], [], [])])
def test_what_does_not_fit_is_refused(arrays):
    with pytest.raises(ValueError, match='labels'):
        judge_metrics(*arrays)
