"""What a person sees while a run goes on: a bar with rate and time left, one line per phase.

Bars are drawn on terminals only; lines are always printed.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

# A file or a pipe has no width of its own; tables are readable at 140.
WIDTH = None if sys.stdout.isatty() else 140
CONSOLE = rich.console.Console(highlight=False, width=WIDTH)


class _Rate(rich.progress.ProgressColumn):
    def render(self, task):
        return f'{task.speed:.3g} {task.fields["unit"]}/s' if task.speed else f'– {task.fields["unit"]}/s'


@contextlib.contextmanager
def bar(title: str, total: int, done: int = 0, unit: str = 'steps') -> Iterator[Callable[..., None]]:
    """A progress bar over `total` steps, `done` of them already; yields `advance(count=1, note='')`."""
    columns = (
        rich.progress.TextColumn('{task.description}'), rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(), _Rate(), rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn('left'), rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn('{task.fields[note]}'),
    )
    with rich.progress.Progress(*columns, console=CONSOLE, transient=True,
                                disable=not CONSOLE.is_terminal) as progress:
        task = progress.add_task(title, total=total, completed=done, unit=unit, note='')

        def advance(count: int = 1, note: str = '') -> None:
            progress.update(task, advance=count, **({'note': note} if note else {}))

        yield advance


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Prints nothing meanwhile."""
    before, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        yield
    finally:
        CONSOLE.quiet = before


def say(line: str) -> None:
    """Prints one line."""
    CONSOLE.print(line, markup=False, soft_wrap=True)


def warn(line: str) -> None:
    """Prints one line that a person should look at."""
    say(f'warning: {line}')


class Stopwatch:
    """Seconds by name: `with watch('decode'): …`; `seconds` sums them up."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
