"""Raw files: found wherever they are, read in blocks of whole lines, and never trusted."""

import gzip
import io
import pathlib
import random
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from xrec_jax.data import raw
from xrec_jax.errors import UserError

TEXT = b'first\n\nthird line\n' + b'x' * 40 + b'\n\n\nlast\n'


def write_zip(path: pathlib.Path, **files: bytes) -> bytes:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path.read_bytes()


def write_tar(path: pathlib.Path, **files: bytes) -> bytes:
    with tarfile.open(path, 'w' if path.suffix == '.tar' else 'w:gz') as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.read_bytes()


WRITERS = {'x.zip': write_zip, 'x.tar': write_tar, 'x.tar.gz': write_tar, 'x.tgz': write_tar}


def content(file: raw.RawFile, **options) -> bytes:
    return b''.join(block.data for block in file.blocks(**options))


def in_memory(data: bytes) -> raw.RawFile:
    return raw.RawFile('folder/data.txt', lambda: io.BytesIO(data))


# --------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize('size', [1, 2, 5, 6, 7, 17, 18, 19, 64, 1 << 24])
def test_blocks_of_any_size_give_the_same_numbered_lines(size):
    numbered = []
    for block in in_memory(TEXT).blocks(size=size):
        assert block.data.endswith(b'\n')
        numbered += enumerate(block.data.split(b'\n')[:-1], block.line)
    assert numbered == list(enumerate(TEXT.split(b'\n')[:-1], 1))


def test_blocks_are_about_as_long_as_asked_for():
    data = b''.join(b'%d\n' % n for n in range(10_000))
    lengths = [len(block.data) for block in in_memory(data).blocks(size=1000)]
    assert len(lengths) > 40 and max(lengths) < 1010 and sum(lengths) == len(data)


@pytest.mark.parametrize('size', [1, 4, 1000])
def test_a_missing_last_line_end_is_added_or_called_a_cut(size):
    assert content(in_memory(TEXT[:-1]), size=size) == TEXT
    assert content(in_memory(TEXT), size=size, whole_lines=True) == TEXT
    with pytest.raises(UserError, match=r'data.txt, line 7: is cut off \(no line end\); the file is truncated'):
        content(in_memory(TEXT[:-1]), size=size, whole_lines=True)
    with pytest.raises(UserError, match='data.txt, line 1: is cut off'):
        content(in_memory(b'x'), size=size, whole_lines=True)


def test_an_empty_file_is_refused():
    with pytest.raises(UserError, match='data.txt: is empty'):
        content(in_memory(b''))
    assert content(in_memory(b'\n')) == b'\n'  # one blank line


def test_a_reader_may_stop_early():
    blocks = in_memory(b'line\n' * 1000).blocks(size=50)
    assert next(blocks).line == 1
    blocks.close()


class Endless(io.RawIOBase):
    """`total` bytes without a line end, after `start`; counts what was taken of it."""

    def __init__(self, total: int, start: bytes = b''):
        self.left, self.start, self.taken = total, start, 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0
        start, self.start = self.start[:size], self.start[size:]
        count = min(size - len(start), self.left)
        self.left -= count
        self.taken += count
        return start + b'x' * count


def test_a_line_of_a_gigabyte_is_refused_in_little_memory(monkeypatch):
    monkeypatch.setattr(raw, 'MAX_LINE', 1 << 22)
    stream = Endless(1 << 30, start=b'fine\n\n')
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match='data.txt, line 3: is longer than 4 MiB; the file is damaged or not text'):
            content(raw.RawFile('data.txt', lambda: stream), size=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stream.taken <= (1 << 22) + (2 << 20)
    assert peak < 16 << 20


def test_a_gz_that_blows_up_to_one_line_is_refused_in_little_memory(tmp_path):
    with gzip.open(tmp_path / 'bomb.txt.gz', 'wb', compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert (tmp_path / 'bomb.txt.gz').stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match='bomb.txt.gz, line 1: is longer than 16 MiB'):
            content(raw.find(tmp_path, ['bomb.txt'])['bomb.txt'], size=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20


@pytest.mark.parametrize('size', [3, 8, 9, 10])
def test_the_longest_line_may_lie_anywhere_to_block_borders(monkeypatch, size):
    """A block that begins with a line end closes the line before it, and is not itself one."""
    monkeypatch.setattr(raw, 'MAX_LINE', 8)
    for before in range(12):
        data = b'a\n' * (before // 2) + b'a' * (before % 2) + b'\n12345678\n' + b'b\n' * 9
        assert content(in_memory(data), size=size) == data
        if size <= 8:  # longer blocks may hold such a line whole, at no cost
            with pytest.raises(UserError, match=f'line {before // 2 + 2}: is longer'):
                content(in_memory(data.replace(b'12345678', b'123456789' * 2)), size=size)


def test_the_whole_content_has_its_limit():
    assert in_memory(TEXT).read_bytes() == in_memory(TEXT).read_bytes(limit=len(TEXT)) == TEXT
    with pytest.raises(UserError, match='data.txt: is longer than 10 bytes'):
        in_memory(TEXT).read_bytes(limit=10)


# ------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize('cut', [1, 8, 9, 30])
def test_a_truncated_gz_is_named(tmp_path, cut):
    whole = gzip.compress(TEXT * 50)
    (tmp_path / 'a.txt.gz').write_bytes(whole[:-cut])
    file = raw.find(tmp_path, ['a.txt'])['a.txt']
    with pytest.raises(UserError, match='a.txt.gz, line .*: cannot be decompressed .*truncated or damaged'):
        content(file, size=100)
    with pytest.raises(UserError, match='a.txt.gz: cannot be decompressed'):
        file.read_bytes()


def test_the_line_where_a_gz_breaks_off_is_told(tmp_path):
    first = gzip.compress(b'1\n2\n3\n')
    (tmp_path / 'a.gz').write_bytes(first + b'what is this')  # gzip files may be concatenated, but with gzip files
    with pytest.raises(UserError, match='a.gz, line 4: cannot be decompressed'):
        content(raw.on_disk(tmp_path / 'a.gz'), size=2)


@pytest.mark.parametrize('name', ['a.txt.gz', 'x.zip', 'x.tar', 'x.tar.gz'])
def test_what_is_no_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b'<html>404</html>\n')
    with pytest.raises(UserError, match=f'{name}.*: cannot be decompressed .*truncated or damaged'):
        content(raw.find(tmp_path, ['a.txt'])['a.txt'])


def test_a_truncated_zip_is_named(tmp_path):
    data = write_zip(tmp_path / 'x.zip', **{'a.txt': TEXT})
    (tmp_path / 'x.zip').write_bytes(data[:-30])
    with pytest.raises(UserError, match='x.zip: cannot be decompressed'):
        raw.find(tmp_path, ['a.txt'])


@pytest.mark.parametrize('what, field, value', [('unknown compression', 8, 99), ('a password', 6, 1)])
def test_a_zip_that_nobody_here_can_open_is_named(tmp_path, what, field, value):
    data = bytearray(write_zip(tmp_path / 'x.zip', **{'a.txt': TEXT}))
    struct.pack_into('<H', data, field, value)  # in the local header, and in the directory
    struct.pack_into('<H', data, data.index(b'PK\1\2') + field + 2, value)
    (tmp_path / 'x.zip').write_bytes(data)
    with pytest.raises(UserError, match='x.zip/a.txt, line 1: cannot be decompressed'):
        content(raw.find(tmp_path, ['a.txt'])['a.txt'])


@pytest.mark.parametrize('archive', ['x.zip', 'x.tar.gz', 'x.tgz', 'a.txt.gz'])
def test_no_damage_to_an_archive_goes_unnoticed(tmp_path, archive):
    """All of these have checksums; a plain tar has none for its content."""
    text = b''.join(b'%d\t%d\n' % (n * n % 97, n) for n in range(60))
    whole = WRITERS[archive](tmp_path / archive, **{'m/a.txt': text}) if archive in WRITERS else gzip.compress(text)
    rng = random.Random(0)
    refused = 0
    for trial in range(150):
        data, at = bytearray(whole), rng.randrange(len(whole))
        if trial % 3 == 0:
            data[at] ^= rng.randrange(1, 256)
        elif trial % 3 == 1:
            del data[at:]
        else:
            del data[at:at + rng.randrange(1, 20)]
        (tmp_path / archive).write_bytes(data)
        try:
            found = raw.find(tmp_path, ['a.txt'])
            assert not found or content(found['a.txt'], size=100) == text, trial
        except UserError as error:
            refused += 1
            assert archive in str(error)
    assert refused > 100


def test_a_truncated_tar_is_named(tmp_path):
    data = write_tar(tmp_path / 'x.tar', **{'a.txt': TEXT * 100})
    (tmp_path / 'x.tar').write_bytes(data[:1500])
    with pytest.raises(UserError, match='x.tar.*: cannot be decompressed .*unexpected end of data'):
        content(raw.find(tmp_path, ['a.txt'])['a.txt'])


def test_files_that_vanish_or_are_folders_are_named(tmp_path):
    with pytest.raises(UserError, match='gone.txt, line 1: no such file|gone.txt: no such file'):
        content(raw.on_disk(tmp_path / 'gone.txt'))
    with pytest.raises(UserError, match='cannot be read .*directory'):
        content(raw.on_disk(tmp_path))


# -------------------------------------------------------------------------------------- unsafe


UNSAFE = ['/etc/passwd', '../a.txt', 'm/../../a.txt', '..', '\\a.txt', 'm\\..\\..\\a.txt', 'C:\\a.txt', 'c:a.txt']


@pytest.mark.parametrize('archive', WRITERS)
@pytest.mark.parametrize('name', UNSAFE)
def test_archives_with_members_that_leave_them_are_refused(tmp_path, archive, name):
    WRITERS[archive](tmp_path / archive, **{'m/a.txt': TEXT, name: b'bad\n'})
    with pytest.raises(UserError) as error:
        raw.find(tmp_path, ['a.txt'])
    assert f'{tmp_path / archive}: its member "{name}" has a path that leaves the archive' in str(error.value)


def test_dots_in_names_are_no_crime(tmp_path):
    write_zip(tmp_path / 'x.zip', **{'./m..n/.hidden/..a.txt': TEXT, 'a..txt': b'\n'})
    assert content(raw.find(tmp_path, ['..a.txt'])['..a.txt']) == TEXT


def test_links_and_devices_in_a_tar_are_no_files(tmp_path):
    with tarfile.open(tmp_path / 'x.tar', 'w') as archive:
        for name, kind in (('a.txt', tarfile.SYMTYPE), ('b.txt', tarfile.LNKTYPE), ('c.txt', tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, '/etc/passwd'
            archive.addfile(info)
    assert raw.find(tmp_path, ['a.txt', 'b.txt', 'c.txt']) == {}


# ------------------------------------------------------------------------------------- finding


def test_files_are_found_in_the_folder_below_it_and_gzipped(tmp_path):
    (tmp_path / 'below' / 'deep').mkdir(parents=True)
    (tmp_path / 'a.txt').write_bytes(TEXT)
    (tmp_path / 'b.txt.gz').write_bytes(gzip.compress(TEXT))
    (tmp_path / 'below' / 'c.txt').write_bytes(TEXT)
    (tmp_path / 'below' / 'd.txt.gz').write_bytes(gzip.compress(TEXT))
    (tmp_path / 'below' / 'deep' / 'e.txt').write_bytes(TEXT)
    (tmp_path / 'f.txt').mkdir()
    found = raw.find(tmp_path, ['a.txt', 'b.txt', 'c.txt', 'd.txt', 'e.txt', 'f.txt', 'g.txt'])
    assert {name: content(file) for name, file in found.items()} == {name: TEXT for name in (
        'a.txt', 'b.txt', 'c.txt', 'd.txt')}
    assert (found['a.txt'].name, found['b.txt'].name, found['d.txt'].label) == (
        'a.txt', 'b.txt.gz', str(tmp_path / 'below' / 'd.txt.gz'))


@pytest.mark.parametrize('archive', WRITERS)
def test_files_are_found_in_archives_at_any_depth_and_gzipped(tmp_path, archive):
    WRITERS[archive](tmp_path / archive, **{
        'a.txt': TEXT, 'm/n/b.txt': TEXT * 2, 'm/c.txt.gz': gzip.compress(TEXT * 3), '__MACOSX/m/b.txt': b'junk'})
    found = raw.find(tmp_path, ['a.txt', 'b.txt', 'c.txt', 'd.txt'])
    assert {name: content(file, size=50) for name, file in found.items()} == {
        'a.txt': TEXT, 'b.txt': TEXT * 2, 'c.txt': TEXT * 3}
    assert found['b.txt'].label == f'{tmp_path / archive}/m/n/b.txt'
    assert content(found['a.txt']) == TEXT  # a second time
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive]  # nothing was unpacked


def test_what_lies_open_goes_before_archives_and_near_before_far(tmp_path):
    write_zip(tmp_path / 'x.zip', **{'a.txt': b'packed\n', 'b.txt': b'packed\n'})
    (tmp_path / 'below').mkdir()
    (tmp_path / 'below' / 'a.txt').write_bytes(b'below\n')
    found = raw.find(tmp_path, ['a.txt', 'b.txt'])
    assert (content(found['a.txt']), content(found['b.txt'])) == (b'below\n', b'packed\n')
    (tmp_path / 'a.txt').write_bytes(b'here\n')
    assert content(raw.find(tmp_path, ['a.txt'])['a.txt']) == b'here\n'


def test_names_may_hold_wildcards_folders_and_alternatives(tmp_path):
    write_zip(tmp_path / 'train.zip', **{'news.tsv': b'train\n', 'reviews_Books_5.json': b'books\n'})
    write_zip(tmp_path / 'dev.zip', **{'in/dev/news.tsv': b'dev\n'})
    names = ['train/news.tsv', 'dev/news.tsv', 'reviews_*.json', 'other.tsv|reviews_Books_5.json|news.tsv']
    assert [content(file) for file in raw.find(tmp_path, names).values()] == [
        b'train\n', b'dev\n', b'books\n', b'books\n']


def test_a_name_that_fits_several_files_is_refused(tmp_path):
    (tmp_path / 'a.txt').write_bytes(TEXT)
    (tmp_path / 'a.txt.gz').write_bytes(gzip.compress(TEXT))
    with pytest.raises(UserError, match='"a.txt" may be .*a.txt or .*a.txt.gz; keep one of them there'):
        raw.find(tmp_path, ['a.txt'])
    for name in ('x.zip', 'y.zip'):
        write_zip(tmp_path / name, **{'b.txt': TEXT})
    with pytest.raises(UserError, match='"b.txt" may be .*x.zip/b.txt or .*y.zip/b.txt'):
        raw.find(tmp_path, ['b.txt'])


# ------------------------------------------------------------------------------------- bad rows


def test_bad_rows_are_refused_at_the_first_or_counted_by_file():
    file, other = in_memory(b'x'), raw.RawFile('b.txt', io.BytesIO, unit='row')
    with pytest.raises(UserError, match=r'^folder/data.txt, line 7: is odd \(on_bad_row=skip passes over such rows\)$'):
        raw.BadRows().report(file, 7, ': is odd')
    with pytest.raises(UserError, match='^b.txt, row 3, column x: "y"'):
        raw.BadRows().report(other, 3, ', column x: "y"')
    bad = raw.BadRows('skip')
    for where, count in ((file, 1), (other, 5), (file, 2)):
        bad.report(where, 1, ': is odd', count)
    assert bad.skipped == {'data.txt': 3, 'b.txt': 5}


def test_another_policy_for_bad_rows_is_refused():
    with pytest.raises(UserError, match='on_bad_row="skipp". Did you mean "skip"'):
        raw.BadRows('skipp')
