"""CTR metrics against counting pairs and plain loops."""

import math

import numpy as np
import pytest

from xrec_jax.metrics import ctr


def slow_auc(labels, scores):
    """O(n²): pairs of a positive and a negative, right 1, tied ½."""
    won = pairs = 0.0
    for label, score in zip(labels, scores):
        for other_label, other in zip(labels, scores):
            if label == 1 and other_label == 0:
                pairs += 1
                won += 1.0 if score > other else 0.5 if score == other else 0.0
    return won / pairs


@pytest.mark.parametrize('decimals', [0, 1, 8], ids=['two values', 'many ties', 'no ties'])
@pytest.mark.parametrize('share', [0.05, 0.5, 0.95])
def test_auc_equals_counting_pairs(decimals, share):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = (rng.random(80) < share).astype(np.float32)
        labels[:2] = 0, 1
        scores = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.3), 0, 1), decimals)
        assert ctr.auc(labels, scores) == pytest.approx(slow_auc(labels, scores), abs=1e-12)


def test_auc_of_hand_examples():
    assert ctr.auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert ctr.auc([0, 1], [0.2, 0.9]) == 1.0
    assert ctr.auc([1, 0], [0.2, 0.9]) == 0.0
    assert ctr.auc([0, 1, 0, 1], [0.5] * 4) == 0.5


def test_auc_depends_on_order_alone():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.normal(size=200)
    assert ctr.auc(labels, scores) == ctr.auc(labels, np.exp(scores))
    assert ctr.auc(labels, scores) == pytest.approx(1 - ctr.auc(labels, -scores), abs=1e-12)


@pytest.mark.parametrize('labels', [[1, 1, 1], [0, 0, 0]])
def test_auc_of_one_class_is_nan(labels):
    assert math.isnan(ctr.auc(labels, [0.1, 0.2, 0.3]))
    metrics = ctr.ctr_metrics(np.array(labels), np.array([0.1, 0.2, 0.3]))
    assert math.isnan(metrics['auc']) and math.isfinite(metrics['log_loss'])


def test_auc_is_exact_for_many_rows():
    n = 400_000  # squares of counts and sums of ranks pass float32 and int32
    labels = np.arange(n) % 2
    scores = np.arange(n) // 2 * 2 + labels  # every positive just above its negative
    assert ctr.auc(labels, scores) == pytest.approx(0.5 + 0.5 / (n / 2), abs=1e-13)


def test_losses_equal_plain_loops():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 50).astype(np.float32), rng.random(50).astype(np.float32)
    log_loss = absolute = squared = 0.0
    for y, s in zip(labels.tolist(), scores.tolist()):
        log_loss -= math.log(s) if y == 1 else math.log(1 - s)
        absolute += abs(y - s)
        squared += (y - s) ** 2
    metrics = ctr.ctr_metrics(labels, scores)
    assert set(metrics) == {'auc', 'log_loss', 'mae', 'rmse'}
    assert metrics['log_loss'] == pytest.approx(log_loss / 50, rel=1e-12)
    assert metrics['mae'] == pytest.approx(absolute / 50, rel=1e-12)
    assert metrics['rmse'] == pytest.approx(math.sqrt(squared / 50), rel=1e-12)
    assert metrics['auc'] == pytest.approx(slow_auc(labels, scores))


def test_a_saturated_score_costs_16_nats_not_infinity():
    assert ctr.log_loss(np.array([0.0]), np.array([1.0], np.float32)) == pytest.approx(
        -math.log(1e-7), rel=1e-6)
    assert ctr.log_loss(np.array([1.0]), np.array([0.0])) == pytest.approx(16.118, abs=1e-3)


@pytest.mark.parametrize('labels, scores, message', [
    ([0, 1], [0.5], 'must be alike'), ([], [], 'must be alike'), ([[0]], [[0.5]], 'must be alike'),
    ([0, 1], [0.5, 1.5], 'probabilities'), ([0, 1], [0.5, float('nan')], 'probabilities'),
    ([0, 1], [-3.0, 0.1], 'probabilities')])
def test_what_cannot_be_measured_is_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        ctr.ctr_metrics(np.array(labels), np.array(scores))
