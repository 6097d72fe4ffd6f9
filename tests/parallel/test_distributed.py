"""What the processes of a run are told, and what the parts of a batch are; real processes: test_processes.py."""

import jax
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.parallel import distributed, mesh as meshes


@pytest.fixture
def calls(monkeypatch):
    """How `jax.distributed.initialize` is called."""
    made = []

    def initialize(*args, shutdown_timeout_seconds, **settings):
        made.append((args, settings))

    monkeypatch.setattr(jax.distributed, 'initialize', initialize)
    return made


THREE = {'JAX_COORDINATOR_ADDRESS': 'host:1', 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '1'}


@pytest.mark.parametrize('environment, expected', [
    ({}, []),
    ({'XREC_DISTRIBUTED': 'off'} | THREE, []),
    (THREE, [(('host:1', 2, 1), {})]),
    ({'XREC_DISTRIBUTED': 'slurm'}, [((), {'cluster_detection_method': 'slurm'})]),
    ({'XREC_DISTRIBUTED': 'tpu'}, [((), {'cluster_detection_method': None})]),
    ({'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '1'}, []),  # a shell in a job is no run of many processes
])
def test_processes_join_only_where_the_environment_says_so(calls, environment, expected):
    distributed.initialize(environment)
    assert calls == expected


@pytest.mark.parametrize('environment, message', [
    ({'XREC_DISTRIBUTED': 'tpus'}, 'Did you mean "tpu"'),
    ({'JAX_NUM_PROCESSES': '2'}, 'JAX_NUM_PROCESSES given, but not all of'),
    (THREE | {'JAX_PROCESS_ID': '2'}, 'JAX_PROCESS_ID=2 should be from 0 to 1'),
    (THREE | {'JAX_NUM_PROCESSES': 'two'}, 'should be whole numbers'),
])
def test_a_half_told_environment_is_refused(calls, environment, message):
    with pytest.raises(UserError, match=message):
        distributed.initialize(environment)
    assert not calls


def test_one_process_has_all_rows():
    mesh = meshes.make_mesh({'data': 4, 'fsdp': 2})
    assert distributed.rows_here(mesh, 16).tolist() == list(range(16))
    placed = distributed.place_rows({'x': np.arange(16)}, mesh)
    assert placed['x'].sharding.shard_shape((16,)) == (2,)
    for found in (distributed.part_here(placed, mesh), distributed.whole(placed)):
        assert found['x'].tolist() == list(range(16))
    assert distributed.num_distinct(['a', 'b', 'a'], mesh) == 2
