"""The recommenders beside RecBole 1.2.1 on MovieLens-100k: speed and accuracy.

    python bench/recommenders.py --peer /path/to/python-with-recbole      # everything, hours on two cores
    python bench/recommenders.py --only speed --models BPR,DeepFM         # ours alone: no --peer

The peer runs in an interpreter of its own: bench/recbole_peer.py says how to make one. Both sides get the same
interactions, in the same order, from `--data_dir`. Prints a JSON line a measurement, each in a process of its
own, and a table at the end of each part. A ratio is theirs / ours: above 1, we are faster.

  speed         one epoch of training and one full evaluation (validation), separately; batches of 2048 and equal
                embedding sizes, both on CPU. Ours: median of epochs after compilation, which stands apart. Theirs:
                median of epochs after the first, or the first where `PEER_EPOCHS` has one. BPR, LightGCN, SASRec:
                leave-one-out, all items ranked. SASRec is timed in two forms:
                  prefixes   each prefix of a sequence is a row whose last position is trained: RecBole's own
                             computation (it drops the 943 rows without history, we keep them)
                  positions  a row is 50 targets, all trained in one pass: the same targets in an epoch and as many
                             in a step (2048 / 50 rows), for far less work
                The CTR models: 80 / 10 / 10 % of all ratings by each user's time, widths as in RecBole; beside them
                the FLOPs of their matrix products, how near ours come to the machine's peak (a product of 2048³ in
                float32, the best of 5 in the same process), and the ratio that a program at that peak would reach:
                no other could be faster in float32, whatever else it saves.
                `parameters` shows how far the two sides are the same model (ours with tables' padding to 128 rows).
  ctr-accuracy  test AUC and LogLoss on ExpCTR's split, five seeds: `configs/baselines/ctr.py` as it stands, and
                RecBole's defaults (but `embedding_size`, ours) with its own early stopping by validation AUC, its
                default, and by validation LogLoss, as ours
  accuracy      test Recall@10 and NDCG@10 of BPR, LightGCN and SASRec, leave-one-out, five seeds of each side
                at RecBole's defaults, also of when to stop. SASRec is trained in the form `positions` (`--stride`
                has others) and, as in RecBole, ranks items that a user has met; the same models with those
                masked stand beside. RecBole's runs take hours: each leaves its line as MODEL.SEED.json in
                `--peer_results DIR` (bench/results/recbole, where some are kept), and what stands there is not
                run again. Its SASRec runs by `--fast` of bench/recbole_peer.py.

Both sides hold out by time, ties by the order of the file. RecBole scales times to [0, 1] in float32, where
two that are a second apart may be equal: 4 of MovieLens-100k's 943 users have another test item there.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import sides  # noqa: E402

BATCH_SIZE = 2048
LENGTH = 50  # of the histories that SASRec sees
SEEDS = 5
RANKING = ('BPR', 'LightGCN', 'SASRec')

# Our name and settings, where they are not those of RecBole by default; RecBole's own settings likewise.
CTR: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    'LR': ('lr', {}, {}),
    'FM': ('fm', {}, {}),
    'DeepFM': ('deepfm', {'mlp': (128, 128, 128)}, {}),
    'AutoInt': ('autoint', {'attention_dim': 8}, {}),  # of each of two heads
    'PNN': ('pnn', {}, {}),
    'xDeepFM': ('xdeepfm', {'mlp': (128, 128, 128)}, {'direct': True}),  # maps are not split in either
    'DCN': ('dcn', {}, {}),
    'DCNV2': ('dcnv2', {'batch_norm': True}, {}),
}
CTR_EMBEDDING = 10
COMPARED = ('FM', 'DeepFM', 'AutoInt', 'DCNV2')  # of the CTR models, by accuracy
PEER_EPOCHS = {'BPR': 8, 'LightGCN': 4, 'SASRec': 1}  # that are timed; of the CTR models 4


# ---------------------------------------------------------------------------------------- data


def ctr_config(data_dir: str, models: Sequence[str]):
    """The config of ExpCTR's ID-based block, of some models by our names, with the ratings of `data_dir`."""
    from configs.baselines import ctr
    config = ctr.get_config(','.join(['ml-100k', *models]))
    config.data.data_dir = data_dir
    return config


def ratings(data_dir: str):
    from xrec_jax.data import catalog
    return catalog.load('ml-100k', data_dir)


def expctr_examples(data_dir: str):
    from xrec_jax.phases import task
    return task.make_examples(ratings(data_dir), ctr_config(data_dir, ()))


def all_ratings(data_dir: str):
    """Every rating, a like or not: large enough that an epoch is worth timing."""
    from xrec_jax.data import protocols
    return protocols.user_temporal(ratings(data_dir), history_length=LENGTH, split=(8, 1, 1), seed=0)


def everything(data_dir: str):
    """Leave-one-out: every rating is a like."""
    from xrec_jax.data import protocols
    return protocols.leave_one_out(ratings(data_dir), history_length=LENGTH, seed=0)


def write_ranking(dataset, folder: pathlib.Path) -> None:
    """RecBole's atomic file of all interactions, which it splits itself."""
    columns = (dataset.interactions[name].to_pylist() for name in ('user_id', 'item_id', 'timestamp'))
    _write(folder / f'{folder.name}.inter', 'user_id:token item_id:token timestamp:float', *columns)


def write_ctr(examples: Mapping, fields, folder: pathlib.Path) -> None:
    """RecBole's atomic files of splits that are made, with the very fields that our predictors embed."""
    for split, rows in examples.items():
        _write(folder / f'{folder.name}.{split}.inter', 'user_id:token item_id:token label:float',
               rows.user, rows.item, rows.label.astype(int))
    profile = [name.replace('.', '_') for name in fields.names if name.startswith('profile.')]
    users, items, attributes = (np.asarray(x) for x in (fields.user_fields, fields.item_fields, fields.item_attributes))
    if not (users > 0).all() or fields.names[0] != 'user_id' or items.shape[1] != 1:
        raise ValueError(f'fields {fields.names}: RecBole gets user_id, item_id, and profiles without gaps')
    _write(folder / f'{folder.name}.user', ' '.join(['user_id:token', *(f'{name}:token' for name in profile)]),
           np.arange(len(users)), *users[:, 1:].T)
    several = [' '.join(str(x) for x in row if x) for row in attributes]
    _write(folder / f'{folder.name}.item', 'item_id:token attributes:token_seq', np.arange(len(items)), several)


def _write(path: pathlib.Path, header: str, *columns: Sequence) -> None:
    with open(path, 'w') as file:
        file.write(header.replace(' ', '\t') + '\n')
        file.writelines('\t'.join(map(str, row)) + '\n' for row in zip(*columns))


# -------------------------------------------------------------------------- ours: measurements


def timed(step: Callable[[], Any], times: int) -> dict[str, float]:
    """Seconds of `step`: the median of `times` after a first, and what the first took longer (compilation)."""
    import jax
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        jax.block_until_ready(step())
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    return {'seconds': median, 'compile': seconds[0] - median, 'times': times}


def product_flops(function: Callable, *arguments: Any) -> int:
    """FLOPs of the matrix products in `function`: 2 a multiplication, in a loop as often as it runs."""
    import jax

    def of(jaxpr) -> int:
        return sum(of_equation(equation) for equation in jaxpr.eqns)

    def of_equation(equation) -> int:
        if equation.primitive.name == 'dot_general':
            (summed, _), _ = equation.params['dimension_numbers']
            shape = equation.invars[0].aval.shape
            return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in summed)
        inner = [getattr(x, 'jaxpr', x) for x in jax.tree.leaves(list(equation.params.values()))]
        return equation.params.get('length', 1) * sum(of(x) for x in inner if hasattr(x, 'eqns'))

    return of(jax.make_jaxpr(function)(*arguments).jaxpr)


def peak_flops(size: int = 2048) -> float:
    """FLOPs a second of a product of two float32 matrices."""
    import jax
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    return 2 * size ** 3 / min(timed(lambda: product(x), 1)['seconds'] for _ in range(5))


def ranking_model(name: str, num_users: int, num_items: int):
    """A model with RecBole's defaults, and what it is trained for."""
    from xrec_jax.recommenders import ranking, sequences
    from xrec_jax.recommenders.lightgcn import LightGCN
    from xrec_jax.recommenders.mf import BPRMF
    from xrec_jax.recommenders.sasrec import SASRec
    if name == 'SASRec':
        model = SASRec(num_items, max_length=LENGTH)
        return model, sequences.next_item_loss(model)
    model = BPRMF(num_users, num_items) if name == 'BPR' else LightGCN(num_users, num_items, num_layers=2, l2=1e-5)
    return model, ranking.pairwise(model)


def speed_ranking(data_dir: str, model: str, form: str = '') -> dict:
    """`form` is SASRec's: 'prefixes' or 'positions'."""
    import jax
    from xrec_jax.recommenders import ranking
    dataset, examples = ratings(data_dir), everything(data_dir)
    sizes = dataset.users.num_rows, dataset.items.num_rows
    module, loss = ranking_model(model, *sizes)
    stride = LENGTH if form == 'positions' else 1
    data, queries = ranking.make_data(module, examples, *sizes, stride=stride)
    config = ranking.RankingConfig(batch_size=BATCH_SIZE)  # targets: with a stride, as many fewer rows
    # An epoch ends with a look at validation; here at one user, as that look is measured by itself.
    one = dict(examples, valid=first(examples['valid'], 1))
    _, short = ranking.make_data(module, one, *sizes, stride=stride)
    state = ranking.init_state(module, data, jax.random.key(0))

    def epoch():
        nonlocal state
        state, metrics = ranking.run_epoch(module, loss, config, state, data, short['valid'])
        return metrics

    train = timed(epoch, 1 if form == 'prefixes' else 5)
    evaluate = timed(lambda: ranking.evaluate(module, state.params, data, queries['valid'], (10,)), 10)
    rows, size = len(data.targets.user), BATCH_SIZE // stride
    return {'train': train, 'evaluate': evaluate, 'rows': rows, 'steps': -(-rows // size),
            'parameters': parameters(state), 'device': device()}


def first(examples, number: int):
    """The first examples of a split."""
    past = dataclasses.replace(examples.past, stop=examples.past.stop[:number], length=examples.past.length[:number])
    return dataclasses.replace(examples, past=past, **{
        name: getattr(examples, name)[:number] for name in ('user', 'item', 'rating', 'label', 'interaction')})


def speed_ctr(data_dir: str, model: str) -> dict:
    import jax
    from xrec_jax.metrics import ctr
    from xrec_jax.phases.fit_predictor import MODELS
    from xrec_jax.recommenders import scoring, training
    from xrec_jax.recommenders.rows import make_rows
    fields, examples = fields_of(data_dir), all_ratings(data_dir)
    name, settings, _ = CTR[model]
    module = MODELS[name](vocab_size=fields.vocab_size, num_user_fields=fields.user_fields.shape[1],
                          embed_dim=CTR_EMBEDDING, **settings)
    config = training.TrainConfig(batch_size=BATCH_SIZE, learning_rate=1e-3)
    train, valid = (make_rows(examples[split], history=module.uses_history) for split in ('train', 'valid'))
    one = make_rows(first(examples['valid'], 1), history=module.uses_history)
    state = training.init_state(module, config, fields, jax.random.key(0))

    def epoch():
        nonlocal state
        state, metrics = training.run_epoch(module, config, fields, state, train, one)
        return metrics

    def evaluate():
        scores = np.asarray(scoring.predict(module, state.params, fields, valid))
        return ctr.ctr_metrics(examples['valid'].label, scores)

    rows = len(examples['train'].user)
    epoch_of = lambda state: training.run_epoch(module, config, fields, state, train, one)
    flops = {'train': product_flops(epoch_of, state),
             'evaluate': product_flops(lambda params: scoring.predict(module, params, fields, valid), state.params)}
    found = {'train': timed(epoch, 5), 'evaluate': timed(evaluate, 10)}
    return {**found, 'flops': flops, 'peak': peak_flops(), 'rows': rows, 'steps': -(-rows // BATCH_SIZE),
            'parameters': parameters(state), 'device': device()}


def fields_of(data_dir: str):
    from xrec_jax.recommenders import fields
    return fields.build_fields(ratings(data_dir), tuple(ctr_config(data_dir, ()).fit.fields))


def parameters(state) -> int:
    import jax
    return sum(x.size for x in jax.tree.leaves(state.params))


def device() -> str:
    import jax
    return f'{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores'


def ctr_accuracy(data_dir: str, models: Sequence[str]) -> dict:
    """By our title of a model and by split: the figures of each seed, with the config as it stands."""
    from xrec_jax.phases import schedule, task
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(sys.stderr):
        made = task.make_task(ctr_config(data_dir, models), pathlib.Path(workdir))
        schedule.run_schedule(made)
        return json.loads((pathlib.Path(workdir) / 'summary.json').read_text())['ctr_of_seeds']


def ranking_accuracy(data_dir: str, model: str, stride: int) -> dict:
    """Figures of each seed on the test split, and with what a user has met masked in them or not."""
    import jax
    from xrec_jax.recommenders import ranking
    dataset, examples = ratings(data_dir), everything(data_dir)
    sizes = dataset.users.num_rows, dataset.items.num_rows
    module, loss = ranking_model(model, *sizes)
    stride = stride if model == 'SASRec' else 1
    data, masked = ranking.make_data(module, examples, *sizes, stride=stride)
    _, queries = ranking.make_data(module, examples, *sizes, stride=stride, mask_seen=model != 'SASRec')
    start = time.perf_counter()
    states = ranking.init_seeds(module, data, jax.random.split(jax.random.key(0), SEEDS))
    states = ranking.fit(module, loss, ranking.RankingConfig(batch_size=BATCH_SIZE), data, queries['valid'],
                         state=states)
    seconds = time.perf_counter() - start
    figures = {name: [ranking.evaluate(module, jax.tree.map(lambda x: x[n], states.best_params), data, asked['test'],
                                       (10,)) for n in range(SEEDS)]
               for name, asked in {'as RecBole': queries, 'masked': masked}.items()}
    return {'seconds': seconds, 'epochs': np.asarray(states.epoch).tolist(), 'stride': stride, **{
        name: {metric: [float(of_seed[metric]) for of_seed in values] for metric in ('recall@10', 'ndcg@10')}
        for name, values in figures.items()}}


MEASUREMENTS = {run.__name__: run for run in (speed_ranking, speed_ctr, ctr_accuracy, ranking_accuracy)}


def measure(name: str, **arguments: Any) -> dict:
    """Runs one of `MEASUREMENTS` in a process of its own, on CPU."""
    found = subprocess.run([sys.executable, __file__, '--measure', name, '--arguments', json.dumps(arguments)],
                           stdout=subprocess.PIPE, check=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
    return json.loads(found.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------ the peer


class Peer:
    """RecBole in the interpreter `python`; its files stand in `folder`, as it wants them: NAME/NAME.inter."""

    def __init__(self, python: str, folder: pathlib.Path):
        self.python, self.folder = python, folder

    def data(self, name: str, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
        """The folder `name`, filled by `write` when first asked for."""
        path = self.folder / name
        if not path.exists():
            path.mkdir()
            write(path)
        return path

    def run(self, model: str, data: pathlib.Path, seed: int = 0, fast: bool = False, **settings: Any) -> dict:
        """The line of bench/recbole_peer.py."""
        if model == 'SASRec':
            settings['train_neg_sample_args'] = None  # what its cross-entropy wants
        given = [f'--set={key}={json.dumps(value)}' for key, value in settings.items()]
        found = subprocess.run(
            [self.python, ROOT / 'bench' / 'recbole_peer.py', '--model', model, '--data', data, '--seed', str(seed),
             *given, *['--fast'] * fast],
            stdout=subprocess.PIPE, check=True, cwd=self.folder)  # it leaves a log where it stands
        return json.loads(found.stdout.splitlines()[-1])


def after_first(seconds: Sequence[float]) -> dict[str, float]:
    """The median without the first, where there are several."""
    kept = seconds[1:] or seconds
    return {'seconds': statistics.median(kept), 'times': len(kept)}


# ------------------------------------------------------------------------------------- reports


def chosen(args: argparse.Namespace, known: Iterable[str]) -> list[str]:
    """Those of the models that a part knows which were asked for."""
    return [model for model in known if not args.models or model in args.models]


def speed(args: argparse.Namespace, peer: Peer | None) -> None:
    rows = []
    for model in chosen(args, (*RANKING, *CTR)):
        theirs = None
        if model in RANKING:
            forms = ('prefixes', 'positions') if model == 'SASRec' else ('',)
            ours = {form: measure('speed_ranking', data_dir=args.data_dir, model=model, form=form) for form in forms}
            if peer:
                data = peer.data('everything', lambda path: write_ranking(ratings(args.data_dir), path))
                theirs = peer.run(model, data, epochs=PEER_EPOCHS[model], train_batch_size=BATCH_SIZE)
        else:
            ours = {'': measure('speed_ctr', data_dir=args.data_dir, model=model)}
            if peer:
                data = peer.data('all_ratings', lambda path: write_ctr(
                    all_ratings(args.data_dir), fields_of(args.data_dir), path))
                theirs = peer.run(model, data, epochs=4, train_batch_size=BATCH_SIZE, embedding_size=CTR_EMBEDDING,
                                  **CTR[model][2])
        for form, figures in ours.items():
            parts = {part: {'ours': figures[part]} for part in ('train', 'evaluate')}
            for part, name in (('train', 'train_seconds'), ('evaluate', 'valid_seconds')) if theirs else ():
                parts[part]['theirs'] = after_first(theirs[name])
                parts[part]['ratio'] = parts[part]['theirs']['seconds'] / parts[part]['ours']['seconds']
            for part, flops in figures.get('flops', {}).items():
                least = flops / figures['peak']  # seconds
                parts[part] |= {'gflop': flops / 1e9, 'share_of_peak': least / parts[part]['ours']['seconds']}
                if theirs:
                    parts[part]['bound_of_ratio'] = parts[part]['theirs']['seconds'] / least
            about = {key: figures[key] for key in ('rows', 'steps', 'device', 'peak') if key in figures}
            about['parameters'] = {'ours': figures['parameters']} | ({'theirs': theirs['parameters']} if theirs else {})
            sides.show(measurement='speed', model=model, form=form, **about, **parts,
                 peer=f'RecBole {theirs["version"]}, torch {theirs["torch"]}, {theirs["threads"]} threads' if theirs
                 else 'not run: no --peer')
            cells = [f'{parts[part][side]["seconds"]:.3g}' if side in parts[part] else '-'
                     for part in parts for side in ('ours', 'theirs')]
            ratios = [f'{parts[part]["ratio"]:.1f}' if theirs else '-' for part in parts]
            compile_seconds = sum(figures[part]['compile'] for part in parts)
            shares = [f'{parts[part]["share_of_peak"]:.0%}' if 'share_of_peak' in parts[part] else '-'
                      for part in parts]
            bounds = [f'{parts[part]["bound_of_ratio"]:.1f}' if 'bound_of_ratio' in parts[part] else '-'
                      for part in parts]
            rows.append([f'{model} {form}'.strip(), *cells[:2], ratios[0], shares[0], bounds[0],
                         *cells[2:], ratios[1], shares[1], bounds[1], f'{compile_seconds:.1f}'])
    head = ('RecBole', 'ratio', 'of peak', 'bound')
    sides.table(('seconds', 'epoch', *head, 'evaluation', *head, 'compilation'), rows)


def compare_ctr(args: argparse.Namespace, peer: Peer | None) -> None:
    from configs.baselines import ctr
    models = chosen(args, CTR if args.models else COMPARED)
    ours = measure('ctr_accuracy', data_dir=args.data_dir, models=[CTR[model][0] for model in models])
    rows = []
    for model in models:
        of_seeds = {'ours': ours[ctr.TITLES[CTR[model][0]]]['test']}
        if not peer:
            rows.append(compared('ctr-accuracy', model, of_seeds, ('auc', 'log_loss')))
        for metric in ('AUC', 'LogLoss') if peer else ():
            data = peer.data('expctr', lambda path: write_ctr(
                expctr_examples(args.data_dir), fields_of(args.data_dir), path))
            lines = [peer.run(model, data, seed, embedding_size=CTR_EMBEDDING, valid_metric=metric)
                     for seed in range(SEEDS)]
            of_seeds['theirs'] = {'auc': [line['test']['auc'] for line in lines],
                                  'log_loss': [line['test']['logloss'] for line in lines]}
            rows.append(compared('ctr-accuracy', f'{model}, theirs stopped by {metric}', of_seeds, ('auc', 'log_loss')))
    sides.table(('test, mean ± spread', 'AUC', 'RecBole', 'LogLoss', 'RecBole'), rows)


def compare_ranking(args: argparse.Namespace, peer: Peer | None) -> None:
    rows = []
    metrics = ('recall@10', 'ndcg@10')
    for model in chosen(args, RANKING):
        ours = measure('ranking_accuracy', data_dir=args.data_dir, model=model, stride=args.stride)
        lines = [line for seed in range(SEEDS) if (line := peer_line(args, peer, model, seed))]
        theirs = {'theirs': {metric: [line['test'][metric] for line in lines] for metric in metrics}} if lines else {}
        about = {key: ours[key] for key in ('stride', 'epochs', 'seconds')}
        if lines:
            about['peer_epochs'] = [line['epochs'] for line in lines]
        rows.append(compared('accuracy', model, {'ours': ours['as RecBole'], **theirs}, metrics, **about))
        if model == 'SASRec':
            rows.append(compared('accuracy', 'SASRec, masked', {'ours': ours['masked']}, metrics, **about))
    sides.table(('test, mean ± spread', 'Recall@10', 'RecBole', 'NDCG@10', 'RecBole'), rows)


def peer_line(args: argparse.Namespace, peer: Peer | None, model: str, seed: int) -> dict | None:
    """RecBole's line of a seed: found in `--peer_results`, or run and left there; None where neither can be."""
    path = pathlib.Path(args.peer_results) / f'{model}.{seed}.json'
    if path.exists():
        return json.loads(path.read_text())
    if not peer:
        return None
    data = peer.data('everything', lambda path: write_ranking(ratings(args.data_dir), path))
    line = peer.run(model, data, seed, fast=model == 'SASRec')
    from xrec_jax.runs import files
    files.write_whole(path, lambda partial: partial.write_text(json.dumps(line) + '\n'))
    return line


def compared(measurement: str, model: str, of_seeds: dict[str, dict[str, list[float]]], metrics: Sequence[str],
             **about: Any) -> list[str]:
    """Shows each side's figures, and returns the row of a table."""
    from xrec_jax.metrics.spread import spread
    cells = [spread(of_seeds[side][metric]) if side in of_seeds else '-'
             for metric in metrics for side in ('ours', 'theirs')]
    sides.show(measurement=measurement, model=model, **about, **{side: {metric: values[metric] for metric in metrics}
                                                  for side, values in of_seeds.items()},
         **({} if 'theirs' in of_seeds else {'peer': 'not run: no --peer'}))
    return [model, *cells]


PARTS = {'speed': speed, 'ctr-accuracy': compare_ctr, 'accuracy': compare_ranking}


@contextlib.contextmanager
def peer_of(python: str | None) -> Iterator[Peer | None]:
    if not python:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix='bench-recbole-') as folder:
        yield Peer(python, pathlib.Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(',')
    parser.add_argument('--only', type=words, default=list(PARTS), help=f'some of {",".join(PARTS)}')
    parser.add_argument('--models', type=words, help=f'some of {",".join([*RANKING, *CTR])}')
    parser.add_argument('--data_dir', default='../shared/data/ml-100k', help='the files of MovieLens-100k')
    parser.add_argument('--peer', metavar='PYTHON', help='an interpreter that has RecBole')
    parser.add_argument('--peer_results', metavar='DIR', default=ROOT / 'bench' / 'results' / 'recbole',
                        help="lines of RecBole's runs for the part accuracy")
    parser.add_argument('--stride', type=int, default=LENGTH, help='targets of a row of SASRec, for its accuracy')
    parser.add_argument('--measure', help=argparse.SUPPRESS)
    parser.add_argument('--arguments', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(MEASUREMENTS[args.measure](**json.loads(args.arguments))))
        return
    for name, given, known in (('only', args.only, PARTS), ('models', args.models or [], [*RANKING, *CTR])):
        if unknown := set(given) - set(known):
            parser.error(f'--{name}: {", ".join(sorted(unknown))} should be of {", ".join(known)}')
    with peer_of(args.peer) as peer:
        for part in args.only:
            PARTS[part](args, peer)


if __name__ == '__main__':
    main()
