"""The ranking models, as LLMXRec's first stage takes them: leave-one-out by time, all items ranked.

    python -m xrec_jax.train --config configs/baselines/ranking.py:ml-100k --workdir runs/ranking \\
        --config.data.data_dir=../shared/data/ml-100k

Every model is trained from five starts at once, stopped and chosen on validation; mean and spread on both
splits are printed and written to `table.csv` and `table.md`; `ml-100k,bpr,sasrec` takes these two alone.
A model's own settings stand in `config.<name>.model`, as `--config.bpr.model.embed_dim=32`; the training that all
share in `config.fit`. What comes out stands in docs/recommenders.md.
"""

from ml_collections import ConfigDict

from configs import expctr
from configs.baselines import parse, sweep
from xrec_jax.phases.fit_ranking import MODELS

TITLES = {'popularity': 'Popularity', 'bpr': 'BPR-MF', 'lightgcn': 'LightGCN', 'sasrec': 'SASRec',
          'bert4rec': 'BERT4Rec', 'gru4rec': 'GRU4Rec', 'caser': 'Caser'}


def get_config(argument: str = 'ml-100k') -> ConfigDict:
    dataset, models = parse(argument, MODELS)
    config = ConfigDict()
    config.seed = 0
    config.schedule = (*(f'fit({name})' for name in models), 'judge(ranking)')
    config.mesh = ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1, 'dcn_data': 1})
    config.data = expctr.data_config(config, dataset)
    for key in ('num_samples', 'split'):  # of ExpCTR's protocol
        del config.data[key]
    config.data.update({'protocol': 'leave_one_out', 'history_length': 50, 'train_share': 1.0})
    config.data.threshold = None  # every interaction counts, rated or not
    config.fit = ConfigDict({
        'task': 'ranking',
        'seeds': 5,
        'model': {'name': 'bpr'},
        'training': {'learning_rate': 1e-3, 'batch_size': 2048, 'epochs': 300, 'patience': 11, 'monitor': 'mrr@10'},
        # Models of histories. loss: 'softmax' over all items, or 'binary' with one negative a target. stride: targets
        # that one pass over a history learns from, 0: all. mask_ratio and last_share: BERT4Rec's cloze task.
        'sequence': {'loss': 'softmax', 'stride': 0, 'mask_ratio': 0.2, 'last_share': 0.5},
        'mask_seen': True,  # whether what a user has met is kept from the lists
        'checkpoint_every': 20,  # epochs
    })
    for name in models:
        config[name] = ConfigDict({'model': {'name': name} | ({} if name == 'popularity' else {'embed_dim': 64})})
    for name in {'bpr', 'lightgcn', 'sasrec'}.intersection(models):
        # The first two begin as lists of the popular, and it takes many epochs of no gain to leave that behind; SASRec
        # finds better ones after pauses of more than 11 epochs.
        config[name].training = ConfigDict({'patience': 30})
    if 'caser' in models:
        config.caser.sequence = ConfigDict({'stride': 1})  # so that each prediction has all of its few items to go by
    config.sweep = sweep.settings(config.fit.training, ('embed_dim', 'l2', 'num_layers', 'layers', 'heads', 'dropout'))
    config.judge = ConfigDict({
        'task': 'ranking',
        'ks': (5, 10, 20),
        'scorers': {TITLES[name]: f'predictor({name})' for name in models},
    })
    return config
