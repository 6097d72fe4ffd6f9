"""How long do answers of `python -m xrec_jax.serve` take, at a fixed rate of requests?

    python bench/serve.py                            # 500 requests/s for 30 s on a made-up run of a million explanations
    python bench/serve.py --workdir RUN --rate 1000  # of a run of yours

The load is open: request i is due at i / rate, whatever has become of those before, and its time runs from then, so
that a server which falls behind is seen to (no coordinated omission). Half of the requests ask for explanations (one in
twenty of a pair that is not stored), half for recommendations. Server and load are a process each; two cores are meant.
Prints a line of JSON: milliseconds, and what share of a core the server used.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from xrec_jax import api  # noqa: E402
from xrec_jax.runs import lists, store  # noqa: E402
from xrec_jax.runs.explanations import SCHEMA  # noqa: E402

CONNECTIONS = 64
WARM_UP = 2.0  # seconds that do not count


def make_workdir(folder: pathlib.Path, num_users: int, per_user: int, k: int = 100) -> pathlib.Path:
    """A run that has nothing but a store: `per_user` explained items for every user, and their lists."""
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps({'seed': 0, 'schedule': ['fit(ids)', 'explain(final)']}))
    (folder / 'summary.json').write_text(json.dumps({'seconds': {'01-fit-ids': 1.0, '02-explain-final': 1.0}}))
    users = sorted(f'u{n}' for n in range(num_users))
    rows, text = num_users * per_user, 'With painting liked before suggests that the customer will probably like it.'
    columns = {'user_id': np.repeat(users, per_user), 'item_id': [f'i{n}' for n in range(per_user)] * num_users,
               'kind': ['reason'] * rows, 'text': [text] * rows, 'split': ['test'] * rows,
               'llm_score': np.full(rows, 0.5, np.float32), 'in_form': [None] * rows, 'truncated': [False] * rows}
    store.put(folder, pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in store.COLUMNS}),
              '02-explain-final')
    items = [f'i{n}' for n in range(k)]
    one = {'item_id': items, 'title': [f'Item {name}' for name in items], 'score': list(np.linspace(1, 0, k, dtype=np.float32))}
    part = pa.table({'user_id': users, **{name: [column] * num_users for name, column in one.items()}}, schema=lists.SCHEMA)
    lists.write(folder, 'ids', '01-fit-ids', k, [part])
    return folder


def requests(run: api.Run, count: int, seed: int) -> list[str]:
    """Paths of `count` requests, drawn by chance."""
    random, quote = np.random.default_rng(seed), urllib.parse.quote
    table, found = run.store.table, []
    for n in random.integers(0, len(table), count).tolist():
        user, item = (table[name][n].as_py() for name in ('user_id', 'item_id'))
        if random.random() < 0.5:
            item = item if random.random() < 0.95 else 'not there'
            found.append(f'/explanations?user={quote(user)}&item={quote(item)}')
        else:
            found.append(f'/users/{quote(user)}/recommendations')
    return found


async def ask(paths: list[str], port: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds and status of each request [N]; a request waits where all connections are busy, and that counts."""
    free: asyncio.Queue = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection('127.0.0.1', port))
    took, status = np.zeros(len(paths)), np.zeros(len(paths), int)
    start = time.perf_counter() + 0.1

    async def one(n: int, path: str) -> None:
        reader, writer = connection = await free.get()
        writer.write(f'GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode())
        head = (await reader.readuntil(b'\r\n\r\n')).decode().lower()
        await reader.readexactly(int(head.split('content-length: ')[1].split('\r\n')[0]))
        took[n], status[n] = 1e3 * (time.perf_counter() - start - n / rate), int(head.split(' ')[1])
        free.put_nowait(connection)

    tasks = []
    for n, path in enumerate(paths):
        if (wait := start + n / rate - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(n, path)))
    await asyncio.gather(*tasks)
    return took, status


def measure(workdir: pathlib.Path, rate: float, seconds: float, seed: int) -> dict:
    """Starts the server, asks, stops it."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, '-m', 'xrec_jax.serve', f'--workdir={workdir}', f'--port={port}'],
                              stdout=subprocess.DEVNULL)
    try:
        wait_for(server, port)
        run = api.load(str(workdir))
        asyncio.run(ask(requests(run, int(rate * WARM_UP), seed + 1), port, rate))
        paths, before = requests(run, int(rate * seconds), seed), cpu_seconds(server.pid)
        took, status = asyncio.run(ask(paths, port, rate))
        used = cpu_seconds(server.pid) - before
    finally:
        server.terminate()
        server.wait()
    quantiles = {f'p{q:g}_ms': round(float(np.percentile(took, q)), 3) for q in (50, 90, 99, 99.9)}
    return {'rate': rate, 'seconds': seconds, 'requests': len(paths), **quantiles, 'max_ms': round(float(took.max()), 3),
            'status': {str(code): int((status == code).sum()) for code in np.unique(status)},
            'server_cores': round(used / seconds, 3), 'stored': len(run.store.table)}


def wait_for(server: subprocess.Popen, port: int, patience: float = 300.0) -> None:
    """Until it listens."""
    for _ in range(int(patience / 0.2)):
        if server.poll() is not None:
            raise SystemExit('the server has ended (see above)')
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=1):
            return
        time.sleep(0.2)
    raise SystemExit(f'the server does not listen after {patience:g} s')


def cpu_seconds(pid: int) -> float:
    """Of user and system, that a process has used (Linux)."""
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workdir', help='a run with stored explanations; a made-up one by default')
    parser.add_argument('--users', type=int, default=20_000, help='of the made-up run')
    parser.add_argument('--per_user', type=int, default=50, help='explained items of each of them')
    parser.add_argument('--rate', type=float, default=500.0, help='requests a second')
    parser.add_argument('--seconds', type=float, default=30.0)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(args.workdir) if args.workdir else make_workdir(
            pathlib.Path(folder) / 'run', args.users, args.per_user)
        print(json.dumps(measure(workdir, args.rate, args.seconds, args.seed)))


if __name__ == '__main__':
    main()
