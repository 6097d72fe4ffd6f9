"""Finding, fetching and refusing datasets by name; no test touches the network."""

import contextlib
import dataclasses
import hashlib
import io
import os
import urllib.error
import zipfile

import pytest

from tests.data.readers.test_movielens import FILES, publish
from xrec_jax.data import catalog, tables
from xrec_jax.data.readers import simulated
from xrec_jax.errors import UserError

TINY = dict(num_users=6, num_items=8, num_interactions=20)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError('no network in tests')
    monkeypatch.setattr(catalog.urllib.request, 'urlopen', refuse)


@pytest.fixture
def archive(tmp_path, monkeypatch) -> bytes:
    """A small ml-100k.zip that the catalog takes for the published one."""
    publish(tmp_path / 'source')
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as packed:
        for name in FILES:
            packed.write(tmp_path / 'source' / name, f'ml-100k/{name}')
    data = buffer.getvalue()
    found = dataclasses.replace(catalog.CATALOG['ml-100k'], md5=hashlib.md5(data).hexdigest())
    monkeypatch.setitem(catalog.CATALOG, 'ml-100k', found)
    return data


# ----------------------------------------------------------------------------------- simulated


def test_simulated_draws_the_world_of_its_options():
    dataset = catalog.load('simulated', seed=3, attributes_per_item=[1, 1], **TINY)
    world = simulated.World(seed=3, attributes_per_item=(1, 1), **TINY)
    for name in tables.SCHEMAS:
        assert getattr(dataset, name).equals(getattr(simulated.simulate(world), name))
    assert dataset.licence == catalog.entry('simulated').licence


@pytest.mark.parametrize('options, message', [
    (dict(num_user=3), 'has no option "num_user". Did you mean "num_users"?'),
    (dict(colour=3), 'has no option "colour". Known: '),
    (dict(num_users='many'), "num_users='many': should be an integer"),
    (dict(attributes_per_item=[1]), 'attributes_per_item=[1]: should be two')])
def test_simulated_refuses_unknown_options_and_wrong_types(options, message):
    with pytest.raises(UserError) as error:
        catalog.load('simulated', None, **options)
    assert message in str(error.value)


def test_simulated_does_not_take_a_mistyped_folder_for_none(tmp_path):
    with pytest.raises(UserError, match='holds no prepared dataset'):
        catalog.load('simulated', tmp_path / 'typo')


# ---------------------------------------------------------------------------------- raw files


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(UserError, match='unknown dataset "ml100k". Did you mean "ml-100k"?'):
        catalog.load('ml100k', '/nowhere')


@pytest.mark.parametrize('data_dir', [None, ''])
def test_raw_files_need_a_folder(data_dir):
    with pytest.raises(UserError, match=r'give --data_dir=DIR \(in a config: data.data_dir\)'):
        catalog.load('ml-100k', data_dir)


def test_options_of_a_reader_are_checked_by_name(tmp_path):
    with pytest.raises(UserError, match='dataset "ml-100k" has no option "hole". Did you mean "whole"'):
        catalog.load('ml-100k', publish(tmp_path / 'x'), hole=False)


def test_files_are_found_in_the_folder_or_in_its_own_folder_below(tmp_path):
    publish(tmp_path / 'ml-100k')
    below = catalog.load('ml-100k', tmp_path, whole=False)
    here = catalog.load('ml-100k', str(tmp_path / 'ml-100k'), whole=False)
    assert below.interactions.equals(here.interactions) and below.recipe == here.recipe
    assert below.recipe['md5']['u.data'] == hashlib.md5(FILES['u.data'].encode()).hexdigest()


def test_one_missing_file_is_named_and_nothing_is_fetched(tmp_path):
    (publish(tmp_path / 'x') / 'u.item').unlink()
    with pytest.raises(UserError, match='u.item: no such file, though u.data is there'):
        catalog.load('ml-100k', tmp_path / 'x')


def test_a_file_as_folder_is_refused(tmp_path):
    (tmp_path / 'ml-100k.zip').write_bytes(b'x')
    with pytest.raises(UserError, match='is a file; data_dir is the folder that holds ml-100k.zip'):
        catalog.load('ml-100k', tmp_path / 'ml-100k.zip')


def test_reading_writes_nothing_to_the_folder(tmp_path):
    publish(tmp_path / 'x')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    catalog.load('ml-100k', tmp_path / 'x', whole=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before


# ------------------------------------------------------------------------------------- archive


def test_the_archive_is_read_without_unpacking(tmp_path, archive):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / 'ml-100k.zip').write_bytes(archive)
    dataset = catalog.load('ml-100k', tmp_path / 'x', whole=False)
    assert dataset.interactions.equals(
        catalog.load('ml-100k', tmp_path / 'source', whole=False).interactions)
    assert os.listdir(tmp_path / 'x') == ['ml-100k.zip']


def test_a_truncated_archive_is_refused(tmp_path, archive):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / 'ml-100k.zip').write_bytes(archive[:-50])
    with pytest.raises(UserError, match='ml-100k.zip: its md5 is .* truncated or not the original'):
        catalog.load('ml-100k', tmp_path / 'x')


def test_fetching_keeps_the_archive_for_the_next_time(tmp_path, archive, monkeypatch):
    calls = []

    def urlopen(url, timeout):
        calls.append(url)
        return contextlib.closing(io.BytesIO(archive))

    monkeypatch.setattr(catalog.urllib.request, 'urlopen', urlopen)
    for _ in range(2):
        assert catalog.load('ml-100k', tmp_path / 'new', whole=False).users.num_rows == 2
    assert calls == [catalog.CATALOG['ml-100k'].url]
    assert os.listdir(tmp_path / 'new') == ['ml-100k.zip']


def test_a_wrong_download_is_not_kept(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(catalog.urllib.request, 'urlopen',
                        lambda url, timeout: contextlib.closing(io.BytesIO(archive[:-9])))
    with pytest.raises(UserError, match='what came has md5 .* nothing was kept'):
        catalog.load('ml-100k', tmp_path / 'new')
    assert os.listdir(tmp_path / 'new') == []


def test_without_network_it_says_where_to_put_the_archive(tmp_path):
    with pytest.raises(UserError, match='cannot fetch https://.*no network in tests.*ml-100k.zip'):
        catalog.load('ml-100k', tmp_path / 'new')
    assert os.listdir(tmp_path / 'new') == []


# ------------------------------------------------------------------------------------ prepared


def test_a_prepared_folder_is_read_as_it_stands(tmp_path):
    dataset = catalog.load('ml-100k', publish(tmp_path / 'x'), whole=False)
    tables.write(dataset, tmp_path / 'prepared')
    again = catalog.load('ml-100k', tmp_path / 'prepared')
    assert again.interactions.equals(dataset.interactions) and again.recipe == dataset.recipe


def test_a_prepared_folder_of_another_dataset_is_refused(tmp_path):
    tables.write(catalog.load('simulated', **TINY), tmp_path / 'p')
    with pytest.raises(UserError, match='is the prepared dataset "simulated", not "ml-100k"'):
        catalog.load('ml-100k', tmp_path / 'p')


def test_options_may_repeat_but_not_contradict_a_prepared_folder(tmp_path):
    tables.write(catalog.load('simulated', **TINY), tmp_path / 'p')
    again = catalog.load('simulated', tmp_path / 'p', num_users=6, attributes_per_item=(1, 2))
    assert again.users.num_rows == 6
    with pytest.raises(UserError, match='was prepared with num_users=6, not 7'):
        catalog.load('simulated', tmp_path / 'p', num_users=7)
    with pytest.raises(UserError, match='Did you mean "num_users"'):
        catalog.load('simulated', tmp_path / 'p', num_user=6)


def test_a_damaged_prepared_folder_is_not_fetched_anew(tmp_path):
    tables.write(catalog.load('simulated', **TINY), tmp_path / 'p')
    (tmp_path / 'p' / 'users.arrow').unlink()
    with pytest.raises(UserError, match='users.arrow: no such file'):
        catalog.load('simulated', tmp_path / 'p')
