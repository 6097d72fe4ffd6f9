"""Losses, cloze rows and negatives of sequence models against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.recommenders import ranking, sequences
from xrec_jax.recommenders.ranking import data

ITEMS = 9
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(3, 4, 5)).astype(np.float32)
VECTORS = RNG.normal(size=(ITEMS, 5)).astype(np.float32)
BIAS = RNG.normal(size=ITEMS).astype(np.float32)
TARGETS = np.array([[0, 0, 3, 9], [1, 2, 2, 8], [0, 0, 0, 0]])


@pytest.mark.parametrize('bias', [None, BIAS])
def test_softmax_cross_entropy_equals_the_loop(bias):
    losses = []
    for b, t in zip(*np.nonzero(TARGETS)):
        scores = [float(STATES[b, t] @ VECTORS[i]) + (0 if bias is None else bias[i]) for i in range(ITEMS)]
        losses.append(-np.log(np.exp(scores[TARGETS[b, t] - 1]) / np.exp(scores).sum()))
    loss = jax.jit(sequences.softmax_cross_entropy)(STATES, VECTORS, TARGETS, bias)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize('bias', [None, BIAS])
def test_binary_cross_entropy_equals_the_loop(bias):
    negatives = RNG.integers(1, ITEMS + 1, (3, 4, 2))
    s = lambda b, t, i: 1 / (1 + np.exp(-(float(STATES[b, t] @ VECTORS[i - 1]) + (0 if bias is None else bias[i - 1]))))
    losses = [-np.log(s(b, t, TARGETS[b, t])) - sum(np.log(1 - s(b, t, i)) for i in negatives[b, t])
              for b, t in zip(*np.nonzero(TARGETS))]
    loss = jax.jit(sequences.binary_cross_entropy)(STATES, VECTORS, TARGETS, negatives, bias)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_without_any_target_losses_and_gradients_are_zero():
    none = np.zeros_like(TARGETS)
    for loss in (lambda s: sequences.softmax_cross_entropy(s, VECTORS, none),
                 lambda s: sequences.binary_cross_entropy(s, VECTORS, none, none[..., None])):
        value, gradient = jax.value_and_grad(loss)(STATES)
        assert value == 0 and not np.asarray(gradient).any()


def test_a_pad_predicts_nothing_and_every_item_but_the_first_is_a_target():
    items, targets = sequences.next_items(np.array([[0, 0, 4, 5, 6], [1, 2, 3, 4, 5], [0, 0, 0, 0, 7]]))
    np.testing.assert_array_equal(items, [[0, 0, 4, 5], [1, 2, 3, 4], [0, 0, 0, 0]])
    np.testing.assert_array_equal(targets, [[0, 0, 5, 6], [2, 3, 4, 5], [0, 0, 0, 0]])


def test_positions_start_at_the_oldest_item():
    np.testing.assert_array_equal(sequences.positions(np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool)),
                                  [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]])


def test_cloze_masks_what_it_asks_for_and_nothing_else():
    items = np.tile([0, 0, 1, 2, 3, 4, 5, 6], (4000, 1))
    masked, targets = (np.asarray(x) for x in sequences.cloze(jax.random.key(0), items, 10, ratio=0.3, last_share=0.25))
    assert ((masked == 10) == (targets > 0)).all()
    np.testing.assert_array_equal(np.where(masked == 10, targets, masked), items)
    assert abs((targets[:, 2:7] > 0).mean() - 0.75 * 0.3) < 0.015
    assert abs((targets[:, -1] > 0).mean() - (0.75 * 0.3 + 0.25)) < 0.03


def test_cloze_can_mask_the_last_item_alone():
    items = np.array([[0, 1, 2, 3], [0, 0, 0, 4]])
    masked, targets = sequences.cloze(jax.random.key(0), items, 10, last_share=1.0)
    np.testing.assert_array_equal(masked, [[0, 1, 2, 10], [0, 0, 0, 10]])
    np.testing.assert_array_equal(targets, [[0, 0, 0, 3], [0, 0, 0, 4]])


class Lookup(sequences.SequenceModel):
    """State = the item's own vector, so that the losses can be written down."""

    max_length: int = 3

    def setup(self):
        self.item_embedding = self.param('item_embedding', lambda key: jnp.asarray(VECTORS))
        self.output_bias = self.param('item_bias', lambda key: jnp.asarray(BIAS))

    mask_token = ITEMS + 1

    def states(self, items, train=False):
        return self.embed(jnp.where(items == self.mask_token, 1, items))

    def item_bias(self):
        return self.output_bias


MODEL = Lookup(ITEMS, 5)
PARAMS = {'item_embedding': jnp.asarray(VECTORS), 'item_bias': jnp.asarray(BIAS)}


def batch(stride=1):
    positives = data.positives_of(np.array([0, 0, 0, 1, 1]), np.array([1, 2, 4, 0, 8]), 2, ITEMS)
    train = ranking.Data(None, None, positives, None, None, {}, width=4, stride=stride, mesh=None)
    return ranking.Batch(user=np.array([0, 1, 1]), item=np.array([4, 8, 3]), negative=np.array([0, 1, 1]),
                         history=np.array([[5, 6, 2, 3], [0, 0, 0, 1], [1, 1, 1, 1]]), mask=np.array([1, 1, 0]),
                         data=train)


def log_softmax(item):
    scores = VECTORS @ VECTORS[item - 1] + BIAS
    return scores - np.log(np.exp(scores).sum())


@pytest.mark.parametrize('stride, pairs', [
    (1, [(3, 5), (1, 9)]), (2, [(2, 3), (3, 5), (1, 9)]), (3, [(6, 2), (2, 3), (3, 5), (1, 9)])])
def test_next_item_loss_is_over_the_latest_items_of_unmasked_rows(stride, pairs):
    loss = sequences.next_item_loss(MODEL)
    expected = -np.mean([log_softmax(item)[target - 1] for item, target in pairs])
    np.testing.assert_allclose(jax.jit(loss)(PARAMS, batch(stride), jax.random.key(0)), expected, rtol=1e-5)
    assert loss is sequences.next_item_loss(MODEL)  # or `jit` compiles each epoch


def test_binary_next_item_loss_has_negatives_that_the_user_never_liked():
    loss = jax.jit(sequences.next_item_loss(MODEL, 'binary'))
    s = lambda item, other: 1 / (1 + np.exp(-(VECTORS[item - 1] @ VECTORS[other - 1] + BIAS[other - 1])))
    possible = [-(np.log(s(3, 5)) + np.log(1 - s(3, j)) + np.log(s(1, 9)) + np.log(1 - s(1, k))) / 2
                for j in (1, 4, 6, 7, 8, 9) for k in range(2, 9)]
    losses = np.array([loss(PARAMS, batch(), jax.random.key(n)) for n in range(20)])
    assert np.abs(losses[:, None] - possible).min(1).max() < 1e-5 and len(set(losses.tolist())) > 5


def test_cloze_loss_masks_the_target_too():
    loss = jax.jit(sequences.cloze_loss(MODEL, last_share=1.0))
    expected = -np.mean([log_softmax(1)[target - 1] for target in (5, 9)])
    np.testing.assert_allclose(loss(PARAMS, batch(), jax.random.key(0)), expected, rtol=1e-5)


def test_an_objective_that_is_none_is_refused():
    with pytest.raises(UserError, match='softmax'):
        sequences.next_item_loss(MODEL, 'softmx')
