"""Cases of a config: what is passed on, what is left alone, and the tables of D.1 and D.3 from summaries."""

import json
import subprocess

import ml_collections
import pytest

from xrec_jax.analysis import learning, runs, variants
from xrec_jax.errors import UserError


def test_the_arguments_that_name_or_change_the_config_are_passed_on():
    given = ['--config', 'configs/recpie.py:simulated', '--out=x', '--config.data.num_users=5', '--configs=no', '--seeds', '0',
             '-config.align.iterations', '3', '--shares=1']
    assert runs.config_arguments(given) == ['--config', 'configs/recpie.py:simulated', '--config.data.num_users=5',
                                            '-config.align.iterations', '3']
    assert runs.config_arguments(['--config=a.py:b', '--out', 'x']) == ['--config=a.py:b']


@pytest.fixture
def fake_train(monkeypatch):
    """A trainer whose RMSE is 0.3 / (1 + share), and a tenth of the seed; it tells what it was asked."""
    asked = []

    def run(command):
        asked.append(command)
        values = dict(argument.removeprefix('--config.').split('=', 1) for argument in command if argument.startswith('--config.'))
        workdir = runs.pathlib.Path(command[command.index('--workdir') + 1])
        workdir.mkdir(parents=True, exist_ok=True)
        rmse = 0.3 / (1 + float(values.get('data.train_share', 1))) + 0.001 * int(values['seed'])
        figures = {'RecPIE': rmse, 'No text': rmse + 0.05, 'LLM directly': 0.5}
        (workdir / 'summary.json').write_text(json.dumps({'rating': {
            name: {'test': {'rmse': value, 'mae': value / 2}} for name, value in figures.items()}}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(runs.subprocess, 'run', run)
    return asked


def test_a_learning_curve_over_shares_and_seeds(fake_train, tmp_path):
    shares = [0.25, 0.5, 1.0]
    workdirs = runs.train(learning.cases(shares), [0, 2], ['--config=c.py'], tmp_path)
    assert len(fake_train) == 6
    table = learning.rows(workdirs, shares, ['No text', 'RecPIE'])
    assert [row['share'] for row in table] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert abs(table[-1]['rmse'] - (0.15 + 0.001)) < 1e-12 and abs(table[-1]['rmse std'] - 0.001 * 2**0.5) < 1e-12
    assert learning.reached(table, 'RecPIE', 'No text') == 0.5  # 0.201 there, 0.201 without text on all data
    assert len(learning.draw(table, 'No text').axes) == 1
    # finished runs are left alone, and not taken for others
    runs.train(learning.cases(shares), [0, 2], ['--config=c.py'], tmp_path)
    assert len(fake_train) == 6
    with pytest.raises(UserError, match='finished run of other arguments'):
        runs.train(learning.cases(shares), [0, 2], ['--config=d.py'], tmp_path)


def test_a_run_that_was_stopped_is_gone_on_with(fake_train, tmp_path):
    workdirs = runs.train(learning.cases([1.0]), [0], [], tmp_path)['share-1']
    (workdirs[0] / 'summary.json').write_text(json.dumps({'seconds': {'02-fit-no_text': 24.9}}))  # as after one phase
    runs.train(learning.cases([1.0]), [0], [], tmp_path)
    assert len(fake_train) == 2


def test_a_share_at_which_nothing_is_as_good_is_none():
    table = [{'share': 1.0, 'scorer': 'ours', 'rmse': 0.3}, {'share': 1.0, 'scorer': 'theirs', 'rmse': 0.2}]
    assert learning.reached(table, 'ours', 'theirs') is None


def test_variants_change_what_is_asked_of_the_language_model(fake_train, tmp_path):
    config = ml_collections.ConfigDict({'schedule': ('explain(profiles)', 'fit(no_text)', 'align(first)', 'judge(table)'),
                                        'prompt': {'positive': 'recpie/tiny_positive'}})
    found = {case.name: case.changes for case in variants.cases(config, ['models/gpt2'])}
    assert found['RecPIE'] == {} and found['no profiles'] == {
        'schedule': ('fit(no_text)', 'align(first)', 'judge(table)')}
    assert found['without PPO'] == {'schedule': ('explain(profiles)', 'fit(no_text)', 'judge(table)')}
    assert found['summary'] == dict.fromkeys(('prompt.positive', 'prompt.negative'), 'recpie/tiny_summary')
    assert found['with gpt2']['language.model'] == 'models/gpt2'
    assert found['with gpt2']['prompt.positive'] == 'recpie/positive'
    config.prompt.positive = 'recpie/positive'
    assert {case.name: case.changes for case in variants.cases(config)}['summary']['prompt.positive'] == 'recpie/summary'
    workdirs = runs.train(variants.cases(config), [0], [], tmp_path)
    table = variants.rows(workdirs, 'RecPIE', 'No text')
    assert [row['variant'] for row in table] == ['RecPIE', 'LLM directly', 'without PPO', 'no profiles', 'summary', 'No text']
    assert table[1]['rmse'] == 0.5 and 'rmse std' not in table[0]
    assert len(variants.draw(table).axes) == 1


def test_a_run_that_fails_and_a_scorer_that_is_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(runs.subprocess, 'run', lambda command: subprocess.CompletedProcess(command, 2))
    with pytest.raises(UserError, match='RecPIE, seed 3 failed'):
        runs.train([runs.Case('RecPIE')], [3], [], tmp_path)
    (tmp_path / 'summary.json').write_text(json.dumps({'rating': {'RecPIE': {'test': {}}}}))
    with pytest.raises(UserError, match='Did you mean "RecPIE"'):
        runs.figures(tmp_path, 'RecPI')
