"""A whole ExpCTR run that takes seconds: a random LLaMA of two layers, a random BERT, a small world."""

import collections
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from configs import expctr, recpie
from xrec_jax.language import decoder, stories, tokenizers, weights
from xrec_jax.language.config import DecoderConfig
from xrec_jax.phases import schedule, task as tasks
from xrec_jax.runs.explanations import ExplanationWriter
from xrec_jax.runs.metrics_writer import MetricsWriter
from xrec_jax.runs.state import RunState
from xrec_jax.runs.workdir import open_workdir

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def save_language_model(directory: pathlib.Path) -> pathlib.Path:
    """A random model with a tokenizer of its own."""
    random = np.random.Generator(np.random.Philox(0))
    pairs = stories.texts(random, 200, stories.Mixture((2, 4), 0.3))
    tokenizer = tokenizers.train_tokenizer((text for pair in pairs for text in pair), 512)
    tokenizer.save_pretrained(directory)
    config = DecoderConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_layers=2,
                               num_heads=2, num_kv_heads=1, head_dim=16, max_position_embeddings=512,
                               tie_word_embeddings=True)
    weights.save_model(directory, config, decoder.init_params(jax.random.key(0), config))
    return directory


def small_config(language_model: pathlib.Path) -> ml_collections.ConfigDict:
    config = expctr.get_config('simulated')
    config.schedule = ('explain(icl)', 'fit(ids)', 'align(lc)', 'explain(corpus)', 'fit(aug)', 'align(ic)',
                       'explain(final)', 'judge(ctr)')
    config.mesh.data = -1
    config.language.model = str(language_model)
    config.language.lora_rank = 2
    config.encoder.model = str(GOLDEN / 'bert' / 'bert')
    config.data.update({'data_dir': '', 'num_samples': 100, 'history_length': 3})
    config.data.options.update({'num_users': 40, 'num_items': 30, 'num_interactions': 400})
    config.generate.max_length = 8
    config.explain.update({'batch_size': 8, 'checkpoint_every': 1})
    config.corpus.max_examples = 20
    config.align.update({'rollout_size': 8, 'checkpoint_every': 2})
    config.align.learner.update({'epochs': 1, 'minibatch_size': 4, 'microbatch_size': 4, 'warmup_steps': 1})
    config.lc.iterations = 4
    config.ic.iterations = 3
    config.fit.training.epochs = 4
    config.fit.checkpoint_every = 2
    return config


def small_recpie(language_model: pathlib.Path) -> ml_collections.ConfigDict:
    config = recpie.get_config('simulated')
    config.mesh.data = -1
    config.language.model = str(language_model)
    config.language.lora_rank = 2
    config.encoder.model = str(GOLDEN / 'bert' / 'bert')
    config.data.history_length = 3
    config.data.options.update({'num_users': 12, 'num_items': 20, 'num_interactions': 120})
    config.generate.max_length = 8
    config.explain.update({'batch_size': 16, 'checkpoint_every': 2})
    config.explain.profile.max_length = 8
    config.align.update({'rollout_size': 8, 'checkpoint_every': 1, 'iterations': 2})
    config.first.iterations = config.next.iterations = 2
    config.sample.max_examples = 20
    config.peter.model.update({'embed_dim': 8, 'inner': 8})
    config.tallrec.update({'epochs': 1, 'batch_size': 8, 'max_length': 256, 'row_length': 256})
    config.align.learner.update({'epochs': 1, 'minibatch_size': 8, 'microbatch_size': 4, 'warmup_steps': 1})
    config.fit.training.update({'epochs': 2, 'batch_size': 32})
    config.fit.model.update({'embed_dim': 4, 'width': 8, 'mlp': (8,), 'inner': 8})
    config.fit.checkpoint_every = 1
    return config


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> tuple[tasks.Task, RunState]:
    """A whole run, as `python -m xrec_jax.train` makes it."""
    task = tasks.make_task(config, workdir)
    schedule.check_schedule(task)
    open_workdir(str(workdir), config)
    return task, schedule.run_schedule(task)


class Stop(Exception):
    """What stops a run here."""


def stop_writers(monkeypatch, stops: Callable[[int, int], bool]) -> list[str]:
    """Makes calls of writers raise `Stop`, where `stops(n, m)` for call n = 1, 2, … of all, m of its phase; the phases
    in which that was, as it goes."""
    calls, stopped_in = collections.Counter(), []

    def stopping(method):
        def wrapped(self, *args, **kwargs):
            phase = args[0] if args else self.path.stem
            calls[phase] += 1
            if stops(calls.total(), calls[phase]):
                stopped_in.append(phase)
                raise Stop
            return method(self, *args, **kwargs)
        return wrapped

    monkeypatch.setattr(MetricsWriter, 'write', stopping(MetricsWriter.write))
    monkeypatch.setattr(ExplanationWriter, 'add', stopping(ExplanationWriter.add))
    return stopped_in


def resumed(run: Callable[[], Any], most: int = 40) -> Any:
    """What `run()` returns once it is not stopped any more."""
    for _ in range(most):
        try:
            return run()
        except Stop:
            pass
    raise AssertionError(f'stopped {most} times')


def get_config(language_model: str) -> ml_collections.ConfigDict:
    """So that `--config tests/phases/small.py:MODEL` runs ExpCTR's first half, `…small.py:recpie,MODEL` RecPIE."""
    if language_model.startswith('recpie,'):
        return small_recpie(pathlib.Path(language_model.removeprefix('recpie,')))
    config = small_config(pathlib.Path(language_model))
    config.schedule = ('explain(icl)', 'fit(ids)', 'align(lc)', 'explain(final)', 'judge(ctr)')
    del config.judge.scorers['ExpCTR-Aug']
    config.judge.after.scorers = ('ExpCTR-LLM',)
    return config
