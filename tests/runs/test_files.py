"""Files on a disk and in a bucket, which here is a folder that behaves like one."""

import io
import json
import os
import pathlib

from etils import epath
from etils.epath import backend, gpath
from ml_collections import ConfigDict
import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.errors import UserError
from xrec_jax.runs import files
from xrec_jax.runs.metrics_writer import MetricsWriter, read_metrics
from xrec_jax.runs.parts import PartsWriter
from xrec_jax.runs.summary import update_summary
from xrec_jax.runs.workdir import open_workdir

SCHEMA = pa.schema([('row', pa.int32()), ('step', pa.int32())])


class Bucket:
    """A backend of `epath` for gs://: objects appear when all of them is written, and none grows."""

    def __init__(self, root: pathlib.Path):
        self.root, self.written = root, []

    def local(self, path) -> str:
        path = os.fspath(path)
        assert path.startswith('gs://')
        return str(self.root / path.removeprefix('gs://'))

    def open(self, path, mode):
        if 'r' in mode:
            return open(self.local(path), mode)
        assert 'w' in mode, f'mode {mode}: objects do not grow'
        bucket = self

        class Object(io.BytesIO if 'b' in mode else io.StringIO):
            def close(self):
                if not self.closed:
                    target = pathlib.Path(bucket.local(path))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    content = self.getvalue()
                    target.write_bytes(content if isinstance(content, bytes) else content.encode())
                    bucket.written.append(os.fspath(path))
                super().close()

        return Object()

    def glob(self, path):
        return [f'gs://{pathlib.Path(found).relative_to(self.root)}'
                for found in backend.os_backend.glob(self.local(path))]

    def __getattr__(self, name):
        method = getattr(backend.os_backend, name)
        return lambda path, *more, **settings: method(
            self.local(path), *(self.local(x) if isinstance(x, (str, os.PathLike)) else x for x in more), **settings)


@pytest.fixture(params=['disk', 'bucket'])
def place(request, tmp_path, monkeypatch):
    """A workdir, as its user names it."""
    if request.param == 'disk':
        return str(tmp_path / 'run')
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, 'gs', Bucket(tmp_path))
    monkeypatch.setattr(files, '_packages', lambda scheme: ())
    return 'gs://bucket/run'


def test_a_workdir_lies_on_a_disk_or_in_a_bucket(place):
    config = ConfigDict({'seed': 0, 'schedule': ('fit(a)',), 'mesh': {'data': 1}})
    workdir = open_workdir(place, config)
    assert json.loads((workdir / 'config.json').read_text())['seed'] == 0
    config.mesh.data = 4  # another machine is no other run
    open_workdir(place, config)
    config.seed = 1
    with pytest.raises(UserError, match='seed: 0 there, 1 now'):
        open_workdir(place, config)

    metrics = MetricsWriter(workdir)
    for step in (1, 2, 3):
        metrics.write('fit', step, {'loss': step})
    metrics.rewind('fit', 2)
    assert [row['step'] for row in read_metrics(metrics.path)] == [1, 2]
    update_summary(workdir, {'a': 1})
    assert json.loads(update_summary(workdir, {'b': 2}).read_text()) == {'a': 1, 'b': 2}
    with files.folder(workdir / 'adapters' / 'x') as folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'weights').write_bytes(b'1')
    assert (workdir / 'adapters' / 'x' / 'weights').read_bytes() == b'1'


def test_files_that_grow_are_sent_again_and_others_are_not(place, monkeypatch):
    written, write_whole = [], files.write_whole
    monkeypatch.setattr(files, 'write_whole', lambda path, *more: (written.append(path.name), write_whole(path, *more)))
    folder = files.as_path(place) / 'tensorboard'
    local, send = files.mirror(folder)
    (local / 'deep').mkdir(parents=True)
    (local / 'deep' / 'same').write_text('a')
    for content in ('b', 'bc'):
        (local / 'events').write_text(content)
        send()
    send()
    assert (folder / 'events').read_text() == 'bc' and (folder / 'deep' / 'same').read_text() == 'a'
    assert written == ([] if local == folder else ['same', 'events', 'events'])


def write_steps(place, *steps, rewind=None):
    writer = PartsWriter(files.as_path(place) / 'explanations' / 'p.parquet', SCHEMA)
    if rewind is not None:
        writer.rewind(rewind)
    for step in steps:
        writer.add(row=np.arange(2, dtype=np.int32), step=step)
        writer.flush(step)
    return writer


def test_a_table_is_rewound_on_a_disk_and_in_a_bucket(place):
    write_steps(place, 1, 2, 3)
    writer = write_steps(place, 2, 3, rewind=1)
    assert writer.last_step == 3
    table = files.read_table(writer.finish())
    assert writer.finished and table['step'].to_pylist() == [1, 1, 2, 2, 3, 3]
    # Its last checkpoint was lost: the rows behind the one before have to go, though the table was finished.
    again = write_steps(place, 3, rewind=2)
    assert files.read_table(again.finish()).equals(table)


def test_parts_that_no_manifest_counts_are_nobodys(place):
    """Another process was killed before all had written theirs."""
    writer = write_steps(place, 1)
    folder = files.as_path(place) / 'explanations' / 'p.parts'
    (folder / '00000002-00003.parquet').write_bytes((folder / '00000001-00000.parquet').read_bytes())
    writer = write_steps(place, 2, rewind=writer.last_step)
    assert files.read_table(writer.finish())['step'].to_pylist() == [1, 1, 2, 2]


def test_only_the_writing_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, '_writes', False)
    path = tmp_path / 'file'
    files.write_whole(path, lambda partial: partial.write_text('a'))
    files.append(path, 'b')
    assert not path.exists()
    files.write_whole(path, lambda partial: partial.write_text('own'), everywhere=True)
    assert path.read_text() == 'own'


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / 'file'
    files.write_whole(path, lambda partial: partial.write_text('old'))

    def half(partial):
        partial.write_text('ne')
        raise OSError(28, 'No space left on device')

    with pytest.raises(OSError):
        files.write_whole(path, half)
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file']


def test_a_bucket_whose_package_is_missing_is_told_at_once(monkeypatch):
    monkeypatch.setattr(files, '_packages', lambda scheme: ('no_such_package',))
    with pytest.raises(UserError, match='pip install no_such_package'):
        files.as_path('gs://bucket/run')
    assert isinstance(files.as_path('runs/a'), pathlib.Path) and not isinstance(files.as_path('runs/a'), epath.Path)
