"""`python -m xrec_jax.explain`: what is stored comes back in every form, what is not is named."""

import json

from absl import flags
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from bench.serve import make_workdir
from tests.runs.test_store import write
from xrec_jax import cli, explain
from xrec_jax.errors import UserError
from xrec_jax.runs.store import Store


@pytest.fixture
def run(monkeypatch):
    """run(*arguments): the command."""
    def run(*arguments):
        values = flags.FlagValues()
        monkeypatch.setattr(flags, 'FLAGS', values)
        explain.define_flags(values)
        explain.main(cli.parse_flags(['explain', *arguments]))
    return run


def test_one_pair_and_many_and_what_is_missing(run, tmp_path, capsys):
    write(tmp_path, '01-explain-a', [('u1', 'i1'), ('u2', 'i1')])
    (tmp_path / 'config.json').write_text('{"schedule": ["explain(a)"]}')
    run(f'--workdir={tmp_path}', '--user=u2', '--item=i1')
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row['kind'] for row in rows] == ['positive', 'negative']
    assert {row['user_id'] for row in rows} == {'u2'}
    (tmp_path / 'pairs.csv').write_text('item_id,user_id\ni1,u1\ni9,u1\ni1,u1\n')
    with pytest.raises(UserError) as error:
        run(f'--workdir={tmp_path}', f'--pairs={tmp_path / "pairs.csv"}', f'--out={tmp_path / "out.parquet"}')
    assert '1 of 2 pairs have no explanation' in str(error.value) and 'item "i9" for user "u1"' in str(error.value)
    assert 'They could not be written: ' in str(error.value) and 'without data' in str(error.value)
    assert pq.read_table(tmp_path / 'out.parquet')['text'].to_pylist() == ['01-explain-a positive u1 i1',
                                                                           '01-explain-a negative u1 i1']
    with pytest.raises(UserError, match='Without --nogenerate they are written'):
        run(f'--workdir={tmp_path}', '--user=u1', '--item=i9', '--nogenerate')


def test_what_a_run_recommends_comes_with_its_explanations(run, tmp_path, capsys):
    make_workdir(tmp_path / 'run', num_users=4, per_user=3, k=3)
    run(f'--workdir={tmp_path / "run"}', '--user=u3', '--top_k=2', f'--out={tmp_path / "out.csv"}')
    rows = pyarrow.csv.read_csv(tmp_path / 'out.csv').to_pylist()
    assert [(row['rank'], row['item_id'], row['title'], row['score']) for row in rows] == [
        (1, 'i0', 'Item i0', 1.0), (2, 'i1', 'Item i1', 0.5)]
    run(f'--workdir={tmp_path / "run"}', '--user=u3', '--top_k=1', '--format=card')
    assert '1. user u3 → Item i0 (i0), score 1.000' in capsys.readouterr().out


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
