"""Several runs side by side."""

import json

import pytest

from xrec_jax import report
from xrec_jax.errors import UserError


def summary(seed, auc):
    figures = {'auc': auc, 'log_loss': 0.6, 'mae': 0.4, 'rmse': 0.5}
    low = figures | {'auc': 0.5}
    return {'seed': seed, 'ctr': {'DeepFM': {'test': low}, 'ICL': {'test': low}, 'ExpCTR-LLM': {'test': figures},
                                  'ExpCTR-Aug': {'test': figures}},
            'named_decisive_attribute': {'before': {'test': 0.2}, 'after': {'test': 0.6}}, 'seconds': {'a': 60.0}}


def test_means_and_spreads_over_runs(tmp_path):
    for name, rewards in (('a', [0.5, 0.7]), ('b', [0.5, 0.9])):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'metrics.jsonl').write_text(''.join(
            json.dumps({'phase': '01-align-lc', 'step': n, 'reward': reward}) + '\n'
            for n, reward in enumerate(rewards, 1)))
    lines = report.lines([summary(0, 0.6), summary(1, 0.8)], [tmp_path / 'a', tmp_path / 'b'])
    assert lines == [
        'ExpCTR-LLM − ICL, test AUC: 0.2000 ± 0.1414',
        'ExpCTR-Aug − DeepFM, test AUC: 0.2000 ± 0.1414',
        'explanations that name a decisive attribute, test: 0.200 ± 0.000 before, 0.600 ± 0.000 after',
        '01-align-lc, mean reward: 0.500 ± 0.000 in the first fifth, 0.800 ± 0.141 in the last',
        'minutes: 1.0 ± 0.0']
    assert report.figures_table([summary(0, 0.6)]).row_count == 4


def test_a_ranking_is_reported_at_10_and_not_beside_clicks():
    ranking = {'seed': 0, 'ranking': {'BPR': {'test': {'recall@10': 0.25, 'ndcg@10': 0.125, 'recall@5': 0.5}}},
               'named_decisive_attribute': None, 'seconds': {'a': 60.0}}
    table = report.figures_table([ranking, ranking])
    assert [column.header for column in table.columns] == ['', 'Recall@10', 'NDCG@10']
    assert [list(column.cells) for column in table.columns[1:]] == [['0.2500 ± 0.0000'], ['0.1250 ± 0.0000']]
    with pytest.raises(UserError, match='judged by click and ranking'):
        report.figures_table([ranking, summary(0, 0.6)])


def test_an_unfinished_run_is_named(tmp_path):
    with pytest.raises(UserError, match='no such file; a run writes it when it is finished'):
        report.read_summary(tmp_path)
