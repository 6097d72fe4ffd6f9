"""From streams to datasets: orders, ids that are listed or not, repeats, and two ways that end alike."""

import errno
import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import filters as filters_module, ingest as ingest_module, tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.data.filters import Filters
from xrec_jax.data.ingest import Source, ingest, narrow, nothing
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.errors import UserError

FILE = RawFile('folder/ratings.csv', None)


def events(*rows, first_line=2):
    """rows: 'user item', or 'user item rating timestamp'."""
    fields = [row.split() + [None, None] for row in rows]
    return tables.table(
        tables.EVENTS, user_id=[row[0] for row in fields], item_id=[row[1] for row in fields],
        rating=pa.array([row[2] and float(row[2]) for row in fields], pa.float32()),
        timestamp=pa.array([row[3] and int(row[3]) for row in fields], pa.int64()),
        review=[f'{row[0]} on {row[1]}' for row in fields], line=list(range(first_line, first_line + len(rows))))


def users(*ids, note='listed'):
    return tables.table(tables.USERS, user_id=list(ids), profile=[[('note', note)]] * len(ids))


def items(*ids, note=''):
    return tables.table(tables.ITEMS, item_id=list(ids), title=[f'Title {i}{note}' for i in ids],
                        attributes=[['x']] * len(ids))


def source(parts, users=nothing, items=nothing, policy='raise', **changes):
    return Source(**dict(name='hand', file=FILE, interactions=iter(parts), users=users, items=items,
                         rating_scale=(1.0, 5.0), domain=MOVIES, licence='none', bad=BadRows(policy)) | changes)


def pairs(dataset):
    return list(zip(dataset.interactions['user_id'].to_pylist(), dataset.interactions['item_id'].to_pylist()))


def same(a, b):
    return all(getattr(a, name).equals(getattr(b, name)) for name in tables.SCHEMAS) and a.recipe == b.recipe


@pytest.fixture(params=['memory', 'disk'])
def make(request, tmp_path):
    """make(source, …) → dataset, in memory or by way of a folder."""
    return lambda *arguments, **options: ingest(
        *arguments, directory=tmp_path / 'out' if request.param == 'disk' else None, **options)


# ------------------------------------------------------------------------------------------ order


def test_interactions_keep_their_order_and_all_that_they_hold(make):
    dataset = make(source([events('b y 4 7', 'a x 1 9'), events('a y', first_line=4), events('b z 5 3', first_line=5)]),
                   recipe={'option': 1})
    assert dataset.interactions.to_pylist() == [
        {'user_id': u, 'item_id': i, 'rating': r, 'timestamp': t, 'review': f'{u} on {i}', 'aspects': None}
        for u, i, r, t in [('b', 'y', 4.0, 7), ('a', 'x', 1.0, 9), ('a', 'y', None, None), ('b', 'z', 5.0, 3)]]
    assert dataset.recipe == {'option': 1, 'filters': 'none', 'rows_filtered': 0, 'rows_skipped': {}}
    assert dataset.name == 'hand' and dataset.rating_scale == (1.0, 5.0) and dataset.domain == MOVIES


def test_those_that_only_interact_come_in_the_order_of_their_first_interaction(make):
    dataset = make(source([events('b y', 'a x'), events('b x', 'c z')]))
    assert dataset.users.to_pylist() == [{'user_id': u, 'profile': []} for u in 'bac']
    assert dataset.items.to_pylist() == [
        {'item_id': i, 'title': None, 'attributes': [], 'details': []} for i in 'yxz']
    np.testing.assert_array_equal(tables.codes(dataset.interactions['user_id']), [0, 1, 0, 2])
    np.testing.assert_array_equal(tables.codes(dataset.interactions['item_id']), [0, 1, 1, 2])


def test_the_described_come_first_in_the_order_of_their_own_table(make):
    dataset = make(source([events('new q', 'c z', 'a new', 'newer z')],
                          users=lambda: [users('a', 'b'), users('c')], items=lambda: [items('z', 'y'), items('q')]))
    assert dataset.users['user_id'].to_pylist() == ['a', 'b', 'c', 'new', 'newer']
    assert dataset.items['item_id'].to_pylist() == ['z', 'y', 'q', 'new']
    assert dataset.items['title'].to_pylist() == ['Title z', 'Title y', 'Title q', None]
    assert dataset.users['profile'].to_pylist()[2:4] == [[('note', 'listed')], []]
    assert pairs(dataset) == [('new', 'q'), ('c', 'z'), ('a', 'new'), ('newer', 'z')]


def test_the_unmet_stay_only_where_the_source_says_so_and_no_filter_is_on(make):
    def dataset(filters=Filters(), **changes):
        return make(source([events('a x', 'b y', 'b x')], users=lambda: [users('n', 'b'), users('a')],
                           items=lambda: [items('m', 'y', 'x')], **changes), filters)

    assert dataset().users['user_id'].to_pylist() == ['n', 'b', 'a']
    assert dataset(filters=Filters(seed=1)).items['item_id'].to_pylist() == ['m', 'y', 'x']
    without = dataset(unmet_stay=False)
    assert without.users['user_id'].to_pylist() == ['b', 'a'] and without.items['item_id'].to_pylist() == ['y', 'x']
    assert pairs(without) == [('a', 'x'), ('b', 'y'), ('b', 'x')]
    filtered = dataset(Filters(min_per_user=2))
    assert filtered.users['user_id'].to_pylist() == ['b'] and filtered.items['item_id'].to_pylist() == ['y', 'x']
    assert pairs(filtered) == [('b', 'y'), ('b', 'x')] and filtered.recipe['rows_filtered'] == 1


@pytest.mark.parametrize('unmet_stay', [True, False])
def test_of_what_is_described_twice_the_first_counts(make, unmet_stay):
    dataset = make(source([events('a x', 'a y')], unmet_stay=unmet_stay,
                          items=lambda: [items('y', 'w', 'y'), items('x', 'y', 'w', note=' again')]))
    assert dataset.items['title'].to_pylist() == (
        ['Title y', 'Title w', 'Title x again'] if unmet_stay else ['Title y', 'Title x again'])
    assert pairs(dataset) == [('a', 'x'), ('a', 'y')]


def test_users_and_items_are_asked_for_after_the_interactions_are_read(make):
    read = []

    def parts():
        yield events('a x')
        read.append('interactions')

    make(source(parts(), users=lambda: read.append('users') or [], items=lambda: read.append('items') or []))
    assert read == ['interactions', 'users', 'items']


def test_a_source_without_interactions_is_refused(make, tmp_path):
    with pytest.raises(UserError, match='folder/ratings.csv: holds no interaction$'):
        make(source([]))
    bad = BadRows('skip')
    bad.report(FILE, 3, ': is bad', 7)
    with pytest.raises(UserError, match='no interaction; its 7 rows are all bad, run again with on_bad_row=raise'):
        make(source([events()], bad=bad))
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------------------------------- repeats


def test_repeats_are_rows_like_others_where_the_publisher_allows_them(make):
    assert pairs(make(source([events('a x', 'a x'), events('a x')]))) == [('a', 'x')] * 3


def test_repeats_that_the_publisher_rules_out_are_told_with_both_lines(make):
    with pytest.raises(UserError) as error:
        make(source([events('a x', 'b x', 'a y'), events('b y', 'b x', 'a x', first_line=10)], repeats=False))
    assert ('folder/ratings.csv, line 11, column item_id: "x" stands already in line 3 with the same user_id "b"'
            in str(error.value))


def test_repeats_that_are_passed_over_are_counted(make):
    dataset = make(source([events('a x 1 0', 'b x 2 0', 'a x 3 0'), events('b y 4 0', 'a x 5 0', 'b x 1 0')],
                          repeats=False, policy='skip'))
    assert pairs(dataset) == [('a', 'x'), ('b', 'x'), ('b', 'y')]
    assert dataset.interactions['rating'].to_pylist() == [1.0, 2.0, 4.0]
    assert dataset.recipe['rows_skipped'] == {'ratings.csv': 3} and dataset.recipe['rows_filtered'] == 0


def test_repeats_are_passed_over_before_filters_count(make):
    dataset = make(source([events('a x', 'a x', 'b x', 'b y')], repeats=False, policy='skip'), Filters(min_per_user=2))
    assert pairs(dataset) == [('b', 'x'), ('b', 'y')] and dataset.recipe['rows_filtered'] == 1


# --------------------------------------------------------------------------------- random sources


def random_source(seed, n=3000, **changes):
    """Interactions in parts of odd sizes, users and items of which some are described, some twice, some unmet."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 200, n) ** 2 // 200, rng.integers(0, 300, n) ** 2 // 300
    rating, stamp = rng.integers(1, 6, n), rng.integers(0, 50, n)
    rows = [f'u{u} i{i} {r} {t}' for u, i, r, t in zip(user, item, rating, stamp)]
    cuts = [0, *sorted(rng.integers(0, n, 12)), n]
    parts = [events(*rows[a:b], first_line=a + 1) for a, b in zip(cuts[:-1], cuts[1:])]
    described = rng.permutation(260)
    return source(parts, users=lambda: [users(*(f'u{u}' for u in rng.permutation(220)[:150]))],
                  items=lambda: [items(*(f'i{i}' for i in described[:120])),
                                 items(*(f'i{i}' for i in described[100:200]), note=' again')], **changes)


FILTERS = [Filters(), Filters(repeats='last', min_per_user=8, min_per_item=6),
           Filters(repeats='first', sample_users=30),
           Filters(max_per_user=60, max_per_item=50, min_per_item=5, sample_users=40, seed=2)]


@pytest.mark.parametrize('filters', FILTERS, ids=filters_module.describe)
@pytest.mark.parametrize('unmet_stay', [True, False])
def test_streamed_and_in_memory_ingestion_are_equal(tmp_path, monkeypatch, filters, unmet_stay):
    in_memory = ingest(random_source(0, unmet_stay=unmet_stay), filters)
    for name, value in (('BATCH', 100), ('MANY', 50)):  # so that the streams have many batches and merges
        monkeypatch.setattr(tables if name == 'BATCH' else ingest_module, name, value)
    streamed = ingest(random_source(0, unmet_stay=unmet_stay), filters, tmp_path / 'out')
    assert same(streamed, in_memory) and same(tables.read(tmp_path / 'out'), in_memory)
    assert os.listdir(tmp_path) == ['out']  # no spool is left
    assert streamed.interactions['user_id'].num_chunks > 3


@pytest.mark.parametrize('filters', FILTERS, ids=filters_module.describe)
def test_ingestion_equals_a_slow_loop(filters):
    rows = [row for part in random_source(1).interactions for row in part.to_pylist()]
    user_row = {u: n for n, u in enumerate(dict.fromkeys(row['user_id'] for row in rows))}
    item_row = {i: n for n, i in enumerate(dict.fromkeys(row['item_id'] for row in rows))}
    kept = filters_module.select(
        filters, *(np.array([code[row[key]] for row in rows], np.int32)
                   for code, key in ((user_row, 'user_id'), (item_row, 'item_id'))),
        np.array([row['timestamp'] for row in rows]))
    rows = [{key: rows[n][key] for key in tables.INTERACTIONS.names} for n in kept.tolist()]
    dataset = ingest(random_source(1), filters)
    assert dataset.interactions.to_pylist() == rows

    titles = {}
    for part in random_source(1).items():
        for row in part.to_pylist():
            titles.setdefault(row['item_id'], row['title'])
    met = dict.fromkeys(row['item_id'] for row in rows)
    order = [i for i in titles if i in met or not filters.active]
    order += [i for i in item_row if i in met and i not in titles]
    assert dataset.items['item_id'].to_pylist() == order
    assert dataset.items['title'].to_pylist() == [titles.get(i) for i in order]


@pytest.mark.parametrize('filters', FILTERS, ids=filters_module.describe)
def test_narrow_gives_what_ingestion_would_have_given(filters):
    assert same(narrow(ingest(random_source(2)), filters), ingest(random_source(2), filters))


# ------------------------------------------------------------------------------- nothing half done


def broken(error):
    yield events('a x')
    raise error


@pytest.mark.parametrize('error', [UserError('ratings.csv, line 3: is bad'), KeyboardInterrupt()],
                         ids=['bad', 'Ctrl-C'])
def test_a_source_that_breaks_off_leaves_the_earlier_dataset(tmp_path, error):
    earlier = ingest(source([events('a x')]), directory=tmp_path / 'out')
    with pytest.raises(type(error)):
        ingest(source(broken(error)), directory=tmp_path / 'out')
    assert same(tables.read(tmp_path / 'out'), earlier) and os.listdir(tmp_path) == ['out']


@pytest.mark.parametrize('part', ['users', 'items'])
def test_owners_that_break_off_leave_the_earlier_dataset(tmp_path, part):
    def read():
        raise KeyboardInterrupt

    earlier = ingest(source([events('a x')]), directory=tmp_path / 'out')
    with pytest.raises(KeyboardInterrupt):
        ingest(source([events('b y')], **{part: read}), directory=tmp_path / 'out')
    assert same(tables.read(tmp_path / 'out'), earlier) and os.listdir(tmp_path) == ['out']


def test_a_dataset_that_breaks_its_promises_does_not_replace_a_sound_one(tmp_path):
    earlier = ingest(source([events('a x 3 0')]), directory=tmp_path / 'out')
    with pytest.raises(UserError, match='row 1: 6.0 is outside the scale'):
        ingest(source([events('a x 3 0', 'a y 6 0')]), directory=tmp_path / 'out')
    assert same(tables.read(tmp_path / 'out'), earlier) and os.listdir(tmp_path) == ['out']


@pytest.mark.parametrize('step', ['spool', 'interactions', 'items', 'facts', 'rename'])
def test_a_full_disk_is_said_plainly_and_leaves_the_earlier_dataset(tmp_path, monkeypatch, step):
    earlier = ingest(source([events('a x')]), directory=tmp_path / 'out')
    new_file = pa.ipc.new_file

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_at(sink, schema, **options):
        wanted = {'spool': ingest_module.SPOOLED, 'interactions': tables.INTERACTIONS, 'items': tables.ITEMS}[step]
        return full() if schema.equals(wanted) else new_file(sink, schema, **options)

    if step == 'facts':
        monkeypatch.setattr(json, 'dumps', full)
    elif step == 'rename':
        rename = pathlib.Path.rename
        monkeypatch.setattr(pathlib.Path, 'rename', lambda self, to: full() if self.name == 'new' else rename(self, to))
    else:
        monkeypatch.setattr(pa.ipc, 'new_file', full_at)
    with pytest.raises(UserError, match='the disk is full. Nothing that was there before is changed'):
        ingest(source([events('b y')]), directory=tmp_path / 'out')
    monkeypatch.undo()
    assert same(tables.read(tmp_path / 'out'), earlier) and os.listdir(tmp_path) == ['out']


def test_long_work_leaves_a_line_with_its_rate(make, monkeypatch, capsys):
    make(source([events('a x', 'b y')]))
    assert capsys.readouterr().out == ''  # neither bars nor lines for what takes no time
    monkeypatch.setattr(ingest_module, 'LONG', -1)
    make(source([events('a x', 'b y')], items=lambda: [items('x', 'z', 'y')]))
    out = capsys.readouterr().out
    assert 'reading interactions: 2 rows in 0 s' in out and 'reading items: 3 items in' in out
