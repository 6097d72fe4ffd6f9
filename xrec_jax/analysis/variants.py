"""What of the language model helps? (RecPIE, appendix D.3 and table 4)

    python -m xrec_jax.analysis.variants --config configs/recpie.py:simulated --out DIR [--models DIR,DIR]

  RecPIE         the config as it is
  LLM directly   the frozen model is asked whether the user would like the item: its probability of a yes is the
                 predicted place on the scale, and nothing is trained (scorer `direct(…)` of the same runs)
  without PPO    the frozen model writes in every round, the network is trained as often: what is missing is PPO's share
                 (not in the paper)
  no profiles    prompts show titles and attributes in place of written profiles
  summary        in place of both reasons a summary of what the user consumed, which is all the network reads
  with NAME      another language model, for each of --models, with the paper's prompts

All are trained with every seed; settings are given as to `xrec_jax.train` (--config.KEY=VALUE), and the same command
goes on after a stop. Writes variants.csv and variants.png.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence

from absl import flags
import matplotlib.figure
import ml_collections
from ml_collections.config_flags import config_flags

from xrec_jax import cli
from xrec_jax.analysis import output, runs
from xrec_jax.analysis.learning import METRICS
from xrec_jax.errors import UserError, nearest
from xrec_jax.runs import progress

DIRECT = 'LLM directly'
# For a model that reads English, as configs/recpie.py says.
PAPER = {'prompt.positive': 'recpie/positive', 'prompt.negative': 'recpie/negative', 'prompt.profile': 'recpie/profile',
         'prompt.direct': 'recpie/direct', 'explain.profile.stop': '', 'explain.profile.max_length': 96,
         'generate.max_length': 64}


def cases(config: ml_collections.ConfigDict, models: Sequence[str] = ()) -> list[runs.Case]:
    """The variants of a config, each by what it changes."""
    without = lambda start: {'schedule': tuple(entry for entry in config.schedule if not entry.startswith(start))}
    summary = 'recpie/tiny_summary' if config.prompt.positive.startswith('recpie/tiny') else 'recpie/summary'
    found = [runs.Case('RecPIE'), runs.Case('without PPO', without('align(')),
             runs.Case('no profiles', without('explain(profiles)')),
             runs.Case('summary', {'prompt.positive': summary, 'prompt.negative': summary})]
    return found + [runs.Case(f'with {pathlib.Path(model).name}', PAPER | {'language.model': model})
                    for model in models]


def rows(workdirs: Mapping[str, Sequence[pathlib.Path]], ours: str, baseline: str, metrics: Sequence[str] = METRICS
         ) -> list[dict]:
    """Table 4: `ours` of each variant, the direct row of the first, and the baseline of the first to compare with."""
    first, *others = workdirs
    scored = [(first, first, ours), (DIRECT, first, DIRECT), *((name, name, ours) for name in others),
              (baseline, first, baseline)]
    return [{'variant': title, 'runs': len(workdirs[name]), **runs.row(workdirs[name], scorer, metrics)}
            for title, name, scorer in scored]


def draw(table: Sequence[Mapping], metric: str = 'rmse') -> matplotlib.figure.Figure:
    """The metric of each variant, the first on top."""
    figure, (axes,) = output.new_figure()
    places = range(len(table))
    axes.errorbar([row[metric] for row in table], places, xerr=[row.get(f'{metric} std', 0) for row in table],
                  color=output.COLOURS[0], marker='o', linestyle='', capsize=3)
    axes.axvline(table[0][metric], color=output.GREY, linewidth=0.8)
    axes.set(xlabel=f'test {metric.upper()}', yticks=list(places), yticklabels=[row['variant'] for row in table])
    axes.invert_yaxis()
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    for name in (given.ours, given.baseline, DIRECT):
        if name not in given.config.judge.scorers:
            raise UserError(f'"{name}" is none of judge.scorers.{nearest(name, given.config.judge.scorers)}')
    out = pathlib.Path(given.out)
    workdirs = runs.train(cases(given.config, given.models), [int(seed) for seed in given.seeds],
                          runs.config_arguments(sys.argv[1:]), out)
    table = rows(workdirs, given.ours, given.baseline)
    progress.CONSOLE.print(output.table(table, 'test split', digits=4))
    output.write(out, 'variants', table, draw(table))


if __name__ == '__main__':
    config_flags.DEFINE_config_file('config', None, 'File with get_config, as configs/recpie.py:simulated.')
    flags.mark_flag_as_required('config')
    flags.DEFINE_list('models', [], 'Directories of further language models.')
    flags.DEFINE_list('seeds', ['0', '1', '2'], 'Each variant is trained with each.')
    flags.DEFINE_string('ours', 'RecPIE', 'The scorer of `judge` that varies.')
    flags.DEFINE_string('baseline', 'No text', 'A scorer to compare with.')
    flags.DEFINE_string('out', None, 'Folder for the runs, variants.csv and variants.png.', required=True)
    cli.run(main)
