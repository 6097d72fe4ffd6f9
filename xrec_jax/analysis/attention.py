"""Which reasons does the rating network listen to? (RecPIE, appendix D.5, eq. 11 and figure 6)

    python -m xrec_jax.analysis.attention --workdir RUN[,RUN…] --out DIR

Of what `judge` of a run with `judge.attention` kept (attention.parquet): the distributions of the mean attention on
positive and negative reasons, for high and for low ratings, and of the difference of the two by user a sign-flip
test. Several runs (seeds) are put together, a user of each being one of its own. Writes attention.png and
attention.csv (the histograms).
"""

import pathlib
from collections.abc import Mapping, Sequence

from absl import flags
import matplotlib.figure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xrec_jax import cli
from xrec_jax.analysis import output
from xrec_jax.errors import UserError
from xrec_jax.metrics import permutation
from xrec_jax.runs import progress

BINS = 24
REASONS = {'pos': 'positive reasons', 'neg': 'negative reasons'}


def read(workdirs: Sequence[pathlib.Path], split: str) -> pa.Table:
    """The attention values of one split of several runs, with a column `run`."""
    tables = []
    for number, workdir in enumerate(workdirs):
        path = workdir / 'attention.parquet'
        if not path.exists():
            raise UserError(f'{path} does not exist: a run with judge.attention writes it.')
        table = pq.read_table(path, filters=[('split', '=', split)])
        tables.append(table.append_column('run', pa.array([number] * len(table), pa.int32())))
    return pa.concat_tables(tables)


def analyse(table: pa.Table, bins: int = BINS) -> dict[str, dict]:
    """By 'high' and 'low' ratings: 'examples', mean attention 'pos' and 'neg', their 'difference' with 'p' over users, the
    share of examples 'pos above neg', and the histograms 'counts' of both over the common 'edges'."""
    pos, neg, liked = (table[name].to_numpy(zero_copy_only=False) for name in ('pos', 'neg', 'liked'))
    users = np.array([f'{run}/{user}' for run, user in zip(table['run'].to_pylist(), table['user_id'].to_pylist())], object)
    both = np.concatenate([pos, neg])
    edges = np.linspace(both.min(), max(both.max(), both.min() + 1e-6), bins + 1)
    result = {}
    for name, which in (('high', liked.astype(bool)), ('low', ~liked.astype(bool))):
        difference = (pos.astype(np.float64) - neg)[which]
        _, user = np.unique(users[which], return_inverse=True)
        by_user = np.bincount(user, difference) / np.maximum(np.bincount(user), 1)
        result[name] = {
            'examples': int(which.sum()), 'users': len(by_user),
            'pos': float(pos[which].mean()), 'neg': float(neg[which].mean()), 'difference': float(difference.mean()),
            'pos above neg': float((difference > 0).mean()),
            'p': permutation.sign_flip(by_user) if len(by_user) > 1 else float('nan'),
            'edges': edges, 'counts': {kind: np.histogram(values[which], edges)[0] for kind, values in
                                       (('pos', pos), ('neg', neg))}} if which.any() else {'examples': 0}
    return result


def histogram_rows(found: Mapping[str, Mapping]) -> list[dict]:
    """What figure 6 shows, for a CSV file."""
    return [{'ratings': name, 'from': float(low), 'to': float(high), **{REASONS[kind]: int(one['counts'][kind][n])
                                                                        for kind in REASONS}}
            for name, one in found.items() if one['examples']
            for n, (low, high) in enumerate(zip(one['edges'], one['edges'][1:]))]


def draw(found: Mapping[str, Mapping]) -> matplotlib.figure.Figure:
    """Figure 6: a histogram for high and one for low ratings."""
    figure, panels = output.new_figure(2)
    for axes, (name, one) in zip(panels, found.items()):
        axes.set(title=f'{name} ratings ({one["examples"]:,} examples)', xlabel='mean attention (eq. 11)', ylabel='examples')
        if one['examples']:
            for (kind, label), colour in zip(REASONS.items(), output.COLOURS):
                axes.stairs(one['counts'][kind], one['edges'], fill=True, alpha=0.5, color=colour, label=label)
                axes.axvline(one[kind], color=colour, linewidth=1)
            axes.legend(fontsize='small')
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    found = analyse(read([pathlib.Path(path) for path in given.workdir], given.split))
    shown = ('examples', 'users', 'pos', 'neg', 'difference', 'pos above neg', 'p')
    progress.CONSOLE.print(output.table([
        {'ratings': name, **{key: one[key] for key in shown if key in one}} for name, one in found.items()],
        f'attention on reasons, {given.split}'))
    output.write(pathlib.Path(given.out), 'attention', histogram_rows(found), draw(found))


if __name__ == '__main__':
    flags.DEFINE_list('workdir', None, 'Folders of runs.', required=True)
    flags.DEFINE_string('split', 'test', 'valid or test.')
    flags.DEFINE_string('out', None, 'Folder for attention.png and attention.csv.', required=True)
    cli.run(main)
