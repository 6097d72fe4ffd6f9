"""The entry point as a person runs it: a process, its exit code, its words, and what it leaves."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.data.readers.test_movielens import FILES, publish
from xrec_jax.data import catalog, tables

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


def prepare(cwd: pathlib.Path, *flags: str, extra: str = SMALL) -> subprocess.CompletedProcess:
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': 'utf-8'}
    if sys.dont_write_bytecode:  # pyarrow imports pandas, which then takes seconds each time
        cache = str(cwd.parent / 'bytecode')  # of this session of pytest
        environment |= {'PYTHONDONTWRITEBYTECODE': '', 'PYTHONPYCACHEPREFIX': cache}
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
    result = prepare(tmp_path, '--dataset=ml-100k', f'--data_dir={raw}')
    assert result.returncode == 0, result.stderr
    assert names(raw) == set(FILES)
    out = tmp_path / 'data' / 'ml-100k.arrow'
    assert names(tmp_path / 'data') == {f'ml-100k.arrow/{name}' for name in PREPARED}
    assert tables.read(out).interactions.num_rows == 3
    assert catalog.load('ml-100k', out).users.num_rows == 2
    for line in (r'users +2', r'ratings +1: 33.3%  3: 33.3%  5: 33.3%', r'licence +research use',
                 r'please cite +F. M. Harper.*2827872', r'written to +data/ml-100k.arrow'):
        assert re.search(line, result.stdout), line


def test_simulated_needs_no_raw_files(tmp_path):
    result = prepare(tmp_path, '--dataset', 'simulated', '--out', 'here/world')
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == {f'here/world/{name}' for name in PREPARED}
    assert catalog.load('simulated', tmp_path / 'here' / 'world').interactions.num_rows == 10_000


def test_the_default_place_is_refused_where_it_would_be_inside_the_raw_folder(tmp_path):
    publish(tmp_path / 'data')
    message = refused(prepare(tmp_path, '--dataset=ml-100k', '--data_dir=data'))
    assert 'is inside it' in message and '--out=DIR' in message
    assert names(tmp_path) == {f'data/{name}' for name in FILES}


@pytest.mark.parametrize('change, message', [
    (lambda raw: (raw / 'u.user').unlink(), r'u\.user: no such file, though u\.data is there'),
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
    out = tables.write(catalog.load('ml-100k', raw, whole=False), tmp_path / 'data' / 'ml-100k.arrow')
    before = {path: path.read_bytes() for path in out.iterdir()}
    change(raw)
    assert re.search(message, refused(prepare(tmp_path, '--dataset=ml-100k', f'--data_dir={raw}')))
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_full_disk_ends_with_2_and_keeps_the_earlier_dataset(tmp_path):
    raw = publish(tmp_path / 'raw')
    out = tables.write(catalog.load('ml-100k', raw, whole=False), tmp_path / 'out')
    before = {path: path.read_bytes() for path in out.iterdir()}
    flags = ('--dataset=ml-100k', f'--data_dir={raw}', '--out=out')
    assert 'writing out: the disk is full' in refused(prepare(tmp_path, *flags, extra=FULL_DISK))
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ['out', 'raw']  # no half-written folder is left


@pytest.mark.parametrize('flags, message', [
    (['--dataset=ml100k'], 'unknown dataset "ml100k". Did you mean "ml-100k"?'),
    (['--dataset=ml-100k'], 'give --data_dir=DIR'),
    (['--datset=ml-100k'], 'unknown flag --datset. Did you mean "dataset"?'),
    (['--dataset=ml-100k', '--data_dir=raw'], 'cannot fetch https://files.grouplens.org'),
], ids=lambda x: ' '.join(x) if isinstance(x, list) else None)
def test_bad_flags_are_told_in_a_line(tmp_path, flags, message):
    assert message in refused(prepare(tmp_path, *flags))
    assert not names(tmp_path)  # nor anything of a fetch that failed
