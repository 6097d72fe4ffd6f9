"""Rows of delimited text told apart: against Python's csv module, in blocks of any size, and where it is broken."""

import csv
import functools
import io
import re

import numpy as np
import pytest

from xrec_jax.data import raw
from xrec_jax.data.readers import quoted
from xrec_jax.errors import UserError

COMMA = quoted.Format()
TAB = quoted.Format(delimiter='\t', quote='')


def publish(tmp_path, data: bytes | str) -> raw.RawFile:
    (tmp_path / 'x.csv').write_bytes(data.encode() if isinstance(data, str) else data)
    return raw.on_disk(tmp_path / 'x.csv')


def read(file: raw.RawFile, form: quoted.Format = COMMA, policy: str = 'raise') -> tuple[list[list[str]], list[int],
                                                                                         raw.BadRows]:
    """The rows below the header, the line of each, and what was passed over."""
    rows, lines, bad = [], [], raw.BadRows(policy)
    for part in quoted.stream(file, form, lambda first: {f'{i}{name}': i for i, name in enumerate(first)}, bad):
        rows += [list(row.values()) for row in part.columns.to_pylist()]
        lines += part.lines.tolist()
        assert part.keep.all() and part.columns.num_rows == len(part.lines)
    return rows, lines, bad


def blocks_of(monkeypatch, size: int) -> None:
    monkeypatch.setattr(raw.RawFile, 'blocks', functools.partialmethod(raw.RawFile.blocks, size=size))


WORDS = ['', 'a', 'ü', 'two words', 'a,b', 'a\nb', 'a\r\nb', '\n', '"', '"x"', 'say "x", and\nmore', "it's", '""', ',',
         ' ']


@pytest.mark.parametrize('size', [1, 7, 64, 1 << 24])
@pytest.mark.parametrize('quoting, end',
                         [(csv.QUOTE_MINIMAL, '\r\n'), (csv.QUOTE_ALL, '\n'), (csv.QUOTE_MINIMAL, '\n')])
def test_what_the_csv_module_writes_is_read_again_with_its_lines(tmp_path, monkeypatch, size, quoting, end):
    rng = np.random.Generator(np.random.Philox(size))
    wanted = [['name', 'next', 'last']] + [[WORDS[i] for i in row] for row in rng.integers(len(WORDS), size=(40, 3))]
    text, lines = io.StringIO(newline=''), []
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    for row in wanted:
        lines.append(text.getvalue().count('\n') + 1)
        writer.writerow(row)
    blocks_of(monkeypatch, size)
    rows, found, _ = read(publish(tmp_path, text.getvalue()))
    assert rows == wanted[1:] and found == lines[1:]


def test_a_quote_in_mid_field_is_a_letter(tmp_path):
    text = 'a,b\n12" pizza,1\n5\' 10" tall,"x, ""y""\nz"\nplain,2\n6" sub,3\n'
    rows, lines, _ = read(publish(tmp_path, text))
    assert rows == [['12" pizza', '1'], ['5\' 10" tall', 'x, "y"\nz'], ['plain', '2'], ['6" sub', '3']]
    assert lines == [2, 3, 5, 6]


def test_without_a_quote_character_quotes_are_letters_everywhere(tmp_path):
    rows, lines, _ = read(publish(tmp_path, 'a\tb\n"Great Performances" Cats\t1\n"\t2\n'), TAB)
    assert rows == [['"Great Performances" Cats', '1'], ['"', '2']] and lines == [2, 3]


def test_byte_order_mark_blank_lines_and_a_last_line_without_end(tmp_path):
    rows, lines, _ = read(publish(tmp_path, b'\xef\xbb\xbf\n a , b \r\n\r\n1,2\n\n3,4'))
    assert rows == [['1', '2'], ['3', '4']] and lines == [4, 6]


def test_the_first_row_names_the_columns_or_is_one(tmp_path):
    file = publish(tmp_path, ' a ,"b, ""c""",\n1,2,3\n')
    for header, wanted in ((True, ['3']), (False, ['', '3'])):
        seen = []
        parts = list(quoted.stream(file, COMMA, lambda first: seen.append(first) or {'x': 2}, raw.BadRows(),
                                   header=header))
        assert seen == [['a', 'b, "c"', '']] and [row for part in parts for row in part['x'].to_pylist()] == wanted


def test_latin_1_only_where_it_is_said(tmp_path):
    file = publish(tmp_path, 'a,b\n1,2\nMisérables,"é\né"\n'.encode('latin-1'))
    with pytest.raises(UserError, match='x.csv, line 3: byte 0xe9 is not UTF-8.* encoding=latin-1'):
        read(file)
    assert read(file, quoted.Format(encoding='latin-1'))[0][1] == ['Misérables', 'é\né']


OPEN = 'a,b\n1,2\n3,"4\n5,6\n'


@pytest.mark.parametrize('size', [1, 9, 1 << 24])
@pytest.mark.parametrize('data, message, kept', [
    (OPEN, 'x.csv, line 3: a field begins with a quote, and does not end with one', ['12', '56']),
    ('a,b\n1,2\n3,"4" more\n5,6\n', "x.csv, line 3: a field begins with a quote.*'3,\"4\" more", ['12', '56']),
    ('a,b\n1,2\n3,"4\n5,"6"\n7,8\n', 'x.csv, line 3: a field begins', ['12', '56', '78']),
    ('a,b\n"1\n",2\n3\n5,6\n', 'x.csv, line 4: has 1 fields, should have 2', ['1\n2', '56']),
    ('a,b\n"1\n",2\n3,4,5\n5,6\n', 'x.csv, line 4: has 3 fields, should have 2', ['1\n2', '56']),
    ('a,b\n1,2\n3\r,4\n5,6\n', 'x.csv, line 3: a carriage return stands within the line', ['12', '56']),
    ('a,b\n1,2\n   \n5,6\n', 'x.csv, line 3: has 1 fields', ['12', '56']),
], ids=lambda x: x[:24] if isinstance(x, str) else None)
def test_a_broken_row_is_told_by_its_line_or_passed_over_alone(tmp_path, monkeypatch, size, data, message, kept):
    blocks_of(monkeypatch, size)
    file = publish(tmp_path, data)
    with pytest.raises(UserError, match=message):
        read(file)
    rows, _, bad = read(file, policy='skip')
    assert [''.join(row) for row in rows] == kept and bad.skipped == {'x.csv': 1}


def test_a_quote_that_never_closes_costs_no_more_than_its_line(tmp_path, monkeypatch):
    """Else it would swallow the rest of the file, or hold all of it in memory."""
    blocks_of(monkeypatch, 1 << 12)
    monkeypatch.setattr(quoted, 'MAX_ROW', 1 << 14)
    lines = [f'{n},x\n' for n in range(20_000)]
    lines[100] = '100,"x\n'
    lines[15_000] = '15000\n'
    file = publish(tmp_path, 'a,b\n' + ''.join(lines))
    rows, found, bad = read(file, policy='skip')
    assert len(rows) == 19_998 and bad.skipped == {'x.csv': 2}
    assert [[row[0], line - 2] for row, line in zip(rows, found) if int(row[0]) != line - 2] == []


def test_many_quotes_in_mid_field_stay_cheap(tmp_path):
    file = publish(tmp_path, 'a,b\n' + 'a 12" pizza,1\n' * 50_000)
    assert len(read(file)[0]) == 50_000  # each costs the same


@pytest.mark.parametrize('data, message', [
    (b'', 'x.csv: is empty'),
    (b'a,b\n', 'x.csv: has no rows'), (b'a,b\n\n\n', 'x.csv: has no rows'),
    ('a,b\n1,2\n'.encode('utf-16'), 'x.csv, line 1: .*UTF-16'),
    (b'"a,b\n1,2\n', 'x.csv, line 1: is not a row of fields')])
def test_a_file_that_is_none_is_refused(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        read(publish(tmp_path, data))


def test_a_first_line_that_is_no_row_of_names(tmp_path):
    with pytest.raises(UserError, match='x.csv, line 1: is not a row of names .field larger'):
        read(publish(tmp_path, 'a' * 200_000 + ',b\n1,2\n'))


@pytest.mark.parametrize('options, message', [
    (dict(delimiter='::'), "delimiter='::': should be one character"),
    (dict(delimiter=''), "delimiter='': should be one"),
    (dict(delimiter='\n'), 'should be one character'), (dict(quote='""'), "quote='\"\"': should be one character"),
    (dict(quote=','), "delimiter=',': is the quote too"),
    (dict(encoding='utf8'), "encoding='utf8': should be one of utf-8")])
def test_formats_that_cannot_be_meant(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        quoted.Format(**options)
