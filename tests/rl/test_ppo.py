"""PPO against loops over tokens in NumPy float64, with and without `jit`."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xrec_jax.errors import UserError
from xrec_jax.rl import ppo
from xrec_jax.rl.ppo import PPOConfig

EOS = 7
either = pytest.mark.parametrize('compiled', [lambda f: f, jax.jit], ids=['plain', 'jit'])
BAD = pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])


@dataclasses.dataclass
class Case:
    """A rollout batch with responses of 0 to R tokens, and the policy a few steps later."""

    mask: np.ndarray
    old: np.ndarray  # log-probs
    ref: np.ndarray
    new: np.ndarray
    old_values: np.ndarray
    values: np.ndarray
    entropy: np.ndarray
    scores: np.ndarray

    @property
    def arguments(self):
        return self.old, self.ref, self.old_values, self.scores, self.mask


def case(seed, batch=16, length=6):
    rng = np.random.default_rng(seed)
    shape = (batch, length)

    def normal(scale, base=0.0):
        return (base + scale * rng.normal(size=shape)).astype(np.float32)

    lengths = rng.integers(1, length + 1, size=batch)
    lengths[0], lengths[-1] = 0, length
    old, values = normal(0.5, -2.0), normal(1.0)
    return Case(
        mask=np.arange(length) < lengths[:, None], old=old, ref=normal(0.2, old), new=normal(0.2, old),
        old_values=values, values=normal(0.3, values), entropy=np.abs(normal(1.0)),
        scores=rng.normal(size=batch).astype(np.float32))


def tokens_of(mask):
    """(row, t) of each valid token."""
    return list(zip(*np.nonzero(mask)))


# ------------------------------------------------------------------------------------ generation


@either
@pytest.mark.parametrize('stops', [EOS, (EOS, 3)], ids=['one', 'two'])
def test_response_mask_equals_a_loop(compiled, stops):
    mask_of = compiled(lambda tokens: ppo.response_mask(tokens, stops))
    for seed in range(10):
        tokens = np.random.default_rng(seed).integers(0, 9, size=(12, 8))
        mask, truncated, lengths = mask_of(tokens)
        for row, got, cut, length in zip(tokens, mask, truncated, lengths):
            expected, ended = [], False
            for token in row:
                expected.append(not ended)
                ended = ended or token in np.atleast_1d(stops)
            assert got.tolist() == expected
            assert bool(cut) == (not ended) and int(length) == sum(expected)


def test_eos_at_the_start_and_at_the_end_are_no_truncation():
    tokens = np.array([[EOS, EOS, EOS], [1, 2, EOS], [1, 2, 4], [0, 0, 0]])
    mask, truncated, lengths = ppo.response_mask(tokens, EOS)
    assert lengths.tolist() == [1, 3, 3, 3] and truncated.tolist() == [False, False, True, True]
    assert lengths.dtype == jnp.int32 and mask.dtype == truncated.dtype == bool


# --------------------------------------------------------------------------------------- rollout


@either
@pytest.mark.parametrize('kind', ppo.KL_KINDS)
def test_kl_estimates_average_to_the_exact_kl(compiled, kind):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=12)
    log_p = jax.nn.log_softmax(jnp.asarray(logits))
    log_q = jax.nn.log_softmax(jnp.asarray(logits + 0.3 * rng.normal(size=12)))
    p, q = np.exp(np.asarray(log_p, np.float64)), np.exp(np.asarray(log_q, np.float64))
    exact = sum(p[i] * math.log(p[i] / q[i]) for i in range(12))
    estimate = compiled(lambda a, b: ppo.kl_estimate(a, b, kind))
    # Once as the expectation under pi, once over samples of it.
    np.testing.assert_allclose((p * np.asarray(estimate(log_p, log_q))).sum(), exact, rtol=1e-4)
    drawn = rng.choice(12, size=200_000, p=p / p.sum())
    samples = np.asarray(estimate(log_p[drawn], log_q[drawn]))
    assert abs(samples.mean() - exact) < 5 * samples.std() / math.sqrt(len(samples))
    if kind == 'k3':
        assert samples.min() >= 0
        assert samples.std() < np.asarray(ppo.kl_estimate(log_p[drawn], log_q[drawn], 'k1')).std()


def test_k3_of_nearly_equal_policies_does_not_cancel():
    near = np.float32(1e-3)
    estimate = ppo.kl_estimate(jnp.zeros(1), jnp.full(1, near), 'k3')
    np.testing.assert_allclose(estimate, math.expm1(1e-3) - 1e-3, rtol=1e-3)


def test_unknown_kl_estimator_names_the_known_ones():
    with pytest.raises(UserError, match='"k4".*Known: k1, k3'):
        ppo.kl_estimate(jnp.zeros(1), jnp.zeros(1), 'k4')


def loop_rewards(scores, kl, mask, kl_coef):
    rewards = np.zeros(mask.shape)
    for row in range(mask.shape[0]):
        valid = np.flatnonzero(mask[row])
        for t in valid:
            rewards[row, t] -= kl_coef * float(kl[row, t])
        if len(valid):
            rewards[row, valid[-1]] += float(scores[row])
    return rewards


@either
def test_rewards_equal_a_loop(compiled):
    shape_rewards = compiled(ppo.shape_rewards)
    for seed in range(5):
        data = case(seed)
        kl = data.old - data.ref
        np.testing.assert_allclose(shape_rewards(data.scores, kl, data.mask, 0.3),
                                   loop_rewards(data.scores, kl, data.mask, 0.3), rtol=1e-6, atol=1e-6)


def test_score_is_paid_on_the_last_token_of_truncated_responses_too():
    tokens = np.array([[1, EOS, 5], [1, 2, 3], [EOS, EOS, EOS]])
    mask, truncated, _ = ppo.response_mask(tokens, EOS)
    assert truncated.tolist() == [False, True, False]
    rewards = ppo.shape_rewards(jnp.array([0.7, 0.9, -0.5]), jnp.zeros((3, 3)), mask, 0.1)
    np.testing.assert_allclose(rewards, [[0, 0.7, 0], [0, 0, 0.9], [-0.5, 0, 0]])


def test_integer_scores_and_an_empty_response():
    rewards = ppo.shape_rewards(jnp.array([2, 3]), jnp.full((2, 2), 0.5),
                                np.array([[1, 0], [0, 0]]), 0.1)
    np.testing.assert_allclose(rewards, [[1.95, 0], [0, 0]])


def test_summed_rewards_are_equation_7():
    data = case(3)
    rewards = ppo.shape_rewards(data.scores, data.old - data.ref, data.mask, 0.2)
    for row in range(1, len(data.mask)):
        n = data.mask[row].sum()
        expected = data.scores[row] - 0.2 * (data.old[row, :n].sum() - data.ref[row, :n].sum())
        np.testing.assert_allclose(rewards[row].sum(), expected, rtol=1e-4, atol=1e-5)


def loop_gae(rewards, values, mask, gamma, lam):
    advantages, returns = np.zeros(mask.shape), np.zeros(mask.shape)
    for row in range(mask.shape[0]):
        valid = np.flatnonzero(mask[row])
        for at, t in enumerate(valid):  # the definition: a discounted sum of later errors
            for ahead, u in enumerate(valid[at:]):
                behind = at + ahead + 1
                value_after = float(values[row, valid[behind]]) if behind < len(valid) else 0.0
                delta = float(rewards[row, u]) + gamma * value_after - float(values[row, u])
                advantages[row, t] += (gamma * lam) ** ahead * delta
            returns[row, t] = advantages[row, t] + float(values[row, t])
    return advantages, returns


@pytest.mark.parametrize('gamma, lam', [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
@either
def test_gae_equals_its_definition(compiled, gamma, lam):
    gae = functools.partial(compiled(ppo.gae), gamma=gamma, lam=lam)
    for seed in range(3):
        data = case(seed)
        holes = data.mask & (np.random.default_rng(seed).random(data.mask.shape) < 0.8)
        for mask in (data.mask, holes):
            advantages, returns = gae(data.new, data.values, mask)
            expected = loop_gae(data.new, data.values, mask, gamma, lam)
            np.testing.assert_allclose(advantages, expected[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(returns, expected[1], rtol=1e-5, atol=1e-5)


def test_gae_of_lambda_one_is_return_minus_value():
    data = case(2)
    advantages, returns = ppo.gae(data.new, data.values, data.mask, 1.0, 1.0)
    to_go = np.cumsum(np.where(data.mask, data.new, 0)[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(returns, np.where(data.mask, to_go, 0), atol=1e-5)
    np.testing.assert_allclose(advantages, np.where(data.mask, to_go - data.values, 0), atol=1e-5)


def test_explained_variance():
    returns = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    mask = np.ones(returns.shape, bool)
    mask[0, 3:] = False
    np.testing.assert_allclose(ppo.explained_variance(returns + 3, returns, mask), 1, atol=1e-6)
    np.testing.assert_allclose(ppo.explained_variance(0 * returns, returns, mask), 0, atol=1e-6)
    np.testing.assert_allclose(ppo.explained_variance(-returns, returns, mask), -3, atol=1e-5)
    assert ppo.explained_variance(returns, np.full_like(returns, 2), mask) == 0


@pytest.mark.parametrize('whiten_rewards', [False, True])
def test_rollout_equals_its_parts_in_float64(whiten_rewards):
    config = PPOConfig(gamma=0.98, lam=0.9, whiten_rewards=whiten_rewards)
    make = jax.jit(lambda *arrays: ppo.make_rollout(*arrays, 0.2, config))
    data = case(4)
    rollout, metrics = make(*data.arguments)
    mask, log_r = data.mask, data.ref.astype(np.float64) - data.old
    rewards = loop_rewards(data.scores, -log_r, mask, 0.2)
    if whiten_rewards:
        rewards = np.where(mask, (rewards - rewards[mask].mean()) / rewards[mask].std()
                           + rewards[mask].mean(), 0)
    advantages, returns = loop_gae(rewards, data.old_values, mask, 0.98, 0.9)
    white = np.where(mask, (advantages - advantages[mask].mean()) / advantages[mask].std(), 0)
    np.testing.assert_allclose(rollout.advantages, white, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rollout.returns, returns, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rollout.log_probs, np.where(mask, data.old, 0))
    real = mask.any(axis=1)
    expected = {
        'kl_k1': -log_r[mask].mean(),
        'kl_k3': (np.expm1(log_r) - log_r)[mask].mean(),
        'kl_response': np.where(mask, -log_r, 0).sum(axis=1)[real].mean(),
        'value_explained_variance': 1 - (returns - data.old_values)[mask].var() / returns[mask].var(),
        'return_mean': returns[mask].mean(),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


# ---------------------------------------------------------------------------------------- losses


def loop_policy(new, old, advantages, mask, clip):
    loss, gradient, clipped, kl, ratios = 0.0, np.zeros(mask.shape), 0, 0.0, []
    for at in tokens_of(mask):
        ratio, advantage = math.exp(float(new[at]) - float(old[at])), float(advantages[at])
        near = min(max(ratio, 1 - clip), 1 + clip)
        loss -= min(ratio * advantage, near * advantage)
        if near * advantage < ratio * advantage:
            clipped += 1
        else:
            gradient[at] = -ratio * advantage
        log_ratio = float(new[at]) - float(old[at])
        kl += math.exp(log_ratio) - 1 - log_ratio
        ratios.append(ratio)
    return loss, gradient, {'clip_fraction': clipped, 'approx_kl': kl, 'ratio_min': min(ratios),
                            'ratio_max': max(ratios)}


def test_policy_loss_and_its_gradient_equal_a_loop():
    @jax.jit
    def both(new, old, advantages, mask):
        def loss(new):
            total, count, metrics = ppo.policy_loss(new, old, advantages, mask, 0.15)
            return total, (count, metrics)
        return jax.value_and_grad(loss, has_aux=True)(new)

    for seed in range(5):
        data = case(seed)
        (loss, (count, metrics)), gradient = both(data.new, data.old, data.values, data.mask)
        expected = loop_policy(data.new, data.old, data.values, data.mask, 0.15)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-5)
        assert count == data.mask.sum() and metrics['clip_fraction'] > 0
        for name, value in expected[2].items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def loop_value(values, old, returns, mask, clip):
    loss, gradient, clipped = 0.0, np.zeros(mask.shape), 0
    for at in tokens_of(mask):
        value, before, goal = float(values[at]), float(old[at]), float(returns[at])
        near = value if clip is None else before + min(max(value - before, -clip), clip)
        loss += 0.5 * max((value - goal) ** 2, (near - goal) ** 2)
        if (near - goal) ** 2 > (value - goal) ** 2:
            clipped += 1
        else:
            gradient[at] = value - goal
    return loss, gradient, clipped


@pytest.mark.parametrize('clip', [0.2, None])
def test_value_loss_and_its_gradient_equal_a_loop(clip):
    @jax.jit
    def both(values, old, returns, mask):
        def loss(values):
            total, count, metrics = ppo.value_loss(values, old, returns, mask, clip)
            return total, (count, metrics)
        return jax.value_and_grad(loss, has_aux=True)(values)

    for seed in range(5):
        data = case(seed)
        returns = data.values + data.old + 2
        (loss, (count, metrics)), gradient = both(data.values, data.old_values, returns, data.mask)
        expected = loop_value(data.values, data.old_values, returns, data.mask, clip)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-4)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-5)
        assert count == data.mask.sum() and metrics['value_clip_fraction'] == expected[2]
        assert (expected[2] > 0) == (clip is not None)


def test_values_that_stay_in_range_are_not_counted_as_clipped():
    """Rounding of V_old + (V - V_old) would count up to a fifth of them."""
    rng = np.random.default_rng(0)
    old, new, off = (rng.normal(size=(64, 32)).astype(np.float32) for _ in range(3))
    values = np.clip(0.05 * new, 0.05 * old - 0.19, 0.05 * old + 0.19)
    metrics = jax.jit(lambda *arrays: ppo.value_loss(*arrays, 0.2)[2])(
        values, 0.05 * old, values + 1e-3 * off, np.ones(old.shape, bool))
    assert metrics['value_clip_fraction'] == 0


def test_old_policy_advantages_and_returns_get_no_gradient():
    data = case(0)
    wrt_old = jax.grad(lambda old, adv: ppo.policy_loss(data.new, old, adv, data.mask, 0.2)[0], (0, 1))
    wrt_goal = jax.grad(lambda old, goal: ppo.value_loss(data.values, old, goal, data.mask, 0.2)[0], (0, 1))
    for gradient in (*wrt_old(data.old, data.values), *wrt_goal(data.old_values, data.old)):
        assert not np.asarray(gradient).any()


def test_entropy_equals_a_loop_and_impossible_tokens_are_no_nan():
    logits = np.random.default_rng(0).normal(size=(3, 4, 7)).astype(np.float32) * 3
    logits[0, :, 2:] = -np.inf
    logits[1, 1, 1:] = -np.inf  # certain
    entropy = jax.jit(ppo.entropy_from_logits)(logits)
    for at in np.ndindex(3, 4):
        weights = [math.exp(float(x)) for x in logits[at]]
        probs = [w / sum(weights) for w in weights if w > 0]
        np.testing.assert_allclose(entropy[at], -sum(p * math.log(p) for p in probs), rtol=1e-4, atol=1e-6)
    assert entropy[1, 1] == 0
    gradient = jax.jit(jax.grad(lambda x: ppo.entropy_from_logits(x).sum()))(logits)
    assert np.isfinite(gradient).all()
    for at in np.ndindex(3, 4):  # dH/dx_i = -p_i (log p_i + H)
        p = np.exp(logits[at].astype(np.float64))
        p /= p.sum()
        h = -sum(x * math.log(x) for x in p if x > 0)
        expected = [-x * (math.log(x) + h) if x > 0 else 0 for x in p]
        np.testing.assert_allclose(gradient[at], expected, rtol=1e-3, atol=1e-5)


CONFIG = PPOConfig(entropy_coef=0.02, kl_loss_coef=0.05)


@jax.jit
def loss_and_gradient(new, values, entropy, rollout):
    def loss(new, values, entropy):
        total, count, metrics = ppo.ppo_loss(new, values, entropy, rollout, CONFIG)
        return total, (count, metrics)
    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(new, values, entropy)


@jax.jit
def rollout_of(*arguments):
    return ppo.make_rollout(*arguments, 0.1, CONFIG)


def test_loss_is_the_weighted_sum_of_its_parts():
    data = case(1)
    rollout, _ = rollout_of(*data.arguments)
    (loss, (count, metrics)), _ = loss_and_gradient(data.new, data.values, data.entropy, rollout)
    mask = data.mask
    policy = loop_policy(data.new, data.old, rollout.advantages, mask, 0.2)[0]
    value = loop_value(data.values, data.old_values, rollout.returns, mask, 0.2)[0]
    log_r = (data.ref.astype(np.float64) - data.new)[mask]
    k3, entropy = (np.exp(log_r) - 1 - log_r).sum(), data.entropy[mask].sum()
    np.testing.assert_allclose(loss, policy + 0.1 * value - 0.02 * entropy + 0.05 * k3, rtol=1e-4)
    expected = {'policy_loss': policy, 'value_loss': value, 'entropy': entropy, 'kl_k3': k3,
                'kl_k1': -log_r.sum(), 'loss': loss}
    for name, number in expected.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-4, atol=1e-4, err_msg=name)
    assert count == mask.sum()


@BAD
def test_what_is_masked_never_reaches_rollout_loss_or_gradient(bad):
    data = case(1)
    clean, clean_metrics = rollout_of(*data.arguments)
    spoil = lambda x: np.where(data.mask, x, np.float32(bad))
    rollout, metrics = rollout_of(spoil(data.old), spoil(data.ref), spoil(data.old_values), data.scores,
                                  data.mask)
    jax.tree.map(np.testing.assert_array_equal, (rollout, metrics), (clean, clean_metrics))

    spoilt = dataclasses.replace(rollout, **{
        name: spoil(getattr(rollout, name))
        for name in ('log_probs', 'ref_log_probs', 'values', 'advantages', 'returns')})
    reference = loss_and_gradient(data.new, data.values, data.entropy, clean)
    result = loss_and_gradient(spoil(data.new), spoil(data.values), spoil(data.entropy), spoilt)
    jax.tree.map(np.testing.assert_array_equal, result, reference)
    for gradient in result[1]:
        assert np.isfinite(gradient).all() and not np.asarray(gradient)[~data.mask].any()


def test_first_minibatch_has_ratio_exactly_one():
    data = case(5)
    rollout, _ = rollout_of(*data.arguments)
    rollout = dataclasses.replace(rollout, ref_log_probs=rollout.log_probs)
    (_, (_, metrics)), (gradient, _, _) = loss_and_gradient(
        data.old, data.old_values, data.entropy, rollout)
    assert metrics['ratio_min'] == metrics['ratio_max'] == 1
    for name in ('approx_kl', 'clip_fraction', 'value_clip_fraction', 'kl_k3'):
        assert metrics[name] == 0, name
    np.testing.assert_allclose(gradient, -np.asarray(rollout.advantages), rtol=1e-6, atol=1e-7)


def test_sum_over_microbatches_is_the_whole_batch_and_the_mean_of_means_is_not():
    data = case(6)
    rollout, _ = rollout_of(*data.arguments)
    whole = (data.new, data.values, data.entropy, rollout)
    (loss, (count, metrics)), gradient = loss_and_gradient(*whole)

    cut = jax.tree.map(lambda x: jnp.asarray(x).reshape(4, 4, *x.shape[1:]), whole)
    _, ((losses, (counts, parts)), gradients) = jax.lax.scan(
        lambda _, micro: (None, loss_and_gradient(*micro)), None, cut)
    np.testing.assert_allclose(losses.sum() / counts.sum(), loss / count, rtol=1e-5)
    for part, full in zip(gradients, gradient):
        np.testing.assert_allclose(part.reshape(full.shape), full, rtol=1e-5, atol=1e-7)
    assert abs((losses / counts).mean() - loss / count) > 1e-3

    ours, reference = ppo.summarize_metrics(parts, counts), ppo.summarize_metrics(metrics, count)
    assert set(ours) == set(reference)
    for name in ours:
        np.testing.assert_allclose(ours[name], reference[name], rtol=1e-5, atol=1e-6, err_msg=name)


# ---------------------------------------------------------------------------------- after update


def test_summary_is_means_per_token_and_extremes():
    metrics = {'loss': jnp.array([[2.0, 4.0], [0.0, 6.0]]),
               'ratio_min': jnp.array([[0.9, 0.8], [jnp.inf, 1.0]]),
               'ratio_max': jnp.array([[1.1, 1.0], [-jnp.inf, 1.4]])}
    summary = ppo.summarize_metrics(metrics, jnp.array([[3, 1], [0, 4]]))
    np.testing.assert_allclose(summary['loss'], 12 / 8)
    np.testing.assert_allclose([summary['ratio_min'], summary['ratio_max']], [0.8, 1.4])


def test_summary_of_no_tokens_is_finite():
    nothing = np.zeros((4, 3), bool)
    _, count, metrics = ppo.policy_loss(*np.zeros((3, 4, 3), np.float32), nothing, 0.2)
    summary = ppo.summarize_metrics(metrics, count)
    assert summary == {'clip_fraction': 0, 'approx_kl': 0, 'ratio_min': 1, 'ratio_max': 1}


@pytest.mark.parametrize('kl, error', [(6.0, 0), (6.6, 0.1), (60.0, 0.2), (0.0, -0.2), (-3.0, -0.2)])
@either
def test_adaptive_kl_by_hand(compiled, kl, error):
    expected = 0.1 * (1 + error * 32 / 100)
    step = compiled(lambda kl: ppo.adaptive_kl(0.1, kl, target=6.0, horizon=100, n=32))
    np.testing.assert_allclose(step(kl), expected, rtol=1e-5)


def test_adaptive_kl_steers_towards_its_target():
    coefficient = 0.01
    for _ in range(400):
        kl = 2 / (1 + 10 * coefficient)  # falls as the coefficient grows
        coefficient = float(ppo.adaptive_kl(coefficient, kl, target=0.5, horizon=1000, n=256))
    np.testing.assert_allclose(kl, 0.5, rtol=1e-2)


def test_eight_devices_make_rollout_and_loss_like_one():
    if jax.device_count() < 8:
        pytest.skip('needs eight devices')
    data = case(8)
    over_batch = NamedSharding(jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,)),
                               PartitionSpec('data'))

    @jax.jit
    def everything(arguments, new, values, entropy):
        rollout, metrics = rollout_of(*arguments)
        return rollout, metrics, loss_and_gradient(new, values, entropy, rollout)

    inputs = (data.arguments, data.new, data.values, data.entropy)
    sharded = jax.device_put(inputs, over_batch)
    assert len(sharded[1].addressable_shards) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                 everything(*sharded), everything(*inputs))
