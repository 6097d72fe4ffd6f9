"""`align`: PPO tunes the writer of explanations (ExpCTR sections 4.2 and 4.3; RecPIE section 2.1).

One iteration:
  1. `writing.write`    explanations of a rollout batch of training examples, by the policy
  2. `align_rewards`    raw reward of each: LC (eq. 8, 9), IC (eq. 13) or, of a pair, RecPIE's (its eq. 1)
  3. eq. 10             normalised and clipped over the whole batch; truncated ones pay a penalty
  4. `score`            log-probs of policy and reference, values: one function for all
  5. `ppo.make_rollout` KL (eq. 7) into the rewards, GAE
  6. `ppo_update`       a few passes of the clipped objective over adapter and value head
Every explanation is kept, with its reward and its vector: they are the corpus of the next `fit`.

RecPIE's texts come in pairs: a rollout batch of B texts holds B / 2 examples, their positive texts first, then their
negative ones. With `config.soft_prompt.tokens` > 0 the consumer's embedding from the rating network
`settings.predictor` stands before each prompt (`language.soft_prompt`); its projection learns with the adapter, and
with `soft_prompt.tune_embeddings` the embeddings too, which go back into the network at the end. The reference has no
soft prompt.

Over several processes each has the texts that lie on its devices; of pairs all have all, since a reward looks at both.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import generate, lora, policy, soft_prompt
from xrec_jax.language.decoder import Decoder, abstract_params
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import contrast, writing
from xrec_jax.phases.align_rewards import BASELINES, BY_PREDICTOR, REWARDS
from xrec_jax.phases.task import Task
from xrec_jax.planning import utilisation
from xrec_jax.recommenders import recpie
from xrec_jax.rl import ppo, rewards, update
from xrec_jax.runs import checkpoints, files, preemption, progress
from xrec_jax.runs.checkpoints import Checkpoints
from xrec_jax.runs.compiles import num_compiles
from xrec_jax.runs.explanations import ExplanationWriter
from xrec_jax.runs.metrics_writer import read_metrics
from xrec_jax.runs.state import RunState


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Tunes the policy for `settings.iterations` iterations; goes on from its newest checkpoint.

    Raises UserError where the loss is no longer finite; what was saved before is sound.
    """
    key = jax.random.fold_in(jax.random.key(task.seed), index)
    learner, consumers = first_learner(task, state, settings, key)
    writer = ExplanationWriter(task.workdir, phase, split=len(task.kinds) == 1)
    with Checkpoints(task.workdir / 'checkpoints' / phase) as saved:
        done, learner = saved.restore(learner)
        total = settings.iterations
        if done < total or not writer.finished:
            writer.rewind(done)
            task.metrics.rewind(phase, done)
            with progress.bar(phase, total * settings.rollout_size, done * settings.rollout_size,
                              'texts') as advance:
                for iteration in range(done + 1, total + 1):
                    learner, metrics = iterate(task, state, settings, learner, writer, iteration,
                                               jax.random.fold_in(key, iteration), index, consumers)
                    task.metrics.write(phase, iteration, metrics)
                    advance(settings.rollout_size,
                            f'reward {metrics["reward"]:.3f}  KL {metrics["kl_response"]:.2f}')
                    stop = preemption.requested()
                    if stop or iteration % settings.checkpoint_every == 0 or iteration == total:
                        writer.flush(iteration)
                        saved.save(iteration, learner)
                    if stop:
                        preemption.leave(phase, iteration)
            writer.finish()
    progress.say(summary(task, phase, settings))
    return learned(task, state, settings, learner['params'], consumers, phase, writer.path)


def restored(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """The state after a phase that is done, from what it has on disk, which stays as it is."""
    key = jax.random.fold_in(jax.random.key(task.seed), index)
    fresh, consumers = first_learner(task, state, settings, key)
    _, learner = checkpoints.read(task.workdir / 'checkpoints' / phase, fresh)
    return learned(task, state, settings, learner['params'], consumers, phase,
                   task.workdir / 'explanations' / f'{phase}.parquet')


def first_learner(task: Task, state: RunState, settings: ml_collections.ConfigDict, key: jax.Array
                  ) -> tuple[dict, jax.Array | None]:
    """The learner before the first iteration, on the mesh, and `consumer_table`."""
    # The optimizer starts afresh with each phase: its moments belong to another reward.
    params = {'lora': state.adapter, 'value_head': state.value_head}
    if state.adapter is None:
        params['lora'] = lora.init_adapter(key, task.language.params, task.language.lora)
    if state.value_head is None:
        params['value_head'] = policy.init_value_head(task.language.model.config.hidden_size)
    consumers = consumer_table(task, state, settings)
    if consumers is not None:
        params['projection'] = state.soft_prompt['projection'] if state.soft_prompt else soft_prompt.init(
            consumers.shape[1], task.config.soft_prompt.tokens, first_embedding(task))
        if task.config.soft_prompt.tune_embeddings:
            params['consumers'] = consumers
    update_config = update.UpdateConfig(**settings.learner.to_dict())
    model = task.language.model.config
    return sharding.place_learner({
        'params': params,
        'opt_state': update.make_optimizer(update_config).init(params),
        'kl_coef': jnp.float32(settings.kl_coef),
    }, abstract_params(model), task.mesh, model.units), consumers


def learned(task: Task, state: RunState, settings: ml_collections.ConfigDict, params: dict, consumers: jax.Array | None,
            phase: str, path: files.Path) -> RunState:
    """The state with what the phase has learned, and its explanations in `path`."""
    if consumers is not None:
        tuned = params.get('consumers', consumers)
        state = state.replace(soft_prompt={'projection': params['projection'], 'consumers': tuned})
        if 'consumers' in params:
            state = with_consumers(task, state, settings.predictor, tuned)
    return state.replace(adapters=state.adapters | {'policy': params['lora']}, value_head=params['value_head'],
                         explanations=state.explanations | {phase: path})


def consumer_table(task: Task, state: RunState, settings: ml_collections.ConfigDict) -> jax.Array | None:
    """E_c [U, E] of the rating network, scaled, the mean for consumers that training did not meet; None without soft
    prompts."""
    if not task.soft_tokens:
        return None
    return soft_prompt.scaled(_own_table(task, state, settings.predictor))[0]


def _own_table(task: Task, state: RunState, predictor: str) -> jax.Array:
    seen = np.zeros(task.dataset.users.num_rows, bool)
    seen[task.examples['train'].user] = True
    return recpie.consumer_embeddings(state.predictors[predictor].params, task.fields, jnp.asarray(seen))


def with_consumers(task: Task, state: RunState, predictor: str, consumers: jax.Array) -> RunState:
    """The state whose network `predictor` has the scaled embeddings `consumers` [U, E] as its own."""
    fitted = state.predictors[predictor]
    _, size = soft_prompt.scaled(_own_table(task, state, predictor))
    rows = task.fields.user_fields[:, task.fields.names.index('user_id')]
    table = fitted.params['embedding'].at[rows].set(distributed.whole(consumers) * size)
    changed = dataclasses.replace(fitted, params=fitted.params | {'embedding': table})
    return state.replace(predictors=state.predictors | {predictor: changed})


def first_embedding(task: Task) -> jax.Array:
    """The embedding [D] of the token that begins a text, or the mean of all where the tokenizer has none."""
    table = task.language.params['embed_tokens'].astype(jnp.float32)
    first = task.language.tokenizer.bos_token_id
    return table.mean(axis=0) if first is None else table[first]


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for an unknown reward, or sizes that do not fit."""
    if settings.reward not in REWARDS:
        raise UserError(f'align.reward: "{settings.reward}" is no reward.{nearest(settings.reward, REWARDS)}')
    by_predictor = settings.reward in BY_PREDICTOR or task.soft_tokens > 0
    if by_predictor and f'fit({settings.predictor})' not in earlier:
        raise UserError(f'schedule: align({settings.name}) with reward="{settings.reward}" needs '
                        f'fit({settings.predictor}) before it.')
    fitted = {**task.config.get('fit', {}), **task.config.get(settings.predictor, {})}
    if by_predictor and fitted['seeds'] != 1:
        raise UserError(f'align({settings.name}) with reward="{settings.reward}" needs fit({settings.predictor}) with '
                        f'seeds=1, not {fitted["seeds"]}: one predictor gives the reward.')
    if task.soft_tokens and 'user_id' not in fitted['fields']:
        raise UserError(f'soft_prompt.tokens={task.soft_tokens} needs embeddings of consumers: add "user_id" to '
                        'fit.fields, or set soft_prompt.tokens=0.')
    if (settings.reward == 'rating') == task.explains_examples:
        raise UserError(f'align.reward="{settings.reward}" is of '
                        + ('pairs: it needs prompt.positive and prompt.negative.' if task.explains_examples
                           else 'one reason an example: it needs prompt.explain; pairs have "rating".'))
    if settings.reward == 'rating':
        if settings.credit not in rewards.CREDITS:
            raise UserError(f'align.credit: "{settings.credit}" is none.{nearest(settings.credit, rewards.CREDITS)}')
        if settings.baseline not in BASELINES:
            raise UserError(f'align.baseline: "{settings.baseline}" is none.{nearest(settings.baseline, BASELINES)}')
    if settings.rollout_size % len(task.kinds):
        raise UserError(f'align.rollout_size={settings.rollout_size} counts texts, and each example has '
                        f'{len(task.kinds)}.')
    size = len(task.examples['train'].user)
    if settings.rollout_size // len(task.kinds) > size:
        raise UserError(f'align.rollout_size={settings.rollout_size} is more than the {size} training examples.')
    update_config = update.UpdateConfig(**settings.learner.to_dict())
    update_config.check(settings.rollout_size)
    sharding.check_batch('align.rollout_size', settings.rollout_size, task.mesh)
    sharding.check_batch('align.learner.microbatch_size', update_config.microbatch_size, task.mesh)


def iterate(task: Task, state: RunState, settings, learner: dict, writer: ExplanationWriter, iteration: int,
            key: jax.Array, index: int, consumers: jax.Array | None = None) -> tuple[dict, dict[str, float]]:
    """One iteration: returns the learner after it, and its metrics."""
    watch, compiles = progress.Stopwatch(), num_compiles()
    examples, num_kinds = task.examples['train'], len(task.kinds)
    rows = rollout_rows(len(examples.user), settings.rollout_size // num_kinds, iteration - 1,
                        (task.seed, index))
    of_text = np.tile(rows, num_kinds)  # the example of each text
    write_key, update_key = jax.random.split(key)
    prompts = writing.prompt_batch(task, state, 'train', rows, task.kinds)
    num_prompt_tokens = int(prompts[1].sum())
    soft = {} if consumers is None else sharding.place_batch(
        {'user': examples.user[of_text]} if 'consumers' in learner['params'] else
        {'consumer': consumers[examples.user[of_text]]}, task.mesh)
    with watch('generate'):
        prefix = soft_prefix(learner['params'], soft)
        responses = writing.write(task, learner['params']['lora'], prompts, write_key, prefix)
        if writer.split:
            here, place = distributed.rows_here(task.mesh, len(of_text)), distributed.place_rows
            rows, of_text, texts = rows[here], of_text[here], writing.texts_of(task, responses)
            lengths, truncated = distributed.part_here((responses.lengths, responses.truncated), task.mesh)
        else:
            place, answers = sharding.place_batch, writing.texts_of(task, distributed.whole(responses))
            texts = [text for n, kind in enumerate(task.kinds) for text in contrast.begun(
                task, kind, answers[n * len(rows):(n + 1) * len(rows)])]
            lengths, truncated = distributed.whole((responses.lengths, responses.truncated))
    # Dispatched before the rewards, so that the device works while the host makes the questions.
    inputs = {'prompts': prompts[0], 'prompt_mask': prompts[1],
              'responses': responses.tokens, 'response_mask': responses.mask, **soft}
    scored = score(task.language.model, task.language.params, learner['params'], inputs,
                   temperature=task.config.generate.temperature,
                   num_chunks=settings.rollout_size // settings.learner.microbatch_size, reference=state.reference)
    with watch('reward'):
        raw, columns = REWARDS[settings.reward](task, state, settings, rows, texts)
        paid = raw - columns.pop('baseline', 0.0)
        missed = ~columns['in_form'] if 'in_form' in columns else np.zeros(len(texts), bool)
        placed = place((np.asarray(raw), np.asarray(paid), examples.label[of_text], missed), task.mesh)
    with watch('log_probs'):
        rollout, normalised, metrics = jax.block_until_ready(make_rollout(
            scored, *placed[1:3], responses, learner['kl_coef'], placed[3], center=settings.center_by_label,
            clip=settings.reward_clip, penalty=settings.truncation_penalty,
            form_penalty=settings.get('form_penalty', 0.0), config=ppo.PPOConfig(**settings.ppo.to_dict())))
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
    writer.add(
        user_id=task.dataset.users['user_id'].take(examples.user[of_text]),
        item_id=task.dataset.items['item_id'].take(examples.item[of_text]),
        kind=np.repeat(task.kinds, len(rows)).tolist(), split='train', example=of_text.astype(np.int32), text=texts,
        reward=raw, num_tokens=lengths.astype(np.int32), truncated=truncated, step=iteration,
        **columns)
    seconds = sum(watch.seconds.values())
    # From here on of all processes.
    raw, missed, lengths, truncated = distributed.whole((placed[0], placed[3], responses.lengths, responses.truncated))
    distinct = distributed.num_distinct(texts, task.mesh) if writer.split else len(set(texts))
    row = {
        'reward': raw.mean(), 'reward_std': raw.std(),
        'reward_normalised': normalised.mean(), 'reward_normalised_std': normalised.std(),
        **metrics, **{name: value for name, value in update_metrics.items() if name not in metrics},
        'kl_coef': learner['kl_coef'],
        'response_length': lengths.mean(), 'truncation_rate': truncated.mean(),
        'distinct_texts': distinct / settings.rollout_size,
        **({'form_missed': missed.mean()} if 'in_form' in columns else {}),
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


def soft_prefix(params: dict, inputs: dict) -> jax.Array | None:
    """The consumers [B] of `inputs` as virtual tokens [B, K, D]; None in a run without soft prompts."""
    if 'projection' not in params:
        return None
    consumers = params['consumers'][inputs['user']] if 'consumers' in params else inputs['consumer']
    return soft_prompt.project(params['projection'], consumers)


@functools.cache
def evaluator(model: Decoder, temperature: float) -> update.Evaluate:
    """The `evaluate` of `ppo_update`; one object for each model, so that nothing is compiled twice."""

    def evaluate(params, base, inputs):
        result = policy.evaluate(
            model, {'params': base, 'lora': params['lora']}, inputs['prompts'], inputs['prompt_mask'],
            inputs['responses'], inputs['response_mask'], temperature=temperature,
            value_head=params['value_head'], prefix_embeddings=soft_prefix(params, inputs))
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
    """Log-probs of policy and reference (the base model, or it with the adapter `reference`, without soft prompts), and
    values, all [B, R], `B / num_chunks` rows at a time.

    One program and one copy of the weights, but two forward passes: from the first layer on an adapter changes what the
    next one reads. Log-probs and values of the policy come from one pass.
    """
    frozen = {'params': base} | ({} if reference is None else {'lora': reference})

    def chunk(inputs):
        batch = (inputs['prompts'], inputs['prompt_mask'], inputs['responses'], inputs['response_mask'])
        ours = policy.evaluate(model, {'params': base, 'lora': params['lora']}, *batch,
                               temperature=temperature, value_head=params['value_head'],
                               prefix_embeddings=soft_prefix(params, inputs))
        theirs = policy.evaluate(model, frozen, *batch, temperature=temperature)
        return {'log_probs': ours.log_probs, 'values': ours.values, 'ref_log_probs': theirs.log_probs}

    # Interleaved (row r into chunk r mod n), so that each chunk stays spread over the devices.
    split = jax.tree.map(lambda x: x.reshape(-1, num_chunks, *x.shape[1:]).swapaxes(0, 1), inputs)
    result = jax.lax.map(chunk, split)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), result)


@functools.partial(jax.jit, static_argnames=('center', 'clip', 'penalty', 'form_penalty', 'config'))
def make_rollout(scored: dict, raw: jax.Array, labels: jax.Array, responses: generate.Responses,
                 kl_coef: jax.Array, missed: jax.Array | None = None, *, center: bool, clip: float, penalty: float,
                 form_penalty: float = 0.0, config: ppo.PPOConfig) -> tuple[ppo.Rollout, jax.Array, dict[str, jax.Array]]:
    """Rewards and advantages over the global batch; the normalised rewards [B]; metrics.

    missed: bool [B], texts without the form that was asked for, which pay `form_penalty`; None: none.
    """
    normalised = rewards.normalize_and_clip(rewards.center_by_label(raw, labels) if center else raw, clip)
    scores = rewards.penalize_truncated(normalised, responses.truncated, penalty)
    if missed is not None:
        scores = rewards.penalize(scores, missed, form_penalty)
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
