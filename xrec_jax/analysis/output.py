"""What an analysis leaves: rows as a csv file, as a table for people, and a figure, each written whole or not at all."""

import csv
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.figure
import rich.table

from xrec_jax.runs.files import write_whole

Row = Mapping[str, Any]


def write(folder: pathlib.Path, name: str, rows: Sequence[Row], draw: Callable[[matplotlib.figure.Figure], None],
          size: tuple[float, float]) -> pathlib.Path:
    """`<name>.csv` with all keys of `rows` as columns, and `<name>.png` as `draw` fills the figure; the figure's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f'{name}.csv', lambda path: _write_csv(path, rows))
    figure = matplotlib.figure.Figure(figsize=size, layout='constrained')
    draw(figure)
    write_whole(folder / f'{name}.png', lambda path: figure.savefig(path, dpi=150, format='png'))
    return folder / f'{name}.png'


def _write_csv(path: pathlib.Path, rows: Sequence[Row]) -> None:
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[Row], title: str, left_out: Sequence[str] = ()) -> rich.table.Table:
    """The rows for people, numbers to three digits; a column for each key of the first."""
    names = [name for name in rows[0] if name not in left_out]
    made = rich.table.Table(title=title, title_justify='left')
    for name in names:
        made.add_column(name, justify='left' if isinstance(rows[0][name], str) else 'right')
    for row in rows:
        made.add_row(*(f'{row[name]:.3f}' if isinstance(row[name], float) else f'{row[name]}' for name in names))
    return made
