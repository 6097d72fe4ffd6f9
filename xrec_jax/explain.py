"""Why a user would like an item: explanations of a run, as stored or written now by its trained model.

    python -m xrec_jax.explain --workdir RUN --user U --item I              # a card in a terminal, else lines of JSON
    python -m xrec_jax.explain --workdir RUN --user U --top_k 5             # of what the run's predictor recommends
    python -m xrec_jax.explain --workdir RUN --pairs pairs.csv --out explanations.jsonl     # or .parquet, .csv
    python -m xrec_jax.explain --workdir RUN --pairs pairs.csv --nogenerate                 # only what is stored

Ids are those of the source data. `pairs.csv` has the columns user_id and item_id. What is not stored is written in
batches, as the run's own phase would write it, and stored in RUN/store (--nokeep: not), so that a stopped command goes
on. Pairs that have no explanation are named at the end, after the others are written out; then the exit code is 2.
"""

import csv
import json
import pathlib
import sys
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from absl import flags

from xrec_jax import api, cards, cli
from xrec_jax.api import Pair, Run
from xrec_jax.errors import UserError
from xrec_jax.runs import compile_cache, files, progress
from xrec_jax.runs.explanations import SCHEMA
from xrec_jax.runs.store import COLUMNS, SCHEMA_ADDED

FORMATS = ('.jsonl', '.parquet', '.csv')
NAMED = 5  # missing pairs that a message names
COLUMN_TYPES = pa.schema([*(SCHEMA.field(name) for name in COLUMNS), SCHEMA_ADDED])
RECOMMENDED = [pa.field('rank', pa.int64()), pa.field('title', pa.string()), pa.field('score', pa.float64())]


def main(argv: list[str]) -> None:
    del argv
    args = flags.FLAGS
    out = files.as_path(args.out) if args.out else None
    if out and out.suffix not in FORMATS:
        raise UserError(f'--out {out}: should end in one of {", ".join(FORMATS)}.')
    wanted = asked(args.user, args.item, args.pairs, args.top_k)
    compile_cache.use()
    run = api.load(args.workdir, args.data_dir or '')
    more: dict[Pair, dict] = {}
    if args.top_k is not None:
        more = {(args.user, row['item_id']): {name: row[name] for name in ('rank', 'title', 'score')}
                for row in run.recommend(args.user, args.top_k, args.predictor).to_dict('records')}
        wanted = list(more)
    found, why = explanations(run, wanted, args.generate, args.temperature, args.keep)
    rows = [row | more.get(pair, {}) for pair in wanted for row in found.get(pair, ())]
    if out:
        table = pa.Table.from_pylist(rows, schema=pa.schema([*COLUMN_TYPES, *(RECOMMENDED if more else ())]))
        files.write_whole(out, lambda partial: write(table, rows, partial, out.suffix))
        print(f'{len(rows):,} explanations of {len(found):,} pairs in {out}')
    elif args.format == 'card' or args.format is None and progress.CONSOLE.is_terminal:
        for pair in wanted:
            if pair in found:
                progress.CONSOLE.print(cards.card(run, *pair, found[pair], **more.get(pair, {})))
    else:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    sys.stdout.flush()
    if missing := [pair for pair in wanted if pair not in found]:
        lines = [why.get(pair) or run.missing(*pair) for pair in missing[:NAMED]]
        rest = f'\n… and {len(missing) - NAMED:,} pairs more' if len(missing) > NAMED else ''
        raise UserError(f'{len(missing):,} of {len(wanted):,} pairs have no explanation:\n  ' + '\n  '.join(lines) + rest
                        + (f'\nThey could not be written: {why[None]}' if None in why else '')
                        + ('' if args.generate else '\nWithout --nogenerate they are written by the trained model.'))


def explanations(run: Run, wanted: Sequence[Pair], generate: bool, temperature: float | None, keep: bool
                 ) -> tuple[dict[Pair, list[dict]], dict[Pair | None, str]]:
    """The explanations of pairs, stored or written now; and why a pair has none, or under None why nothing could be
    written at all."""
    rows, missing = run.find(wanted)
    why: dict[Pair | None, str] = {}
    if missing and generate:
        try:
            why |= run.unknown(missing)
            known = [pair for pair in missing if pair not in why]
            if known:
                run.writer  # what takes long comes before the bar
                with progress.bar('writing', len(known), 0, 'pairs') as advance:
                    rows += run.write(known, temperature, keep, advance)
        except UserError as error:
            why[None] = str(error)
    found: dict[Pair, list[dict]] = {}
    for row in rows:
        found.setdefault((row['user_id'], row['item_id']), []).append(row)
    return found, why


def asked(user: str | None, item: str | None, pairs: str | None, top_k: int | None = None) -> list[Pair]:
    """The pairs that are asked for, each once, none with `top_k`; UserError for arguments that name none."""
    if pairs and (user or item or top_k is not None):
        raise UserError('--pairs and --user, --item or --top_k both say what is asked for; give one of them.')
    if top_k is not None:
        if user is None or item is not None:
            raise UserError('--top_k is of one user and all items: give --user=ID, and no --item.')
        return []
    if pairs:
        return read_pairs(pathlib.Path(pairs).expanduser())
    if user is None or item is None:
        raise UserError('Say which explanations: --user=ID --item=ID, --user=ID --top_k=K, or --pairs=FILE.csv.')
    return [(user, item)]


def read_pairs(path: pathlib.Path) -> list[Pair]:
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


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of the command, in `values`."""
    own = {'flag_values': values}
    flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True, **own)
    flags.DEFINE_string('user', None, 'Id of a user, as in the source data.', **own)
    flags.DEFINE_string('item', None, 'Id of an item, as in the source data.', **own)
    flags.DEFINE_integer('top_k', None, 'So many items that the run recommends to --user.', lower_bound=1, **own)
    flags.DEFINE_string('predictor', '', 'Name of the fit that recommends; the last one without explanations by default.',
                        **own)
    flags.DEFINE_string('pairs', None, 'csv file with columns user_id and item_id.', **own)
    flags.DEFINE_string('out', None, f'File for the explanations: {", ".join(FORMATS)}; the terminal by default.', **own)
    flags.DEFINE_enum('format', None, ['card', 'jsonl'], 'What is printed; card by default in a terminal, else jsonl.',
                      **own)
    flags.DEFINE_bool('generate', True, 'Write what is not stored, with the trained model.', **own)
    flags.DEFINE_bool('keep', True, "Store what is written, in the run's folder.", **own)
    flags.DEFINE_float('temperature', None, "Of what is written, 0 for the likeliest text; the run's own by default.",
                       lower_bound=0.0, **own)
    flags.DEFINE_string('data_dir', None, 'Where the raw data lie now, if not where the config of the run says.', **own)


if __name__ == '__main__':
    define_flags()
    cli.run(main)
