"""Ranking models' training and evaluation: against loops, on planted tastes, resumed, stopped."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import protocols, tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.errors import UserError
from xrec_jax.metrics import ranking as metrics
from xrec_jax.parallel import mesh as meshes, sharding
from xrec_jax.recommenders import ranking
from xrec_jax.recommenders.ranking import (
    data as ranking_data, evaluation as ranking_evaluation, training as ranking_training)
from xrec_jax.recommenders.bert4rec import BERT4Rec
from xrec_jax.recommenders.caser import Caser
from xrec_jax.recommenders.gru4rec import GRU4Rec
from xrec_jax.recommenders.lightgcn import LightGCN
from xrec_jax.recommenders.mf import BPRMF
from xrec_jax.recommenders.order import shuffled
from xrec_jax.recommenders.popularity import Popularity
from xrec_jax.recommenders.sasrec import SASRec

U, I, L = 60, 50, 4
NEVER = I - 1  # an item that nobody meets
MODEL = BPRMF(U, I, embed_dim=4)
LOSS = ranking.pairwise(MODEL)
CONFIG = ranking.RankingConfig(learning_rate=5e-2, batch_size=64, epochs=12, patience=3, monitor='ndcg@5')


@functools.cache
def examples() -> dict[str, protocols.Examples]:
    """Leave-one-out of users who like the items of their own half; user 0 has two interactions, 1 repeats items."""
    rng = np.random.default_rng(0)
    user, item = [0, 0], [3, 5]
    for u in range(1, U):
        pool = np.arange(u % 2, NEVER, 2)
        items = rng.permutation(pool)[:rng.integers(4, 16)] if u > 1 else np.array([7, 9, 11, 7, 9])
        user += [u] * len(items)
        item += items.tolist()
    users = tables.table(tables.USERS, user_id=[f'u{u}' for u in range(U)])
    items = tables.table(tables.ITEMS, item_id=[f'i{i}' for i in range(I)], attributes=[['x']] * I)
    dataset = tables.Dataset(
        name='halves', users=users, items=items, rating_scale=(1.0, 5.0), domain=MOVIES, licence='none',
        interactions=tables.interactions(users, items, user=np.array(user), item=np.array(item),
                                         rating=pa.array(np.full(len(user), 4.0), pa.float32()),
                                         timestamp=pa.array(np.arange(len(user)), pa.int64())))
    return protocols.leave_one_out(dataset, history_length=L, seed=0)


@functools.cache
def data():
    return ranking.make_data(MODEL, examples(), U, I)


@functools.cache
def trained():
    """(last state, states on the host after each epoch, metrics of each epoch)."""
    states, history = [], []

    def keep(state, values):
        states.append(jax.device_get(dataclasses.replace(state, key=jax.random.key_data(state.key))))
        history.append(values)

    state = ranking.fit(MODEL, LOSS, CONFIG, data()[0], data()[1]['valid'], key=jax.random.key(0), on_epoch=keep)
    return state, states, history


def seen(splits) -> dict[int, set]:
    return {u: {int(i) for s in splits for i in examples()[s].item[examples()[s].user == u]} for u in range(U)}


def equal(a, b) -> bool:
    a, b = (dataclasses.replace(s, key=jax.random.key_data(s.key)) for s in (a, b))
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b)))


# ------------------------------------------------------------------------------------- negatives

def test_negatives_are_uniform_over_what_is_no_positive_and_never_a_positive():
    rng = np.random.default_rng(1)
    liked = {0: [], 1: [0], 2: [11], 3: [0, 1, 2, 9, 10, 11], 4: [4, 5, 7], 5: [i for i in range(12) if i != 6]}
    pairs = np.array([(u, i) for u, items in liked.items() for i in items])
    pairs = rng.permutation(np.concatenate([pairs, pairs[:4]]))  # in any order, some twice
    positives = ranking_data.positives_of(pairs[:, 0], pairs[:, 1], 6, 12)
    each = 6000
    users = jnp.repeat(jnp.arange(6), each)
    drawn = np.asarray(jax.jit(ranking.draw_negatives, static_argnums=3)(jax.random.key(0), positives, users, 12))
    for u, items in liked.items():
        count = np.bincount(drawn[u * each:(u + 1) * each], minlength=12)
        free = [i for i in range(12) if i not in items]
        assert not count[items].any() and count.sum() == each
        expected = each / len(free)
        chi_square = sum((count[i] - expected) ** 2 / expected for i in free)
        degrees = len(free) - 1
        assert chi_square <= degrees + 4 * np.sqrt(2 * degrees)  # about one in 10,000 would not


def test_a_user_who_has_met_all_items_has_no_negative_and_no_part_in_the_loss():
    positives = ranking_data.positives_of(np.repeat(0, 5), np.arange(5), 2, 5)
    draw = jax.jit(ranking.draw_negatives, static_argnums=3)
    assert draw(jax.random.key(0), positives, jnp.array([0, 0]), 5).tolist() == [-1, -1]
    one, train = jnp.ones(3, jnp.int32), data()[0]
    params = ranking.init_state(MODEL, train, jax.random.key(0)).params
    loss = lambda negative: LOSS(params, ranking.Batch(one, one, jnp.array(negative), one[:, None], jnp.ones(3), train),
                                 jax.random.key(0))
    assert loss([4, -1, -1]) == pytest.approx(float(loss([4, 4, 4])), rel=1e-6)


# ------------------------------------------------------------------------------------------ data

class Last(nn.Module):
    """A model of histories: the vector of the latest item."""

    def setup(self):
        self.table = self.param('table', nn.initializers.normal(1.0), (I, 3))

    def states(self, items):
        return self.table[jnp.maximum(items - 1, 0)] * (items > 0)[..., None]

    def user_vectors(self, user, history):
        return self.states(history)[:, -1]

    def item_vectors(self):
        return self.table

    def item_bias(self):
        return self.table[:, 0]


def test_histories_of_targets_and_queries_are_the_protocol_s():
    train, queries = ranking.make_data(Last(), examples(), U, I)
    t = train.targets
    shown = ranking_data.histories(train.sequence, t.stop, t.length, train.width)
    np.testing.assert_array_equal(shown, examples()['train'].history + 1)
    np.testing.assert_array_equal(t.item, examples()['train'].item)
    for split in ('valid', 'test'):
        q = queries[split]
        shown = ranking_data.histories(q.sequence, q.stop.ravel(), q.length.ravel(), L)[q.real]
        order = np.argsort(q.user.ravel()[q.real])
        np.testing.assert_array_equal(shown[order], examples()[split].history + 1)
        np.testing.assert_array_equal(q.user.ravel()[q.real][order], examples()[split].user)
        np.testing.assert_array_equal(q.held_out.reshape(-1, 1)[q.real, 0][order], examples()[split].item)


SEQUENCE_MODELS = {'last': Last(), 'sasrec': SASRec(I, 8, L), 'gru4rec': GRU4Rec(I, 8, L),
                   'bert4rec': BERT4Rec(I, 8, L), 'caser': Caser(I, 8, num_users=U, max_length=L)}


@pytest.mark.parametrize('model', SEQUENCE_MODELS.values(), ids=SEQUENCE_MODELS)
def test_blocks_are_as_wide_as_their_own_histories_and_say_the_same(model, monkeypatch):
    few = [np.minimum(parts.past.length, parts.user % 5) for parts in examples().values()]  # 0 … 4 items of each user
    parts = {name: dataclasses.replace(parts, past=dataclasses.replace(parts.past, length=length))
             for (name, parts), length in zip(examples().items(), few)}
    train, queries = ranking.make_data(model, parts, U, I)
    assert queries['test'].widths == (L,)
    params = ranking.init_state(model, train, jax.random.key(0)).params
    monkeypatch.setitem(ranking_data._BLOCK_USERS, jax.default_backend(), 12)
    monkeypatch.setattr(ranking_data, '_LEAST_WIDTH', 1)
    _, cut = ranking.make_data(model, parts, U, I)
    widths = np.array(cut['test'].widths)[cut['test'].cut]
    assert widths.tolist() == np.maximum(cut['test'].length.max(axis=1), 1).tolist() == [1, 2, 3, 4, 4]
    by_user = []
    for query in (queries['test'], cut['test']):
        order = np.argsort(query.user.ravel()[query.real])
        by_user.append([np.asarray(f)[query.real][order] for f in (
            ranking.scores(model, params, train, query), ranking.recommend(model, params, train, query, 5))])
    np.testing.assert_allclose(by_user[0][0], by_user[1][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(by_user[0][1], by_user[1][1])


def test_a_stride_takes_every_so_many_th_target_from_the_last():
    train, _ = ranking.make_data(Last(), examples(), U, I, stride=3)
    expected = []
    for u in range(U):
        items = examples()['train'].item[examples()['train'].user == u].tolist()
        expected += items[::-1][::3][::-1]
    assert train.targets.item.tolist() == expected


def test_several_held_out_items_a_user_are_one_query_in_blocks(monkeypatch):
    monkeypatch.setitem(ranking_data._BLOCK_USERS, jax.default_backend(), 7)
    parts = {**examples(), 'test': dataclasses.replace(  # users 1 … 20 hold out three more items, one disliked
        examples()['train'], label=np.where(np.arange(len(examples()['train'].user)) % 4 == 0, 0, 1))}
    parts['test'] = dataclasses.replace(parts['test'], label=parts['test'].label * (parts['test'].user <= 20))
    _, queries = ranking.make_data(MODEL, parts, U, I)
    q = queries['test']
    assert q.user.shape == (3, 7) and q.real.tolist() == [True] * 21
    for u, row in zip(q.user.ravel().tolist(), q.held_out.reshape(21, -1).tolist()):
        here = (parts['test'].user == u) & (parts['test'].label > 0)
        assert {i for i in row if i >= 0} == set(parts['test'].item[here].tolist())


def test_an_empty_split_is_a_user_error():
    none = dataclasses.replace(examples()['valid'], label=np.zeros_like(examples()['valid'].label))
    with pytest.raises(UserError, match='the valid split has no liked target'):
        ranking.make_data(MODEL, {**examples(), 'valid': none}, U, I)


# ------------------------------------------------------------------------------------ evaluation

@pytest.mark.parametrize('split, before', [('valid', ['train']), ('test', ['train', 'valid'])])
def test_the_lists_equal_a_slow_ranking_and_hold_nothing_that_is_masked(split, before):
    state, (train, queries) = trained()[0], data()
    p = {name: np.asarray(x, np.float64) for name, x in state.best_params.items()}
    known = seen(before)
    everything = np.asarray(ranking.recommend(MODEL, state.best_params, train, queries[split], I))
    masked = 0
    for u, target, row in zip(examples()[split].user.tolist(), examples()[split].item.tolist(), everything.tolist()):
        hidden = known[u] - {target}
        masked += len(hidden)
        scores = {i: sum(a * b for a, b in zip(p['user'][u], p['item'][i])) for i in range(I) if i not in hidden}
        scores = {i: s if any(i in items for items in seen(['train']).values()) else -1e9 for i, s in scores.items()}
        left = len(scores)
        assert row == sorted(scores, key=lambda i: (-scores[i], i)) + [-1] * (I - left)  # all the rest, once each
        assert not set(row) & hidden
    assert masked > 300
    best = ranking.recommend(MODEL, state.best_params, train, queries[split], 20)
    np.testing.assert_array_equal(best, everything[:, :20])


def test_a_list_longer_than_the_catalogue_ends_with_no_items():
    state, (train, queries) = trained()[0], data()
    short = np.asarray(ranking.recommend(MODEL, state.params, train, queries['test'], I))
    long = np.asarray(ranking.recommend(MODEL, state.params, train, queries['test'], I + 9))
    np.testing.assert_array_equal(long[:, :I], short)
    assert (long[:, I:] == -1).all()
    figures = ranking.evaluate(MODEL, state.params, train, queries['test'], (I, I + 9))
    assert figures[f'recall@{I + 9}'] == figures[f'recall@{I}'] == 1


def test_an_item_unseen_in_training_stands_last_and_is_counted():
    state, (train, queries) = trained()[0], data()
    params = state.params | {'item': state.params['item'].at[NEVER].set(100 * state.params['user'][2])}
    top = np.asarray(ranking.recommend(MODEL, params, train, queries['test'], I))
    unseen = np.flatnonzero(np.asarray(train.counts) == 0)
    assert NEVER in unseen
    for row in top.tolist():
        row = [i for i in row if i >= 0]
        assert row[-len(unseen):] == unseen.tolist()
    held_out = set(examples()['test'].item.tolist())
    assert ranking.counts(train, queries['test']) == {
        'users': U - 1, 'without_history': 0, 'unseen': len(unseen), 'unseen_held_out': len(held_out & set(unseen))}


def test_a_user_without_history_gets_the_popular_items_and_is_counted():
    parts = {**examples()}
    train = parts['train']
    keep = np.flatnonzero(train.user != 7)  # all of user 7's training is lost
    parts['train'] = dataclasses.replace(
        train, **{f.name: getattr(train, f.name)[keep] for f in dataclasses.fields(train) if f.name != 'past'},
        past=dataclasses.replace(train.past, stop=train.past.stop[keep], length=train.past.length[keep]))
    for model in (MODEL, Popularity(U, I)):
        made, queries = ranking.make_data(model, parts, U, I)
        params = ranking.init_state(model, made, jax.random.key(0)).params
        row = np.asarray(ranking.recommend(model, params, made, queries['valid'], I))[6].tolist()
        assert queries['valid'].user[0, 6] == 7
        count = np.bincount(parts['train'].item, minlength=I)
        assert row == sorted(range(I), key=lambda i: (-count[i], i))
        assert ranking.counts(made, queries['valid'])['without_history'] == 1


def test_figures_are_those_of_the_metrics():
    state, (train, queries) = trained()[0], data()
    top = ranking.recommend(MODEL, state.best_params, train, queries['test'], 20)
    expected = metrics.ranking_metrics(top, examples()['test'].item[:, None], I, (5, 20))
    assert ranking.evaluate(MODEL, state.best_params, train, queries['test'], (5, 20)) == expected


# -------------------------------------------------------------------------------------- training

def test_it_learns_whose_half_is_whose():
    state, _, history = trained()
    train, queries = data()
    assert history[-1]['loss'] < 0.5 * history[0]['loss']
    assert [m['epoch'] for m in history] == list(range(1, len(history) + 1))
    top = np.asarray(ranking.recommend(MODEL, state.best_params, train, queries['test'], 20))[:, :5]
    right = np.mean(top % 2 == examples()['test'].user[:, None] % 2)
    assert right > 0.9
    best = max(m['score'] for m in history)
    assert float(state.best_score) == pytest.approx(best)
    figures = ranking.evaluate(MODEL, state.best_params, train, queries['valid'], (5, 20))
    assert round(figures['ndcg@5'], 4) == pytest.approx(best, abs=1e-6)  # as RecBole rounds it


def test_one_epoch_equals_a_plain_loop_of_batches():
    """Order, negatives, the masked last batch and Adam, against steps by hand in float64."""
    train, queries = data()
    start = ranking.init_state(MODEL, train, jax.random.key(5))
    order_key, negative_key, _ = jax.random.split(jax.random.fold_in(start.key, 0), 3)
    n = len(train.targets.user)
    order = np.asarray(shuffled(order_key, n))
    user, item = np.asarray(train.targets.user), np.asarray(train.targets.item)
    negative = np.asarray(ranking.draw_negatives(negative_key, train.positives, train.targets.user, I))
    assert n % CONFIG.batch_size and not any(j in seen(['train'])[u] for u, j in zip(user, negative))
    p = {name: np.asarray(x, np.float64) for name, x in start.params.items()}
    m, v = ({name: np.zeros_like(x) for name, x in p.items()} for _ in range(2))
    total = 0.0
    for step, at in enumerate(np.split(order, range(CONFIG.batch_size, n, CONFIG.batch_size)), start=1):
        g = {name: np.zeros_like(x) for name, x in p.items()}
        for u, i, j in zip(user[at], item[at], negative[at]):
            margin = p['user'][u] @ (p['item'][i] - p['item'][j])
            total += np.log1p(np.exp(-margin))
            slope = -1 / (1 + np.exp(margin)) / len(at)
            g['user'][u] += slope * (p['item'][i] - p['item'][j])
            g['item'][i] += slope * p['user'][u]
            g['item'][j] -= slope * p['user'][u]
        for name in p:
            m[name] = 0.9 * m[name] + 0.1 * g[name]
            v[name] = 0.999 * v[name] + 0.001 * g[name] ** 2
            p[name] -= CONFIG.learning_rate * (m[name] / (1 - 0.9 ** step)) / (
                np.sqrt(v[name] / (1 - 0.999 ** step)) + 1e-8)
    state, figures = ranking.run_epoch(MODEL, LOSS, CONFIG, start, train, queries['valid'])
    assert figures['loss'] == pytest.approx(total / n, rel=1e-5) and figures['bad_step'] == -1
    for name in p:
        np.testing.assert_allclose(state.params[name], p[name], atol=1e-4)


def test_a_run_continued_from_any_epoch_gives_the_same_bits():
    end, saved, _ = trained()
    assert len(saved) == int(end.epoch) > 3
    for state in saved[:-1]:  # as if it came from a disk
        state = dataclasses.replace(jax.tree.map(jnp.asarray, state), key=jax.random.wrap_key_data(state.key))
        assert equal(ranking.fit(MODEL, LOSS, CONFIG, data()[0], data()[1]['valid'], state=state), end)


def test_the_best_epoch_is_kept_and_patience_stops():
    """Validation users who hold out the other half: the better it learns, the worse it scores."""
    train, queries = data()
    other = jnp.where(queries['valid'].held_out >= 0, (queries['valid'].user[..., None] + 1) % 2, -1)
    valid = dataclasses.replace(queries['valid'], held_out=other)
    history = []
    config = dataclasses.replace(CONFIG, epochs=50)
    state = ranking.fit(MODEL, LOSS, config, train, valid, key=jax.random.key(0),
                        on_epoch=lambda s, m: history.append((m['score'], s.params)))
    scores = [score for score, _ in history]
    best = int(np.argmax(scores))
    assert len(scores) == int(state.epoch) == best + 1 + config.patience < config.epochs
    assert int(state.best_epoch) == best + 1
    assert all(np.array_equal(state.best_params[name], history[best][1][name]) for name in state.params)


@pytest.mark.parametrize('side_by_side', [False, True])
def test_seeds_train_at_once_as_each_alone_and_those_that_are_finished_rest(monkeypatch, side_by_side):
    train, queries = data()
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu' if side_by_side else 'cpu')
    config = dataclasses.replace(CONFIG, epochs=20)
    keys = jax.random.split(jax.random.key(9), 3)
    history = []
    together = ranking.fit(MODEL, LOSS, config, train, queries['valid'], state=ranking.init_seeds(MODEL, train, keys),
                           on_epoch=lambda s, m: history.append(m))
    assert len(history) == int(together.epoch.max()) > int(together.epoch.min())  # one rested while others went on
    for n, key in enumerate(keys):
        alone = ranking.fit(MODEL, LOSS, config, train, queries['valid'], key=key)
        assert int(alone.epoch) == int(together.epoch[n]) and int(alone.best_epoch) == int(together.best_epoch[n])
        np.testing.assert_allclose(together.params['user'][n], alone.params['user'], atol=1e-4)


def test_a_learning_rate_needs_no_compilation():
    train, queries = data()
    state = ranking.init_state(MODEL, train, jax.random.key(0))
    slow, _ = ranking.run_epoch(MODEL, LOSS, CONFIG, state, train, queries['valid'])
    compiled = ranking_training._run_epoch._cache_size()
    fast, _ = ranking.run_epoch(MODEL, LOSS, dataclasses.replace(CONFIG, learning_rate=0.1), state, train,
                                queries['valid'])
    assert ranking_training._run_epoch._cache_size() == compiled
    assert np.abs(fast.params['user'] - slow.params['user']).max() > 1e-2


@pytest.mark.parametrize('shards', [1, 2, 8])
def test_the_top_of_parts_is_the_top_of_the_whole_with_ties_in_order(shards):
    mesh = meshes.make_mesh({'data': 8 // shards, 'fsdp': shards, 'tensor': 1})
    scores = jnp.asarray(np.random.default_rng(0).integers(0, 6, (40, 21)), jnp.float32)
    for k in (1, 5, 21):
        whole = jnp.argsort(-scores, axis=1, stable=True)[:, :k]
        best, place = jax.jit(lambda scores: ranking_evaluation.top_k(scores, k, mesh))(scores)
        np.testing.assert_array_equal(place, whole)
        np.testing.assert_array_equal(best, jnp.take_along_axis(scores, whole, axis=1))


def test_no_device_holds_the_scores_of_all_items_on_a_mesh_that_shards_them():
    mesh, model = meshes.make_mesh({'data': 1, 'fsdp': 8, 'tensor': 1}), BPRMF(U, 4096, embed_dim=4)
    train, queries = sharding.replicate(ranking.make_data(model, examples(), U, 4096, mesh=mesh), mesh)
    placed = sharding.param_shardings(ranking.abstract_state(model, train), mesh)
    state = jax.jit(functools.partial(ranking.init_state, model), out_shardings=placed)(train, jax.random.key(0))
    users = queries['valid'].user.shape[1]
    program = ranking.recommend.lower(model, state.params, train, queries['valid'], 10).compile().as_text()
    assert f'f32[{users},512]' in program and f'f32[{users},4096]' not in program


def test_what_a_user_met_is_shown_again_where_it_is_not_masked():
    train, queries = ranking.make_data(MODEL, examples(), U, I, mask_seen=False)
    params = ranking.init_state(MODEL, train, jax.random.key(0)).params
    top = np.asarray(ranking.recommend(MODEL, params, train, queries['test'], I))[queries['test'].real]
    assert (np.sort(top, axis=1) == np.arange(I)).all()


def test_any_loss_is_trained_for_and_is_handed_histories_and_a_key():
    """Softmax over all items after the latest one; each batch is a whole epoch in a random order."""
    model = Last()
    train, queries = ranking.make_data(model, examples(), U, I)

    def loss(params, batch, key):
        assert batch.history.shape == (batch.user.shape[0], L) and batch.negative.shape == batch.item.shape
        vectors = model.apply({'params': params}, batch.user, batch.history, method='user_vectors')
        noise = 1e-3 * jax.random.normal(key, vectors.shape)
        logits = (vectors + noise) @ params['table'].T + params['table'][:, 0]
        each = -jax.nn.log_softmax(logits)[jnp.arange(len(batch.item)), batch.item]
        return (each * batch.mask).sum() / batch.mask.sum()

    history = []
    config = ranking.RankingConfig(learning_rate=0.1, batch_size=4096, epochs=15, patience=15)
    ranking.fit(model, loss, config, train, queries['valid'], key=jax.random.key(0),
                on_epoch=lambda s, m: history.append(m))
    assert history[-1]['loss'] < history[0]['loss'] - 0.5


def test_lightgcn_trains_on_its_graph():
    model = LightGCN(U, I, embed_dim=4, num_layers=2)
    train, queries = ranking.make_data(model, examples(), U, I)
    state = ranking.fit(model, ranking.pairwise(model), CONFIG, train, queries['valid'], key=jax.random.key(0))
    top = np.asarray(ranking.recommend(model, state.best_params, train, queries['test'], 5))
    assert np.mean(top % 2 == examples()['test'].user[:, None] % 2) > 0.9
    assert set(state.params) == {'user', 'item'}


def test_specs_name_the_axes_of_the_tables():
    specs = ranking.state_specs(MODEL, data()[0])
    assert specs.params['user'] == jax.sharding.PartitionSpec('users', None)
    assert specs.opt_state.mu['item'] == jax.sharding.PartitionSpec('items', None)


# ------------------------------------------------------------------------------------- refusals

def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step():
    train, queries = data()
    steps = -(-len(train.targets.user) // CONFIG.batch_size)

    def loss(params, batch, key):  # bad in the last step, whose batch is filled up
        return jnp.where(batch.mask.all(), LOSS(params, batch, key), jnp.nan)

    with pytest.raises(UserError, match=rf'BPRMF.*in step {steps} \(epoch 1, its step {steps} of {steps}\).*0\.05'):
        ranking.fit(MODEL, loss, CONFIG, train, queries['valid'], key=jax.random.key(0))


def test_a_parameter_that_is_no_number_stops_the_run_and_is_never_the_best():
    train, queries = data()
    state = ranking.init_state(MODEL, train, jax.random.key(0))
    state = dataclasses.replace(state, params=state.params | {'item': state.params['item'].at[NEVER].set(jnp.inf)})

    def loss(params, batch, key):  # finite, whatever the parameters are
        return jnp.float32(0)

    with pytest.raises(UserError, match='parameters of BPRMF are no finite numbers after step'):
        ranking.fit(MODEL, loss, CONFIG, train, queries['valid'], state=state)
    after, _ = ranking.run_epoch(MODEL, loss, CONFIG, state, train, queries['valid'])
    assert int(after.best_epoch) == 0


@pytest.mark.parametrize('options, message', [
    (dict(monitor='mmr@10'), 'Did you mean "mrr"'), (dict(monitor='mrr'), 'as "mrr@10"'),
    (dict(monitor='mrr@0'), 'as "mrr@10"'), (dict(batch_size=0), 'batch_size=0'), (dict(patience=0), 'patience=0'),
    (dict(epochs=0), 'epochs=0'), (dict(learning_rate=0.0), 'learning_rate=0.0')])
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ranking.RankingConfig(**options)


def test_a_key_or_a_state_and_not_both():
    with pytest.raises(ValueError, match='not both'):
        ranking.fit(MODEL, LOSS, CONFIG, data()[0], data()[1]['valid'])
