"""ExpCTR's rewards (its section 4.2) and RecPIE's, as functions of arrays over `B`.

Source: Yu, Zhang, Chen, "Explainable CTR Prediction via LLM Reasoning"; equation numbers are its, but for
those of `rating_reward` and `pair_credit`: Wang, Li, Chen, "Can Explanations Improve Recommendations?" (RecPIE).

LC, the language model as scorer: after reading the explanation, does it answer Yes to items the
user liked?
    log-probs of the answers -> lc_score (eq. 8) -> lc_reward (eq. 9)
IC, the CTR model as scorer: does it predict better with the explanation, and does it listen?
    ic_reward (eq. 13)
Rating, RecPIE: how near is the rating network to the rating, with the explanations?
    rating_reward (its eq. 1) -> pair_credit, of a positive and a negative text
Either way, then: center_by_label (an option) -> normalize_and_clip (eq. 10)
`penalize_truncated` lowers the score of responses without an end-of-sequence token.

Rewards carry no gradient by use: PPO treats them as data.
"""

import chex
import jax
from jax import numpy as jnp

from xrec_jax.errors import UserError, nearest
from xrec_jax.rl.masked import center, masked_var

SCORE_FORMS = ('logits', 'probabilities')
CREDITS = ('shared', 'leave_one_out')


def lc_score(
    yes_log_prob: chex.Array,
    no_log_prob: chex.Array,
    temperature: float = 1.0,
    form: str = 'logits',
) -> chex.Array:
    """Returns the scorer's probability that the user likes the item: ExpCTR eq. 8.

    yes_log_prob, no_log_prob: [B], finite, each summed over the tokens that spell the answer
    (`language.choices.score`). temperature: T > 0.
    Result: float32 [B] in [0, 1].

    form='logits' (default): softmax of the log-probabilities over T, that is
        p_yes^(1/T) / (p_yes^(1/T) + p_no^(1/T)).
    Log-probabilities equal logits up to a constant that cancels, so for single tokens this is the
    softmax over the two logits; it spans (0, 1), and at T = 1 it is p_yes given that the answer
    is one of the two.
    form='probabilities': eq. 8 as printed, exp(p_yes/T) / (exp(p_yes/T) + exp(p_no/T)).
    At T = 1 it can only lie in [1/(1+e), e/(1+e)] = [0.27, 0.73], and near 0.5 for a scorer that
    puts little mass on either answer, whatever their ratio: log loss and MAE could not become
    good, so it is not the default. (Eq. 10 rescales either for PPO; reported scores are not.)
    """
    chex.assert_rank([yes_log_prob, no_log_prob], 1)
    chex.assert_equal_shape([yes_log_prob, no_log_prob])
    if form not in SCORE_FORMS:
        raise UserError(f'unknown form of the LC score "{form}".{nearest(form, SCORE_FORMS)}')
    yes, no = yes_log_prob.astype(jnp.float32), no_log_prob.astype(jnp.float32)
    if form == 'probabilities':
        yes, no = jnp.exp(yes), jnp.exp(no)
    return jax.nn.sigmoid((yes - no) / temperature)


def lc_reward(labels: chex.Array, scores: chex.Array) -> chex.Array:
    """Returns R_LC = 1 - |y - s|, float32 [B] in [0, 1]: ExpCTR eq. 9.

    labels: [B] of 0 and 1, any dtype. scores: [B] from `lc_score`.
    """
    chex.assert_rank([labels, scores], 1)
    chex.assert_equal_shape([labels, scores])
    return 1.0 - jnp.abs(labels.astype(jnp.float32) - scores.astype(jnp.float32))


def ic_reward(
    labels: chex.Array, scores: chex.Array, scores_without_text: chex.Array
) -> chex.Array:
    """Returns R_IC = 1 - |y - s| + |s - s~|, float32 [B] in [0, 2]: ExpCTR eq. 13.

    labels: [B] of 0 and 1, any dtype. scores: [B], the CTR model's with the explanation.
    scores_without_text: [B], s~, the same model's with zero vectors in the explanation's place.
    The last term pays for any influence of the text, also a harmful one; as printed, a move away
    from the label by d costs d and earns d, so it is neutral, and a move towards it earns 2d.
    """
    chex.assert_rank([labels, scores, scores_without_text], 1)
    chex.assert_equal_shape([labels, scores, scores_without_text])
    influence = jnp.abs(scores.astype(jnp.float32) - scores_without_text.astype(jnp.float32))
    return lc_reward(labels, scores) + influence


def rating_reward(ratings: chex.Array, scores: chex.Array) -> chex.Array:
    """Returns r(e) = 1 / (1 + |y - f(x, e)|), float32 [B] in [1/2, 1]: RecPIE eq. 1.

    ratings: [B], y, places on the scale of the ratings, from 0 to 1 (or clicks, 0 and 1). scores: [B], f(x, e), what
    the rating network predicts with the explanations.
    """
    chex.assert_rank([ratings, scores], 1)
    chex.assert_equal_shape([ratings, scores])
    return 1.0 / (1.0 + jnp.abs(ratings.astype(jnp.float32) - scores.astype(jnp.float32)))


def pair_credit(both: chex.Array, left_out: chex.Array, credit: str = 'shared') -> chex.Array:
    """Returns what each of an example's K texts is paid, float32 [K, B].

    both: [B], the reward with all texts. left_out: [K, B], the reward without text k.
    credit='shared': each is paid for all, r; as RecPIE, where e is the pair. 'leave_one_out': each for the difference
    that it makes, r - r without it, so that a text is not paid for what the other one said.
    """
    chex.assert_rank(left_out, 2)
    chex.assert_equal_shape([both, left_out[0]])
    if credit not in CREDITS:
        raise UserError(f'unknown credit "{credit}".{nearest(credit, CREDITS)}')
    shared = jnp.broadcast_to(both, left_out.shape).astype(jnp.float32)
    return shared if credit == 'shared' else shared - left_out.astype(jnp.float32)


def center_by_label(rewards: chex.Array, labels: chex.Array) -> chex.Array:
    """Returns R - mean(R of the batch's rewards with the same label), float32 [B].

    rewards: [B], the global batch. labels: [B] of 0 and 1.
    A control variate, not in the paper. A reader that leans to Yes whatever it reads gives high
    rewards where the label is 1 and low ones where it is 0: noise to the writer, who does not see
    the label, and no value head can predict it. The mean by label depends on nothing that was
    written, so the expected policy gradient stays the same; its variance falls.
    """
    chex.assert_rank([rewards, labels], 1)
    chex.assert_equal_shape([rewards, labels])
    positive = labels > 0.5
    return jnp.where(positive, center(rewards, positive)[1], center(rewards, ~positive)[1])


def normalize_and_clip(
    rewards: chex.Array,
    clip: float,
    mask: chex.Array | None = None,
    epsilon: float = 1e-6,
) -> chex.Array:
    """Returns clip((R - mean(R)) / (std(R) + epsilon), -clip, clip): ExpCTR eq. 10.

    rewards: [B], the global batch: mean and std are over all devices and hosts, so call it inside
    `jit` on the sharded array, never per host. clip: the paper's delta (1.0 in its section 5.1.4).
    mask: [B], rows that are real (None: all); the others, rows that fill up a batch, get 0.
    Result: float32 [B].
    The population std (the paper does not say). epsilon is added to the std, not to the variance,
    and is small: rewards of a weak scorer differ by 1e-4 and should still be scaled to one.
    Constant rewards, and a batch of one, give exact zeros.
    """
    chex.assert_rank(rewards, 1)
    mask = jnp.ones(rewards.shape, bool) if mask is None else mask.astype(bool)
    chex.assert_equal_shape([rewards, mask])
    _, centered = center(rewards, mask)
    scaled = centered / (jnp.sqrt(masked_var(rewards, mask)) + epsilon)
    return jnp.where(mask, jnp.clip(scaled, -clip, clip), 0.0)


def penalize(scores: chex.Array, which: chex.Array, penalty: float) -> chex.Array:
    """Returns scores - penalty where `which` (bool [B]) says so, float32 [B]: form that was missed, for one."""
    chex.assert_rank([scores, which], 1)
    chex.assert_equal_shape([scores, which])
    return scores.astype(jnp.float32) - jnp.where(which, jnp.float32(penalty), 0.0)


def penalize_truncated(scores: chex.Array, truncated: chex.Array, penalty: float) -> chex.Array:
    """Returns scores - penalty where the response has no end-of-sequence token, float32 [B].

    scores: [B], normalised. truncated: bool [B] from `ppo.response_mask`. penalty: 0 turns it off.
    Subtracted, as TRL's `missing_eos_penalty`, after eq. 10, so that it does not drown in the std.
    """
    return penalize(scores, truncated, penalty)
