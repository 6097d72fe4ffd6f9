"""Agreement against published examples and loops over pairs."""

import math

import numpy as np
import pytest

from xrec_jax.metrics import agreement

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: four observers, twelve units, missing
# values; there, alpha is 0.849 for interval data.
PUBLISHED = np.array([[float(score) if score != '.' else np.nan for score in observer.split()] for observer in (
    '1 2 3 3 2 1 4 1 2 . . .', '1 2 3 3 2 2 4 1 2 5 . 3', '. 3 3 3 2 3 4 2 2 5 1 .', '1 2 3 3 2 4 4 1 2 5 1 .')])


def slow_alpha(scores: np.ndarray) -> float:
    """Over all ordered pairs of scores, one by one."""
    units = [[score for score in unit if not math.isnan(score)] for unit in scores.T]
    units = [unit for unit in units if len(unit) > 1]
    every = [score for unit in units for score in unit]
    observed = sum((a - b)**2 / (len(unit) - 1) for unit in units for a in unit for b in unit) / len(every)
    expected = sum((a - b)**2 for a in every for b in every) / (len(every) * (len(every) - 1))
    return 1 - observed / expected


def test_alpha_of_the_published_example():
    assert agreement.krippendorff_alpha(PUBLISHED) == pytest.approx(0.849, abs=0.0005)


@pytest.mark.parametrize('missing', [0.0, 0.5])
def test_alpha_equals_all_pairs_one_by_one(missing):
    rng = np.random.default_rng(0)
    scores = np.clip(np.round(rng.normal(7, 1, (1, 40)) + rng.normal(0, 0.7, (5, 40))), 1, 10)
    scores[rng.random(scores.shape) < missing] = np.nan
    alpha = agreement.krippendorff_alpha(scores)
    assert alpha == pytest.approx(slow_alpha(scores), abs=1e-12) and 0.3 < alpha < 0.9
    assert agreement.krippendorff_alpha(scores + 1e6) == pytest.approx(alpha, abs=1e-6)


def test_alpha_at_its_ends():
    same = np.tile([1.0, 5, 9], (3, 1))
    assert agreement.krippendorff_alpha(same) == 1
    assert agreement.krippendorff_alpha([[1, 9], [9, 1]]) < 0  # worse than chance
    for nothing in (np.full((2, 3), 4.0), np.full((2, 3), np.nan), [[1.0, np.nan], [np.nan, 2]]):
        assert math.isnan(agreement.krippendorff_alpha(nothing))
    with pytest.raises(ValueError, match='raters by units'):
        agreement.krippendorff_alpha([1, 2, 3])


def test_rank_correlations_by_hand():
    # d = 0, 1, 1, 0, 0: Spearman 1 - 6 * 2 / (5 * 24) = 0.9; one of ten pairs the wrong way: Kendall (9 - 1) / 10.
    got = agreement.rank_correlations([1, 3, 2, 4, 5, np.nan, 7], [1, 2, 3, 4, 5, 6, np.nan])
    assert got == {'spearman': pytest.approx(0.9), 'kendall': pytest.approx(0.8), 'count': 5}
    # Ties: pairs (1, 1) tie on the left; tau-b = (5 - 0) / sqrt(5 * 6).
    assert agreement.rank_correlations([1, 1, 2, 3], [1, 2, 3, 4])['kendall'] == pytest.approx(5 / math.sqrt(30))
    assert math.isnan(agreement.rank_correlations([1, 1, 1], [1, 2, 3])['spearman'])
    with pytest.raises(ValueError, match='shapes differ'):
        agreement.rank_correlations([1, 2, 3], [1, 2])


def test_a_judge_may_agree_on_generators_and_not_within_items():
    rng = np.random.default_rng(0)
    quality = np.array([4.0, 5, 6, 7, 8])
    scores = quality + rng.normal(size=(300, 1))
    shares = quality / 10 + rng.normal(0, 1, (300, 5))
    scores[0, :2] = np.nan
    got = agreement.judge_agreement(scores, shares)
    assert got['generators'] == {'spearman': pytest.approx(1), 'kendall': pytest.approx(1), 'count': 5}
    assert got['items']['count'] == got['within_items']['count'] == 1498
    assert 0 < got['items']['spearman'] < 0.5
    item = np.arange(300)[:, None] * np.ones(5)  # the same order in every item, and far apart between items
    got = agreement.judge_agreement(item + quality, quality - 10 * item)
    assert got['items']['spearman'] < 0 and got['within_items']['spearman'] == pytest.approx(1)


def test_figures_of_a_scorer_by_hand():
    got = agreement.score_metrics([1, 2, 3, 4, np.nan], [2, 2, 4, 4, 9])
    assert got['mae'] == 0.5 and got['rmse'] == pytest.approx(math.sqrt(0.5)) and got['count'] == 4
    assert got['pearson'] == pytest.approx(2 / math.sqrt(5))
    for scores, predicted, told in (([1, 2], [1], 'alike'), ([np.nan], [1], 'nobody'), ([1, 2], [1, np.inf], 'finite')):
        with pytest.raises(ValueError, match=told):
            agreement.score_metrics(scores, predicted)
