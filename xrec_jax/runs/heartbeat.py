"""Which process holds the others up.

Processes that share arrays wait for each other, so where one stands still all do, and nothing tells which. Each process
writes every few seconds how many boundaries between steps it has come to (`arrived`, before it waits there for the
others) into `processes/<number>.json` of the workdir; process 0 reads them all and names those that are behind.
"""

import json
import socket
import threading
import time
from collections.abc import Mapping

import jax

from xrec_jax.runs import files, progress

PERIOD = 10.0  # seconds between two looks
PATIENCE = 120.0  # seconds that a process may be behind, or silent, before it is named

_count = 0


def arrived() -> None:
    """This process has come to the next boundary."""
    global _count
    _count += 1


def start(workdir: files.Path) -> None:
    """Begins to write, and in process 0 to look; for as long as the process lives."""
    watch = Watch()

    def go():
        while True:
            beat(workdir)
            if jax.process_index() == 0:
                for line in watch(read(workdir), time.time()):
                    progress.warn(line)
            time.sleep(PERIOD)

    if jax.process_count() > 1:
        threading.Thread(target=go, daemon=True, name='heartbeat').start()


def beat(workdir: files.Path) -> None:
    """Writes where this process is."""
    text = json.dumps({'count': _count, 'time': time.time(), 'host': socket.gethostname()})
    files.write_whole(workdir / 'processes' / f'{jax.process_index()}.json', lambda path: path.write_text(text),
                      everywhere=True)


def read(workdir: files.Path) -> dict[int, dict]:
    """What each process of this run wrote last."""
    beats = {}
    for index in range(jax.process_count()):
        path = workdir / 'processes' / f'{index}.json'
        if path.exists():
            beats[index] = json.loads(path.read_text())
    return beats


class Watch:
    """Looks at the beats again and again; each process is named once, until it has come along."""

    def __init__(self, patience: float = PATIENCE):
        self.patience = patience
        self._moved: dict[int, tuple[int, float]] = {}  # count, and when it was first seen
        self._named: set[int] = set()

    def __call__(self, beats: Mapping[int, Mapping], now: float) -> list[str]:
        """What is to be said at time `now` of {process: its beat}."""
        lines, front = [], max((beat['count'] for beat in beats.values()), default=0)
        for index, beat in beats.items():
            if self._moved.get(index, (-1, 0))[0] != beat['count']:
                self._moved[index] = beat['count'], now
            stood, silent = now - self._moved[index][1], now - beat['time']
            who = f'process {index} on {beat["host"]}'
            if silent > self.patience:
                line = f'{who} has not been heard of for {silent:.0f} s'
            elif beat['count'] < front and stood > self.patience:
                line = (f'{who} holds the others up: for {stood:.0f} s it has been in step {beat["count"] + 1} of this '
                        'start')
            else:
                self._named.discard(index)
                continue
            if index not in self._named:
                self._named.add(index)
                lines.append(line)
        return lines
