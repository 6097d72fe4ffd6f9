"""Delimited text: its fields, its line numbers whatever the blocks, and all that a line can have wrong."""

import csv
import io
import random

import pytest

from xrec_jax.data import raw
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import delimited
from xrec_jax.errors import UserError

NAMES = ('a', 'b', 'c')


def of(text: str | bytes, encoding: str = 'utf-8') -> RawFile:
    data = text.encode(encoding) if isinstance(text, str) else text
    return RawFile('folder/x.csv', lambda: io.BytesIO(data))


def read(text: str | bytes, delimiter: str = ',', names=NAMES, policy: str = 'raise', **options):
    """Returns rows, lines, and how many were passed over."""
    bad = BadRows(policy)
    found = delimited.read(of(text), names, delimiter, bad, **options)
    assert found.columns.column_names == list(names) and found.keep.all()
    return [tuple(row.values()) for row in found.columns.to_pylist()], found.lines.tolist(), bad.skipped.get('x.csv', 0)


@pytest.fixture(params=[1, 10, 1 << 24])
def blocks(request, monkeypatch):
    """The size of the blocks in which files are read."""
    monkeypatch.setitem(raw.RawFile.blocks.__kwdefaults__, 'size', request.param)
    return request.param


# --------------------------------------------------------------------------------------- fields


def test_all_values_are_text_as_it_stands_and_blanks_are_no_nulls(blocks):
    assert read('1,NULL,\n 02 ,NA,nan\n,,"\n') == (
        [('1', 'NULL', ''), (' 02 ', 'NA', 'nan'), ('', '', '"')], [1, 2, 3], 0)


@pytest.mark.parametrize('delimiter', ['\t', '|', ';', '::', ', ', '+-+'])
def test_delimiters_of_one_or_more_characters(blocks, delimiter):
    text = delimiter.join(['1', 'a:b', 'é']) + '\r\n' + delimiter.join(['2', '', 'x']) + '\r\n'
    assert read(text, delimiter) == ([('1', 'a:b', 'é'), ('2', '', 'x')], [1, 2], 0)


def test_quotes_are_doubled_or_escaped_and_hold_delimiters(blocks):
    assert read('1,"a, ""b""",""\n2,c"d,"e"\n', quote='"') == ([('1', 'a, "b"', ''), ('2', 'c"d', 'e')], [1, 2], 0)
    assert read(r'"1";"a; \"b\"";"\\"' + '\n"2";NULL;""\n', ';', quote='"', escape='\\') == (
        [('1', 'a; "b"', '\\'), ('2', 'NULL', '')], [1, 2], 0)
    assert read('1,"a"\n', names='ab') == ([('1', '"a"')], [1], 0)  # where no quotes are said, they are text


@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_fields_that_a_csv_writer_quotes_come_back(blocks, end):
    rng = random.Random(0)
    written = [[''.join(rng.choice('ab,"; \té\\') for _ in range(rng.randrange(6))) for _ in NAMES] for _ in range(60)]
    escaping = dict(doublequote=False, escapechar='\\', quoting=csv.QUOTE_ALL)
    for dialect, options in ((dict(), dict(quote='"')), (escaping, dict(quote='"', escape='\\'))):
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator=end, **dialect).writerows(written)
        assert read(buffer.getvalue(), **options) == ([tuple(row) for row in written], list(range(1, 61)), 0)


def test_a_header_is_checked_and_counts_as_a_line(blocks):
    for head in ('a,b,c\n', 'a,b,c\r\n', '\ufeffa,b,c\n', '"a","b","c"\n'):
        assert read(head + '1,2,3\n', header=True, quote='"') == ([('1', '2', '3')], [2], 0)
    for head in ('a,b\n', 'b,a,c\n', 'A,b,c\n', 'a;b;c\n', '1,2,3\n', 'a,b,c,d\n'):
        with pytest.raises(UserError, match=r'folder/x.csv, line 1: the columns are .*; should be a, b, c$'):
            read(head + '1,2,3\n', header=True, quote='"')


@pytest.mark.parametrize('text, options, message', [
    ('', {}, 'is empty'), ('a,b,c\n', dict(header=True), 'has no rows'),
    ('1,2\n3\n', dict(policy='skip'), 'has no rows'), ('1,2,3', {}, 'line 1: is cut off')])
def test_a_file_without_rows_is_refused(text, options, message):
    with pytest.raises(UserError, match=f'folder/x.csv.*{message}'):
        read(text, **options)


def test_a_last_line_without_end_may_be_allowed(blocks):
    assert read('1,2,3\n4,5,6', whole_lines=False) == ([('1', '2', '3'), ('4', '5', '6')], [1, 2], 0)


# ------------------------------------------------------------------------------------ bad lines

SOUND = ['1,2,3\n', '4,"5,5",6\n', '7,8,"9"\n', '10,"","11"\n']
WRONG = {
    'too few': ('1,2\n', 'has 2 fields, should have 3 (a, b, c), separated by \',\': \'1,2\''),
    'too many': ('1,2,3,4\n', 'has 4 fields, should have 3'),
    'open quote': ('1,2,"3\n', 'a quote is opened and not closed: b\'1,2,"3\''),
    'open quote at the start': ('"1,2,3\n', 'a quote is opened and not closed'),
    'odd quotes': ('1,"2"","3"\n', 'has 2 fields, should have 3'),
    'carriage return': ('1,2\r,3\n', 'a carriage return stands inside the line: b\'1,2\\r,3\''),
    'carriage returns': ('1,2,3\r4,5,6\r\n', 'a carriage return stands inside the line'),
    'carriage return before the end': ('1,2,3\r\r\n', 'a carriage return stands inside the line'),
}


@pytest.mark.parametrize('wrong', WRONG)
def test_a_bad_line_is_told_or_passed_over_wherever_it_stands(blocks, wrong):
    line, message = WRONG[wrong]
    sound = read(''.join(SOUND), quote='"')[0]
    assert len(sound) == 4
    for at in range(5):
        text = ''.join([*SOUND[:at], line, *SOUND[at:]])
        with pytest.raises(UserError) as error:
            read(text, quote='"')
        assert f'folder/x.csv, line {at + 1}: {message}' in str(error.value)
        assert read(text, quote='"', policy='skip') == (sound, [n for n in range(1, 6) if n != at + 1], 1)


def test_many_bad_lines_are_counted_and_the_rest_keeps_its_numbers(blocks):
    lines = [line for pair in zip(SOUND * 2, [text for text, _ in WRONG.values()]) for line in pair]
    rows, numbers, skipped = read(''.join(lines), quote='"', policy='skip')
    assert rows == read(''.join(SOUND), quote='"')[0] * 2
    assert numbers == [1, 3, 5, 7, 9, 11, 13, 15] and skipped == 8


def test_a_carriage_return_inside_quotes_is_content(blocks):
    assert read('1,"a\rb",3\r\n4,5,6\n', quote='"') == ([('1', 'a\rb', '3'), ('4', '5', '6')], [1, 2], 0)


def test_an_escape_at_the_end_does_not_swallow_the_line_end(blocks):
    text = '"1";"2";"3\\\n"4";"5";"6"\n'
    with pytest.raises(UserError, match='line 1: a quote is opened and not closed'):
        read(text, ';', quote='"', escape='\\')
    assert read(text, ';', quote='"', escape='\\', policy='skip') == ([('4', '5', '6')], [2], 1)


def test_a_blank_line_is_no_row_of_blanks_between_others(blocks):
    """It keeps its line, so that the columns which may not be blank tell it."""
    assert read('1,2,3\n\n4,5,6\n') == ([('1', '2', '3'), ('', '', ''), ('4', '5', '6')], [1, 2, 3], 0)


def test_messages_show_the_delimiter_as_the_publisher_writes_it():
    with pytest.raises(UserError, match="line 1: has 2 fields, should have 3 .*separated by '::': '1::2'"):
        read('1::2\n', '::')
    with pytest.raises(UserError, match=r"line 1: a carriage return .*: b'1\\r::2'"):
        read('1\r::2\n', '::')


def test_the_character_that_stands_in_for_long_delimiters_is_refused(blocks):
    with pytest.raises(UserError, match='folder/x.csv, line 2: holds the control character 0x1f'):
        read('1::2::3\n1::\x1f::3\n', '::')
    assert read('1,\x1f,3\n') == ([('1', '\x1f', '3')], [1], 0)


@pytest.mark.parametrize('delimiter, quote, escape', [
    ('\t', '', ''), (',', '"', ''), (';', '"', '\\'), ('::', '', ''), ('::', '"', '')])
def test_any_text_gives_every_line_as_if_it_stood_alone(delimiter, quote, escape):
    """Or counts it as passed over; no line takes another's place."""
    rng = random.Random(1)
    parts = ['a', 'b', delimiter, delimiter, delimiter, '"', '"', '\\', '\r\n', '\n', '\n', '\r', 'é', ' ', ':']
    options = dict(names='ab', delimiter=delimiter, quote=quote, escape=escape, policy='skip', encoding='latin-1')
    rows_seen = 0
    for trial in range(150):
        data = (''.join(rng.choice(parts) for _ in range(rng.randrange(40))) + '\n').encode('latin-1')
        try:
            rows, numbers, skipped = read(data, **options)
        except UserError as error:
            assert 'has no rows' in str(error)
            continue
        lines = data.split(b'\n')[:-1]
        assert len(rows) + skipped == len(lines) and len(rows) == len(numbers) == len(set(numbers))
        assert [read(lines[n - 1] + b'\n', **options) for n in numbers] == [([row], [1], 0) for row in rows]
        rows_seen += len(rows)
    assert rows_seen > 100


# ------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize('encoding, data, found', [
    ('ascii', 'é'.encode('latin-1'), 'byte 0xe9 where'), ('ascii', 'é'.encode(), 'byte 0xc3 where'),
    ('utf-8', 'é'.encode('latin-1'), 'byte 0xe9 where'), ('utf-8', b'ok \xc3\xa9 \xff', 'byte 0xff where'),
    ('latin-1', 'é'.encode(), 'UTF-8 where'), ('latin-1', b'\x00', 'binary or UTF-16 where'),
    ('any', b'\x00', 'binary or UTF-16 where')])
def test_another_encoding_is_refused_at_its_line(blocks, encoding, data, found):
    text = b'1,2,3\n4,5,6\n' + b'7,' + data + b',9\n1,2,3\n'
    with pytest.raises(UserError) as error:
        read(text, encoding=encoding)
    assert f"folder/x.csv, line 3: {found} the publisher's file is {encoding}" in str(error.value)


def test_a_file_in_utf_16_is_refused_at_once():
    with pytest.raises(UserError, match='folder/x.csv, line 1: binary or UTF-16'):
        read('1,2,3\n'.encode('utf-16'))


@pytest.mark.parametrize('encoding, data, value', [
    ('ascii', b'e', 'e'), ('utf-8', 'é€'.encode(), 'é€'), ('latin-1', b'\xe9', 'é'), ('latin-1', b'e', 'e'),
    ('any', 'é'.encode(), 'Ã©'), ('any', b'\xe9\xff', 'éÿ'), ('utf-8', b'e', 'e')])
def test_text_is_read_in_its_encoding(blocks, encoding, data, value):
    assert read(b'1,' + data + b',3\n4,5,6\n', encoding=encoding) == ([('1', value, '3'), ('4', '5', '6')], [1, 2], 0)
