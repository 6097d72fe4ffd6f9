"""A miniature of MovieLens-100k as GroupLens publishes it, and a web server for the tests of fetching."""

import contextlib
import dataclasses
import http.server
import pathlib
import threading
from collections.abc import Iterator

_GENRES = 19


def _flags(*genres: int) -> str:
    return '|'.join('1' if genre in genres else '0' for genre in range(_GENRES))


FILES = {
    'u.data': '1\t2\t5\t881250949\n2\t1\t3\t891717742\n1\t3\t1\t878887116\n',
    'u.user': '1|24|M|technician|85711\n2|53|F|other|94043\n',
    'u.item': (
        f'1|Toy Story (1995)|01-Jan-1995||http://x|{_flags(3, 5)}\n'
        f'2|Misérables, Les (1995)|01-Jan-1995||http://x|{_flags(8, 12, 17)}\n'
        f'3|unknown||||{_flags(0)}\n'),
}


def publish(folder: pathlib.Path) -> pathlib.Path:
    """Writes `FILES` to `folder`."""
    folder.mkdir(exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_bytes(text.encode('latin-1'))
    return folder


@dataclasses.dataclass
class Site:
    """What a server offers at any address, how it behaves, and the requests that it got."""

    data: bytes = b''
    etag: str = '"one"'
    modified: str = ''
    ranges: bool = True  # whether it knows Range and If-Range
    cut: list[int | None] = dataclasses.field(default_factory=list)  # break off after so many bytes, request by request
    chunked: bool = False
    status: int = 200
    url: str = ''
    requests: list[dict[str, str]] = dataclasses.field(default_factory=list)

    @property
    def asked(self) -> list[str | None]:
        """The Range of each request."""
        return [request.get('range') for request in self.requests]


@contextlib.contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serves `site` at `site.url` while the block runs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_GET(self):
            headers = {key.lower(): value for key, value in self.headers.items()}
            site.requests.append(headers)
            start, version = 0, site.etag if site.etag and not site.etag.startswith('W/') else site.modified
            if site.ranges and 'range' in headers and headers.get('if-range', version) == version:
                start = int(headers['range'].removeprefix('bytes=').removesuffix('-'))
            if site.status != 200 or start and start >= len(site.data):
                self.send_error(site.status if site.status != 200 else 416)
                return
            body = site.data[start:]
            self.send_response(206 if start else 200)
            if site.etag:
                self.send_header('ETag', site.etag)
            if site.modified:
                self.send_header('Last-Modified', site.modified)
            if start:
                self.send_header('Content-Range', f'bytes {start}-{len(site.data) - 1}/{len(site.data)}')
            if site.chunked:
                self.send_header('Transfer-Encoding', 'chunked')
            else:
                self.send_header('Content-Length', str(len(body)))
            self.send_header('Connection', 'close')
            self.end_headers()
            cut = site.cut.pop(0) if site.cut else None
            sent = body[:cut]
            if site.chunked:
                sent = b'%x\r\n%s\r\n' % (len(sent), sent) if sent else b''
                sent += b'0\r\n\r\n' if cut is None else b''
            self.wfile.write(sent)
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        site.url = f'http://127.0.0.1:{server.server_address[1]}/files'
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
