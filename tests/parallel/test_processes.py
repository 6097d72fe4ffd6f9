"""Several real processes over loopback do what one does."""

import functools
import json
import pathlib
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.parallel import processes
from tests.phases.small import save_language_model
from xrec_jax.runs.metrics_writer import read_metrics, repeatable

HERE = pathlib.Path(__file__).parent
# Argument of tests/phases/small.py, schedule, settings of two short runs that write greedily: ExpCTR, whose processes
# share out the texts, and RecPIE with soft prompts, whose texts all of them have, since a reward looks at two.
CASES = {
    'expctr': ('{}', ('fit(ids)', 'align(lc)', 'explain(final)'),
               ('--config.lc.iterations=2', '--config.fit.training.epochs=2')),
    'recpie': ('recpie,{}', ('explain(frozen)', 'fit(on_frozen)', 'align(first)'),
               ('--config.soft_prompt.tokens=2', '--config.soft_prompt.tune_embeddings=True')),
}


def test_four_processes_share_batches_tables_and_checkpoints(tmp_path):
    for status, _, errors in processes.finish(processes.start(4, [str(HERE / 'four.py'), str(tmp_path)])):
        assert status == 0, errors


MESHES = {count: (f'--config.mesh.data={data}', f'--config.mesh.fsdp={count // data}')
          for count, data in ((1, 1), (2, 1), (4, 2))}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """run(case, count): workdir and ends of a run by `count` processes, which split parameters between them."""
    folder = tmp_path_factory.mktemp('processes')
    model = save_language_model(folder / 'model')
    # What is compiled for one process serves another: the predictors, the encoder.
    cache = {'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
             'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}

    @functools.cache
    def made(case, count):
        argument, schedule, settings = CASES[case]
        workdir = folder / f'{case}-{count}'
        ended = processes.finish(processes.start(count, [
            '-m', 'xrec_jax.train', '--config', f'tests/phases/small.py:{argument.format(model)}',
            f'--config.schedule={schedule}', *settings, '--config.generate.temperature=0.0',
            '--workdir', str(workdir), *MESHES[count]], variables=cache))
        assert all(status == 0 for status, _, _ in ended), ended[-1][2]
        return workdir, ended

    return made


@pytest.fixture(scope='module', params=[('expctr', 4), ('recpie', 2)],
                ids=lambda case: '-'.join(map(str, case)))
def runs(run, request):
    """Workdir and ends of a run by one process, and of one by several."""
    case, count = request.param
    return run(case, 1), run(case, count)


def test_several_processes_have_the_losses_and_rewards_of_one(runs):
    one, several = (read_metrics(workdir / 'metrics.jsonl') for workdir, _ in runs)
    assert [(row['phase'], row['step']) for row in one] == [(row['phase'], row['step']) for row in several]
    for ours, theirs in zip(one, several):
        assert ours.keys() == theirs.keys()
        for name in repeatable(ours).keys() - {'phase', 'step'}:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-5,
                                       err_msg=f'{ours["phase"]} {ours["step"]} {name}')


def test_several_processes_write_the_explanations_of_one(runs):
    folders = [workdir / 'explanations' for workdir, _ in runs]
    names, others = (sorted(path.name for path in folder.iterdir()) for folder in folders)
    assert names == others and len(names) == 2
    for name in names:
        one, several = (pq.read_table(folder / name) for folder in folders)
        rounded = ('llm_score', 'reward', 'vector')
        assert several.drop_columns(rounded).equals(one.drop_columns(rounded))
        for column in ('llm_score', 'reward'):
            ours, theirs = (table[column].to_pandas().to_numpy(float) for table in (one, several))
            np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_the_first_process_speaks_for_all(runs):
    _, (workdir, ended) = runs
    (_, first, _), *others = ended
    assert f'{len(ended)} × cpu (cpu) in {len(ended)} processes' in first
    assert re.search(r'0\d-align-\w+: 2 iterations', first)
    for _, output, _ in others:
        assert [line for line in output.splitlines() if line and not line.startswith('[Gloo]')] == []
    config = json.loads((workdir / 'config.json').read_text())
    assert config['mesh']['fsdp'] == 2
