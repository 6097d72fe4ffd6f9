"""What makes an explanation win (LLMXRec, section 4.3).

1. `against_reference`: one way of writing explanations against another, for the same users. With each length of the
   history shown against 10 items this is figure 3a, with each amount of tuning data against 150 examples figure 3b,
   with the profile or the categories in the prompt against without figure 4 (configs/llmxrec_analyses.py runs them;
   `write` leaves table and figure)
2. `by_group`: how well a generator does for users that differ, as by the length of the history that they have
3. `bins`: numbers into such groups

Verdicts are those of `metrics.pairwise`. `N` instructions (users).
"""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np
import numpy.typing as npt
import scipy.stats

from xrec_jax.analysis import output
from xrec_jax.metrics import bootstrap, pairwise


def against_reference(verdicts: Mapping[str, npt.ArrayLike], samples: int = 1000, seed: int = 0, level: float = 0.95
                      ) -> dict[str, dict[str, float]]:
    """Win ratio of each condition over the reference, both orders averaged.

    Args:
      verdicts: condition → [N, 2, 2] (`pairwise.verdicts`), generator 0 the condition and 1 the reference.

    Returns:
      condition → 'win_ratio' with its bootstrap interval 'low', 'high'; 'wins', 'ties' (the orders disagree) and
      'losses'; 'p' of the exact two-sided sign test without the ties; 'flips' and 'share_of_second'; 'count' of users
      with a verdict. NaN where there is none.
    """
    result = {}
    for condition, given in verdicts.items():
        given = np.asarray(given, np.float64)
        if given.ndim != 3 or given.shape[1:] != (2, 2):
            raise ValueError(f'verdicts of {condition} {given.shape} must be [N, 2, 2]')
        share = pairwise.scores(given)[:, 0, 1]
        share = share[np.isfinite(share)]
        wins, losses = int((share > 0.5).sum()), int((share < 0.5).sum())
        bias = pairwise.position_bias(given)
        result[condition] = {
            **_mean(share, samples, seed, level), 'wins': wins, 'ties': len(share) - wins - losses, 'losses': losses,
            'p': float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else float('nan'),
            'flips': float(bias['flips']), 'share_of_second': float(bias['share_of_second'])}
    return result


def write(folder: pathlib.Path, name: str, rows: Sequence[output.Row], reference: str, condition: str) -> None:
    """<name>.csv and <name>.png of rows with 'condition' and the figures of `against_reference`."""
    output.write(folder, name, rows, draw(rows, reference, condition))


def draw(rows: Sequence[output.Row], reference: str, condition: str) -> matplotlib.figure.Figure:
    """Figure 3 or 4: conditions that are numbers lie on an axis, with the reference at 0.5 among them; others stand
    beside each other."""
    figure, (axes,) = output.new_figure(width=6)
    number = all(row['condition'].replace('.', '', 1).isdigit() for row in rows)
    at = np.array([float(row['condition']) if number else place for place, row in enumerate(rows)])
    ratio = np.array([row['win_ratio'] for row in rows])
    error = np.abs(np.array([[row['low'], row['high']] for row in rows]).T - ratio)
    axes.axhline(0.5, color=output.GREY, linestyle=':')
    axes.errorbar(at, ratio, error, marker='o', capsize=3, linestyle='none' if not number else '-', color=output.COLOURS[0])
    if number:
        axes.plot(float(reference), 0.5, marker='s', color=output.GREY)
        axes.set(xticks=sorted([*at, float(reference)]))
    else:
        axes.set(xlim=(-0.5, len(rows) - 0.5), xticks=at)
        axes.set_xticklabels([row['condition'] for row in rows])
    axes.set(xlabel=condition, ylabel=f'win ratio over {reference}, both orders', ylim=(-0.02, 1.02))
    return figure


def _mean(values: np.ndarray, samples: int, seed: int, level: float) -> dict[str, float]:
    """'win_ratio', 'low', 'high' and 'count' of finite `values` [n]."""
    if not len(values):
        return {'win_ratio': float('nan'), 'low': float('nan'), 'high': float('nan'), 'count': 0}
    many = bootstrap.weighted_mean(values, bootstrap.resamples(len(values), samples, seed))
    low, high = bootstrap.interval(many, level)
    return {'win_ratio': float(values.mean()), 'low': float(low), 'high': float(high), 'count': len(values)}


def bins(values: npt.ArrayLike, edges: Sequence[float]) -> tuple[np.ndarray, list[str]]:
    """(which bin int64 [N], their names): below edges[0], from there to below edges[1], …, from edges[-1] on.

    Names are of whole numbers: edges (10, 20) give '< 10', '10 to 19', '≥ 20'.
    """
    edges = list(edges)
    if edges != sorted(set(edges)) or not edges:
        raise ValueError(f'edges {edges} must rise')
    middle = [f'{low:g}' if low == high - 1 else f'{low:g} to {high - 1:g}' for low, high in zip(edges, edges[1:])]
    return np.digitize(values, edges), [f'< {edges[0]:g}', *middle, f'≥ {edges[-1]:g}']


def by_group(shares: npt.ArrayLike, groups: npt.ArrayLike, names: Sequence[str], samples: int = 1000, seed: int = 0,
             level: float = 0.95) -> dict[str, dict[str, float]]:
    """Mean of `shares` in each group, with a bootstrap interval over its users.

    Args:
      shares: [N], what a generator got of its comparisons for each user (`per_user`); NaN does not count.
      groups: int [N], which of `names` each user belongs to.

    Returns:
      name → 'win_ratio', 'low', 'high', 'count'; groups without a user are left out.
    """
    shares, groups = np.asarray(shares, np.float64), np.asarray(groups)
    if shares.shape != groups.shape or shares.ndim != 1:
        raise ValueError(f'shares {shares.shape} and groups {groups.shape} must be alike, [N]')
    there = np.isfinite(shares)
    return {name: _mean(shares[there & (groups == number)], samples, seed, level)
            for number, name in enumerate(names) if (there & (groups == number)).any()}


def per_user(verdicts: npt.ArrayLike) -> np.ndarray:
    """float64 [N, G]: the share of its comparisons that each generator won, by user; NaN without a verdict."""
    scores = pairwise.scores(verdicts)
    there = np.isfinite(scores)
    with np.errstate(invalid='ignore'):
        return np.where(there, scores, 0).sum(2) / there.sum(2)
