"""What a config makes of data: the dataset, as its settings say, and the words for it."""


import pyarrow as pa
import pytest

from configs import expctr, quickstart, recpie
from tests.data.small import publish
from xrec_jax.data import catalog, protocols, tables
from xrec_jax.data.domains import PRODUCTS
from xrec_jax.data.filters import Filters
from xrec_jax.errors import UserError
from xrec_jax.phases import schedule, task as tasks


@pytest.mark.parametrize('name', catalog.CATALOG)
def test_a_config_lists_the_options_of_every_dataset_and_all_filters(name):
    data = expctr.get_config(name).data
    assert data.options.to_dict() == catalog.entry(name).options
    assert Filters(**data.filters.to_dict()) == Filters() and data.on_bad_row == 'raise'


@pytest.mark.parametrize('name', ['simulated', 'ml-100k', *recpie.DATASETS])
def test_recpie_has_a_config_for_each_of_its_datasets(name):
    config = recpie.get_config(name)
    found, options = recpie.DATASETS.get(name, (name, {}))
    assert config.data.name == found and set(config.data.options) == set(catalog.entry(found).options)
    assert all(config.data.options[key] == value for key, value in options.items())
    assert protocols.options('user_temporal').keys() <= set(config.data)
    assert all(len(phase) == 3 for phase in schedule.parse(config)) and config.schedule[-2:] == ('judge(table)', 'judge(text)')
    assert ('explain(truth)' in config.schedule) == (name == 'simulated')
    assert catalog.entry(found).options == expctr.get_config(found).data.options.to_dict()  # theirs stay as they were


def test_an_unknown_dataset_is_refused_by_the_config():
    with pytest.raises(UserError, match='Did you mean "ml-100k"?'):
        expctr.get_config('ml100k')


def test_an_unknown_dataset_is_refused_where_an_override_names_it(tmp_path):
    config = quickstart.get_config()
    config.data.name = 'ml-100'
    with pytest.raises(UserError, match='unknown dataset "ml-100". Did you mean "ml-100k"'):
        tasks.make_task(config, tmp_path)


def test_the_simulated_world_is_drawn_by_the_seed_of_the_run():
    config = quickstart.get_config()
    config.seed = 7
    assert config.data.options.seed == 7
    assert tasks.load_dataset(config.data).recipe['seed'] == 7


def test_options_filters_and_bad_rows_reach_the_reader(tmp_path):
    with open(publish(tmp_path / 'raw') / 'u.data', 'a') as file:
        file.write('2\t3\n')
    data = expctr.get_config('ml-100k').data
    data.data_dir = str(tmp_path / 'raw')
    with pytest.raises(UserError, match='has 2 fields'):
        tasks.load_dataset(data)
    data.on_bad_row = 'skip'
    with pytest.raises(UserError, match='where the published file has'):
        tasks.load_dataset(data)
    data.options.whole = False
    assert tasks.load_dataset(data).interactions.num_rows == 3
    data.filters.min_per_user = 2
    assert tasks.load_dataset(data).users['user_id'].to_pylist() == ['1']
    data.filters.repeats = 'lats'
    with pytest.raises(UserError, match='Did you mean "last"?'):
        tasks.load_dataset(data)


def test_an_item_without_a_title_goes_by_its_id():
    items = tables.table(tables.ITEMS, item_id=['B000123', 'B000456'], title=['Guitar', None],
                         attributes=[['strings'], ['wood']])
    users = tables.table(tables.USERS, user_id=['u'])
    dataset = tables.Dataset(
        'hand', tables.interactions(users, items, user=['u'], item=['B000123'], rating=pa.array([5.0], pa.float32())),
        users, items, (1.0, 5.0), PRODUCTS, 'none')
    config = expctr.get_config('ml-100k')
    task = tasks.Task(config=config, workdir=None, mesh=None, metrics=None, dataset=dataset, examples={}, language=None)
    assert task.titles == ['Guitar', 'product B000456']
    assert task.item_texts == ['Guitar - strings', 'product B000456 - wood']
