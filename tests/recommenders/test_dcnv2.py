"""DCNv2 against a slow NumPy one, full and mixed, beside the MLP and before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recommenders import slow
from tests.recommenders.test_dcn import crossed
from xrec_jax.errors import UserError
from xrec_jax.recommenders.dcnv2 import DCNv2

KINDS = {'full': dict(num_experts=0), 'mixed': dict(num_experts=3, rank=2)}
STRUCTURES = ['parallel', 'stacked']


def slow_cross(p, x0):
    x, n = list(x0), 0
    while f'cross_{n}' in p:
        product = slow.linear(p[f'cross_{n}'], x)  # W x + b
        x = [x0[i] * product[i] + x[i] for i in range(len(x0))]
        n += 1
    return x


def slow_mixed_cross(p, x0):
    x, n = list(x0), 0
    while f'cross_{n}_v' in p:
        V, C, U = (p[f'cross_{n}_{name}']['kernel'] for name in 'vcu')  # [M, D, r], [M, r, r], [M, r, D]
        gates = np.exp(slow.linear(p['gate'], x))
        gates /= gates.sum()
        mixed = np.zeros(len(x0))
        for m in range(len(V)):
            low = [np.tanh(slow.dot(V[m, :, r], x)) for r in range(V.shape[2])]
            low = [np.tanh(slow.dot(C[m, :, r], low)) for r in range(C.shape[2])]
            for i in range(len(x0)):
                mixed[i] += gates[m] * x0[i] * (slow.dot(U[m, :, i], low) + p[f'cross_{n}_bias'][i])
        x = [x[i] + mixed[i] for i in range(len(x0))]
        n += 1
    return x


def slow_dcnv2(p, ids, attributes, text, structure):
    x0 = [x for f in slow.rows_of(p['embedding'], ids, attributes) for x in f]
    x = (slow_mixed_cross if 'gate' in p else slow_cross)(p, x0)
    z = slow.features(p, text)
    if structure == 'stacked':
        return slow.linear(p['mlp_out'], slow.relu_mlp(p, x + z))[0]
    return slow.linear(p['mlp_out'], x + slow.relu_mlp(p, x0 + z))[0]


def case(kind='full', scale=0.4, **options):
    settings = dict(cross_layers=2, structure='parallel', batch_norm=True) | KINDS[kind] | options
    model, params, *inputs = slow.case(DCNv2, **settings)
    return model, jax.tree.map(lambda x: scale * x, params), *inputs  # small: it is a polynomial of degree 3


@pytest.mark.parametrize('structure', STRUCTURES)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection, kind, structure):
    slow.check_equal(lambda *row: slow_dcnv2(*row, structure),
                     *case(kind, scale=1.0, attributes=attributes, projection=projection, structure=structure))


@pytest.mark.parametrize('structure', STRUCTURES)
@pytest.mark.parametrize('projection', [0, 3])
def test_no_text_is_exactly_zero_text(projection, structure):
    slow.check_zero_text_is_no_text(*case(projection=projection, structure=structure, mlp=(32,)))


@pytest.mark.parametrize('kind', KINDS)
def test_absent_ids_have_no_say(kind):
    slow.check_absent_ids_have_no_say(*case(kind, projection=3))


@pytest.mark.parametrize('structure', STRUCTURES)
@pytest.mark.parametrize('kind', KINDS)
def test_gradients_are_finite(kind, structure):
    slow.check_gradients_are_finite(*case(kind, projection=3, structure=structure))


@pytest.mark.parametrize('kind', KINDS)
def test_parameters_have_axes(kind):
    model, _, ids, many, _ = case(kind, projection=3)
    slow.check_parameters_have_axes(model, ids, many)


@pytest.mark.parametrize('kind', KINDS)
def test_the_bias_stands_inside_of_the_product(kind):
    model, params, ids, many, _ = case(kind, attributes=0)
    _, x = crossed(model, params, np.zeros_like(ids), many)
    np.testing.assert_array_equal(x, np.zeros_like(x))


def test_the_cross_is_no_multiple_of_x0():
    model, params, ids, many, _ = case(attributes=0)
    x0, x = crossed(model, params, ids, many)
    multiple = x0 * (x * x0).sum(1, keepdims=True) / (x0 * x0).sum(1, keepdims=True)
    assert np.abs(x - multiple).max() > 0.01  # a matrix weighs every pair of dimensions, DCN's vector does not


def test_cross_layers_are_polynomials_of_one_degree_more():
    model, params, ids, many, _ = case(attributes=0, scale=1.0)
    at = [crossed(model, params | {'embedding': s * params['embedding']}, ids, many)[1] for s in range(5)]
    third, fourth = (np.abs(np.diff(at, n=n, axis=0)).max() for n in (3, 4))
    assert third > 0.1 and fourth < 1e-3 * third


def test_experts_that_are_all_alike_act_as_one():
    model, params, ids, many, _ = case('mixed', attributes=0, scale=1.0)
    alike = {name: {'kernel': jnp.stack([leaf['kernel'][0]] * 3)} if name[-2:] in ('_v', '_c', '_u') else leaf
             for name, leaf in params.items()}
    one = {name: {'kernel': leaf['kernel'][:1]} if name[-2:] in ('_v', '_c', '_u') else leaf
           for name, leaf in params.items()}
    one['gate'] = {'kernel': params['gate']['kernel'][:, :1], 'bias': params['gate']['bias'][:1]}
    np.testing.assert_allclose(model.apply({'params': alike}, ids, many),
                               model.clone(num_experts=1).apply({'params': one}, ids, many), rtol=1e-4, atol=1e-4)


def test_an_expert_starts_as_it_would_alone():
    model = DCNv2(vocab_size=slow.V, mlp=(2,), num_experts=8, rank=64, cross_layers=1)
    params = model.init(jax.random.key(0), jnp.ones((1, 4), jnp.int32), jnp.zeros((1, 0), jnp.int32))['params']
    V, U = (jnp.std(params[f'cross_0_{name}']['kernel'].unbox()) for name in 'vu')  # from D = 64 and from r = 64
    np.testing.assert_allclose([V, U], [1 / 8, 1 / 8], rtol=0.05)


def test_published_defaults():
    model = DCNv2(vocab_size=slow.V)
    assert (model.embed_dim, model.mlp, model.cross_layers, model.dropout) == (16, (768, 768), 3, 0.2)
    assert (model.structure, model.num_experts, model.rank, model.batch_norm) == ('stacked', 0, 128, False)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match='Did you mean "parallel"'):
        DCNv2(vocab_size=slow.V, structure='paralel')
    for setting in (dict(cross_layers=0), dict(num_experts=-1), dict(rank=0)):
        with pytest.raises(UserError, match=next(iter(setting))):
            DCNv2(vocab_size=slow.V, **setting)
