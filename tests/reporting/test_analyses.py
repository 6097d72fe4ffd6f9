"""The papers' analyses in a report: found where runs hold something for them, computed by hand, and left out elsewhere."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.reporting import made
from tests.reporting.test_page import write_run
from xrec_jax.reporting import analyses, collect, figures


def rows_of(figure):
    return list(csv.DictReader(io.StringIO(figure.csv)))


def change(folder, name, **keys):
    path = folder / f'{name}.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_runs_along_one_number_are_a_line_and_two_numbers_two_figures(tmp_path):
    grid = [(0.01, 1.0, 0.5), (0.05, 1.0, 0.7), (0.5, 1.0, 0.6), (0.05, 2.0, 0.65)]
    runs = []
    for number, (beta, delta, auc) in enumerate(grid):
        for seed in (0, 1):
            folder = write_run(tmp_path / f'{number}-{seed}', seed, beta, auc + 0.02 * seed)
            change(folder, 'config', align={'kl_coef': beta, 'reward_clip': delta})
            runs.append(collect.read_run(folder))
    groups = collect.grouped(runs)
    found = collect.sweeps(groups)
    assert {key: [[value for value, _ in line] for _, line in lines] for key, lines in found.items()} == {
        'align.kl_coef': [[0.01, 0.05, 0.5]], 'align.reward_clip': [[1.0, 2.0]]}
    beta, delta = analyses.sensitivity_figures(groups)
    assert 'β' in beta.title and 'δ' in delta.title
    ours = [row for row in rows_of(beta) if row['line'] == 'Ours' and row['metric'] == 'auc']
    assert [(row['value'], round(float(row['mean']), 6), row['runs']) for row in ours] == [
        ('0.01', 0.51, '2'), ('0.05', 0.71, '2'), ('0.5', 0.61, '2')]
    assert float(ours[0]['std']) == pytest.approx(0.02 / np.sqrt(2))
    assert {row['metric'] for row in rows_of(beta)} == {'auc', 'log_loss'}


def test_runs_that_differ_in_a_word_or_in_two_keys_at_once_are_no_sweep(tmp_path):
    first, second = write_run(tmp_path / 'a'), write_run(tmp_path / 'b')
    change(second, 'config', language={'model': 'other'})
    assert not collect.sweeps(collect.grouped([collect.read_run(one) for one in (first, second)]))
    change(second, 'config', align={'kl_coef': 0.5})
    assert not collect.sweeps(collect.grouped([collect.read_run(one) for one in (first, second)]))


def test_attention_of_the_seeds_of_a_group_is_one_figure(tmp_path):
    for seed in (0, 1):
        folder = write_run(tmp_path / str(seed), seed)
        pq.write_table(pa.table({
            'user_id': [f'u{n}' for n in range(8)], 'split': ['test'] * 8, 'liked': [n % 2 == 0 for n in range(8)],
            'pos': [0.3 + 0.01 * n for n in range(8)], 'neg': [0.1 + 0.01 * n for n in range(8)]}), folder / 'attention.parquet')
    groups = collect.grouped([collect.read_run(tmp_path / str(seed)) for seed in (0, 1)])
    figure, = analyses.attention_figures(groups)
    counts = {(ratings, kind): sum(int(row[kind]) for row in rows_of(figure) if row['ratings'] == ratings)
              for ratings in ('high', 'low') for kind in ('positive reasons', 'negative reasons')}
    assert set(counts.values()) == {8}
    assert 'high ratings: 0.330 on positive and 0.130 on negative reasons' in figure.note and 'over 8 users' in figure.note


def test_the_gain_is_of_what_judge_after_names_last(tmp_path):
    folder = made.write_explanations(write_run(tmp_path / 'a'), examples=False)
    figure, = analyses.uncertainty_figures(collect.grouped([collect.read_run(folder)]))
    rows = rows_of(figure)
    assert sum(int(row['examples'] or 0) for row in rows) == 24 and rows[-1]['baseline'] and rows[-1]['slope']
    assert 'Ours' in figure.note and figure.svg.count('Ours nearer than') == 1
    change(folder, 'config', judge={})  # nobody says which is ours
    assert not analyses.uncertainty_figures(collect.grouped([collect.read_run(folder)]))


def test_pairs_have_their_intervals_and_the_best_generator_is_marked(tmp_path):
    one = lambda value: {'value': value, 'low': value - 0.1, 'high': value + 0.1}
    report = {'judged': 50, 'share_of_second': one(0.5), 'flips': one(0.2), 'generators': {
        name: {'win_ratio': one(ratio), 'ranking_order': one(2 - ratio), 'strength': one(ratio - 0.5), 'comparisons': 50}
        for name, ratio in (('theirs', 0.3), ('ours & tuned', 0.7))}}
    conditions = [{'condition': str(n), 'win_ratio': 0.5 + n / 100, 'low': 0.4, 'high': 0.8, 'count': 9, 'wins': 4, 'ties': 2,
                   'losses': 3, 'p': 0.5} for n in (5, 20)]
    accuracy = {'accuracy': 0.82, 'share_of_second': 0.48, 'flips': 0.15}
    folder = write_run(tmp_path / 'a')
    change(folder, 'summary', pairs={'temperature': 2.0, 'validation': accuracy, 'generators': {'BPR-MF': report}},
           history={'temperature': 2.0, 'validation': accuracy, 'conditions': conditions})
    change(folder, 'config', history={'reference': '10', 'condition': 'items of history'})
    groups = collect.grouped([collect.read_run(folder)])
    generators, compared, judge = analyses.pairs_tables(groups)
    assert [cell.text for cell in generators.rows[0]][3:5] == ['ours & tuned', '0.700 [0.600, 0.800]']
    assert [cell.best for cell in generators.rows[0]][4:7] == [True] * 3 and not any(cell.best for cell in generators.rows[1])
    assert [cell.text for cell in compared.rows[1]][2:] == ['20', '0.700 [0.400, 0.800]', '4 / 2 / 3', '0.5']
    assert [cell.text for cell in judge.rows[1]][2:] == ['labelled pairs, validation', '0.820', '0.480', '0.150']
    ratios, lines = analyses.pairs_figures(groups)
    assert [row['value'] for row in rows_of(ratios)] == ['0.3', '0.7']
    assert 'items of history' in lines.svg and 'win ratio over 10' in lines.svg


def test_words_are_counted_by_user_and_gender(tmp_path):
    folder = made.write_explanations(write_run(tmp_path / 'a'))
    groups = collect.grouped([collect.read_run(folder)])
    table, = analyses.length_table(groups)
    rows = {row[1].text: [cell.text for cell in row] for row in table.rows}
    assert set(rows) == set(made.PHASES)
    words = {}
    for n in [*range(24), *range(24), *range(4)]:
        words.setdefault(n % 7, []).append(len(made.text_of('04-explain-final', n).split()))
    means = {user: np.mean(each) for user, each in words.items()}
    women, men = np.mean([means[user] for user in range(3)]), np.mean([means[user] for user in range(3, 7)])
    assert rows['04-explain-final'][2:5] == [f'{men:.2f}', f'{women:.2f}', f'{women - men:+.2f}']
    assert [row['generator'] for row in rows_of(analyses.length_figures(groups)[0])] == list(made.PHASES)
    assert not analyses.length_table(collect.grouped([collect.read_run(write_run(tmp_path / 'b'))]))


def test_memory_stands_beside_the_throughput_where_it_was_measured(tmp_path):
    folder = write_run(tmp_path / 'a')
    with (folder / 'metrics.jsonl').open('a') as file:
        file.write(json.dumps({'phase': '01-align-lc', 'step': 4, 'peak_memory_gib': 3.5}) + '\n')
    change(folder, 'summary', seconds={'01-align-lc': 30.0, '02-explain-x': 5.0},
           **{'02-explain-x': {'tokens_per_second': 900.0}})
    rows = collect.by_phase([collect.read_run(folder)])
    assert [(row['phase'], row.get('tokens_per_second'), row.get('peak_memory_gib')) for row in rows] == [
        ('01-align-lc', [102.0], [3.5]), ('02-explain-x', [900.0], None)]
    figure = figures.throughput_figure(collect.grouped([collect.read_run(folder)]))
    assert 'device memory, GiB' in figure.svg and rows_of(figure)[0]['peak_memory_gib'] == '3.5'


def test_a_title_is_no_markup_in_a_figure(tmp_path):
    folder = made.write_explanations(write_run(tmp_path / 'a'))
    change(folder, 'config', data={'name': '<b>"x"&'})
    figure, = analyses.length_figures(collect.grouped([collect.read_run(folder)]))
    assert '<b>' in figure.title and '<b>' not in figure.svg and figure.file == 'words-of-an-explanation-by-gender-b-x'
