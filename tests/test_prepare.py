"""The entry point as a person runs it: a process, its exit code, its words, and what it leaves."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.data.small import FILES, publish
from xrec_jax import prepare
from xrec_jax.data import catalog, tables
from xrec_jax.data.filters import Filters
from xrec_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
# Runs the entry point after a line of Python: no network, small files taken for whole, a full disk.
START = '''
import runpy, sys, urllib.request
def refuse(url, timeout): raise OSError('no network in tests')
urllib.request.urlopen = refuse
from xrec_jax.data.readers import movielens
{extra}
sys.argv[0] = 'prepare'
runpy.run_module('xrec_jax.prepare', run_name='__main__')
'''
SMALL = "movielens.ML_100K_LINES = {'u.data': 3, 'u.user': 2, 'u.item': 3}"
FULL_DISK = SMALL + '''
import errno, pyarrow as pa
def full(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')
pa.ipc.new_file = full
'''


def run(cwd: pathlib.Path, *flags: str, extra: str = SMALL) -> subprocess.CompletedProcess:
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': 'utf-8'}
    return subprocess.run([sys.executable, '-c', START.format(extra=extra), *flags], cwd=cwd,
                          env=environment, capture_output=True, text=True, timeout=60)


def refused(result: subprocess.CompletedProcess) -> str:
    """The one error line of a run that ended as bad input should."""
    assert result.returncode == 2, result.stderr
    assert 'Traceback' not in result.stderr
    assert re.fullmatch(r'(fetching .*\n)?error: .*\n', result.stderr), result.stderr
    return result.stderr


def names(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()}


PREPARED = {'dataset.json', 'interactions.arrow', 'items.arrow', 'users.arrow'}


def test_raw_files_become_tables_beside_and_never_inside_the_raw_folder(tmp_path):
    raw = publish(tmp_path / 'raw')
    result = run(tmp_path, '--dataset=ml-100k', f'--data_dir={raw}')
    assert result.returncode == 0, result.stderr
    assert names(raw) == set(FILES)
    out = tmp_path / 'data' / 'ml-100k.arrow'
    assert names(tmp_path / 'data') == {f'ml-100k.arrow/{name}' for name in PREPARED}
    assert tables.read(out).interactions.num_rows == 3
    assert catalog.load('ml-100k', out).users.num_rows == 2
    for line in (r'users +2', r'items +3', r'interactions +3', r'per user +1\.50 on average \(1 to 2\)',
                 r'per item +1\.00 on average \(1 to 1\)', r'density +50\.00%',
                 r'ratings +1: 33.3%  3: 33.3%  5: 33.3%',
                 r'time +1997-11-07 to 1998-04-04', r'licence +research use', r'please cite +F. M. Harper.*2827872',
                 r'written to +data/ml-100k.arrow'):
        assert re.search(line, result.stdout), line
    assert not result.stderr


def test_simulated_needs_no_raw_files(tmp_path):
    result = run(tmp_path, '--dataset', 'simulated', '--out', 'here/world', '--option', 'num_users=50',
                 '--option=num_interactions=500', '--option=attributes_per_item=1,1')
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == {f'here/world/{name}' for name in PREPARED}
    dataset = catalog.load('simulated', tmp_path / 'here' / 'world')
    assert (dataset.users.num_rows, dataset.interactions.num_rows) == (50, 500)
    assert dataset.recipe['attributes_per_item'] == [1, 1]


def test_filters_and_bad_rows_are_on_the_card(tmp_path):
    raw = publish(tmp_path / 'raw')
    with open(raw / 'u.data', 'a') as file:
        file.write('2\t3\n')
    result = run(tmp_path, '--dataset=ml-100k', f'--data_dir={raw}', '--on_bad_row=skip', '--filter', 'min_per_user=2',
                 '--filter', 'repeats=last', '--option', 'whole=false')
    assert result.returncode == 0, result.stderr
    assert re.search(r'filters +repeats=last, min_per_user=2 \(1 interactions left out\)', result.stdout)
    assert re.search(r'bad rows +1 of u.data passed over', result.stdout)
    assert catalog.load('ml-100k', tmp_path / 'data' / 'ml-100k.arrow', whole=False,
                        filters=Filters(repeats='last', min_per_user=2)).users['user_id'].to_pylist() == ['1']


def test_the_default_place_is_refused_where_it_would_be_inside_the_raw_folder(tmp_path):
    publish(tmp_path / 'data')
    message = refused(run(tmp_path, '--dataset=ml-100k', '--data_dir=data'))
    assert 'is inside it' in message and '--out=DIR' in message
    assert names(tmp_path) == {f'data/{name}' for name in FILES}


@pytest.mark.parametrize('change, message', [
    (lambda raw: (raw / 'u.user').unlink(), r'u\.user: no such file, though .*u\.data is there'),
    (lambda raw: (raw / 'u.data').write_text(FILES['u.data'][:-30]), r'u\.data, line 2: is cut off'),
    (lambda raw: (raw / 'u.data').write_text(FILES['u.data'].split('\n')[0] + '\n'),
     r'u\.data: has 1 lines where the published file has 3: it is truncated'),
    (lambda raw: (raw / 'u.data').write_text(FILES['u.data'] + '1 2 3 4\n'),
     r'u\.data, line 4: has 1 fields, should have 4'),
    (lambda raw: (raw / 'u.data').write_text(FILES['u.data'].replace('\t5\t', '\t9\t')),
     r'u\.data, line 1, column rating: "9" should be an integer from 1 to 5'),
], ids=['missing', 'cut', 'short', 'malformed', 'off the scale'])
def test_bad_files_are_told_in_a_line_and_the_earlier_dataset_stays(tmp_path, change, message):
    raw = publish(tmp_path / 'raw')
    out = tmp_path / 'data' / 'ml-100k.arrow'
    catalog.load('ml-100k', raw, whole=False, out=out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    change(raw)
    assert re.search(message, refused(run(tmp_path, '--dataset=ml-100k', f'--data_dir={raw}')))
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path / 'data') == ['ml-100k.arrow']


def test_full_disk_ends_with_2_and_keeps_the_earlier_dataset(tmp_path):
    raw = publish(tmp_path / 'raw')
    out = tmp_path / 'out'
    catalog.load('ml-100k', raw, whole=False, out=out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    flags = ('--dataset=ml-100k', f'--data_dir={raw}', '--out=out')
    assert 'writing out: the disk is full' in refused(run(tmp_path, *flags, extra=FULL_DISK))
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ['out', 'raw']  # no half-written folder is left


@pytest.mark.parametrize('flags, message', [
    (['--dataset=ml100k'], 'unknown dataset "ml100k". Did you mean "ml-100k"?'),
    (['--dataset=ml-100k'], 'give --data_dir=DIR'),
    (['--datset=ml-100k'], 'unknown flag --datset. Did you mean "dataset"?'),
    (['--dataset=ml-100k', '--data_dir=raw'], 'cannot fetch https://files.grouplens.org'),
    (['--dataset=simulated', '--option=num_user=5'], 'Did you mean "num_users"?'),
], ids=lambda x: ' '.join(x) if isinstance(x, list) else None)
def test_bad_flags_are_told_in_a_line(tmp_path, flags, message):
    assert message in refused(run(tmp_path, *flags))
    assert not names(tmp_path)  # nor anything of a fetch that failed


# ------------------------------------------------------------------------------ KEY=VALUE, in process


DEFAULTS = {'whole': True, 'count': 3, 'noise': 0.5, 'range': (1, 2), 'words': (), 'name': 'x'}


@pytest.mark.parametrize('pair, value', [
    ('whole=false', False), ('whole=True', True), ('count=-7', -7), ('noise=2', 2.0), ('noise=1e-3', 1e-3),
    ('range=3,4', (3, 4)), ('range=(3, 4)', (3, 4)), ('words=a,b c', ('a', 'b c')), ('words=', ()),
    ('name=a=b', 'a=b'), ('name=', ''), ('name=5', '5')])
def test_values_take_the_type_of_the_default(pair, value):
    found = prepare.settings('option', [pair], DEFAULTS, 'it')
    assert list(found.values()) == [value] and type(found[pair.split('=')[0]]) is type(value)


@pytest.mark.parametrize('pairs, message', [
    (['count'], '--option=count: should be KEY=VALUE'),
    (['cont=3'], '--option=cont=3: dataset "d" has no option "cont". Did you mean "count"?'),
    (['count=3', 'count=4'], '--option=count=4: count is given twice'),
    (['count=2.5'], '--option=count=2.5: count should be an integer, as 3'),
    (['noise=loud'], 'noise should be a number, as 0.5'),
    (['whole=1'], 'whole should be true or false, as True'),
    (['range=1,x'], 'range should be an integer, as (1, 2)'),
])
def test_settings_that_cannot_be_meant_are_refused(pairs, message):
    with pytest.raises(UserError) as error:
        prepare.settings('option', pairs, DEFAULTS, 'dataset "d"')
    assert message in str(error.value)
