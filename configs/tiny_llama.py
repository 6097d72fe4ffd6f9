"""The embedded model `tiny`: a LLaMA of 2.9 M parameters and its tokenizer, from stories alone.

    python -m xrec_jax.pretrain --config configs/tiny_llama.py --workdir runs/tiny

About 40 minutes on two idle CPU cores. Expect 0.375 nats per held-out response token, the target's title
copied in 97 % of greedy reasons, and an AUC of 0.67 after careful reasons (xrec_jax/language/tiny/README.md).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.model = ConfigDict({
        'vocab_size': 2048, 'hidden_size': 256, 'intermediate_size': 512, 'num_layers': 4, 'num_heads': 4,
        'num_kv_heads': 2, 'head_dim': 64, 'max_position_embeddings': 1024, 'tie_word_embeddings': True,
    })
    config.tokenizer = ConfigDict({'num_texts': 20_000, 'history': (2, 10), 'click_share': 0.3})
    # From pool 0, 20, 40, … on. Short prompts and much recall first: so it learns to copy. Once it can,
    # the words of prompts teach it no more, and the few words of an answer should be heard. What a
    # verdict is worth is learned from verdicts that came true, then from all (three of four do).
    config.curriculum = ConfigDict({
        '0': {'history': (2, 4), 'click_share': 0.1, 'recall_share': 0.5, 'prompt_weight': 0.3},
        '20': {'history': (2, 6), 'click_share': 0.3, 'recall_share': 0.1, 'prompt_weight': 0.3},
        '40': {'history': (2, 10), 'click_share': 0.4, 'recall_share': 0.05, 'prompt_weight': 0.05},
        '60': {'history': (2, 10), 'click_share': 0.4, 'recall_share': 0.05, 'prompt_weight': 0.02,
               'only_true': True},
        '84': {'history': (2, 10), 'click_share': 0.85, 'recall_share': 0.02, 'prompt_weight': 0.0,
               'only_true': True},
        '96': {'history': (2, 10), 'click_share': 0.5, 'recall_share': 0.02, 'prompt_weight': 0.02},
    })
    config.pool = ConfigDict({'num_batches': 16, 'tokens_per_batch': 4096})
    config.training = ConfigDict({
        'steps': 2080, 'learning_rate': 3e-3, 'warmup_steps': 100, 'weight_decay': 0.01,
        'max_grad_norm': 1.0,
    })
    config.probe = ConfigDict({'count': 512, 'history': 8, 'max_length': 64})
    config.log_every = 10
    config.checkpoint_every = 4  # pools
    return config
