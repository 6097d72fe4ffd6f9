"""`python -m xrec_jax.labelling`: a sheet is written, and what was saved is imported."""

import json
import os
import subprocess
import sys

from xrec_jax.data.instructions import read_instructions

CASE = {'instruction': 'Why?', 'answers': {'GPT4': 'Since.', 'ours': 'So.'}, 'dataset': 'films', 'index': 3}


def labelling(tmp_path, *flags):
    return subprocess.run([sys.executable, '-m', 'xrec_jax.labelling', *flags], cwd=tmp_path, text=True,
                          capture_output=True, env=os.environ | {'PYTHONPATH': ':'.join(path for path in sys.path if path)})


def test_from_cases_to_pairs(tmp_path):
    (tmp_path / 'cases.jsonl').write_text(json.dumps(CASE) + '\n')
    run = labelling(tmp_path, '--kind=pairs', '--cases=cases.jsonl', '--out=sheet.html', '--title=My <films>')
    assert run.returncode == 0, run.stderr
    assert '1 entries from 1 cases' in run.stdout and 'My &lt;films&gt;' in (tmp_path / 'sheet.html').read_text()
    key = json.loads((tmp_path / 'sheet.key.json').read_text())
    (entry, told), = key['entries'].items()
    order = list(told['answers'])
    (tmp_path / 'saved.json').write_text(json.dumps({
        'format': 1, 'sheet': key['sheet'], 'kind': 'pairs', 'rater': '', 'labels': [
            {'entry': entry, 'order': order, 'value': order[1]}]}))
    run = labelling(tmp_path, '--labels=saved.json', '--key=sheet.key.json', '--out=pairs.jsonl')
    assert '1 of 1 entries are labelled; 1 rows in pairs.jsonl' in run.stdout, run.stderr
    assert read_instructions(tmp_path / 'pairs.jsonl')[0].output == '2'


def test_bad_wishes_end_with_status_2(tmp_path):
    run = labelling(tmp_path, '--out=a.html')
    assert run.returncode == 2 and run.stderr.startswith('error: give --kind and --cases')
