"""What explanations are about, as it is kept beside them: against the examples and requests themselves."""

import ml_collections
import numpy as np
import pytest

from xrec_jax.data import catalog, protocols
from xrec_jax.data.domains import MOVIES
from xrec_jax.language.instructions import Item, Recommendation
from xrec_jax.phases import explained, requests, task as tasks


@pytest.fixture
def task(tmp_path):
    dataset = catalog.load('simulated', num_users=20, num_items=15, num_interactions=250, num_attributes=6,
                           attributes_per_item=(1, 2), seed=3)
    examples = protocols.make('user_temporal', dataset, history_length=30, seed=0)
    return tasks.Task(config=ml_collections.ConfigDict(), workdir=tmp_path, mesh=None, metrics=None, dataset=dataset,
                      examples=examples, language=None)


def test_every_example_has_its_history_target_and_label(task, monkeypatch):
    monkeypatch.setattr(explained, 'ROWS', 7)  # several row groups
    rows = {'valid': np.arange(len(task.examples['valid'].user)), 'train': np.array([3, 50, 51])}
    explained.write(task, '02-explain-x', rows)
    table, scale = explained.read(explained.path_of(task.workdir, '02-explain-x'))
    assert scale == task.dataset.rating_scale and table.schema.remove_metadata() == explained.SCHEMA
    got = table.to_pylist()
    assert [(row['split'], row['example']) for row in got] == [
        (split, n) for split, of_split in rows.items() for n in of_split]
    attributes = task.dataset.items['attributes'].to_pylist()
    for row in got:
        examples, n = task.examples[row['split']], row['example']
        past = [(item, good) for item, good in zip(examples.history[n], examples.history_liked[n]) if item >= 0]
        assert row['history_length'] == len(past)
        assert [(one['title'], one['attributes'], one['liked']) for one in row['history']] == [
            (task.titles[item], attributes[item], good) for item, good in past[-explained.SHOWN:]]
        assert (row['title'], row['liked'], row['rating']) == (
            task.titles[examples.item[n]], bool(examples.label[n]), examples.rating[n])
        assert row['user_id'] == task.dataset.users['user_id'][int(examples.user[n])].as_py()
        assert row['aspects'] == task.dataset.interactions['aspects'][int(examples.interaction[n])].as_py()
        assert dict(row['profile'])['gender'] in ('male', 'female')


def test_what_is_there_is_left_alone(task):
    explained.write(task, '02-explain-x', {'test': np.array([0])})
    explained.write(task, '02-explain-x', {'test': np.array([0, 1])})
    assert len(explained.read(explained.path_of(task.workdir, '02-explain-x'))[0]) == 1


def test_a_request_has_no_label_and_its_history_no_opinions(task):
    one = Recommendation(MOVIES, tuple(Item(f'Film {n}', ('Drama',)) for n in range(25)), Item('Heat', ('Action',)),
                         {'gender': 'female', 'interest': ['Drama', 'War'], 'age': ''})
    explained.write_requests(task, '03-explain-top', requests.Requests('top1', ['7'], ['9'], ['bpr'], [one]))
    row, = explained.read(explained.path_of(task.workdir, '03-explain-top'))[0].to_pylist()
    assert (row['split'], row['group'], row['example'], row['liked'], row['rating']) == ('top1', 'bpr', 0, None, None)
    assert [past['title'] for past in row['history']] == [f'Film {n}' for n in range(5, 25)] and row['history_length'] == 25
    assert {past['liked'] for past in row['history']} == {None}
    assert row['profile'] == [('gender', 'female'), ('interest', 'Drama, War')]
