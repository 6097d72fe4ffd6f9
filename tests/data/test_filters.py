"""Filters against slow loops over tuples that know no arrays."""

import collections
import dataclasses
import random

import numpy as np
import pytest

from xrec_jax.data.filters import Filters, describe, select
from xrec_jax.errors import UserError


def draw(seed: int, n: int = 400, users: int = 40, items: int = 30):
    """user, item, timestamp: a few users and items with many interactions, repeats, and ties of time."""
    rng = np.random.default_rng(seed)
    weights = lambda size: 1 / np.arange(1, size + 1) / np.sum(1 / np.arange(1, size + 1))
    return (rng.choice(users, n, p=weights(users)).astype(np.int32),
            rng.choice(items, n, p=weights(items)).astype(np.int32), rng.integers(0, 20, n))


def slow_core(rows, user, item, per_user, per_item):
    """Takes out one user or item that has too few, again and again."""
    rows = list(rows)
    while True:
        users, items = collections.Counter(user[r] for r in rows), collections.Counter(item[r] for r in rows)
        few_users = [u for u, n in users.items() if n < per_user]
        few_items = [i for i, n in items.items() if n < per_item]
        if few_users:
            rows = [r for r in rows if user[r] != few_users[0]]
        elif few_items:
            rows = [r for r in rows if item[r] != few_items[0]]
        else:
            return rows


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('per_user, per_item', [(3, 3), (5, 2), (0, 8), (6, 0), (8, 8)])
def test_the_core_equals_a_slow_loop(seed, per_user, per_item):
    user, item, timestamp = draw(seed)
    expected = slow_core(range(len(user)), user.tolist(), item.tolist(), per_user, per_item)
    assert 0 < len(expected) < len(user)
    rows = select(Filters(min_per_user=per_user, min_per_item=per_item), user, item, timestamp)
    assert rows.tolist() == expected


def test_the_core_is_a_fixed_point_that_takes_many_rounds():
    """A chain: each user shares items with the next one only, so that each loss brings the next."""
    user = np.repeat(np.arange(50, dtype=np.int32), 2)
    item = np.arange(100, dtype=np.int32) // 2 + np.arange(100, dtype=np.int32) % 2  # user u meets items u and u + 1
    user, item = np.append(user, [60, 60, 61, 61]).astype(np.int32), np.append(item, [70, 71, 70, 71]).astype(np.int32)
    rows = select(Filters(min_per_user=2, min_per_item=2), user, item, np.zeros(104, np.int64))
    assert rows.tolist() == [100, 101, 102, 103]


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('which', ['first', 'last'])
def test_of_repeats_the_first_or_last_in_time_stays(seed, which):
    user, item, timestamp = draw(seed)
    kept = {}
    for row in range(len(user)):
        pair = int(user[row]), int(item[row])
        if pair not in kept:
            kept[pair] = row
        elif which == 'first' and timestamp[row] < timestamp[kept[pair]]:
            kept[pair] = row
        elif which == 'last' and timestamp[row] >= timestamp[kept[pair]]:
            kept[pair] = row  # at equal times the source's order decides
    assert len(kept) < len(user)
    assert select(Filters(repeats=which), user, item, timestamp).tolist() == sorted(kept.values())


def test_users_and_items_with_too_many_are_left_out_before_the_core():
    user, item, timestamp = draw(0)
    most_users, most_items = 30, 25
    rows = [r for r in range(len(user)) if np.sum(user == user[r]) <= most_users]
    rows = [r for r in rows if sum(item[s] == item[r] for s in rows) <= most_items]
    expected = slow_core(rows, user.tolist(), item.tolist(), 4, 2)
    assert 0 < len(expected) < len(rows) < len(user)
    found = select(Filters(max_per_user=most_users, max_per_item=most_items, min_per_user=4, min_per_item=2),
                   user, item, timestamp)
    assert found.tolist() == expected


def test_repeats_are_dropped_before_anything_is_counted():
    user, item = np.array([0, 0, 0, 1, 1], np.int32), np.array([0, 0, 0, 0, 1], np.int32)
    timestamp = np.arange(5)
    assert select(Filters(repeats='first', min_per_user=2), user, item, timestamp).tolist() == [3, 4]
    assert select(Filters(min_per_user=3), user, item, timestamp).tolist() == [0, 1, 2]
    assert select(Filters(repeats='last', max_per_user=1), user, item, timestamp).tolist() == [2]


# -------------------------------------------------------------------------------------- sampling


def test_a_sample_holds_all_of_its_users_and_the_seed_fixes_it():
    user, item, timestamp = draw(1)
    rows = select(Filters(sample_users=7), user, item, timestamp)
    chosen = set(user[rows].tolist())
    assert len(chosen) == 7
    assert rows.tolist() == [r for r in range(len(user)) if user[r] in chosen]
    np.testing.assert_array_equal(rows, select(Filters(sample_users=7), user, item, timestamp))
    others = [tuple(sorted(set(user[select(Filters(sample_users=7, seed=seed), user, item, timestamp)].tolist())))
              for seed in range(6)]
    assert len(set(others)) == 6 and set(others[0]) == chosen


def test_a_sample_is_the_same_on_every_machine():
    """A change of NumPy's generators would draw other samples by the same seeds: it should be seen."""
    user = np.arange(20, dtype=np.int32)
    rows = select(Filters(sample_users=5, seed=3), user, user, np.zeros(20, np.int64))
    assert rows.tolist() == [0, 5, 8, 9, 18]


def test_a_sample_does_not_depend_on_how_users_are_numbered():
    user, item, timestamp = draw(4)
    renamed = np.random.default_rng(0).permutation(1000)[user].astype(np.int32)
    filters = Filters(sample_users=9, min_per_item=2, seed=1)
    np.testing.assert_array_equal(select(filters, user, item, timestamp), select(filters, renamed, item, timestamp))


def test_every_user_is_as_likely_to_be_drawn():
    user = np.arange(10, dtype=np.int32)
    counts = np.zeros(10, int)
    for seed in range(400):
        counts[select(Filters(sample_users=3, seed=seed), user, user, np.zeros(10, np.int64))] += 1
    assert counts.sum() == 1200 and counts.min() > 80 and counts.max() < 160  # 120 expected, sd 9


def test_the_minimums_hold_after_the_sample_too():
    user, item, timestamp = draw(2, n=600)
    filters = Filters(sample_users=15, min_per_user=4, min_per_item=3)
    rows = select(filters, user, item, timestamp)
    assert np.bincount(user[rows])[user[rows]].min() >= 4 and np.bincount(item[rows])[item[rows]].min() >= 3
    assert len(np.unique(user[rows])) <= 15
    drawn = select(dataclasses.replace(filters, min_per_user=0, min_per_item=0), user, item, timestamp)
    assert len(drawn)


# ------------------------------------------------------------------------------------------ limits


def test_without_filters_all_rows_stay_and_order_is_kept():
    user, item, timestamp = draw(3)
    assert select(Filters(), user, item, timestamp).tolist() == list(range(len(user)))
    shuffled = random.Random(0).sample(range(len(user)), len(user))
    rows = select(Filters(min_per_user=3), user[shuffled], item[shuffled], timestamp[shuffled])
    assert (np.diff(rows) > 0).all()


def test_limits_that_are_just_met_hold():
    user, item = np.array([0, 0, 1, 1, 1], np.int32), np.zeros(5, np.int32)
    timestamp = np.zeros(5, np.int64)
    filters = Filters(min_per_user=2, max_per_user=3, min_per_item=5, max_per_item=5)
    assert len(select(filters, user, item, timestamp)) == 5
    assert len(select(Filters(sample_users=2), user, item, timestamp)) == 5


@pytest.mark.parametrize('filters, message', [
    (Filters(min_per_item=6), 'no interaction is left of 5 after min_per_item=6; loosen the filters'),
    (Filters(max_per_user=1), 'no interaction is left of 5 after max_per_user=1'),
    (Filters(sample_users=3), 'sample_users=3: only 2 users are left to draw from'),
    (Filters(sample_users=1, min_per_user=9), 'sample_users=1: only 0 users are left to draw from'),
])
def test_filters_that_leave_too_little_are_told(filters, message):
    user, item = np.array([0, 0, 1, 1, 1], np.int32), np.zeros(5, np.int32)
    with pytest.raises(UserError) as error:
        select(filters, user, item, np.zeros(5, np.int64))
    assert message in str(error.value)


@pytest.mark.parametrize('values, message', [
    (dict(repeats='frist'), 'repeats="frist". Did you mean "first"?'),
    (dict(min_per_user=-1), 'min_per_user=-1: should be an integer of at least 0'),
    (dict(max_per_item=2.5), 'max_per_item=2.5: should be an integer'),
    (dict(sample_users=True), 'sample_users=True: should be an integer'),
    (dict(min_per_item=5, max_per_item=4), 'min_per_item=5 and max_per_item=4: no item can have both'),
    (dict(min_per_user=5, max_per_user=4), 'no user can have both'),
])
def test_values_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(UserError) as error:
        Filters(**values)
    assert message in str(error.value)


def test_what_does_something_is_described():
    assert describe(Filters()) == describe(Filters(seed=3)) == 'none'
    assert not Filters(seed=3).active and Filters(repeats='last').active
    assert describe(Filters(repeats='last', min_per_user=5, seed=3)) == 'repeats=last, min_per_user=5'
    assert describe(Filters(sample_users=5, seed=3)) == 'sample_users=5, seed=3'
