"""The protocols against slow loops that know only the tables, and what must hold of any of them."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import catalog, protocols, tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.data.protocols import timeline
from xrec_jax.errors import UserError

U, I = 25, 40
SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
ARRAYS = ('user', 'item', 'rating', 'label', 'history', 'history_liked', 'interaction')
CALLS = {  # each protocol, with options that make every part of it work
    'random_target': dict(num_samples=150, history_length=3),
    'leave_one_out': dict(history_length=4),
    'user_temporal': dict(history_length=5),
}


def dataset_of(user, item, rating, timestamp) -> tables.Dataset:
    users = tables.table(tables.USERS, user_id=[f'u{u}' for u in range(U)])
    items = tables.table(tables.ITEMS, item_id=[f'i{i}' for i in range(I)], attributes=[['x']] * I)
    return tables.validate(tables.Dataset(
        name='random', users=users, items=items, rating_scale=(1.0, 5.0), domain=MOVIES, licence='none',
        interactions=tables.interactions(
            users, items, user=np.asarray(user), item=np.asarray(item), rating=pa.array(rating, pa.float32()),
            timestamp=pa.array(timestamp, pa.int64()))))


def random_dataset(seed=0, n=600, repeats=True, unrated=0.0, timeless=0.0) -> tables.Dataset:
    """Random times with many ties, users of very different activity, some pairs met again."""
    rng = np.random.default_rng(seed)
    user = rng.choice(U - 1, n, p=np.arange(1, U) / np.arange(1, U).sum())  # the last meets nothing
    item = rng.integers(0, I, n)
    if not repeats:
        pairs = rng.permutation(np.unique(np.stack([user, item], 1), axis=0))
        user, item = pairs[:, 0], pairs[:, 1]
    n = len(user)
    rating = [float(r) if known else None for r, known in zip(rng.integers(1, 6, n), rng.random(n) >= unrated)]
    time = [int(t) if known else None for t, known in zip(rng.integers(-30, 30, n), rng.random(n) >= timeless)]
    return dataset_of(user, item, rating, time)


def messy_dataset(seed, repeats=True):
    return random_dataset(seed, repeats=repeats, unrated=0.2, timeless=0.2)


# ------------------------------------------------------------------------------- the slow side


@dataclasses.dataclass(frozen=True)
class Row:
    """One interaction, as plain Python."""

    number: int
    user: int
    item: int
    rating: float | None
    time: int | None

    @property
    def moment(self):
        """Sorts by time, those of unknown time first, then by row."""
        return (self.time is not None, self.time or 0, self.number)


def plain_rows(dataset):
    return [Row(n, int(r['user_id'][1:]), int(r['item_id'][1:]), r['rating'], r['timestamp'])
            for n, r in enumerate(dataset.interactions.to_pylist())]


def plain_timelines(dataset, rated_only=True):
    """By user: the rows that take part, in order."""
    rows = [row for row in plain_rows(dataset) if row.rating is not None or not rated_only]
    return {u: sorted((row for row in rows if row.user == u), key=lambda row: row.moment) for u in range(U)}


def eligible(dataset):
    """By user: the rows that meet their item for the first time, and not first of all."""
    by_user = {}
    for u, mine in plain_timelines(dataset).items():
        by_user[u] = [row for n, row in enumerate(mine) if n > 0 and row.item not in {r.item for r in mine[:n]}]
    return by_user


def slow_random_target(dataset, num_samples, split, seed):
    """Split name → rows, with the protocol's own random numbers, in its own order."""
    random = np.random.Generator(np.random.Philox(seed))
    by_user = eligible(dataset)
    numbers = iter(random.random(sum(map(len, by_user.values()))).tolist())
    shuffled = {u: [row for _, row in sorted(((next(numbers), row) for row in rows), key=lambda pair: pair[0])]
                for u, rows in by_user.items()}
    turns = np.argsort(random.random(U)).tolist()
    rounds = [[shuffled[u][n] for u in turns if len(shuffled[u]) > n] for n in range(max(map(len, by_user.values())))]
    drawn = rounds[0] if num_samples is None else [row for rows in rounds for row in rows][:num_samples]
    order = np.argsort(random.random(len(drawn)))
    ends = [round(len(drawn) * sum(split[:n]) / sum(split)) for n in range(4)]
    return {name: [row for row, at in zip(drawn, order) if ends[this] <= at < ends[this + 1]]
            for this, name in enumerate(protocols.SPLITS)}


def slow_leave_one_out(dataset, rated_only=False):
    """Split name → rows."""
    splits = {name: [] for name in protocols.SPLITS}
    for mine in plain_timelines(dataset, rated_only).values():
        held_out = {len(mine) - 2: 'valid', len(mine) - 1: 'test'} if len(mine) >= 3 else {}
        for n, row in enumerate(mine):
            splits[held_out.get(n, 'train')].append(row)
    return splits


def slow_user_temporal(dataset, split=(7, 1, 2)):
    """Split name → rows."""
    splits = {name: [] for name in protocols.SPLITS}
    for mine in plain_timelines(dataset).values():
        train = max(round(len(mine) * split[0] / sum(split)), 1)
        both = max(round(len(mine) * (split[0] + split[1]) / sum(split)), train)
        for n, row in enumerate(mine):
            splits['train' if n < train else 'valid' if n < both else 'test'].append(row)
    return splits


def check(examples, targets, pasts, likes=lambda row: row.rating >= 4):
    """Compares `examples` with rows and, for each, the rows of its whole past, oldest first."""
    length = examples.past.width
    assert [int(n) for n in examples.interaction] == [row.number for row in targets]
    assert examples.user.tolist() == [row.user for row in targets]
    assert examples.item.tolist() == [row.item for row in targets]
    np.testing.assert_array_equal(examples.rating, [np.nan if row.rating is None else row.rating for row in targets])
    assert examples.label.tolist() == [float(likes(row)) for row in targets]
    for n, past in enumerate(pasts):
        shown = past[-length:]
        pads = length - len(shown)
        assert examples.history[n].tolist() == [-1] * pads + [row.item for row in shown]
        assert examples.history_liked[n].tolist() == [False] * pads + [likes(row) for row in shown]


def before(lines, row):
    return [other for other in lines[row.user] if other.moment < row.moment]


def same(a, b):
    for name in protocols.SPLITS:
        for field in ARRAYS:
            np.testing.assert_array_equal(getattr(a[name], field), getattr(b[name], field))


# ------------------------------------------------------------------------- against slow loops


@pytest.mark.parametrize('seed', range(12))
def test_random_target_equals_the_slow_loop(seed):
    dataset = [random_dataset(seed), messy_dataset(seed)][seed % 2]
    num_samples, length, split = [(150, 3, (8, 1, 1)), (300, 10, (6, 2, 2)), (None, 5, (3, 1, 1))][seed % 3]
    drawn = protocols.random_target(dataset, num_samples=num_samples, history_length=length, split=split, seed=seed)
    targets, lines = slow_random_target(dataset, num_samples, split, seed), plain_timelines(dataset)
    pairs = {name: {(row.user, row.item) for row in rows} for name, rows in targets.items()}
    later = {'train': pairs['valid'] | pairs['test'], 'valid': pairs['test'], 'test': set()}
    reached_past = 0
    for name, rows in targets.items():
        pasts = [[past for past in before(lines, row) if (past.user, past.item) not in later[name]] for row in rows]
        check(drawn[name], rows, pasts)
        reached_past += sum(past[-length:] != before(lines, row)[-length:] for past, row in zip(pasts, rows))
        assert all(pasts), 'a history is never empty'
        assert all(item not in history for item, history in zip(drawn[name].item, drawn[name].history))
    assert num_samples is None or reached_past > 0  # the case is met, not only ruled out


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('threshold', [None, 4.0])
def test_leave_one_out_equals_the_slow_loop(seed, threshold):
    dataset = messy_dataset(seed)
    made = protocols.leave_one_out(dataset, history_length=4, threshold=threshold, seed=0)
    lines = plain_timelines(dataset, rated_only=threshold is not None)
    for name, rows in slow_leave_one_out(dataset, rated_only=threshold is not None).items():
        likes = (lambda row: True) if threshold is None else (lambda row: row.rating >= 4)
        check(made[name], rows, [before(lines, row) for row in rows], likes)
    assert np.isnan(made['train'].rating).any() == (threshold is None)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('split', [(7, 1, 2), (8, 0, 2), (1, 1, 1)])
def test_user_temporal_equals_the_slow_loop(seed, split):
    dataset = messy_dataset(seed)
    made = protocols.user_temporal(dataset, history_length=5, split=split, seed=0)
    lines = plain_timelines(dataset)
    for name, rows in slow_user_temporal(dataset, split).items():
        check(made[name], rows, [before(lines, row) for row in rows])


@pytest.mark.parametrize('seed', range(20))
def test_stable_order_equals_lexsort(seed):
    rng = np.random.default_rng(seed)
    for size in (0, 1, 2, 7, 1000):
        wide = rng.integers(-(1 << 62), 1 << 62, size)  # more than fits beside the row number
        keys = [wide, rng.choice([0, 1, tables.LONG_AGO, 1 << 40], size), rng.integers(0, 5, size, dtype=np.int32),
                rng.integers(-3, 3, size) << 45]
        for chosen in (keys[:1], keys[1:2], keys[2:], keys[::-1], rng.permutation(4)):
            chosen = [keys[k] if np.ndim(k) == 0 else k for k in chosen]
            order = timeline.stable_order(*chosen)
            assert order.dtype == np.int32
            np.testing.assert_array_equal(order, np.lexsort(chosen[::-1]))


# --------------------------------------------------------------------- what must hold of any


def shown_rows(dataset, examples):
    """By example: the rows in its history. A user's item tells the row, as no pair stands twice."""
    row_of = {(row.user, row.item): row for row in plain_rows(dataset)}
    return [[row_of[int(user), int(item)] for item in history if item >= 0]
            for user, history in zip(examples.user, examples.history)]


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_no_history_holds_its_target_or_anything_later(name, seed):
    dataset = messy_dataset(seed, repeats=False)
    rows = plain_rows(dataset)
    seen = 0
    for examples in protocols.make(name, dataset, seed=seed, **CALLS[name]).values():
        for target, shown in zip(examples.interaction, shown_rows(dataset, examples)):
            assert all(row.moment < rows[target].moment for row in shown)
            assert [row.moment for row in shown] == sorted(row.moment for row in shown)
            seen += len(shown)
    assert seen > 300


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_splits_share_no_interaction_and_counts_add_up(name, seed):
    dataset = messy_dataset(seed)
    made = protocols.make(name, dataset, seed=seed, **CALLS[name])
    taken = np.concatenate([examples.interaction for examples in made.values()])
    assert len(set(taken.tolist())) == len(taken) and all(len(examples.user) for examples in made.values())
    rated = [row.number for row in plain_rows(dataset) if row.rating is not None]
    expected = {'random_target': 150, 'leave_one_out': 600, 'user_temporal': len(rated)}[name]
    assert len(taken) == expected
    if name != 'leave_one_out':
        assert set(taken.tolist()) <= set(rated) and len(rated) < 600
        assert not any(np.isnan(examples.rating).any() for examples in made.values())


@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_same_seed_same_examples_and_another_seed_others(name):
    dataset = messy_dataset(0)
    share = {} if name == 'random_target' else {'train_share': 0.5}
    a, b, c = (protocols.make(name, dataset, seed=s, **CALLS[name], **share) for s in (3, 3, 4))
    same(a, b)
    assert a['train'].interaction.tolist() != c['train'].interaction.tolist()


@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_how_the_tables_lie_in_memory_does_not_matter(name):
    dataset = messy_dataset(1)
    pieces = [dataset.interactions.slice(at, 77) for at in range(0, dataset.interactions.num_rows, 77)]
    chunked = dataclasses.replace(dataset, interactions=pa.concat_tables(pieces))
    assert chunked.interactions['user_id'].num_chunks > 5
    same(*(protocols.make(name, d, seed=0, **CALLS[name]) for d in (dataset, chunked)))


@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_examples_do_not_depend_on_the_order_of_source_rows(name):
    """Without ties of time, shuffled rows give the same examples."""
    dataset = random_dataset(9, repeats=False)
    times = pa.array(np.random.default_rng(0).permutation(dataset.interactions.num_rows))
    at = dataset.interactions.column_names.index('timestamp')
    dataset = dataclasses.replace(dataset, interactions=dataset.interactions.set_column(
        at, tables.INTERACTIONS.field('timestamp'), times))
    rows = np.random.default_rng(1).permutation(len(times))
    shuffled = dataclasses.replace(dataset, interactions=dataset.interactions.take(rows))
    a, b = (protocols.make(name, d, seed=0, **CALLS[name]) for d in (dataset, shuffled))
    for split in a:
        for field in ('user', 'item', 'history', 'label'):
            np.testing.assert_array_equal(getattr(a[split], field), getattr(b[split], field))
        np.testing.assert_array_equal(a[split].interaction, rows[b[split].interaction])


@pytest.mark.parametrize('name, digest', [
    ('random_target', 'f726097600e29038'), ('leave_one_out', '2e14d55260a65ad5'),
    ('user_temporal', '91d231b1f0d196f7')])
def test_the_examples_are_these_on_any_machine(name, digest):
    n = np.arange(500)
    dataset = dataset_of(n * 7 % 23, n * n % 37, n * 11 % 5 + 1, n * 3571 % 211)
    share = {} if name == 'random_target' else {'train_share': 0.5}
    made = protocols.make(name, dataset, seed=5, **CALLS[name], **share)
    found = hashlib.sha256()
    for examples in made.values():
        for field in ('interaction', 'history'):
            found.update(getattr(examples, field).astype('<i4').tobytes())
    assert found.hexdigest()[:16] == digest


@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_shapes_and_types(name):
    made = protocols.make(name, random_dataset(), seed=0, **CALLS[name])
    assert tuple(made) == protocols.SPLITS
    expected = dict(user='int32', item='int32', rating='float32', label='float32', history='int32',
                    history_liked='bool', interaction='int32')
    for examples in made.values():
        assert {k: str(getattr(examples, k).dtype) for k in ARRAYS} == expected
        shape = (len(examples.user), CALLS[name]['history_length'])
        assert examples.history.shape == examples.history_liked.shape == shape
        assert all(getattr(examples, k).shape == shape[:1] for k in ARRAYS if 'history' not in k)


def test_every_protocol_takes_unknown_times_for_the_earliest_in_the_order_of_rows():
    dataset = dataset_of([0] * 6, [5, 1, 4, 2, 3, 0], [5] * 6, [7, None, 3, None, -10**12, 3])
    made = protocols.leave_one_out(dataset, seed=0)
    assert made['test'].interaction.tolist() == [0]
    assert made['test'].history[0].tolist()[-5:] == [1, 2, 3, 4, 0]


# -------------------------------------------------------------------------------- random target


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
    all_rows = sorted(row.number for rows in eligible(dataset).values() for row in rows)
    drawn = protocols.random_target(dataset, num_samples=len(all_rows), seed=0)
    assert sorted(n for e in drawn.values() for n in e.interaction.tolist()) == all_rows
    with pytest.raises(UserError, match=f'from 1 to {len(all_rows)}'):
        protocols.random_target(dataset, num_samples=len(all_rows) + 1, seed=0)


def test_a_users_targets_are_drawn_evenly():
    dataset = random_dataset(8, n=120)
    by_user = eligible(dataset)
    user = max(by_user, key=lambda u: len(by_user[u]))
    hits = {row.number: 0 for row in by_user[user]}
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
    assert drawn['valid'].history.shape == (sizes[1], 10)


@pytest.mark.parametrize('comparison, threshold, liked', [
    ('at_least', 4, {4, 5}), ('above', 4, {5}), ('at_least', 3, {3, 4, 5}), ('above', 3.5, {4, 5})])
@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_labels_by_comparison(name, comparison, threshold, liked):
    drawn = protocols.make(name, random_dataset(), comparison=comparison, threshold=threshold, seed=0, **CALLS[name])
    for examples in drawn.values():
        assert examples.label.tolist() == [float(r in liked) for r in examples.rating]
        assert protocols.positive_rate(examples) == np.mean([r in liked for r in examples.rating])


# ------------------------------------------------------------------------------------- by time


def sizes_by_count(protocol, counts):
    """Sizes of the splits of users with `counts` interactions."""
    user = np.repeat(np.arange(len(counts)), counts)
    made = protocol(dataset_of(user, np.arange(len(user)) % I, [5] * len(user), np.arange(len(user))), seed=0)
    return [tuple(np.bincount(made[name].user, minlength=len(counts))[u] for name in protocols.SPLITS)
            for u in range(len(counts))]


def test_leave_one_out_holds_out_of_users_with_three_or_more():
    assert sizes_by_count(protocols.leave_one_out, [1, 2, 3, 4, 0, 9]) == [
        (1, 0, 0), (2, 0, 0), (1, 1, 1), (2, 1, 1), (0, 0, 0), (7, 1, 1)]


def test_user_temporal_cuts_at_the_nearest_interaction():
    assert sizes_by_count(protocols.user_temporal, [0, 1, 2, 3, 4, 5, 6, 10, 20]) == [
        (0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 0, 1), (3, 0, 1), (4, 0, 1), (4, 1, 1), (7, 1, 2), (14, 2, 4)]


@pytest.mark.parametrize('name', ['leave_one_out', 'user_temporal'])
def test_a_train_share_thins_the_training_targets_and_nothing_else(name):
    dataset = messy_dataset(2)
    whole, part = (protocols.make(name, dataset, train_share=share, seed=7) for share in (1.0, 0.25))
    kept = np.isin(whole['train'].interaction, part['train'].interaction)
    assert kept.sum() == len(part['train'].user) == round(len(whole['train'].user) / 4)
    for field in ARRAYS:
        np.testing.assert_array_equal(getattr(whole['train'], field)[kept], getattr(part['train'], field))
        for split in ('valid', 'test'):
            np.testing.assert_array_equal(getattr(whole[split], field), getattr(part[split], field))


def test_without_ratings_each_interaction_is_a_like_or_the_protocol_is_refused():
    dataset = dataset_of([0, 0, 0, 1], [1, 2, 3, 4], [None] * 4, [1, 2, 3, 4])
    made = protocols.leave_one_out(dataset, seed=0)
    assert made['test'].item.tolist() == [3] and made['test'].history[0].tolist()[-3:] == [-1, 1, 2]
    assert all(examples.label.all() and np.isnan(examples.rating).all() for examples in made.values())
    assert made['test'].history_liked[0].tolist()[-3:] == [False, True, True]
    for name in ('random_target', 'user_temporal'):
        with pytest.raises(UserError, match='has no ratings.*leave_one_out'):
            protocols.make(name, dataset, seed=0)


@pytest.mark.skipif(not (SHARED / 'ml-100k').exists(), reason='needs the shared MovieLens-100k')
def test_movielens_100k():
    dataset = catalog.load('ml-100k', SHARED / 'ml-100k')
    sizes = {name: [len(examples.user) for examples in protocols.make(name, dataset, seed=0, **options).values()]
             for name, options in CALLS.items()}
    assert sizes['leave_one_out'] == [100_000 - 2 * 943, 943, 943]  # every user has 20 ratings or more
    assert sizes['random_target'] == [120, 15, 15]
    counts = np.bincount(tables.codes(dataset.interactions['user_id']))
    assert sizes['user_temporal'][2] == sum(n - round(0.8 * n) for n in counts.tolist())
    assert sum(sizes['user_temporal']) == 100_000


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize('options, message', [
    (dict(comparison='atleast'), 'Did you mean "at_least"'),
    (dict(threshold=6), 'gives one label'), (dict(threshold=1), 'gives one label'),
    (dict(threshold=5, comparison='above'), 'gives one label'),
    (dict(threshold=float('nan')), 'gives one label'),
    (dict(history_length=0), 'history_length=0')])
@pytest.mark.parametrize('name', protocols.PROTOCOLS)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        protocols.make(name, random_dataset(), seed=0, **options)


@pytest.mark.parametrize('name, options, message', [
    ('random_target', dict(num_samples=0), 'num_samples=0'),
    ('random_target', dict(num_samples=10**6), 'num_samples=1000000'),
    ('random_target', dict(num_samples=4), 'is empty'),
    ('random_target', dict(num_samples=100, split=(8, 1)), 'three shares'),
    ('user_temporal', dict(split=(8, -1, 1)), 'three shares'),
    ('user_temporal', dict(split=(0, 0, 0)), 'three shares'),
    ('user_temporal', dict(split=(8, float('nan'), 1)), 'three shares'),
    ('user_temporal', dict(split=(1000, 1, 1)), 'too few interactions for split=.*valid is empty'),
    ('user_temporal', dict(train_share=0.0), 'train_share=0'),
    ('leave_one_out', dict(train_share=1.5), 'train_share=1.5'),
    ('leave_one_out', dict(train_share=1e-6), 'of 554 training targets')])
def test_a_protocols_own_bad_options_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        protocols.make(name, random_dataset(), seed=0, **options)


def test_leave_one_out_needs_a_user_with_three_interactions():
    with pytest.raises(UserError, match='no user has three interactions'):
        protocols.leave_one_out(dataset_of([0, 0, 1], [1, 2, 3], [1, 2, 3], [1, 2, 3]), seed=0)


def test_unknown_protocols_and_options_are_refused_by_name():
    with pytest.raises(UserError, match='unknown protocol "leave_one". Did you mean "leave_one_out"?'):
        protocols.make('leave_one', random_dataset(), seed=0)
    with pytest.raises(UserError, match='"user_temporal" has no option "num_samples"'):
        protocols.make('user_temporal', random_dataset(), seed=0, num_samples=3)
    with pytest.raises(UserError, match='no option "historylength". Did you mean "history_length"?'):
        protocols.make('leave_one_out', random_dataset(), seed=0, historylength=3)
    assert protocols.options('leave_one_out') == {
        'history_length': 10, 'threshold': None, 'comparison': 'at_least', 'train_share': 1.0}
