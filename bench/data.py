"""Preparing data at published sizes: seconds, rows a second, peak memory.

    python bench/data.py                          # everything, about 15 minutes and 60 GB of disk on two cores
    python bench/data.py --only movielens,protocols,batches
    python bench/data.py --scale 0.1              # a tenth of the rows

Writes files in the publishers' formats to a temporary folder, reads them as a user would, and prints a
JSON line a measurement. Each runs in a process of its own, whose peak resident memory is its own. A
ratio to a peer (pandas, where installed) says how much longer the peer takes for what it can do of the
same work; above 1, we are faster.

  movielens  ratings.csv and movies.csv of MovieLens-20M's size → prepared dataset
  amazon     gzipped JSON lines with reviews of about 300 bytes, half and full size: flat memory, linear time
  protocols  all three protocols on 20 M interactions
  batches    id-only examples out of the pipeline
"""

import argparse
import contextlib
import gzip
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

USERS, ITEMS = 138_493, 27_277  # MovieLens-20M's, but one of its 27,278 movies: this is a prime
STARS = np.array('0.5 1.0 1.5 2.0 2.5 3.0 3.5 4.0 4.5 5.0'.split())
WORDS = np.array('the a great bad story hero book read again never liked plot slow fast funny sad end start '
                 'series author page life war love ghost space horse dog train music old new'.split())


# --------------------------------------------------------------------------------------- files


def write_movielens(folder: pathlib.Path, num_rows: int) -> None:
    """ratings.csv and movies.csv; users one after the other, no movie twice with a user."""
    rng = np.random.Generator(np.random.Philox(0))
    start, stride = rng.integers(0, ITEMS, USERS), rng.integers(1, ITEMS, USERS)
    with open(folder / 'ratings.csv', 'wb') as file:
        file.write(b'userId,movieId,rating,timestamp\n')
        for rows in _blocks(num_rows):
            user = rows * USERS // num_rows
            first = -(-user * num_rows // USERS)  # the first row of this user
            item = (start[user] + (rows - first) * stride[user]) % ITEMS
            stars, when = STARS[rng.integers(0, 10, len(rows))], 10**9 + rng.integers(0, 10**8, len(rows))
            _write_lines(file, _join((user + 1, item + 1, stars, when), ','))
    with open(folder / 'movies.csv', 'w') as file:
        file.write('movieId,title,genres\n')
        file.writelines(f'{i + 1},"Movie, The {i} (1999)",Drama|War\n' for i in range(ITEMS))


def write_amazon(folder: pathlib.Path, num_rows: int) -> None:
    """Books.jsonl.gz in the format of 2023, without metadata: a user has about four reviews."""
    rng = np.random.Generator(np.random.Philox(0))
    texts = pa.array([' '.join(WORDS[rng.integers(0, len(WORDS), int(n))]) for n in rng.integers(20, 100, 5000)])
    with gzip.open(folder / 'Books.jsonl.gz', 'wb', compresslevel=1) as file:
        for rows in _blocks(num_rows):
            n = len(rows)
            stars, when = rng.integers(1, 6, n), 10**12 + rng.integers(0, 10**11, n)
            user, item = rng.integers(0, max(1, num_rows // 4), n), rng.integers(0, max(1, num_rows // 12), n)
            _write_lines(file, pc.binary_join_element_wise(
                '{"rating": ', pa.array(stars).cast(pa.string()), '.0, "title": "Fine", "text": "',
                texts.take(pa.array(rng.integers(0, len(texts), n))), '", "images": [], "asin": "',
                _code('B', item), '", "parent_asin": "', _code('B', item), '", "user_id": "',
                _code('AE22236AFRRSMQIKGG7TPTB', user), '", "timestamp": ', pa.array(when).cast(pa.string()),
                ', "helpful_vote": 0, "verified_purchase": true}', ''))


def _blocks(num_rows: int, size: int = 500_000) -> Iterator[np.ndarray]:
    for first in range(0, num_rows, size):
        yield np.arange(first, min(num_rows, first + size))


def _code(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, '0'), '')


def _join(columns: tuple[np.ndarray, ...], delimiter: str) -> pa.Array:
    return pc.binary_join_element_wise(*(pa.array(column).cast(pa.string()) for column in columns), delimiter)


def _write_lines(file, lines: pa.Array) -> None:
    whole = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines), '\n')
    file.write(whole[0].as_buffer())
    file.write(b'\n')


# -------------------------------------------------------------------------------- measurements


def prepare(name: str, folder: pathlib.Path, **options) -> dict:
    from xrec_jax.data import catalog
    start = time.perf_counter()
    dataset = catalog.load(name, folder, out=folder / 'prepared', **options)
    seconds = time.perf_counter() - start
    return {'rows': dataset.interactions.num_rows, 'seconds': seconds}


def movielens(folder: pathlib.Path) -> dict:
    return prepare('ml-20m', folder, whole=False)


def movielens_peer(folder: pathlib.Path) -> dict:
    """pandas: read the file, number users and items, write the columns; without any check."""
    import pandas
    start = time.perf_counter()
    table = pandas.read_csv(folder / 'ratings.csv')
    for key in ('userId', 'movieId'):
        table[key] = pandas.factorize(table[key])[0]
    table.to_feather(folder / 'peer.feather')
    return {'rows': len(table), 'seconds': time.perf_counter() - start}


def amazon(folder: pathlib.Path) -> dict:
    return prepare('amazon-2023', folder, category='Books')


def amazon_peer(folder: pathlib.Path) -> dict:
    """pandas: parse a hundredth of the lines, by chunks; nothing else."""
    import pandas
    start, rows = time.perf_counter(), 0
    for chunk in pandas.read_json(folder / 'Books.jsonl.gz', lines=True, chunksize=50_000):
        rows += len(chunk)
        if rows >= 500_000:
            break
    return {'rows': rows, 'seconds': time.perf_counter() - start}


def protocols(folder: pathlib.Path) -> dict:
    from xrec_jax.data import protocols as p, tables
    dataset, seconds = tables.read(folder / 'prepared'), {}
    for name, run in {
            'random_target': lambda: p.random_target(dataset, num_samples=dataset.interactions.num_rows // 20, seed=0),
            'leave_one_out': lambda: p.leave_one_out(dataset, seed=0),
            'user_temporal': lambda: p.user_temporal(dataset, seed=0)}.items():
        start = time.perf_counter()
        run()
        seconds[f'seconds_{name}'] = time.perf_counter() - start
    return {'rows': dataset.interactions.num_rows, 'seconds': sum(seconds.values()), **seconds}


def batches(folder: pathlib.Path, batch_size: int = 16_384) -> dict:
    """One pass over id-only training examples, the order of the pass included."""
    from xrec_jax.data import batches as b, protocols as p, tables
    train = p.leave_one_out(tables.read(folder / 'prepared'), seed=0)['train']
    columns = {'user': train.user, 'item': train.item, 'label': train.label}
    start, rows = time.perf_counter(), 0
    for batch in b.prefetched(b.batches(columns, batch_size=batch_size, seed=0)):
        rows += int(batch['mask'].sum())
    seconds = time.perf_counter() - start
    assert rows == len(train.user)
    return {'rows': rows, 'seconds': seconds}


MEASUREMENTS = {run.__name__: run for run in (
    movielens, movielens_peer, amazon, amazon_peer, protocols, batches)}


def peak_gib() -> float:
    """Peak resident memory of this process. (`getrusage` would count its parent's, from before exec.)"""
    return int(re.search(r'VmHWM:\s+(\d+)', pathlib.Path('/proc/self/status').read_text())[1]) / 2**20


def measure(name: str, folder: pathlib.Path) -> dict:
    """Runs one measurement in a process of its own; adds rows a second and peak memory."""
    found = subprocess.run([sys.executable, __file__, '--measure', name, '--folder', str(folder)],
                           stdout=subprocess.PIPE, check=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
    return json.loads(found.stdout.splitlines()[-1])


def show(name: str, result: dict, peer: dict | None = None) -> None:
    row = {'measurement': name, **result, 'rows_per_second': result['rows'] / result['seconds']}
    if peer:
        row['peer'] = 'pandas'
        row['ratio_to_peer'] = row['rows_per_second'] / (peer['rows'] / peer['seconds'])
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


@contextlib.contextmanager
def folder_in(parent: str | None) -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix='bench-data-', dir=parent) as path:
        yield pathlib.Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='movielens,amazon,protocols,batches', help='some of these, by commas')
    parser.add_argument('--scale', type=float, default=1.0, help='of 20 M ratings and 50 M reviews')
    parser.add_argument('--parent', help='folder for the temporary files')
    parser.add_argument('--measure', help=argparse.SUPPRESS)
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        result = MEASUREMENTS[arguments.measure](pathlib.Path(arguments.folder))
        print(json.dumps(result | {'peak_gib': peak_gib()}))
        return
    only = arguments.only.split(',')
    try:
        import pandas  # noqa: F401
        peer = measure
    except ImportError:
        peer = lambda name, folder: None
    if {'movielens', 'protocols', 'batches'} & set(only):
        with folder_in(arguments.parent) as folder:
            write_movielens(folder, int(20_000_000 * arguments.scale))
            show('movielens', measure('movielens', folder), peer('movielens_peer', folder))
            for name in ('protocols', 'batches'):
                if name in only:
                    show(name, measure(name, folder))
    if 'amazon' in only:
        for share in (0.5, 1.0):
            with folder_in(arguments.parent) as folder:
                write_amazon(folder, int(50_000_000 * arguments.scale * share))
                show('amazon', measure('amazon', folder), peer('amazon_peer', folder))


if __name__ == '__main__':
    main()
