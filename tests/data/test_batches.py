"""Batches: what is in a pass, that processes share it, that a saved state goes on with the rest."""

import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.data.test_protocols import random_dataset
from xrec_jax.data import batches, protocols
from xrec_jax.errors import UserError

N = 103


def columns_of(n=N):
    return {'user': np.arange(n, dtype=np.int32) * 3, 'vector': np.arange(2 * n, dtype=np.float32).reshape(n, 2)}


def histories_of(n=N, width=10, seed=0):
    random = np.random.default_rng(seed)
    length = random.integers(0, width + 1, n).astype(np.int32)
    return protocols.Histories(item=random.integers(0, 1000, 500, dtype=np.int32), liked=random.random(500) < 0.5,
                               stop=random.integers(width, 500, n).astype(np.int32), length=length, width=width)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def passes(made, steps):
    """By pass: the rows that are no filling, in order."""
    rows = [made[n]['example'][made[n]['mask']].tolist() for n in range(len(made))]
    return [sum(rows[at:at + steps], []) for at in range(0, len(rows), steps)]


VARIANTS = [dict(), dict(shuffle=False), dict(histories=histories_of()), dict(histories=histories_of(), buckets=(2, 5)),
            dict(histories=histories_of(), buckets=(2, 5), shuffle=False)]


@pytest.mark.parametrize('options', VARIANTS)
@pytest.mark.parametrize('n, size', [(N, 10), (100, 10), (3, 8), (1, 1), (8, 1)])
def test_each_example_comes_once_a_pass(options, n, size):
    options = dict(options)
    if 'histories' in options:
        options['histories'] = histories_of(n)
    made = batches.batches(columns_of(n), batch_size=size, seed=0, num_epochs=3, **options)
    steps = batches.steps_per_epoch(n, size)
    assert len(made) == 3 * steps and steps == int(np.ceil(n / size))
    for rows in passes(made, steps):
        assert sorted(rows) == list(range(n))


@pytest.mark.parametrize('options', VARIANTS)
def test_rows_belong_together(options):
    columns, histories = columns_of(), options.get('histories')
    made = batches.batches(columns, batch_size=16, seed=0, **options)
    for n in range(len(made)):
        batch = made[n]
        assert batch['mask'].shape == (16,) and batch['mask'].dtype == bool
        for name, column in columns.items():
            np.testing.assert_array_equal(batch[name], column[batch['example']])
            assert batch[name].dtype == column.dtype
        assert ('history' in batch) == (histories is not None)
        for row, example in enumerate(batch['example'] if histories is not None else ()):
            stop, length, width = histories.stop[example], histories.length[example], batch['history'].shape[1]
            assert length <= width, 'nothing is cut off'
            pad = [-1] * (width - length)
            assert batch['history'][row].tolist() == pad + histories.item[stop - length:stop].tolist()
            liked = [False] * len(pad) + histories.liked[stop - length:stop].tolist()
            assert batch['history_liked'][row].tolist() == liked


@pytest.mark.parametrize('options', VARIANTS)
def test_the_last_batch_is_full_in_shape_and_masked(options):
    made = batches.batches(columns_of(), batch_size=25, seed=0, **options)
    filled = [made[n]['mask'].sum() for n in range(len(made))]
    assert sorted(filled) == [3, 25, 25, 25, 25]
    if 'buckets' not in options or not options.get('shuffle', True):
        assert filled[-1] == 3  # buckets take turns, so it may come earlier
    last = made[int(np.argmin(filled))]
    assert last['mask'].tolist() == [True] * 3 + [False] * 22
    assert set(last['example'][3:].tolist()) == {last['example'][2]}


def test_passes_are_shuffled_by_the_seed_and_differ():
    def orders(seed, **options):
        return passes(batches.batches(columns_of(), batch_size=10, seed=seed, num_epochs=2, **options), 11)

    assert orders(0) == orders(0)
    assert len({tuple(rows) for seed in (0, 1, 2) for rows in orders(seed)}) == 6
    assert orders(0, shuffle=False) == [list(range(N))] * 2


def test_the_order_is_this_one_on_any_machine():
    made = batches.batches(columns_of(12), batch_size=12, seed=1, num_epochs=2)
    assert [made[n]['example'].tolist() for n in (0, 1)] == [
        [2, 0, 1, 11, 4, 5, 6, 7, 8, 10, 3, 9],
        [10, 7, 1, 6, 9, 3, 5, 11, 0, 8, 2, 4]]


def test_a_shuffle_is_even():
    """Each example is at each place equally often."""
    made = batches.batches(columns_of(6), batch_size=6, seed=0, num_epochs=3000)
    counts = np.zeros((6, 6))
    for n in range(len(made)):
        counts[np.arange(6), made[n]['example']] += 1
    chi_squared = ((counts - 500) ** 2 / 500).sum()
    assert chi_squared < 25 + 5 * np.sqrt(50)  # 25 degrees of freedom


# ------------------------------------------------------------------------------------- buckets


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('shuffle', [True, False])
def test_a_batch_is_as_wide_as_the_bucket_of_its_longest_history(seed, shuffle):
    histories = histories_of(1000, width=20, seed=seed)
    made = batches.batches(columns_of(1000), histories, batch_size=32, seed=seed, shuffle=shuffle, buckets=(3, 8, 15))
    widths, mixed = [], 0
    for n in range(len(made)):
        longest = histories.length[made[n]['example']].max()
        widths.append(made[n]['history'].shape[1])
        assert widths[-1] == next(width for width in (3, 8, 15, 20) if longest <= width)
        mixed += len(set(np.searchsorted([3, 8, 15, 20], histories.length[made[n]['example']]).tolist())) > 1
    assert set(widths) == {3, 8, 15, 20} and mixed <= 3  # the left-overs of a bucket, in the next one
    assert (widths == sorted(widths)) == (not shuffle)


def test_a_protocols_examples_go_in_as_they_are():
    train = protocols.leave_one_out(random_dataset(), history_length=12, seed=0)['train']
    made = batches.batches({'user': train.user, 'item': train.item, 'label': train.label}, train.past, batch_size=64,
                           seed=0, buckets=(4,))
    shown = 0
    for n in range(len(made)):
        rows, width = made[n]['example'], made[n]['history'].shape[1]
        np.testing.assert_array_equal(made[n]['history'], train.history[rows][:, -width:])
        np.testing.assert_array_equal(made[n]['history_liked'], train.history_liked[rows][:, -width:])
        np.testing.assert_array_equal(made[n]['item'], train.item[rows])
        shown += made[n]['mask'].sum()
    assert shown == len(train.user)


# ----------------------------------------------------------------------------------- processes


@pytest.mark.parametrize('options', VARIANTS)
@pytest.mark.parametrize('count', [2, 3, 4])
def test_the_slices_of_all_processes_are_the_batch_of_one(options, count):
    def made(index, count):
        return batches.batches(columns_of(), batch_size=24, seed=5, num_epochs=2, process_index=index,
                               process_count=count, **options)

    whole, parts = made(0, 1), [made(index, count) for index in range(count)]
    for n in range(len(whole)):
        slices = [part[n] for part in parts]
        assert all(len(values) == 24 // count for part in slices for values in part.values())
        assert_same(whole[n], {key: np.concatenate([part[key] for part in slices]) for key in whole[n]})


# --------------------------------------------------------------------------- prefetch and resume


def make(**changes):
    options = dict(batch_size=8, seed=3, num_epochs=4, buckets=(4,)) | changes
    return batches.batches(columns_of(), histories_of(), **options)


@pytest.mark.parametrize('ahead, threads', [(1, 1), (8, 1), (30, 4)])
def test_prefetched_batches_come_in_order(ahead, threads):
    made = make()
    drawn = list(batches.prefetched(made, ahead=ahead, threads=threads))
    assert len(drawn) == len(made) == 4 * 13
    for n, batch in enumerate(drawn):
        assert_same(batch, made[n])


@pytest.mark.parametrize('done', [0, 1, 12, 13, 20, 51, 52])
def test_a_saved_state_goes_on_with_the_rest(done):
    made = make()
    iterator = batches.prefetched(made)
    for _ in range(done):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    next(iterator, None)  # what is drawn later is not in the state
    again = batches.prefetched(make(), ahead=3, threads=2)
    again.set_state(state)
    rest = list(again)
    assert len(rest) == len(made) - done
    for n, batch in enumerate(rest, done):
        assert_same(batch, made[n])


def test_a_state_goes_through_orbax_and_on_with_more_processes(tmp_path):
    iterator = batches.prefetched(make())
    for _ in range(17):
        next(iterator)
    with ocp.CheckpointManager(tmp_path / 'state') as manager:
        manager.save(17, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    expected = list(iterator)
    parts = []
    for index in range(2):
        part = batches.prefetched(make(process_index=index, process_count=2))
        with ocp.CheckpointManager(tmp_path / 'state') as manager:
            manager.restore(17, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(part)))
        parts.append(list(part))
    assert len(expected) == 4 * 13 - 17 == len(parts[0]) == len(parts[1])
    for whole, *slices in zip(expected, *parts):
        assert_same(whole, {key: np.concatenate([part[key] for part in slices]) for key in whole})


def test_without_a_number_of_passes_it_goes_on():
    made, twice = make(num_epochs=None), make(num_epochs=2)
    iterator = batches.prefetched(made)
    for n in range(30):
        batch = next(iterator)
        if n < len(twice):
            assert_same(batch, twice[n])
    iterator.close()
    far = [made[13 * 10**6 + n] for n in range(13)]
    assert sorted(row for batch in far for row in batch['example'][batch['mask']].tolist()) == list(range(N))


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize('options, message', [
    (dict(batch_size=0), 'batch_size=0'), (dict(batch_size=9, process_count=2), 'multiple of the 2 processes'),
    (dict(buckets=(4, 4)), 'widths that increase'), (dict(buckets=(5, 4)), 'widths that increase'),
    (dict(buckets=(0, 4)), 'widths that increase'), (dict(buckets=(4, 10)), 'from 1 to 9'),
    (dict(buckets=(4, 12)), 'from 1 to 9')])
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_no_examples_and_buckets_of_nothing_are_refused():
    with pytest.raises(UserError, match='no examples'):
        batches.batches(columns_of(0), batch_size=2, seed=0)
    with pytest.raises(UserError, match='no histories'):
        batches.batches(columns_of(), batch_size=2, seed=0, buckets=(3,))
