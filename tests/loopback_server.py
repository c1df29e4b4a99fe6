"""A web server on this machine that does what servers do: breaks off, lies, denies, redirects, sends pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """What the handler does, and what it was asked.

    Attributes:
        files: path -> contents.
        ranges: the server understands Range.
        cut: bytes after which the next answers break off, one entry per answer.
        requests: (path, Range header) in order.
        etag: of every file.
        status: path -> codes of the next answers.
        kind: content type of every file.
        redirects: path -> another one.
        lengths: path -> length that is claimed; None for none.
        stalls: paths that are never answered.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.ranges, self.etag = True, '"one"'
        self.cut: list[int] = []
        self.requests: list[tuple[str, str | None]] = []
        self.status: dict[str, list[int]] = {}
        self.kind = "application/octet-stream"
        self.redirects: dict[str, str] = {}
        self.lengths: dict[str, int | None] = {}
        self.stalls: set[str] = set()
        self.over = threading.Event()
        self.address = ""

    def url(self, path: str = "/data.bin") -> str:
        return self.address + path


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """A server of these files on a free port of the loopback device."""
    state = Server(files)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as http:
        state.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.over.set()
            http.shutdown()
            thread.join()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.requests.append((self.path, asked))
            if self.path in server.stalls:
                server.over.wait(5)
                return
            content = server.files.get(self.path)
            if self.path in server.redirects:
                self.answer(302, Location=server.redirects[self.path])
            elif server.status.get(self.path) or content is None:
                self.answer(server.status[self.path].pop(0) if server.status.get(self.path) else 404)
            else:
                self.send_file(content, asked)

        def answer(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def send_file(self, content: bytes, asked: str | None) -> None:
            first = 0
            if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
                first = int(asked.removeprefix("bytes=").removesuffix("-"))
                if first >= len(content):
                    self.answer(416, Content_Range=f"bytes */{len(content)}")
                    return
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            length = server.lengths.get(self.path, len(content) - first)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.send_header("Content-Type", server.kind)
            if server.etag:
                self.send_header("ETag", server.etag)
            self.end_headers()
            end = first + server.cut.pop(0) if server.cut else len(content)
            self.wfile.write(content[first:end])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
