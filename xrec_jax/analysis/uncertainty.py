"""Do the hardest examples gain the most? (RecPIE, appendix D.2 and figure 4)

    python -m xrec_jax.analysis.uncertainty --workdir RUN[,RUN…] --ours RecPIE --out DIR

  uncertainty  variance of the models' predictions of an example, brought to 0 to 1 over all examples (min-max)
  gain         how much nearer ours comes than the baseline: |y - baseline| - |y - ours|, places on the scale
  the line     least squares of gain on uncertainty, with the slope's two-sided p (`scipy.stats.linregress`)

Models are the columns of each run's predictions.parquet, but for --without (bounds, as 'Shuffled', are no models);
several runs of the same examples are put side by side. The baseline is the one of the others with the lowest RMSE on
validation, or --baseline. All is measured on --split. The p takes examples for independent, as the paper's; a user's
are not quite, so an interval over users stands beside it. Writes uncertainty.csv (the deciles) and uncertainty.png.
"""

import pathlib
from collections.abc import Mapping, Sequence

from absl import flags
import matplotlib.figure
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.stats

from xrec_jax import cli
from xrec_jax.analysis import output
from xrec_jax.errors import UserError, nearest
from xrec_jax.metrics import bootstrap, ctr
from xrec_jax.phases.predictions import EXAMPLE, FILE
from xrec_jax.runs import progress

BINS = 10
RESAMPLES = 2000


def read(workdirs: Sequence[pathlib.Path]) -> pa.Table:
    """The predictions of several runs side by side; UserError where their examples differ."""
    joined = None
    for workdir in workdirs:
        if not (workdir / FILE).exists():
            raise UserError(f'{workdir / FILE} does not exist: `judge` of clicks or ratings writes it.')
        table = pq.read_table(workdir / FILE)
        if joined is None:
            joined = table
            continue
        keys = [*EXAMPLE, 'target']
        if not joined.select(keys).equals(table.select(keys)):
            raise UserError(f'{workdir} and {workdirs[0]} predict different examples: give runs of the same data, '
                            'protocol and seed.')
        for name in table.column_names:
            if name not in keys:
                joined = joined.append_column(name if name not in joined.column_names else f'{name} ({workdir.name})',
                                              table[name])
    return joined


def uncertainty(predictions: np.ndarray) -> np.ndarray:
    """Disagreement float64 [N] of models' predictions [M, N]: their variance, min-max scaled to 0 … 1."""
    if predictions.ndim != 2 or len(predictions) < 2:
        raise ValueError(f'predictions {predictions.shape} must be [M, N] of at least two models')
    variance = np.asarray(predictions, np.float64).var(axis=0)
    low, high = variance.min(), variance.max()
    return (variance - low) / (high - low) if high > low else np.zeros_like(variance)


def gain(target: np.ndarray, ours: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """float64 [N]: how much nearer to the target ours comes, negative where it is farther off."""
    target, ours, baseline = (np.asarray(x, np.float64) for x in (target, ours, baseline))
    return np.abs(target - baseline) - np.abs(target - ours)


def line(x: np.ndarray, y: np.ndarray, users: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The least-squares line of y on x: 'slope', 'intercept', 'p' of the slope, 'r', and 'low', 'high', a 95 % interval
    of the slope from drawing users (whose ids are `users` [N]) anew."""
    if not np.ptp(x):
        return dict.fromkeys(('slope', 'intercept', 'p', 'r', 'low', 'high'), float('nan'))
    fit = scipy.stats.linregress(x, y)
    _, user = np.unique(users, return_inverse=True)
    sums = np.stack([np.bincount(user, weights) for weights in (np.ones_like(x), x, y, x * x, x * y)], axis=1)
    n, sx, sy, sxx, sxy = (bootstrap.resamples(len(sums), RESAMPLES, seed) @ sums).T
    with np.errstate(divide='ignore', invalid='ignore'):
        slopes = (n * sxy - sx * sy) / (n * sxx - sx * sx)
    low, high = bootstrap.interval(slopes[:, None])
    return {'slope': float(fit.slope), 'intercept': float(fit.intercept), 'p': float(fit.pvalue),
            'r': float(fit.rvalue), 'low': float(low[0]), 'high': float(high[0])}


def deciles(x: np.ndarray, y: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Means of x and y over examples in `bins` groups of equal size by x, with the standard error of y's mean."""
    order = np.argsort(x, kind='stable')
    return [{'uncertainty': float(x[part].mean()), 'gain': float(y[part].mean()),
             'standard error': float(y[part].std(ddof=1) / np.sqrt(len(part))) if len(part) > 1 else float('nan'),
             'examples': len(part)} for part in np.array_split(order, bins) if len(part)]


def analyse(table: pa.Table, ours: str, without: Sequence[str] = (), baseline: str = '', split: str = 'test') -> dict:
    """'baseline', 'models', 'x', 'y', 'line', 'deciles' and 'count' of a table of predictions."""
    models = [name for name in table.column_names if name not in (*EXAMPLE, 'target', *without)]
    for name in (ours, *([baseline] if baseline else [])):
        if name not in models:
            raise UserError(f'There are no predictions of "{name}".{nearest(name, models)}')
    others = [name for name in models if name != ours]
    if not others:
        raise UserError(f'The predictions hold no model beside "{ours}": there is nothing to disagree with.')

    def column(name, part):
        return table.filter(pc.equal(table['split'], part))[name].to_numpy()

    if not baseline:
        baseline = min(others, key=lambda name: ctr.rmse(column('target', 'valid'), column(name, 'valid')))
    x = uncertainty(np.stack([column(name, split) for name in models]))
    y = gain(column('target', split), column(ours, split), column(baseline, split))
    users = table.filter(pc.equal(table['split'], split))['user_id'].to_numpy(zero_copy_only=False)
    return {'ours': ours, 'baseline': baseline, 'models': models, 'x': x, 'y': y, 'line': line(x, y, users),
            'deciles': deciles(x, y), 'count': len(x)}


def draw(found: Mapping) -> matplotlib.figure.Figure:
    """Figure 4: each example, the deciles, the line."""
    figure, (axes,) = output.new_figure()
    fitted, points = found['line'], found['deciles']
    axes.scatter(found['x'], found['y'], s=6, alpha=0.4, color=output.GREY, linewidths=0)
    axes.errorbar([row['uncertainty'] for row in points], [row['gain'] for row in points],
                  [row['standard error'] for row in points], color=output.COLOURS[0], marker='o', linestyle='', capsize=3,
                  label='tenths of the examples')
    ends = np.array([0.0, 1.0])
    axes.plot(ends, fitted['intercept'] + fitted['slope'] * ends, color=output.COLOURS[1],
              label=f'slope {fitted["slope"]:.3f}, p = {fitted["p"]:.2g}')
    axes.axhline(0, color=output.GREY, linewidth=0.8)
    axes.set(xlabel='uncertainty of the prediction (scaled)', ylabel=f'{found["ours"]} nearer than {found["baseline"]} by')
    axes.legend(fontsize='small')
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    found = analyse(read([pathlib.Path(path) for path in given.workdir]), given.ours, given.without, given.baseline,
                    given.split)
    progress.CONSOLE.print(output.table(
        found['deciles'], f'{given.ours} against {found["baseline"]}, {given.split} ({found["count"]:,} examples; models: '
        f'{", ".join(found["models"])})', digits=4))
    fitted = found['line']
    progress.say(f'gain = {fitted["intercept"]:.4f} + {fitted["slope"]:.4f} × uncertainty; p = {fitted["p"]:.2g}; slope over '
                 f'users from {fitted["low"]:.4f} to {fitted["high"]:.4f}')
    output.write(pathlib.Path(given.out), 'uncertainty', [
        *found['deciles'], {'baseline': found['baseline'], **fitted}], draw(found))


if __name__ == '__main__':
    flags.DEFINE_list('workdir', None, 'Folders of runs whose `judge` has written predictions.', required=True)
    flags.DEFINE_string('ours', 'RecPIE', 'The scorer whose gain is measured.')
    flags.DEFINE_string('baseline', '', 'What it is measured against; the best other on validation.')
    flags.DEFINE_list('without', ['Shuffled', 'True reasons'], 'Scorers that are no models.')
    flags.DEFINE_string('split', 'test', 'valid or test.')
    flags.DEFINE_string('out', None, 'Folder for uncertainty.png and uncertainty.csv.', required=True)
    cli.run(main)
