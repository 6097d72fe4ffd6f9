"""What a command of an analysis leaves: a figure and its numbers, as a file and for people."""

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import rich.table

from xrec_jax.runs import progress
from xrec_jax.runs.files import write_whole

# Legible on white and on near-black alike (`reporting` draws on either): contrast of at least 3 with both.
COLOURS = ('#3b7dd8', '#d9722e', '#2f9e58', '#c2508f', '#8a6fd1', '#8c7a1f')
GREY = '#808690'

Row = Mapping[str, Any]


def new_figure(columns: int = 1, width: float = 5.5, height: float = 4.0) -> tuple[matplotlib.figure.Figure, list]:
    """A figure with so many axes side by side, each of `width` × `height` inches."""
    figure = matplotlib.figure.Figure(figsize=(width * columns, height), layout='constrained')
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def write(folder: pathlib.Path, name: str, rows: Sequence[Row], figure: matplotlib.figure.Figure) -> None:
    """Writes `rows` to <name>.csv and the figure to <name>.png, and says so."""
    write_csv(folder / f'{name}.csv', rows)
    write_whole(folder / f'{name}.png', lambda path: figure.savefig(path, dpi=150, format='png'))
    progress.say(f'written to {folder / name}.png and {name}.csv')


def write_csv(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """One line a row; a row without a column leaves it empty."""

    def lines(partial):
        with partial.open('w', newline='') as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, lines)


def table(rows: Sequence[Row], title: str, left_out: Sequence[str] = (), digits: int = 3) -> rich.table.Table:
    """The rows for people: all keys as columns but those `left_out`."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in left_out]
    made = rich.table.Table(title=title, title_justify='left')
    for name in names:
        numbers = all(isinstance(row.get(name, 0), (int, float)) for row in rows)
        made.add_column(name, justify='right' if numbers else 'left')
    for row in rows:
        made.add_row(*(f'{value:.{digits}f}' if isinstance(value := row.get(name, ''), float) else str(value)
                        for name in names))
    return made
