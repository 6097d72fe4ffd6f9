"""RecPIE's schedule on a random language model: what it leaves, that it resumes, what enters prompts, bad input."""

import dataclasses
import json
import shutil

import jax
import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import recpie
from tests.phases.small import resumed, run, save_language_model, small_recpie, stop_writers
from xrec_jax import api
from xrec_jax.data import protocols, tables
from xrec_jax.data.readers import simulated
from xrec_jax.errors import UserError
from xrec_jax.language import chat, prompts, tokenizers
from xrec_jax.language.prompts import Shown
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import (align, align_rewards, asked, contrast, direct, explain, explain_bounds, explain_profiles,
                             fit_predictor, judge_attention, restoring, schedule, task as tasks, writing)
from xrec_jax.phases.settings import settings_of
from xrec_jax.recommenders import scoring, training
from xrec_jax.recommenders.rows import make_rows
from xrec_jax.runs.explanations import newest, read_explanations
from xrec_jax.runs.metrics_writer import read_metrics, repeatable
from xrec_jax.runs.parts import PartsWriter
from xrec_jax.runs.store import Store
from xrec_jax.runs.workdir import open_workdir


SCORERS = ('Frozen LLM', 'LLM directly', 'RecPIE', 'TALLRec')


@pytest.fixture(scope='module')
def language_model(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module', autouse=True)
def one_device():
    make = meshes.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, 'make_mesh', lambda sizes: make(sizes, jax.devices()[:1]))
        yield


@pytest.fixture(scope='module')
def unbroken(language_model, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'unbroken'
    return workdir, *run(short_config(language_model), workdir)


def short_config(language_model):
    """One alternation, without the networks that only bound it: each costs a compilation."""
    config = small_recpie(language_model)
    config.schedule = ('explain(profiles)', *recpie.FIRST, *recpie.LAST, 'tune(tallrec)', 'judge(table)')
    config.soft_prompt.update({'tokens': 2, 'tune_embeddings': True})
    config.judge.scorers = {name: config.judge.scorers[name] for name in SCORERS}
    config.judge.before.scorers = ('Frozen LLM',)
    return config


def hand_task(dataset, config, **changes):
    """A task without a language model, on a dataset made by hand."""
    examples = tasks.make_examples(dataset, config)
    return tasks.Task(config=config, workdir=None, mesh=None, metrics=None, dataset=dataset, examples=examples,
                      language=None, **changes)


# ---------------------------------------------------------------------------------- a whole run


def test_a_run_leaves_its_table_attention_profiles_and_store(unbroken):
    workdir, task, state = unbroken
    assert {path.name for path in workdir.iterdir()} == {
        'adapters', 'attention.parquet', 'checkpoints', 'config.json', 'examples', 'explanations', 'metrics.jsonl',
        'predictions.parquet', 'profiles', 'store', 'summary.json', 'table.csv', 'table.md'}
    summary = json.loads((workdir / 'summary.json').read_text())
    assert set(summary['rating']) == set(SCORERS)
    for figures in summary['rating'].values():
        assert set(figures['test']) == {'rmse', 'mae', 'rmse_stars', 'mae_stars'} and 0 < figures['test']['rmse'] < 1
    assert set(summary['in_form']['after']['test']) == {'positive', 'negative'}
    attention = pq.read_table(workdir / 'attention.parquet').to_pandas()
    assert len(attention) == sum(len(task.examples[split].user) for split in ('valid', 'test'))
    received = attention[list(judge_attention.TOKENS)].to_numpy()
    np.testing.assert_allclose(received.sum(1), 1, rtol=1e-5)
    assert (received > 0).all() and summary['attention']['test']['high']['pos'] == pytest.approx(
        attention.query('split == "test" and liked')['pos'].mean(), rel=1e-5)


def test_the_language_model_asked_directly_says_how_likely_a_yes_is(unbroken):
    workdir, task, state = unbroken
    predicted = pq.read_table(workdir / 'predictions.parquet').to_pandas().query('split == "test"')
    np.testing.assert_array_equal(predicted['rating'], task.examples['test'].rating)
    np.testing.assert_allclose(predicted['target'], (task.examples['test'].rating - 1) / 4)
    row, language, found = 3, task.language, {}
    test = task.examples['test']
    for name, profiles, adapter in (('LLM directly', state.profiles, None), ('TALLRec', None, state.adapters['tallrec'])):
        prompt, = contrast.contrast_prompts(task, contrast.read_profiles(task, profiles), test, 'direct',
                                            np.array([row]), test.past.length[[row]])
        assert 'by answering "Yes." or "No."' in prompt.text
        tokens = np.array(chat.encode(language.tokenizer, [prompt]))
        variables = language.variables(adapter)
        hidden, _ = language.model.apply(variables, tokens, np.arange(tokens.size)[None], np.ones(tokens.shape, bool))
        odds = np.exp(np.asarray(language.model.apply(variables, hidden[0, -1], method='logits'), np.float64))
        yes, no = (odds[list(ids)].sum() for ids in (language.yes, language.no))
        found[name] = yes / (yes + no)
        assert abs(predicted[name].iloc[row] - found[name]) < 1e-5
    assert abs(found['TALLRec'] - found['LLM directly']) > 1e-4


def test_tallrec_learns_the_true_answers_to_the_prompts_that_it_is_asked(unbroken):
    _, task, _ = unbroken
    written = direct.examples(task, 'direct', 'train', 256)
    assert [one.response for one in written] == ['Yes.' if label else 'No.' for label in task.examples['train'].label]
    yes, no = (ids[0] for ids in tokenizers.encode_responses(task.language.tokenizer, ['Yes.', 'No.']))
    assert yes in task.language.yes and no in task.language.no


def test_systems_that_are_not_here_have_a_row_that_says_so(unbroken):
    workdir, _, _ = unbroken
    lines = (workdir / 'table.md').read_text().splitlines()
    assert [line.split(' | ')[0] for line in lines[-len(recpie.NOT_RUN):]] == [f'| {name}' for name in recpie.NOT_RUN]
    assert all('| not run |' in line and line.count('|') == lines[0].count('|') for line in lines[-len(recpie.NOT_RUN):])


def test_both_kinds_are_written_for_every_pair_of_every_split(unbroken):
    workdir, task, state = unbroken
    for name in ('frozen', 'contrast'):
        table = read_explanations(newest(state.explanations, name)).to_pandas()
        for split, examples in task.examples.items():
            for kind in task.kinds:
                rows = table.query('split == @split and kind == @kind')
                np.testing.assert_array_equal(np.sort(rows['example']), np.arange(len(examples.user)))
                assert rows['in_form'].notna().all() and all(len(vector) == 32 for vector in rows['vector'])
    store = Store(workdir)
    user, item = (task.dataset.users['user_id'][int(task.examples['test'].user[0])].as_py(),
                  task.dataset.items['item_id'][int(task.examples['test'].item[0])].as_py())
    found = store.find(user, item)
    assert [row['kind'] for row in found] == ['positive', 'negative']
    assert {row['phase'] for row in found} == {newest(state.explanations, 'contrast').stem}


def test_alignment_moves_adapter_and_projection_and_logs_the_form(unbroken):
    workdir, task, state = unbroken
    assert np.abs(state.soft_prompt['projection']['kernel']).max() > 0
    assert state.soft_prompt['consumers'].shape == (12, 4)
    rows = read_metrics(workdir / 'metrics.jsonl', '04-align-first')
    assert [row['step'] for row in rows] == [1, 2]
    for row in rows:
        assert row['first_ratio_error'] < 1e-5 and row['sampler_difference_max'] < 1e-4
        assert 0.5 <= row['reward'] <= 1 and 0 <= row['form_missed'] <= 1
    texts = read_explanations(state.explanations['04-align-first'])
    assert texts['kind'].to_pylist()[:8] == ['positive'] * 4 + ['negative'] * 4
    example, reward = texts['example'].to_numpy()[:8], texts['reward'].to_numpy()[:8]
    np.testing.assert_array_equal(example[:4], example[4:])
    np.testing.assert_array_equal(reward[:4], reward[4:])  # shared


def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(unbroken, language_model, tmp_path, monkeypatch):
    workdir, _, state = unbroken
    stopped_in = stop_writers(monkeypatch, lambda _, m: m == 2)
    broken = tmp_path / 'broken'
    _, again = resumed(lambda: run(short_config(language_model), broken))
    assert {phase.split('-')[-1] for phase in stopped_in} >= {'frozen', 'on_frozen', 'first', 'contrast'}, stopped_in
    strip = lambda path: [repeatable(row) for row in read_metrics(path / 'metrics.jsonl')]
    assert strip(broken) == strip(workdir)
    for phase, path in state.explanations.items():
        assert read_explanations(path).equals(read_explanations(again.explanations[phase])), phase
    assert Store(broken).table.equals(Store(workdir).table)
    for ours, theirs in zip(jax.tree.leaves((state.adapter, state.soft_prompt, state.value_head)),
                            jax.tree.leaves((again.adapter, again.soft_prompt, again.value_head)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    summaries = [json.loads((path / 'summary.json').read_text()) for path in (broken, workdir)]
    assert summaries[0]['rating'] == summaries[1]['rating'] and summaries[0]['attention'] == summaries[1]['attention']


def test_profiles_are_written_once_and_shared_by_a_folder(unbroken, language_model, tmp_path, monkeypatch):
    workdir, task, state = unbroken
    table = pq.read_table(state.profiles).to_pandas()
    assert set(table['version']) == {state.profiles.stem} and len(table) == len(explain_profiles.shown_items(task))
    monkeypatch.setattr(PartsWriter, 'add', lambda *args, **kwargs: pytest.fail('wrote again'))
    config = small_recpie(language_model)
    config.schedule, config.seed = ('explain(profiles)',), 0
    config.explain.profile.store = str(workdir / 'profiles')
    _, again = run(config, tmp_path / 'run')
    assert again.profiles == state.profiles


def test_what_was_learned_is_read_back_and_writes_any_pair_as_the_run_would(unbroken, tmp_path):
    _, task, state = unbroken
    again = restoring.restore(task)
    assert again.profiles == state.profiles and again.explanations == state.explanations
    jax.tree.map(np.testing.assert_array_equal, (again.adapter, again.soft_prompt), (state.adapter, state.soft_prompt))
    for name, fitted in state.predictors.items():  # PPO moved the consumers' embeddings in one of them
        jax.tree.map(np.testing.assert_array_equal, again.predictors[name].params, fitted.params)
    config = ml_collections.ConfigDict(task.config.to_dict())
    config.generate.temperature, config.contrast = 0.0, {'splits': ('test',), 'encode': False}
    greedy = dataclasses.replace(task, config=config, workdir=tmp_path)
    path = explain.run(greedy, again, '01-explain-contrast', 1, settings_of(config, 'explain', 'contrast')).explanations[
        '01-explain-contrast']
    own = {(row['user_id'], row['item_id'], row['kind']): (row['text'], row['in_form'])
           for row in read_explanations(path).to_pylist()}
    test = task.examples['test']
    rows = np.random.default_rng(0).permutation(len(test.user))[:16]
    examples, split = asked.examples(task, test.user[rows], test.item[rows])
    written = [row for table in asked.write(task, again, examples, split, writing.sampling_config(task, temperature=0.0))
               for row in table.to_pylist()]
    assert len(written) == 32 and set(split) == {'test'}
    for row in written:
        assert own[row['user_id'], row['item_id'], row['kind']] == (row['text'], row['in_form'])
    predicted = pq.read_table(task.workdir / 'predictions.parquet').to_pandas().query('split == "test"')
    scores = api.load(str(task.workdir)).score(predicted['user_id'], predicted['item_id'])
    np.testing.assert_allclose(scores['RecPIE'], predicted['RecPIE'], atol=1e-5)
    assert scores['Frozen LLM'].isna().all()  # what it reads is no more in the store


# --------------------------------------------------------------------------------------- prompts


def test_prompts_do_not_depend_on_the_targets_label(unbroken):
    _, task, state = unbroken
    profiles = contrast.read_profiles(task, state.profiles)
    test = task.examples['test']
    rows, kept = np.arange(len(test.user)), test.past.length
    write = lambda: [[prompt.text for prompt in contrast.contrast_prompts(
        task, profiles, task.examples['test'], kind, rows, kept)] for kind in task.kinds]
    texts = write()
    task.examples['test'] = dataclasses.replace(test, label=1 - test.label, rating=6 - test.rating)
    try:
        assert write() == texts
    finally:
        task.examples['test'] = test


def test_tiny_reads_the_words_that_it_knows():
    past = [Shown('A', ['war'], 'A - war liked.', True), Shown('B, The', ['war', 'love'], 'B, The - war, love', False)]
    known = dict(domain=simulated.MOVIES, target='T - war')
    target = Shown('T', ['war'], 'T - war liked')
    ask = lambda kind: prompts.render(f'recpie/tiny_{kind}', domain=simulated.MOVIES, history=past, target=target)
    told = lambda liked, disliked: prompts.render('expctr/explain', liked=[liked], disliked=[disliked], **known)
    # Each side is told what the user thought of its own items, and of the others that they were seen.
    assert ask('positive') == told('A - war liked', 'B, The - war seen, love seen')
    assert ask('negative') == told('A - war seen', 'B, The - war disliked, love disliked')


def test_the_words_that_begin_an_answer_are_in_prompt_and_text(unbroken):
    _, task, state = unbroken
    made, tokenizer = contrast.contrast_of(task, state), task.language.tokenizer
    for kind, word in (('positive', 'With'), ('negative', 'The')):
        tokens, mask = made.tokens('test', kind)
        assert mask[:, -1].all() and tokenizer.decode(tokens[0][mask[0]]).endswith(word)
        texts = read_explanations(newest(state.explanations, 'contrast'), 'test', kind)['text'].to_pylist()
        assert all(text.startswith(word) for text in texts)
    first = read_explanations(state.explanations['04-align-first']).to_pandas()
    assert all(row.text.startswith({'positive': 'With', 'negative': 'The'}[row.kind]) for row in first.itertuples())


def test_reviews_of_a_profile_are_of_the_training_split(language_model):
    config = small_recpie(language_model)
    dataset = tasks.load_dataset(config.data)
    marked = dataset.interactions.set_column(
        dataset.interactions.schema.get_field_index('review'), 'review',
        pa.array([f'word {row} of review' for row in range(dataset.interactions.num_rows)]))
    task = hand_task(dataclasses.replace(dataset, interactions=marked), config)
    reviews = explain_profiles.training_reviews(task, 2, 2)
    rows = {int(review.split()[1]) for of_item in reviews.values() for review in of_item}
    assert rows <= set(task.examples['train'].interaction.tolist()) and max(map(len, reviews.values())) == 2
    items = tables.codes(dataset.interactions['item_id'])
    assert all(items[int(review.split()[1])] == item and review.endswith(' …')
               for item, of_item in reviews.items() for review in of_item)
    assert explain_profiles.training_reviews(task, 0, 2) == {}


# --------------------------------------------------------------------------------------- rewards


def test_rewards_of_pairs_are_equation_1_by_hand(unbroken):
    _, task, state = unbroken
    settings = small_recpie(task.config.language.model).align
    rows, count = np.array([3, 0, 5]), 3
    texts = ['a b', 'c', 'd e f', 'g', 'h i', 'j']
    predictor = state.predictors['with_text']
    vectors = task.encoder.encode(texts)
    low, high = task.dataset.rating_scale
    y = (task.examples['train'].rating[rows] - low) / (high - low)

    def reward(pos, neg):
        text = np.stack([vectors[:count] * pos, vectors[count:] * neg], axis=1)
        rows_of = fit_predictor.make_rows(task, 'train', predictor.model, text, rows)
        f = scoring.predict(predictor.model, predictor.params, task.fields, rows_of)
        return 1 / (1 + np.abs(y - np.asarray(f)))

    shared, columns = align_rewards.pair_rewards(task, state, settings, rows, texts)
    np.testing.assert_allclose(shared, np.tile(reward(1, 1), 2), rtol=1e-5)
    np.testing.assert_allclose(columns['baseline'], np.tile(reward(0, 0), 2), rtol=1e-5)
    settings.credit = 'leave_one_out'
    each, columns = align_rewards.pair_rewards(task, state, settings, rows, texts)
    expected = np.concatenate([reward(1, 1) - reward(0, 1), reward(1, 1) - reward(1, 0)])
    np.testing.assert_allclose(each, expected, atol=1e-6)
    assert 'baseline' not in columns


def test_embeddings_that_align_tunes_go_back_into_the_network(unbroken, language_model, tmp_path):
    workdir, task, state = unbroken
    config = short_config(language_model)
    config.schedule = config.schedule[:3]
    shutil.copytree(workdir, tmp_path / 'run')  # what these phases made is only read
    _, before = run(config, tmp_path / 'run')
    after = state.predictors['on_frozen'].params['embedding']
    rows = np.asarray(task.fields.user_fields[:, task.fields.names.index('user_id')])
    moved = np.abs(after - before.predictors['on_frozen'].params['embedding']).max(axis=1) > 1e-6
    assert 0 < moved[rows].sum() < len(rows)  # those of the few consumers that were met
    assert not np.delete(moved, rows).any()
    assert state.soft_prompt['projection']['kernel'].shape[1] == 2
    own = align.consumer_table(task, state, settings_of(config, 'align', 'first'))
    np.testing.assert_allclose(own, state.soft_prompt['consumers'], rtol=0.2, atol=0.05)


# ------------------------------------------------------------------------------------- bad input


def test_no_reviews_no_times_no_titles_and_users_of_one_event(language_model, tmp_path):
    users = tables.table(tables.USERS, user_id=['a', 'b', 'c', 'd', 'e', 'once'])
    items = tables.table(tables.ITEMS, item_id=[f'i{n}' for n in range(10)], title=[None, 'One'] + [f'T{n}' for n in range(8)],
                         attributes=[[], ['war']] + [['love']] * 8)
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(6), [10, 10, 10, 10, 10, 1]).astype(np.int32)
    item = np.concatenate([random.permutation(10) for _ in range(5)] + [[3]]).astype(np.int32)
    dataset = tables.Dataset('hand', tables.interactions(
        users, items, user=user, item=item, rating=pa.array(random.integers(1, 6, 51).astype(np.float32))),
        users, items, (1.0, 5.0), simulated.MOVIES, 'none')
    config = small_recpie(language_model)
    config.schedule = ('explain(profiles)', 'explain(frozen)', 'fit(on_frozen)')
    config.fit.training.epochs = 1
    task = dataclasses.replace(tasks.make_task(config, tmp_path / 'run'), dataset=tables.validate(dataset),
                               examples=tasks.make_examples(dataset, config))
    open_workdir(str(tmp_path / 'run'), config)
    state = schedule.run_schedule(task)
    shown = pq.read_table(state.profiles).to_pandas()
    assert (shown['num_reviews'] == 0).all() and shown['title'].isna().sum() == 1
    texts = read_explanations(newest(state.explanations, 'frozen')).to_pandas()
    assert (texts.query('user_id == "once"')['kind'].tolist()) == ['positive', 'negative']
    assert np.isfinite(np.asarray(jax.tree.leaves(state.predictors['on_frozen'].params)[0])).all()
    train = task.examples['train']
    once = train.user == 5
    assert once.sum() == 1 and train.past.length[once][0] == 0
    prompt, = contrast.contrast_prompts(task, task.item_texts, train, 'positive', np.flatnonzero(once), np.array([0]))
    assert 'The liked movies: none' in prompt.text
    no_title, = contrast.contrast_prompts(task, task.item_texts, train, 'positive',
                                          np.flatnonzero(train.item == 0)[:1], np.array([0]))
    assert 'movie i0' in no_title.text


@pytest.mark.parametrize('change, message', [
    (lambda c: c.update(schedule=('align(first)',)), r'needs fit\(on_frozen\) before it'),
    (lambda c: c.update(schedule=('fit(with_text)',)), r'reads explain\(contrast\): put that before it'),
    (lambda c: c.update(schedule=('explain(shuffled)',)), r'shuffles what explain\(contrast\) wrote'),
    (lambda c: c.explain.update(writes='reson'), 'Did you mean "reasons"'),
    (lambda c: c.align.update(reward='lc'), 'pairs have "rating"'),
    (lambda c: c.align.update(credit='leave_one'), 'Did you mean "leave_one_out"'),
    (lambda c: c.align.update(baseline='no'), 'Did you mean "none"'),
    (lambda c: c.align.update(rollout_size=9), 'each example has 2'),
    (lambda c: c.fit.update(fields=('item_id',)), 'needs embeddings of consumers'),
    (lambda c: c.prompt.update(profile='recpie/profil'), 'Did you mean "recpie/profile"'),
    (lambda c: c.judge.scorers.update({'LLM directly': 'direct(direkt)'}), 'Did you mean "direct"'),
    (lambda c: c.judge.update(attention='RecPi'), 'Did you mean "RecPIE"'),
    (lambda c: c.judge.after.update(explain='peter_texts'), r'explain\(peter_texts\) has one text an example'),
    (lambda c: c.judge.scorers.update(TALLRec='direct(direct, tallrek)'), r'needs tune\(tallrek\) before it'),
    (lambda c: c.tallrec.update(template='direkt'), 'Did you mean "direct"'),
    (lambda c: c.judge.update(attention='No text'), r'should be predictor\(FIT, EXPLAIN\)'),
])
def test_bad_settings_are_refused_before_anything_is_computed(change, message, language_model, tmp_path):
    config = small_recpie(language_model)
    change(config)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_the_click_form_is_three_settings_away(language_model, tmp_path):
    config = small_recpie(language_model)
    config.fit.task = config.judge.task = 'click'
    config.fit.training.monitor = 'auc'
    task = tasks.make_task(config, tmp_path / 'run')
    schedule.check_schedule(task)
    assert fit_predictor.scale_of(task, config.fit) is None  # labels are likes
    config.fit.task = 'rating'
    assert fit_predictor.scale_of(task, config.fit) == (1.0, 5.0)


# --------------------------------------------------------------------------- bounds, attention


def test_true_reasons_are_the_planted_ones(language_model):
    config = small_recpie(language_model)
    config.data.options.update({'attributes_per_item': (1, 2)})
    task = hand_task(tasks.load_dataset(config.data), config)
    rows = task.examples['train'].interaction
    aspects = task.dataset.interactions['aspects'].take(pa.array(rows)).to_pylist()
    texts = [explain_bounds.true_reasons(task, 'train', kind) for kind in ('positive', 'negative')]
    for planted, positive, negative in zip(aspects, *texts):
        assert all((aspect in positive) != (aspect in negative) for aspect in planted)
        assert bool(positive or negative) == bool(planted)
    loved = np.array([bool(positive) and not negative for positive, negative in zip(*texts)])
    rating = task.examples['train'].rating
    assert rating[loved].mean() > 4 > 3 > rating[[bool(n) and not p for p, n in zip(*texts)]].mean()


def test_shuffling_gives_every_example_another_ones_texts():
    order = explain_bounds.another(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert (order != np.arange(50)).all()


def test_attention_is_summed_up_by_rating_and_tested_by_user():
    user, label = np.repeat(np.arange(10), 4), np.tile([1.0, 1, 0, 0], 10).astype(np.float32)
    examples = protocols.Examples(user=user, item=user, rating=label, label=label, interaction=user, past=None)
    random = np.random.default_rng(0)
    received = {token: random.random(40) for token in judge_attention.TOKENS}
    received['pos'] = received['neg'] + np.where(label > 0, 0.2, -0.1) + 0.01 * random.normal(size=40)
    summary = judge_attention.summarise(examples, received)
    assert summary['high']['difference'] == pytest.approx(0.2, abs=0.02) and summary['high']['p'] < 0.01
    assert summary['low']['difference'] == pytest.approx(-0.1, abs=0.02) and summary['low']['p'] < 0.01
    assert summary['high']['examples'] == 20 and summary['high']['users'] == 10
