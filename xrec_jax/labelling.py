"""Labelling sheets for people: writes the page, and turns what they saved into data.

python -m xrec_jax.labelling --kind=scores --cases=cases.jsonl --out=sheet.html
    [--key=sheet.key.json] [--seed=0] [--most=100] [--pairs_per_case=1] [--recommender=BPR-MF] [--title=…]
python -m xrec_jax.labelling --labels=saved.json --key=sheet.key.json --out=scores.csv

Kinds: text (instruction data), scores (1 to 10), pairs (for the judge). Send the page to those who label, keep the key.
Cases are JSON lines ({"instruction": …, "answers": {"GPT4": …, …}, "dataset": …, "index": …}, or Alpaca's form) or a
parquet table of answers as LLMXRec's. Scores come back as a table like LLMXRec's human_scores.csv, the others as JSON
lines in Alpaca's form.
"""

import pathlib

from absl import flags

from xrec_jax import cli
from xrec_jax.errors import UserError
from xrec_jax.language import labels, sheets

KIND = flags.DEFINE_string('kind', None, f'Of a new sheet: {", ".join(sheets.KINDS)}.')
CASES = flags.DEFINE_string('cases', None, 'File of instructions and answers, of a new sheet.')
LABELS = flags.DEFINE_string('labels', None, 'File that was saved from a sheet (JSON or CSV), to import.')
KEY = flags.DEFINE_string('key', None, 'Whose answers they are: written with a sheet, read with its labels. '
                          'Beside the page, if not given.')
OUT = flags.DEFINE_string('out', None, 'Page to write, or data to write.', required=True)
SEED = flags.DEFINE_integer('seed', 0, 'Draws cases, orders and pairs.')
MOST = flags.DEFINE_integer('most', 0, 'Cases of each data set, drawn by chance; 0 takes all.', lower_bound=0)
PAIRS = flags.DEFINE_integer('pairs_per_case', 1, 'Of kind pairs; 0 takes all pairs of generators.', lower_bound=0)
RECOMMENDER = flags.DEFINE_string('recommender', '', 'Of a table of answers with several.')
TITLE = flags.DEFINE_string('title', 'Explanations of recommendations', 'Above the page.')


def main(argv: list[str]) -> None:
    del argv
    if LABELS.value:
        _import(pathlib.Path(LABELS.value), pathlib.Path(OUT.value))
    elif KIND.value and CASES.value:
        _write(pathlib.Path(OUT.value))
    else:
        raise UserError('give --kind and --cases to write a sheet, or --labels and --key to import what was saved')


def _write(out: pathlib.Path) -> None:
    if out.suffix not in ('.html', '.htm'):
        raise UserError(f'--out={out}: a sheet is a page; should end in .html')
    key = pathlib.Path(KEY.value) if KEY.value else out.with_suffix('.key.json')
    cases = sheets.read_cases(CASES.value, RECOMMENDER.value)
    sheet = sheets.draw_sheet(cases, KIND.value, SEED.value, MOST.value, PAIRS.value)
    sheets.write_sheet(sheet, out, key, title=TITLE.value)
    print(f'{len(sheet.entries)} entries from {len(cases)} cases, sheet {sheet.id}')
    print(f'page: {out} (for those who label)')
    print(f'key:  {key} (keep it from them)')


def _import(saved: pathlib.Path, out: pathlib.Path) -> None:
    if not KEY.value:
        raise UserError('--key is required with --labels: the file that was written with the sheet')
    counts = labels.import_labels(saved, KEY.value, out)
    print(f'{counts["labelled"]} of {counts["entries"]} entries are labelled; {counts["rows"]} rows in {out}')


if __name__ == '__main__':
    cli.run(main)
