"""PETER in a run: what it learns from, a run that is stopped and resumed, its explanations judged as texts, bad input."""

import dataclasses

import jax
import ml_collections
import numpy as np
import pyarrow as pa
import pytest

from tests.phases.small import resumed, run, small_recpie, stop_writers
from xrec_jax.errors import UserError
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import explain_predictor, restoring, training_words
from xrec_jax.phases.settings import settings_of
from xrec_jax.recommenders import words
from xrec_jax.recommenders.peter import PETER
from xrec_jax.runs import files
from xrec_jax.runs.explanations import read_explanations


@pytest.fixture(scope='module', autouse=True)
def two_devices():
    make = meshes.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, 'make_mesh', lambda sizes: make({'data': 1, 'fsdp': 2}, jax.devices()[:2]))
        yield


def small() -> ml_collections.ConfigDict:
    config = small_recpie('tiny')  # which is only loaded
    config.schedule = ('fit(peter)', 'explain(peter_texts)', 'judge(text)')
    config.judge.texts.explanations = ('peter_texts',)
    config.fit.seeds = 2
    config.peter.model.update({'embed_dim': 8, 'layers': 1, 'inner': 8, 'max_words': 6})
    config.peter_texts.splits = ('valid', 'test')
    return config


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'unbroken'
    return *run(small(), workdir), workdir


def test_every_example_gets_one_explanation_that_is_judged_as_a_text(unbroken):
    task, state, workdir = unbroken
    path, = state.explanations.values()
    table = read_explanations(path).to_pandas()
    assert table['split'].tolist() == ['valid'] * len(task.examples['valid'].user) + ['test'] * len(
        task.examples['test'].user) and set(table['kind']) == {'reason'}
    test = table.query('split == "test"')
    np.testing.assert_array_equal(test['example'], np.arange(len(test)))
    assert test['item_id'].tolist() == task.dataset.items['item_id'].take(task.examples['test'].item).to_pylist()
    fitted = state.predictors['peter']
    assert fitted.seeds == 2 and fitted.params['head']['bias'].shape == (2, fitted.model.num_words)
    rows = explain_predictor.write(task, state, 'peter', 'test', 7)
    vocabulary = training_words.vocabulary(task, PETER, fitted.settings)
    assert words.decode(vocabulary, rows) == test['text'].tolist()
    assert (test['truncated'] == (test['num_tokens'] == 6)).all() and (rows != words.UNK).all()
    judged = files.read_table(workdir / 'judgements' / '03-judge-text.parquet').to_pandas()
    assert judged['text'].tolist() == test['text'].tolist() and judged['reference'].notna().all()


def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(unbroken, tmp_path, monkeypatch):
    task, state, _ = unbroken
    stopped_in = stop_writers(monkeypatch, lambda _, m: m == 2)
    broken = tmp_path / 'broken'
    _, again = resumed(lambda: run(small(), broken))
    assert stopped_in == ['01-fit-peter', '02-explain-peter_texts']
    jax.tree.map(np.testing.assert_array_equal, state.predictors['peter'].params, again.predictors['peter'].params)
    for phase, path in state.explanations.items():
        assert read_explanations(path).equals(read_explanations(again.explanations[phase]))
    # Read back, with a vocabulary that is made anew.
    fresh = dataclasses.replace(task, workdir=broken)
    restored = restoring.restore(fresh)
    assert restored.predictors['peter'].model == state.predictors['peter'].model
    np.testing.assert_array_equal(explain_predictor.write(fresh, restored, 'peter', 'test', 16),
                                  explain_predictor.write(task, state, 'peter', 'test', 16))


def test_training_examples_have_their_reviews_or_else_their_items(unbroken):
    task, state, _ = unbroken
    reviews = pa.array([None if row % 3 == 0 else ' ' if row % 3 == 1 else f'Review{row}.'
                        for row in range(task.dataset.interactions.num_rows)])
    marked = task.dataset.interactions.set_column(
        task.dataset.interactions.schema.get_field_index('review'), 'review', reviews)
    other = dataclasses.replace(task, dataset=dataclasses.replace(task.dataset, interactions=marked))
    train = task.examples['train']
    assert training_words.texts(other) == [
        f'Review{row}.' if row % 3 == 2 else task.item_texts[item] for row, item in zip(train.interaction, train.item)]
    settings = settings_of(small(), 'fit', 'peter')
    rows = training_words.words(other, PETER, settings)
    assert rows.shape == (len(train.user), 7) and (rows != words.UNK).all()
    known = training_words.vocabulary(other, PETER, settings).get_vocab()
    said = {f'review{row}' for row in train.interaction if row % 3 == 2}
    assert {word for word in known if word.startswith('review')} == said  # no review of another split


@pytest.mark.parametrize('change, message', [
    (lambda c: c.update(schedule=('explain(peter_texts)',)), r'writes with fit\(peter\): put that before'),
    (lambda c: c.update(schedule=('fit(no_text)', *c.schedule), peter_texts=c.peter_texts.to_dict() | {'of': 'no_text'}),
     'writes nothing; peter does'),
    (lambda c: c.peter_texts.update(splits=('tset',)), 'Did you mean "test"'),
    (lambda c: c.peter.update(text=True), 'reads none'),
    (lambda c: c.peter.model.update({'max_vocabulary': 4}), 'max_vocabulary=4'),
    (lambda c: c.peter.model.update({'max_words': 0}), 'max_words=0'),
    (lambda c: c.peter.model.update({'num_words': 9}), 'has no setting "num_words"'),
])
def test_bad_settings_are_refused_before_anything_is_computed(change, message, tmp_path):
    config = small()
    change(config)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
