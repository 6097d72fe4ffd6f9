"""States of a phase on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.runs.checkpoints import Checkpoints


def state(value):
    return {'params': {'w': jnp.full((8, 2), value)}, 'key': jax.random.key(int(value)), 'step': jnp.int32(value)}


def test_the_newest_state_comes_back_whole(tmp_path):
    with Checkpoints(tmp_path / 'c') as checkpoints:
        assert checkpoints.restore(state(0.0))[0] == 0
        for step in (1, 2, 3):
            checkpoints.save(step, state(float(step)))
    with Checkpoints(tmp_path / 'c') as checkpoints:
        step, restored = checkpoints.restore(state(0.0))
    assert step == 3 and int(restored['step']) == 3
    np.testing.assert_array_equal(restored['params']['w'], np.full((8, 2), 3.0))
    assert jax.random.key_data(restored['key']).tolist() == jax.random.key_data(jax.random.key(3)).tolist()


def test_a_state_goes_on_with_another_mesh(tmp_path):
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.P('data'))
    with Checkpoints(tmp_path / 'c') as checkpoints:
        checkpoints.save(1, {'w': jnp.arange(16.0)})
    with Checkpoints(tmp_path / 'c') as checkpoints:
        _, restored = checkpoints.restore({'w': jax.device_put(jnp.zeros(16), spread)})
    assert restored['w'].sharding == spread
    np.testing.assert_array_equal(restored['w'], np.arange(16.0))


def test_a_damaged_state_is_named(tmp_path):
    with Checkpoints(tmp_path / 'c') as checkpoints:
        checkpoints.save(1, state(1.0))
    for path in (tmp_path / 'c' / '1' / 'default').rglob('*'):
        if path.is_file() and path.parent.name == 'd':
            path.unlink()
    with Checkpoints(tmp_path / 'c') as checkpoints:
        with pytest.raises(UserError, match='damaged'):
            checkpoints.restore(state(0.0))
