"""How soon does a network learn which items are alike? (RecPIE, appendix D.4 and figure 5)

    python -m xrec_jax.analysis.similarity --workdir RUN --fits no_text,with_text --out DIR

Trains fits of a finished RecPIE run once more, each from its random start, and watches the embeddings of the items
epoch by epoch: the cosine of similar and of dissimilar pairs. The paper shows one pair of each; here they are means
over many pairs, with a 95 % interval over pairs. Similar items have the same set of attributes, dissimilar ones none
in common, and both were met in training at least --least times. --pair 'A|B' watches two items by their titles, too.
An embedding is centred on the mean of all items first: what all have in common tells no two apart. Writes
similarity.csv and similarity.png.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
import jax
import matplotlib.figure
import ml_collections
import numpy as np

from xrec_jax import cli
from xrec_jax.analysis import output
from xrec_jax.errors import UserError, nearest
from xrec_jax.metrics import bootstrap
from xrec_jax.phases import fit_predictor, task as tasks
from xrec_jax.phases.settings import settings_of
from xrec_jax.runs import progress
from xrec_jax.runs.state import RunState

PAIRS = 300  # of either kind
RESAMPLES = 500


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a run; its lists were tuples."""
    path = workdir / 'config.json'
    if not path.exists():
        raise UserError(f'{path} does not exist: --workdir should be the folder of a run.')

    def frozen(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: frozen(one) for key, one in value.items()}
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return ml_collections.ConfigDict(frozen(json.loads(path.read_text())))


def pairs(attributes: Sequence[Sequence[str]], eligible: np.ndarray, seed: int = 0, most: int = PAIRS
          ) -> dict[str, np.ndarray]:
    """'similar' and 'dissimilar' pairs int [N, 2] of items, drawn without replacement.

    Args:
      attributes: [I], of each item; those without any take no part.
      eligible: bool [I], the items that may be drawn.
    """
    items = np.array([item for item in np.flatnonzero(eligible) if len(attributes[item])], np.int64)
    words = sorted({word for item in items for word in attributes[item]})
    number = {word: n for n, word in enumerate(words)}
    has = np.zeros((len(items), len(words)), np.int32)
    for row, item in enumerate(items):
        has[row, [number[word] for word in attributes[item]]] = 1
    common, size = has @ has.T, has.sum(axis=1)
    above = np.triu(np.ones((len(items), len(items)), bool), 1)
    alike = above & (common == size[:, None]) & (common == size[None])
    random = np.random.Generator(np.random.Philox(seed))
    result = {}
    for name, which in (('similar', alike), ('dissimilar', above & (common == 0))):
        rows = np.argwhere(which)
        result[name] = items[rows[np.sort(random.permutation(len(rows))[:most])]]
    return result


def cosines(embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """float64 [N]: the cosine of the two items of each pair [N, 2], of centred `embeddings` [I, E]."""
    centred = np.asarray(embeddings, np.float64)
    centred = centred - centred.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return np.einsum('NE,NE->N', centred[pairs[:, 0]], centred[pairs[:, 1]])


def watch(task: tasks.Task, state: RunState, name: str, watched: Mapping[str, np.ndarray]) -> list[dict]:
    """Fits `fit(name)` from a random start; a row for each epoch (0: the start) and kind of pair."""
    settings = settings_of(task.config, 'fit', name)
    settings.continues = ()
    training = fit_predictor.Training(task, settings, fit_predictor.prepare(task, state, settings))
    field = task.fields.names.index('item_id') - task.fields.user_fields.shape[1]
    ids, rows = np.asarray(task.fields.item_fields)[:, field], []
    weights = {kind: bootstrap.resamples(len(chosen), RESAMPLES, task.seed) for kind, chosen in watched.items()}

    def look(params, epoch):
        embeddings = np.asarray(params['embedding'])[ids]
        for kind, chosen in watched.items():
            found = cosines(embeddings, chosen)
            low, high = bootstrap.interval(bootstrap.weighted_mean(found, weights[kind]))
            rows.append({'fit': name, 'epoch': epoch, 'pairs': kind, 'cosine': float(found.mean()), 'low': float(low),
                         'high': float(high), 'count': len(found)})

    start = training.init(jax.random.key(task.seed))
    look(start.params, 0)
    training.fit(start, lambda fitted, metrics: look(fitted.params, metrics['epoch']))
    return rows


def separation(rows: Sequence[Mapping]) -> dict[str, list[float]]:
    """By fit: the cosine of similar pairs less that of dissimilar ones, epoch by epoch."""
    result = {}
    for name in dict.fromkeys(row['fit'] for row in rows):
        by_kind = [[row['cosine'] for row in rows if row['fit'] == name and row['pairs'] == kind]
                   for kind in ('similar', 'dissimilar')]
        result[name] = [a - b for a, b in zip(*by_kind)]
    return result


def half_way(gaps: Sequence[float]) -> int:
    """The first epoch at which at least half of the rise from the start to the largest gap is done; 0 without a rise."""
    goal = (gaps[0] + max(gaps)) / 2
    return next(epoch for epoch, gap in enumerate(gaps) if gap >= goal)


def draw(rows: Sequence[Mapping]) -> matplotlib.figure.Figure:
    """Figure 5: a panel for each kind of pair, a line for each fit."""
    kinds = list(dict.fromkeys(row['pairs'] for row in rows))
    figure, panels = output.new_figure(len(kinds))
    for axes, kind in zip(panels, kinds):
        for name, colour in zip(dict.fromkeys(row['fit'] for row in rows), output.COLOURS):
            points = [row for row in rows if row['fit'] == name and row['pairs'] == kind]
            at = [row['epoch'] for row in points]
            axes.plot(at, [row['cosine'] for row in points], color=colour, label=name)
            axes.fill_between(at, [row['low'] for row in points], [row['high'] for row in points], color=colour, alpha=0.2,
                              linewidth=0)
        axes.set(title=f'{kind} items ({points[0]["count"]:,} pairs)', xlabel='epochs of training',
                 ylabel='cosine of embeddings')
        axes.legend(fontsize='small')
    return figure


def open_run(workdir: pathlib.Path, fits: Sequence[str]) -> tuple[tasks.Task, RunState]:
    """A finished run's task, and what its phases `explain` wrote; UserError for a fit that it has not."""
    config = read_config(workdir)
    known = [entry[4:-1] for entry in config.schedule if entry.startswith('fit(')]
    for name in fits:
        if name not in known:
            raise UserError(f'--fits: the run has no fit({name}).{nearest(name, known)}')
    task = tasks.make_task(config, workdir)
    written = {path.stem: path for path in sorted((workdir / 'explanations').glob('*.parquet'))}
    return task, RunState(explanations=written)


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    task, state = open_run(pathlib.Path(given.workdir), given.fits)
    if 'item_id' not in task.fields.names:
        raise UserError('The fields of this run have no item_id: there are no embeddings of items to compare.')
    met = np.bincount(task.examples['train'].item, minlength=task.dataset.items.num_rows) >= given.least
    watched = pairs(task.dataset.items['attributes'].to_pylist(), met, task.seed)
    for pair in given.pair:
        titles = pair.split('|')
        for title in titles:
            if title not in task.titles:
                raise UserError(f'--pair: there is no item "{title}".{nearest(title, task.titles)}')
        watched[' and '.join(titles)] = np.array([[task.titles.index(title) for title in titles]])
    for kind, chosen in watched.items():
        if not len(chosen):
            raise UserError(f'There are no {kind} pairs among items that training met {given.least} times: lower '
                            '--least.')
    rows = [row for name in given.fits for row in watch(task, state, name, watched)]
    for name, gaps in separation(rows).items():
        progress.say(f'fit({name}): similar less dissimilar {gaps[0]:.3f} at the start, {max(gaps):.3f} at most, half-way '
                     f'after {half_way(gaps)} of {len(gaps) - 1} epochs')
    output.write(pathlib.Path(given.out), 'similarity', rows, draw(rows))


if __name__ == '__main__':
    flags.DEFINE_string('workdir', None, 'Folder of a finished run.', required=True)
    flags.DEFINE_list('fits', ['no_text', 'with_text'], 'Names of its phases fit.')
    flags.DEFINE_integer('least', 3, 'Training examples that an item of a pair has.')
    flags.DEFINE_multi_string('pair', [], 'Two titles, as "A|B", that are watched, too.')
    flags.DEFINE_string('out', None, 'Folder for similarity.png and similarity.csv.', required=True)
    cli.run(main)
