"""Killing a run at random moments: does it end with the bits of an unbroken one?

    python bench/preemption.py [--rounds 20] [--seed 0] [--workdir DIR]      # some fifteen minutes on one core

With --workdir a bench that was stopped goes on with the round it was in.

The first half of ExpCTR (all verbs but `tune`; a random LLaMA of two layers, four phases and the judge:
tests/phases/small.py) is run once unbroken, then `--rounds` times so: in each of its phases in turn it is killed
(SIGKILL) at a moment drawn evenly over the phase, and the same command goes on. Every round is killed once in every
phase, and its end compared with the unbroken run: all rows of metrics.jsonl but times, all tables of explanations,
summary.json, and the last checkpoint of every phase, bit for bit. Prints a JSON line a round: `killed_in`, the phases in
which the kills fell (one that comes a moment late falls into the next); `differs`, what is not the same (empty:
nothing); `seconds` of the round. Exit status 1 if anything was. Programs are compiled once, into a cache that all runs
share, and the processes are forked from one that has imported the packages.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import re
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from xrec_jax.runs.metrics_writer import repeatable  # noqa: E402

PHASE = re.compile(r'^(\d\d-\w+-\w+): ', re.M)


# A child begins with what the server of forks has imported, which takes as long as all that a child does.
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['xrec_jax.cli', 'xrec_jax.phases.schedule', 'xrec_jax.runs.watch',
                              'xrec_jax.language.stories', 'pandas', 'transformers.models.llama',
                              'transformers.models.auto.tokenization_auto'])


def _train(arguments: Sequence[str], log: pathlib.Path) -> None:
    """`python -m xrec_jax.train ARGUMENTS`, its output into a file."""
    with log.open('w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    sys.argv[1:] = arguments
    runpy.run_module('xrec_jax.train', run_name='__main__', alter_sys=True)


class Run:
    """One process of the program, whose output goes to a file."""

    def __init__(self, arguments: Sequence[str], log: pathlib.Path):
        self.log = log
        log.write_text('')
        self.process = FORKS.Process(target=_train, args=(arguments, log))
        self.process.start()

    @property
    def done(self) -> list[str]:
        """The phases that have told of their end."""
        return list(dict.fromkeys(PHASE.findall(self.log.read_text())))

    def wait_for(self, phase: str | None, seconds: float = 600) -> None:
        """Until `phase` is done, or the data is read (None), or the process has ended."""
        until = time.monotonic() + seconds
        while self.process.is_alive() and not (phase in self.done if phase else self.log.stat().st_size):
            if time.monotonic() > until:
                raise TimeoutError(f'{phase} after {seconds} s: {self.log.read_text()}')
            time.sleep(0.01)

    def work_for(self, seconds: float, phase: str) -> float:
        """Until so much time has gone by, or `phase` or the process has ended; returns what has gone by."""
        start = time.monotonic()
        while (passed := time.monotonic() - start) < seconds and self.process.is_alive() and phase not in self.done:
            time.sleep(0.01)
        return passed

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def phase_seconds(arguments: Sequence[str], log: pathlib.Path) -> dict[str, float]:
    """Runs to the end; how long each phase took, by the moments at which they told of their end."""
    run, seconds, last = Run(arguments, log), {}, None
    run.wait_for(None)
    last = time.monotonic()
    while run.process.is_alive():
        for phase in run.done:
            if phase not in seconds:
                seconds[phase], last = time.monotonic() - last, time.monotonic()
        time.sleep(0.01)
    if run.process.exitcode:
        raise RuntimeError(log.read_text())
    return seconds


def figures(workdir: pathlib.Path) -> dict[str, Any]:
    """What a run leaves that must not depend on how often it was stopped, by name."""
    found = {}
    for line in (workdir / 'metrics.jsonl').read_text().splitlines():
        row = json.loads(line)
        found[f'metrics {row["phase"]} {row["step"]}'] = json.dumps(repeatable(row))
    for path in sorted((workdir / 'explanations').glob('*.parquet')):
        found[f'explanations {path.stem}'] = pq.read_table(path)
    if (workdir / 'summary.json').exists():
        summary = json.loads((workdir / 'summary.json').read_text())
        found['summary'] = json.dumps({key: value for key, value in summary.items()
                                       if key not in ('seconds', 'finished')})
    for folder in sorted((workdir / 'checkpoints').iterdir()):
        found[f'checkpoint {folder.name}'] = _last_state(folder)
    return found


def _last_state(folder: pathlib.Path) -> dict[str, tuple]:
    """Step, and the bytes of every array of the newest checkpoint of a phase."""
    import jax  # here, so that the process that kills does not start a backend before it has to
    import orbax.checkpoint as ocp
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    state = ocp.StandardCheckpointer().restore((folder / str(step) / 'default').absolute())
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaves[jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return {'step': step} | leaves


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same, bit for bit."""
    same = lambda a, b: a.equals(b) if hasattr(a, 'equals') and hasattr(b, 'equals') else a == b
    return [name for name in sorted({*one, *other}) if name not in one or name not in other
            or not same(one[name], other[name])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workdir', type=pathlib.Path, default=None)
    options = parser.parse_args()
    folder = options.workdir or pathlib.Path(tempfile.mkdtemp(prefix='preemption-'))
    folder.mkdir(parents=True, exist_ok=True)
    environment = {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_backend_optimization_level=0',
                   'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
                   'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
                   'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}
    os.environ |= environment  # before the server of forks is started, which hands it on
    from tests.phases.small import save_language_model
    model = folder / 'model'
    if not model.exists():
        save_language_model(model)
    arguments = lambda name: ['--config', f'tests/phases/small.py:{model}', '--workdir', str(folder / name)]

    if not (folder / 'seconds.json').exists():
        phase_seconds(arguments('compiling'), folder / 'compiling.log')
        seconds = phase_seconds(arguments('unbroken'), folder / 'unbroken.log')
        (folder / 'seconds.json').write_text(json.dumps(seconds))
    seconds = json.loads((folder / 'seconds.json').read_text())
    unbroken, failed = figures(folder / 'unbroken'), 0
    print(json.dumps({'seconds': {name: round(value, 2) for name, value in seconds.items()}}), flush=True)
    phases = [None, *seconds]
    done = sum(1 for _ in folder.glob('round-*.json'))
    for number in range(done, options.rounds):
        killed_in, random, start = [], np.random.default_rng((options.seed, number)), time.monotonic()
        shutil.rmtree(folder / f'round-{number}', ignore_errors=True)  # of a bench that was stopped
        for before, phase in zip(phases, phases[1:]):
            run = Run(arguments(f'round-{number}'), folder / 'round.log')
            run.wait_for(before)
            passed = run.work_for(random.uniform(0, seconds[phase]), phase)
            if phase in run.done:
                # Less load on the machine than before; or hardly anything was left of the phase, hence by half at most.
                seconds[phase] = max(passed, seconds[phase] / 2)
            if run.process.is_alive():
                done = run.done
                killed_in.append((phases + ['end'])[phases.index(done[-1]) + 1] if done else phases[1])
                run.kill()
        phase_seconds(arguments(f'round-{number}'), folder / 'round.log')
        differs = differences(unbroken, figures(folder / f'round-{number}'))
        failed += bool(differs)
        line = json.dumps({'round': number, 'killed_in': killed_in, 'differs': differs,
                           'seconds': round(time.monotonic() - start, 1)})
        (folder / f'round-{number}.json').write_text(line)
        print(line, flush=True)
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
