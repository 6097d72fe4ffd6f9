"""A finished run as a folder of files, small enough to be known by heart: what `report` reads, without a model."""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_jax.phases import explained
from xrec_jax.runs.explanations import SCHEMA

HOSTILE = '</script><img src=x onerror="document.title=1"> <b>like</b> & \u2028 "Heat"'
ITEMS = {'i0': ('Heat (1995)', ['action', 'crime']), 'i1': ('Usual Suspects, The (1995)', ['crime', 'thriller']),
         'i2': ('It', ['horror']), 'i3': ('Crime Story (1996)', ['crime', 'drama']), 'i4': ('Emma <1996>', ['drama'])}
PHASES = {'01-explain-icl': 'icl', '04-explain-final': 'final'}


def example(n: int, split: str) -> dict:
    """Example n of a split: users u0 … u6, targets in turn; the history is all other items, each other one liked."""
    target = f'i{n % len(ITEMS)}'
    past = [item for item in ITEMS if item != target]
    return {'user_id': f'u{n % 7}', 'item_id': target, 'split': split, 'group': None, 'example': n,
            'title': ITEMS[target][0], 'attributes': ITEMS[target][1], 'history_length': len(past) + 3,
            'history': [{'title': ITEMS[item][0], 'attributes': ITEMS[item][1], 'liked': place % 2 == 0}
                        for place, item in enumerate(past)],
            'rating': 5.0 if n % 3 else 2.0, 'liked': n % 3 > 0, 'aspects': ['crime'] if n % 2 else None,
            'profile': [('gender', 'female' if n % 7 < 3 else 'male')]}


def text_of(phase: str, n: int) -> str:
    title = ITEMS[f'i{n % len(ITEMS)}'][0]
    if n == 3:
        return HOSTILE
    if phase == '01-explain-icl':
        return f'Since few people talk of it, the customer will dislike {title}.'
    return f'With crime liked before as in The Usual Suspects, the customer will like {title}.'


def score_of(phase: str, n: int) -> float:
    return round((0.35 if phase == '01-explain-icl' else 0.45) + (n % 10) / 50, 4)


def write_explanations(folder: pathlib.Path, count: int = 24, examples: bool = True, most_train: int = 4) -> pathlib.Path:
    """Explanations of `count` test and as many valid examples by both phases, of a few train ones by the last alone,
    their examples and predictions, beside the run that `test_page.write_run` has written to `folder`."""
    (folder / 'explanations').mkdir()
    for phase, name in PHASES.items():
        rows = [example(n, split) for split, number in (('valid', count), ('test', count)) for n in range(number)]
        rows += [example(n, 'train') for n in range(most_train if name == 'final' else 0)]
        written = [{**{key: row[key] for key in ('user_id', 'item_id', 'split', 'group', 'example')}, 'kind': 'reason',
                    'text': text_of(phase, row['example']), 'llm_score': score_of(phase, row['example']),
                    'reward': abs(score_of(phase, row['example']) - (not row['liked']))} for row in rows]
        pq.write_table(pa.Table.from_pylist(written, schema=SCHEMA), folder / 'explanations' / f'{phase}.parquet')
        if examples:
            (folder / 'examples').mkdir(exist_ok=True)
            schema = explained.SCHEMA.with_metadata({explained.SCALE: '[1.0, 5.0]'})
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), explained.path_of(folder, phase))
    write_predictions(folder, count)
    config = json.loads((folder / 'config.json').read_text())
    config['judge'] = {'scorers': {'ICL': 'llm(icl)', 'DeepFM': 'predictor(ids)', 'Ours': 'llm(final)',
                                   'Aug': 'predictor(aug, final)'},
                       'before': {'explain': 'icl', 'scorers': ['ICL', 'DeepFM']},
                       'after': {'explain': 'final', 'scorers': ['Aug', 'Ours']}}
    config['data'] |= {'threshold': 4.0, 'comparison': 'at_least'}
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


def write_predictions(folder: pathlib.Path, count: int) -> None:
    """Four scorers: the models' own scores, one that never knows, and one that is right about every other example."""
    rows = []
    for split in ('valid', 'test'):
        for n in range(count):
            one = example(n, split)
            rows.append({**{key: one[key] for key in ('user_id', 'item_id', 'split', 'rating', 'liked')},
                         'target': float(one['liked']), 'ICL': score_of('01-explain-icl', n), 'DeepFM': 0.25 + n / 1000,
                         'Aug': 0.9 if one['liked'] == bool(n % 2) else 0.1, 'Ours': score_of('04-explain-final', n)})
    pq.write_table(pa.Table.from_pylist(rows), folder / 'predictions.parquet')
