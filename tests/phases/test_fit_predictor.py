"""`fit` of a predictor on a mesh: where its tables lie, and what comes out."""

import types

import jax
import numpy as np
import pytest

from configs import expctr
from tests.recommenders.test_training import FIELDS, TRAIN, VALID
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import fit_predictor
from xrec_jax.phases.settings import settings_of


@pytest.mark.parametrize('seeds', [1, 2])
def test_a_network_that_is_gone_on_with_is_split_and_comes_back_whole(seeds):
    config = expctr.get_config('simulated')
    settings = settings_of(config, 'fit', 'ids')
    settings.model.update({'embed_dim': 4, 'mlp': (8,)})
    task = types.SimpleNamespace(fields=FIELDS, mesh=meshes.make_mesh({'data': 2, 'fsdp': 4}), kinds=('reason',))
    prepare = lambda start: fit_predictor.Training(task, settings, (TRAIN, VALID, start))
    fresh = prepare(None)
    keys = jax.random.key(0) if seeds == 1 else jax.random.split(jax.random.key(0), seeds)
    drawn = fresh.init(keys)
    table = drawn.params['embedding']
    assert table.shape[:-2] == (() if seeds == 1 else (seeds,))
    assert {shard.data.shape[-2] for shard in table.addressable_shards} == {FIELDS.vocab_size // 4}
    found = fresh.result(drawn)
    start = jax.tree.map(lambda leaf: leaf + 1, found)
    again = prepare(start).init(keys)
    assert again.params['embedding'].sharding == table.sharding == again.best_params['embedding'].sharding
    jax.tree.map(np.testing.assert_array_equal, prepare(start).result(again), start)
    assert all(leaf.sharding.device_set == {jax.devices()[0]} for leaf in jax.tree.leaves(found))
