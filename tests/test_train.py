"""The entry point as its user meets it: exit codes, messages, Ctrl-C."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from bench import preemption
from tests.phases.small import save_language_model

ROOT = pathlib.Path(__file__).parents[1]
SMALL = pathlib.Path(__file__).parent / 'phases' / 'small.py'


def start(*arguments, **variables):
    # Where a shell started pytest in the background, it ignores SIGINT, and so would the process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    one_device = {'XLA_FLAGS': os.environ['XLA_FLAGS'].replace('device_count=8', 'device_count=1')}
    return subprocess.Popen([sys.executable, '-m', 'xrec_jax.train', *arguments], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | one_device | variables)


@pytest.mark.parametrize('arguments, message', [  # as it parses, and as it loads; more: test_cli, test_schedule
    (['--config.align.kl_coeff=1'], 'unknown config key "align.kl_coeff". Did you mean "align.kl_coef"?'),
    (['--config.language.model=/no/such/model'], '/no/such/model/config.json does not exist'),
])
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    process = start('--config', 'configs/quickstart.py', '--workdir', str(tmp_path / 'run'), *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert message in errors and 'Traceback' not in errors


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    """The arguments of a small run but for its workdir, and the environment that its processes share."""
    folder = tmp_path_factory.mktemp('command')
    model = save_language_model(folder / 'model')
    cache = {'JAX_ENABLE_COMPILATION_CACHE': 'true', 'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
             'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}
    schedule = ('explain(icl)', 'fit(ids)', 'align(lc)')
    return ('--config', f'{SMALL}:{model}', f'--config.schedule={schedule}'), cache


@pytest.fixture(scope='module')
def unbroken(command, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'unbroken'
    arguments, cache = command
    output, errors = (process := start(*arguments, '--workdir', str(workdir), **cache)).communicate(timeout=300)
    assert process.returncode == 0, errors
    assert '03-align-lc: 4 iterations' in output
    return workdir


def stop_at(row, process, workdir, how):
    """Sends a signal when that row of metrics is there; exit status and what was said."""
    rows, deadline = workdir / 'metrics.jsonl', time.monotonic() + 120
    while time.monotonic() < deadline and not (rows.exists() and row in rows.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_run_that_is_stopped_in_three_ways_ends_with_the_bits_of_an_unbroken_one(command, unbroken, tmp_path):
    """A preemption, a power cut and Ctrl-C: tests/bench/test_preemption.py has many more."""
    (arguments, cache), workdir = command, tmp_path / 'run'
    again = lambda: start(*arguments, '--workdir', str(workdir), **cache)
    status, errors = stop_at('"02-fit-ids", "step": 1', again(), workdir, signal.SIGTERM)
    assert status == 0 and re.search(r'stopped as asked, after \d\d-\w+-\w+, step \d+; all is saved, the same command '
                                     'goes on', errors), errors
    status, _ = stop_at('"03-align-lc", "step": 1', again(), workdir, signal.SIGKILL)
    assert status == -signal.SIGKILL
    status, errors = stop_at('"03-align-lc", "step": 3', again(), workdir, signal.SIGINT)
    assert status == 130 and 'the same command goes on' in errors and 'Traceback' not in errors, errors
    explained = workdir / 'explanations' / '01-explain-icl.parquet'
    written = explained.stat().st_mtime_ns
    process = again()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert explained.stat().st_mtime_ns == written
    assert preemption.differences(preemption.figures(unbroken), preemption.figures(workdir)) == []
