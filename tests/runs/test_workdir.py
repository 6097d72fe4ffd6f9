"""One folder, one config: what is accepted and what is refused, by key."""

import pytest
from ml_collections import ConfigDict

from xrec_jax.errors import UserError
from xrec_jax.runs.workdir import open_workdir


def config(**changes):
    return ConfigDict({'seed': 0, 'schedule': ('fit(a)',), 'fit': {'rate': 0.1}} | changes)


def test_the_same_config_is_gone_on_with(tmp_path):
    first = open_workdir(str(tmp_path / 'run'), config())
    text = (first / 'config.json').read_text()
    assert open_workdir(str(tmp_path / 'run'), config()) == first
    assert (first / 'config.json').read_text() == text


def test_a_longer_schedule_is_gone_on_with(tmp_path):
    open_workdir(str(tmp_path / 'run'), config())
    path = open_workdir(str(tmp_path / 'run'), config(schedule=('fit(a)', 'fit(b)')))
    assert 'fit(b)' in (path / 'config.json').read_text()


def test_a_phase_that_was_run_after_another_past_is_not_taken_over(tmp_path):
    workdir = open_workdir(str(tmp_path / 'run'), config(schedule=('fit(a)', 'fit(b)', 'fit(c)')))
    (workdir / 'checkpoints' / '03-fit-c' / '5').mkdir(parents=True)
    with pytest.raises(UserError, match='differs from phase 2 on, and 03-fit-c was run'):
        open_workdir(str(workdir), config(schedule=('fit(a)', 'fit(x)', 'fit(c)')))
    open_workdir(str(workdir), config(schedule=('fit(a)', 'fit(b)', 'fit(c)', 'fit(d)')))


def test_another_config_is_refused_with_the_keys_and_changes_nothing(tmp_path):
    path = open_workdir(str(tmp_path / 'run'), config()) / 'config.json'
    before = path.read_bytes()
    with pytest.raises(UserError, match=r'fit\.rate: 0\.1 there, 0\.2 now'):
        open_workdir(str(tmp_path / 'run'), config(fit={'rate': 0.2}))
    with pytest.raises(UserError, match=r'fit\.size: \'absent\' there, 3 now'):
        open_workdir(str(tmp_path / 'run'), config(fit={'rate': 0.1, 'size': 3}))
    assert path.read_bytes() == before


def test_a_folder_of_something_else_and_a_file_are_refused(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(UserError, match='not a run'):
        open_workdir(str(tmp_path), config())
    with pytest.raises(UserError, match='is a file'):
        open_workdir(str(tmp_path / 'notes.txt'), config())
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


def test_a_damaged_config_is_named(tmp_path):
    path = open_workdir(str(tmp_path / 'run'), config()) / 'config.json'
    path.write_text('{"seed": 0,')
    with pytest.raises(UserError, match='config.json, line 1'):
        open_workdir(str(tmp_path / 'run'), config())
