"""Proximal policy optimisation for a language model, as functions of arrays.

The way through, in the order of the file:

1. After generation:  `response_mask` cuts each response after its first EOS.
2. Rollout, no gradient:  `make_rollout` = `kl_estimate` (k1) -> `shape_rewards` -> `gae` ->
   `whiten`; its `Rollout` is cut into minibatches along `B`.
3. Each microbatch, with gradient:  `ppo_loss` = `policy_loss` + `value_loss` + entropy bonus. All
   losses come as (sum, count): add gradients of the sums and the counts over microbatches, divide
   once. The mean of microbatch means would be another loss, since responses differ in length.
4. After the update:  `summarize_metrics`, and `adaptive_kl` where that is chosen.

Conventions: `B` rollouts, `R` response tokens. Position t of every [B, R] array belongs to response
token t: its log-prob given what came before it, and the value of the state *before* it (both are
read from the hidden state one position earlier). The mask includes the EOS token; the episode ends
with the last response token, truncated or not, and the value after it is 0. (Codes that pay the
score one position after EOS need a value mask one token longer; here one mask serves both.)
All log-probs are at the rollout's temperature, untouched by top-k and top-p; then the first
minibatch's ratio is exactly 1. What lies behind the mask may be anything, NaN included.

For the optimiser around it: Adam's epsilon is 1e-5, not 1e-8 (Huang et al., 2022, "The 37
implementation details of PPO"), and a warm-up, since LoRA's B is zero at first and Adam's first
step is a sign step.
"""

import dataclasses
from collections.abc import Sequence

import chex
import flax.struct
import jax
from jax import numpy as jnp

from xrec_jax.errors import UserError, nearest
from xrec_jax.rl.masked import masked_mean, masked_var, whiten

KL_KINDS = ('k1', 'k3')
Metrics = dict[str, chex.Array]


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Settings of `make_rollout` and `ppo_loss`; hashable, so it can be a static argument.

    Any object with these attributes will do, an ml_collections.ConfigDict for one.
    """

    # Discount. 1: the score at the end counts in full at every token (Ziegler et al., 2019).
    gamma: float = 1.0
    # GAE's trade between bias (0) and variance (1); Schulman et al., 2016, arXiv:1506.02438.
    lam: float = 0.95
    # Scale per-token rewards to unit variance, keeping their mean, before GAE. Off: scores are
    # already normalised (ExpCTR eq. 10), and whitening would undo the balance with kl_coef.
    whiten_rewards: bool = False
    # Ratio may move this far from 1 before the gradient stops; Schulman et al., 2017, eq. 7.
    clip_range: float = 0.2
    # The same for values around those of the rollout, absolute; None: no clipping.
    value_clip_range: float | None = 0.2
    # Weight of the value loss; 0.1 where policy and value share a body, as in TRL and OpenAI's lm.
    value_coef: float = 0.1
    # Weight of the entropy bonus.
    entropy_coef: float = 0.0
    # Weight of KL (k3) to the reference as a loss term, beside or instead of the one in the reward.
    kl_loss_coef: float = 0.0


@flax.struct.dataclass
class Rollout:
    """What the update needs of a batch of responses; all [B, R], frozen, a pytree."""

    log_probs: chex.Array  # of the policy that wrote them
    ref_log_probs: chex.Array  # of the reference policy
    values: chex.Array  # of the value head at the time of writing
    advantages: chex.Array  # whitened over the whole batch
    returns: chex.Array  # unwhitened advantages + values
    mask: chex.Array  # bool: response tokens, EOS included


# ------------------------------------------------------------------------------------ generation


def response_mask(
    tokens: chex.Array, eos_id: int | Sequence[int]
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Returns which tokens belong to each response: those up to and including the first EOS.

    tokens: int [B, R], whatever follows the first EOS. eos_id: one stop token or several.
    Result: mask bool [B, R]; truncated bool [B], no EOS among the R tokens; lengths int32 [B].
    From the first EOS and never from `tokens != pad`, since pad often equals EOS. An EOS at
    index 0 is a response of length 1, not a truncated one.
    """
    chex.assert_rank(tokens, 2)
    is_eos = jnp.isin(tokens, jnp.atleast_1d(jnp.asarray(eos_id))).astype(jnp.int32)
    eos_before = jnp.cumsum(is_eos, axis=1) - is_eos
    mask = eos_before == 0
    return mask, ~jnp.any(is_eos, axis=1), jnp.sum(mask, axis=1, dtype=jnp.int32)


# --------------------------------------------------------------------------------------- rollout


def kl_estimate(log_probs: chex.Array, ref_log_probs: chex.Array, kind: str = 'k1') -> chex.Array:
    """Returns a per-sample estimate of KL(pi || ref) for samples of pi, float32, same shape.

    log_probs, ref_log_probs: equal shape. With log r = log ref - log pi (Schulman, 2020,
    "Approximating KL divergence", http://joschu.net/blog/kl-approx.html):
    k1 = -log r, unbiased, of either sign; used in the reward, whose expectation is ExpCTR eq. 7.
    k3 = expm1(log r) - log r, unbiased, never negative, of lower variance than k1 while the two
    policies are close; used as a loss term.
    Unmasked: callers mask.
    """
    chex.assert_equal_shape([log_probs, ref_log_probs])
    log_r = ref_log_probs.astype(jnp.float32) - log_probs.astype(jnp.float32)
    if kind == 'k1':
        return -log_r
    if kind == 'k3':
        return jnp.expm1(log_r) - log_r
    raise UserError(f'unknown KL estimator "{kind}".{nearest(kind, KL_KINDS)}')


def shape_rewards(
    scores: chex.Array, kl: chex.Array, mask: chex.Array, kl_coef: chex.Numeric
) -> chex.Array:
    """Returns per-token rewards: -kl_coef * KL, plus the score on the last response token.

    scores: [B], of whole responses. kl: [B, R], from `kl_estimate`. mask: [B, R].
    Result: float32 [B, R], 0 where masked; a row with an empty mask gets nothing. Summed over a
    response it is ExpCTR eq. 7 (the form of InstructGPT, Ouyang et al., 2022). A truncated
    response gets its score on its last token too; to lower it see `rewards.penalize_truncated`.
    """
    chex.assert_rank([scores, kl, mask], [1, 2, 2])
    chex.assert_equal_shape([kl, mask])
    chex.assert_equal_shape_prefix([scores, kl], 1)
    mask = mask.astype(bool)
    valid_from_here = jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
    is_last = mask & (valid_from_here == 1)
    # In float from the start: an integer array of zeros would truncate a score of 0.7 to 0.
    penalty = jnp.where(mask, -kl_coef * kl.astype(jnp.float32), 0.0)
    return penalty + jnp.where(is_last, scores.astype(jnp.float32)[:, None], 0.0)


def gae(
    rewards: chex.Array,
    values: chex.Array,
    mask: chex.Array,
    gamma: chex.Numeric,
    lam: chex.Numeric,
) -> tuple[chex.Array, chex.Array]:
    """Returns generalised advantage estimates and returns (Schulman et al., 2016, eq. 16).

    rewards, values, mask: [B, R]; values[:, t] is V of the state before token t.
    Result: advantages, returns = advantages + values, float32 [B, R], 0 where masked, unwhitened:
        delta_t = r_t + gamma * V_{t+1} - V_t,   A_t = delta_t + gamma * lam * A_{t+1}
    with V and A zero after the last response token: the episode ends there. A masked token within
    a response is stepped over as if it were not there.
    """
    chex.assert_rank([rewards, values, mask], 2)
    chex.assert_equal_shape([rewards, values, mask])
    mask = mask.astype(bool)
    rewards = jnp.where(mask, rewards.astype(jnp.float32), 0.0)
    values = jnp.where(mask, values.astype(jnp.float32), 0.0)

    def step(later, now):
        later_value, later_advantage = later
        reward, value, valid = now
        advantage = reward + gamma * later_value - value + gamma * lam * later_advantage
        later = (
            jnp.where(valid, value, later_value),
            jnp.where(valid, advantage, later_advantage),
        )
        return later, jnp.where(valid, advantage, 0.0)

    end = jnp.zeros_like(values[:, 0])
    _, advantages = jax.lax.scan(step, (end, end), (rewards.T, values.T, mask.T), reverse=True)
    advantages = advantages.T
    return advantages, advantages + values


def explained_variance(values: chex.Array, returns: chex.Array, mask: chex.Array) -> chex.Array:
    """Returns 1 - Var(returns - values) / Var(returns) over valid tokens, a float32 scalar.

    values, returns, mask: [B, R]. 1: perfect, 0: no better than a constant, below 0: worse.
    0 where the returns do not vary.
    """
    chex.assert_equal_shape([values, returns, mask])
    variance = masked_var(returns, mask)
    residual = masked_var(returns.astype(jnp.float32) - values.astype(jnp.float32), mask)
    return jnp.where(variance > 0, 1.0 - residual / jnp.where(variance > 0, variance, 1.0), 0.0)


def make_rollout(
    log_probs: chex.Array,
    ref_log_probs: chex.Array,
    values: chex.Array,
    scores: chex.Array,
    mask: chex.Array,
    kl_coef: chex.Numeric,
    config: PPOConfig,
) -> tuple[Rollout, Metrics]:
    """Returns the `Rollout` of a whole rollout batch, and its metrics as scalars.

    log_probs, ref_log_probs, values, mask: [B, R]. scores: [B], normalised.
    KL is k1 in the reward. Advantages are whitened after GAE, over all valid tokens of the batch
    (not of a minibatch); returns come from the unwhitened ones.
    Metrics: kl_k1 and kl_k3, means per token; kl_response, mean over responses of the summed k1,
    which is what `adaptive_kl` steers; value_explained_variance; return_mean.
    """
    mask = mask.astype(bool)
    kl = kl_estimate(log_probs, ref_log_probs, 'k1')
    rewards = shape_rewards(scores, kl, mask, kl_coef)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
    rollout = Rollout(
        log_probs=jnp.where(mask, log_probs.astype(jnp.float32), 0.0),
        ref_log_probs=jnp.where(mask, ref_log_probs.astype(jnp.float32), 0.0),
        values=jnp.where(mask, values.astype(jnp.float32), 0.0),
        advantages=whiten(advantages, mask),
        returns=returns,
        mask=mask,
    )
    kl_of_response = jnp.sum(jnp.where(mask, kl, 0.0), axis=1)
    metrics = {
        'kl_k1': masked_mean(kl, mask),
        'kl_k3': masked_mean(kl_estimate(log_probs, ref_log_probs, 'k3'), mask),
        'kl_response': masked_mean(kl_of_response, jnp.any(mask, axis=1)),
        'value_explained_variance': explained_variance(values, returns, mask),
        'return_mean': masked_mean(returns, mask),
    }
    return rollout, metrics


# ---------------------------------------------------------------------------------------- losses


def policy_loss(
    log_probs: chex.Array,
    old_log_probs: chex.Array,
    advantages: chex.Array,
    mask: chex.Array,
    clip_range: chex.Numeric,
) -> tuple[chex.Array, chex.Array, Metrics]:
    """Returns the clipped surrogate, negated and summed (Schulman et al., 2017, eq. 7).

    log_probs (with gradient), old_log_probs, advantages, mask: [B, R].
    Result: sum over valid tokens of -min(r A, clip(r, 1 - clip_range, 1 + clip_range) A) with
    r = exp(log_probs - old_log_probs); the number of valid tokens; metrics, each a sum over tokens
    but for extremes (see `summarize_metrics`): clip_fraction, tokens whose gradient the clip
    stops (the clipped term is the smaller one, not merely r out of range); approx_kl, k3 of old
    against new; ratio_min, ratio_max.
    Masked tokens get the same log-prob on both sides before the exponential, so nothing there
    reaches the loss, the gradient or the metrics.
    """
    chex.assert_rank([log_probs, old_log_probs, advantages, mask], 2)
    chex.assert_equal_shape([log_probs, old_log_probs, advantages, mask])
    mask = mask.astype(bool)
    new = jnp.where(mask, log_probs.astype(jnp.float32), 0.0)
    old = jnp.where(mask, jax.lax.stop_gradient(old_log_probs).astype(jnp.float32), 0.0)
    advantages = jax.lax.stop_gradient(advantages).astype(jnp.float32)
    advantages = jnp.where(mask, advantages, 0.0)
    ratio = jnp.exp(new - old)
    unclipped = -ratio * advantages
    clipped = -jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range) * advantages
    metrics = {
        'clip_fraction': _sum(clipped > unclipped, mask),
        'approx_kl': _sum(kl_estimate(old, new, 'k3'), mask),
        'ratio_min': jnp.min(ratio, where=mask, initial=jnp.inf),
        'ratio_max': jnp.max(ratio, where=mask, initial=-jnp.inf),
    }
    return _sum(jnp.maximum(unclipped, clipped), mask), _count(mask), _stopped(metrics)


def value_loss(
    values: chex.Array,
    old_values: chex.Array,
    returns: chex.Array,
    mask: chex.Array,
    clip_range: chex.Numeric | None,
) -> tuple[chex.Array, chex.Array, Metrics]:
    """Returns the clipped value loss, summed: half the larger of clipped and unclipped error.

    values (with gradient), old_values, returns, mask: [B, R]. clip_range: absolute, None: off.
    Result: sum over valid tokens of
        1/2 max((V - G)^2, (V_old + clip(V - V_old, -clip_range, clip_range) - G)^2);
    the number of valid tokens; metrics: value_clip_fraction, tokens where the clipped error is the
    larger one, as a sum. The form of OpenAI's baselines and TRL, a pessimistic bound: a value
    that has moved further than clip_range towards its return gets no more gradient.
    """
    chex.assert_rank([values, old_values, returns, mask], 2)
    chex.assert_equal_shape([values, old_values, returns, mask])
    mask = mask.astype(bool)
    values = jnp.where(mask, values.astype(jnp.float32), 0.0)
    old_values = jnp.where(mask, jax.lax.stop_gradient(old_values).astype(jnp.float32), 0.0)
    returns = jnp.where(mask, jax.lax.stop_gradient(returns).astype(jnp.float32), 0.0)
    unclipped = clipped = (values - returns) ** 2
    if clip_range is not None:
        # Not V_old + clip(V - V_old): its rounding would count as clipping where there is none.
        near = jnp.clip(values, old_values - clip_range, old_values + clip_range)
        clipped = (near - returns) ** 2
    metrics = {'value_clip_fraction': _sum(clipped > unclipped, mask)}
    return 0.5 * _sum(jnp.maximum(unclipped, clipped), mask), _count(mask), _stopped(metrics)


def entropy_from_logits(logits: chex.Array) -> chex.Array:
    """Returns the entropy in nats of softmax(logits) over the last axis: [..., V] -> [...].

    In float32. Logits of -inf are tokens of probability 0, with no NaN in value or gradient.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    possible = jnp.isfinite(log_p)
    return -jnp.sum(jnp.where(possible, jnp.exp(log_p), 0.0) * jnp.where(possible, log_p, 0.0), -1)


def ppo_loss(
    log_probs: chex.Array,
    values: chex.Array,
    entropy: chex.Array,
    rollout: Rollout,
    config: PPOConfig,
) -> tuple[chex.Array, chex.Array, Metrics]:
    """Returns the whole loss of one microbatch as (sum, count, metrics).

    log_probs, values, entropy: [B, R], of the policy being trained, with gradient; rollout: the
    same rows. Sum over valid tokens of
        policy + value_coef * value - entropy_coef * entropy + kl_loss_coef * k3(pi, reference).
    Metrics: those of `policy_loss` and `value_loss`, and loss, policy_loss, value_loss, entropy,
    kl_k1, kl_k3 against the reference; sums but for the extremes, for `summarize_metrics`.
    """
    chex.assert_rank([log_probs, values, entropy], 2)
    chex.assert_equal_shape([log_probs, values, entropy, rollout.mask])
    mask = rollout.mask.astype(bool)
    policy, count, policy_metrics = policy_loss(
        log_probs, rollout.log_probs, rollout.advantages, mask, config.clip_range
    )
    value, _, value_metrics = value_loss(
        values, rollout.values, rollout.returns, mask, config.value_clip_range
    )
    # Masked on both sides before the estimate: its gradient must not meet what lies there.
    new = jnp.where(mask, log_probs.astype(jnp.float32), 0.0)
    ref = jnp.where(mask, jax.lax.stop_gradient(rollout.ref_log_probs).astype(jnp.float32), 0.0)
    kl_k3 = _sum(kl_estimate(new, ref, 'k3'), mask)
    entropy = _sum(entropy, mask)
    loss = policy + config.value_coef * value
    loss += config.kl_loss_coef * kl_k3 - config.entropy_coef * entropy
    metrics = {
        'loss': loss,
        'policy_loss': policy,
        'value_loss': value,
        'entropy': entropy,
        'kl_k1': _sum(kl_estimate(new, ref, 'k1'), mask),
        'kl_k3': kl_k3,
        **policy_metrics,
        **value_metrics,
    }
    return loss, count, _stopped(metrics)


# ---------------------------------------------------------------------------------- after update


def summarize_metrics(metrics: Metrics, count: chex.Array) -> Metrics:
    """Returns metrics of many microbatches, as `lax.scan` stacks them, as scalars.

    metrics: of `ppo_loss`, `policy_loss` or `value_loss`, with any equal leading axes (none, too).
    count: their counts, same axes. Names that end in _min or _max are extremes; all others are
    sums and become means per valid token. With no valid token at all: 0, and 1 for extremes.
    """
    total = jnp.sum(count)
    summary = {}
    for name, value in metrics.items():
        chex.assert_equal_shape([value, count])
        if name.endswith('_min'):
            summary[name] = jnp.where(total > 0, jnp.min(value), 1.0)
        elif name.endswith('_max'):
            summary[name] = jnp.where(total > 0, jnp.max(value), 1.0)
        else:
            summary[name] = jnp.sum(value) / jnp.maximum(total, 1)
    return summary


def adaptive_kl(
    kl_coef: chex.Numeric,
    kl: chex.Numeric,
    target: chex.Numeric,
    horizon: chex.Numeric,
    n: chex.Numeric,
) -> chex.Array:
    """Returns the KL coefficient for the next rollout (Ziegler et al., 2019, section 2.2).

    beta <- beta * (1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon), a float32 scalar.
    kl: mean KL of a response (`kl_response` of `make_rollout`), target: the wished one, same
    unit. n: episodes (responses) since the last call, horizon: in episodes.
    """
    error = jnp.clip(jnp.asarray(kl, jnp.float32) / target - 1.0, -0.2, 0.2)
    return jnp.asarray(kl_coef, jnp.float32) * (1.0 + error * n / horizon)


def _sum(x: chex.Array, mask: chex.Array) -> chex.Array:
    return jnp.sum(jnp.where(mask, x.astype(jnp.float32), 0.0))


def _count(mask: chex.Array) -> chex.Array:
    return jnp.sum(mask.astype(jnp.float32))


def _stopped(metrics: Metrics) -> Metrics:
    return jax.tree.map(jax.lax.stop_gradient, metrics)
