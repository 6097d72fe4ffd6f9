"""Padded tables: how they are drawn, and that no model lets the padding have a say."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
import numpy as np
import pytest

from tests.recommenders.slow_sequences import E, HISTORY, I, MAX, U, USER, random_params
from xrec_jax.parallel.sharding import param_shardings
from xrec_jax.recommenders.bert4rec import BERT4Rec
from xrec_jax.recommenders.caser import Caser
from xrec_jax.recommenders.gru4rec import GRU4Rec
from xrec_jax.recommenders.lightgcn import LightGCN
from xrec_jax.recommenders.mf import BPRMF
from xrec_jax.recommenders.sasrec import SASRec
from xrec_jax.recommenders.tables import padded, scores, table

TABLES = {'user': U, 'item': I, 'item_embedding': I, 'item_bias': I, 'item_output': I, 'user_embedding': U}
MODELS = {
    'BPRMF': functools.partial(BPRMF, U, I, E, 0.1),
    'LightGCN': functools.partial(LightGCN, U, I, E, 2, 0.1),
    'SASRec': functools.partial(SASRec, I, E, MAX, inner=7),
    'BERT4Rec': functools.partial(BERT4Rec, I, E, MAX, inner=7),
    'GRU4Rec': functools.partial(GRU4Rec, I, E, MAX, hidden=3),
    'Caser': functools.partial(Caser, num_items=I, num_users=U, embed_dim=E, max_length=MAX, horizontal=2, vertical=2),
}


class Two(nn.Module):
    num_rows: int
    dtype: str = 'float32'

    @nn.compact
    def __call__(self):
        init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')
        return (table(self, 'rows', init, self.num_rows, 3, 'users', self.dtype),
                table(self, 'bias', nn.initializers.ones, self.num_rows, None, 'items'))


@pytest.mark.parametrize('rows, expected', [(1, 128), (127, 128), (128, 128), (129, 256), (1_000_000, 1_000_064)])
def test_rows_are_padded_to_a_multiple_of_128(rows, expected):
    assert padded(rows) == expected


@pytest.mark.parametrize('rows', [100, 128, 300])
def test_a_table_is_drawn_for_its_real_shape_and_zero_elsewhere(rows):
    made = Two(rows).init(jax.random.key(0))['params']
    drawn, bias = made['rows'], made['bias']
    assert drawn.names == ('users', None) and bias.names == ('items',)
    assert drawn.value.shape == (padded(rows), 3) and bias.value.shape == (padded(rows),)
    assert not np.any(drawn.value[rows:]) and not np.any(bias.value[rows:])
    assert np.std(drawn.value[:rows]) == pytest.approx(np.sqrt(2 / (rows + 3)), rel=0.1)
    np.testing.assert_array_equal(bias.value[:rows], 1)


@pytest.mark.parametrize('devices', [2, 8, 64])
def test_rows_that_do_not_divide_are_sharded_all_the_same(devices):
    """Their real number would lie whole on every device."""
    mesh = AbstractMesh((devices,), ('fsdp',))
    shapes = jax.eval_shape(Two(1_001).init, jax.random.key(0))['params']
    shardings = param_shardings(shapes, mesh)
    assert shardings['rows'].spec == PartitionSpec('fsdp', None) and shardings['bias'].spec == PartitionSpec('fsdp')
    assert shardings['rows'].shard_shape(shapes['rows'].value.shape) == (1_024 // devices, 3)


def test_bfloat16_is_float32_rounded():
    """Not drawn in bfloat16, whose 256 steps between 0 and 1 have no tails."""
    wide, narrow = (nn.unbox(Two(500, dtype).init(jax.random.key(0)))['params']['rows']
                    for dtype in ('float32', 'bfloat16'))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(narrow), np.asarray(wide.astype(jnp.bfloat16)))


def test_scores_are_accumulated_in_float32():
    users, items = np.ones((2, 4096), np.float32), jnp.ones((3, 4096), jnp.bfloat16).at[:, 0].set(2)
    assert scores(users, items).dtype == jnp.float32
    np.testing.assert_array_equal(scores(users, items), np.full((2, 3), 4097.0))  # bfloat16 has 4096 and 4128


def case(name, **options):
    """(model, params with every number random, apply)."""
    model = MODELS[name](**options)
    graph = model.constants(np.array([0, 0, 3, 5]), np.array([1, 2, 1, 10])) if name == 'LightGCN' else {}

    def touch(module, user, history):
        return module.user_vectors(user, history), module.item_vectors()

    def init(key):
        return model.apply(graph, USER, HISTORY, method=touch, rngs={'params': key}, mutable=['params'])[1]

    params = nn.unbox(random_params(init))
    return model, params, lambda params, *args, **kwargs: model.apply({'params': params, **graph}, *args, **kwargs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def outputs(model, apply, params):
    """All that a model hands on: vectors, biases, a loss."""
    items = apply(params, method='item_vectors')
    out = {'users': apply(params, USER, HISTORY, method='user_vectors'), 'items': items}
    if hasattr(model, 'item_bias'):
        out['bias'] = apply(params, method='item_bias')
    if hasattr(model, 'loss'):
        out['loss'] = apply(params, USER, HISTORY[:, -1] - 1, HISTORY[::-1, -1] - 1, np.ones(len(USER)), method='loss')
    return out


@pytest.mark.parametrize('name', MODELS)
def test_the_padding_of_a_model_has_no_say_and_no_gradient(name):
    model, params, apply = case(name)
    out = outputs(model, apply, params)
    assert len(out['items']) == I and len(out.get('bias', np.zeros(I))) == I
    tables_ = {key for key in params if key in TABLES}
    assert tables_ >= {'BPRMF': {'user', 'item'}, 'LightGCN': {'user', 'item'}, 'SASRec': {'item_embedding'},
                       'BERT4Rec': {'item_embedding', 'item_bias'}, 'GRU4Rec': {'item_embedding'},
                       'Caser': {'item_embedding', 'item_output', 'item_bias', 'user_embedding'}}[name]
    other = params | {key: params[key].at[TABLES[key]:].set(1e3) for key in tables_}
    for key, value in outputs(model, apply, other).items():
        np.testing.assert_array_equal(value, out[key])

    def total(params):
        out = outputs(model, apply, params)
        logits = scores(out['users'], out['items']) + out.get('bias', 0)
        return jax.nn.logsumexp(logits) + out.get('loss', 0)

    gradient = jax.jit(jax.grad(total))(params)
    for key in tables_:
        assert not np.any(gradient[key][TABLES[key]:]) and np.any(gradient[key][:TABLES[key]])


@pytest.mark.parametrize('name', MODELS)
def test_tables_in_bfloat16_give_the_same_but_for_rounding(name):
    wide, params, apply_wide = case(name)
    narrow, _, apply = case(name, dtype='bfloat16')
    hash(narrow)  # a static argument of `jit`
    rounded = {key: value.astype(jnp.bfloat16) if key in TABLES and key != 'item_bias' else value
               for key, value in params.items()}
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), rounded)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), nn.unbox(made(narrow, name)))
    expected = outputs(wide, apply_wide, jax.tree.map(lambda x: x.astype(jnp.float32), rounded))
    out = outputs(narrow, apply, rounded)
    assert out['items'].dtype == jnp.bfloat16 and out.get('loss', jnp.float32(0)).dtype == jnp.float32
    for key in out:
        np.testing.assert_allclose(out[key].astype(jnp.float32), expected[key], rtol=1e-2)


def made(model, name):
    """The parameters that `init` makes, as shapes."""
    graph = model.constants(np.array([0]), np.array([1])) if name == 'LightGCN' else {}

    def init(key):
        apply = functools.partial(model.apply, graph, rngs={'params': key}, mutable=['params'])
        return apply(USER, HISTORY, method=lambda m, *args: (m.user_vectors(*args), m.item_vectors()))[1]['params']

    return jax.eval_shape(init, jax.random.key(0))
