"""RecBole 1.2.1 as the peer of `bench/recommenders.py`, with the shims that it needs on today's libraries.

    pip install --no-deps recbole==1.2.1        # in an environment of its own, with torch and what follows
    pip install pandas scipy scikit-learn colorlog colorama tqdm pyyaml texttable tensorboard thop tabulate plotly
    pip install psutil
    python bench/recbole_peer.py --model BPR --data DIR/ml-100k --seed 0 [--set epochs=3 …]

DIR/ml-100k holds RecBole's atomic files, as `bench/recommenders.py` writes them. With `NAME.train.inter`,
`NAME.valid.inter` and `NAME.test.inter` the split is theirs; with `NAME.inter` it is leave-one-out by time,
ranking all items. Prints one JSON line: figures of validation and test, epochs, and the seconds of each.
RecBole's models of sequences rank what a user has met too; `test_masked` has them without, as its other models.
`--fast` runs SASRec by bench/recbole_sasrec.py: the same computation in distribution, many times as fast on a
CPU; its epochs are no measure of RecBole's speed. `--check_fast` shows that, dropout off, both compute the same.

The shims change no arithmetic: names that NumPy, SciPy and pandas have dropped since, `torch.load` of a
file that RecBole itself has just written, and `ray`, which it imports for tuning.
"""

import argparse
import json
import logging
import math
import pathlib
import sys
import tempfile
import time
import types
import warnings


def install_shims() -> None:
    """Makes `import recbole` work with NumPy 2, SciPy 1.12 and later, pandas 3, torch 2.6 and later, no ray."""
    import numpy as np
    import pandas
    import scipy.sparse
    import torch

    for name, kind in (('float', float), ('int', int), ('bool', bool), ('object', object), ('float_', np.float64),
                       ('complex_', np.complex128), ('unicode_', np.str_)):
        if name not in np.__dict__:
            setattr(np, name, kind)
    if not hasattr(scipy.sparse.dok_matrix, '_update'):  # LightGCN fills its adjacency matrix so
        def update(matrix, entries):
            for key, value in entries.items():
                matrix[key] = value
        scipy.sparse.dok_matrix._update = update
    # It fills gaps by `df[field].fillna('', inplace=True)`, which pandas 3 does to a copy: an item without any
    # attribute stays NaN. Not read as NaN in the first place, it is the '' that was meant.
    read_csv = pandas.read_csv
    pandas.read_csv = lambda *args, **kwargs: read_csv(*args, **{'keep_default_na': False} | kwargs)
    aggregate = pandas.Series.agg  # of `len`: the length of each value no more, but of the whole
    pandas.Series.agg = lambda column, function, *args, **kwargs: (
        column.map(len) if function is len else aggregate(column, function, *args, **kwargs))
    load = torch.load
    torch.load = lambda *args, **kwargs: load(*args, **{'weights_only': False} | kwargs)
    sys.modules['ray'] = ray = types.ModuleType('ray')
    ray.tune = sys.modules['ray.tune'] = types.ModuleType('ray.tune')


def load(model_name: str, data: pathlib.Path, seed: int, settings: dict) -> tuple:
    """RecBole's config, its loaders of the three splits, and the model at its start."""
    install_shims()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    pre_split = (data / f'{data.name}.train.inter').exists()
    own = {'data_path': str(data.parent), 'seed': seed, 'show_progress': False, 'use_gpu': False,
           'checkpoint_dir': tempfile.mkdtemp(prefix='recbole-')}
    if pre_split:
        columns = {kind: (data / f'{data.name}.{kind}').read_text().split('\n', 1)[0].split('\t')
                   for kind in ('user', 'item')}
        own |= {'benchmark_filename': ['train', 'valid', 'test'], 'threshold': None,
                'load_col': {'inter': ['user_id', 'item_id', 'label'],
                             **{kind: [c.split(':')[0] for c in names] for kind, names in columns.items()}}}
    else:
        own |= {'load_col': {'inter': ['user_id', 'item_id', 'timestamp']},
                'eval_args': {'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'mode': 'full', 'group_by': 'user'}}
    sys.argv = sys.argv[:1]  # RecBole reads it too
    config = Config(model=model_name, dataset=data.name, config_dict=own | settings)
    init_seed(config['seed'], config['reproducibility'])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config['seed'] + config['local_rank'], config['reproducibility'])
    return config, loaders, get_model(config['model'])(config, loaders[0]._dataset).to(config['device'])


def run(model_name: str, data: pathlib.Path, seed: int, settings: dict, fast: bool = False) -> dict:
    """Trains, keeps the best of validation, tests: RecBole's own `run_recbole` with a clock in it."""
    begin = time.perf_counter()
    config, (train, valid, test), model = load(model_name, data, seed, settings)
    import torch
    from recbole.utils import get_trainer
    if fast:
        import recbole_sasrec
        recbole_sasrec.install(model)
    prepared = time.perf_counter()
    trainer = get_trainer(config['MODEL_TYPE'], config['model'])(config, model)
    train_seconds, valid_seconds = (_clock(trainer, name) for name in ('_train_epoch', '_valid_epoch'))
    best, figures = trainer.fit(train, valid, verbose=False, saved=True, show_progress=False)
    fitted = time.perf_counter()
    result = trainer.evaluate(test, load_best_model=True, show_progress=False)
    return {'peer': 'RecBole', 'version': '1.2.1', 'torch': torch.__version__, 'threads': torch.get_num_threads(),
            'model': model_name, 'seed': seed, 'settings': settings, 'fast': fast, 'epochs': len(train_seconds),
            'valid': dict(figures), 'test': dict(result), **masked(config, model, (train, valid), test), 'parameters': sum(p.numel() for p in model.parameters()),
            'seconds': {'prepare': prepared - begin, 'fit': fitted - prepared, 'test': time.perf_counter() - fitted},
            'train_seconds': train_seconds, 'valid_seconds': valid_seconds}


def masked(config, model, seen_in: tuple, test) -> dict[str, dict[str, float]]:
    """`test_masked` of a model of sequences as it stands: Recall@10 and NDCG@10 among items that the user has not met.

    `seen_in`: the loaders whose sequences and targets a user has met. {} for other models, whose lists are so already.
    """
    from recbole.utils import ModelType
    import torch
    if config['MODEL_TYPE'] != ModelType.SEQUENTIAL:
        return {}
    met = {}
    for loader in seen_in:
        feat = loader._dataset.inter_feat
        for user, target, items, length in zip(*(feat[name].tolist() for name in (
                model.USER_ID, model.ITEM_ID, model.ITEM_SEQ, model.ITEM_SEQ_LEN))):
            met.setdefault(user, {0}).update((target, *items[:length]))  # 0 pads
    ranks = []
    with torch.no_grad():
        for interaction, _, _, targets in test:
            scores = model.eval().full_sort_predict(interaction).view(-1, model.n_items)
            for row, user in enumerate(interaction[model.USER_ID].tolist()):
                scores[row, list(met[user])] = -math.inf
            ranks.append((scores > scores[torch.arange(len(scores)), targets][:, None]).sum(dim=1) + 1)
    ranks = torch.cat(ranks).double()
    hits = ranks <= 10
    return {'test_masked': {'recall@10': hits.double().mean().item(),
                            'ndcg@10': (hits / torch.log2(ranks + 1)).mean().item()}}


def _clock(trainer, name: str) -> list[float]:
    """The seconds of each call of the trainer's method, in a list that grows; what it returns goes to stderr."""
    method, seconds = getattr(trainer, name), []

    def timed(*args, **kwargs):
        begin = time.perf_counter()
        found = method(*args, **kwargs)
        seconds.append(time.perf_counter() - begin)
        print(f'{name} {len(seconds)}: {seconds[-1]:.1f} s {found}', file=sys.stderr, flush=True)
        return found

    setattr(trainer, name, timed)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, help="RecBole's name: BPR, LightGCN, SASRec, DeepFM, …")
    parser.add_argument('--data', type=pathlib.Path, required=True)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--set', action='append', default=[], metavar='KEY=JSON', help='further settings')
    parser.add_argument('--threads', type=int, help="of torch; its own choice if not given")
    parser.add_argument('--fast', action='store_true', help='SASRec by bench/recbole_sasrec.py')
    parser.add_argument('--check_fast', action='store_true', help='show how far --fast is from RecBole, and end')
    args = parser.parse_args()
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    settings = {key: json.loads(value) for key, value in (entry.split('=', 1) for entry in args.set)}
    if (args.fast or args.check_fast) and args.model != 'SASRec':
        parser.error(f'--fast is for --model SASRec, not {args.model}')
    if args.threads:
        import torch
        torch.set_num_threads(args.threads)
    if args.check_fast:
        import recbole_sasrec
        _, (train, _, _), model = load(args.model, args.data.resolve(), args.seed, settings)
        print(json.dumps(recbole_sasrec.difference(model, next(iter(train)))))
        return
    print(json.dumps(run(args.model, args.data.resolve(), args.seed, settings, args.fast)), flush=True)


if __name__ == '__main__':
    main()
