"""The figures of `judge(text)` for texts that lie in a file, or that an earlier run wrote.

    python -m xrec_jax.analysis.text_quality --file FILE.jsonl --text explanation --reference review --out DIR
    python -m xrec_jax.analysis.text_quality --workdir RUN --explanations icl,final --out DIR

FILE is JSON lines or Parquet; each column of --text is a row of the table. Of a run the references are the users'
reviews and the terms those of its data, as in `phases.judge_text`, which says what the figures mean. --scorer is a
directory (a BART gives BARTScore, a decoder LMScore), 'tiny' or 'none'. DIR gets texts.parquet (every text with its
scores; a stopped command goes on from it) and texts.json.
"""

import importlib.resources
import json
import pathlib
from collections.abc import Sequence

from absl import flags
import ml_collections
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec_jax import cli
from xrec_jax.errors import UserError, nearest
from xrec_jax.language import text_scores, tokenizers, weights
from xrec_jax.language.checkpoint_files import read_config
from xrec_jax.language.decoder import Decoder
from xrec_jax.phases import judge_text, task as tasks
from xrec_jax.runs import progress
from xrec_jax.runs.explanations import newest, read_explanations
from xrec_jax.runs.files import write_whole
from xrec_jax.runs.parts import PartsWriter


def read_table(path: pathlib.Path) -> pa.Table:
    """A table of JSON lines or Parquet."""
    if not path.exists():
        raise UserError(f'{path} does not exist.')
    if path.suffix == '.parquet':
        return pq.read_table(path)
    rows = []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f'{path}, line {number}: not valid JSON ({error.msg}).') from None
    return pa.Table.from_pylist(rows)


def rows_of_file(table: pa.Table, texts: Sequence[str], reference: str = '', terms: str = '', most: int = 0) -> pa.Table:
    """Rows for `judge_text.scored` of the first `most` rows (0: all), a group for each column of `texts`.

    reference: a column of texts, or none; terms: a column of lists, or of texts parted by '|', or none.
    """
    for name in (*texts, *filter(None, (reference, terms))):
        if name not in table.column_names:
            raise UserError(f'The file has no column "{name}".{nearest(name, table.column_names)}')
    table = table.slice(0, most) if most else table
    given = {'reference': table[reference].cast(pa.string()) if reference else pa.nulls(len(table), pa.string()),
             'terms': pa.nulls(len(table), pa.list_(pa.string()))}
    if terms:
        given['terms'] = table[terms] if pa.types.is_list(table[terms].type) else pc.split_pattern(table[terms], '|')
    return pa.concat_tables([pa.table({
        'explanations': pa.array([name] * len(table), pa.string()), 'kind': pa.nulls(len(table), pa.string()),
        'user_id': pa.nulls(len(table), pa.string()), 'item_id': pa.nulls(len(table), pa.string()),
        'text': table[name].cast(pa.string()), **given}) for name in texts])


def rows_of_run(workdir: pathlib.Path, names: Sequence[str], splits: Sequence[str], num_terms: int) -> tuple[pa.Table, str]:
    """Rows of what phases `explain(name)` of a run wrote, and the name of its data."""
    path = workdir / 'config.json'
    if not path.exists():
        raise UserError(f'{path} does not exist: --workdir should be the folder of a run.')
    config = ml_collections.ConfigDict(json.loads(path.read_text()))
    written = {file.stem: file for file in sorted((workdir / 'explanations').glob('*.parquet'))}
    there = [phase.split('-explain-')[1] for phase in written if '-explain-' in phase]
    for name in names:
        if name not in there:
            raise UserError(f'{workdir} has no explanations of a phase explain({name}).{nearest(name, there)}')
    dataset = tasks.load_dataset(config.data)
    tables = {name: read_explanations(newest(written, name)) for name in names}
    return judge_text.collect(dataset, tables, splits, num_terms), dataset.name


def load_scorer(name: str) -> text_scores.Scorer | None:
    """'none', 'tiny', or the directory of a BART or a decoder."""
    if name == 'none':
        return None
    directory = importlib.resources.files('xrec_jax.language') / 'tiny' if name == 'tiny' else name
    if read_config(directory).get('model_type') == 'bart':
        return text_scores.load_bart_scorer(directory)
    config, params = weights.load_model(directory)
    return text_scores.language_scorer(Decoder(config), {'params': params}, tokenizers.load_tokenizer(directory))


def run(rows: pa.Table, title: str, scorer: str, out: pathlib.Path) -> dict:
    """Scores `rows`, prints the table, writes both files, returns what is in texts.json."""
    for line in judge_text.said(rows, title):
        progress.say(line)
    loaded, writer = load_scorer(scorer), PartsWriter(out / 'texts.parquet', judge_text.SCHEMA)
    if not writer.finished:
        judge_text.scored(rows, loaded, writer, title)
    result = {'scorer': loaded and loaded.name, 'scorer_model': scorer,
              'texts': judge_text.figures(pq.read_table(writer.path))}
    progress.CONSOLE.print(judge_text.figures_table(title, result))
    write_whole(out / 'texts.json', lambda path: path.write_text(json.dumps(result, indent=1) + '\n'))
    return result


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    if bool(given.file) == bool(given.workdir):
        raise UserError('Give either --file (with --text) or --workdir (with --explanations).')
    if given.file:
        if not given.text:
            raise UserError('--file needs --text: the columns that are judged.')
        rows = rows_of_file(read_table(pathlib.Path(given.file)), given.text, given.reference, given.terms, given.max_rows)
        title = pathlib.Path(given.file).name
    else:
        if not given.explanations:
            raise UserError('--workdir needs --explanations: the phases explain, as icl,final.')
        rows, title = rows_of_run(pathlib.Path(given.workdir), given.explanations, given.splits, 3)
    run(rows, title, given.scorer, pathlib.Path(given.out))


if __name__ == '__main__':
    flags.DEFINE_string('file', '', 'JSON lines or Parquet.')
    flags.DEFINE_list('text', [], 'Columns of --file that are judged.')
    flags.DEFINE_string('reference', '', 'Column of --file that they are held against.')
    flags.DEFINE_string('terms', '', 'Column of --file with the aspect terms: lists, or words parted by "|".')
    flags.DEFINE_integer('max_rows', 0, 'The first rows of --file alone; 0: all.')
    flags.DEFINE_string('workdir', '', 'Folder of a run.')
    flags.DEFINE_list('explanations', [], 'Names of its phases explain.')
    flags.DEFINE_list('splits', ['test'], 'Whose examples count.')
    flags.DEFINE_string('scorer', 'tiny', 'A BART directory (BARTScore), a decoder\'s (LMScore), tiny, or none.')
    flags.DEFINE_string('out', None, 'Folder for texts.parquet and texts.json.', required=True)
    cli.run(main)
