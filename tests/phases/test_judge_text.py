"""Texts judged: whose review is the reference, what is measured without one, and that a stopped run goes on."""

import dataclasses
import json

import pyarrow as pa
import pytest

from tests.phases.small import GOLDEN, small_config
from xrec_jax.data import tables
from xrec_jax.data.domains import Domain
from xrec_jax.errors import UserError
from xrec_jax.language import text_scores
from xrec_jax.phases import judge, judge_text, schedule, task as tasks
from xrec_jax.phases.settings import settings_of
from xrec_jax.runs.explanations import ExplanationWriter
from xrec_jax.runs.state import RunState

BART = GOLDEN / 'bart' / 'cnn'


def dataset(reviews, own=None):
    """Users a, b; items x, y; interactions a-x, a-y, b-x, a-x again and later."""
    users = tables.table(tables.USERS, user_id=['a', 'b'])
    items = tables.table(tables.ITEMS, item_id=['x', 'y'], attributes=[['drums'], ['strings']])
    met = tables.interactions(
        users, items, user=['a', 'a', 'b', 'a'], item=['x', 'y', 'x', 'x'], rating=[5.0, 4.0, 1.0, 2.0],
        timestamp=[30, 20, 10, 40], review=reviews, aspects=own or [None] * 4)
    return tables.Dataset('shop', met, users, items, (1.0, 5.0), Domain('product', 'products'), 'free')


def column(values):
    return pa.chunked_array([pa.array(values, pa.string())])


def test_the_reference_is_the_newest_review_of_the_same_user_and_item():
    pairs = column(['a', 'b', 'b', 'nobody', 'a']), column(['x', 'x', 'y', 'x', 'y'])
    reviews, terms = judge_text.facts(dataset(['old', None, ' ', 'new']), *pairs, 3)
    assert reviews.to_pylist() == ['new', None, None, None, None]
    assert terms.to_pylist() == [['drums'], ['drums'], ['strings'], ['drums'], ['strings']]
    reviews, _ = judge_text.facts(dataset(['old', None, 'b on x', None]), *pairs, 3)
    assert reviews.to_pylist() == ['old', 'b on x', None, None, None]


def test_the_terms_of_a_pair_come_before_those_of_its_item():
    _, terms = judge_text.facts(dataset([None] * 4, [['cheap'], None, None, ['loud', 'cheap']]),
                                column(['a', 'b']), column(['x', 'x']), 3)
    assert terms.to_pylist() == [['loud', 'cheap'], ['cheap', 'loud', 'drums']]


def test_figures_by_phase_and_kind_and_none_where_there_is_nothing_to_measure_by():
    table = pa.table({
        'explanations': ['icl', 'final', 'final'], 'kind': ['reason', 'pos', 'neg'],
        'text': ['Cheap drums.', 'Cheap drums.', 'No strings.'], 'reference': pa.array([None, 'Cheap drums', None]),
        'terms': pa.array([[], ['drums', 'sticks'], None], pa.list_(pa.string())),
        'informativeness': pa.array([None, -2.0, None], pa.float32()), 'reverse': pa.array([None, -3.0, None], pa.float32()),
        'fluency': pa.array([-1.0, -2.0, -4.0], pa.float32())})
    found = judge_text.figures(table)
    assert list(found) == ['icl', 'final', 'final, pos', 'final, neg']
    assert found['icl']['coverage'] is None and found['icl']['bleu'] is None and found['icl']['fluency'] == -1
    assert found['icl']['informativeness'] is None
    assert found['final']['coverage'] == 0.5 and found['final']['rouge1'] == 1 and found['final']['fluency'] == -3
    assert found['final, neg']['with_reference'] == 0 and found['final']['with_reference'] == 1
    assert judge_text.figures_table('', {'scorer': 'LMScore', 'texts': found}).row_count == 4


@pytest.fixture
def world(tmp_path):
    """A task whose `explain(icl)` has written about all of its test examples."""
    config = small_config('tiny')
    config.schedule = ('explain(icl)', 'judge(text)')
    config.judge.texts.explanations = ('icl',)
    task = tasks.make_task(config, tmp_path)
    test, writer = task.examples['test'], ExplanationWriter(tmp_path, '01-explain-icl')
    texts = [f'The user likes drama, number {n}.' if n else '' for n in range(len(test.user))]
    for split in ('valid', 'test'):
        writer.add(user_id=task.dataset.users['user_id'].take(test.user), kind='reason', split=split, text=texts,
                   item_id=task.dataset.items['item_id'].take(test.item), step=1)
    writer.flush(1)
    return task, RunState(explanations={'01-explain-icl': writer.finish()}), settings_of(config, 'judge', 'text')


def test_a_run_without_reviews_says_so_and_measures_the_rest(world, tmp_path, capsys):
    task, state, settings = world
    schedule.check_schedule(task)
    met = task.dataset.interactions
    met = met.set_column(met.column_names.index('review'), 'review', pa.nulls(len(met), pa.string()))
    task = dataclasses.replace(task, dataset=dataclasses.replace(task.dataset, interactions=met))
    judge.run(task, state, '02-judge-text', 2, settings)
    said = capsys.readouterr().out
    assert 'has no review of any of the 10 pairs' in said and 'LMScore' in said and 'BARTScore' not in said
    summary = json.loads((tmp_path / 'summary.json').read_text())['text']
    assert summary['scorer'] == 'LMScore' and summary['scorer_model'] == task.config.language.model
    found = summary['texts']['icl']
    assert found['count'] == 10 and found['bleu'] is None and found['informativeness'] is None
    assert found['unique'] == 1 and 0 <= found['coverage'] <= 1
    expected, _ = judge_text.make_scorer(task, 'language').score([''] * 9, [f'The user likes drama, number {n}.'
                                                                            for n in range(1, 10)])
    assert abs(found['fluency'] - expected.mean()) < 1e-5


class Counting:
    """A scorer that is stopped after so many calls."""

    def __init__(self, scorer, most):
        self.scorer, self.most, self.counts = scorer, most, []

    def score(self, sources, targets):
        if len(self.counts) == self.most:
            raise KeyboardInterrupt
        self.counts.append(len(targets))
        return self.scorer.score(sources, targets)


def test_a_stopped_judge_goes_on_and_a_bart_is_called_by_its_name(world, monkeypatch):
    task, state, settings = world
    settings.texts.scorer = str(BART)
    monkeypatch.setattr(judge_text, 'PART', 5)
    scorer = text_scores.load_bart_scorer(BART)
    monkeypatch.setattr(judge_text, 'make_scorer', lambda *_: Counting(scorer, 4))
    with pytest.raises(KeyboardInterrupt):
        judge_text.run(task, state, '02-judge-text', settings)
    rest = Counting(scorer, 100)
    monkeypatch.setattr(judge_text, 'make_scorer', lambda *_: rest)
    result = judge_text.run(task, state, '02-judge-text', settings)
    assert rest.counts == [5, 5, 5] and result['scorer'] == 'BARTScore'
    texts = [f'The user likes drama, number {n}.' for n in range(1, 10)]
    reviews = task.dataset.interactions['review'].take(task.examples['test'].interaction).to_pylist()[1:]
    for name, sources, targets in (('informativeness', reviews, texts), ('reverse', texts, reviews),
                                   ('fluency', [''] * 9, texts)):
        whole, _ = scorer.score(sources, targets)
        assert abs(result['texts']['icl'][name] - whole.mean()) < 1e-5, name


@pytest.mark.parametrize('change, says', [
    (dict(explanations=('ic',)), r'needs explain\(ic\) before it.*explain\(icl\)'),
    (dict(explanations=()), 'is empty'),
    (dict(splits=('tests',)), 'Did you mean "test"'),
    (dict(scorer='no/such/folder'), 'config.json does not exist'),
    (dict(scorer=str(GOLDEN / 'bert' / 'bert')), 'model_type "bert" is not supported'),
])
def test_bad_settings_are_refused_before_anything_is_scored(change, says, world):
    task, _, settings = world
    settings.texts.update(change)
    with pytest.raises(UserError, match=says):
        judge.check(task, settings, ['explain(icl)'])
