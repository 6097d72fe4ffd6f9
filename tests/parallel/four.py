"""What each of four processes does for tests/parallel/test_processes.py: `python four.py FOLDER`."""

import pathlib
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np
import pyarrow as pa

from xrec_jax import cli
from xrec_jax.errors import UserError
from xrec_jax.parallel import distributed, mesh as meshes, sharding
from xrec_jax.runs import files
from xrec_jax.runs.checkpoints import Checkpoints
from xrec_jax.runs.parts import PartsWriter

SCHEMA = pa.schema([('row', pa.int32()), ('step', pa.int32())])


def main(folder: pathlib.Path) -> None:
    cli.join_processes()
    index = jax.process_index()
    assert (jax.process_count(), jax.device_count()) == (4, 4)
    meshes._slices = lambda devices: [devices[:2], devices[2:]]  # all CPUs say that they are of slice 0
    mesh = meshes.make_mesh({'dcn_data': 2, 'data': -1, 'fsdp': 2})
    assert mesh.shape['data'] == 2 and [[device.process_index for device in row.flat] for row in mesh.devices] == [
        [0, 1], [2, 3]]

    # A batch of eight rows, two of each process.
    here = distributed.rows_here(mesh, 8)
    assert here.tolist() == [2 * index, 2 * index + 1]
    batch = distributed.place_rows({'x': np.stack([here, 10 * here], axis=1)}, mesh)
    doubled = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree))(batch)
    assert distributed.part_here(doubled, mesh)['x'].tolist() == [[2 * row, 20 * row] for row in here]
    assert distributed.whole(doubled)['x'][:, 0].tolist() == list(range(0, 16, 2))
    assert distributed.largest(index) == 3 and distributed.any_of(index == 2) and not distributed.any_of(False)
    assert distributed.num_distinct(['same', f'own of {index}'], mesh) == 5

    # Process 0 goes first, and its refusal is everybody's.
    def write_or_read():
        if distributed.is_main():
            files.write_whole(folder / 'first', lambda path: path.write_text('written'))
        return (folder / 'first').read_text()

    assert distributed.main_first(write_or_read) == 'written'

    def refuse():
        raise UserError('no')

    try:
        distributed.main_first(refuse)
    except UserError as error:
        assert str(error) == ('no' if index == 0 else 'process 0 has refused to go on; it says why.')
    else:
        raise AssertionError('nothing was refused')

    # A table in parts, through a stop after the second step.
    writer = PartsWriter(folder / 'table.parquet', SCHEMA, split=True)
    for step in (1, 2, 3):
        writer.add(row=(here + 100 * step).astype(np.int32), step=step)
        if step < 3:
            writer.flush(step)
    writer = PartsWriter(folder / 'table.parquet', SCHEMA, split=True)
    assert writer.last_step == 2
    writer.rewind(1)
    for step in (2, 3):  # of both in one part
        writer.add(row=(here + 100 * step).astype(np.int32), step=step)
    writer.flush(3)
    assert not writer.finished
    table = files.read_table(writer.finish())
    assert table['row'].to_pylist() == [row + 100 * step for step in (1, 2, 3) for row in range(8)]

    # A state of which one leaf is split over all, one is everybody's own, and one is a key.
    split = NamedSharding(mesh, sharding.BATCH)
    state = lambda value: {'split': sharding.put(np.arange(8.0) + value, split), 'own': jnp.full(3, value),
                           'key': jax.random.key(int(value))}
    with Checkpoints(folder / 'checkpoints') as checkpoints:
        checkpoints.save(1, state(1.0))
        checkpoints.save(2, state(2.0))
    if distributed.is_main():
        for path in (folder / 'checkpoints' / '2').rglob('*'):
            if path.is_file():
                path.write_bytes(b'')
    distributed.barrier('damaged')
    with Checkpoints(folder / 'checkpoints') as checkpoints:
        step, restored = checkpoints.restore(state(0.0))
    assert step == 1 and restored['split'].sharding == split
    np.testing.assert_array_equal(distributed.whole(restored['split']), np.arange(8.0) + 1)
    assert restored['own'].is_fully_addressable and restored['own'].tolist() == [1.0] * 3
    assert jax.random.key_data(restored['key']).tolist() == jax.random.key_data(jax.random.key(1)).tolist()
    distributed.barrier('done')  # on a busy machine one may be minutes behind, and JAX waits less for them to leave


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
