"""Which of several generators explains best, by a judge that sees two explanations at a time (LLMXRec, 3.3 and 4.1).

1. `comparisons`, `verdicts`: what to ask a judge, and its answers as one array; `from_labels`: answers "1" and "2"
   to all pairs in one order, as the paper has them
2. `scores`: what each generator got from each other, mean of both orders where both were asked
3. `win_ratio` (eq. 6), `ranks` and `ranking_order` (eq. 7), `improvement`: the paper's table 2
4. `position_bias`: how often the second is preferred, and how often a verdict flips when the two are swapped
5. `report`: all of it with Bradley-Terry strengths and bootstrap intervals over instructions, for `summary.json`

**Verdicts** float [N, G, G]: `verdicts[n, i, j]` is 1 where the judge, shown generator i's explanation of
instruction n first and j's second, prefers the first, 0 where the second, 0.5 where it cannot say; NaN where it was
not asked or its answer could not be read. Probabilities of the first serve as well.

**Ranks** are dense: generators with equal scores share a rank, and the next follows without a gap (1, 1, 2). The
paper says "ranking n LLMs by scores" and not how ties go. Its table 2 tells: of dense, competition (1, 1, 3),
average (1.5, 1.5, 3) and arbitrary ranks only dense ones can give all nine of its columns, to three digits, from any
mixture of the 291 vectors of scores that five generators can have; competition ranks can give six, the others two
(`test_no_other_rule_for_ties_can_give_table_2`). `N` instructions, `G` generators, `P` pairs, `S` weightings.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from xrec_jax.metrics import bootstrap, bradley_terry

LABELS = {'win_ratio': 'win ratio', 'ranking_order': 'ranking order', 'strength': 'strength (log odds)',
          'share_of_second': 'second preferred', 'flips': 'verdicts that flip'}


# ------------------------------------------------------------------------- questions and answers


def comparisons(allowed: np.ndarray, both_orders: bool = True) -> np.ndarray:
    """int64 [M, 3]: (instruction, generator shown first, generator shown second) of every question for the judge.

    Args:
      allowed: bool [N, G], which generators have an explanation of the instruction that others may be compared with.
      both_orders: ask every pair twice, swapped; else once, the generator that comes first in order shown first.
    """
    allowed = np.asarray(allowed, bool)
    both = allowed[:, :, None] & allowed[:, None, :] & ~np.eye(allowed.shape[1], dtype=bool)
    return np.argwhere(both if both_orders else np.triu(both))


def verdicts(asked: np.ndarray, first: np.ndarray, instructions: int, generators: int) -> np.ndarray:
    """Verdicts float64 [N, G, G] from the questions `asked` [M, 3] and the answers `first` [M].

    `first`: 1 or True where the one shown first was preferred (or how probably), NaN where the answer was unreadable.
    """
    table = np.full((instructions, generators, generators), np.nan)
    table[tuple(np.asarray(asked).T)] = first
    return table


def from_labels(labels: np.ndarray) -> np.ndarray:
    """Verdicts [N, G, G] from `labels` [N, P], "which is better, 1 or 2", of all P = G (G - 1) / 2 pairs in one order.

    Pairs stand as `itertools.combinations` has them: (0, 1), (0, 2), … (1, 2), …. Any other value is no answer.
    """
    labels = np.asarray(labels)
    generators = int(round((1 + np.sqrt(1 + 8 * labels.shape[1])) / 2))
    pairs = np.array(list(itertools.combinations(range(generators), 2)))
    if len(pairs) != labels.shape[1]:
        raise ValueError(f'{labels.shape[1]} pairs are not all pairs of any number of generators')
    table = np.full((len(labels), generators, generators), np.nan)
    table[:, pairs[:, 0], pairs[:, 1]] = np.where(labels == 1, 1, np.where(labels == 2, 0, np.nan))
    return table


def scores(verdicts: np.ndarray) -> np.ndarray:
    """float64 [N, G, G]: what i got against j, 1 a win, 0 a loss; the mean of both orders where both have a verdict.

    So a verdict that flips with the order is half a win for each. scores[n, i, j] + scores[n, j, i] = 1; NaN where
    there is no verdict in either order.
    """
    verdicts = _checked(verdicts)
    sides = np.stack([verdicts, 1 - np.swapaxes(verdicts, 1, 2)])
    there = np.isfinite(sides)
    with np.errstate(invalid='ignore'):
        return np.where(there, sides, 0).sum(0) / there.sum(0)


def _checked(verdicts: np.ndarray) -> np.ndarray:
    verdicts = np.array(verdicts, np.float64)
    if verdicts.ndim != 3 or verdicts.shape[1] != verdicts.shape[2] or verdicts.shape[1] < 2:
        raise ValueError(f'verdicts {verdicts.shape} must be [N, G, G], G > 1')
    verdicts[:, np.arange(verdicts.shape[1]), np.arange(verdicts.shape[1])] = np.nan
    if np.any((verdicts < 0) | (verdicts > 1)):
        raise ValueError('verdicts must be in [0, 1]: 1 where the first shown is preferred, 0 where the second')
    return verdicts


# --------------------------------------------------------------------------- the paper's figures


def win_ratio(scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Eq. 6, [G]: the sum of what a generator got over the number of its comparisons, over all instructions.

    `weights` [S, N] counts instructions (`bootstrap.resamples`); the result is then [S, G].
    """
    there = np.isfinite(scores)
    got, met = np.where(there, scores, 0).sum(2), there.sum(2).astype(np.float64)
    weights, single = _weights(weights, len(scores))
    with np.errstate(invalid='ignore'):
        ratio = (weights @ got) / (weights @ met)
    return ratio[0] if single else ratio


def ranks(scores: np.ndarray) -> np.ndarray:
    """Dense ranks float64 [N, G], 1 the best, by the sum of scores; NaN in instructions where a pair has no verdict."""
    size = scores.shape[1]
    complete = np.isfinite(scores).sum((1, 2)) == size * (size - 1)
    points = np.round(np.where(np.isfinite(scores), scores, 0).sum(2), 9)  # halves are exact, means of others not
    order = np.argsort(-points, axis=1, kind='stable')
    ordered = np.take_along_axis(points, order, 1)
    rank = np.cumsum(np.diff(ordered, axis=1, prepend=ordered[:, :1]) != 0, axis=1) + 1.0
    result = np.empty_like(rank)
    np.put_along_axis(result, order, rank, 1)
    result[~complete] = np.nan
    return result


def ranking_order(ranks: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Eq. 7, [G]: mean of `ranks` [N, G] over the instructions that have them; [S, G] with `weights` [S, N]."""
    weights, single = _weights(weights, len(ranks))
    mean = bootstrap.weighted_mean(ranks, weights)
    return mean[0] if single else mean


def _weights(weights: np.ndarray | None, instructions: int) -> tuple[np.ndarray, bool]:
    return (np.ones((1, instructions)), True) if weights is None else (np.asarray(weights, np.float64), False)


def improvement(ours: float, others: Sequence[float], lower_is_better: bool = False) -> float:
    """The table's "▲ %" as a share: how much better `ours` is than the best of `others`, relative to that."""
    best = min(others) if lower_is_better else max(others)
    return (best - ours if lower_is_better else ours - best) / best


# ------------------------------------------------------------------------------- the judge itself


def position_bias(verdicts: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """'share_of_second' and 'flips', each a number, or [S] with `weights` [S, N].

    `share_of_second`: of the verdicts, how many prefer the explanation shown second; a judge without bias that is
    asked in both orders has 0.5. `flips`: of the pairs with a verdict in both orders, how many prefer the same place
    both times, first or second, so that the order decided; NaN where none was asked in both. Verdicts of exactly
    0.5 are half a second, and never flip.
    """
    verdicts = _checked(verdicts)
    weights, single = _weights(weights, len(verdicts))
    second = np.where(np.isfinite(verdicts), (verdicts < 0.5) + 0.5 * (verdicts == 0.5), np.nan)
    back = np.swapaxes(verdicts, 1, 2)
    flip = np.where(np.isfinite(verdicts) & np.isfinite(back), (verdicts - 0.5) * (back - 0.5) > 0, np.nan)
    flip = np.where(np.triu(np.ones(verdicts.shape[1:], bool)), flip, np.nan)  # each pair once
    result = {}
    for name, values in (('share_of_second', second), ('flips', flip)):
        there = np.isfinite(values)
        with np.errstate(invalid='ignore'):
            share = ((weights @ np.where(there, values, 0).sum((1, 2)))
                     / (weights @ there.sum((1, 2)).astype(np.float64)))
        result[name] = share[0] if single else share
    return result


def wins(scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """[G, G], or [S, G, G]: how often row beat column over all instructions, half wins included."""
    weights, single = _weights(weights, len(scores))
    size = scores.shape[1]
    total = (weights @ np.where(np.isfinite(scores), scores, 0).reshape(len(scores), -1)).reshape(-1, size, size)
    return total[0] if single else total


def report(verdicts: np.ndarray, generators: Sequence[str], samples: int = 1000, seed: int = 0, level: float = 0.95,
           prior: float = 0.5) -> dict:
    """Figures with bootstrap intervals over instructions, of plain Python types.

    Returns:
      'instructions', 'judged' (instructions with any verdict), 'complete' (with all verdicts on the generators that were
      compared at all, which alone have ranks),
      'verdicts', and 'share_of_second' and 'flips' each as {'value', 'low', 'high'}; 'generators': name →
      {'win_ratio', 'ranking_order', 'strength': {'value', 'low', 'high'}, 'comparisons'}. Strengths are those of
      `bradley_terry.strengths` with `prior`; a generator without a comparison has NaN throughout.
    """
    if np.shape(verdicts)[1] != len(generators):
        raise ValueError(f'{len(generators)} generators, but verdicts {np.shape(verdicts)}')
    every = scores(verdicts)
    met = np.isfinite(every).any((0, 2))
    judged = np.isfinite(every).any((1, 2))
    if not judged.any():
        raise ValueError('no pair has a verdict')
    every, asked = every[judged], np.asarray(verdicts)[judged]
    weights = bootstrap.resamples(len(every), samples, seed)
    place = np.full(every.shape[:2], np.nan)
    place[:, met] = ranks(every[:, met][:, :, met])

    def strength(weights: np.ndarray | None) -> np.ndarray:
        # NaN in resamples where some never met the others.
        table = wins(every, np.ones((1, len(every))) if weights is None else weights)[:, met][:, :, met]
        result = np.full((len(table), len(generators)), np.nan)
        finite = bradley_terry.has_maximum(table + prior * ((table + np.swapaxes(table, 1, 2)) > 0))
        if finite.any():
            result[np.ix_(finite, met)] = bradley_terry.strengths(table[finite], prior)
        if weights is None:
            return result[0]
        return result

    columns = {}
    for name, figure in (('win_ratio', lambda w: win_ratio(every, w)), ('ranking_order', lambda w: ranking_order(
            place, w)), ('strength', strength)):
        columns[name] = (figure(None), *bootstrap.interval(figure(weights), level))
    bias, many = position_bias(asked), position_bias(asked, weights)
    return {
        'instructions': int(len(judged)), 'judged': int(judged.sum()),
        'complete': int(np.isfinite(place[:, met]).all(1).sum()), 'verdicts': int(np.isfinite(_checked(verdicts)).sum()),
        **{name: _figure(bias[name], *bootstrap.interval(many[name], level)) for name in bias},
        'generators': {generator: {
            **{name: _figure(*(part[g] for part in column)) for name, column in columns.items()},
            'comparisons': int(np.isfinite(every[:, g]).sum())} for g, generator in enumerate(generators)},
    }


def _figure(value: float, low: float, high: float) -> dict[str, float]:
    return {'value': float(value), 'low': float(low), 'high': float(high)}
