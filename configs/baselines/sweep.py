"""`config.sweep`: the settings that a sweep may take values for, none of them yet.

    --config.sweep.training.learning_rate="(1e-4, 1e-3)" --config.sweep.model.dropout="(0.0, 0.2, 0.5)"
    --config.sweep.search=random --config.sweep.trials=10 --config.sweep.training.learning_rate="('log', 1e-5, 1e-2)"
"""

from collections.abc import Iterable

from ml_collections import ConfigDict


def settings(training: Iterable[str], model: Iterable[str]) -> ConfigDict:
    """Empty tuples for all of `fit.training`, and those settings of models that are worth it."""
    return ConfigDict({
        'search': 'grid',  # or 'random'
        'trials': 20,  # of a random search
        'training': {name: () for name in training},
        'model': {name: () for name in model},
    })
