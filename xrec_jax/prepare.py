"""Raw files → checked Arrow tables.

python -m xrec_jax.prepare --dataset ml-100k --data_dir DIR [--out DIR]
"""

import pathlib

import rich
import rich.table
from absl import flags

from xrec_jax import cli
from xrec_jax.data import catalog, tables

DATASET = flags.DEFINE_string('dataset', None, f'One of: {", ".join(catalog.CATALOG)}.', required=True)
DATA_DIR = flags.DEFINE_string(
    'data_dir', None, 'Folder of the raw files, unpacked or in the publisher\'s archive; the archive '
    'is fetched to it if it holds neither.', required=True)
OUT = flags.DEFINE_string('out', None, 'Folder to write; DATA_DIR/DATASET.arrow if not given.')


def main(argv: list[str]) -> None:
    del argv
    name = DATASET.value
    dataset = catalog.load(name, DATA_DIR.value)
    out = tables.write(dataset, OUT.value or pathlib.Path(DATA_DIR.value) / f'{name}.arrow')

    grid = rich.table.Table(show_header=False, box=None)
    for label, value in tables.card(dataset):
        grid.add_row(label, value)
    if citation := catalog.entry(name).citation:
        grid.add_row('please cite', citation)
    grid.add_row('written to', str(out))
    rich.print(grid)


if __name__ == '__main__':
    cli.run(main)
