"""LLMXRec's section 4.3: what makes an explanation win. Ways of writing it, each against a reference, by the tuned judge.

    python -m xrec_jax.train --config configs/llmxrec_analyses.py:ml-100k,history --workdir runs/history \\
        --config.data.data_dir=../shared/data/ml-100k --config.material=../shared/data/llmxrec

The argument: ml-100k, mind or steam, and which analyses (all, if none is named):
  history  figure 3a: items of history that the prompt shows, against 10
  amount   figure 3b: tuned on instruct_scaling_N.jsonl, N pairs of each data set, against 100 (the paper: 150, which are
           not published)
  sides    figure 4: without the profile, without categories, against the whole prompt
Each leaves a table, and analysis/<phase>.csv and .png in the workdir. Adapters that another run has tuned are used again
with --config.judge_adapter.load=RUN/adapters/13-tune-judge_adapter (and --config.explainer.load), for a real LLaMA see the
marks in configs/llmxrec.py. Section 4.4 is `python -m xrec_jax.analysis.length`.
"""

from ml_collections import ConfigDict

from configs import llmxrec
from configs.baselines import parse

HISTORY = (2, 5, 10, 20)  # [T]; [P] up to 50 on ML-100k
AMOUNT = (10, 20, 50, 100, 200)
SIDES = {'whole': {}, 'without profile': {'profile': ()},
         'without categories': {'history_categories': False, 'candidate_categories': False}}
ANALYSES = ('history', 'amount', 'sides')


def get_config(argument: str = 'ml-100k') -> ConfigDict:
    dataset, analyses = parse(argument, ANALYSES)
    config = llmxrec.get_config(f'{dataset},bpr')
    config.explain.requests.max_rows = 100  # users
    writers = []  # phases
    tuned = [] if tuple(analyses) == ('amount',) else ['tune(explainer)']
    judged = []
    for analysis in analyses:
        conditions, settings = CONDITIONS[analysis](config)
        writers += [f'explain({name})' for _, name in conditions]
        if analysis == 'amount':
            tuned += [f'tune({name}_adapter)' for _, name in conditions]
        config[analysis] = ConfigDict({'task': 'pairs', 'generators': tuple(conditions)} | settings)
        judged.append(f'judge({analysis})')
    config.schedule = (*tuned, *writers, 'tune(judge_adapter)', *judged)
    return config


def _history(config: ConfigDict) -> tuple[list[tuple[str, str]], dict]:
    for length in HISTORY:
        config[f'history{length}'] = ConfigDict({'parts': {'history': length}})
    return ([(str(length), f'history{length}') for length in HISTORY],
            {'reference': '10', 'condition': 'items of history in the prompt'})


def _amount(config: ConfigDict) -> tuple[list[tuple[str, str]], dict]:
    for size in AMOUNT:
        config[f'tuned{size}_adapter'] = ConfigDict({
            'adapter_name': f'tuned{size}',
            'data': {'folder': config.get_ref('material'), 'train': (f'instruct_scaling_{size}.jsonl',),
                     'forms': ('instructions',), 'test': ('instruct_test_unseen.jsonl',), 'valid_share': 0.0},
            'epochs': 3,
            'optimizer': {'learning_rate': 1e-3},  # [T]
        })
        config[f'tuned{size}'] = ConfigDict({'adapter': f'tuned{size}'})
    return ([(str(size), f'tuned{size}') for size in AMOUNT],
            {'reference': '100', 'condition': 'pairs of each data set that the writer was tuned on'})


def _sides(config: ConfigDict) -> tuple[list[tuple[str, str]], dict]:
    names = [(title, title.replace(' ', '_')) for title in SIDES]
    for title, name in names:
        config[name] = ConfigDict({'parts': SIDES[title]})
    return names, {'reference': 'whole', 'condition': 'prompt'}


CONDITIONS = {'history': _history, 'amount': _amount, 'sides': _sides}
