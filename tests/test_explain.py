"""`python -m xrec_jax.explain`: what is stored comes back in every form, what is not is named."""

import json
import subprocess
import sys

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.runs.test_store import write
from xrec_jax import explain
from xrec_jax.errors import UserError
from xrec_jax.runs.store import Store


def run(*arguments):
    return subprocess.run([sys.executable, '-m', 'xrec_jax.explain', *arguments], capture_output=True, text=True)


def test_one_pair_and_many_and_what_is_missing(tmp_path):
    write(tmp_path, '01-explain-a', [('u1', 'i1'), ('u2', 'i1')])
    (tmp_path / 'config.json').write_text('{"schedule": ["explain(a)"]}')
    one = run(f'--workdir={tmp_path}', '--user=u2', '--item=i1')
    rows = [json.loads(line) for line in one.stdout.splitlines()]
    assert one.returncode == 0 and [row['kind'] for row in rows] == ['positive', 'negative']
    assert {row['user_id'] for row in rows} == {'u2'}
    (tmp_path / 'pairs.csv').write_text('item_id,user_id\ni1,u1\ni9,u1\ni1,u1\n')
    many = run(f'--workdir={tmp_path}', f'--pairs={tmp_path / "pairs.csv"}', f'--out={tmp_path / "out.parquet"}')
    assert many.returncode == 2 and '1 of 2 pairs have no explanation' in many.stderr
    assert 'item "i9" for user "u1"' in many.stderr and 'Traceback' not in many.stderr
    assert 'They could not be written: ' in many.stderr and 'without data' in many.stderr
    assert pq.read_table(tmp_path / 'out.parquet')['text'].to_pylist() == ['01-explain-a positive u1 i1',
                                                                           '01-explain-a negative u1 i1']


@pytest.mark.parametrize('suffix', explain.FORMATS)
def test_every_form_holds_all_columns(suffix, tmp_path):
    write(tmp_path, '01-explain-a', [('u1', 'i1')])
    store = Store(tmp_path)
    rows = store.find('u1', 'i1')
    path = tmp_path / f'out{suffix}'
    explain.write(explain.pa.Table.from_pylist(rows, schema=store.table.schema), rows, path, suffix)
    back = {'.jsonl': lambda: [json.loads(line) for line in path.read_text().splitlines()],
            '.parquet': lambda: pq.read_table(path).to_pylist(),
            '.csv': lambda: pyarrow.csv.read_csv(path).to_pylist()}[suffix]()
    assert [row['text'] for row in back] == [row['text'] for row in rows] and back[0].keys() == rows[0].keys()


@pytest.mark.parametrize('text, message', [
    ('user,item\n1,2\n', 'line 1: has no column user_id; its columns: user, item'),
    ('user_id,item_id\n1,2,3\n', 'line 2: has 3 columns, the first line 2'),
    ('user_id,item_id\n', 'has no line below the first'),
])
def test_bad_files_of_pairs_are_refused(text, message, tmp_path):
    path = tmp_path / 'pairs.csv'
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        explain.read_pairs(path)


@pytest.mark.parametrize('asked, message', [
    ((None, None, None), '--user=ID'), (('u', None, None), '--item=ID'), (('u', None, 'p.csv'), 'give one of them'),
    ((None, None, 'p.csv'), 'no such file'), (('u', 'i', None, 3), 'and no --item'), ((None, None, None, 3), '--user=ID'),
    ((None, None, 'p.csv', 3), 'give one of them')])
def test_arguments_that_name_no_pair_are_refused(asked, message):
    with pytest.raises(UserError, match=message):
        explain.asked(*asked)
