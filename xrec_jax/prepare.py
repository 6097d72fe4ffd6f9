"""Raw files → checked Arrow tables.

python -m xrec_jax.prepare --dataset ml-100k --data_dir DIR [--out DIR] [--on_bad_row=skip]
    [--option KEY=VALUE …] [--filter KEY=VALUE …]
python -m xrec_jax.prepare --dataset simulated [--out DIR] [--option num_users=1000 …]

1. where to write: --out, or data/DATASET.arrow here, never the folder of the raw files by default
2. load: find, or fetch, or draw; parse, check, filter; written in a stream, all or nothing
3. show what it is
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from xrec_jax import cli
from xrec_jax.data import card, catalog
from xrec_jax.data.filters import Filters
from xrec_jax.errors import UserError, nearest

DATASET = flags.DEFINE_string('dataset', None, f'One of: {", ".join(catalog.CATALOG)}.', required=True)
DATA_DIR = flags.DEFINE_string(
    'data_dir', None, 'Folder of the raw files, unpacked or in the publisher\'s archive; what is missing '
    'is fetched to it where the publisher lets anyone. "simulated" needs none.')
OUT = flags.DEFINE_string('out', None, 'Folder to write; data/DATASET.arrow if not given.')
ON_BAD_ROW = flags.DEFINE_string(
    'on_bad_row', 'raise', 'A row that breaks its format: "raise" refuses the file, "skip" counts and passes over it.')
OPTION = flags.DEFINE_multi_string('option', [], 'KEY=VALUE, of the dataset\'s reader (xrec_jax/data/README.md).')
FILTER = flags.DEFINE_multi_string(
    'filter', [], 'KEY=VALUE; KEY is one of '
    f'{", ".join(field.name for field in dataclasses.fields(Filters))} (xrec_jax/data/filters.py).')


def main(argv: list[str]) -> None:
    del argv
    name = DATASET.value
    entry = catalog.entry(name)
    options = settings('option', OPTION.value, entry.options, f'dataset "{name}"')
    filters = Filters(**settings('filter', FILTER.value, dataclasses.asdict(Filters()), 'a dataset'))
    out = pathlib.Path(OUT.value).expanduser() if OUT.value else _default_out(name, DATA_DIR.value)
    dataset = catalog.load(name, DATA_DIR.value, filters=filters, on_bad_row=ON_BAD_ROW.value, out=out, **options)

    facts = card.card(dataset)
    if entry.citation:
        facts.append(('please cite', entry.citation))
    facts.append(('written to', str(out)))
    for label, value in facts:
        print(f'{label:<14}{value}')  # plain, so that nothing is wrapped where it is piped


def settings(flag: str, pairs: Sequence[str], defaults: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """KEY=VALUE, … → values of the types of `defaults`.

    Raises UserError for a key that is not among `defaults` (names the nearest) and a value of another type.
    """
    found = {}
    for pair in pairs:
        key, equals, text = pair.partition('=')
        if not equals:
            raise UserError(f'--{flag}={pair}: should be KEY=VALUE')
        if key not in defaults:
            raise UserError(f'--{flag}={pair}: {owner} has no {flag} "{key}".{nearest(key, defaults)}')
        if key in found:
            raise UserError(f'--{flag}={pair}: {key} is given twice')
        try:
            found[key] = _value(text, defaults[key])
        except ValueError as error:
            raise UserError(f'--{flag}={pair}: {key} should be {error}, as {defaults[key]!r}') from error
    return found


def _value(text: str, like: Any) -> Any:
    """`text` as a value of the type of `like`; ValueError says what it should be."""
    kind = type(like)
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError('true or false')
        return text.lower() == 'true'
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError('an integer' if kind is int else 'a number') from None
    if kind in (tuple, list):
        parts = [part.strip() for part in text.strip('()[]').split(',') if part.strip()]
        return kind(_value(part, like[0] if like else '') for part in parts)
    return text


def _default_out(name: str, data_dir: str | None) -> pathlib.Path:
    """Returns data/NAME.arrow of the current directory, refused where the raw files are around it."""
    out = pathlib.Path('data', f'{name}.arrow')
    if data_dir and out.resolve().is_relative_to(pathlib.Path(data_dir).expanduser().resolve()):
        raise UserError(f'--data_dir={data_dir}: {out}, where the tables would go, is inside it, and '
                        'raw files are left alone; give another place as --out=DIR')
    return out


if __name__ == '__main__':
    cli.run(main)
