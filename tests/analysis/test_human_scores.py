"""Human scores: means, raters, a scorer on recorded explanations, and the judge beside people."""

import csv
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec_jax.analysis import human_scores
from xrec_jax.data.scores import CRITERIA
from xrec_jax.errors import UserError
from xrec_jax.phases import judge_pairs
from xrec_jax.runs.explanations import ExplanationWriter

GENERATORS = ('LLaMA2', 'GPT4')
ITEMS = 40


def write_scores(path: pathlib.Path, shift: int = 0) -> pathlib.Path:
    """GPT4 is better by what its text says: 1 to 6 times "good"."""
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['dataset', 'index', *GENERATORS])
        for n in range(ITEMS):
            writer.writerow(['ml-100k', n + 1, *(json.dumps({name: value for name in CRITERIA})
                                                 for value in (2 + shift, 3 + goodness(n) + shift))])
    return path


def goodness(n: int) -> int:
    return 1 + n % 6


def write_explanations(path: pathlib.Path) -> pathlib.Path:
    rows = [{'dataset': 'ml-100k', 'recommender': 'BPR-MF', 'generator': generator, 'row': n, 'instruction': f'Item {n}',
             'explanation': 'bad' if generator == 'LLaMA2' else 'good ' * goodness(n)}
            for generator in GENERATORS for n in range(ITEMS)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def encode(texts):
    return np.array([[text.count('good'), text.count('bad')] for text in texts], np.float32)


def test_means_and_agreement_of_two_people(tmp_path):
    files = [write_scores(tmp_path / 'a.csv'), write_scores(tmp_path / 'b.csv', shift=1)]
    scores, rows = human_scores.run(files, tmp_path / 'out')
    assert [row['reasonability'] for row in rows] == pytest.approx(
        [2.5, 3.5 + np.mean([goodness(n) for n in range(ITEMS)])])
    assert (tmp_path / 'out' / 'human_scores.png').read_bytes().startswith(b'\x89PNG')
    raters = human_scores.people.raters([human_scores.people.read_scores(file) for file in files])
    assert set(human_scores.alphas(raters)) == set(CRITERIA)
    assert 0.5 < human_scores.alphas(raters)['redundancy'] < 1


def test_a_scorer_learns_what_the_text_says(tmp_path):
    scores, _ = human_scores.run([write_scores(tmp_path / 'a.csv')], tmp_path / 'out')
    file = write_explanations(tmp_path / 'explanations.parquet')
    rows = human_scores.scorer_rows(scores, file, 'BPR-MF', encode)
    errors = {row['by']: row['mae'] for row in rows if row['criterion'] == 'attractiveness'}
    assert errors['scorer'] < 0.3 * errors['mean score']
    with pytest.raises(UserError, match='"BPR".*BPR-MF'):
        human_scores.scorer_rows(scores, file, 'BPR', encode)


def test_a_judge_that_sees_it_as_people_do_agrees(tmp_path):
    scores, _ = human_scores.run([write_scores(tmp_path / 'a.csv')], tmp_path / 'out')
    run = tmp_path / 'run'
    writer = ExplanationWriter(run, '01-explain-llama')
    writer.add(user_id=[str(n) for n in range(ITEMS)], example=np.arange(ITEMS, dtype=np.int32), group='BPR-MF', text='x')
    writer.flush(1)
    writer.finish()
    (run / 'config.json').write_text(json.dumps({
        'judge': {'generators': [['Llama', 'llama'], ['GPT', 'gpt4']]}, 'llama': {'generator': 'LLaMA2'},
        'gpt4': {'generator': 'GPT4'}, 'explain': {'requests': {'dataset': 'ml-100k'}}}))
    table = pa.Table.from_pylist([
        {'group': 'BPR-MF', 'example': n, 'first': first, 'second': second, 'step': 1,
         'log_odds': 1.0 if first == 'GPT' else -1.0}
        for n in range(ITEMS) for first, second in (('Llama', 'GPT'), ('GPT', 'Llama'))], judge_pairs.SCHEMA)
    (run / 'judgements').mkdir()
    pq.write_table(table, run / 'judgements' / '03-judge-pairs.parquet')
    rows = human_scores.judge_rows(scores, run, 'BPR-MF')
    within = [row for row in rows if row['over'] == 'within_items']
    assert len(within) == 3 and all(row['spearman'] > 0.8 for row in within)
    with pytest.raises(UserError, match='no verdicts on LightGCN'):
        human_scores.judge_rows(scores, run, 'LightGCN')
