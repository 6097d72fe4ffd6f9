"""Do two groups differ? A permutation test of means, and the size of the difference; and a sign-flip test of pairs."""

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 22  # labels permuted together


def difference_of_means(values: npt.ArrayLike, second: npt.ArrayLike, permutations: int = 10_000, seed: int = 0
                        ) -> dict[str, float]:
    """Tests whether group labels could as well have been dealt at random.

    Args:
      values: [N], one for each independent unit (a user, not an explanation, where users have several).
      second: bool [N], which units are of the second group.
      permutations: how many times labels are dealt anew.

    Returns:
      'first' and 'second' (means), 'difference' (second - first), 'p' (two-sided, (1 + as extreme) / (1 +
      permutations): never 0), 'cohens_d' (difference over the pooled standard deviation; some 0.2 counts as small,
      0.5 medium, 0.8 large), 'count_first', 'count_second', 'permutations'.

    Raises:
      ValueError: shapes differ, a group has fewer than two units, or a value is not finite.
    """
    values, second = np.asarray(values, np.float64), np.asarray(second, bool)
    if values.shape != second.shape or values.ndim != 1 or permutations < 1:
        raise ValueError(f'values {values.shape} and groups {second.shape} must be alike, [N]; permutations at least 1')
    if not np.isfinite(values).all():
        raise ValueError('values must be finite')
    many, few = int((~second).sum()), int(second.sum())
    if min(many, few) < 2:
        raise ValueError(f'groups of {many} and {few}: two units in each at least')
    centred = values - values.mean()
    difference = centred[second].mean() - centred[~second].mean()
    pooled = (((centred[~second] - centred[~second].mean())**2).sum()
              + ((centred[second] - centred[second].mean())**2).sum()) / (many + few - 2)
    rng, extreme, left = np.random.default_rng(seed), 0, permutations
    while left:
        block = min(left, max(1, _BLOCK // len(values)))
        dealt = rng.permuted(np.broadcast_to(second, (block, len(values))), axis=1)
        # The second group's sum tells the difference, as the sum of all is 0.
        differences = (dealt @ centred) * (1 / few + 1 / many)
        extreme += int((np.abs(differences) >= abs(difference) * (1 - 1e-9) - 1e-12).sum())
        left -= block
    return {'first': float(values[~second].mean()), 'second': float(values[second].mean()),
            'difference': float(difference), 'p': (1 + extreme) / (1 + permutations),
            'cohens_d': float(difference / np.sqrt(pooled)) if pooled > 0 else float('nan'),
            'count_first': many, 'count_second': few, 'permutations': permutations}


def sign_flip(differences: npt.ArrayLike, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the mean of paired differences [N] (one for each independent unit) under random signs: never 0.

    Raises:
      ValueError: fewer than two differences, or one that is not finite.
    """
    differences = np.asarray(differences, np.float64)
    if differences.ndim != 1 or len(differences) < 2 or not np.isfinite(differences).all():
        raise ValueError(f'differences {differences.shape}: should be two finite numbers at least')
    rng, extreme, left, seen = np.random.default_rng(seed), 0, permutations, abs(differences.sum())
    while left:
        block = min(left, max(1, _BLOCK // len(differences)))
        signs = rng.integers(0, 2, (block, len(differences))) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= seen * (1 - 1e-9) - 1e-12).sum())
        left -= block
    return (1 + extreme) / (1 + permutations)
