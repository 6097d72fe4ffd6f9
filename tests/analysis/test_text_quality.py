"""Texts of a file, judged as a run's are."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec_jax.analysis import text_quality
from xrec_jax.errors import UserError


def test_columns_of_a_file_are_groups_with_their_reference(tmp_path):
    lines = [{'ours': 'Cheap drums.', 'theirs': 'Nice.', 'review': 'cheap drums', 'aspects': 'drums|sticks'},
             {'ours': 'Loud.', 'theirs': 'Nice.', 'review': None, 'aspects': ''}]
    (tmp_path / 'a.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    rows = text_quality.rows_of_file(text_quality.read_table(tmp_path / 'a.jsonl'), ['ours', 'theirs'], 'review', 'aspects')
    found = text_quality.run(rows, 'a.jsonl', 'none', tmp_path / 'out')
    assert found == json.loads((tmp_path / 'out' / 'texts.json').read_text())
    assert found['texts']['ours']['coverage'] == 0.5 and found['texts']['theirs']['coverage'] == 0
    assert found['texts']['ours']['rouge1'] == 1 and found['texts']['ours']['unique'] == 1
    assert found['texts']['theirs']['unique'] == 0.5 and found['scorer'] is None
    assert pq.read_table(tmp_path / 'out' / 'texts.parquet')['fluency'].null_count == 4


def test_lists_of_terms_and_the_first_rows():
    table = pa.table({'text': ['a drum', 'a stick'], 'terms': [['drum'], ['drum']]})
    rows = text_quality.rows_of_file(table, ['text'], terms='terms', most=1)
    assert rows['terms'].to_pylist() == [['drum']] and rows['reference'].null_count == 1


def test_bad_files_and_columns_are_named(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(UserError, match='a.jsonl, line 2: not valid JSON'):
        text_quality.read_table(tmp_path / 'a.jsonl')
    with pytest.raises(UserError, match='no column "txt".*Did you mean "text"'):
        text_quality.rows_of_file(pa.table({'text': ['a']}), ['txt'])
    with pytest.raises(UserError, match='should be the folder of a run'):
        text_quality.rows_of_run(tmp_path, ['icl'], ['test'], 3)
