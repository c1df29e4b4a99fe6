"""One raw file from its mirrors: continued where it stopped, verified while it streams, under its name only when it is right."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from unipot.data.catalog.cards import RawFile
from unipot.data.conversion.disk import in_words, writing_to
from unipot.errors import InputError, UnusableFile

if TYPE_CHECKING:
    from requests import Response, Session

#: environment variable: anything but 0 and nothing forbids every connection
OFFLINE_VARIABLE = "UNIPOT_OFFLINE"
#: s, to connect and between two pieces of an answer
TIMEOUT = (20.0, 60.0)
#: tries in a row that bring no byte before a mirror is given up
MAX_TRIES = 5
#: s; try k waits this times 2^k
BACKOFF = 0.5
CHUNK_BYTES = 1 << 20
_HTML = (b"<!doctype html", b"<html")
#: of an answer that is worth asking again
_BUSY = (429, 500, 502, 503, 504)


class MirrorError(InputError):
    """One mirror does not give the right file; the next one is asked."""


class AccessDenied(MirrorError):
    """One mirror wants to know who asks, or does not let everybody have the file."""


class DownloadError(UnusableFile):
    """No mirror gave the right file.

    Attributes:
        problems: what each one did.
        denied: addresses that do not let everybody have the file.
    """

    def __init__(self, sentence: str, problems: list[str], denied: list[str]) -> None:
        super().__init__(sentence)
        self.problems, self.denied = problems, denied


class OfflineError(UnusableFile):
    """A file would have to be fetched, and no connection may be opened."""


@dataclass(frozen=True)
class Fetched:
    """A file that is complete.

    Attributes:
        path: where it lies.
        size: bytes.
        sha256: of its contents.
    """

    path: Path
    size: int
    sha256: str


def is_offline() -> bool:
    """Whether the user forbids connections, by `$UNIPOT_OFFLINE`."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def download(
    source: RawFile, folder: Path, *, on_progress: Callable[[int, int | None], None] | None = None, max_bytes: int | None = None
) -> Fetched:
    """Fetch `source` to `folder/source.file`.

    A download that was interrupted leaves `<file>.part` and is continued by the next call. A file with a wrong hash or
    size is kept as `<file>.bad`.

    Args:
        source: what to fetch, its mirrors, hashes and size.
        folder: raw folder; made where needed.
        on_progress: called with the bytes so far and the bytes in all (None: not known).
        max_bytes: of a file whose size is not known.

    Raises:
        OfflineError: connections are forbidden.
        OSError: no mirror gave the right file (the message says what each one did), or it cannot be written.
    """
    target = folder / source.file
    if is_offline():
        raise OfflineError(f"{source.file} is not at {target}, and ${OFFLINE_VARIABLE} forbids to fetch it; fetch it by other means")
    problems, denied = [], []
    with writing_to(target, f"downloading {source.file}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _session() as session, _Sink(target, source, max_bytes) as sink:
            for url in source.urls:
                # what another mirror began may be wrong without this one being so: then once more from the start
                sink.continued = sink.continued or sink.size > 0
                try:
                    _fetch(session, url, source, sink, on_progress or (lambda done, total: None))
                    return sink.finish()
                except MirrorError as error:
                    problems.append(f"{url}: {error}")
                    denied += [url] if isinstance(error, AccessDenied) else []
    raise DownloadError(_sentence(source, target, problems), problems, denied)


def is_html(first_bytes: bytes) -> bool:
    """Whether a file begins like a web page: what a server sends in place of a file that is gone or needs a login."""
    return first_bytes.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML)


class _Sink:
    """The unfinished file, its hashes so far, and what is needed to continue it."""

    def __init__(self, target: Path, source: RawFile, max_bytes: int | None = None) -> None:
        self.target, self.source = target, source
        self.limit = source.size if source.size is not None else max_bytes
        self.part = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self._file: BinaryIO | None = None
        self.size = 0
        self.continued = False  # bytes of an earlier process are in it

    def __enter__(self) -> _Sink:
        self._file = open(self.part, "r+b" if self.part.exists() else "w+b")  # noqa: SIM115  (closed by __exit__)
        self._hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
        while piece := self._file.read(CHUNK_BYTES):
            self._count(piece)
        self.continued = self.size > 0
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
            if self.part.exists() and self.part.stat().st_size == 0:  # nothing to continue
                self.part.unlink()
                self._note.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        assert self._file is not None
        self._file.write(piece)
        self._count(piece)

    def restart(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        self._hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
        self.size, self.continued = 0, False

    def validator(self, url: str) -> str | None:
        """What `If-Range` may say to `url`, "" when a hash makes it needless, None when continuing is not safe."""
        try:
            note = json.loads(self._note.read_text())
        except (OSError, ValueError):
            note = {}
        if note.get("url") == url and note.get("validator"):
            return note["validator"]
        return "" if self.source.sha256 or self.source.md5 else None

    def remember(self, url: str, response: Response) -> None:
        etag = response.headers.get("ETag", "")
        strong = etag if etag and not etag.startswith("W/") else ""
        self._note.write_text(json.dumps({"url": url, "validator": strong or response.headers.get("Last-Modified", "")}))

    def problem(self) -> str:
        """What is wrong with the finished bytes; "" when nothing is."""
        if self.source.size is not None and self.size != self.source.size:
            return f"it has {self.size:,} bytes instead of {self.source.size:,}"
        for kind in ("sha256", "md5"):
            wanted, found = getattr(self.source, kind), self._hashes[kind].hexdigest()
            if wanted is not None and wanted != found:
                return f"its {kind} is {found} instead of {wanted}"
        return ""

    def set_aside(self) -> None:
        """Keep wrong bytes as `.bad`, where nobody takes them for the file."""
        assert self._file is not None
        self._file.close()
        os.replace(self.part, self.target.with_name(f"{self.target.name}.bad"))
        self._note.unlink(missing_ok=True)
        self._file = open(self.part, "w+b")  # noqa: SIM115
        self.restart()

    def finish(self) -> Fetched:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        os.replace(self.part, self.target)
        self._note.unlink(missing_ok=True)
        return Fetched(self.target, self.size, self._hashes["sha256"].hexdigest())

    def _count(self, piece: bytes) -> None:
        self.size += len(piece)
        for digest in self._hashes.values():
            digest.update(piece)


def _fetch(session: Session, url: str, source: RawFile, sink: _Sink, on_progress: Callable[[int, int | None], None]) -> None:
    """Bring `sink` to its end from one mirror.

    Raises:
        MirrorError: the mirror does not have the file, or gave a wrong one.
    """
    import requests

    failures = 0
    while True:
        before, continued = sink.size, sink.continued
        try:
            complete = _one_answer(session, url, source, sink, on_progress)
            problem = "" if complete else "the connection ended early"
        except requests.RequestException as error:
            complete, problem = False, _network_words(error)
        if complete:
            wrong = sink.problem()
            if not wrong:
                return
            sink.set_aside()
            if not continued:
                raise MirrorError(f"{wrong}; what came was kept as {sink.target.name}.bad")
            failures += 1  # perhaps only the old beginning was wrong: once more, from the start
            continue
        failures = 0 if sink.size > before else failures + 1
        if failures >= MAX_TRIES:
            raise MirrorError(f"{problem} ({failures} tries)")
        time.sleep(BACKOFF * 2**failures)


def _one_answer(session: Session, url: str, source: RawFile, sink: _Sink, on_progress: Callable[[int, int | None], None]) -> bool:
    """Read one answer into `sink`; whether the file is complete now."""
    validator = sink.validator(url) if sink.size else None
    if sink.size and validator is None:
        sink.restart()
    headers = {"Accept-Encoding": "identity"}  # a .gz file must not be inflated on the way
    if sink.size:
        headers |= {"Range": f"bytes={sink.size}-", **({"If-Range": validator} if validator else {})}
    address, extra = _resolved(url)
    with session.get(address, headers={**headers, **extra}, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416 and sink.size:  # nothing behind what we have: it is the file, or it is not its beginning
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(sink.size):
                return True
            sink.restart()
            return False
        _check_answer(response, source)
        total = _place(response, sink)
        if source.size is not None and total is not None and total != source.size:
            raise MirrorError(f"the server offers {total:,} bytes, the card says {source.size:,}")
        sink.remember(url, response)
        on_progress(sink.size, total or source.size)
        for piece in _pieces(response):
            if sink.size == 0 and is_html(piece) and not source.file.endswith((".html", ".htm")):
                raise MirrorError("it sent a web page instead of the file")
            if sink.limit is not None and sink.size + len(piece) > sink.limit:  # else it could fill the disk
                limit = sink.limit
                sink.restart()
                raise MirrorError(f"it sends more than the {limit:,} bytes that are expected at most")
            sink.write(piece)
            on_progress(sink.size, total or source.size)
    return total is None or sink.size == total


def _place(response: Response, sink: _Sink) -> int | None:
    """Set `sink` to where the answer begins; the bytes of the whole file, where the server says them."""
    length = response.headers.get("Content-Length")
    if response.status_code == 206:
        start, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if start.partition("-")[0] == str(sink.size):
            return int(total) if total.isdigit() else None
        raise MirrorError(f"it answered with the wrong range ({start or 'none'}, asked for {sink.size}-)")
    if sink.size:  # the server does not continue, or the file has changed since
        sink.restart()
    return int(length) if length is not None else None


def _pieces(response: Response) -> Iterator[bytes]:
    """Bytes as they came over the wire, not inflated."""
    import requests
    import urllib3

    try:
        yield from response.raw.stream(CHUNK_BYTES, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError("the connection ended early") from error


def _check_answer(response: Response, source: RawFile) -> None:
    status = response.status_code
    if status in (401, 403):
        raise AccessDenied(f"access is denied ({status})")
    if status in (404, 410):
        raise MirrorError(f"the file is not there ({status})")
    if status not in (200, 206):
        raise MirrorError(f"the server answered {status} {response.reason or ''}".rstrip())
    if response.headers.get("Content-Type", "").startswith("text/html") and not source.file.endswith((".html", ".htm")):
        raise MirrorError("it sent a web page instead of the file")


def _resolved(url: str) -> tuple[str, dict[str, str]]:
    """The address behind `url` and headers to send; `hf://` goes to the hub, with the user's token where there is one."""
    if not url.startswith("hf://"):
        return url, {}
    from huggingface_hub import get_token, hf_hub_url

    kind, _, rest = url.removeprefix("hf://").partition("/")
    owner, _, rest = rest.partition("/")
    name, _, file = rest.partition("/")
    if kind not in ("datasets", "models") or not file:
        raise MirrorError("write hf://datasets/<owner>/<name>/<path>")
    name, _, revision = name.partition("@")
    token = get_token()
    address = hf_hub_url(f"{owner}/{name}", file, repo_type=kind.removesuffix("s"), revision=revision or None)
    return address, {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def _session() -> Iterator[Session]:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    # connecting and reading are tried again by _fetch, which continues where the bytes ended
    retry = Retry(total=MAX_TRIES, connect=0, read=0, other=0, status_forcelist=_BUSY, backoff_factor=BACKOFF, raise_on_status=False)
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        yield session


def _network_words(error: Any) -> str:
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):  # some come as errors of the connection
        return "it does not answer in time"
    if isinstance(error, requests.ConnectionError) and error.__cause__ is None:
        return "it cannot be reached"
    return str(error) or type(error).__name__


def _sentence(source: RawFile, target: Path, problems: list[str]) -> str:
    size = f" ({in_words(source.size)})" if source.size else ""
    tried = "; ".join(problems) or "no address is known"
    access = f" How to get it: {source.access}." if source.access else ""
    remedy = f"Fetch it by other means, put it at {target} and run the command again"
    return f"{source.file}{size} could not be downloaded: {tried}.{access} {remedy}"
