"""What people think of explanations (LLMXRec, sections 3.3 and 4.2, figure 2).

    python -m xrec_jax.analysis.human_scores --scores human_scores.csv --out DIR [--scores second_rater.csv …]
        [--file explanations.parquet --recommender BPR-MF] [--workdir RUN]

  means      reasonability, attractiveness and redundancy by data set and generator: table, human_scores.csv and .png
  agreement  Krippendorff's alpha, where several people's files are given
  scorer     with `--file`: a regression scorer (`analysis.scorer`) on sentence vectors and lengths of the explanations,
             tested on a fifth of the items, beside the mean of all scores
  judge      with `--workdir`: rank correlation of the scores with the shares that the run's judge gave, by `judge(pairs)`

Score n is of the row n - 1 of its data set in the file. The published file does not say under which recommender the
scored explanations were written: `--recommender` is what they are taken for.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

from absl import flags
import matplotlib.figure
import numpy as np
import pyarrow.parquet as pq

from xrec_jax import cli
from xrec_jax.analysis import output, scorer, win_ratio
from xrec_jax.analysis.length import words
from xrec_jax.data import scores as people
from xrec_jax.data.scores import Scores
from xrec_jax.errors import UserError, nearest
from xrec_jax.language.encoders import load_encoder
from xrec_jax.language.material import recorded
from xrec_jax.metrics import agreement
from xrec_jax.phases.judge_pairs import verdicts_of
from xrec_jax.runs import progress
from xrec_jax.runs.explanations import read_explanations

TESTED = 0.2  # of the items


def pooled(raters: Scores) -> Scores:
    """The mean of all raters [R, N, G, C]: [N, G, C]; NaN where nobody scored."""
    there = np.isfinite(raters.values)
    with np.errstate(invalid='ignore'):
        values = np.where(there, raters.values, 0).sum(0) / there.sum(0)
    return Scores(raters.datasets, raters.indices, raters.generators, values, raters.criteria)


def mean_rows(scores: Scores) -> list[dict[str, float | str]]:
    """A row for each data set and generator: figure 2."""
    return [{'dataset': dataset, 'generator': generator} | figures
            for dataset, of in people.means(scores).items() for generator, figures in of.items()]


def alphas(raters: Scores) -> dict[str, float]:
    """Krippendorff's alpha by criterion, over all explanations."""
    return {name: agreement.krippendorff_alpha(raters.values[..., c].reshape(len(raters.values), -1))
            for c, name in enumerate(raters.criteria)}


def scorer_rows(scores: Scores, path: pathlib.Path, recommender: str, encode: Callable[[Sequence[str]], np.ndarray],
                seed: int = 0) -> list[dict[str, float | str]]:
    """Of each data set and criterion the scorer's figures on items that it has not seen, and those of the mean score."""
    table = recorded.read_recorded(path)
    texts = {(row['dataset'], row['row'], row['generator']): row['explanation'] for row in table.to_pylist()
             if row['recommender'] == recommender}
    if not texts:
        names = table['recommender'].unique().to_pylist()
        raise UserError(f'{path}: has no recommender "{recommender}".{nearest(recommender, names)}')
    items, generators, targets = people.scorer_targets(scores)
    keys = [(scores.datasets[item], scores.indices[item] - 1, scores.generators[g]) for item, g in zip(items, generators)]
    rows = []
    for dataset in dict.fromkeys(scores.datasets):
        chosen = np.array([n for n, key in enumerate(keys) if key[0] == dataset and key in texts], np.int64)
        if len(np.unique(items[chosen])) < 10:
            progress.say(f'{dataset}: fewer than ten scored items have their explanations in {path.name}: no scorer')
            continue
        written = [texts[keys[n]] for n in chosen]
        features = np.concatenate([encode(written), np.log1p(words(written))[:, None]], axis=1)
        tested = scorer.split(items[chosen], TESTED, seed)
        known = targets[chosen]
        fitted = scorer.fit(features[~tested], known[~tested], items[chosen][~tested], people.LOW, people.HIGH, seed)
        guesses = {'scorer': fitted.predict(features[tested]),
                   'mean score': np.broadcast_to(known[~tested].mean(0), known[tested].shape)}
        rows += [{'dataset': dataset, 'criterion': name, 'by': by} | {
                     key: value for key, value in agreement.score_metrics(known[tested, c], guess[:, c]).items()}
                 for c, name in enumerate(scores.criteria) for by, guess in guesses.items()]
    return rows


def judge_rows(scores: Scores, workdir: pathlib.Path, recommender: str) -> list[dict[str, float | str]]:
    """Rank correlations of people's scores with the judge's shares: over explanations, within items, and of generators."""
    config = json.loads((workdir / 'config.json').read_text())
    phase, file = _judged(workdir)
    settings = config['judge'] | config.get(phase, {})
    names = [title for title, _ in settings['generators']]
    published = [config[written].get('generator', '') for _, written in settings['generators']]
    table = pq.read_table(file)
    if recommender not in table['group'].unique().to_pylist():
        raise UserError(f'{file}: has no verdicts on {recommender}.'
                        f'{nearest(recommender, table["group"].unique().to_pylist())}')
    shares = win_ratio.per_user(verdicts_of(table, recommender, names))
    examples = np.unique(table.filter([one == recommender for one in table['group'].to_pylist()])['example'].to_numpy())
    of_example = _users(workdir, settings['generators'][0][1])
    place = {of_example[example]: n for n, example in enumerate(examples)}
    dataset = config['explain']['requests']['dataset']
    rows = [n for n, (name, index) in enumerate(zip(scores.datasets, scores.indices))
            if name == dataset and str(index - 1) in place]
    both = [name for name in scores.generators if name in published]
    if not rows or len(both) < 2:
        raise UserError(f'{file}: people and the judge have no explanations of {dataset} in common')
    judged = shares[[place[str(scores.indices[n] - 1)] for n in rows]][:, [published.index(name) for name in both]]
    scored = scores.values[rows][:, [scores.generators.index(name) for name in both]]
    return [{'criterion': name, 'over': over} | figures for c, name in enumerate(scores.criteria)
            for over, figures in agreement.judge_agreement(scored[..., c], judged).items()]


def _judged(workdir: pathlib.Path) -> tuple[str, pathlib.Path]:
    files = sorted((workdir / 'judgements').glob('*-judge-pairs.parquet'))
    if not files:
        raise UserError(f'{workdir}: has no finished judge(pairs) (judgements/*-judge-pairs.parquet)')
    return 'pairs', files[-1]


def _users(workdir: pathlib.Path, phase: str) -> dict[int, str]:
    """Row in the file by number of the request."""
    file, = (workdir / 'explanations').glob(f'*-explain-{phase}.parquet')
    table = read_explanations(file)
    return dict(zip(table['example'].to_pylist(), table['user_id'].to_pylist()))


def run(files: Sequence[pathlib.Path], out: pathlib.Path) -> tuple[Scores, list[dict]]:
    """Reads people's files, writes human_scores.csv and .png; the mean of the raters, and the rows."""
    raters = people.raters([people.read_scores(file) for file in files])
    scores = pooled(raters)
    rows = mean_rows(scores)
    output.write(out, 'human_scores', rows, _draw(rows, scores))
    progress.CONSOLE.print(output.table(rows, 'mean scores, 1 to 10; a high redundancy is good'))
    for dataset, count in people.repeated(scores).items():
        progress.say(f'{dataset}: {count["items"]:,} items, {count["distinct"]:,} different rows of scores, one of which '
                     f'stands {count["commonest"]:,} times')
    if len(files) > 1:
        progress.say("Krippendorff's alpha: " + ', '.join(f'{name} {value:.3f}' for name, value in alphas(raters).items()))
    return scores, rows


def _draw(rows: Sequence[Mapping], scores: Scores) -> matplotlib.figure.Figure:
    datasets = list(dict.fromkeys(scores.datasets))
    figure, panels = output.new_figure(len(datasets), width=4)
    for axes, dataset in zip(panels, datasets):
        of = [row for row in rows if row['dataset'] == dataset]
        width = 0.8 / len(of)
        for n, row in enumerate(of):
            axes.bar(np.arange(len(scores.criteria)) + n * width, [row[name] for name in scores.criteria], width,
                     label=row['generator'])
        axes.set(title=dataset, xticks=np.arange(len(scores.criteria)) + 0.4 - width / 2, ylim=(people.LOW, people.HIGH))
        axes.set_xticklabels(scores.criteria)
    panels[-1].legend(fontsize='small', loc='lower right')
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    of = flags.FLAGS
    out = pathlib.Path(of.out)
    scores, _ = run([pathlib.Path(file) for file in of.scores], out)
    if of.file:
        rows = scorer_rows(scores, pathlib.Path(of.file), of.recommender, load_encoder(of.encoder).encode, of.seed)
        if rows:
            progress.CONSOLE.print(output.table(rows, f'a scorer on explanations under {of.recommender}, unseen items'))
    if of.workdir:
        progress.CONSOLE.print(output.table(judge_rows(scores, pathlib.Path(of.workdir), of.recommender),
                                            'people and the judge'))


if __name__ == '__main__':
    flags.DEFINE_multi_string('scores', None, 'A csv file of scores; one for each rater.', required=True)
    flags.DEFINE_string('out', None, 'Folder for human_scores.png and human_scores.csv.', required=True)
    flags.DEFINE_string('file', '', 'Recorded explanations, to train a scorer on.')
    flags.DEFINE_string('recommender', 'BPR-MF', 'Of the scored explanations.')
    flags.DEFINE_string('encoder', 'minilm', 'Of the scorer: minilm, or a Hugging Face directory.')
    flags.DEFINE_string('workdir', '', 'A run of configs/llmxrec.py whose judge is compared with people.')
    flags.DEFINE_integer('seed', 0, 'Of the split.')
    cli.run(main)
