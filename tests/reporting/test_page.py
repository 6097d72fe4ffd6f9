"""The report of finished runs: what differs, what is best, what is drawn, and that the page needs nothing else."""

import csv
import html.parser
import io
import json
import re
import urllib.parse

import pytest

from xrec_jax import report
from xrec_jax.errors import UserError
from xrec_jax.reporting import collect, figures, page, tables


def write_run(folder, seed=0, beta=0.05, auc=0.6, text=False):
    folder.mkdir(parents=True)
    config = {'seed': seed, 'data': {'name': 'shop & co', 'options': {'seed': seed}}, 'align': {'kl_coef': beta},
              'schedule': ['align(lc)', 'judge(ctr)'], 'language': {'model': 'tiny'}}
    other = {'auc': 0.5, 'log_loss': 0.7, 'mae': 0.5, 'rmse': 0.5}
    summary = {'seed': seed, 'device': '1 × cpu', 'versions': {'jax': '0.10.2'}, 'seconds': {'01-align-lc': 30.0 + seed},
               'ctr': {'DeepFM <1>': {'test': other}, 'Ours': {'test': other | {'auc': auc, 'log_loss': 0.8}}}}
    if text:
        summary['text'] = {'scorer': 'LMScore', 'scorer_model': 'tiny', 'texts': {'icl': {
            'count': 2, 'with_reference': 0, 'coverage': 0.5, 'distinct1': 0.1, 'distinct2': 0.2, 'unique': 1.0, 'bleu': None,
            'rouge1': None, 'rouge2': None, 'rougeL': None, 'informativeness': None, 'reverse': None, 'fluency': -2.5}}}
    rows = [{'phase': '01-align-lc', 'step': step, 'reward': 0.5 + 0.1 * step + 0.01 * seed, 'kl_response': 0.1 * step,
             'response_length': 20.0, 'entropy': 2.0, 'tokens_per_second': 100.0 + step} for step in (1, 2, 3)]
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'summary.json').write_text(json.dumps(summary))
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return folder


@pytest.fixture
def groups(tmp_path):
    """Two seeds with one beta, one with another."""
    made = [write_run(tmp_path / 'a0', 0, auc=0.6), write_run(tmp_path / 'b0', 0, 0.1, 0.9, text=True),
            write_run(tmp_path / 'a1', 1, auc=0.8)]
    return collect.grouped([collect.read_run(folder) for folder in made])


def test_runs_that_differ_in_their_seed_alone_are_one_group(groups):
    assert [(group.name, len(group.runs)) for group in groups] == [('kl_coef=0.05', 2), ('kl_coef=0.1', 1)]
    assert collect.differences(groups) == {'align.kl_coef': [0.05, 0.1]}
    assert collect.grouped(groups[0].runs)[0].name == 'shop & co'  # nothing differs


def test_figures_are_means_with_spread_and_the_best_of_a_column_is_marked(groups):
    table, = tables.result_tables(groups)
    assert table.columns == ('run', 'scorer', 'AUC', 'LogLoss', 'MAE', 'RMSE')
    assert [cell.text for cell in table.rows[1]][:3] == ['kl_coef=0.05', 'Ours', '0.7000 ± 0.1414']
    best = {(row[0].text, row[1].text, title) for row in table.rows for cell, title in zip(row, table.columns) if cell.best}
    assert ('kl_coef=0.1', 'Ours', 'AUC') in best  # more is better
    assert ('kl_coef=0.05', 'DeepFM <1>', 'LogLoss') in best and ('kl_coef=0.05', 'Ours', 'LogLoss') not in best


def test_a_bound_is_not_the_best(tmp_path):
    folder = write_run(tmp_path / 'a')
    summary = json.loads((folder / 'summary.json').read_text())
    summary['ctr']['True reasons'] = {'test': {'auc': 0.99, 'log_loss': 0.1, 'mae': 0.1, 'rmse': 0.1}}
    (folder / 'summary.json').write_text(json.dumps(summary))
    table, = tables.result_tables(collect.grouped([collect.read_run(folder)]))
    best = {(row[0].text, title) for row in table.rows for cell, title in zip(row, table.columns) if cell.best}
    assert ('Ours', 'AUC') in best and not any(name == 'True reasons' for name, _ in best)


def test_markdown_and_latex_have_the_same_figures(groups):
    text = page.render(groups, 'markdown')
    assert '| kl_coef=0.1 | Ours | **0.9000** | 0.8000 | **0.5000** | **0.5000** |' in text
    assert '| kl_coef=0.1 | icl | 0.500 | 0.100 | 0.200 | 1.000 | – |' in text
    text = page.render(groups, 'latex')
    assert r'kl\_coef=0.05 & Ours & 0.7000 $\pm$ 0.1414 &' in text and r'\textbf{0.9000}' in text
    assert r'shop \& co' in text and text.count(r'\begin{tabular}') == text.count(r'\end{tabular}') == len(page.all_tables(groups))


class Page(html.parser.HTMLParser):
    """What a page loads, and its open elements."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.open, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loads += [value for name in ('src', 'href', 'xlink:href') if (value := given.get(name)) and not value.startswith('#')]
        self.links += [given] if tag == 'a' else []
        if tag not in ('meta', 'link', 'br'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def test_the_page_is_whole_and_loads_nothing(groups):
    text = page.render(groups)
    read = Page(text)
    assert not read.open
    assert read.loads and all(value.startswith('data:text/csv') for value in read.loads)
    assert '<script' not in text and not re.search(r'url\((?!#)|@import', text)
    assert 'DeepFM &lt;1&gt;' in text and 'shop &amp; co' in text
    assert text.index('>align.kl_coef<') < text.index('>AUC<')  # what differs comes first
    assert figures.INK not in text and 'currentColor' in text
    assert len(re.findall('id="[^"]*"', text)) == len(set(re.findall('id="[^"]*"', text)))


def test_each_figure_has_its_numbers_behind_a_link(groups):
    link = next(link for link in Page(page.render(groups)).links if 'align-lc' in link.get('download', ''))
    rows = list(csv.DictReader(io.StringIO(urllib.parse.unquote(link['href'].partition(',')[2]))))
    assert {row['metric'] for row in rows} == set(figures.CURVES)
    row = next(row for row in rows if row['run'] == 'kl_coef=0.05' and row['metric'] == 'reward' and row['step'] == '2')
    assert abs(float(row['mean']) - 0.705) < 1e-9 and row['runs'] == '2'
    throughput = list(csv.DictReader(io.StringIO(figures.throughput_figure(groups).csv)))
    assert [float(row['tokens_per_second']) for row in throughput] == [102.0, 102.0]


def test_the_command_takes_several_folders_after_one_flag(tmp_path):
    assert report.workdirs_apart(['--workdir', 'a', 'b', '--out', 'r.html', '--workdir=c', 'd']) == [
        '--workdir=a', '--workdir=b', '--out', 'r.html', '--workdir=c', '--workdir=d']
    with pytest.raises(UserError, match='needs --out'):
        report.write_report([], 'html', None)
    report.write_report([write_run(tmp_path / 'a')], 'html', tmp_path / 'out' / 'report.html')
    text = (tmp_path / 'out' / 'report.html').read_text()
    assert 'Config: what differs' not in text and '1 run of 1 config' in text
    with pytest.raises(UserError, match='summary.json: no such file'):
        report.write_report([tmp_path], 'html', tmp_path / 'x.html')
