"""Training from scratch: curriculum, and that a stopped run ends with the same bits."""


import jax
import numpy as np
import pytest

from configs import tiny_llama
from xrec_jax import pretrain
from xrec_jax.language import pretraining, stories
from xrec_jax.runs.metrics_writer import read_metrics, repeatable


def config():
    config = tiny_llama.get_config()
    config.model.update({'vocab_size': 400, 'hidden_size': 32, 'intermediate_size': 32, 'num_layers': 2, 'num_heads': 2,
                         'num_kv_heads': 1, 'head_dim': 16})
    config.tokenizer.num_texts = 50
    config.pool.update({'num_batches': 2, 'tokens_per_batch': 512})
    config.training.update({'steps': 9, 'warmup_steps': 2})
    config.update({'log_every': 1, 'checkpoint_every': 1})
    return config


def train(workdir):
    workdir.mkdir(exist_ok=True)
    tokenizer = pretrain.make_tokenizer(config(), workdir / 'model')
    return pretrain.train(config(), workdir, tokenizer)[1]


def test_a_stopped_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    unbroken = train(tmp_path / 'a')
    step, calls = pretraining.train_step, [0]

    def stopping(*args):
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(pretraining, 'train_step', stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'b')
    jax.tree.map(np.testing.assert_array_equal, train(tmp_path / 'b'), unbroken)
    rows = [[repeatable(row) for row in read_metrics(tmp_path / name / 'metrics.jsonl')] for name in 'ab']
    assert rows[0] == rows[1] and len(rows[0]) == 9
    assert rows[0][-1]['loss'] < rows[0][0]['loss']


def test_the_curriculum_names_the_lesson_of_each_pool():
    curriculum = {'0': {'history': (2, 4), 'click_share': 0.1, 'recall_share': 0.5, 'prompt_weight': 0.3},
                  '20': {'history': [2, 10], 'click_share': 0.3, 'recall_share': 0.0, 'prompt_weight': 0.1}}
    first = pretraining.Lesson(stories.Mixture((2, 4), 0.1, 0.5), 0.3)
    assert [pretraining.lesson_of(curriculum, pool) for pool in (0, 19)] == [first] * 2
    later = pretraining.Lesson(stories.Mixture((2, 10), 0.3, 0.0), 0.1)
    assert [pretraining.lesson_of(curriculum, pool) for pool in (20, 500)] == [later] * 2
