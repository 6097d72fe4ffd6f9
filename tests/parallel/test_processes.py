"""Several real processes over loopback do what one does."""

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
# Argument of tests/phases/small.py, schedule, and settings of two short runs that write greedily: ExpCTR, whose processes
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


@pytest.fixture(scope='module', params=CASES)
def runs(request, tmp_path_factory):
    """Workdir and output of a run by one process and of one by two, whose parameters are split between them."""
    folder = tmp_path_factory.mktemp('processes')
    model = save_language_model(folder / 'model')
    argument, schedule, settings = CASES[request.param]
    made = {}
    for count, mesh in ((1, ()), (2, ('--config.mesh.data=1', '--config.mesh.fsdp=2'))):
        arguments = ['-m', 'xrec_jax.train', '--config', f'tests/phases/small.py:{argument.format(model)}',
                     f'--config.schedule={schedule}', *settings, '--config.generate.temperature=0.0',
                     '--workdir', str(folder / str(count)), *mesh]
        # What is compiled for one process serves another: the predictors, the encoder.
        cache = {'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
                 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
                 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}
        ended = processes.finish(processes.start(count, arguments, variables=cache))
        assert all(status == 0 for status, _, _ in ended), ended[-1][2]
        made[count] = folder / str(count), ended
    return made


def test_two_processes_have_the_losses_and_rewards_of_one(runs):
    one, two = (read_metrics(runs[count][0] / 'metrics.jsonl') for count in (1, 2))
    assert [(row['phase'], row['step']) for row in one] == [(row['phase'], row['step']) for row in two]
    for ours, theirs in zip(one, two):
        assert ours.keys() == theirs.keys()
        for name in repeatable(ours).keys() - {'phase', 'step'}:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-5,
                                       err_msg=f'{ours["phase"]} {ours["step"]} {name}')


def test_two_processes_write_the_explanations_of_one(runs):
    names = [path.name for path in sorted((runs[1][0] / 'explanations').iterdir())]
    assert names == [path.name for path in sorted((runs[2][0] / 'explanations').iterdir())] and len(names) == 2
    for name in names:
        one, two = (pq.read_table(runs[count][0] / 'explanations' / name) for count in (1, 2))
        rounded = ('llm_score', 'reward', 'vector')
        assert two.drop_columns(rounded).equals(one.drop_columns(rounded))
        for column in ('llm_score', 'reward'):
            ours, theirs = (table[column].to_pandas().to_numpy(float) for table in (one, two))
            np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_the_first_process_speaks_for_all(runs):
    (_, first, _), (_, second, _) = runs[2][1]
    assert '2 × cpu (cpu) in 2 processes' in first and re.search(r'0\d-align-\w+: 2 iterations', first)
    assert [line for line in second.splitlines() if line and not line.startswith('[Gloo]')] == []
    config = json.loads((runs[2][0] / 'config.json').read_text())
    assert config['mesh']['fsdp'] == 2
