"""Reads stored explanations back: those that a run's phases `explain` wrote.

    python -m xrec_jax.explain --workdir DIR --user U --item I
    python -m xrec_jax.explain --workdir DIR --pairs pairs.csv --out explanations.jsonl     # or .parquet, .csv

Ids are those of the source data. `pairs.csv` has the columns user_id and item_id. Without --out, lines of JSON go to
the terminal. Pairs without an explanation are named at the end, after what was found is written; then the exit code
is 2.
"""

import csv
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from absl import flags

from xrec_jax import cli
from xrec_jax.errors import UserError
from xrec_jax.runs import files
from xrec_jax.runs.store import Store

FORMATS = ('.jsonl', '.parquet', '.csv')
NAMED = 5  # missing pairs that a message names


def main(argv: list[str]) -> None:
    del argv
    args = flags.FLAGS
    out = files.as_path(args.out) if args.out else None
    if out and out.suffix not in FORMATS:
        raise UserError(f'--out {out}: should end in one of {", ".join(FORMATS)}.')
    wanted = asked(args.user, args.item, args.pairs)
    store = Store(files.as_path(args.workdir))
    found, missing = [], []
    for user, item in wanted:
        rows = store.find(user, item)
        found += rows
        if not rows:
            missing.append((user, item))
    if out:
        table = pa.Table.from_pylist(found, schema=store.table.schema)
        files.write_whole(out, lambda partial: write(table, found, partial, out.suffix))
        print(f'{len(found):,} explanations of {len(wanted) - len(missing):,} pairs in {out}')
    else:
        for row in found:
            print(json.dumps(row, ensure_ascii=False))
    sys.stdout.flush()
    if missing:
        lines = [store.missing(*pair) for pair in missing[:NAMED]]
        more = f'\n… and {len(missing) - NAMED:,} pairs more' if len(missing) > NAMED else ''
        raise UserError(f'{len(missing):,} of {len(wanted):,} pairs have no stored explanation:\n  '
                        + '\n  '.join(lines) + more + '\nStored are the pairs of the splits that the run explained.')


def asked(user: str | None, item: str | None, pairs: str | None) -> list[tuple[str, str]]:
    """The pairs that are asked for, each once; UserError for arguments that name none."""
    if pairs and (user or item):
        raise UserError('--pairs and --user or --item both say what is asked for; give one of them.')
    if pairs:
        return read_pairs(pathlib.Path(pairs).expanduser())
    if user is None or item is None:
        raise UserError('Say which explanations: --user=ID --item=ID, or --pairs=FILE.csv.')
    return [(user, item)]


def read_pairs(path: pathlib.Path) -> list[tuple[str, str]]:
    """The pairs of a csv file with the columns user_id and item_id, each once; UserError names file and line."""
    if not path.is_file():
        raise UserError(f'{path}: no such file.')
    with open(path, newline='', encoding='utf-8-sig') as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        for name in ('user_id', 'item_id'):
            if name not in header:
                raise UserError(f'{path}, line 1: has no column {name}; its columns: {", ".join(header) or "none"}.')
        columns, pairs = [header.index(name) for name in ('user_id', 'item_id')], {}
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(f'{path}, line {rows.line_num}: has {len(row)} columns, the first line {len(header)}.')
            pairs[tuple(row[column].strip() for column in columns)] = True
    if not pairs:
        raise UserError(f'{path}: has no line below the first.')
    return list(pairs)


def write(table: pa.Table, rows: list[dict], path: pathlib.Path, form: str) -> None:
    """Writes explanations in the form that a file's ending says."""
    if form == '.parquet':
        pq.write_table(table, path)
    elif form == '.csv':
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows), encoding='utf-8')


if __name__ == '__main__':
    flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
    flags.DEFINE_string('user', None, 'Id of a user, as in the source data.')
    flags.DEFINE_string('item', None, 'Id of an item, as in the source data.')
    flags.DEFINE_string('pairs', None, 'csv file with columns user_id and item_id.')
    flags.DEFINE_string('out', None, f'File for the explanations: {", ".join(FORMATS)}; the terminal by default.')
    cli.run(main)
