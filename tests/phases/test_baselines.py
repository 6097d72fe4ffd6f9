"""Runs of predictors alone: several seeds at once, the table they leave, what is refused."""

import csv
import json

import jax
import numpy as np
import pytest

from configs.baselines import ctr as baseline
from xrec_jax.errors import UserError
from xrec_jax.metrics.ctr import ctr_metrics
from xrec_jax.metrics.spread import spread
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import fit, schedule, task as tasks
from xrec_jax.recommenders import training
from xrec_jax.runs.workdir import open_workdir


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    make = meshes.make_mesh
    monkeypatch.setattr(meshes, 'make_mesh', lambda sizes: make(sizes, jax.devices()[:1]))


def small_config(*models: str):
    config = baseline.get_config('simulated')
    config.schedule = (*(f'fit({name})' for name in models), 'judge(ctr)')
    config.judge.scorers = {baseline.TITLES[name]: f'predictor({name})' for name in models}
    config.data.update({'num_samples': 200, 'history_length': 3})
    config.data.options.update({'num_users': 40, 'num_items': 30, 'num_interactions': 400})
    config.fit.seeds = 3
    config.fit.training.epochs = 4
    return config


def make(config, workdir):
    task = tasks.make_task(config, workdir)
    schedule.check_schedule(task)
    return task


def test_every_model_of_the_config_has_a_title_and_can_be_made(tmp_path):
    assert list(baseline.TITLES) == list(fit.MODELS)
    assert make(baseline.get_config('simulated'), tmp_path).language is None


def test_the_table_holds_mean_and_spread_over_the_seeds(tmp_path):
    task = make(small_config('lr', 'din'), tmp_path / 'run')
    open_workdir(str(tmp_path / 'run'), task.config)
    state = schedule.run_schedule(task)
    fitted = state.predictors['din']
    assert fitted.seeds == 3
    rows = training.make_rows(task.examples['test'], history=True)
    each = [jax.tree.map(lambda leaf: leaf[seed], fitted.params) for seed in range(3)]
    auc = [ctr_metrics(task.examples['test'].label, np.asarray(
        training.predict(fitted.model, params, task.fields, rows)))['auc'] for params in each]
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


@pytest.mark.parametrize('change, message', [
    (lambda config: config.lr.model.update({'name': 'lrr'}), 'fit.model.name: "lrr" is no predictor. Did you mean "lr"?'),
    (lambda config: config.lr.model.update({'embed_dims': 3}), 'model "lr" has no setting "embed_dims". Did you mean'),
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
