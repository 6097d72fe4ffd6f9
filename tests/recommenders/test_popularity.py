"""Popularity is a count."""

import numpy as np

from xrec_jax.recommenders.popularity import Popularity


def test_scores_are_counts_over_the_highest_and_the_same_for_all():
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 5, 60), rng.integers(0, 8, 60)
    item[item == 3] = 2
    model = Popularity(num_users=5, num_items=9)
    variables = model.constants(user, item)
    items = model.apply(variables, method='item_vectors')
    users = model.apply(variables, np.arange(5), np.zeros((5, 0), np.int32), method='user_vectors')
    count = [sum(1 for i in item if i == n) for n in range(9)]
    assert count[3] == count[8] == 0
    np.testing.assert_allclose(users @ items.T, np.tile(np.array(count) / max(count), (5, 1)), rtol=1e-6)


def test_without_any_interaction_all_scores_are_zero():
    model = Popularity(num_users=5, num_items=9)
    none = np.zeros(0, np.int32)
    assert not model.apply(model.constants(none, none), method='item_vectors').any()
