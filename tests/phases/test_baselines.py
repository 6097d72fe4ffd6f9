"""Runs of predictors alone: several seeds at once, the table they leave, what is refused."""

import csv
import json

import jax
import numpy as np
import pytest

from configs.baselines import ctr as baseline, ranking as ranking_baseline
from xrec_jax.errors import UserError
from xrec_jax.metrics.ctr import ctr_metrics
from xrec_jax.metrics.spread import spread
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import fit_predictor, fit_ranking, schedule, task as tasks
from xrec_jax.recommenders import ranking, scoring, training
from xrec_jax.recommenders.rows import make_rows
from xrec_jax.runs.metrics_writer import read_metrics, repeatable
from xrec_jax.runs.workdir import open_workdir


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    make = meshes.make_mesh
    monkeypatch.setattr(meshes, 'make_mesh', lambda sizes: make(sizes, jax.devices()[:1]))


def small_config(*models: str):
    config = baseline.get_config(','.join(['simulated', *models]))
    config.data.update({'num_samples': 200, 'history_length': 3})
    config.data.options.update({'num_users': 40, 'num_items': 30, 'num_interactions': 400})
    config.fit.seeds = 3
    config.fit.training.epochs = 4
    return config


def test_a_model_that_there_is_not_is_named():
    with pytest.raises(UserError, match='"sasrek" is none of the models. Did you mean "sasrec"'):
        ranking_baseline.get_config('simulated,bpr,sasrek')


def make(config, workdir):
    task = tasks.make_task(config, workdir)
    schedule.check_schedule(task)
    return task


def test_every_model_of_the_config_has_a_title_and_can_be_made(tmp_path):
    assert [*baseline.TITLES, 'recpie', 'peter'] == list(fit_predictor.MODELS)  # the last two are of configs/recpie.py
    assert make(baseline.get_config('simulated'), tmp_path).language is None


def test_the_table_holds_mean_and_spread_over_the_seeds(tmp_path):
    task = make(small_config('lr', 'din'), tmp_path / 'run')
    open_workdir(str(tmp_path / 'run'), task.config)
    state = schedule.run_schedule(task)
    fitted = state.predictors['din']
    assert fitted.seeds == 3
    rows = make_rows(task.examples['test'], history=True)
    each = [jax.tree.map(lambda leaf: leaf[seed], fitted.params) for seed in range(3)]
    auc = [ctr_metrics(task.examples['test'].label, np.asarray(
        scoring.predict(fitted.model, params, task.fields, rows)))['auc'] for params in each]
    assert len(set(auc)) > 1  # seeds differ
    with open(tmp_path / 'run' / 'table.csv') as file:
        table = {row['']: row for row in csv.DictReader(file)}
    assert list(table) == ['LR', 'DIN']  # in the order of the schedule
    assert float(table['DIN']['test AUC']) == pytest.approx(np.mean(auc), abs=1e-6)
    assert float(table['DIN']['test AUC std']) == pytest.approx(np.std(auc, ddof=1), abs=1e-6)
    assert f' {spread(auc)} ' in (tmp_path / 'run' / 'table.md').read_text()
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['ctr']['DIN']['test']['auc'] == pytest.approx(np.mean(auc), abs=1e-6)
    assert summary['ctr_of_seeds']['DIN']['test']['auc'] == pytest.approx(auc, abs=1e-6)
    assert summary['named_decisive_attribute'] is None


def small_ranking(*models: str):
    config = ranking_baseline.get_config(','.join(['simulated', *models]))
    config.data.history_length = 6
    config.data.options.update({'num_users': 40, 'num_items': 30, 'num_interactions': 400})
    config.fit.seeds = 2
    config.fit.training.update({'epochs': 3, 'batch_size': 64})
    config.fit.checkpoint_every = 1
    for name in models:
        if name in ('sasrec', 'bert4rec', 'gru4rec', 'caser'):
            config[name].model = {'name': name, 'embed_dim': 4, 'max_length': 3 if name == 'caser' else 6}
        elif name != 'popularity':
            config[name].model.embed_dim = 4
    return config


def start(config, workdir):
    task = make(config, workdir)
    open_workdir(str(workdir), config)
    return task, schedule.run_schedule(task)


def test_every_ranking_model_is_trained_and_stands_in_the_table(tmp_path):
    models = list(fit_ranking.MODELS)
    assert list(ranking_baseline.TITLES) == models
    task, state = start(small_ranking(*models), tmp_path / 'run')
    with open(tmp_path / 'run' / 'table.csv') as file:
        table = {row['']: row for row in csv.DictReader(file)}
    assert list(table) == list(ranking_baseline.TITLES.values())
    fitted = state.predictors['sasrec']
    data, queries = ranking.make_data(fitted.model, task.examples, 40, 30)
    recall = [ranking.evaluate(fitted.model, jax.tree.map(lambda leaf: leaf[n], fitted.params), data,
                               queries['test'], (5,))['recall@5'] for n in range(2)]
    assert float(table['SASRec']['test Recall@5']) == pytest.approx(np.mean(recall), abs=1e-6)
    assert float(table['SASRec']['test Recall@5 std']) == pytest.approx(np.std(recall, ddof=1), abs=1e-6)
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['ranking']['SASRec']['test']['recall@5'] == pytest.approx(np.mean(recall), abs=1e-6)
    assert summary['fallbacks']['SASRec']['test']['users'] == len(task.examples['test'].user)


def test_a_run_stopped_within_a_ranking_model_ends_with_the_same_bits(tmp_path, monkeypatch):
    config = small_ranking('bpr', 'sasrec')
    _, unbroken = start(config, tmp_path / 'unbroken')
    run_epoch = ranking.training.run_epoch_of_seeds
    calls = iter(range(100))

    def stopping(*args):
        if next(calls) == 4:  # in the second epoch of SASRec
            raise KeyboardInterrupt
        return run_epoch(*args)

    monkeypatch.setattr(ranking.training, 'run_epoch_of_seeds', stopping)
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / 'broken')
    monkeypatch.undo()
    _, resumed = start(config, tmp_path / 'broken')
    for name in ('bpr', 'sasrec'):
        # Eight devices: SASRec's attention has been seen to differ by 1e-8 here, and only under pytest; not yet explained.
        for ours, theirs in zip(*(jax.tree.leaves(run.predictors[name].params) for run in (resumed, unbroken))):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=0 if name == 'bpr' else 1e-7)
    rows = [[repeatable(row) for row in read_metrics(tmp_path / run / 'metrics.jsonl')]
            for run in ('unbroken', 'broken')]
    assert rows[0] == rows[1]


@pytest.mark.parametrize('model', ['bpr', 'sasrec'])
def test_eight_devices_rank_as_one_does(tmp_path, monkeypatch, model):
    config = small_ranking(model)
    config.fit.seeds = 1
    _, one = start(config, tmp_path / 'one')
    monkeypatch.undo()
    config.mesh.fsdp, config.mesh.data = 8, 1
    _, eight = start(config, tmp_path / 'eight')
    params = one.predictors[model].params, eight.predictors[model].params
    table = next(leaf for leaf in jax.tree.leaves(params[1]) if leaf.shape[0] == 128)
    assert {shard.data.shape[0] for shard in table.addressable_shards} == {16}
    for a, b in zip(*map(jax.tree.leaves, params)):
        np.testing.assert_allclose(a, b, atol=2e-3)  # Adam's first steps are sign steps
    figures = [json.loads((tmp_path / name / 'summary.json').read_text())['ranking'] for name in ('one', 'eight')]
    assert jax.tree.all(jax.tree.map(lambda a, b: abs(a - b) < 0.03, *figures))


def test_a_rating_is_predicted_on_its_scale_and_judged_by_it(tmp_path):
    config = small_config('lr', 'sasrec')
    config.fit.task = config.judge.task = 'rating'
    config.fit.training.monitor = 'rmse'
    config.data.update({'protocol': 'user_temporal', 'split': (7, 1, 2)})
    del config.data.num_samples
    task, state = start(config, tmp_path / 'run')
    fitted = state.predictors['lr']
    rows = make_rows(task.examples['test'])
    stars = 1 + 4 * np.asarray(scoring.predict_of_seeds(fitted.model, fitted.params, task.fields, rows))
    rmse = np.sqrt(((stars - task.examples['test'].rating) ** 2).mean(axis=1)) / 4
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['rating_of_seeds']['LR']['test']['rmse'] == pytest.approx(rmse, abs=1e-5)


def test_a_sweep_tries_all_and_goes_on_with_what_validates_best(tmp_path):
    config = small_config('lr', 'fm')
    config.sweep.training.learning_rate = (1e-6, 3e-2)
    config.sweep.model.embed_dim = (2, 3)
    task, state = start(config, tmp_path / 'run')
    with open(tmp_path / 'run' / 'checkpoints' / '02-fit-fm' / 'sweep.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and [row['chosen'] for row in rows] == ['yes', '', '', '']
    best = min(rows, key=lambda row: float(row['validation mean']))
    settings = state.predictors['fm'].settings
    assert settings.training.learning_rate == float(best['training.learning_rate'])
    assert settings.model.embed_dim == state.predictors['fm'].model.embed_dim == int(best['model.embed_dim'])
    again = schedule.run_schedule(make(config, tmp_path / 'run'))  # nothing is trained again
    assert again.predictors['fm'].settings == state.predictors['fm'].settings


@pytest.mark.parametrize('change, message', [
    (lambda config: config.bpr.model.update({'name': 'brp'}), 'fit.model.name: "brp" is no model for fit.task=ranking'),
    (lambda config: config.bpr.model.update({'l3': 3}), 'model "bpr" has no setting "l3". Known: dtype, embed_dim, l2'),
    (lambda config: config.bpr.model.update({'num_users': 3}), 'model "bpr" has no setting "num_users"'),
    (lambda config: config.fit.training.update({'monitor': 'auc@3'}), '"auc" is no score to stop by'),
    (lambda config: config.fit.sequence.update({'loss': 'soft'}), 'objective: "soft" is nothing to train for'),
    (lambda config: config.data.update({'history_length': 3}), 'the model looks at 6 items, but histories have 3'),
    (lambda config: config.fit.update({'task': 'rank'}), 'fit.task: "rank" is nothing to train for. Did you mean'),
    (lambda config: config.judge.update({'task': 'rank'}), 'judge.task: "rank" is nothing to measure. Did you mean'),
    (lambda config: config.judge.update({'task': 'click'}), 'is fitted for fit.task="ranking", and judge.task'),
    (lambda config: setattr(config.judge, 'scorers', {}), 'judge.scorers is empty'),
    (lambda config: config.judge.update({'ks': (0, 5)}), 'judge.ks=(0, 5): should be lengths of lists'),
    (lambda config: config.sweep.update({'search': 'grit'}), 'Did you mean "grid"'),
])
def test_bad_settings_of_ranking_are_refused_before_anything_is_trained(tmp_path, change, message):
    config = small_ranking('bpr', 'sasrec')
    config.sweep.training.learning_rate = (1e-3, 1e-2)
    with config.unlocked():
        change(config)
    with pytest.raises(UserError) as error:
        make(config, tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize('change, message', [
    (lambda config: config.lr.model.update({'name': 'lrr'}),
     'fit.model.name: "lrr" is no model for fit.task=click. Did you mean "lr"?'),
    (lambda config: config.lr.model.update({'embed_dims': 3}), 'model "lr" has no setting "embed_dims". Did you mean'),
    (lambda config: (config.fit.update({'fields': ('user_id',)}), config.lr.model.update({'name': 'din'})),
     'lr looks at the items of a history, and there is no field of items: add "item_id"'),
    (lambda config: config.fit.update({'seeds': 0}), 'fit.seeds=0: should be at least 1'),
    (lambda config: config.update({'schedule': ('explain(icl)',)}), 'explain(icl) needs a language model'),
])
def test_bad_settings_are_refused_before_anything_is_trained(tmp_path, change, message):
    config = small_config('lr')
    with config.unlocked():
        change(config)
    with pytest.raises(UserError) as error:
        make(config, tmp_path)
    assert message in str(error.value)
