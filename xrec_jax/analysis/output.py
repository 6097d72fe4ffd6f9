"""What a command of an analysis leaves behind: a figure and the numbers in it."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib.figure
import rich.table

from xrec_jax.runs import progress
from xrec_jax.runs.files import write_whole

COLOURS = ('tab:blue', 'tab:orange', 'tab:green', 'tab:red', 'tab:purple', 'tab:brown')


def write(out: pathlib.Path, name: str, rows: Sequence[Mapping], figure: matplotlib.figure.Figure) -> None:
    """Writes `rows` to DIR/name.csv and the figure to DIR/name.png, and says so."""
    write_csv(out / f'{name}.csv', rows)
    write_whole(out / f'{name}.png', lambda path: figure.savefig(path, dpi=150, format='png'))
    progress.say(f'written to {out / name}.png and {name}.csv')


def write_csv(path: pathlib.Path, rows: Sequence[Mapping]) -> None:
    """One line a row; a row without a column leaves it empty."""

    def lines(partial):
        with partial.open('w', newline='') as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, lines)


def new_figure(columns: int = 1) -> tuple[matplotlib.figure.Figure, list]:
    """A figure with so many axes side by side."""
    figure = matplotlib.figure.Figure(figsize=(5.5 * columns, 4), layout='constrained')
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def table(title: str, rows: Sequence[Mapping], digits: int = 4) -> rich.table.Table:
    """`rows`, for people."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    made = rich.table.Table(title=title, title_justify='left')
    for name in names:
        made.add_column(name, justify='right' if all(isinstance(row.get(name, 0), (int, float)) for row in rows) else 'left')
    for row in rows:
        made.add_row(*(f'{value:.{digits}f}' if isinstance(value := row.get(name, ''), float) else str(value)
                       for name in names))
    return made
