"""LightGCN against dense matrices and loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from xrec_jax.recommenders import lightgcn
from xrec_jax.recommenders.lightgcn import LightGCN

U, I, E, B = 14, 23, 5, 9


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr(lightgcn, '_WIDTH', 3)  # so that nodes have several


def case(layers=2, l2=0.0, seed=0):
    """(model, params, collections, user, item of interactions): some repeat; user 13 and item 22 have none."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, U - 1, 120), rng.integers(0, I - 1, 120)
    item[:50] = rng.integers(0, 3, 50)  # items with more neighbours than a piece holds
    user[-5:], item[-5:] = user[:5], item[:5]
    model = LightGCN(U, I, embed_dim=E, num_layers=layers, l2=l2)
    params = {'user': rng.normal(size=(128, E)), 'item': rng.normal(size=(128, E))}  # rows from U and I on are padding
    return model, params, model.constants(user, item), user, item


def slow_layers(params, user, item, layers):
    """e [U + I, E], node by node and neighbour by neighbour."""
    neighbours = {n: set() for n in range(U + I)}
    for u, i in zip(user.tolist(), item.tolist()):
        neighbours[u].add(U + i)
        neighbours[U + i].add(u)
    e = np.concatenate([params['user'][:U], params['item'][:I]])
    total = e.copy()
    for _ in range(layers):
        new = np.zeros_like(e)
        for n, near in neighbours.items():
            for m in near:
                new[n] += e[m] / np.sqrt(len(near) * len(neighbours[m]))
        e = new
        total += e
    return total / (layers + 1)


def slow_loss(params, user, item, layers, l2, batch):
    e = slow_layers(params, user, item, layers)
    total = 0.0
    for u, i, j, m in zip(*batch):
        margin = e[u] @ e[U + i] - e[u] @ e[U + j]
        layer_0 = params['user'][u], params['item'][i], params['item'][j]
        total += m * (np.log(1 + np.exp(-margin)) + l2 * sum((v * v).sum() for v in layer_0) / 2)
    return total / sum(batch[3])


def batch(seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, U, B), rng.integers(0, I, B), rng.integers(0, I, B), (np.arange(B) != 4).astype(np.float32)


@pytest.mark.parametrize('layers', [0, 1, 2, 3])
def test_vectors_equal_the_slow_ones(layers):
    model, params, graph, user, item = case(layers)
    variables = {'params': jax.tree.map(np.float32, params), **graph}
    expected = slow_layers(params, user, item, layers)
    everyone = np.arange(U), np.zeros((U, 0), np.int32)
    np.testing.assert_allclose(model.apply(variables, *everyone, method='user_vectors'), expected[:U], atol=1e-5)
    np.testing.assert_allclose(model.apply(variables, method='item_vectors'), expected[U:], atol=1e-5)


def test_a_node_without_neighbours_keeps_its_share_of_layer_0():
    model, params, graph, *_ = case(layers=3)
    items = model.apply({'params': jax.tree.map(np.float32, params), **graph}, method='item_vectors')
    np.testing.assert_allclose(items[I - 1], params['item'][I - 1] / 4, rtol=1e-5)


def test_the_loss_and_its_gradient_equal_the_slow_ones():
    model, params, graph, user, item = case(layers=2, l2=0.1)
    loss_fn = lambda p: model.apply({'params': p, **graph}, *batch(), method='loss')
    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(jax.tree.map(np.float32, params))
    assert loss == pytest.approx(slow_loss(params, user, item, 2, 0.1, batch()), rel=1e-5)
    rng = np.random.default_rng(2)
    for name, rows in (('user', U), ('item', I)):
        for _ in range(6):
            row, column = rng.integers(rows), rng.integers(E)
            moved = []
            for step in (1e-5, -1e-5):
                other = {k: v.copy() for k, v in params.items()}
                other[name][row, column] += step
                moved.append(slow_loss(other, user, item, 2, 0.1, batch()))
            assert gradient[name][row, column] == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=2e-3, abs=1e-6)


def test_the_sum_of_layers_is_its_own_transpose():
    """What the hand-made gradient takes for granted."""
    *_, graph, _, _ = case()
    graph = [graph['graph'][name] for name in ('neighbours', 'node', 'scale')]
    matrix = np.asarray(lightgcn.mean_of_layers(3, jnp.eye(U + I), *graph))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)


def test_pieces_hold_each_neighbour_once():
    _, _, graph, user, item = case()
    neighbours, node = np.asarray(graph['graph']['neighbours']), np.asarray(graph['graph']['node'])
    assert (np.diff(node) >= 0).all()
    edges = sorted((int(n), int(m)) for n, row in zip(node, neighbours) for m in row if m < U + I)
    pairs = {(u, U + i) for u, i in zip(user.tolist(), item.tolist())}
    assert edges == sorted(pairs | {(i, u) for u, i in pairs})
    assert np.bincount(node).max() > 1  # some node has more neighbours than a piece


def test_only_the_embeddings_are_parameters():
    model, _, graph, *_ = case()
    _, made = model.apply(graph, method='item_vectors', rngs={'params': jax.random.key(0)}, mutable=['params'])
    params = nn.unbox(made['params'])
    assert {name: x.shape for name, x in params.items()} == {'user': (128, E), 'item': (128, E)}
    assert 0.9 < np.abs(params['user'][:U]).max() / np.sqrt(6 / (U + E)) <= 1
