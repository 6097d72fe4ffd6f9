"""LLMXRec from end to end: a small recommender, a random language model, and material in the published forms."""

import json
import pathlib

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_collections import ConfigDict

from configs import llmxrec, llmxrec_analyses
from tests.phases import small
from xrec_jax import api
from xrec_jax.data.domains import MOVIES
from xrec_jax.errors import UserError
from xrec_jax.language import instructions, sheets
from xrec_jax.language.instructions import Item, Recommendation
from xrec_jax.language.material import attribute_examples
from xrec_jax.phases import asked, explain_requests, recommending, requests, schedule, task as tasks, tune_data
from xrec_jax.phases.settings import settings_of
from xrec_jax.runs.explanations import ExplanationWriter, read_explanations
from xrec_jax.runs.parts import PartsWriter
from xrec_jax.runs.store import Store
from xrec_jax.runs.workdir import open_workdir

NUM_ROWS = 10  # of recorded explanations


def recommendation(n: int) -> Recommendation:
    history = tuple(Item(f'Film {m}', ('Drama',) if m % 2 else ('War', 'Comedy')) for m in range(n % 3 + 1))
    return Recommendation(MOVIES, history, Item(f'Film {n + 20}', ('Drama',)),
                          {'age': str(20 + n), 'gender': 'male' if n % 2 else 'female', 'occupation': 'writer'})


def write_material(folder: pathlib.Path) -> pathlib.Path:
    def write(name, rows):
        (folder / name).write_text(''.join(json.dumps({'instruction': a, 'input': '', 'output': b}) + '\n' for a, b in rows))

    folder.mkdir()
    asked = [instructions.explain(recommendation(n)) for n in range(12)]
    write('instruct_train.jsonl', [(text, f'Because of film {n}.') for n, text in enumerate(asked)])
    write('instruct_test_unseen.jsonl', [(instructions.explain(recommendation(n)), 'As you like it.') for n in (30, 31)])
    write('attributes_train.jsonl', [
        (instructions.attributes(recommendation(n), 'customer'),
         instructions.attribute_answer('customer', MOVIES, recommendation(n).profile)) for n in range(6)])
    for name, rows in (('judge_train.jsonl', range(12)), ('judge_test.jsonl', range(40, 44))):
        write(name, [(instructions.judge(instructions.explain(recommendation(n)), f'Good {n}', f'Bad {n}', question=False),
                      str(1 + n % 2)) for n in rows])
    rows = [{'dataset': 'ml-100k', 'recommender': 'BPR-MF', 'generator': generator, 'row': n,
             'instruction': instructions.explain(recommendation(n + shift)), 'explanation': f'{generator} says {n}'}
            for generator, shift in (('LLaMA2', 0), ('GPT4', 0), ('GPT3.5', 0)) for n in range(NUM_ROWS)]
    rows[-1]['instruction'] = instructions.explain(recommendation(17))  # GPT-3.5 was asked about another item here
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pq.write_table(pa.table(columns), folder / 'explanations.parquet')
    return folder


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp('llmxrec')
    return small.save_language_model(folder / 'model'), write_material(folder / 'material'), folder


def small_config(places):
    model, material, _ = places
    config = llmxrec.get_config('ml-100k,bpr')
    config.material = str(material)
    config.mesh.update({'data': 2, 'fsdp': 2, 'tensor': 2})
    config.schedule = small_config_schedule()
    config.bare = ConfigDict({'parts': {'profile': (), 'history': 0}, 'requests': {'max_rows': 6}})
    config.conditions = ConfigDict({'task': 'pairs', 'generators': (('whole', 'tuned'), ('bare', 'bare')),
                                    'reference': 'whole', 'condition': 'prompt'})
    config.data.name, config.data.data_dir = 'simulated', ''
    with config.data.unlocked():
        config.data.options = {'num_users': 12, 'num_items': 20, 'num_interactions': 120, 'seed': 0}
    config.language.update({'model': str(model), 'lora_rank': 2, 'lora_targets': ('q_proj', 'v_proj')})
    config.generate.update({'max_length': 8})
    config.fit.training.epochs = 2
    for group in (config.prompt, config.judge_prompt):
        group.parts.update({'history': 1, 'role': False, 'rules': False})
        group.frame = 'plain'
    config.prompt.as_recorded = False
    config.tune.update({'max_length': 512, 'row_length': 512, 'epochs': 1, 'batch_size': 4,
                        'microbatch_size': 4})
    for name in ('explainer', 'judge_adapter'):
        config[name].epochs = 1
        if 'batch_size' in config[name]:
            config[name].batch_size = 4
    config.explainer.data.valid_share = 0.2
    config.judge_pairs.valid_share = 0.3
    config.explain.update({'batch_size': 16, 'checkpoint_every': 1})
    config.judge.update({'batch_size': 4, 'checkpoint_every': 2, 'max_requests': 0, 'max_length': 8,
                         'generators': (('LLaMA', 'llama'), ('GPT-3.5', 'gpt35'), ('ours', 'tuned')),
                         'models': {'untuned': '', 'tuned': 'explainer'}})
    return config


def small_config_schedule():
    return ('fit(bpr)', 'tune(explainer)', 'explain(recommended)', 'explain(llama)', 'explain(gpt35)', 'explain(tuned)',
            'explain(bare)', 'tune(judge_adapter)', 'judge(pairs)', 'judge(attributes)', 'judge(conditions)')


def run(config, workdir):
    task = tasks.make_task(config, workdir)
    schedule.check_schedule(task)
    open_workdir(str(workdir), config)
    return schedule.run_schedule(task)


@pytest.fixture(scope='module')
def unbroken(places):
    workdir = places[2] / 'unbroken'
    return run(small_config(places), workdir), workdir


def test_the_run_explains_and_judges_what_it_should(unbroken):
    state, workdir = unbroken
    texts = {phase.split('-')[-1]: read_explanations(path) for phase, path in state.explanations.items()}
    assert len(texts['recommended']) == 12 and set(texts['recommended']['group'].to_pylist()) == {'bpr'}
    assert len(texts['llama']) == NUM_ROWS and len(texts['gpt35']) == NUM_ROWS - 1  # one was of another item
    assert texts['llama']['text'].to_pylist() == [f'LLaMA2 says {n}' for n in range(NUM_ROWS)]
    verdicts = pq.read_table(workdir / 'judgements' / '09-judge-pairs.parquet')
    empty = sum(not text for text in texts['tuned']['text'].to_pylist())
    if not empty:  # every pair that has both texts, in both orders
        assert len(verdicts) == 2 * (3 * (NUM_ROWS - 1) + 1)
    summary = json.loads((workdir / 'summary.json').read_text())
    report = summary['pairs']['generators']['BPR-MF']
    assert report['verdicts'] == len(verdicts)
    ratios = [one['win_ratio']['value'] * one['comparisons'] for one in report['generators'].values()]
    np.testing.assert_allclose(sum(ratios), sum(one['comparisons'] for one in report['generators'].values()) / 2)
    assert 0 <= summary['pairs']['held_out']['accuracy'] <= 1
    assert summary['02-tune-explainer']['test_examples'] == 2
    assert set(summary['seconds']) == {f'{n:02}-{entry[:-1].replace("(", "-")}' for n, entry in enumerate(
        small_config_schedule(), 1)}
    speed = summary['pairs']['speed']
    assert speed['questions'] == len(verdicts) + 2 * 4 + 2 * 4  # those of validation and of the held-out pairs too
    assert 0 < speed['tokens'] < speed['tokens_alone']


def test_any_pair_has_the_prompt_of_the_runs_own_requests(unbroken, places):
    state, workdir = unbroken
    task = tasks.make_task(small_config(places), workdir)
    own = requests.top1(task, state, settings_of(task.config, 'explain', 'recommended').requests)
    users, items = (np.array([table.column(0).to_pylist().index(one) for one in ids], np.int32) for table, ids in (
        (task.dataset.users, own.user_id), (task.dataset.items, own.item_id)))
    examples, split = asked.examples(task, users, items)
    assert requests.prompts(task, requests.asked(task, examples), 400) == requests.prompts(task, own, 400)
    stored = Store(workdir)
    assert all(stored.find(*pair)[0]['phase'] == '03-explain-recommended' for pair in zip(own.user_id, own.item_id))
    (rows, best, _), = recommending.best(task, state.predictors['bpr'], users, 1)
    assert dict(zip(rows.tolist(), best[:, 0].tolist())) == dict(zip(users.tolist(), items.tolist()))
    lists = api.load(str(workdir)).write_lists(3)
    assert len(lists) == len(own) and [lists.find(user, 1)[0]['item_id'] for user in own.user_id] == own.item_id
    two, _ = asked.examples(task, users[:2], items[:2])
    written = [row for table in asked.write(task, state, two, split[:2]) for row in table.to_pylist()]
    assert [(row['user_id'], row['item_id']) for row in written] == list(zip(own.user_id, own.item_id))[:2]


def test_a_way_of_writing_is_judged_against_a_reference(unbroken):
    _, workdir = unbroken
    bare = read_explanations(workdir / 'explanations' / '07-explain-bare.parquet')
    assert len(bare) == 6
    (row,) = json.loads((workdir / 'summary.json').read_text())['conditions']['conditions']
    verdicts = pq.read_table(workdir / 'judgements' / '11-judge-conditions.parquet')
    assert row['condition'] == 'bare' and 2 * row['count'] == len(verdicts)
    # Shown second, the condition wins where the odds are below 0.
    wins = [(one['log_odds'] > 0) == (one['first'] == 'bare') for one in verdicts.to_pylist()]
    np.testing.assert_allclose(row['win_ratio'], np.mean(wins))
    assert (workdir / 'analysis' / '11-judge-conditions.png').read_bytes().startswith(b'\x89PNG')
    assert (workdir / 'analysis' / '11-judge-conditions.csv').read_text().startswith('condition,win_ratio,low,high')


def test_parts_of_a_phase_change_its_prompts_alone(places):
    task = tasks.make_task(small_config(places), places[2] / 'nowhere')
    settings = {name: phase for _, _, phase in schedule.parse(task.config) for name in [phase.name]}
    wanted = requests.make(task, None, settings['tuned'].requests)
    whole, bare = ([task.language.tokenizer.decode(ids) for ids in requests.prompts(task, wanted, 400, parts)[0]]
                   for parts in ({}, explain_requests.changes(settings['bare'])))
    assert all('The age of the customer' in text for text in whole)
    assert not any('The age of the customer' in text or 'Film 0' in text for text in bare)
    assert all(f'Film {n + 20}' in text for n, text in enumerate(bare))


def test_what_recommenders_put_first_was_not_met_before(unbroken, places):
    state, _ = unbroken
    task = tasks.make_task(small_config(places), places[2] / 'nowhere')
    interactions = task.dataset.interactions
    met = set(zip(interactions['user_id'].to_pylist(), interactions['item_id'].to_pylist()))
    test = task.examples['test']
    held_out = {(task.dataset.users['user_id'][int(u)].as_py(), task.dataset.items['item_id'][int(i)].as_py())
                for u, i in zip(test.user, test.item)}
    table = read_explanations([path for phase, path in state.explanations.items() if 'recommended' in phase][0])
    for pair in zip(table['user_id'].to_pylist(), table['item_id'].to_pylist()):
        assert pair not in met - held_out


def test_a_stopped_run_ends_with_the_same_explanations_and_verdicts(unbroken, places, monkeypatch):
    workdir = places[2] / 'broken'

    class Stop(Exception):
        pass

    for kind in (ExplanationWriter, PartsWriter):  # explaining; judging
        def flush(self, step, calls=[0], original=PartsWriter.flush):
            original(self, step)
            calls[0] += type(self) is kind
            if calls[0] == 3:
                raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(PartsWriter, 'flush', flush)
            with pytest.raises(Stop):
                run(small_config(places), workdir)
    state = run(small_config(places), workdir)
    for phase, path in unbroken[0].explanations.items():
        assert read_explanations(state.explanations[phase]).equals(read_explanations(path)), phase
    for file in (unbroken[1] / 'judgements').iterdir():
        assert pq.read_table(workdir / 'judgements' / file.name).equals(pq.read_table(file)), file.name


def test_requests_become_instruction_data(unbroken, tmp_path):
    _, workdir = unbroken
    cases = sheets.read_cases(workdir / 'cases' / '03-explain-recommended.jsonl')
    texts = read_explanations(workdir / 'explanations' / '03-explain-recommended.parquet')['text'].to_pylist()
    assert [case.answers['recommended'] for case in cases] == texts and len(sheets.draw_sheet(cases, 'text').entries) == 12
    examples = attribute_examples.read_attribute_examples(workdir / 'cases' / '03-explain-recommended-attributes.jsonl')
    assert {example.task for example in examples} >= {'category', 'interest', 'popularity'}
    for example in examples:
        assert example.usable
        if example.task == 'popularity':
            assert 1 <= example.values['popularity'] <= 5
    # The files of recorded explanations hold their instructions already.
    assert not (workdir / 'cases' / '04-explain-llama.jsonl').exists()


def test_popularity_is_the_fifth_of_the_items(places):
    task = tasks.make_task(small_config(places), places[2] / 'nowhere')
    levels = requests.popularity_levels(task)
    count = np.bincount(task.examples['train'].item, minlength=20)
    assert (np.diff(levels[np.argsort(count, kind='stable')]) >= 0).all()
    assert levels[np.argmax(count)] == 5 and levels[np.argmin(count)] == 1
    assert all((levels == level).sum() <= 12 for level in range(1, 6))


def test_bad_settings_are_refused_before_anything_runs(places):
    def refused(match, change):
        config = small_config(places)
        change(config)
        with pytest.raises(UserError, match=match):
            schedule.check_schedule(tasks.make_task(config, places[2] / 'nowhere'))

    def set_(path, value):
        def change(config):
            *groups, key = path.split('.')
            for group in groups:
                config = config[group]
            config[key] = value
        return change

    refused('"GPT5" has written nothing', set_('gpt35.generator', 'GPT5'))
    refused('"recordet" is none', set_('llama.writer', 'recordet'))
    refused('needs fit\\(bpr\\)', set_('schedule', ('explain(recommended)',)))
    refused('explain\\(tuned\\), which is not before', set_('schedule', (
        'fit(bpr)', 'explain(llama)', 'explain(gpt35)', 'tune(judge_adapter)', 'judge(pairs)')))
    refused('no phase tune before it makes the adapter', set_('schedule', ('fit(bpr)', 'explain(tuned)')))
    refused('"hobby" is no task', set_('judge.attributes', ('hobby',)))


def test_an_adapter_that_another_run_tuned_is_taken_as_it_is(unbroken, places):
    state, workdir = unbroken
    config = small_config(places)
    config.schedule = ('tune(explainer)',)
    config.explainer.load = str(workdir / 'adapters' / '02-tune-explainer')
    loaded = run(config, places[2] / 'loaded').adapters['explainer']
    jax.tree.map(np.testing.assert_array_equal, loaded, state.adapters['explainer'])
    config.language.lora_rank = 4
    with pytest.raises(UserError, match='lora_rank 2 there, 4 here'):
        schedule.check_schedule(tasks.make_task(config, places[2] / 'nowhere'))


@pytest.mark.parametrize('analysis', llmxrec_analyses.ANALYSES)
def test_analyses_are_schedules_of_what_stands(analysis):
    config = llmxrec_analyses.get_config(f'ml-100k,{analysis}')
    assert config.data.name == 'ml-100k'
    parsed = schedule.parse(config)
    (judge,) = [settings for _, verb, settings in parsed if verb == 'judge']
    explained = [settings.name for _, verb, settings in parsed if verb == 'explain']
    assert [name for _, name in judge.generators] == explained
    assert judge.reference in dict(judge.generators) and judge.condition
    adapters = {settings.adapter_name for _, verb, settings in parsed if verb == 'tune'}
    assert {settings.adapter for _, verb, settings in parsed if verb == 'explain'} | {'judge'} == adapters


def test_tuning_pairs_stand_in_both_orders_and_no_instruction_is_on_both_sides(places):
    task = tasks.make_task(small_config(places), places[2] / 'nowhere')
    settings = [settings for _, verb, settings in schedule.parse(task.config) if settings.name == 'judge_adapter'][0]
    (training,), validation = tune_data.read(task, settings)
    assert len(training) % 2 == 0 and [row.response for row in training].count('1') == len(training) / 2
    titles = lambda rows: {line for row in rows for line in row.prompt.split('\n') if line.startswith('Film')}
    assert validation and not titles(training) & titles(validation)
