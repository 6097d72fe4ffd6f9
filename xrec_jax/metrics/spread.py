"""A figure over several seeds or runs, as it is printed."""

import numpy as np
import numpy.typing as npt


def spread(values: npt.ArrayLike, digits: int = 4) -> str:
    """'mean ± standard deviation' (n − 1), or the value where there is one."""
    values = np.ravel(values)
    if len(values) == 1:
        return f'{values[0]:.{digits}f}'
    return f'{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}'
