"""BPR-MF against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from xrec_jax.recommenders.mf import BPRMF

U, I, E, B = 9, 13, 5, 7


def case(l2=0.0):
    rng = np.random.default_rng(0)
    params = {'user': rng.normal(size=(128, E)), 'item': rng.normal(size=(128, E))}  # rows from U and I on are padding
    batch = rng.integers(0, U, B), rng.integers(0, I, B), rng.integers(0, I, B), np.array([1, 1, 0, 1, 1, 1, 0.0])
    return BPRMF(U, I, embed_dim=E, l2=l2), params, batch


def slow_loss(params, user, item, negative, mask, l2):
    total = 0.0
    for u, i, j, m in zip(user, item, negative, mask):
        w, h, g = params['user'][u], params['item'][i], params['item'][j]
        margin = sum(w[e] * h[e] for e in range(E)) - sum(w[e] * g[e] for e in range(E))
        total += m * (np.log(1 + np.exp(-margin)) + l2 * sum(x * x for v in (w, h, g) for x in v) / 2)
    return total / mask.sum()


@pytest.mark.parametrize('l2', [0.0, 0.1])
def test_the_loss_equals_the_slow_one(l2):
    model, params, batch = case(l2)
    narrow = jax.tree.map(np.float32, params)
    loss = model.apply({'params': narrow}, *batch, method='loss')
    assert loss == pytest.approx(slow_loss(params, *batch, l2), rel=1e-5)


def test_its_gradient_is_that_of_finite_differences_and_zero_for_rows_out_of_the_batch():
    model, params, batch = case(0.1)
    gradient = jax.grad(lambda p: model.apply({'params': p}, *batch, method='loss'))(jax.tree.map(np.float32, params))
    for name, row in (('user', batch[0][0]), ('item', batch[1][1]), ('item', batch[2][3])):
        moved = []
        for step in (1e-5, -1e-5):
            other = {k: v.copy() for k, v in params.items()}
            other[name][row, 2] += step
            moved.append(slow_loss(other, *batch, 0.1))
        assert gradient[name][row, 2] == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-3)
    used = {u for u, m in zip(batch[0], batch[3]) if m}
    others = [u for u in range(U) if u not in used]
    assert others and not np.any(gradient['user'][np.array(others)])


def test_scores_are_the_product_of_the_vectors():
    model, params, _ = case()
    variables = {'params': jax.tree.map(np.float32, params)}
    users = model.apply(variables, np.array([3, 0]), np.zeros((2, 0), np.int32), method='user_vectors')
    items = model.apply(variables, method='item_vectors')
    np.testing.assert_allclose(users @ items.T, params['user'][[3, 0]] @ params['item'][:I].T, rtol=1e-4, atol=1e-5)


def test_tables_are_drawn_as_recbole_draws_them():
    model = BPRMF(900, 400)
    params = nn.unbox(model.init(jax.random.key(0), jnp.zeros(1, jnp.int32), None, method='user_vectors'))['params']
    assert {name: x.shape for name, x in params.items()} == {'user': (1024, 64), 'item': (512, 64)}
    for name, rows in (('user', 900), ('item', 400)):
        real = params[name][:rows]
        assert np.std(real) == pytest.approx(np.sqrt(2 / (rows + 64)), rel=0.02)
        assert np.abs(real).max() > 3 * np.std(real)  # a truncated normal would end at 2.3
