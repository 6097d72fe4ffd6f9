"""A small sweep over hyperparameters: which candidates are tried, and which of them validates best.

  candidates   settings and their values → a grid, or points drawn at random
  ranked       the trials by their mean validation score
  table        the same as rows for a terminal or a CSV file
  text         one candidate in a line

A setting has a dotted name ('training.learning_rate') and either values to choose from or, at random, a range:
('log', low, high) is drawn log-uniformly, ('uniform', low, high) uniformly. Nothing is trained here.
"""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xrec_jax.errors import UserError, nearest

SEARCHES = ('grid', 'random')
RANGES = ('log', 'uniform')


@dataclasses.dataclass(frozen=True)
class Trial:
    """One candidate and how it validated."""

    settings: Mapping[str, Any]
    scores: npt.ArrayLike       # [S], the best validation score of each seed; higher is better
    best_epochs: npt.ArrayLike  # int [S], where it was had

    @property
    def mean(self) -> float:
        return float(np.mean(np.asarray(self.scores, np.float64)))


def candidates(sweep: Mapping[str, Sequence], search: str = 'grid', trials: int = 20, seed: int = 0
               ) -> list[dict[str, Any]]:
    """What a sweep tries, each as setting → value, in the order of `sweep`.

    Args:
      sweep: setting → values (numbers or strings), or a range.
      search: 'grid': all combinations, the last setting's values changing fastest. 'random': `trials` distinct
        ones of them, or all, where they are no more, each as likely as any other (Bergstra and Bengio 2012).
        The first n drawn from a seed are the same for any number of trials.

    Raises:
      UserError: an unknown search, nothing to sweep over, trials < 1 at random, a range that is none or in a
        grid, values that are neither numbers nor strings, or the same twice.
    """
    if search not in SEARCHES:
        raise UserError(f'sweep.search: "{search}" is no search.{nearest(search, SEARCHES)}')
    if not sweep:
        raise UserError('sweep: there is nothing to sweep over: give a setting several values, as '
                        'training.learning_rate=(1e-4, 1e-3).')
    ranges = {name: is_range for name, values in sweep.items() if (is_range := _is_range(name, values))}
    if search == 'grid':
        for name in ranges:
            raise UserError(f'sweep.{name}: a grid needs values, and {sweep[name]!r} is a range: use '
                            'search="random".')
        return [dict(zip(sweep, point)) for point in itertools.product(*map(_plain, sweep.values()))]
    if not isinstance(trials, numbers.Integral) or trials < 1:
        raise UserError(f'sweep.trials={trials}: should be a whole number of at least 1.')
    if not ranges:
        trials = min(trials, math.prod(map(len, sweep.values())))
    generator, points = np.random.Generator(np.random.Philox(seed)), {}
    while len(points) < trials:  # a point that was drawn before is drawn again
        point = tuple(_draw(generator, values, name in ranges) for name, values in sweep.items())
        points[len(points) if ranges else point] = point
    return [dict(zip(sweep, point)) for point in points.values()]


def _is_range(name: str, values: Sequence) -> bool:
    """Whether `values` are a range; UserError where they are neither that nor values to choose from."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
        raise UserError(f'sweep.{name}={values!r}: should be a tuple of values, as (1e-4, 1e-3).')
    for value in values:
        if not isinstance(value, (str, numbers.Real)) or (isinstance(value, numbers.Real) and not math.isfinite(value)):
            raise UserError(f'sweep.{name}: {value!r} is neither a number nor a string.')
    if values[0] in RANGES:
        kind, *bounds = values
        if len(bounds) != 2 or any(isinstance(bound, str) for bound in bounds) or not bounds[0] < bounds[1]:
            raise UserError(f'sweep.{name}={tuple(values)!r}: a range should be ("{kind}", low, high) with low < high.')
        if kind == 'log' and bounds[0] <= 0:
            raise UserError(f'sweep.{name}={tuple(values)!r}: of ("log", low, high) low should be above 0.')
        return True
    if len(set(values)) < len(values):
        raise UserError(f'sweep.{name}={tuple(values)!r}: has a value twice.')
    return False


def _plain(values: Sequence) -> list:
    """NumPy's numbers as Python's."""
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _draw(generator: np.random.Generator, values: Sequence, is_range: bool) -> Any:
    if not is_range:
        return _plain(values)[generator.integers(len(values))]
    kind, low, high = values
    if kind == 'uniform':
        return float(generator.uniform(low, high))
    return float(np.clip(np.exp(generator.uniform(np.log(low), np.log(high))), low, high))


def ranked(trials: Sequence[Trial]) -> list[int]:
    """Places in `trials`, the highest mean first, the earlier one of equals; what is no finite number is last.

    Raises:
      UserError: no trial has a finite score.
    """
    means = [trial.mean if math.isfinite(trial.mean) else -math.inf for trial in trials]
    if not any(mean > -math.inf for mean in means):
        raise UserError(f'sweep: none of {len(trials)} trials has a validation score that is a finite number: lower '
                        'the learning rates.')
    return sorted(range(len(trials)), key=lambda n: -means[n])


def table(trials: Sequence[Trial]) -> tuple[list[str], list[list[Any]]]:
    """(header, rows), best first: settings, validation mean and spread over the seeds, best epoch, chosen.

    Scores are shown without their sign, which is that of a loss; the spread is the standard deviation (n − 1),
    '' of one seed.
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    rows = []
    for place, n in enumerate(ranked(trials)):
        scores, epochs = np.ravel(np.asarray(trials[n].scores, np.float64)), np.ravel(trials[n].best_epochs)
        low, high = int(epochs.min()), int(epochs.max())
        rows.append([*(trials[n].settings.get(name, '') for name in names), abs(trials[n].mean),
                     float(scores.std(ddof=1)) if len(scores) > 1 else '',
                     str(low) if low == high else f'{low} to {high}', 'yes' if place == 0 else ''])
    return [*names, 'validation mean', 'validation std', 'best epoch', 'chosen'], rows


def text(settings: Mapping[str, Any]) -> str:
    """'training.learning_rate=0.001, model.dropout=0.2'."""
    return ', '.join(f'{name}={value:g}' if isinstance(value, float) else f'{name}={value}'
                     for name, value in settings.items())
