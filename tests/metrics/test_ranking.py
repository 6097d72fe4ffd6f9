"""Ranking metrics against loops in float64, and against figures worked out by hand."""

import math

import jax
import numpy as np
import pytest

from xrec_jax.metrics import ranking

I, K, R = 40, 12, 6


def case(seed=0, users=50):
    """(top [B, K], held_out [B, R]), both with -1, as many hits as chance and a push give."""
    rng = np.random.default_rng(seed)
    top = np.stack([rng.permutation(I)[:K] for _ in range(users)])
    held_out = np.full((users, R), -1)
    for u in range(users):
        count = rng.integers(0, R + 1) if u > 2 else (R, 1, 0)[u]
        held_out[u, :count] = rng.permutation(I)[:count]
    top[5:9, 3:] = -1  # fewer items than places
    held_out[9:20] = np.where(held_out[9:20] >= 0, top[9:20, :R], -1)
    return top, held_out


def slow(top, held_out, k):
    """The formulas of the docstring, one user at a time; the mean over users with held-out items."""
    figures = {name: [] for name in ('recall', 'ndcg', 'hit', 'mrr', 'map')}
    shown = set()
    for row, held in zip(top.tolist(), held_out.tolist()):
        held = {i for i in held if i >= 0}
        if not held:
            continue
        found = [n for n, i in enumerate(row[:k], start=1) if i in held]
        shown |= {i for i in row[:k] if i >= 0}
        most = min(len(held), k)
        figures['recall'].append(len(found) / len(held))
        figures['hit'].append(1.0 if found else 0.0)
        figures['mrr'].append(1 / found[0] if found else 0.0)
        figures['ndcg'].append(sum(1 / math.log2(n + 1) for n in found)
                               / sum(1 / math.log2(n + 1) for n in range(1, most + 1)))
        figures['map'].append(sum((m + 1) / n for m, n in enumerate(found)) / most)
    return {f'{name}@{k}': sum(x) / len(x) for name, x in figures.items()} | {f'coverage@{k}': len(shown) / I}


@pytest.mark.parametrize('seed', range(3))
def test_all_metrics_equal_the_loops(seed):
    top, held_out = case(seed)
    ks = (1, 3, 10, K)
    figures = ranking.ranking_metrics(top, held_out, I, ks)
    expected = {name: value for k in ks for name, value in slow(top, held_out, k).items()}
    assert set(figures) == set(expected)
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize('name', ranking.METRICS)
def test_within_jit_they_are_the_same(name):
    top, held_out = case()
    number = (held_out >= 0).sum(-1)
    plain = ranking.METRICS[name](ranking.hits(top, held_out), number)
    jitted = jax.jit(lambda t, h, n: ranking.METRICS[name](ranking.hits(t, h), n))(top, held_out, number)
    np.testing.assert_allclose(jitted, plain, rtol=1e-6)
    assert plain.shape == (50,) and np.isfinite(plain).all()  # also where nothing is held out


def test_by_hand():
    """Hits at 2 and 3 of 4 places, 3 held out."""
    top, held_out = np.array([[7, 1, 2, 8]]), np.array([[2, 1, 5, -1]])
    figures = ranking.ranking_metrics(top, held_out, 10, (2, 4))
    assert figures['recall@4'] == pytest.approx(2 / 3) and figures['hit@4'] == 1
    assert figures['mrr@4'] == pytest.approx(1 / 2)
    assert figures['map@4'] == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert figures['map@2'] == pytest.approx((1 / 2) / 2)  # over min(R, k) = 2, as RecBole
    assert figures['ndcg@4'] == pytest.approx((1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2))
    assert figures['coverage@2'] == pytest.approx(0.2)


def test_absent_items_never_match():
    assert not ranking.hits(np.array([[-1, -1]]), np.array([[-1, 3]])).any()


def test_the_best_list_scores_one_everywhere():
    held_out = np.array([[4, 2, 9], [1, -1, -1]])
    top = np.array([[9, 2, 4, 0], [1, 3, 5, 7]])
    figures = ranking.ranking_metrics(top, held_out, 10, (4,))
    assert all(figures[f'{name}@4'] == pytest.approx(1) for name in ranking.METRICS)


def test_what_cannot_be_measured_is_refused():
    top, held_out = case()
    with pytest.raises(ValueError, match='12 recommendations'):
        ranking.ranking_metrics(top, held_out, I, (13,))
    with pytest.raises(ValueError, match='nothing is held out'):
        ranking.ranking_metrics(top, np.full_like(held_out, -1), I, (5,))
