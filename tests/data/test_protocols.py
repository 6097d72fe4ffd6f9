"""The protocol against a slow loop that knows only the tables and the samples drawn."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import protocols, tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.errors import UserError

U, I = 25, 40


def random_dataset(seed=0, n=600, repeats=True) -> tables.Dataset:
    """Random times with many ties, users of very different activity, some pairs met again."""
    rng = np.random.default_rng(seed)
    user = rng.choice(U - 1, n, p=np.arange(1, U) / np.arange(1, U).sum())  # the last meets nothing
    item = rng.integers(0, I, n)
    if not repeats:
        pairs = rng.permutation(np.unique(np.stack([user, item], 1), axis=0))
        user, item = pairs[:, 0], pairs[:, 1]
    return tables.validate(tables.Dataset(
        name='random',
        interactions=tables.table(
            tables.INTERACTIONS, user_id=[f'u{u}' for u in user], item_id=[f'i{i}' for i in item],
            rating=rng.integers(1, 6, len(user)).astype(np.float32),
            timestamp=rng.integers(0, 60, len(user))),
        users=tables.table(tables.USERS, user_id=[f'u{u}' for u in range(U)],
                           profile=pa.array([[]] * U, tables.USERS.field('profile').type)),
        items=tables.table(tables.ITEMS, item_id=[f'i{i}' for i in range(I)],
                           title=[f'Title {i}' for i in range(I)], attributes=[['x']] * I),
        rating_scale=(1.0, 5.0), domain=MOVIES, licence='none'))


def plain_rows(dataset):
    """Interactions as Python tuples (user row, item row, rating, timestamp, source row)."""
    return [(int(r['user_id'][1:]), int(r['item_id'][1:]), r['rating'], r['timestamp'], n)
            for n, r in enumerate(dataset.interactions.to_pylist())]


def eligible(dataset):
    """By user: source rows that meet their item for the first time, and not first of all."""
    by_user = {u: [] for u in range(U)}
    for u in range(U):
        mine = sorted((r for r in plain_rows(dataset) if r[0] == u), key=lambda r: (r[3], r[4]))
        seen = set()
        for n, row in enumerate(mine):
            if n > 0 and row[1] not in seen:
                by_user[u].append(row[4])
            seen.add(row[1])
    return by_user


def slow_history(dataset, user, source_row, hidden, length):
    """The last `length` rows of `user` before `source_row`, past those of the pairs in `hidden`."""
    rows = plain_rows(dataset)
    target = rows[source_row]
    before = []
    for row in rows:
        if row[0] == user and (row[3], row[4]) < (target[3], target[4]):
            if (row[0], row[1]) not in hidden:
                before.append(row)
    before.sort(key=lambda row: (row[3], row[4]))
    return before[-length:]


@pytest.mark.parametrize('seed, num_samples, length', [(0, 150, 3), (1, 300, 10), (2, None, 5)])
def test_every_sample_equals_the_slow_loop(seed, num_samples, length):
    dataset = random_dataset(seed)
    rows = plain_rows(dataset)
    drawn = protocols.random_target(
        dataset, num_samples=num_samples, history_length=length, seed=seed)
    targets = {name: {(rows[n][0], rows[n][1]) for n in drawn[name].interaction}
               for name in drawn}
    later = {'train': targets['valid'] | targets['test'], 'valid': targets['test'], 'test': set()}
    reached_past = 0
    for name, examples in drawn.items():
        for n in range(len(examples.user)):
            source = int(examples.interaction[n])
            user, item, rating, _, _ = rows[source]
            assert (examples.user[n], examples.item[n], examples.rating[n]) == (user, item, rating)
            assert examples.label[n] == (1.0 if rating >= 4 else 0.0)
            past = slow_history(dataset, user, source, later[name], length)
            reached_past += past != slow_history(dataset, user, source, set(), length)
            pads = [-1] * (length - len(past))
            assert past, 'a history is never empty'
            assert examples.history[n].tolist() == pads + [row[1] for row in past]
            assert examples.history_liked[n].tolist() == [False] * len(pads) + [
                row[2] >= 4 for row in past]
            assert item not in examples.history[n]
    assert num_samples is None or reached_past > 0  # the case is met, not only ruled out


def test_shapes_and_types():
    examples = protocols.random_target(random_dataset(), num_samples=100, seed=0)['train']
    expected = dict(user='int32', item='int32', rating='float32', label='float32', history='int32',
                    history_liked='bool', interaction='int64')
    assert {k: str(v.dtype) for k, v in vars(examples).items()} == expected
    assert examples.history.shape == examples.history_liked.shape == (80, 10)
    assert all(v.shape == (80,) for k, v in vars(examples).items() if 'history' not in k)


def test_no_held_out_target_shows_in_an_earlier_history():
    drawn = protocols.random_target(random_dataset(3), num_samples=350, history_length=20, seed=3)
    for earlier, later in (('train', 'valid'), ('train', 'test'), ('valid', 'test')):
        held_out = set(zip(drawn[later].user.tolist(), drawn[later].item.tolist()))
        shown = {(u, i) for u, row in zip(drawn[earlier].user.tolist(), drawn[earlier].history.tolist())
                 for i in row}
        assert not held_out & shown


def test_no_pair_is_a_target_twice():
    drawn = protocols.random_target(random_dataset(4), num_samples=300, seed=0)
    pairs = [pair for e in drawn.values() for pair in zip(e.user.tolist(), e.item.tolist())]
    assert len(pairs) == len(set(pairs)) == 300


@pytest.mark.parametrize('num_samples', [10, 100, 200, 350])
def test_targets_come_in_rounds_over_the_users(num_samples):
    dataset = random_dataset(5)
    available = {u: len(rows) for u, rows in eligible(dataset).items()}
    drawn = protocols.random_target(dataset, num_samples=num_samples, seed=1)
    count = np.bincount(np.concatenate([e.user for e in drawn.values()]), minlength=U)
    rounds = 0
    while sum(min(a, rounds + 1) for a in available.values()) <= num_samples:
        rounds += 1
    for u in range(U):
        assert min(available[u], rounds) <= count[u] <= min(available[u], rounds + 1)


def test_one_round_gives_each_user_one_target():
    dataset = random_dataset(6)
    drawn = protocols.random_target(dataset, num_samples=None, seed=1)
    users = np.sort(np.concatenate([e.user for e in drawn.values()]))
    np.testing.assert_array_equal(users, [u for u, rows in eligible(dataset).items() if rows])


def test_all_targets_can_be_drawn_and_no_more():
    dataset = random_dataset(7)
    all_rows = sorted(n for rows in eligible(dataset).values() for n in rows)
    drawn = protocols.random_target(dataset, num_samples=len(all_rows), seed=0)
    assert sorted(n for e in drawn.values() for n in e.interaction.tolist()) == all_rows
    with pytest.raises(UserError, match=f'from 1 to {len(all_rows)}'):
        protocols.random_target(dataset, num_samples=len(all_rows) + 1, seed=0)


def test_a_users_targets_are_drawn_evenly():
    dataset = random_dataset(8, n=120)
    by_user = eligible(dataset)
    user = max(by_user, key=lambda u: len(by_user[u]))
    hits = {n: 0 for n in by_user[user]}
    draws = 1500
    for seed in range(draws):
        drawn = protocols.random_target(dataset, num_samples=None, seed=seed)
        for e in drawn.values():
            for n in e.interaction[e.user == user].tolist():
                hits[n] += 1
    expected = draws / len(hits)
    chi_squared = sum((h - expected) ** 2 / expected for h in hits.values())
    assert chi_squared < len(hits) - 1 + 5 * np.sqrt(2 * len(hits))


@pytest.mark.parametrize('n, split, sizes', [
    (100, (8, 1, 1), (80, 10, 10)), (305, (8, 1, 1), (244, 30, 31)), (10, (8, 1, 1), (8, 1, 1)),
    (100, (0.6, 0.2, 0.2), (60, 20, 20)), (100, (9, 0, 1), (90, 0, 10))])
def test_split_sizes(n, split, sizes):
    drawn = protocols.random_target(random_dataset(), num_samples=n, split=split, seed=0)
    assert tuple(drawn) == ('train', 'valid', 'test')
    assert tuple(len(e.user) for e in drawn.values()) == sizes


@pytest.mark.parametrize('comparison, threshold, liked', [
    ('at_least', 4, {4, 5}), ('above', 4, {5}), ('at_least', 3, {3, 4, 5}), ('above', 3.5, {4, 5})])
def test_labels_by_comparison(comparison, threshold, liked):
    drawn = protocols.random_target(random_dataset(), num_samples=200, comparison=comparison,
                                    threshold=threshold, seed=0)
    for examples in drawn.values():
        assert examples.label.tolist() == [float(r in liked) for r in examples.rating]
        assert protocols.positive_rate(examples) == np.mean([r in liked for r in examples.rating])


def test_same_seed_same_samples_and_another_seed_others():
    dataset = random_dataset()
    a, b, c = (protocols.random_target(dataset, num_samples=200, seed=s) for s in (3, 3, 4))
    for name in a:
        for field in dataclasses.fields(protocols.Examples):
            np.testing.assert_array_equal(getattr(a[name], field.name), getattr(b[name], field.name))
    assert a['train'].interaction.tolist() != c['train'].interaction.tolist()


def test_samples_do_not_depend_on_the_order_of_source_rows():
    """Without ties of time, shuffled rows give the same (user, item) samples."""
    dataset = random_dataset(9, repeats=False)
    times = pa.array(np.random.default_rng(0).permutation(dataset.interactions.num_rows))
    at = dataset.interactions.column_names.index('timestamp')
    dataset = dataclasses.replace(dataset, interactions=dataset.interactions.set_column(
        at, tables.INTERACTIONS.field('timestamp'), times))
    shuffled = dataclasses.replace(dataset, interactions=dataset.interactions.take(
        np.random.default_rng(1).permutation(len(times))))
    a, b = (protocols.random_target(d, num_samples=150, seed=0) for d in (dataset, shuffled))
    for name in a:
        for field in ('user', 'item', 'history', 'label'):
            np.testing.assert_array_equal(getattr(a[name], field), getattr(b[name], field))


@pytest.mark.parametrize('options, message', [
    (dict(comparison='atleast'), 'Did you mean "at_least"'),
    (dict(threshold=6), 'gives one label'), (dict(threshold=1), 'gives one label'),
    (dict(threshold=5, comparison='above'), 'gives one label'),
    (dict(threshold=float('nan')), 'gives one label'),
    (dict(history_length=0), 'history_length=0'),
    (dict(num_samples=0), 'num_samples=0'), (dict(num_samples=10**6), 'num_samples=1000000'),
    (dict(num_samples=4), 'is empty'),
    (dict(split=(8, 1)), 'three shares'), (dict(split=(8, -1, 1)), 'three shares'),
    (dict(split=(0, 0, 0)), 'three shares')])
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        protocols.random_target(random_dataset(), **{'num_samples': 100, 'seed': 0} | options)
