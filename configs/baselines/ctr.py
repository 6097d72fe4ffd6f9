"""The ID-based block of ExpCTR's table 1: click prediction without explanations, on ExpCTR's split.

    python -m xrec_jax.train --config configs/baselines/ctr.py:ml-100k --workdir runs/ctr \\
        --config.data.data_dir=../shared/data/ml-100k

Every model is trained from five starts at once, stopped and chosen on validation; mean and spread on both
splits are printed and written to `table.csv` and `table.md`; `ml-100k,fm,din` takes these two alone. A
model's own settings stand in `config.<name>.model`, as `--config.fm.model.embed_dim=16`; the training that all
share in `config.fit`. What comes out stands in docs/recommenders.md.
"""

from ml_collections import ConfigDict

from configs import expctr
from configs.baselines import parse, sweep

TITLES = {'lr': 'LR', 'fm': 'FM', 'dssm': 'DSSM', 'deepfm': 'DeepFM', 'autoint': 'AutoInt', 'pnn': 'PNN',
          'xdeepfm': 'xDeepFM', 'fignn': 'Fi-GNN', 'dcn': 'DCN', 'dcnv2': 'DCNv2', 'din': 'DIN', 'dien': 'DIEN',
          'sasrec': 'SASRec', 'bert4rec': 'BERT4Rec', 'gru4rec': 'GRU4Rec', 'caser': 'Caser'}


def get_config(argument: str = 'ml-100k') -> ConfigDict:
    dataset, models = parse(argument, TITLES)
    config = ConfigDict()
    config.seed = 0
    config.schedule = (*(f'fit({name})' for name in models), 'judge(ctr)')
    config.mesh = ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1, 'dcn_data': 1})
    config.data = expctr.data_config(config, dataset)
    config.fit = expctr.get_config(dataset).fit
    config.fit.seeds = 5
    config.fit.model = ConfigDict({'name': 'deepfm'})
    for name in models:
        config[name] = ConfigDict({'model': {'name': name, 'embed_dim': 10}})
    config.sweep = sweep.settings(config.fit.training, ('embed_dim', 'dropout', 'batch_norm'))
    config.judge = ConfigDict({'task': 'click', 'scorers': {TITLES[name]: f'predictor({name})' for name in models}})
    return config
