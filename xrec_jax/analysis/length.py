"""Do explanations come out longer for some users? (LLMXRec, section 4.4 and table 4)

    python -m xrec_jax.analysis.length --file explanations.parquet --out DIR [--dataset ml-100k] [--workdir RUN …]

Words of recorded explanations by the user's gender, which their instructions tell, with a permutation test over
users: a table, DIR/length.csv and DIR/length.png. `--workdir` adds what our own models wrote to the same requests in a
run of configs/llmxrec.py. The paper's numbers of words stand beside those of its own explanations.
"""

import pathlib
from collections.abc import Mapping, Sequence

from absl import flags
import matplotlib.figure
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from xrec_jax import cli
from xrec_jax.analysis import output
from xrec_jax.errors import UserError, nearest
from xrec_jax.language import instructions
from xrec_jax.language.material import recorded
from xrec_jax.metrics import permutation
from xrec_jax.runs import progress
from xrec_jax.runs.explanations import read_explanations

PAPER = {'LLaMA2': (79.01, 85.32), 'ChatGLM2': (78.95, 84.58), 'GPT3.5': (80.56, 86.32), 'GPT4': (75.56, 76.56),
         'LLaMA2-SFT': (69.74, 72.53)}  # table 4, ML-100k: men, women


def words(texts: Sequence[str]) -> np.ndarray:
    """int64 [N]: words between blanks, as the prompts' "WITHIN 75 words" is commonly counted."""
    return np.array([len(text.split()) for text in texts], np.int64)


def by_gender(lengths: Mapping[str, npt.ArrayLike], genders: Sequence[str], permutations: int = 10_000, seed: int = 0
              ) -> dict[str, dict[str, float]]:
    """Length of explanations for women and men, by generator, with a permutation test over users.

    Args:
      lengths: generator → [N] mean length of the explanations for each user; NaN where the user has none. Where a
        user has several (one a recommender), their mean: users are dealt anew, not texts, as a user's texts are alike.
      genders: [N], 'male', 'female', or anything else for users who do not count.

    Returns:
      generator → as `permutation.difference_of_means`, 'first' being men and 'second' women: 'difference' is what
      women get more, the paper's Δ.
    """
    genders = np.asarray(genders)
    result = {}
    for generator, values in lengths.items():
        values = np.asarray(values, np.float64)
        if values.shape != genders.shape:
            raise ValueError(f'lengths of {generator} {values.shape} and genders {genders.shape} must be alike, [N]')
        there = np.isfinite(values) & np.isin(genders, ('male', 'female'))
        result[generator] = permutation.difference_of_means(values[there], genders[there] == 'female', permutations,
                                                            seed)
    return result


def lengths_of(path: pathlib.Path, dataset: str, workdirs: Sequence[pathlib.Path] = ()
               ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(generator → [N] mean words of each user's explanations, over recommenders; genders [N]).

    Users are the rows of the file; a generator's explanation of another item than the others' counts, as it is of the
    same user. Of `workdirs` each phase that answered the file's requests is a generator.

    Raises:
      UserError: a data set that is not in the file, or instructions that tell no gender.
    """
    table = recorded.read_recorded(path)
    names = table['dataset'].unique().to_pylist()
    if dataset not in names:
        raise UserError(f'{path}: has no data set "{dataset}".{nearest(dataset, names)}')
    rows = [row for row in table.to_pylist() if row['dataset'] == dataset]
    genders = {row['row']: instructions.parse(row['instruction']).profile.get('gender') for row in rows}
    if not any(genders.values()):
        raise UserError(f'{path}: the instructions of {dataset} do not say whether a user is male or female.')
    counted: dict[str, dict[int, list[int]]] = {}
    for row, count in zip(rows, words([row['explanation'] for row in rows])):
        counted.setdefault(row['generator'], {}).setdefault(row['row'], []).append(count)
    for workdir in workdirs:
        for file in sorted((workdir / 'explanations').glob('*.parquet')):
            own = read_explanations(file)
            own = own.filter((pc.field('split') == 'recorded') & pc.field('num_tokens').is_valid())  # not copied from it
            for user, count in zip(own['user_id'].to_pylist(), words(own['text'].to_pylist())):
                counted.setdefault(f'{workdir.name}/{file.stem}', {}).setdefault(int(user), []).append(count)
    users = sorted(genders)
    lengths = {name: np.array([np.mean(of[user]) if user in of else np.nan for user in users])
               for name, of in counted.items()}
    return lengths, np.array([genders[user] for user in users])


def run(path: pathlib.Path, dataset: str, out: pathlib.Path, workdirs: Sequence[pathlib.Path] = (),
        permutations: int = 10_000, seed: int = 0) -> list[dict[str, float | str]]:
    """Counts, tests, writes length.csv and length.png, and returns the table's rows."""
    lengths, genders = lengths_of(path, dataset, workdirs)
    rows = []
    for name, figures in by_gender(lengths, genders, permutations, seed).items():
        row = {'generator': name, 'men': figures['first'], 'women': figures['second'],
               'difference': figures['difference'], 'p': figures['p'], "Cohen's d": figures['cohens_d'],
               'users': figures['count_first'] + figures['count_second']}
        if dataset == 'ml-100k':
            men, women = PAPER.get(name, (float('nan'), float('nan')))
            row |= {'paper: men': men, 'paper: women': women, 'paper: difference': women - men}
        rows.append(row)
    output.write(out, 'length', rows, draw(rows))
    return rows


def draw(rows: Sequence[Mapping]) -> matplotlib.figure.Figure:
    """Table 4: words for men and women by 'generator', with the difference and its p."""
    (figure, (axes,)), place = output.new_figure(width=7), np.arange(len(rows))
    for shift, who, colour in ((-0.2, 'men', output.COLOURS[0]), (0.2, 'women', output.COLOURS[1])):
        axes.bar(place + shift, [row[who] for row in rows], 0.4, label=who, color=colour)
    for at, row in zip(place, rows):
        axes.annotate(f'{row["difference"]:+.2f}\np = {row["p"]:.2g}', (at, max(row['men'], row['women'])),
                      ha='center', va='bottom', fontsize='small')
    axes.set(xticks=place, ylabel='words of an explanation', ylim=(0, 1.2 * max(max(r['men'], r['women']) for r in rows)))
    axes.set_xticklabels([row['generator'] for row in rows], fontsize='small')
    figure.legend(loc='outside upper right', ncols=2)
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    of = flags.FLAGS
    rows = run(pathlib.Path(of.file), of.dataset, pathlib.Path(of.out), [pathlib.Path(one) for one in of.workdir],
               of.permutations, of.seed)
    progress.CONSOLE.print(output.table(rows, f'words of an explanation, {of.dataset}'))


if __name__ == '__main__':
    flags.DEFINE_string('file', None, 'Recorded explanations (.parquet or .jsonl).', required=True)
    flags.DEFINE_string('dataset', 'ml-100k', 'Of the file; its instructions tell the gender.')
    flags.DEFINE_multi_string('workdir', [], 'A run whose own explanations are added; may be repeated.')
    flags.DEFINE_string('out', None, 'Folder for length.png and length.csv.', required=True)
    flags.DEFINE_integer('permutations', 10_000, 'How often labels are dealt anew.')
    flags.DEFINE_integer('seed', 0, 'Of the permutations.')
    cli.run(main)
