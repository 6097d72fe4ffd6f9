"""The entry point as its user meets it: exit codes, messages, Ctrl-C."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.phases.small import save_language_model

ROOT = pathlib.Path(__file__).parents[1]
SMALL = pathlib.Path(__file__).parent / 'phases' / 'small.py'


def start(*arguments):
    # Where a shell started pytest in the background, it ignores SIGINT, and so would the process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    one_device = {'XLA_FLAGS': os.environ['XLA_FLAGS'].replace('device_count=8', 'device_count=1')}
    return subprocess.Popen([sys.executable, '-m', 'xrec_jax.train', *arguments], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | one_device)


@pytest.mark.parametrize('arguments, message', [  # as it parses, and as it loads; more: test_cli, test_schedule
    (['--config.align.kl_coeff=1'], 'unknown config key "align.kl_coeff". Did you mean "align.kl_coef"?'),
    (['--config.language.model=/no/such/model'], '/no/such/model/config.json does not exist'),
])
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    process = start('--config', 'configs/quickstart.py', '--workdir', str(tmp_path / 'run'), *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert message in errors and 'Traceback' not in errors


def test_ctrl_c_keeps_what_was_written_and_the_same_command_goes_on(tmp_path):
    model = save_language_model(tmp_path / 'model')
    command = ('--config', f'{SMALL}:{model}', '--workdir', str(tmp_path / 'run'))
    process = start(*command)
    rows = tmp_path / 'run' / 'metrics.jsonl'
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (rows.exists() and '03-align-lc' in rows.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and 'the same command goes on' in errors and 'Traceback' not in errors, errors
    explained = tmp_path / 'run' / 'explanations' / '01-explain-icl.parquet'
    written = explained.stat().st_mtime_ns

    process = start(*command)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert 'summary.json' in output and 'ExpCTR-LLM' in output
    assert explained.stat().st_mtime_ns == written
