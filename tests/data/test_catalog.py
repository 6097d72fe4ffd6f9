"""Finding, fetching and refusing datasets by name; the only network is a server on this machine."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import zipfile

import pyarrow as pa
import pytest

from tests.data.small import FILES, Site, publish, serve
from xrec_jax.data import catalog, fetch, tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.data.entry import Entry
from xrec_jax.data.filters import Filters
from xrec_jax.data.ingest import Source, nothing
from xrec_jax.data.readers import jsonlines, simulated
from xrec_jax.errors import UserError

TINY = dict(num_users=6, num_items=8, num_interactions=20)


def same(a: tables.Dataset, b: tables.Dataset) -> bool:
    return all(getattr(a, name).equals(getattr(b, name)) for name in tables.SCHEMAS) and (
        json.dumps(dict(a.recipe)) == json.dumps(dict(b.recipe)))  # tuples are lists on disk


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing but what `serve` serves is fetched."""
    urlopen = fetch.urllib.request.urlopen

    def only_here(request, timeout):
        if not request.full_url.startswith('http://127.0.0.1'):
            raise OSError('no network in tests')
        return urlopen(request, timeout=timeout)

    monkeypatch.setattr(fetch.urllib.request, 'urlopen', only_here)
    monkeypatch.delenv('http_proxy', raising=False)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server of a small ml-100k.zip that the catalog takes for the published one."""
    publish(tmp_path / 'source')
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as packed:
        for name in FILES:
            packed.write(tmp_path / 'source' / name, f'ml-100k/{name}')
    with serve(Site(buffer.getvalue())) as site:
        found = dataclasses.replace(catalog.CATALOG['ml-100k'], downloads=(
            fetch.Download(f'{site.url}/ml-100k.zip', hashlib.md5(site.data).hexdigest()),))
        monkeypatch.setitem(catalog.CATALOG, 'ml-100k', found)
        yield site


@pytest.fixture
def pairs(monkeypatch):
    """A dataset "pairs" of two files that are published alone, one of them in several languages."""
    def reader(files, bad, *, language='en', stars=5):
        events = (part.events(user_id=part['user'], item_id=part['item']) for part in jsonlines.stream(
            files['pairs_{language}.json'], pa.schema([('user', pa.string()), ('item', pa.string())]), bad))
        titles = [row for _, row in jsonlines.objects(files['titles.json'], bad)]
        return Source(
            name='pairs', file=files['pairs_{language}.json'], interactions=events, users=nothing, bad=bad,
            items=lambda: [tables.table(tables.ITEMS, item_id=[row['item'] for row in titles],
                                        title=[row['title'] for row in titles])],
            rating_scale=(1.0, float(stars)), domain=MOVIES, licence='none')

    entry = Entry(reader, 'none', '', files=('pairs_{language}.json', 'titles.json'), downloads=(
        fetch.Download('https://x.invalid/pairs_{language}.json.gz'), fetch.Download('https://x.invalid/titles.json')))
    monkeypatch.setitem(catalog.CATALOG, 'pairs', entry)
    return entry


# ----------------------------------------------------------------------------------- simulated


def test_simulated_draws_the_world_of_its_options():
    dataset = catalog.load('simulated', seed=3, attributes_per_item=[1, 1], **TINY)
    world = simulated.World(seed=3, attributes_per_item=(1, 1), **TINY)
    assert same(dataset, simulated.simulate(world))
    assert dataset.licence == catalog.entry('simulated').licence


@pytest.mark.parametrize('options, message', [
    (dict(num_user=3), 'has no option "num_user". Did you mean "num_users"?'),
    (dict(colour=3), 'has no option "colour". Known: '),
    (dict(num_users='many'), "num_users='many': should be an integer"),
    (dict(attributes_per_item=[1]), 'attributes_per_item=[1]: should be two'),
    (dict(on_bad_row='skp'), 'on_bad_row="skp". Did you mean "skip"?')])
def test_simulated_refuses_unknown_options_and_wrong_types(options, message):
    with pytest.raises(UserError) as error:
        catalog.load('simulated', None, **options)
    assert message in str(error.value)


def test_simulated_does_not_take_a_mistyped_folder_for_none(tmp_path):
    with pytest.raises(UserError, match='holds no prepared dataset'):
        catalog.load('simulated', tmp_path / 'typo')


def test_simulated_is_filtered_too(tmp_path):
    whole = catalog.load('simulated', **TINY)
    dataset = catalog.load('simulated', filters=Filters(sample_users=2), out=tmp_path / 'x', **TINY)
    assert dataset.users.num_rows == 2 and whole.users.num_rows == 6
    chosen = set(dataset.users['user_id'].to_pylist())
    assert dataset.interactions.to_pylist() == [
        row for row in whole.interactions.to_pylist() if row['user_id'] in chosen]
    assert dataset.recipe['filters'] == 'sample_users=2'
    assert same(catalog.load('simulated', tmp_path / 'x'), dataset)


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
    assert same(below, here)
    assert below.recipe == {'whole': False, 'catalog': 'ml-100k', 'filters': 'none', 'rows_filtered': 0,
                            'rows_skipped': {}}


def test_one_missing_file_of_an_archive_is_named_and_nothing_is_fetched(tmp_path, site):
    (publish(tmp_path / 'x') / 'u.item').unlink()
    with pytest.raises(UserError, match='u.item: no such file, though .*/u.data is there; get http'):
        catalog.load('ml-100k', tmp_path / 'x')
    assert not site.requests


def test_a_file_as_folder_is_refused(tmp_path):
    (tmp_path / 'ml-100k.zip').write_bytes(b'x')
    with pytest.raises(UserError, match='is a file; data_dir is the folder that holds u.data'):
        catalog.load('ml-100k', tmp_path / 'ml-100k.zip')


def test_reading_writes_nothing_to_the_folder(tmp_path):
    publish(tmp_path / 'x')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    catalog.load('ml-100k', tmp_path / 'x', whole=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before


def test_what_is_streamed_to_a_folder_equals_what_is_read_to_memory(tmp_path):
    publish(tmp_path / 'x')
    streamed = catalog.load('ml-100k', tmp_path / 'x', out=tmp_path / 'out', whole=False)
    assert same(streamed, catalog.load('ml-100k', tmp_path / 'x', whole=False))
    assert same(streamed, catalog.load('ml-100k', tmp_path / 'out'))


def test_filters_and_bad_rows_reach_the_reader(tmp_path):
    with open(publish(tmp_path / 'x') / 'u.data', 'a') as file:
        file.write('2\t3\n')
    with pytest.raises(UserError, match=r'u\.data, line 4: has 2 fields'):
        catalog.load('ml-100k', tmp_path / 'x', whole=False)
    dataset = catalog.load('ml-100k', tmp_path / 'x', whole=False, on_bad_row='skip', filters=Filters(min_per_user=2))
    assert dataset.interactions['user_id'].to_pylist() == ['1', '1']
    assert dataset.recipe['rows_skipped'] == {'u.data': 1} and dataset.recipe['rows_filtered'] == 1


# ------------------------------------------------------------------------------------- archive


def test_the_archive_is_read_without_unpacking(tmp_path, site):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / 'ml-100k.zip').write_bytes(site.data)
    dataset = catalog.load('ml-100k', tmp_path / 'x', whole=False)
    assert same(dataset, catalog.load('ml-100k', tmp_path / 'source', whole=False))
    assert os.listdir(tmp_path / 'x') == ['ml-100k.zip']


def test_a_truncated_archive_is_refused(tmp_path, site):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / 'ml-100k.zip').write_bytes(site.data[:-50])
    with pytest.raises(UserError, match='ml-100k.zip: its md5 is .* truncated or not the original'):
        catalog.load('ml-100k', tmp_path / 'x')


def test_fetching_keeps_the_archive_for_the_next_time(tmp_path, site):
    for _ in range(2):
        assert catalog.load('ml-100k', tmp_path / 'new', whole=False).users.num_rows == 2
    assert len(site.requests) == 1
    assert os.listdir(tmp_path / 'new') == ['ml-100k.zip']


def test_a_wrong_download_is_not_kept(tmp_path, site):
    site.data = site.data[:-9]
    with pytest.raises(UserError, match='what came has md5 .* nothing was kept'):
        catalog.load('ml-100k', tmp_path / 'new')
    assert os.listdir(tmp_path / 'new') == []


def test_without_network_it_says_where_to_put_the_archive(tmp_path):
    with pytest.raises(UserError, match='cannot fetch https://.*no network in tests.*ml-100k.zip'):
        catalog.load('ml-100k', tmp_path / 'new')
    assert os.listdir(tmp_path / 'new') == []


def test_an_archive_without_the_files_is_told(tmp_path, site, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as packed:
        packed.writestr('ml-100k/u.data', FILES['u.data'])
    site.data = buffer.getvalue()
    entry = catalog.CATALOG['ml-100k']
    monkeypatch.setitem(catalog.CATALOG, 'ml-100k', dataclasses.replace(entry, downloads=(
        fetch.Download(f'{site.url}/ml-100k.zip'),)))
    with pytest.raises(UserError, match='new: holds no u.item, though all was fetched that should hold it: http'):
        catalog.load('ml-100k', tmp_path / 'new')


# ------------------------------------------------------------------------------- files fetched alone


LINES = b'{"user": "u", "item": "a"}\n{"user": "u", "item": "b"}\n'
TITLES = b'{"item": "a", "title": "A"}\n'


def test_every_download_is_fetched_by_the_options_of_the_reader(tmp_path, pairs, monkeypatch):
    asked = []

    def bring(download, folder):
        asked.append(download.url)
        folder.mkdir(exist_ok=True)
        if 'pairs' in download.name:
            (folder / download.name).write_bytes(gzip.compress(LINES))
        else:
            (folder / download.name).write_bytes(TITLES)

    monkeypatch.setattr(fetch, 'fetch', bring)
    dataset = catalog.load('pairs', tmp_path / 'x', language='fr')
    assert asked == ['https://x.invalid/pairs_fr.json.gz', 'https://x.invalid/titles.json']
    assert dataset.items['title'].to_pylist() == ['A', None] and dataset.recipe['language'] == 'fr'
    assert same(catalog.load('pairs', tmp_path / 'x', language='fr'), dataset) and len(asked) == 2
    asked.clear()
    catalog.load('pairs', tmp_path / 'x', language='en')  # beside what is there
    assert asked == ['https://x.invalid/pairs_en.json.gz']


def test_what_a_reader_can_do_without_is_fetched_first(tmp_path, pairs, monkeypatch):
    optional = dataclasses.replace(pairs, files=pairs.files[:1], optional=pairs.files[1:])
    monkeypatch.setitem(catalog.CATALOG, 'pairs', optional)
    asked, broken = [], ['titles.json', 'pairs_en.json.gz']

    def bring(download, folder):
        asked.append(download.name)
        if download.name in broken:
            broken.remove(download.name)
            raise UserError('the connection broke')
        (folder / download.name).write_bytes(TITLES if download.name == 'titles.json' else gzip.compress(LINES))

    monkeypatch.setattr(fetch, 'fetch', bring)
    for _ in range(2):
        with pytest.raises(UserError, match='broke'):
            catalog.load('pairs', tmp_path)
    assert catalog.load('pairs', tmp_path).items['title'].to_pylist() == ['A', None]
    assert asked == ['titles.json', 'titles.json', 'pairs_en.json.gz', 'pairs_en.json.gz']


def test_files_that_no_program_may_fetch_are_asked_of_a_person(tmp_path, pairs, monkeypatch):
    by_hand = dataclasses.replace(pairs, downloads=(), by_hand='get them at https://x.invalid after signing in')
    monkeypatch.setitem(catalog.CATALOG, 'pairs', by_hand)
    with pytest.raises(UserError, match=r'x: holds no pairs_en.json, titles.json; get them at https'):
        catalog.load('pairs', tmp_path / 'x')
    (tmp_path / 'titles.json').write_bytes(TITLES)
    with pytest.raises(UserError, match=r'holds no pairs_en.json; get them at https'):
        catalog.load('pairs', tmp_path)


# ------------------------------------------------------------------------------------ prepared


def test_a_prepared_folder_is_read_as_it_stands(tmp_path):
    dataset = catalog.load('ml-100k', publish(tmp_path / 'x'), whole=False)
    tables.write(dataset, tmp_path / 'prepared')
    assert same(catalog.load('ml-100k', tmp_path / 'prepared'), dataset)


def test_a_prepared_folder_of_another_dataset_is_refused(tmp_path, pairs):
    catalog.load('simulated', out=tmp_path / 'p', **TINY)
    with pytest.raises(UserError, match='is the prepared dataset "simulated", not "ml-100k"'):
        catalog.load('ml-100k', tmp_path / 'p')


def test_a_prepared_folder_goes_by_the_name_in_the_catalog(tmp_path, pairs, monkeypatch):
    (tmp_path / 'pairs_en.json').write_bytes(LINES)
    (tmp_path / 'titles.json').write_bytes(TITLES)
    monkeypatch.setitem(catalog.CATALOG, 'my-pairs', pairs)  # whose reader calls the dataset "pairs"
    dataset = catalog.load('my-pairs', tmp_path, out=tmp_path / 'out')
    assert same(catalog.load('my-pairs', tmp_path / 'out'), dataset)
    with pytest.raises(UserError, match='is the prepared dataset "my-pairs", not "pairs"'):
        catalog.load('pairs', tmp_path / 'out')


def test_options_may_repeat_but_not_contradict_a_prepared_folder(tmp_path):
    catalog.load('simulated', out=tmp_path / 'p', **TINY)
    again = catalog.load('simulated', tmp_path / 'p', num_users=6, attributes_per_item=(1, 2))
    assert again.users.num_rows == 6
    defaults = catalog.entry('simulated').options  # as a config gives them, all of them
    assert catalog.load('simulated', tmp_path / 'p', **defaults).users.num_rows == 6 != defaults['num_users']
    with pytest.raises(UserError, match='was prepared with num_users=6, not 7; give num_users=6 here too'):
        catalog.load('simulated', tmp_path / 'p', num_users=7)
    with pytest.raises(UserError, match='Did you mean "num_users"'):
        catalog.load('simulated', tmp_path / 'p', num_user=6)


def test_filters_may_repeat_but_not_contradict_a_prepared_folder(tmp_path):
    filters = Filters(sample_users=2, seed=1)
    dataset = catalog.load('ml-100k', publish(tmp_path / 'x'), whole=False, filters=filters, out=tmp_path / 'p')
    assert same(catalog.load('ml-100k', tmp_path / 'p', whole=False, filters=filters), dataset)
    assert same(catalog.load('ml-100k', tmp_path / 'p', filters=Filters(seed=9)), dataset)  # none
    with pytest.raises(UserError, match='with filters: sample_users=2, seed=1; not sample_users=2. Leave the filters'):
        catalog.load('ml-100k', tmp_path / 'p', filters=Filters(sample_users=2))
    catalog.load('simulated', out=tmp_path / 's', **TINY)
    with pytest.raises(UserError, match='was prepared with filters: none; not min_per_user=2'):
        catalog.load('simulated', tmp_path / 's', filters=Filters(min_per_user=2))


def test_a_damaged_prepared_folder_is_not_fetched_anew(tmp_path):
    catalog.load('simulated', out=tmp_path / 'p', **TINY)
    (tmp_path / 'p' / 'users.arrow').unlink()
    with pytest.raises(UserError, match='users.arrow: no such file'):
        catalog.load('simulated', tmp_path / 'p')


# ------------------------------------------------------------------------------------- the entries


@pytest.mark.parametrize('name', catalog.CATALOG)
def test_every_entry_says_what_a_user_must_know(name):
    entry = catalog.entry(name)
    assert entry.licence and '\n' not in entry.licence
    assert (entry.reader is None) == (entry.draw is not None) == (entry.world is not None)
    if entry.reader:  # a dataset of the user's own has neither address nor citation
        assert (entry.files or entry.place in entry.options) and (entry.downloads or entry.by_hand or entry.place)
        assert entry.citation or entry.licence.startswith('that of whoever gave the data')
    json.dumps(entry.options)  # goes on record, and into a config
    for text in (*entry.files, *entry.optional, *(download.url for download in entry.downloads)):
        text.format(**entry.options, **entry.words(**entry.options))
