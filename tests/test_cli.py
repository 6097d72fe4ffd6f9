"""Flags, config overrides and exit codes that every entry point shares."""

import os
import pathlib
import subprocess
import sys

from absl import flags
from ml_collections.config_flags import config_flags
import pytest

from xrec_jax import cli
from xrec_jax.errors import UserError, nearest

CONFIG = '''
from ml_collections import ConfigDict
def get_config(arg='tiny'):
    if arg not in ('tiny', 'large'):
        raise ValueError(f'no such size: {arg}')
    return ConfigDict(dict(seed=0, size=arg, align=dict(kl_coef=0.1, steps=10), fit=dict(epochs=3)))
'''


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """parse(*arguments) -> config, with flags of its own: --config, --workdir, --count."""
    values = flags.FlagValues()
    monkeypatch.setattr(flags, 'FLAGS', values)
    flags.DEFINE_string('workdir', None, '', required=True, flag_values=values)
    flags.DEFINE_integer('count', 1, '', flag_values=values)
    config_flags.DEFINE_config_file('config', None, '', flag_values=values)
    (tmp_path / 'config.py').write_text(CONFIG)

    def run(*arguments):
        argv = ['prog', *(a.replace('CONFIG', str(tmp_path / 'config.py')).replace('PLACE', str(tmp_path)) for a in arguments)]
        monkeypatch.setattr(sys, 'argv', argv)  # where ml_collections looks for overrides
        cli.parse_flags(argv)
        return values.config

    return run


def test_overrides_reach_the_config(parse):
    config = parse('--workdir=w', '--config=CONFIG:large', '--config.align.kl_coef=0.5',
                   '--config.seed', '7')
    assert (config.size, config.align.kl_coef, config.seed, config.align.steps) == (
        'large', 0.5, 7, 10)


@pytest.mark.parametrize('arguments, message', [
    (['--workdir=w', '--config=CONFIG', '--config.align.kl_coeff=1'],
     'unknown config key "align.kl_coeff". Did you mean "align.kl_coef"?'),
    (['--workdir=w', '--config=CONFIG', '--config.fit.kl_coef=1'], 'Did you mean "align.kl_coef"?'),
    (['--workdir=w', '--config=CONFIG', '--config.sed=1'], 'Did you mean "seed"?'),
    (['--workdir=w', '--config.seed=1'], '--config=FILE'),
    (['--workdir=w', '--config=CONFIG', '--config.align.steps=many'], 'many'),
    (['--workdir=w', '--config=/nowhere/config.py'], '/nowhere/config.py'),
    (['--workdir=w', '--config=CONFIG:huge'], 'no such size: huge'),
    (['--workdir=w', '--config=PLACE/confg.py:tiny'], 'confg.py. Did you mean "config"?'),
    (['--config=CONFIG'], '--workdir is required'),
    (['--workdi=w'], 'unknown flag --workdi. Did you mean "workdir"?'),
    (['--workdir=w', '--count=three'], '--count=three'),
    (['--workdir=w', 'stray'], 'unexpected argument "stray"'),
], ids=lambda x: x[-1] if isinstance(x, list) else None)
def test_bad_flags_are_user_errors_that_say_what_is_right(parse, arguments, message):
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert message in str(error.value) and 'Traceback' not in str(error.value)


PROGRAM = '''
import errno
from xrec_jax import cli
from xrec_jax.errors import UserError
def main(argv):
    print('some output')
    {body}
if __name__ == '__main__':
    cli.run(main)
'''


def run(tmp_path, body: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    (tmp_path / 'program.py').write_text(PROGRAM.format(body=body))
    root = str(pathlib.Path(__file__).parents[1])
    return subprocess.run([sys.executable, 'program.py', *arguments], cwd=tmp_path, timeout=60,
                          text=True, env=os.environ | {'PYTHONPATH': root},
                          **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE} | options)


@pytest.mark.parametrize('body, code, message', [
    ('pass', 0, ''),
    ('raise UserError("u.data, line 3: is [odd]")', 2, 'error: u.data, line 3: is [odd]\n'),
    ('raise KeyboardInterrupt', 130, 'interrupted; what was written is kept, the same command goes '
     'on from there\n'),
], ids=['done', 'user error', 'interrupt'])
def test_exit_codes_and_what_is_said(tmp_path, body, code, message):
    result = run(tmp_path, body)
    assert (result.returncode, result.stderr) == (code, message)
    assert result.stdout == 'some output\n'


@pytest.mark.parametrize('code', ['ENOSPC', 'EDQUOT'])
def test_full_disk_is_no_traceback(tmp_path, code):
    result = run(tmp_path, f'raise OSError(errno.{code}, "no room", "run/metrics.jsonl")')
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert result.stderr.startswith('error: the disk is full') and 'metrics.jsonl' in result.stderr


def test_output_to_a_full_disk_is_no_traceback(tmp_path):
    if not os.path.exists('/dev/full'):
        pytest.skip('needs /dev/full')
    with open('/dev/full', 'w') as full:
        result = run(tmp_path, 'import sys; sys.stdout.flush()', stdout=full)
    assert 'error: the disk is full' in result.stderr and 'Traceback' not in result.stderr
    assert result.returncode == 2


@pytest.mark.parametrize('body', ['1 / 0', 'raise OSError(errno.EIO, "odd")'])
def test_a_bug_of_ours_keeps_its_traceback(tmp_path, body):
    result = run(tmp_path, body)
    assert result.returncode == 1 and 'Traceback' in result.stderr


def test_nearest_suggests_or_lists():
    assert nearest('ml100k', ['ml-100k', 'simulated']) == ' Did you mean "ml-100k"?'
    assert nearest('zzz', ['b', 'a']) == ' Known: a, b.'
