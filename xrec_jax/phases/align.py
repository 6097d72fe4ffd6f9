"""`align`: PPO tunes the writer of explanations (ExpCTR sections 4.2 and 4.3).

One iteration:
  1. `writing.write`    explanations of a rollout batch of training examples, by the policy
  2. `REWARDS`          raw reward of each: LC (eq. 8, 9) or IC (eq. 13)
  3. eq. 10             normalised and clipped over the whole batch; truncated ones pay a penalty
  4. `score`            log-probs of policy and reference, values: one function for all
  5. `ppo.make_rollout` KL (eq. 7) into the rewards, GAE
  6. `ppo_update`       a few passes of the clipped objective over adapter and value head
Every explanation is kept, with its reward and its vector: they are the corpus of the next `fit`.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import generate, lora, policy
from xrec_jax.language.decoder import Decoder, abstract_params
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import fit_predictor, writing
from xrec_jax.phases.task import Task
from xrec_jax.planning import utilisation
from xrec_jax.recommenders import training
from xrec_jax.rl import ppo, rewards, update
from xrec_jax.runs import preemption, progress
from xrec_jax.runs.checkpoints import Checkpoints
from xrec_jax.runs.compiles import num_compiles
from xrec_jax.runs.explanations import ExplanationWriter
from xrec_jax.runs.metrics_writer import read_metrics
from xrec_jax.runs.state import RunState


def lc_rewards(task: Task, state: RunState, settings, rows, texts) -> tuple[np.ndarray, dict]:
    """R_LC (eq. 9) [B], with the columns to keep."""
    scores = writing.llm_scores(task, 'train', rows, texts)
    raw = rewards.lc_reward(task.examples['train'].label[rows], scores)
    vector = writing.encode(task, texts) if settings.encode else None
    return np.asarray(raw), {'llm_score': scores, 'vector': vector}


def ic_rewards(task: Task, state: RunState, settings, rows, texts) -> tuple[np.ndarray, dict]:
    """R_IC (eq. 13) [B], by the predictor `settings.predictor`, with the columns to keep."""
    predictor = state.predictors[settings.predictor]
    vector = writing.encode(task, texts)
    examples = task.examples['train']
    ask = functools.partial(training.predict, predictor.model, predictor.params, task.fields)
    make_rows = functools.partial(fit_predictor.make_rows, task, 'train', predictor.model, index=rows)
    scores, without = ask(make_rows(vector[:, None])), ask(make_rows(None))
    raw = rewards.ic_reward(examples.label[rows], scores, without)
    return np.asarray(raw), {'llm_score': [None] * len(rows), 'vector': vector}


REWARDS: dict[str, Callable] = {'lc': lc_rewards, 'ic': ic_rewards}


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Tunes the policy for `settings.iterations` iterations; goes on from its newest checkpoint.

    Raises UserError where the loss is no longer finite; what was saved before is sound.
    """
    key = jax.random.fold_in(jax.random.key(task.seed), index)
    # The optimizer starts afresh with each phase: its moments belong to another reward.
    params = {'lora': state.adapter, 'value_head': state.value_head}
    if state.adapter is None:
        params['lora'] = lora.init_adapter(key, task.language.params, task.language.lora)
    if state.value_head is None:
        params['value_head'] = policy.init_value_head(task.language.model.config.hidden_size)
    update_config = update.UpdateConfig(**settings.learner.to_dict())
    model = task.language.model.config
    learner = sharding.place_learner({
        'params': params,
        'opt_state': update.make_optimizer(update_config).init(params),
        'kl_coef': jnp.float32(settings.kl_coef),
    }, abstract_params(model), task.mesh, model.units)

    writer = ExplanationWriter(task.workdir, phase, split=True)
    with Checkpoints(task.workdir / 'checkpoints' / phase) as checkpoints:
        done, learner = checkpoints.restore(learner)
        total = settings.iterations
        if done < total or not writer.finished:
            writer.rewind(done)
            task.metrics.rewind(phase, done)
            with progress.bar(phase, total * settings.rollout_size, done * settings.rollout_size,
                              'texts') as advance:
                for iteration in range(done + 1, total + 1):
                    learner, metrics = iterate(task, state, settings, learner, writer, iteration,
                                               jax.random.fold_in(key, iteration), index)
                    task.metrics.write(phase, iteration, metrics)
                    advance(settings.rollout_size,
                            f'reward {metrics["reward"]:.3f}  KL {metrics["kl_response"]:.2f}')
                    stop = preemption.requested()
                    if stop or iteration % settings.checkpoint_every == 0 or iteration == total:
                        writer.flush(iteration)
                        checkpoints.save(iteration, learner)
                    if stop:
                        preemption.leave(phase, iteration)
            writer.finish()
    progress.say(summary(task, phase, settings))
    params = learner['params']
    return state.replace(adapters=state.adapters | {'policy': params['lora']}, value_head=params['value_head'],
                         explanations=state.explanations | {phase: writer.path})


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for an unknown reward, or sizes that do not fit."""
    if settings.reward not in REWARDS:
        raise UserError(f'align.reward: "{settings.reward}" is no reward.{nearest(settings.reward, REWARDS)}')
    if settings.reward == 'ic' and f'fit({settings.predictor})' not in earlier:
        raise UserError(f'schedule: align({settings.name}) with reward="ic" needs fit({settings.predictor}) '
                        'before it.')
    fitted = {**task.config.get('fit', {}), **task.config.get(settings.predictor, {})}
    if settings.reward == 'ic' and fitted['seeds'] != 1:
        raise UserError(f'align({settings.name}) with reward="ic" needs fit({settings.predictor}) with seeds=1, not '
                        f'{fitted["seeds"]}: one predictor gives the reward.')
    size = len(task.examples['train'].user)
    if settings.rollout_size > size:
        raise UserError(f'align.rollout_size={settings.rollout_size} is more than the {size} training examples.')
    update_config = update.UpdateConfig(**settings.learner.to_dict())
    update_config.check(settings.rollout_size)
    sharding.check_batch('align.rollout_size', settings.rollout_size, task.mesh)
    sharding.check_batch('align.learner.microbatch_size', update_config.microbatch_size, task.mesh)


def iterate(task: Task, state: RunState, settings, learner: dict, writer: ExplanationWriter, iteration: int,
            key: jax.Array, index: int) -> tuple[dict, dict[str, float]]:
    """One iteration: returns the learner after it, and its metrics."""
    watch, compiles = progress.Stopwatch(), num_compiles()
    examples = task.examples['train']
    rows = rollout_rows(len(examples.user), settings.rollout_size, iteration - 1,
                        (task.seed, index))
    write_key, update_key = jax.random.split(key)
    prompts = writing.prompt_batch(task, 'train', rows)
    num_prompt_tokens = task.explain_prompts('train')[1][rows].sum()
    rows = rows[distributed.rows_here(task.mesh, len(rows))]
    with watch('generate'):
        responses = writing.write(task, learner['params']['lora'], prompts, write_key)
        texts = writing.texts_of(task, responses)  # of this process, as all that is on the host below
    # Dispatched before the rewards, so that the device works while the host makes the questions.
    inputs = {'prompts': prompts[0], 'prompt_mask': prompts[1],
              'responses': responses.tokens, 'response_mask': responses.mask}
    scored = score(task.language.model, task.language.params, learner['params'], inputs,
                   temperature=task.config.generate.temperature,
                   num_chunks=settings.rollout_size // settings.learner.microbatch_size, reference=state.reference)
    with watch('reward'):
        raw, columns = REWARDS[settings.reward](task, state, settings, rows, texts)
        placed = distributed.place_rows((raw, examples.label[rows]), task.mesh)
    with watch('log_probs'):
        rollout, normalised, metrics = jax.block_until_ready(make_rollout(
            scored, *placed, responses,
            learner['kl_coef'], center=settings.center_by_label, clip=settings.reward_clip,
            penalty=settings.truncation_penalty, config=ppo.PPOConfig(**settings.ppo.to_dict())))
    with watch('update'):
        params, opt_state, update_metrics = jax.block_until_ready(update.ppo_update(
            learner['params'], learner['opt_state'], task.language.params, inputs, rollout, update_key,
            evaluate=evaluator(task.language.model, task.config.generate.temperature),
            config=update.UpdateConfig(**settings.learner.to_dict()),
            ppo_config=ppo.PPOConfig(**settings.ppo.to_dict()), constrain=constrainer(task.mesh)))
    if not np.isfinite(float(update_metrics['loss'])):
        raise UserError(f'The PPO loss is {float(update_metrics["loss"])} in iteration {iteration}: lower '
                        f'align.learner.learning_rate (now {settings.learner.learning_rate:g}).')
    kl_coef = learner['kl_coef']
    if settings.kl_target > 0:
        kl_coef = ppo.adaptive_kl(kl_coef, metrics['kl_response'], settings.kl_target, settings.kl_horizon,
                                  settings.rollout_size)
    lengths, truncated = distributed.part_here((responses.lengths, responses.truncated), task.mesh)
    writer.add(
        user_id=task.dataset.users['user_id'].take(examples.user[rows]),
        item_id=task.dataset.items['item_id'].take(examples.item[rows]),
        kind='reason', split='train', example=rows.astype(np.int32), text=texts, reward=raw,
        num_tokens=lengths.astype(np.int32), truncated=truncated, step=iteration,
        **columns)
    seconds = sum(watch.seconds.values())
    raw, lengths, truncated = distributed.whole((placed[0], responses.lengths, responses.truncated))
    row = {
        'reward': raw.mean(), 'reward_std': raw.std(),
        'reward_normalised': normalised.mean(), 'reward_normalised_std': normalised.std(),
        **metrics, **{name: value for name, value in update_metrics.items() if name not in metrics},
        'kl_coef': learner['kl_coef'],
        'response_length': lengths.mean(), 'truncation_rate': truncated.mean(),
        'distinct_texts': distributed.num_distinct(texts, task.mesh) / settings.rollout_size,
        'tokens_per_second': lengths.sum() / seconds,
        **utilisation.metrics(utilisation.align_flops(task.language.model.config, num_prompt_tokens + lengths.sum(),
                                                      settings.learner.epochs), seconds),
        'compiles': num_compiles() - compiles,
        **{f'seconds_{name}': value for name, value in watch.seconds.items()},
    }
    return ({'params': params, 'opt_state': opt_state, 'kl_coef': kl_coef},
            {name: float(value) for name, value in row.items()})


def rollout_rows(num_examples: int, size: int, batch: int, seed: tuple[int, int]) -> np.ndarray:
    """The `batch`-th `size` rows of an endless stream of shuffled passes over the examples."""
    positions = np.arange(batch * size, (batch + 1) * size)
    passes = positions // num_examples
    orders = {p: np.random.Generator(np.random.Philox(key=[seed[0], seed[1] << 32 | int(p)])
                                     ).permutation(num_examples) for p in np.unique(passes)}
    return np.array([orders[p][position % num_examples] for p, position in zip(passes, positions)])


@functools.cache
def evaluator(model: Decoder, temperature: float) -> update.Evaluate:
    """The `evaluate` of `ppo_update`; one object for each model, so that nothing is compiled twice."""

    def evaluate(params, base, inputs):
        result = policy.evaluate(
            model, {'params': base, 'lora': params['lora']}, inputs['prompts'], inputs['prompt_mask'],
            inputs['responses'], inputs['response_mask'], temperature=temperature,
            value_head=params['value_head'])
        return result.log_probs, result.values, result.entropy

    return evaluate


@functools.cache
def constrainer(mesh: jax.sharding.Mesh) -> Callable:
    """Splits a microbatch over the batch axes of the mesh."""
    sharding_of_rows = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    return lambda tree: jax.lax.with_sharding_constraint(tree, sharding_of_rows)


@functools.partial(jax.jit, static_argnames=('model', 'temperature', 'num_chunks'))
def score(model: Decoder, base: dict, params: dict, inputs: dict, *, temperature: float, num_chunks: int,
          reference: dict | None = None) -> dict:
    """Log-probs of policy and reference (the base model, or it with the adapter `reference`), and values, all [B, R],
    `B / num_chunks` rows at a time."""
    frozen = {'params': base} | ({} if reference is None else {'lora': reference})

    def chunk(inputs):
        batch = (inputs['prompts'], inputs['prompt_mask'], inputs['responses'], inputs['response_mask'])
        ours = policy.evaluate(model, {'params': base, 'lora': params['lora']}, *batch,
                               temperature=temperature, value_head=params['value_head'])
        theirs = policy.evaluate(model, frozen, *batch, temperature=temperature)
        return {'log_probs': ours.log_probs, 'values': ours.values, 'ref_log_probs': theirs.log_probs}

    # Interleaved (row r into chunk r mod n), so that each chunk stays spread over the devices.
    split = jax.tree.map(lambda x: x.reshape(-1, num_chunks, *x.shape[1:]).swapaxes(0, 1), inputs)
    result = jax.lax.map(chunk, split)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), result)


@functools.partial(jax.jit, static_argnames=('center', 'clip', 'penalty', 'config'))
def make_rollout(scored: dict, raw: jax.Array, labels: jax.Array, responses: generate.Responses,
                 kl_coef: jax.Array, *, center: bool, clip: float, penalty: float, config: ppo.PPOConfig
                 ) -> tuple[ppo.Rollout, jax.Array, dict[str, jax.Array]]:
    """Rewards and advantages over the global batch; the normalised rewards [B]; metrics."""
    normalised = rewards.normalize_and_clip(rewards.center_by_label(raw, labels) if center else raw, clip)
    scores = rewards.penalize_truncated(normalised, responses.truncated, penalty)
    rollout, metrics = ppo.make_rollout(scored['log_probs'], scored['ref_log_probs'], scored['values'], scores,
                                        responses.mask, kl_coef, config)
    # Health: the sampler decodes with a cache, the learner in one pass; they must agree.
    difference = jnp.where(responses.mask, jnp.abs(responses.log_probs - scored['log_probs']), 0.0)
    metrics |= {'sampler_difference_mean': difference.sum() / responses.mask.sum(),
                'sampler_difference_max': difference.max()}
    return rollout, normalised, metrics


def summary(task: Task, phase: str, settings: ml_collections.ConfigDict) -> str:
    """The line that is printed at the end: mean reward of the first and the last fifth."""
    rows = read_metrics(task.metrics.path, phase)
    fifth = max(1, len(rows) // 5)
    first = np.mean([row['reward'] for row in rows[:fifth]])
    last = np.mean([row['reward'] for row in rows[-fifth:]])
    return (f'{phase}: {len(rows)} iteration{"s" * (len(rows) != 1)} of {settings.rollout_size} texts; '
            f'mean {settings.reward.upper()} reward {first:.3f} → {last:.3f}, '
            f'KL {rows[-1]["kl_response"]:.2f} nats a text, '
            f'{np.mean([row["tokens_per_second"] for row in rows]):.0f} tokens/s')
