"""Raw files → checked Arrow tables.

python -m xrec_jax.prepare --dataset ml-100k --data_dir DIR [--out DIR]
python -m xrec_jax.prepare --dataset simulated [--out DIR]

1. where to write: --out, or data/DATASET.arrow here, never the folder of the raw files by default
2. load: read (or fetch, or draw) and check
3. write, all or nothing, and show what it is
"""

import pathlib

from absl import flags

from xrec_jax import cli
from xrec_jax.data import card, catalog, tables
from xrec_jax.errors import UserError

DATASET = flags.DEFINE_string('dataset', None, f'One of: {", ".join(catalog.CATALOG)}.', required=True)
DATA_DIR = flags.DEFINE_string(
    'data_dir', None, 'Folder of the raw files, unpacked or in the publisher\'s archive; the archive '
    'is fetched to it if it holds neither. "simulated" needs none.')
OUT = flags.DEFINE_string('out', None, 'Folder to write; data/DATASET.arrow if not given.')


def main(argv: list[str]) -> None:
    del argv
    name = DATASET.value
    entry = catalog.entry(name)
    out = pathlib.Path(OUT.value).expanduser() if OUT.value else _default_out(name, DATA_DIR.value)
    dataset = catalog.load(name, DATA_DIR.value)
    tables.write(dataset, out)

    facts = card.card(dataset)
    if entry.citation:
        facts.append(('please cite', entry.citation))
    facts.append(('written to', str(out)))
    for label, value in facts:
        print(f'{label:<14}{value}')  # plain, so that nothing is wrapped where it is piped


def _default_out(name: str, data_dir: str | None) -> pathlib.Path:
    """Returns data/NAME.arrow of the current directory, refused where the raw files are around it."""
    out = pathlib.Path('data', f'{name}.arrow')
    if data_dir and out.resolve().is_relative_to(pathlib.Path(data_dir).expanduser().resolve()):
        raise UserError(f'--data_dir={data_dir}: {out}, where the tables would go, is inside it, and '
                        'raw files are left alone; give another place as --out=DIR')
    return out


if __name__ == '__main__':
    cli.run(main)
