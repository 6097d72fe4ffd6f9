"""Embedding tables too large for one device: what a step and a list cost, and what lies where.

    python bench/sharded_tables.py [--rows 100000 1000000]      # minutes on two cores, 4 GiB

BPR-MF with as many users as items, 64 dimensions in bfloat16, on eight fake devices (`fsdp`): bytes of the state on a
device as computed from shapes and as found, further bytes of a step and of a block of 16 users as XLA plans them,
seconds of both; and how many arrays of a compiled program are as large as a whole table, or as the scores of the block.
Prints a line of JSON for each number of rows, and a table.
"""

import argparse
import collections
from collections.abc import Callable
import dataclasses
import functools
import math
import pathlib
import re
import statistics
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from flax import linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from bench import sides  # noqa: E402
from xrec_jax.data import protocols  # noqa: E402
from xrec_jax.parallel import mesh as meshes, sharding  # noqa: E402
from xrec_jax.recommenders import ranking  # noqa: E402
from xrec_jax.recommenders.mf import BPRMF  # noqa: E402

DEVICES = 8
BATCH_SIZE = 2048
COLUMNS = (f'MB on each of {DEVICES} devices', 'state', 'found', '+ a step', '+ a block', 'whole tables', 'whole scores',
           's init', 's a step', 's a block')


def measure(rows: int, dim: int = 64, interactions: int = 5_000_000, steps: int = 4) -> dict:
    """Users and items `rows` each: state in parts from the start, a few steps, a block of users; all by `fsdp`."""
    mesh = meshes.make_mesh({'fsdp': -1})
    model = BPRMF(rows, rows, dim, dtype=jnp.bfloat16)
    loss, config = ranking.pairwise(model), ranking.RankingConfig(batch_size=BATCH_SIZE)
    data, queries = ranking.make_data(model, drawn(rows, interactions), rows, rows, mesh=mesh)
    # All interactions are known to the negatives; only some are targets, as an epoch of all takes an hour.
    few = jax.tree.map(lambda x: x[:steps * BATCH_SIZE], data.targets)
    data, queries = sharding.replicate((dataclasses.replace(data, targets=few), queries), mesh)
    block = queries['test']

    abstract = ranking.abstract_state(model, data)
    shardings = sharding.param_shardings(abstract, mesh)
    computed = sum(jax.tree.leaves(jax.tree.map(
        lambda x, place: math.prod(place.shard_shape(x.shape)) * itemsize(x), nn.unbox(abstract), shardings)))
    start = time.perf_counter()
    init = jax.jit(functools.partial(ranking.init_state, model), out_shardings=shardings)
    state = jax.block_until_ready(init(data, jax.random.key(0)))
    init_seconds = time.perf_counter() - start
    # Asked for again, as what a step returns is to lie as it came.
    step = jax.jit(functools.partial(ranking.run_epoch, model, loss, config), out_shardings=(shardings, None))
    step = step.lower(state, data, block).compile()
    ask = jax.jit(functools.partial(ranking.recommend, model, k=10)).lower(state.params, data, block).compile()

    programs = {'epoch': step, 'block': ask}

    def epoch():
        nonlocal state
        state, metrics = step(state, data, block)
        return metrics

    asked = timed(lambda: ask(state.params, data, block))
    trained = timed(epoch)
    return {
        'rows': rows, 'dim': dim, 'devices': mesh.size, 'interactions': interactions, 'users_a_block': block.user.size,
        'parameters': 2 * rows * dim,
        'state_bytes_computed': computed,
        'state_bytes_found': max(bytes_on_devices(state).values()),
        'data_bytes_found': max(bytes_on_devices((data, block)).values()),
        'whole_tables': {name: whole(program.as_text(), rows * dim) for name, program in programs.items()},
        'whole_scores': {name: whole(program.as_text(), rows * block.user.size) for name, program in programs.items()},
        'temporary_bytes': {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()},
        'seconds': {'init': init_seconds, 'step': (trained - asked) / steps, 'block': asked}}


def drawn(rows: int, interactions: int) -> dict:
    """Splits of a made-up leave-one-out: items by a power law, and 16 users to rank for."""
    random = np.random.Generator(np.random.Philox(0))

    def split(number: int, user: np.ndarray) -> protocols.Examples:
        item = (rows * random.random(number) ** 3).astype(np.int32)
        none, one = np.zeros(number, np.int32), np.ones(number, np.float32)
        past = protocols.Histories(np.zeros(0, np.int32), np.zeros(0, bool), none, none, 0)
        return protocols.Examples(user, item, one, one, none, past)

    ranked = np.arange(16, dtype=np.int32)
    return {'train': split(interactions, np.sort(random.integers(0, rows, interactions, dtype=np.int32))),
            'valid': split(16, ranked), 'test': split(16, ranked)}


def itemsize(x: Any) -> int:
    """Bytes of an element; of a key those of its two words."""
    return 8 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize


def bytes_on_devices(tree: Any) -> dict[int, int]:
    """What lies on each device, by its id."""
    found = collections.Counter()
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            found[shard.device.id] += math.prod(shard.data.shape) * itemsize(leaf)
    return found


def whole(program: str, elements: int) -> int:
    """How many arrays of floats in a partitioned program have so many elements on one device, in whatever layout."""
    shapes = re.findall(r'= \(?(?:f32|bf16)\[([\d,]+)\]', program)
    return sum(math.prod(map(int, shape.split(','))) >= elements for shape in shapes)


def timed(step: Callable[[], Any], times: int = 2) -> float:
    """Seconds of `step`, already compiled: the median of `times` after a first."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        jax.block_until_ready(step())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def row(found: dict) -> list[str]:
    """A line of the table."""
    megabytes = (found['state_bytes_computed'], found['state_bytes_found'], found['temporary_bytes']['epoch'],
                 found['temporary_bytes']['block'])
    return [f'{found["rows"]:,} × {found["rows"]:,} × {found["dim"]}', *(f'{x / 1e6:.1f}' for x in megabytes),
            *(str(sum(found[what].values())) for what in ('whole_tables', 'whole_scores')),
            *(f'{found["seconds"][part]:.3g}' for part in ('init', 'step', 'block'))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, nargs='+', default=[100_000, 1_000_000], help='users, and as many items')
    args, rows = parser.parse_args(), []
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', DEVICES)
    for number in args.rows:
        found = measure(number)
        sides.show(measurement='size', **found)
        rows.append(row(found))
    sides.table(COLUMNS, rows)


if __name__ == '__main__':
    main()
