"""A run that is read back: what it has learned, what it writes for any pair, what it recommends, how it scores."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import ml_collections
import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.serve import make_workdir
from tests.phases.small import save_language_model, small_config
from xrec_jax import api, cards, explain as command
from xrec_jax.errors import UserError
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import asked, explain, recommending, schedule, task as tasks, writing
from xrec_jax.phases.settings import settings_of
from xrec_jax.runs import progress
from xrec_jax.runs.explanations import read_explanations
from xrec_jax.runs.metrics_writer import MetricsWriter
from xrec_jax.runs.workdir import open_workdir


@pytest.fixture(scope='module', autouse=True)
def one_device():
    make = meshes.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, 'make_mesh', lambda sizes: make(sizes, jax.devices()[:1]))
        yield


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """(a run that is read back, the state at its end)."""
    folder = tmp_path_factory.mktemp('api')
    config = small_config(save_language_model(folder / 'model'))
    config.schedule = ('fit(ids)', 'align(lc)', 'explain(corpus)', 'fit(aug)', 'explain(final)', 'judge(ctr)')
    del config.judge.scorers['ICL'], config.judge['before'], config.judge['after']
    config.lc.iterations = config.fit.training.epochs = 2
    task = tasks.make_task(config, folder / 'run')
    schedule.check_schedule(task)
    open_workdir(str(folder / 'run'), config)
    state = schedule.run_schedule(task)
    return api.load(str(folder / 'run')), state


def test_what_was_learned_is_read_back(finished):
    run, state = finished
    before = {path: path.stat().st_mtime_ns for path in run.workdir.rglob('*') if path.is_file()}
    assert run.predictors.predictors.keys() == {'ids', 'aug'}
    for name, fitted in run.predictors.predictors.items():
        jax.tree.map(np.testing.assert_array_equal, fitted.params, state.predictors[name].params)
    jax.tree.map(np.testing.assert_array_equal, run.writer.adapter, state.adapter)
    assert before == {path: path.stat().st_mtime_ns for path in run.workdir.rglob('*') if path.is_file()}


def test_a_pair_gets_the_text_that_the_runs_own_phase_would_write(finished, tmp_path):
    run, _ = finished
    task, state = run.writer_task, run.writer
    config = ml_collections.ConfigDict(run.config.to_dict())
    config.generate.temperature = 0.0
    greedy = dataclasses.replace(task, config=config, workdir=tmp_path, metrics=MetricsWriter(tmp_path))
    path = explain.run(greedy, state, '09-explain-final', 9, settings_of(config, 'explain', 'final')).explanations[
        '09-explain-final']
    own = read_explanations(path, 'test')
    users, items = own['user_id'].to_pylist()[::-1], own['item_id'].to_pylist()[::-1]
    examples, split = asked.examples(task, *run.rows(list(zip(users, items))))
    sampling = writing.sampling_config(task, temperature=0.0)
    written = [row for table in asked.write(task, state, examples, split, sampling) for row in table.to_pylist()]
    assert [row['text'] for row in written] == own['text'].to_pylist()[::-1]
    assert {row['split'] for row in written} == {'test'} and len(set(own['text'].to_pylist())) > 1
    np.testing.assert_allclose([row['llm_score'] for row in written], own['llm_score'].to_numpy()[::-1], atol=1e-5)


def test_pairs_that_are_no_examples_have_the_history_before_their_meeting(finished):
    run, _ = finished
    task, frame = run.task, run.interactions.reset_index()
    frame = frame.sort_values(['user_id', 'timestamp', 'index'], kind='stable')
    user = frame['user_id'].iloc[0]
    of_user = frame[frame['user_id'] == user]
    row, met = run.users['user_id'].tolist().index(user), list(dict.fromkeys(of_user['item_id']))
    known = {run.items['item_id'][item] for rows in task.examples.values() for item in rows.item[rows.user == row]}
    pairs = [(user, item) for item in run.items['item_id'] if item not in known]
    examples, split = asked.examples(task, *run.rows(pairs))
    assert set(split) == {'asked'} and {item in met for _, item in pairs} == {True, False}
    ids, width = run.items['item_id'].tolist(), examples.past.width
    for n, (_, item) in enumerate(pairs):
        items = of_user['item_id'].tolist()
        before = items[:items.index(item)] if item in met else items
        assert [ids[row] for row in examples.history[n] if row >= 0] == before[-width:]
        assert np.isnan(examples.rating[n]) == (item not in met)


def test_what_is_written_does_not_depend_on_what_else_is_asked_for_and_is_kept(finished):
    run, _ = finished
    stored = set(zip(run.explanations['user_id'], run.explanations['item_id']))
    user = run.users['user_id'][0]
    missing = [item for item in run.items['item_id'] if (user, item) not in stored][:3]
    alone = run.write([(user, missing[2])], keep=False)
    together = run.write([(user, item) for item in missing], keep=False)
    assert together[2]['text'] == alone[0]['text'] and not run.find([(user, missing[0])])[0]
    shown = run.explain(user, missing, write=False)
    assert len(shown) == 0
    shown = run.explain(user, missing)
    assert shown['item_id'].tolist() == missing and set(shown['phase']) == {'asked'}
    assert api.load(str(run.workdir)).explain(user, missing, write=False).equals(shown)


def test_scores_are_those_that_the_run_measured(finished):
    run, _ = finished
    predicted = pq.read_table(run.workdir / 'predictions.parquet').to_pandas().query('split == "test"')
    scores = run.score(predicted['user_id'].tolist(), predicted['item_id'].tolist())
    for name in ('DeepFM', 'ExpCTR-Aug'):
        np.testing.assert_allclose(scores[name], predicted[name], atol=1e-5)
    np.testing.assert_allclose(scores['llm_score'], predicted['ExpCTR-LLM'], atol=1e-6)
    twice = run.score(predicted['user_id'].iloc[[0, 1, 0]], predicted['item_id'].iloc[[0, 1, 0]])
    assert twice.equals(scores.iloc[[0, 1, 0]].reset_index(drop=True))
    never = run.score(run.users['user_id'][1], run.items['item_id'][:4])
    assert never['DeepFM'].notna().all() and never['ExpCTR-Aug'].isna().any()


def test_recommended_are_the_best_of_what_was_not_met(finished):
    run, _ = finished
    user = run.users['user_id'][2]
    met = set(run.interactions.query('user_id == @user')['item_id'])
    rest = [item for item in run.items['item_id'] if item not in met]
    expected = run.score(user, rest)
    best = run.recommend(user, k=4)
    assert best['rank'].tolist() == [1, 2, 3, 4] and not met & set(best['item_id'])
    np.testing.assert_allclose(best['score'], np.sort(expected['DeepFM'])[::-1][:4], atol=1e-6)
    assert len(run.recommend(user, k=1000)) == len(rest)  # the list ends where the items do
    lists = run.write_lists(5)
    assert len(lists) == len(run.users) and lists.predictor == 'ids' and lists.made_by == '01-fit-ids'
    assert run.recommend(user, k=4).equals(best.assign(score=[one['score'] for one in lists.find(user, 4)]))
    assert lists.find('nobody', 4) is None
    assert recommending.predictor_of(run.predictors, 'aug') == 'aug'
    with pytest.raises(UserError, match='no predictor "idss". Did you mean "ids"'):
        run.recommend(user, predictor='idss')


def test_a_run_that_is_not_finished_gives_what_it_has(finished, tmp_path):
    run, _ = finished
    shutil.copytree(run.workdir, tmp_path / 'run')
    path = tmp_path / 'run' / 'summary.json'
    summary = json.loads(path.read_text())
    seconds = summary['seconds']
    path.write_text(json.dumps(summary | {'seconds': {phase: seconds[phase] for phase in ('01-fit-ids', '02-align-lc')}}))
    assert api.load(str(tmp_path / 'run')).predictors.predictors.keys() == {'ids'}
    path.write_text('{}')
    with pytest.raises(UserError, match='no phase of the run is done yet'):
        api.load(str(tmp_path / 'run')).predictors


def test_a_card_shows_history_texts_and_truth(finished, capsys):
    run, _ = finished
    test = run.task.examples['test']
    pair = (run.users['user_id'][int(test.user[0])], run.items['item_id'][int(test.item[0])])
    console = progress.rich.console.Console(width=120, record=True)
    console.print(cards.card(run, *pair, run.find([pair])[0], rank=1, score=0.25))
    text = console.export_text()
    assert f'1. user {pair[0]} → {run.task.titles[test.item[0]]} ({pair[1]}), score 0.250' in text
    assert 'written by 05-explain-final, test split' in text
    assert f'{"liked" if test.label[0] else "disliked"}, rated {test.rating[0]:g}' in text


def test_what_cannot_be_written_is_told_and_the_rest_is_given(finished):
    run, _ = finished
    user, item = run.users['user_id'][3], run.items['item_id'][0]
    found, why = command.explanations(run, [(user, item), ('nobody', item), (user, 'i0x')], True, 0.0, False)
    assert list(found) == [(user, item)]
    assert why == {('nobody', item): 'the data of the run have no user "nobody".',
                   (user, 'i0x'): f'the data of the run have no item "i0x". Did you mean "{nearest_id(run)}"?'}


def nearest_id(run):
    from xrec_jax.errors import nearest
    return nearest('i0x', run.items['item_id']).split('"')[1]


def test_data_frames(finished):
    run, _ = finished
    assert len(run.users) == 40 and len(run.items) == 30 and len(run.interactions) == 400
    assert set(run.table['scorer']) == {'DeepFM', 'ExpCTR-Aug', 'ExpCTR-LLM'} and len(run.table) == 6
    assert set(run.metrics['phase']) == {'01-fit-ids', '02-align-lc', '03-explain-corpus', '04-fit-aug', '05-explain-final'}
    assert len(run.predictions) == 20 and len(run.written_by('final')) == 20
    with pytest.raises(UserError, match='Did you mean "final"'):
        run.written_by('finl')


def test_a_run_that_only_has_a_store_is_served_without_data_or_models(tmp_path):
    run = api.load(str(make_workdir(tmp_path / 'run', num_users=7, per_user=3, k=4)))
    assert run.recommend('u3', k=2)['item_id'].tolist() == ['i0', 'i1']
    assert run.explain(['u3', 'u6'], 'i2')['user_id'].tolist() == ['u3', 'u6']
    assert len(run.explanations) == 21
    with pytest.raises(UserError, match='2 users and 3 items are no pairs'):
        run.explain(['u1', 'u2'], ['i1', 'i2', 'i3'])
    with pytest.raises(UserError, match='without a language model'):
        run.explain('u3', 'i9')


@pytest.mark.parametrize('text, message', [(None, 'should be the folder of a run'), ('{', 'line 1: not valid JSON')])
def test_a_folder_that_is_no_run_is_refused(text, message, tmp_path):
    if text:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(UserError, match=message):
        api.load(str(tmp_path))


def test_the_script_of_the_readme_runs(finished, capsys):
    run, _ = finished
    page = pathlib.Path(__file__).parents[1] / 'README.md'
    blocks = re.findall(r'^```python\n(.*?)^```$', page.read_text(encoding='utf-8'), flags=re.M | re.S)
    block, = (block for block in blocks if 'api.load' in block)
    names: dict = {}
    exec(compile(block.replace("'RUN'", repr(str(run.workdir))), str(page), 'exec'), names)
    assert len(names['best']) == len(names['why']) == len(names['scores']) == 3
    assert names['before']['text'].notna().all() and names['why']['text'][0] in capsys.readouterr().out
