"""Do explanations come out longer for some users? (LLMXRec, section 4.4 and table 4)"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from xrec_jax.metrics import permutation


def words(texts: Sequence[str]) -> np.ndarray:
    """int64 [N]: words between blanks, as the prompts' "WITHIN 75 words" is commonly counted."""
    return np.array([len(text.split()) for text in texts], np.int64)


def by_gender(lengths: Mapping[str, npt.ArrayLike], genders: Sequence[str], permutations: int = 10_000, seed: int = 0
              ) -> dict[str, dict[str, float]]:
    """Length of explanations for women and men, by generator, with a permutation test over users.

    Args:
      lengths: generator → [N] mean length of the explanations for each user; NaN where the user has none. Where a
        user has several (one a recommender), their mean: users are dealt anew, not texts, as a user's texts are alike.
      genders: [N], 'male', 'female', or anything else for users who do not count.

    Returns:
      generator → as `permutation.difference_of_means`, 'first' being men and 'second' women: 'difference' is what
      women get more, the paper's Δ.
    """
    genders = np.asarray(genders)
    result = {}
    for generator, values in lengths.items():
        values = np.asarray(values, np.float64)
        if values.shape != genders.shape:
            raise ValueError(f'lengths of {generator} {values.shape} and genders {genders.shape} must be alike, [N]')
        there = np.isfinite(values) & np.isin(genders, ('male', 'female'))
        result[generator] = permutation.difference_of_means(values[there], genders[there] == 'female', permutations,
                                                            seed)
    return result
