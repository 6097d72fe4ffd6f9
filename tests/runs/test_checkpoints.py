"""States of a phase on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, lora
from xrec_jax.language.config import DecoderConfig
from xrec_jax.parallel import mesh as meshes, sharding
from xrec_jax.rl import update
from xrec_jax.runs import checkpoints as on_disk
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


def test_reading_changes_nothing_even_where_a_state_is_damaged(tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        on_disk.read(tmp_path / 'c', state(0.0))
    with Checkpoints(tmp_path / 'c') as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(float(step)))
    before = sorted(tmp_path.rglob('*'))
    step, restored = on_disk.read(tmp_path / 'c', state(0.0))
    assert step == 2 and int(restored['step']) == 2 and sorted(tmp_path.rglob('*')) == before
    with pytest.raises(UserError, match='2 is damaged or of another version'):
        on_disk.read(tmp_path / 'c', {'other': jnp.zeros(3)})
    assert sorted(tmp_path.rglob('*')) == before


def test_a_state_goes_on_with_another_mesh(tmp_path):
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.P('data'))
    with Checkpoints(tmp_path / 'c') as checkpoints:
        checkpoints.save(1, {'w': jnp.arange(16.0)})
    with Checkpoints(tmp_path / 'c') as checkpoints:
        _, restored = checkpoints.restore({'w': jax.device_put(jnp.zeros(16), spread)})
    assert restored['w'].sharding == spread
    np.testing.assert_array_equal(restored['w'], np.arange(16.0))


def test_a_learner_goes_from_eight_devices_to_four_to_one(tmp_path):
    """Adapter, value head, optimizer state and a key, as `align` has them, each time where the new mesh wants them."""
    config = DecoderConfig(vocab_size=64, hidden_size=16, intermediate_size=48, num_layers=2, num_heads=4,
                           num_kv_heads=2, head_dim=4, max_position_embeddings=64)
    shapes = jax.eval_shape(lambda: lora.init_adapter(
        jax.random.key(0), decoder.init_params(jax.random.key(0), config), lora.LoraConfig(2)))
    adapter = jax.tree.map(lambda x: np.arange(x.size, dtype=np.float32).reshape(x.shape), shapes)
    optimizer = update.make_optimizer(update.UpdateConfig())

    def placed(value, sizes):
        mesh = meshes.make_mesh(dict(zip(meshes.AXES, sizes)), jax.devices()[:int(np.prod(sizes))])
        params = {'lora': jax.tree.map(lambda x: x + value, adapter), 'value_head': {'w': np.full(16, value, np.float32)}}
        learner = {'params': params, 'opt_state': optimizer.init(params), 'kl_coef': jnp.float32(value)}
        return sharding.place_learner(learner, decoder.abstract_params(config), mesh, config.units)

    first = placed(1.0, (2, 2, 2))
    with Checkpoints(tmp_path / 'c') as checkpoints:
        checkpoints.save(1, first)
    for step, sizes in enumerate([(1, 2, 2), (1, 1, 1)], 1):
        fresh = placed(0.0, sizes)
        with Checkpoints(tmp_path / 'c') as checkpoints:
            done, restored = checkpoints.restore(fresh)
            assert done == step
            checkpoints.save(step + 1, restored)
        for ours, like, expected in zip(*map(jax.tree.leaves, (restored, fresh, first)), strict=True):
            assert ours.sharding == like.sharding
            np.testing.assert_array_equal(ours, expected)


def damage(kind, folder):
    files = [path for path in folder.rglob('*') if path.is_file()]
    for path in files:
        content = path.read_bytes()
        if kind == 'gone' and path.parent.name == 'd':
            path.unlink()
        elif kind == 'cut off':
            path.write_bytes(content[:len(content) // 2])
        elif kind == 'empty':
            path.write_bytes(b'')
        elif kind == 'other bytes' and path.parent.name == 'd':
            half = len(content) // 2
            path.write_bytes(content[:half] + bytes([content[half] ^ 255]) + content[half + 1:])


@pytest.mark.parametrize('kind', ['gone', 'cut off', 'empty', 'other bytes'])
def test_a_damaged_state_is_put_aside_for_the_one_before(tmp_path, capsys, kind):
    with Checkpoints(tmp_path / 'c') as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(float(step)))
    damage(kind, tmp_path / 'c' / '2' / 'default')
    for _ in range(2):  # a second time as well
        with Checkpoints(tmp_path / 'c') as checkpoints:
            step, restored = checkpoints.restore(state(0.0))
            assert step == 1 and int(restored['step']) == 1
            checkpoints.save(2, state(2.0))
        assert 'is damaged or of another version' in capsys.readouterr().out
        with Checkpoints(tmp_path / 'c') as checkpoints:
            assert checkpoints.restore(state(0.0))[0] == 2
        damage('gone', tmp_path / 'c' / '2' / 'default')


def test_without_any_sound_state_a_phase_begins_anew(tmp_path, capsys):
    with Checkpoints(tmp_path / 'c') as checkpoints:
        checkpoints.save(1, state(1.0))
    damage('empty', tmp_path / 'c' / '1')
    with Checkpoints(tmp_path / 'c') as checkpoints:
        step, restored = checkpoints.restore(state(0.0))
    assert step == 0 and int(restored['step']) == 0 and 'warning' in capsys.readouterr().out
