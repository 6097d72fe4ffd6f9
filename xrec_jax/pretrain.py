"""Trains a small LLaMA and its tokenizer from scratch, on stories; ends with a model directory.

python -m xrec_jax.pretrain --config configs/tiny_llama.py --workdir DIR

DIR/model/ then holds Hugging Face's files, `loss.png` and `figures.json` (held-out loss, probes). The
same command goes on with an unfinished run.
"""

import concurrent.futures
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import ml_collections
import numpy as np
from absl import flags

from xrec_jax import cli
from xrec_jax.language import decoder, induction, pretraining, probes, stories, tokenizers, weights
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.runs import compile_cache, progress
from xrec_jax.runs.checkpoints import Checkpoints
from xrec_jax.runs.files import write_whole
from xrec_jax.runs.metrics_writer import MetricsWriter, read_metrics
from xrec_jax.runs.workdir import open_workdir


def main(argv: list[str]) -> None:
    del argv
    compile_cache.use()
    config = flags.FLAGS.config
    workdir = open_workdir(flags.FLAGS.workdir, config)
    directory = workdir / 'model'
    tokenizer = make_tokenizer(config, directory)
    model, params = train(config, workdir, tokenizer)

    weights.save_model(directory, model.config, params, dtype=jnp.bfloat16)
    shape, params = weights.load_model(directory, dtype=jnp.float32)  # as it ships: rounded to bfloat16
    figures = measure(config, decoder.Decoder(shape), params, tokenizer)
    write_whole(directory / 'figures.json', lambda path: path.write_text(json.dumps(figures, indent=1) + '\n'))
    plot_loss(workdir, directory / 'loss.png')
    for name, value in figures.items():
        progress.say(f'{name}: {value:.4g}' if isinstance(value, float) else f'{name}: {value}')
    progress.say(f'written to {directory}')


def make_tokenizer(config: ml_collections.ConfigDict, directory: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokenizer of the run; trained at its beginning."""
    if not (directory / 'tokenizer_config.json').exists():
        random = np.random.Generator(np.random.Philox(key=[config.seed, 2**32]))
        pairs = stories.texts(random, config.tokenizer.num_texts, stories.Mixture(
            tuple(config.tokenizer.history), config.tokenizer.click_share))
        tokenizer = tokenizers.train_tokenizer((text for pair in pairs for text in pair), config.model.vocab_size)
        tokenizer.save_pretrained(directory)
        progress.say(f'tokenizer: {len(tokenizer)} tokens from {config.tokenizer.num_texts:,} texts')
    return tokenizers.load_tokenizer(directory)


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path, tokenizer: tokenizers.Tokenizer
          ) -> tuple[decoder.Decoder, dict]:
    """Runs all steps; a thread makes the next pool of batches while the device works on this one."""
    model = decoder.Decoder(DecoderConfig(**config.model.to_dict()))
    settings = pretraining.PretrainConfig(**config.training.to_dict())
    params = induction.init_params(jax.random.key(config.seed), model.config)
    state = {'params': params, 'opt_state': pretraining.make_optimizer(settings).init(params),
             'step': jnp.int32(0)}
    metrics = MetricsWriter(workdir)
    progress.say(f'{sum(x.size for x in jax.tree.leaves(params)):,} parameters')

    lesson = functools.partial(pretraining.lesson_of, config.curriculum.to_dict())

    def make_pool(index: int) -> list[dict]:
        return stories.pool(tokenizer, config.seed, index, lesson(index).mixture,
                            num_batches=config.pool.num_batches, tokens_per_batch=config.pool.tokens_per_batch)

    with Checkpoints(workdir / 'checkpoints') as checkpoints, \
            concurrent.futures.ThreadPoolExecutor(1) as maker:
        pool, state = checkpoints.restore(state)
        step = int(state['step'])
        metrics.rewind('pretrain', step)
        batches = maker.submit(make_pool, pool)
        tokens = 0
        with progress.bar('pretrain', settings.steps, step) as advance:
            while step < settings.steps:
                current, batches = batches.result(), maker.submit(make_pool, pool + 1)
                for batch in current[:settings.steps - step]:
                    state['params'], state['opt_state'], row = pretraining.train_step(
                        model, settings, state['params'], state['opt_state'], batch,
                        lesson(pool).prompt_weight)
                    step += 1
                    tokens += int(batch['mask'].sum())
                    advance()
                    if step % config.log_every == 0 or step == settings.steps:
                        metrics.write('pretrain', step, row)
                        advance(0, f'loss {float(row["loss"]):.3f}')
                pool += 1
                state['step'] = jnp.int32(step)
                if pool % config.checkpoint_every == 0 or step == settings.steps:
                    checkpoints.save(pool, state)
    return model, state['params']


def measure(config: ml_collections.ConfigDict, model: decoder.Decoder, params: dict, tokenizer) -> dict[str, float]:
    """Held-out loss and probes; prompts of `probe.history` items from worlds never seen."""
    held_out = probes.tell_many(config.seed, config.probe.count, config.probe.history)
    figures = {'parameters': sum(x.size for x in jax.tree.leaves(params)),
               'held_out_stories': len(held_out), 'history': config.probe.history}
    figures |= probes.response_loss(model, params, tokenizer, held_out)
    figures['past_accuracy'] = probes.past_accuracy(model, params, tokenizer, held_out)
    for name, temperature in (('sampled', 1.0), ('greedy', 0.0)):
        sampling = SamplingConfig(max_length=config.probe.max_length, temperature=temperature)
        texts = probes.write_reasons(model, params, tokenizer, held_out, jax.random.key(config.seed), sampling)
        figures |= {f'{name}_{key}': value for key, value in probes.probe_reasons(held_out, texts).items()}
        figures[f'auc_after_own_reason_{name}'] = probes.answer_auc(model, params, tokenizer, held_out, texts)
    reasons = {'given': held_out, 'given_careful': [story for story in held_out if story.careful]}
    for name, chosen in reasons.items():
        figures[f'auc_after_{name}_reason'] = probes.answer_auc(
            model, params, tokenizer, chosen, [story.reason for story in chosen])
    return figures


def plot_loss(workdir: pathlib.Path, path: pathlib.Path) -> None:
    """Nats per response token over steps, each point the mean of twenty logged batches."""
    matplotlib.use('agg')
    from matplotlib import pyplot

    rows = read_metrics(workdir / 'metrics.jsonl', 'pretrain')
    size = min(20, len(rows))
    smooth = np.convolve([row['response_loss'] for row in rows], np.ones(size) / size, 'valid')
    figure, axes = pyplot.subplots(figsize=(6, 3), layout='constrained')
    axes.plot([row['step'] for row in rows][size - 1:], smooth)
    axes.set(xlabel='step', ylabel='nats per response token', yscale='log')
    axes.grid(alpha=0.3, which='both')
    write_whole(path, lambda partial: figure.savefig(partial, format='png', dpi=120))


if __name__ == '__main__':
    cli.define_run_flags('configs/tiny_llama.py')
    cli.run(main)
