"""ExpCTR (Yu, Zhang, Chen: Explainable CTR Prediction via LLM Reasoning), section 4.

    python -m xrec_jax.train --config configs/expctr.py:ml-100k --workdir runs/ml-100k \
        --config.data.data_dir=../shared/data/ml-100k

The argument after the colon names the dataset: one of the catalog, see xrec_jax/data/README.md.

What comes out with the embedded model stands in docs/expctr.md.
"""

import dataclasses

from ml_collections import ConfigDict

from xrec_jax.data import catalog
from xrec_jax.data.filters import Filters

# Stage 1, then stages 2 and 3 twice (section 4.3.2). `explain(corpus)` also explains the validation
# split, which `fit` stops by.
ROUND = ('explain(corpus)', 'fit(aug)', 'align(ic)')
SCHEDULE = ('explain(icl)', 'fit(ids)', 'align(lc)', *ROUND, *ROUND, 'explain(final)', 'judge(ctr)')


def get_config(dataset: str = 'ml-100k') -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.schedule = SCHEDULE
    config.mesh = ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1, 'dcn_data': 1})

    config.data = data_config(config, dataset)
    config.prompt = ConfigDict({
        'explain': 'expctr/explain',
        'click': 'expctr/click',
        # 'named': titles with genres (a small model knows no film by its title); 'judged': in the history
        # each genre with "liked" or "disliked", as `tiny` has learned it; 'none': as in the paper.
        'attributes': 'judged',
    })
    config.language = ConfigDict({
        'model': 'tiny',  # or a Hugging Face LLaMA directory
        'dtype': 'float32',
        'remat': False,
        'attention': 'auto',  # of whole sequences: 'xla', 'cudnn' (GPU), 'tpu'; auto: what the platform has
        'lora_rank': 8,
        'lora_alpha': 16.0,
        'lora_targets': ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'),
        'lora_dropout': 0.0,  # of the adapter's input, in `tune`
        'lora_rslora': False,  # scale by alpha / √rank
        'quantize': 'none',  # or 'int8', 'int4': the frozen projections, xrec_jax/language/quantize.py
    })
    config.encoder = ConfigDict({'model': 'minilm'})  # or a BERT directory
    config.generate = ConfigDict({'max_length': 48, 'temperature': 1.0, 'top_k': 0, 'top_p': 1.0, 'min_p': 0.0,
                                  'repetition_penalty': 1.0, 'min_length': 1})
    config.lc_score = ConfigDict({'form': 'logits', 'temperature': 1.0})  # eq. 8

    # What each verb does; a phase's own settings, by its name, follow below.
    config.explain = ConfigDict({
        'adapter': True,
        'splits': ('valid', 'test'),
        'max_examples': 0,  # of the train split; 0: all
        'encode': True,
        'batch_size': 64,
        'checkpoint_every': 10,  # batches
    })
    config.fit = ConfigDict({
        'task': 'click',  # or 'rating': the place of the rating on its scale
        'text': False,
        'seeds': 1,  # trained at once, each from its own start
        'fields': ('user_id', 'item_id', 'profile', 'attributes'),
        'model': {'name': 'deepfm', 'embed_dim': 10, 'mlp': (64, 32), 'dropout': 0.2, 'text_projection': 16,
                  'text_projection_dropout': 0.0},
        'training': {'learning_rate': 3e-3, 'weight_decay': 1e-2, 'embedding_decay': 1e-2, 'batch_size': 256,
                     'epochs': 50, 'patience': 5, 'monitor': 'log_loss', 'text_dropout': 0.2},
        'checkpoint_every': 5,  # epochs
    })
    config.align = ConfigDict({
        'reward': 'lc',
        'predictor': 'aug',  # of the IC reward
        'iterations': 24,
        'rollout_size': 128,
        'encode': True,
        'center_by_label': True,  # a control variate: rl/rewards.py; False is the paper
        'reward_clip': 1.0,  # delta of eq. 10
        'truncation_penalty': 1.0,
        'kl_coef': 0.05,  # beta of eq. 7
        'kl_target': 0.0,  # > 0: adapt kl_coef so that a text's KL comes to this many nats
        'kl_horizon': 1000.0,
        'ppo': {'gamma': 1.0, 'lam': 1.0, 'whiten_rewards': False, 'clip_range': 0.2, 'value_clip_range': 0.2,
                'value_coef': 0.1, 'entropy_coef': 0.0, 'kl_loss_coef': 0.0},
        'learner': {'epochs': 1, 'minibatch_size': 32, 'microbatch_size': 32, 'learning_rate': 1e-3,
                   'warmup_steps': 10, 'max_grad_norm': 1.0, 'adam_epsilon': 1e-5},
        'checkpoint_every': 4,  # iterations
    })
    config.judge = ConfigDict({
        'task': 'click',
        'scorers': {'DeepFM': 'predictor(ids)', 'ICL': 'llm(icl)', 'ExpCTR-LLM': 'llm(final)',
                    'ExpCTR-Aug': 'predictor(aug, final)'},
        # Two phases `explain` to compare, and the scorers that are shown beside their texts.
        'before': {'explain': 'icl', 'scorers': ('ICL', 'DeepFM')},
        'after': {'explain': 'final', 'scorers': ('ExpCTR-LLM', 'ExpCTR-Aug')},
        'examples': 5,
        # Of task 'text', which a schedule may end with: 'judge(text)'.
        'texts': {
            'explanations': ('icl', 'final'),  # phases `explain`
            'splits': ('test',),
            'scorer': 'language',  # LMScore by the base model; a BART directory: BARTScore; or 'none'
            'num_terms': 3,  # aspect terms an item, where its interactions have none of their own
        },
    })

    # The phases of the schedule, where they differ from their verb's settings.
    config.icl = ConfigDict({'adapter': False, 'encode': False})
    config.aug = ConfigDict({'text': True})
    config.lc = ConfigDict({'reward': 'lc', 'iterations': 16})
    config.corpus = ConfigDict({'splits': ('train', 'valid'), 'max_examples': 400})
    config.ic = ConfigDict({'reward': 'ic', 'iterations': 3})
    config.text = ConfigDict({'task': 'text'})
    return config


def data_config(config: ConfigDict, dataset: str) -> ConfigDict:
    """The data of section 5.1.1: `config.data`, whose simulated world is drawn by `config.seed`."""
    data = ConfigDict({
        'name': dataset,
        'data_dir': f'data/{dataset}',  # raw files, or what `xrec_jax.prepare` wrote
        'options': catalog.entry(dataset).options,  # of the dataset's reader: xrec_jax/data/README.md
        'filters': dataclasses.asdict(Filters()),  # xrec_jax/data/filters.py
        'on_bad_row': 'raise',  # or 'skip'
        'protocol': 'random_target',  # its options follow; xrec_jax/data/protocols
        'num_samples': 4000,
        'history_length': 10,
        'threshold': 4.0,
        'comparison': 'at_least',  # or 'above', as the paper words it: see data/protocols/drawn.py
        'split': (8, 1, 1),
    })
    if dataset == 'simulated':
        data.update({'data_dir': ''})
        data.options.seed = config.get_ref('seed')
    return data
