"""The whole schedule: what it leaves behind, that it resumes to the same bits, what it refuses."""

import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.phases.small import resumed, save_language_model, small_config, stop_writers
from xrec_jax.errors import UserError
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import schedule, task as tasks
from xrec_jax.runs.compiles import Recompilations
from xrec_jax.runs.explanations import ExplanationWriter
from xrec_jax.runs.metrics_writer import read_metrics, repeatable
from xrec_jax.runs.workdir import open_workdir



@pytest.fixture(scope='module')
def language_model(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp('model'))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    make = meshes.make_mesh
    monkeypatch.setattr(meshes, 'make_mesh', lambda sizes: make(sizes, jax.devices()[:1]))


def run(config, workdir, *observers):
    task = tasks.make_task(config, workdir)
    task.metrics.observers += observers
    schedule.check_schedule(task)
    open_workdir(str(workdir), config)
    return schedule.run_schedule(task)


@pytest.fixture(scope='module')
def compiled_again():
    """What the unbroken run has compiled when a phase had warmed up, however little time it took."""
    return []


@pytest.fixture(scope='module')
def unbroken(language_model, tmp_path_factory, compiled_again):
    workdir = tmp_path_factory.mktemp('runs') / 'unbroken'
    make = meshes.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, 'make_mesh', lambda sizes: make(sizes, jax.devices()[:1]))
        look = Recompilations(warm_up=2, seconds=0)
        note = lambda phase, step, metrics: compiled_again.extend(look(phase, step))
        return workdir, run(small_config(language_model), workdir, note)


def metrics(workdir):
    return [repeatable(row) for row in read_metrics(workdir / 'metrics.jsonl')]


def tables(workdir):
    return {path.stem: pq.read_table(path) for path in sorted((workdir / 'explanations').glob('*.parquet'))}


def test_a_run_leaves_what_users_rely_on(unbroken):
    workdir, state = unbroken
    assert {path.name for path in workdir.iterdir()} == {
        'config.json', 'metrics.jsonl', 'checkpoints', 'examples', 'explanations', 'predictions.parquet', 'store',
        'summary.json', 'table.csv', 'table.md'}
    summary = json.loads((workdir / 'summary.json').read_text())
    assert set(summary['ctr']) == {'DeepFM', 'ICL', 'ExpCTR-LLM', 'ExpCTR-Aug'}
    for figures in summary['ctr'].values():
        assert set(figures) == {'valid', 'test'} and set(figures['test']) == {'auc', 'log_loss', 'mae', 'rmse'}
    explained = tables(workdir)
    assert list(explained) == ['01-explain-icl', '03-align-lc', '04-explain-corpus', '06-align-ic', '07-explain-final']
    assert explained['03-align-lc'].num_rows == 4 * 8
    final = explained['07-explain-final']
    assert final['split'].value_counts().to_pylist() == [{'values': 'valid', 'counts': 10},
                                                         {'values': 'test', 'counts': 10}]
    assert final['vector'].null_count == 0 and final['user_id'][0].as_py().startswith('u')


def test_alignment_moves_the_adapter_and_logs_its_health(unbroken):
    workdir, state = unbroken
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.adapter)) > 0
    rows = read_metrics(workdir / 'metrics.jsonl', '03-align-lc')
    assert [row['step'] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row['first_ratio_error'] < 1e-5 and row['sampler_difference_max'] < 1e-4
        for name in ('reward', 'reward_normalised', 'kl_k1', 'kl_k3', 'entropy', 'clip_fraction', 'tokens_per_second',
                     'value_explained_variance', 'response_length', 'truncation_rate'):
            assert np.isfinite(row[name])
    assert rows[0]['kl_k3'] < 1e-6  # a fresh adapter is the reference
    assert rows[-1]['kl_k3'] > 1e-6
    assert [row['compiles'] for row in rows[2:]] == [0, 0]


def test_nothing_is_compiled_again_when_a_phase_has_warmed_up(unbroken, compiled_again):
    workdir, _ = unbroken
    steps = {phase: sum(row['phase'] == phase for row in metrics(workdir))
             for phase in ('01-explain-icl', '02-fit-ids', '03-align-lc', '04-explain-corpus', '05-fit-aug',
                           '06-align-ic', '07-explain-final')}
    assert min(steps.values()) > 2, steps  # each was looked at
    assert compiled_again == []


def test_writing_logs_its_speed_and_utilisation(unbroken):
    workdir, _ = unbroken
    rows = read_metrics(workdir / 'metrics.jsonl', '07-explain-final')
    table = tables(workdir)['07-explain-final']
    assert [row['step'] for row in rows] == sorted(set(table['step'].to_pylist()))
    for row in rows:
        mine = table.filter(np.equal(table['step'].to_numpy(), row['step']))
        assert row['response_length'] == pytest.approx(mine['num_tokens'].to_numpy().mean())
        assert row['truncation_rate'] == mine['truncated'].to_numpy(zero_copy_only=False).mean()
        seconds = row['seconds_generate'] + row['seconds_score']
        assert row['tokens_per_second'] == pytest.approx(mine['num_tokens'].to_numpy().sum() / seconds)
        assert row['tflops_per_device'] > 0


def test_a_run_that_is_stopped_in_each_phase_ends_with_the_same_bits(unbroken, language_model, tmp_path, monkeypatch):
    workdir, state = unbroken
    stopped_in = stop_writers(monkeypatch, lambda n, _: n % 5 == 0)
    broken = tmp_path / 'broken'
    again = resumed(lambda: run(small_config(language_model), broken))
    assert {phase.split('-', 1)[1] for phase in stopped_in} >= {
        'fit-ids', 'align-lc', 'explain-corpus', 'fit-aug', 'align-ic'}, stopped_in
    assert metrics(broken) == metrics(workdir)
    ours, theirs = tables(broken), tables(workdir)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].equals(theirs[name]), name
    for a, b in zip(jax.tree.leaves((again.adapter, again.value_head)),
                    jax.tree.leaves((state.adapter, state.value_head)), strict=True):
        np.testing.assert_array_equal(a, b)
    for name, predictor in state.predictors.items():
        jax.tree.map(np.testing.assert_array_equal, again.predictors[name].params, predictor.params)
    summaries = [json.loads((path / 'summary.json').read_text()) for path in (broken, workdir)]
    assert summaries[0]['ctr'] == summaries[1]['ctr']


def test_a_finished_run_is_only_read_again(unbroken, language_model, monkeypatch):
    workdir, _ = unbroken
    before = (workdir / 'metrics.jsonl').read_bytes()
    monkeypatch.setattr(ExplanationWriter, 'add', lambda *args, **kwargs: pytest.fail('wrote again'))
    run(small_config(language_model), workdir)
    assert (workdir / 'metrics.jsonl').read_bytes() == before


def test_prompts_do_not_depend_on_the_targets_label(language_model, tmp_path):
    config = small_config(language_model)
    task = tasks.make_task(config, open_workdir(str(tmp_path / 'run'), config))
    texts = task.prompt_texts('test')
    flipped = tasks.dataclasses.replace(task.examples['test'], label=1 - task.examples['test'].label,
                                        rating=6 - task.examples['test'].rating)
    task.examples['test'] = flipped
    assert task.prompt_texts('test') == texts


@pytest.mark.parametrize('attributes, opinions, named', [('judged', True, True), ('named', False, True),
                                                         ('none', False, False)])
def test_prompts_show_attributes_as_the_config_says(language_model, tmp_path, attributes, opinions, named):
    config = small_config(language_model)
    config.prompt.attributes = attributes
    task = tasks.make_task(config, open_workdir(str(tmp_path / 'run'), config))
    row = int((task.examples['test'].history >= 0).sum(axis=1).argmax())
    lines = task.prompt_texts('test')[row].split('\n')[1:3]  # the two lists
    assert any(' - ' in line for line in lines) == named
    words = {word.strip(',;.') for line in lines for shown in line.split(' - ')[1:] for word in shown.split(' ')}
    assert bool(words & {'liked', 'disliked'}) == opinions
    title = task.titles[task.examples['test'].item[row]]
    assert (f'consider {title} - ' in task.prompt_texts('test')[row]) == named


@pytest.mark.parametrize('change, message', [
    (lambda c: c.update(schedule=('fitt(ids)',)), 'Did you mean "fit"'),
    (lambda c: c.update(schedule=('fit',)), 'should be VERB'),
    (lambda c: c.update(schedule=('align(ic)',)), r'needs fit\(aug\) before it'),
    (lambda c: c.update(schedule=('fit(aug)',)), 'needs explanations'),
    (lambda c: c.update(schedule=('explain(icl)', 'judge(ctr)')), r'needs explain\(final\) before it'),
    (lambda c: c.prompt.update(attributes='judge'), "attributes='judge': should be one of judged, named, none"),
    (lambda c: c.align.update(reward='lcc'), 'Did you mean "lc"'),
    (lambda c: c.align.update(rollout_size=1000), 'more than the 80 training examples'),
    (lambda c: c.align.learner.update(minibatch_size=3), r'align.learner.minibatch_size=3 must divide 8'),
    (lambda c: c.judge.scorers.update(ICL='lllm(icl)'), 'should be llm'),
    (lambda c: c.fit.training.update(monitor='acu'), 'Did you mean "auc"'),
    (lambda c: c.explain.update(splits=('tests',)), 'Did you mean "test"'),
    (lambda c: c.generate.update(max_length=500), 'room for 12 beside the response: lower generate.max_length'),
    (lambda c: c.fit.update(seeds=2), r'needs fit\(aug\) with seeds=1, not 2'),
])
def test_bad_settings_are_refused_before_anything_is_computed(change, message, language_model, tmp_path):
    config = small_config(language_model)
    for name in ('icl', 'lc', 'ic', 'corpus'):  # so that a change of the verb's settings is seen
        config[name] = {key: value for key, value in config[name].items() if key not in ('splits',)}
    if 'lcc' in message or 'Did you mean "lc"' in message:
        config.lc = {}
    change(config)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_the_ic_reward_takes_a_predictor_that_looks_at_the_history(language_model, tmp_path):
    config = small_config(language_model)
    config.schedule = ('align(lc)', 'explain(corpus)', 'fit(aug)', 'align(ic)')
    config.lc.iterations, config.ic.iterations, config.fit.training.epochs = 1, 1, 1
    config.fit.model = {'name': 'din', 'embed_dim': 4, 'mlp': (8,)}
    run(config, tmp_path / 'run')
    rewards = [row['reward'] for row in read_metrics(tmp_path / 'run' / 'metrics.jsonl', '04-align-ic')]
    assert len(rewards) == 1 and np.isfinite(rewards[0])
