"""Where compiled programs are kept."""

import jax
import pytest

from xrec_jax.runs import compile_cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
    yield tmp_path
    jax.config.update('jax_compilation_cache_dir', before)


def test_by_default_programs_are_kept_in_the_users_cache(home):
    compile_cache.use()
    assert jax.config.jax_compilation_cache_dir == str(compile_cache.folder())
    assert compile_cache.folder().is_relative_to(home / 'xrec_jax')


def test_the_environment_has_the_last_word(home, monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(home / 'mine'))  # which JAX reads itself, when imported
    before = jax.config.jax_compilation_cache_dir
    compile_cache.use()
    assert jax.config.jax_compilation_cache_dir == before


def test_processors_of_other_kinds_have_other_folders(home, monkeypatch):
    here = compile_cache.folder()
    monkeypatch.setattr(compile_cache, '_features', lambda: b'flags: abacus')
    assert compile_cache.folder() != here and compile_cache.folder().parent == here.parent


def test_tests_keep_nothing():
    assert not jax.config.jax_enable_compilation_cache
