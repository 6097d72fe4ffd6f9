"""Fi-GNN against a slow NumPy one: edge by edge, gate by gate."""

import jax
import numpy as np
import pytest

from tests.recommenders import slow
from xrec_jax.errors import UserError
from xrec_jax.recommenders.fignn import FiGNN, edge_weights

DIM, HEADS = 6, 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_attention(p, v):
    states = []
    for e in v:
        state = []
        for h in range(HEADS):
            head = lambda name, x: np.array(slow.linear(p[name], x))[h * DIM // HEADS:(h + 1) * DIM // HEADS]
            scores = [np.exp(np.dot(head('query', e), head('key', x)) / np.sqrt(DIM / HEADS)) for x in v]
            state.extend(sum(s / sum(scores) * head('value', x) for s, x in zip(scores, v)))
        states.append(np.maximum(state, 0))
    return states


def slow_edges(p, states):
    """A[i][j], the weight of the edge from field i to field j."""
    n = len(states)
    w = np.concatenate([p['edge_source']['kernel'], p['edge_target']['kernel']])[:, 0]
    edges = np.zeros((n, n))
    for i in range(n):
        scores = {}
        for j in range(n):
            if j != i:
                s = np.dot(w, np.concatenate([states[i], states[j]]))
                scores[j] = np.exp(s if s > 0 else 0.01 * s)
        for j in scores:
            edges[i, j] = scores[j] / sum(scores.values())
    return edges


def slow_fignn(p, ids, attributes, text, steps=2):
    first = slow_attention(p, slow.rows_of(p['embedding'], ids, attributes))
    edges, states = slow_edges(p, first), first
    for _ in range(steps):
        after = []
        for i, h in enumerate(states):
            a = p['message_bias'].copy()
            for j, other in enumerate(states):
                a += edges[j, i] * ((other @ p['send']['kernel'][j]) @ p['receive']['kernel'][i])
            x = np.split(np.array(slow.linear(p['gru_input'], a)), 3)
            y = np.split(np.array(slow.linear(p['gru_state'], h)), 3)
            update, reset = sigmoid(x[0] + y[0]), sigmoid(x[1] + y[1])
            after.append((1 - update) * h + update * np.tanh(x[2] + reset * y[2]) + first[i])
        states = after
    logit = 0.0
    for h in states:
        hidden = list(h) + slow.features(p, text)
        logit += slow.linear(p['weight_out'], hidden)[0] * slow.linear(p['mlp_out'], slow.relu_mlp(p, hidden))[0]
    return logit


def case(**options):
    return slow.case(FiGNN, **dict(mlp=(), state_dim=DIM, num_heads=HEADS, num_steps=2) | options)


@pytest.mark.parametrize('attributes, projection', slow.CASES)
def test_equals_the_slow_model(attributes, projection):
    slow.check_equal(slow_fignn, *case(attributes=attributes, projection=projection))


def test_with_hidden_layers_equals_the_slow_model():
    slow.check_equal(slow_fignn, *case(projection=3, mlp=(8, 4)))


@pytest.mark.parametrize('projection', [0, 3])
def test_no_text_is_exactly_zero_text(projection):
    slow.check_zero_text_is_no_text(*case(projection=projection))


def test_absent_ids_have_no_say():
    slow.check_absent_ids_have_no_say(*case(projection=3))


def test_gradients_are_finite():
    slow.check_gradients_are_finite(*case(projection=3))


def test_parameters_have_axes():
    model, _, ids, many, _ = case(projection=3)
    slow.check_parameters_have_axes(model, ids, many)


def test_outgoing_weights_sum_to_one_and_no_field_is_its_own_neighbour():
    rng = np.random.default_rng(0)
    edges = np.asarray(edge_weights(*rng.normal(size=(2, 7, 5)).astype(np.float32)))
    np.testing.assert_allclose(edges.sum(2), 1.0, rtol=1e-6)  # over the receivers of each sender
    assert not np.allclose(edges.sum(1), 1.0, atol=1e-2)
    assert (edges[:, range(5), range(5)] == 0).all()


def test_a_field_alone_has_no_neighbours():
    model = FiGNN(vocab_size=9)
    ids = np.array([[3]], np.int32)
    none = np.zeros((1, 0), np.int32)
    variables = model.init(jax.random.key(0), ids, none)
    assert np.isfinite(model.apply(variables, ids, none)).all()


def test_heads_that_cannot_share_are_refused():
    with pytest.raises(UserError, match='state_dim=7 and num_heads=2'):
        FiGNN(vocab_size=9, state_dim=7)
