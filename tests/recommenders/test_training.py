"""Training on planted signals: what is learned, resumed, sharded, and kept."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from xrec_jax.data import protocols
from xrec_jax.errors import UserError
from xrec_jax.metrics import ctr
from xrec_jax.parallel import mesh as meshes, sharding
from xrec_jax.recommenders import fields as fields_lib
from xrec_jax.recommenders import scoring, training
from xrec_jax.recommenders.rows import Rows, make_rows
from xrec_jax.recommenders.deepfm import DeepFM
from xrec_jax.runs import compiles
from xrec_jax.runs.checkpoints import Checkpoints

D = 4
# One of each for all tests, and text everywhere: anything else is another compilation.
CONFIG = training.TrainConfig(batch_size=64, epochs=8, patience=3, learning_rate=2e-2,
                              weight_decay=0.1, embedding_decay=0.2)
MODEL = DeepFM(vocab_size=128, embed_dim=4, mlp=(8,), dropout=0.0, text_dim=D,
               text_projection_dropout=0.1)  # so without text nothing is random but the order
FIELDS = fields_lib.Fields(
    user_fields=jnp.arange(1, 41, dtype=jnp.int32)[:, None],
    item_fields=jnp.arange(41, 71, dtype=jnp.int32)[:, None],
    item_attributes=jnp.asarray(71 + np.arange(30)[:, None] % 3, jnp.int32),
    names=('user_id', 'item_id', 'attributes'), sizes=(40, 30, 3))


@functools.cache
def plant(seed: int, num_rows: int) -> Rows:
    """Pairs whose log-odds are 2 (a_u + b_i), with zeros as text; the same a and b for every seed."""
    rng = np.random.default_rng(99)
    a, b = rng.normal(size=40), rng.normal(size=30)
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 40, num_rows), rng.integers(0, 30, num_rows)
    label = rng.random(num_rows) < 1 / (1 + np.exp(-2 * (a[user] + b[item])))
    return Rows(user=jnp.asarray(user, jnp.int32), item=jnp.asarray(item, jnp.int32),
                         label=jnp.asarray(label, jnp.float32), text=jnp.zeros((num_rows, 1, D)))


def with_text(rows: Rows, seed: int, strength: float = 1.5) -> Rows:
    """Explanations [N, 1, D] whose first direction leans to the label by `strength`."""
    text = np.random.default_rng(seed).normal(size=(len(rows.user), 1, D))
    text[:, 0, 0] += strength * (2 * np.asarray(rows.label) - 1)
    return dataclasses.replace(rows, text=jnp.asarray(text, jnp.float32))


TRAIN, VALID, TEST = plant(0, 1000), plant(1, 200), plant(2, 1000)
TRAIN_TEXT, VALID_TEXT, TEST_TEXT = (
    with_text(rows, n) for n, rows in enumerate((TRAIN, VALID, TEST)))


@functools.cache
def trained(text: bool) -> tuple[training.State, list, list]:
    """(last state, states on the host after each epoch, metrics of each epoch)."""
    states, metrics = [], []

    def keep(state, values):
        key = jax.random.key_data(state.key)
        states.append(jax.device_get(dataclasses.replace(state, key=key)))
        metrics.append(values)

    rows = (TRAIN_TEXT, VALID_TEXT) if text else (TRAIN, VALID)
    state = training.fit(MODEL, CONFIG, FIELDS, *rows, key=jax.random.key(0), on_epoch=keep)
    return state, states, metrics


def auc(state, rows) -> float:
    return ctr.auc(rows.label, scoring.predict(MODEL, state.best_params, FIELDS, rows))


def equal(a, b) -> bool:
    same = jax.tree.map(lambda x, y: bool(jnp.all(x == y)), dataclasses.replace(a, key=0),
                        dataclasses.replace(b, key=0))
    return all(jax.tree.leaves(same)) and bool(
        jnp.all(jax.random.key_data(a.key) == jax.random.key_data(b.key)))


def test_it_learns_what_is_planted():
    state, _, metrics = trained(text=False)
    assert metrics[-1]['loss'] < metrics[0]['loss'] - 0.05
    assert [m['epoch'] for m in metrics] == list(range(1, len(metrics) + 1))
    assert auc(state, TEST) > 0.75  # the planted odds themselves have 0.89


def test_explanations_raise_auc_where_they_tell_something():
    state = trained(text=True)[0]
    with_them, ablated = auc(state, TEST_TEXT), auc(state, TEST)
    assert with_them > auc(trained(text=False)[0], TEST) + 0.04
    assert with_them > ablated + 0.04
    assert ablated > 0.7  # text_dropout has trained it for going without (eq. 13)


def test_rows_may_have_no_text_at_all():
    state = trained(text=True)[0]
    bare = dataclasses.replace(TEST, text=None)
    np.testing.assert_array_equal(scoring.predict(MODEL, state.params, FIELDS, bare),
                                  scoring.predict(MODEL, state.params, FIELDS, TEST))
    next_state, _ = jax.eval_shape(functools.partial(training.run_epoch, MODEL, CONFIG), FIELDS,
                                   state, bare, bare)
    assert jax.tree.structure(next_state) == jax.tree.structure(state)


def test_a_run_continued_from_any_epoch_gives_the_same_bits():
    end, saved, _ = trained(text=True)
    assert len(saved) == int(end.epoch) > 3
    for state in saved[:-1]:  # as if it came from a disk
        state = dataclasses.replace(jax.tree.map(jnp.asarray, state),
                                    key=jax.random.wrap_key_data(state.key))
        again = training.fit(MODEL, CONFIG, FIELDS, TRAIN_TEXT, VALID_TEXT, state=state)
        assert equal(again, end)


def test_the_same_key_gives_the_same_bits_and_another_key_others():
    a, b, c = (training.run_epoch(MODEL, CONFIG, FIELDS, training.init_state(
        MODEL, CONFIG, FIELDS, jax.random.key(k)), TRAIN_TEXT, VALID_TEXT)[0] for k in (0, 0, 1))
    assert equal(a, b) and not equal(a, c)


def test_eight_devices_train_like_one():
    if jax.device_count() < 8:
        pytest.skip('needs eight devices')
    mesh = meshes.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
    config, told = dataclasses.replace(CONFIG, epochs=2), []
    one = training.init_state(MODEL, config, FIELDS, jax.random.key(0))
    placed = sharding.param_shardings(training.abstract_state(MODEL, config, FIELDS), mesh)
    many = sharding.put(one, placed)
    rows = FIELDS.vocab_size // 2
    for table in (many.params['embedding'], many.opt_state[0].mu['embedding'], many.best_params['embedding']):
        assert {shard.data.shape[0] for shard in table.addressable_shards} == {rows}
    note = lambda state, metrics: told.append(metrics)
    one, many = (training.fit(MODEL, config, FIELDS, TRAIN_TEXT, VALID_TEXT, state=state, on_epoch=note, mesh=where)
                 for state, where in ((one, None), (many, mesh)))
    assert many.params['embedding'].sharding == placed.params['embedding']  # it has stayed where it was
    for ours, theirs in zip(told[2:], told[:2]):
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
    scores = [scoring.predict(MODEL, jax.device_get(state.params), FIELDS, TEST_TEXT)
              for state in (one, many)]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)


def test_a_batch_is_split_over_the_mesh():
    mesh = meshes.make_mesh({'data': 2, 'fsdp': 2}, jax.devices()[:4])
    state = jax.eval_shape(lambda: training.init_state(MODEL, CONFIG, FIELDS, jax.random.key(0)))
    text = training._run_epoch.lower(MODEL, dataclasses.replace(CONFIG.program, mesh=mesh), CONFIG.rates, FIELDS,
                                     state, TRAIN_TEXT, VALID_TEXT).as_text()
    assert '[{"data", "fsdp"}' in text


def test_specs_name_the_axes_of_every_table_and_kernel():
    specs = training.state_specs(MODEL, CONFIG, FIELDS)
    assert specs.params['embedding'] == PartitionSpec('ids', None)
    assert specs.params['mlp_0']['kernel'] == PartitionSpec('embed', 'mlp')
    moments = specs.opt_state[0].mu
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, moments, specs.params,
                                     is_leaf=lambda x: isinstance(x, PartitionSpec)))


def test_the_best_epoch_is_kept_and_patience_stops():
    coins = np.random.default_rng(0).integers(0, 2, len(VALID.user))  # nothing to learn
    noise = dataclasses.replace(VALID, label=jnp.asarray(coins, jnp.float32))
    history = []
    state = training.fit(MODEL, CONFIG, FIELDS, TRAIN, noise, key=jax.random.key(0),
                         on_epoch=lambda s, m: history.append((m['score'], s.params)))
    scores = [score for score, _ in history]
    best = int(np.argmax(scores))
    assert len(scores) == int(state.epoch) == best + 1 + CONFIG.patience < CONFIG.epochs
    assert int(state.best_epoch) == best + 1 and float(state.best_score) == pytest.approx(scores[best])
    assert jax.tree.all(jax.tree.map(
        lambda a, b: bool(jnp.all(a == b)), state.best_params, history[best][1]))


def test_one_epoch_without_dropout_equals_a_plain_loop_of_batches():
    """The scan, its padding and mask, and AdamW with two decays, against steps by hand."""
    start = training.init_state(MODEL, CONFIG, FIELDS, jax.random.key(0))
    order_key, _ = jax.random.split(jax.random.fold_in(start.key, 0))
    order = np.asarray(jax.random.permutation(order_key, 1000))
    assert sorted(order) == list(range(1000))

    @jax.jit
    def loss_and_grad(params, rows):
        def loss(params):
            ids = jnp.concatenate([FIELDS.user_fields[rows.user], FIELDS.item_fields[rows.item]], 1)
            z = MODEL.apply({'params': params}, ids, FIELDS.item_attributes[rows.item])
            return jnp.mean(optax.sigmoid_binary_cross_entropy(z, rows.label))
        return jax.value_and_grad(loss)(params)

    wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    params = wide(start.params)
    m = v = jax.tree.map(np.zeros_like, params)
    total = 0.0
    for step, at in enumerate(np.split(order, range(64, 1000, 64)), start=1):  # the last has 40
        rows = Rows(user=np.asarray(TRAIN.user)[at], item=np.asarray(TRAIN.item)[at],
                             label=np.asarray(TRAIN.label)[at], text=None)
        loss, grads = loss_and_grad(jax.tree.map(np.float32, params), rows)
        total += float(loss) * len(at)
        grads = wide(grads)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)

        def update(path, p, m, v):
            name = path[-1].key
            decay = {'kernel': 0.1, 'embedding': 0.2, 'weight': 0.2}.get(name, 0.0)
            adam = (m / (1 - 0.9 ** step)) / (np.sqrt(v / (1 - 0.999 ** step)) + 1e-8)
            return p - CONFIG.learning_rate * (adam + decay * p)

        params = jax.tree_util.tree_map_with_path(update, params, m, v)
    state, metrics = training.run_epoch(MODEL, CONFIG, FIELDS, start, TRAIN, VALID)
    assert metrics['loss'] == pytest.approx(total / 1000, rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params)):
        # Adam's first steps are signs: where a gradient is all rounding, so is its sign.
        close = np.isclose(ours, theirs, rtol=1e-3, atol=1e-4)
        assert np.mean(close) > 0.995


# ------------------------------------------------------------------------ what shapes no program


OTHERS = [dataclasses.replace(CONFIG, **change) for change in (
    {'learning_rate': 1e-2}, {'weight_decay': 0.0}, {'embedding_decay': 0.0}, {'text_dropout': 0.0},
    {'learning_rate': 3e-3, 'weight_decay': 1.0, 'embedding_decay': 0.3, 'text_dropout': 0.9},
    {'epochs': 2}, {'patience': 1})]


def test_rates_epochs_and_patience_are_no_other_program():
    start = training.init_state(MODEL, CONFIG, FIELDS, jax.random.key(0))
    states = [training.fit(MODEL, CONFIG, FIELDS, TRAIN_TEXT, VALID_TEXT, state=start)]
    epochs, before = training._run_epoch._cache_size(), compiles.num_compiles()
    for config in OTHERS:
        state = training.init_state(MODEL, config, FIELDS, jax.random.key(0))
        states.append(training.fit(MODEL, config, FIELDS, TRAIN_TEXT, VALID_TEXT, state=state))
    assert compiles.num_compiles() == before and training._run_epoch._cache_size() == epochs
    assert len({np.asarray(state.params['embedding']).tobytes() for state in states}) == len(states)


def test_nor_of_seeds_together():
    keys = jax.random.split(jax.random.key(5), 3)
    start = training.init_seeds(MODEL, CONFIG, FIELDS, keys)
    training.fit(MODEL, CONFIG, FIELDS, TRAIN, VALID, state=start)
    before = compiles.num_compiles()
    for config in OTHERS:
        start = training.init_seeds(MODEL, config, FIELDS, keys)
        training.fit(MODEL, config, FIELDS, TRAIN, VALID, state=start)
    assert compiles.num_compiles() == before


def test_several_rates_at_once_equal_each_alone():
    """Each other one of the rates, side by side in one compiled epoch."""
    configs = [CONFIG, *OTHERS[:5]]
    start = training.init_state(MODEL, CONFIG, FIELDS, jax.random.key(0))
    stacked = jax.tree.map(lambda *rates: jnp.stack(rates), *(config.rates for config in configs))
    together, _ = jax.vmap(lambda rates: training._run_epoch(
        MODEL, CONFIG.program, rates, FIELDS, start, TRAIN_TEXT, VALID_TEXT))(stacked)
    for n, config in enumerate(configs):
        alone, _ = training.run_epoch(MODEL, config, FIELDS, start, TRAIN_TEXT, VALID_TEXT)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[n], together.params), alone.params,
                                    rtol=1e-4, atol=1e-5)
        if n:
            assert not np.allclose(together.params['embedding'][n], together.params['embedding'][0], atol=1e-4)


def test_a_saved_state_goes_on_with_other_rates(tmp_path):
    """What is on disk does not depend on them."""
    first, _ = training.run_epoch(MODEL, CONFIG, FIELDS, training.init_state(
        MODEL, CONFIG, FIELDS, jax.random.key(0)), TRAIN_TEXT, VALID_TEXT)
    with Checkpoints(tmp_path / 'state') as checkpoints:
        checkpoints.save(1, first)
    other = OTHERS[4]
    with Checkpoints(tmp_path / 'state') as checkpoints:
        done, restored = checkpoints.restore(training.init_state(MODEL, other, FIELDS, jax.random.key(1)))
    assert done == 1 and equal(restored, first)
    expected, _ = training.run_epoch(MODEL, other, FIELDS, first, TRAIN_TEXT, VALID_TEXT)
    assert equal(training.run_epoch(MODEL, other, FIELDS, restored, TRAIN_TEXT, VALID_TEXT)[0], expected)


# ---------------------------------------------------------------------------------- the best score


@pytest.mark.parametrize('score, best_score, strict, rounded', [
    (0.5, -np.inf, True, True), (0.5, 0.5, False, True), (0.50001, 0.5, True, True), (0.5, 0.50001, False, True),
    (0.5, 0.5001, False, False), (0.5001, 0.5, True, True), (0.50004, 0.50006, False, False),
    (-0.65, -0.65002, True, True), (-0.65002, -0.65, False, True), (np.nan, -np.inf, False, False),
    (np.nan, 0.5, False, False)])
def test_the_better_score_strictly_or_by_four_digits(score, best_score, strict, rounded):
    score, best_score = jnp.float32(score), jnp.float32(best_score)
    for compiled in (lambda f: f, functools.partial(jax.jit, static_argnums=2)):
        assert bool(compiled(training.better)(score, best_score, None)) is strict
        assert bool(compiled(training.better)(score, best_score, 4)) is rounded


def recbole(scores, patience):
    """(epochs run, best epoch) by `recbole.utils.early_stopping` 1.2.1, `stopping_step` one below `patience`."""
    best, worse, kept = -math.inf, 0, 0
    for epoch, score in enumerate(scores, start=1):
        score = round(float(score), 4)
        if score >= best:
            best, worse, kept = score, 0, epoch
        else:
            worse += 1
            if worse > patience - 1:
                break
    return epoch, kept


@pytest.mark.parametrize('step', [1e-5, 5e-5, 1e-3])
def test_four_digits_stop_and_keep_as_the_reference_library(step):
    for seed in range(40):
        scores = np.round(0.3 + step * np.random.default_rng(seed).normal(size=30), 6).astype(np.float32)
        state = training.State(params=0, opt_state=(), epoch=jnp.int32(0), key=jax.random.key(0), best_params=0,
                               best_score=jnp.float32(-jnp.inf), best_epoch=jnp.int32(0))
        config = training.TrainConfig(epochs=30, patience=4)
        while not training.finished(state, config):
            epoch = int(state.epoch)
            state = training.next_state(state, epoch + 1, (), scores[epoch], digits=4)
        assert (int(state.epoch), int(state.best_epoch)) == recbole(scores, 4)
        assert int(state.best_params) == int(state.best_epoch) and int(state.params) == int(state.epoch)


def test_predictions_do_not_depend_on_the_block():
    state = trained(text=False)[0]
    logits = jax.jit(scoring.logits, static_argnames=('model', 'block'))(
        MODEL, state.params, FIELDS, TEST, block=7)  # 1,000 rows: the last block is not full
    scores = scoring.predict(MODEL, state.params, FIELDS, TEST)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.asarray(logits))), rtol=1e-5)


def test_make_rows_picks_and_repeats_by_index():
    n, at = 5, np.array([4, 0, 0])
    examples = protocols.Examples(
        user=np.arange(n, dtype=np.int32), item=np.arange(n, dtype=np.int32) + 10,
        rating=np.ones(n, np.float32), label=np.array([0, 1, 0, 1, 1], np.float32),
        interaction=np.arange(n, dtype=np.int32),
        past=protocols.Histories(item=np.zeros(1, np.int32), liked=np.zeros(1, bool), stop=np.zeros(n, np.int32),
                                 length=np.zeros(n, np.int32), width=2))
    rows = make_rows(examples, np.zeros((3, 2, D)), at)
    assert rows.user.tolist() == [4, 0, 0] and rows.item.tolist() == [14, 10, 10]
    assert rows.label.tolist() == [1, 0, 0] and rows.text.shape == (3, 2, D)
    with pytest.raises(ValueError, match=r'must be \[N, K, d\]'):
        make_rows(examples, np.zeros((3, 2, D)))


# ------------------------------------------------------------------------------------- refusals


def test_no_rows_is_a_user_error():
    none = jax.tree.map(lambda x: x[:0], VALID)
    with pytest.raises(UserError, match='no valid rows'):
        training.fit(MODEL, CONFIG, FIELDS, TRAIN, none, key=jax.random.key(0))


@pytest.mark.parametrize('train, valid, message', [
    (jnp.inf, 0.0, 'loss is no finite number in step 1 .epoch 1, its step 1 of 16.: lower learning_rate'),
    (0.0, jnp.inf, 'score "log_loss" of the validation rows is nan in epoch 1')])
def test_what_is_no_number_stops_the_run_and_says_what_to_try(train, valid, message):
    rows = [dataclasses.replace(r, text=jnp.full_like(r.text, value))
            for r, value in ((TRAIN_TEXT, train), (VALID_TEXT, valid))]
    with pytest.raises(UserError, match=message):
        training.fit(MODEL, CONFIG, FIELDS, *rows, key=jax.random.key(0))


def test_auc_of_one_class_is_no_silent_stop():
    ones = dataclasses.replace(VALID, label=jnp.ones_like(VALID.label))
    config = dataclasses.replace(CONFIG, monitor='auc')
    with pytest.raises(UserError, match='200 valid rows of one class: use more samples'):
        training.fit(MODEL, config, FIELDS, TRAIN, ones, key=jax.random.key(0))


@pytest.mark.parametrize('options, message', [
    (dict(monitor='logloss'), 'Did you mean "log_loss"'), (dict(batch_size=0), 'batch_size=0'),
    (dict(patience=0), 'patience=0'), (dict(epochs=0), 'epochs=0'),
    (dict(text_dropout=1.0), 'text_dropout=1.0'), (dict(learning_rate=0.0), 'learning_rate=0.0.*above 0'),
    (dict(weight_decay=-1e-3), 'weight_decay=-0.001'), (dict(embedding_decay=float('nan')), 'embedding_decay=nan')])
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        training.TrainConfig(**options)


def test_a_key_or_a_state_and_not_both():
    with pytest.raises(ValueError, match='not both'):
        training.fit(MODEL, CONFIG, FIELDS, TRAIN, VALID)


def test_seeds_trained_together_are_those_trained_alone():
    """Also where one stops earlier than the others: it stays as it was."""
    config = dataclasses.replace(CONFIG, epochs=12, patience=1)
    keys = jax.random.split(jax.random.key(5), 3)
    together = training.fit(MODEL, config, FIELDS, TRAIN, VALID,
                            state=training.init_seeds(MODEL, config, FIELDS, keys))
    alone = [training.fit(MODEL, config, FIELDS, TRAIN, VALID, key=key) for key in keys]
    np.testing.assert_array_equal(together.epoch, [int(state.epoch) for state in alone])
    assert len(set(together.epoch.tolist())) > 1
    for seed, state in enumerate(alone):
        chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[seed], together.best_params), state.best_params,
                                    rtol=1e-4, atol=1e-5)
    scores = scoring.predict_of_seeds(MODEL, together.best_params, FIELDS, VALID)
    np.testing.assert_allclose(scores[1], scoring.predict(MODEL, alone[1].best_params, FIELDS, VALID), atol=1e-5)
