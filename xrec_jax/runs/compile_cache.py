"""What JAX has compiled, kept on disk: the next run of the same shapes reads it instead of compiling it again."""

import hashlib
import os
import pathlib
import platform

import jax


def use() -> None:
    """Keeps compiled programs in `folder()`, unless JAX is told otherwise by the environment.

    JAX_COMPILATION_CACHE_DIR names another folder, and JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(folder()))


def folder() -> pathlib.Path:
    """Of the user, under XDG_CACHE_HOME or ~/.cache; one for each kind of processor: others' code may not run."""
    base = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    return base / 'xrec_jax' / 'compiled' / f'{platform.machine()}-{hashlib.sha256(_features()).hexdigest()[:8]}'


def _features() -> bytes:
    """What the processor can do, where the system tells."""
    cpuinfo = pathlib.Path('/proc/cpuinfo')
    lines = cpuinfo.read_bytes().splitlines() if cpuinfo.exists() else []
    told = (line for line in lines if line.lower().startswith((b'flags', b'features')))
    return next(told, platform.processor().encode())
