"""Contextual features against a slow loop over each user's interactions."""

import math

import numpy as np
import pyarrow as pa

from xrec_jax.data import catalog, context, protocols


def make(**options):
    dataset = catalog.load('simulated', None, num_users=12, num_items=20, num_interactions=150, seed=1)
    return dataset, protocols.make('random_target', dataset, seed=0, num_samples=40, history_length=3)


def test_features_equal_a_slow_loop():
    dataset, examples = make()
    rows = dataset.interactions.to_pylist()
    for split in examples.values():
        features = dict(zip(context.NAMES, context.context_features(dataset, split).T))
        for n, row in enumerate(split.interaction):
            now, user = rows[row]['timestamp'], rows[row]['user_id']
            earlier = [(other['timestamp'], m) for m, other in enumerate(rows)
                       if other['user_id'] == user and (other['timestamp'], m) < (now, row)]
            hours = now / 3600 % 168
            expected = {'week sine': math.sin(2 * math.pi * hours / 168),
                        'half-week cosine': math.cos(2 * math.pi * hours / 84),
                        'day sine': math.sin(2 * math.pi * (hours % 24) / 24), 'timed': 1,
                        'recency': math.log1p((now - max(earlier)[0]) / 86400) if earlier else 0,
                        'recency known': float(bool(earlier)), 'history length': math.log1p(split.past.length[n])}
            for name, value in expected.items():
                np.testing.assert_allclose(features[name][n], value, atol=1e-4, err_msg=name)


def test_unknown_times_are_zeros_that_say_so():
    dataset, examples = make()
    none = pa.nulls(dataset.interactions.num_rows, pa.int64())
    place = dataset.interactions.schema.get_field_index('timestamp')
    blind = dataset.__class__(**{**vars(dataset), 'interactions': dataset.interactions.set_column(
        place, dataset.interactions.schema.field(place), none)})
    features = dict(zip(context.NAMES, context.context_features(blind, examples['test']).T))
    for name, values in features.items():
        assert name == 'history length' or not values.any(), name
