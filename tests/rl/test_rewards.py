"""ExpCTR's rewards against NumPy in float64 and examples worked by hand."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xrec_jax.errors import UserError
from xrec_jax.rl import rewards

either = pytest.mark.parametrize('compiled', [lambda f: f, jax.jit], ids=['plain', 'jit'])


def random_log_probs(seed, shape):
    logits = np.random.default_rng(seed).normal(scale=3, size=shape)
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


# ------------------------------------------------------------------------------------ eq. 8


@either
@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.0])
def test_lc_score_of_logits_is_the_powered_share_of_yes(compiled, temperature):
    log_probs = random_log_probs(1, (50, 7)).astype(np.float64)
    yes, no = log_probs[:, 2], log_probs[:, 4]
    got = compiled(rewards.lc_score)(yes.astype(np.float32), no.astype(np.float32), temperature)
    expected = np.exp(yes) ** (1 / temperature)
    expected /= expected + np.exp(no) ** (1 / temperature)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@either
@pytest.mark.parametrize('temperature', [0.1, 1.0])
def test_lc_score_of_probabilities_is_equation_8_as_printed(compiled, temperature):
    log_probs = random_log_probs(2, (50, 7)).astype(np.float64)
    p_yes, p_no = np.exp(log_probs[:, 2]), np.exp(log_probs[:, 4])
    score = functools.partial(rewards.lc_score, temperature=temperature, form='probabilities')
    got = compiled(score)(jnp.log(p_yes), jnp.log(p_no))
    expected = np.exp(p_yes / temperature)
    expected /= expected + np.exp(p_no / temperature)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_printed_form_cannot_leave_its_narrow_band_and_the_default_can():
    yes, no = jnp.log(jnp.array([1 - 1e-6, 1e-6])), jnp.log(jnp.array([1e-6, 1 - 1e-6]))
    printed = rewards.lc_score(yes, no, form='probabilities')
    np.testing.assert_allclose(printed, [np.e / (1 + np.e), 1 / (1 + np.e)], rtol=1e-5)
    np.testing.assert_allclose(rewards.lc_score(yes, no), [1, 0], atol=1e-5)


def test_default_equals_softmax_over_the_two_logits():
    logits = jnp.array([[3.0, -1.0, 0.5, 7.0]])
    log_probs = jax.nn.log_softmax(logits)
    got = rewards.lc_score(log_probs[:, 0], log_probs[:, 2])
    np.testing.assert_allclose(got, jax.nn.softmax(logits[:, [0, 2]])[:, 0], rtol=1e-6)


def test_certain_answers_stay_finite():
    score = rewards.lc_score(jnp.array([0.0, -1e4]), jnp.array([-1e4, 0.0]))
    np.testing.assert_array_equal(score, [1.0, 0.0])


def test_unknown_form_names_the_nearest():
    with pytest.raises(UserError, match='logits'):
        rewards.lc_score(jnp.zeros(1), jnp.zeros(1), form='logit')


# ------------------------------------------------------------------------------- eq. 9 and 13


@either
def test_lc_reward_by_hand(compiled):
    labels, scores = jnp.array([1, 0, 1, 0]), jnp.array([0.7, 0.7, 1.0, 1.0])
    np.testing.assert_allclose(
        compiled(rewards.lc_reward)(labels, scores), [0.7, 0.3, 1.0, 0.0], rtol=1e-6
    )


@either
def test_ic_reward_by_hand(compiled):
    labels = jnp.array([1, 1, 0, 0])
    scores, without = jnp.array([0.8, 0.4, 0.1, 0.5]), jnp.array([0.6, 0.6, 0.1, 0.2])
    # Towards the label by d earns 2 d, away is neutral, no influence earns the plain reward.
    expected = [0.6 + 0.4, 0.6, 0.9, 0.8]
    np.testing.assert_allclose(
        compiled(rewards.ic_reward)(labels, scores, without), expected, rtol=1e-6
    )


def test_integer_labels_do_not_truncate_the_reward():
    got = rewards.ic_reward(jnp.array([1], jnp.int32), jnp.array([0.7]), jnp.array([0.7]))
    assert got.dtype == jnp.float32 and got[0] == pytest.approx(0.7)


# ------------------------------------------------------------------------------------ eq. 10


@either
def test_normalize_and_clip_equals_numpy(compiled):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = (rng.normal(size=16) * 10 ** rng.uniform(-3, 1) + 0.6).astype(np.float32)
        wide = x.astype(np.float64)
        expected = np.clip((wide - wide.mean()) / wide.std(), -1.0, 1.0)
        got = compiled(rewards.normalize_and_clip)(x, 1.0)
        np.testing.assert_allclose(got, expected, atol=2e-3)
        assert np.max(np.abs(got)) <= 1.0


@pytest.mark.parametrize('value', [0.0, 0.7, 1 / 3, 1e4 + 0.1])
@pytest.mark.parametrize('size', [1, 37])
def test_constant_rewards_and_a_batch_of_one_give_exact_zeros(value, size):
    np.testing.assert_array_equal(rewards.normalize_and_clip(jnp.full(size, value), 1.0), 0)


def test_small_differences_are_scaled_to_one_all_the_same():
    got = rewards.normalize_and_clip(0.5 + 1e-4 * jnp.array([-1.0, 1.0, -1.0, 1.0]), 5.0)
    np.testing.assert_allclose(got, [-1, 1, -1, 1], rtol=0.02)


@either
def test_rows_that_fill_up_the_batch_change_nothing(compiled):
    real = np.random.default_rng(0).random(10).astype(np.float32)
    filled = np.concatenate([real, [np.nan, 1e9]]).astype(np.float32)
    got = compiled(rewards.normalize_and_clip)(filled, 1.0, np.arange(12) < 10)
    np.testing.assert_allclose(got[:10], rewards.normalize_and_clip(real, 1.0), rtol=1e-6)
    np.testing.assert_array_equal(got[10:], 0)


def test_eight_devices_normalise_like_one_and_unlike_each_alone():
    if jax.device_count() < 8:
        pytest.skip('needs eight devices')
    x = np.random.default_rng(1).random(32).astype(np.float32)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))
    normalize = jax.jit(lambda x: rewards.normalize_and_clip(x, 1.0))
    one = normalize(x)
    np.testing.assert_allclose(normalize(sharded), one, rtol=1e-5, atol=1e-6)
    alone = np.concatenate([normalize(part) for part in x.reshape(8, 4)])
    assert np.abs(alone - one).max() > 0.1


# ------------------------------------------------------------------------------- truncation


@either
def test_truncated_response_loses_the_penalty_and_others_nothing(compiled):
    scores, truncated = jnp.array([0.5, -0.5]), jnp.array([True, False])
    got = compiled(rewards.penalize_truncated)(scores, truncated, 1.0)
    np.testing.assert_array_equal(got, [-0.5, -0.5])
    np.testing.assert_array_equal(rewards.penalize_truncated(scores, truncated, 0.0), scores)


def test_centering_by_label_takes_out_what_the_reader_says_whatever_it_reads():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 64).astype(np.float32)
    leaning = np.where(labels == 1, 0.8, 0.2).astype(np.float32)
    np.testing.assert_allclose(rewards.center_by_label(leaning, labels), 0, atol=1e-6)
    effect = random.normal(size=64).astype(np.float32)
    ours = rewards.center_by_label(leaning + effect, labels)
    for label in (0, 1):
        expected = effect[labels == label] - effect[labels == label].mean()
        np.testing.assert_allclose(ours[labels == label], expected, atol=1e-6)
    np.testing.assert_allclose(rewards.center_by_label(effect, np.ones(64)), effect - effect.mean(), atol=1e-6)


# ------------------------------------------------------------------------------------ RecPIE


@either
def test_rating_reward_is_equation_1_of_recpie(compiled):
    random = np.random.default_rng(9)
    ratings, scores = random.random(20).astype(np.float32), random.random(20).astype(np.float32)
    got = compiled(rewards.rating_reward)(ratings, scores)
    np.testing.assert_allclose(got, 1 / (1 + np.abs(ratings.astype(np.float64) - scores)), rtol=1e-6)
    np.testing.assert_allclose(rewards.rating_reward(jnp.array([0.0, 1.0, 0.25]), jnp.array([0.0, 0.0, 0.75])),
                               [1, 1 / 2, 2 / 3], rtol=1e-6)


def test_a_pair_shares_its_reward_or_each_text_is_paid_for_its_difference():
    both, left_out = jnp.array([0.9, 0.5]), jnp.array([[0.6, 0.5], [1.0, 0.2]])  # without pos, without neg
    np.testing.assert_allclose(rewards.pair_credit(both, left_out), [[0.9, 0.5], [0.9, 0.5]])
    np.testing.assert_allclose(rewards.pair_credit(both, left_out, 'leave_one_out'), [[0.3, 0.0], [-0.1, 0.3]], atol=1e-7)
    with pytest.raises(UserError, match='Did you mean "shared"'):
        rewards.pair_credit(both, left_out, 'share')


def test_a_penalty_is_paid_where_it_is_due():
    np.testing.assert_allclose(rewards.penalize(jnp.array([0.5, -0.5]), jnp.array([False, True]), 0.3), [0.5, -0.8])
