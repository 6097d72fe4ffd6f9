"""Downloads from a server on this machine that breaks off, forgets what Range is, and changes its files."""

import errno
import fcntl
import hashlib
import os
import re

import pytest

from tests.data.small import Site, serve
from xrec_jax.data import fetch
from xrec_jax.errors import UserError

DATA = bytes(range(256)) * 4000  # a megabyte
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(fetch, 'BLOCK', 1000)  # so that a cut does not lie at the end of a read
    for name in ('http_proxy', 'HTTP_PROXY'):
        monkeypatch.delenv(name, raising=False)
    with serve(Site(DATA)) as site:
        yield site


def download(site, md5=MD5):
    return fetch.Download(f'{site.url}/x.zip', md5)


def broken_off(site, folder, size, md5=MD5):
    """Leaves a download in `folder` that broke off after `size` bytes."""
    site.cut = [size, 0]
    with pytest.raises(UserError, match=r'the connection broke off after .* MB; run the same command again'):
        fetch.fetch(download(site, md5), folder)
    assert sorted(os.listdir(folder)) == ['x.zip.part', 'x.zip.part.json']
    assert (folder / 'x.zip.part').read_bytes() == site.data[:size]
    site.cut = []
    site.requests.clear()


def whole(folder, data=DATA):
    """Nothing but the file is there."""
    return os.listdir(folder) == ['x.zip'] and (folder / 'x.zip').read_bytes() == data


def test_a_download_comes_whole(tmp_path, site, capsys):
    fetch.fetch(download(site), tmp_path / 'new' / 'folder')
    assert whole(tmp_path / 'new' / 'folder') and site.asked == [None]
    captured = capsys.readouterr()
    assert captured.err == f'fetching {site.url}/x.zip\n' and not captured.out  # a bar is for terminals


def test_a_broken_connection_is_taken_up_at_once_where_it_broke(tmp_path, site):
    site.cut = [300_007, 200_000]
    fetch.fetch(download(site), tmp_path)
    assert whole(tmp_path) and site.asked == [None, 'bytes=300007-', 'bytes=500007-']


def test_a_later_run_goes_on_where_an_earlier_one_broke_off(tmp_path, site, capsys):
    broken_off(site, tmp_path, 700_000)
    capsys.readouterr()
    fetch.fetch(download(site), tmp_path)
    assert whole(tmp_path) and site.asked == ['bytes=700000-'] and site.requests[0]['if-range'] == '"one"'
    assert '0.7 MB of it are here' in capsys.readouterr().err


def test_a_server_of_dates_alone_is_resumed_too(tmp_path, site):
    site.etag, site.modified = 'W/"weak"', 'Wed, 21 Oct 2015 07:28:00 GMT'
    broken_off(site, tmp_path, 10)
    fetch.fetch(download(site), tmp_path)
    assert whole(tmp_path) and site.asked == ['bytes=10-'] and site.requests[0]['if-range'] == site.modified


def test_a_whole_part_is_not_asked_for_again(tmp_path, site, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch(download(site), tmp_path)
    site.requests.clear()
    fetch.fetch(download(site), tmp_path)
    assert whole(tmp_path) and not site.requests


@pytest.mark.parametrize('change', [
    lambda site: setattr(site, 'ranges', False),
    lambda site: (setattr(site, 'ranges', False), setattr(site, 'etag', '"two"')),
    lambda site: setattr(site, 'etag', '"two"'),
    lambda site: (setattr(site, 'etag', ''), setattr(site, 'modified', '')),
], ids=['no ranges', 'no ranges and another tag', 'another tag', 'no tag'])
def test_what_cannot_be_resumed_starts_anew(tmp_path, site, change):
    broken_off(site, tmp_path, 700_000)
    site.data = DATA[::-1]
    change(site)
    fetch.fetch(download(site, md5=''), tmp_path)
    assert whole(tmp_path, DATA[::-1])


def test_a_part_of_no_known_version_is_not_gone_on_with(tmp_path, site):
    site.etag, site.cut = '', [700_000]
    fetch.fetch(download(site), tmp_path)
    assert whole(tmp_path) and site.asked == [None, None]


def test_a_part_of_another_address_starts_anew(tmp_path, site):
    broken_off(site, tmp_path, 700_000)
    other = fetch.Download(site.url + '/elsewhere/x.zip', MD5)
    fetch.fetch(other, tmp_path)
    assert whole(tmp_path) and site.asked == [None]


def test_a_part_without_its_facts_starts_anew(tmp_path, site):
    (tmp_path / 'x.zip.part').write_bytes(b'of unknown origin')
    fetch.fetch(download(site), tmp_path)
    assert whole(tmp_path) and site.asked == [None]


def test_a_server_that_ignores_if_range_is_told_by_its_tag_and_length(tmp_path, site):
    class Careless(str):  # equals every tag that is asked for
        __eq__ = lambda self, other: True
        __hash__ = str.__hash__

    broken_off(site, tmp_path, 700_000)
    site.etag, site.data = Careless('"two"'), DATA[::-1]
    fetch.fetch(download(site, md5=''), tmp_path)
    assert whole(tmp_path, DATA[::-1]) and site.asked == ['bytes=700000-', None]

    os.remove(tmp_path / 'x.zip')
    site.etag = '"two"'
    broken_off(site, tmp_path, 700_000, md5='')
    site.data = DATA[::-1] + b'more'
    fetch.fetch(download(site, md5=''), tmp_path)
    assert whole(tmp_path, DATA[::-1] + b'more') and site.asked == ['bytes=700000-', None]


def test_a_part_longer_than_the_file_now_is_starts_anew(tmp_path, site):
    broken_off(site, tmp_path, 700_000)
    site.data = DATA[:1000]
    fetch.fetch(download(site, md5=''), tmp_path)
    assert whole(tmp_path, DATA[:1000]) and site.asked == ['bytes=700000-', None]


def test_a_server_that_always_breaks_off_at_the_start_is_given_up(tmp_path, site):
    site.ranges, site.cut = False, [500] * 10
    with pytest.raises(UserError, match='broke off after'):
        fetch.fetch(download(site), tmp_path)
    assert len(site.requests) == 2


def test_a_file_of_unknown_length_comes_whole_or_not_at_all(tmp_path, site):
    site.chunked = True
    fetch.fetch(download(site), tmp_path)
    assert whole(tmp_path)
    os.remove(tmp_path / 'x.zip')
    site.ranges, site.cut = False, [900_000, 900_000]
    with pytest.raises(UserError, match='broke off after'):
        fetch.fetch(download(site, md5=''), tmp_path)
    assert not (tmp_path / 'x.zip').exists()


def test_a_wrong_file_is_not_kept(tmp_path, site):
    site.data = DATA[:-9]
    with pytest.raises(UserError, match=f'what came has md5 .* archive\'s is {MD5}; nothing was kept'):
        fetch.fetch(download(site), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_resumed_file_is_verified_as_a_whole(tmp_path, site):
    broken_off(site, tmp_path, 700_000)
    part = tmp_path / 'x.zip.part'
    part.write_bytes(b'X' + part.read_bytes()[1:])
    with pytest.raises(UserError, match='what came has md5'):
        fetch.fetch(download(site), tmp_path)
    assert os.listdir(tmp_path) == [] and site.asked == ['bytes=700000-']


@pytest.mark.parametrize('status, reason', [(404, '404 Not Found'), (403, '403 Forbidden')])
def test_a_refusal_says_where_to_put_the_file(tmp_path, site, status, reason):
    site.status = status
    with pytest.raises(UserError) as error:
        fetch.fetch(download(site), tmp_path / 'new')
    assert str(error.value) == (f'cannot fetch {site.url}/x.zip ({reason}). Download it elsewhere and put it at '
                                f'{tmp_path}/new/x.zip (md5 {MD5})')
    assert os.listdir(tmp_path / 'new') == []


def test_without_a_server_it_says_where_to_put_the_file(tmp_path):
    with serve(Site()) as gone:
        pass
    with pytest.raises(UserError, match=rf'cannot fetch .*refused.*put it at {re.escape(str(tmp_path))}/x.zip'):
        fetch.fetch(download(gone), tmp_path)
    assert os.listdir(tmp_path) == []


def test_without_a_server_an_earlier_part_is_kept(tmp_path):
    with serve(Site(DATA)) as site:
        broken_off(site, tmp_path, 1000)
    with pytest.raises(UserError, match='cannot fetch'):
        fetch.fetch(download(site), tmp_path)
    assert (tmp_path / 'x.zip.part').read_bytes() == DATA[:1000]


def test_a_full_disk_is_said_plainly(tmp_path, site, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='the disk is full'):
        fetch.fetch(download(site), tmp_path)
    assert not (tmp_path / 'x.zip').exists()


def test_two_do_not_fetch_the_same_file_at_once(tmp_path, site):
    with open(tmp_path / 'x.zip.part', 'ab') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match='another process is fetching it'):
            fetch.fetch(download(site), tmp_path)
    assert not site.requests


def test_a_name_is_the_last_part_of_an_address():
    assert fetch.Download('https://x.org/a/b%20c.json.gz?download=1').name == 'b c.json.gz'


def test_verify_passes_what_is_not_there_and_what_has_no_checksum(tmp_path):
    fetch.verify(fetch.Download('https://x.org/x.zip', MD5), tmp_path)
    (tmp_path / 'x.zip').write_bytes(DATA[:5])
    fetch.verify(fetch.Download('https://x.org/x.zip'), tmp_path)
    with pytest.raises(UserError, match=r'x\.zip: its md5 is .*; it is truncated or not the original'):
        fetch.verify(fetch.Download('https://x.org/x.zip', MD5), tmp_path)
