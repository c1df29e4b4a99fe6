"""Downloads against a server on this machine: continued, verified, from mirrors; nothing wrong under the final name."""

from __future__ import annotations

import errno
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback_server import Server, serving
from unipot.data.catalog import download as module
from unipot.data.catalog.cards import RawFile
from unipot.data.catalog.download import download
from unipot.data.catalog.raw_files import fetch_all, use_existing
from unipot.data.conversion.disk import DiskError

CONTENT = bytes(range(256)) * 4000  # 1 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    with serving({"/data.bin": CONTENT}) as state:
        yield state


def source(*urls: str, **fields: object) -> RawFile:
    return RawFile(**{"file": "data.bin", "urls": urls, "sha256": SHA256, **fields})


def test_a_file_arrives_whole_and_nothing_else_is_left(server, tmp_path):
    seen = []
    fetched = download(source(server.url(), size=len(CONTENT)), tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert fetched.path.read_bytes() == CONTENT and fetched.sha256 == SHA256
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path, sha256):
    server.cut = [300_000, 200_000]
    assert download(source(server.url(), sha256=sha256), tmp_path).path.read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_process_continues_what_an_earlier_one_left(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:700_000])
    assert download(source(server.url()), tmp_path).path.read_bytes() == CONTENT
    assert server.requests == [("/data.bin", "bytes=700000-")]


def test_a_complete_part_file_needs_no_more_bytes(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert download(source(server.url()), tmp_path).path.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.ranges, server.cut = False, [300_000]
    assert download(source(server.url()), tmp_path).path.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_glued_together(server, tmp_path):
    server.cut, server.ranges = [300_000] * (module.MAX_TRIES + 1), False
    with pytest.raises(OSError, match="ended early"):
        download(source(server.url(), sha256=None), tmp_path)
    server.ranges, server.etag, server.cut = True, '"two"', []
    server.files["/data.bin"] = CONTENT[::-1]
    assert download(source(server.url(), sha256=None), tmp_path).path.read_bytes() == CONTENT[::-1]


def test_a_wrong_beginning_is_fetched_again_from_the_start(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    assert download(source(server.url()), tmp_path).path.read_bytes() == CONTENT


def test_the_next_mirror_is_asked(server, tmp_path):
    server.files["/wrong.bin"] = CONTENT[:-1] + b"x"
    urls = [server.url("/absent.bin"), server.url("/wrong.bin"), server.url()]
    assert download(source(*urls), tmp_path).path.read_bytes() == CONTENT
    assert (tmp_path / "data.bin.bad").exists()


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status["/data.bin"] = [503, 503]
    assert download(source(server.url()), tmp_path).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (lambda s: s.files.update({"/data.bin": CONTENT[:-5]}), {}, r"its sha256 is \w{64} instead of"),
        (lambda s: s.files.update({"/data.bin": CONTENT[:-5]}), {"size": len(CONTENT)}, "offers 1,023,995 bytes, the card says 1,024,000"),
        (lambda s: s.files.update({"/data.bin": b" <!DOCTYPE html><p>log in"}), {}, "sent a web page instead of the file"),
        (lambda s: setattr(s, "kind", "text/html; charset=utf-8"), {}, "sent a web page instead of the file"),
        (lambda s: s.files.clear(), {}, r"the file is not there \(404\)"),
        (lambda s: s.status.update({"/data.bin": [403]}), {"access": "ask the authors"}, r"denied \(403\).*How to get it: ask the authors"),
        (lambda s: s.status.update({"/data.bin": [418]}), {}, "answered 418"),
        (lambda s: s.redirects.update({"/data.bin": "/data.bin"}), {}, "Exceeded 30 redirects"),
        (lambda s: s.lengths.update({"/data.bin": None}), {"size": 1000}, "sends more than the 1,000 bytes that are expected at most"),
        (lambda s: s.cut.extend([0] * 9), {}, r"the connection ended early \(5 tries\)"),
    ],
)
def test_a_wrong_answer_is_refused_and_never_gets_the_final_name(server, tmp_path, change, fields, message):
    change(server)
    with pytest.raises(OSError, match=message) as raised:
        download(source(server.url(), **fields), tmp_path)
    assert f"put it at {tmp_path / 'data.bin'}" in str(raised.value)
    assert not (tmp_path / "data.bin").exists()


def test_a_server_that_stalls_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (1.0, 0.05))
    server.stalls.add("/data.bin")
    with pytest.raises(OSError, match=r"it does not answer in time \(5 tries\)"):
        download(source(server.url()), tmp_path)


def test_a_redirect_is_followed(server, tmp_path):
    server.redirects["/old.bin"] = "/data.bin"
    assert download(source(server.url("/old.bin")), tmp_path).path.read_bytes() == CONTENT


def test_a_file_of_unknown_size_has_a_limit(server, tmp_path):
    server.lengths["/data.bin"] = None
    with pytest.raises(OSError, match="sends more than the 5,000 bytes that are expected at most"):
        download(source(server.url()), tmp_path, max_bytes=5000)
    assert list(tmp_path.iterdir()) == []
    assert download(source(server.url()), tmp_path, max_bytes=len(CONTENT)).size == len(CONTENT)


def test_no_socket_is_opened_where_connections_are_forbidden(server, tmp_path, monkeypatch):
    monkeypatch.setenv(module.OFFLINE_VARIABLE, "1")
    with pytest.raises(module.OfflineError, match="UNIPOT_OFFLINE forbids to fetch it"):
        download(source(server.url()), tmp_path)
    assert server.requests == []
    monkeypatch.setenv(module.OFFLINE_VARIABLE, "0")
    assert download(source(server.url()), tmp_path).size == len(CONTENT)


def test_who_is_denied_is_told_from_who_finds_nothing(server, tmp_path):
    server.status["/data.bin"] = [401]
    with pytest.raises(module.DownloadError) as denied:
        download(source(server.url(), server.url("/absent")), tmp_path)
    assert denied.value.denied == [server.url()] and len(denied.value.problems) == 2


def test_a_host_that_cannot_be_reached_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    with pytest.raises(OSError, match="http://127.0.0.1:9/x: it cannot be reached"):
        download(source("http://127.0.0.1:9/x"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hub_address_is_resolved_with_the_users_token(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    address, headers = module._resolved("hf://datasets/owner/name@v2/folder/file.tar.gz")
    assert address.endswith("/datasets/owner/name/resolve/v2/folder/file.tar.gz") and headers == {"Authorization": "Bearer secret"}
    assert module._resolved("https://a.b/c") == ("https://a.b/c", {})
    with pytest.raises(module.MirrorError, match="write hf://datasets/<owner>/<name>/<path>"):
        module._resolved("hf://owner/name/file")


def test_md5_is_verified_where_only_that_is_known(server, tmp_path):
    with pytest.raises(OSError, match="its md5 is"):
        download(source(server.url(), sha256=None, md5="0" * 32), tmp_path)


def test_a_full_disk_is_one_sentence_and_what_came_is_continued(server, tmp_path, monkeypatch):
    original, limit = module._Sink.write, 400_000

    def write(sink: module._Sink, piece: bytes) -> None:
        if sink.size + len(piece) > limit:
            original(sink, piece[: limit - sink.size])
            raise OSError(errno.ENOSPC, "No space left on device")
        original(sink, piece)

    monkeypatch.setattr(module._Sink, "write", write)
    with pytest.raises(DiskError, match="downloading data.bin: the disk of .* is full .*run the same command again, it continues"):
        download(source(server.url()), tmp_path)
    monkeypatch.setattr(module._Sink, "write", original)
    assert download(source(server.url()), tmp_path).path.read_bytes() == CONTENT
    assert server.requests[-1] == ("/data.bin", "bytes=400000-")


def test_a_folder_that_must_not_be_written_to_is_one_sentence(server, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DiskError, match="downloading data.bin: no permission for .*choose a folder that you may write to"):
        download(source(server.url()), tmp_path / "new")


def test_two_processes_fetch_a_file_once(server, tmp_path):
    threads = [threading.Thread(target=fetch_all, args=([source(server.url())], tmp_path, lambda *_: None)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1 and (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_file_that_is_there_is_hashed_once_and_not_fetched(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT)
    for _ in range(2):
        found = fetch_all([source(server.url())], tmp_path, lambda *_: None)
        assert found.files == ({"file": "data.bin", "bytes": len(CONTENT), "sha256": SHA256},)
    assert server.requests == []
    (tmp_path / "data.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(ValueError, match="data.bin: sha256 is .*, the card says .*fetch it again, or use .* verify=false"):
        fetch_all([source(server.url())], tmp_path, lambda *_: None)


@pytest.mark.parametrize(
    ("content", "verify", "message"),
    [
        (CONTENT[:-1], True, "has 1,023,999 bytes, the card says 1,024,000: it is cut short or another version"),
        (CONTENT[:-1] + b"x", True, "sha256 is"),
        (b"<html>moved</html>", False, "is a web page, not the file"),
    ],
)
def test_a_wrong_file_of_the_user_is_refused(tmp_path, content, verify, message):
    (tmp_path / "data.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        use_existing([source("http://a.b/c", size=len(CONTENT))], tmp_path, verify=verify, allow_missing=False)


def test_missing_files_are_listed_with_address_and_place(tmp_path):
    wanted = [source("http://a.b/c", size=5_000_000), RawFile(file="x/y.h5", access="ask the authors")]
    with pytest.raises(FileNotFoundError) as raised:
        use_existing(wanted, tmp_path, verify=True, allow_missing=False)
    text = str(raised.value)
    assert "2 raw files are missing" in text and f"{tmp_path}/data.bin (5.0 MB) from http://a.b/c" in text
    assert f"{tmp_path}/x/y.h5 from no public address; how to get it: ask the authors" in text
    (tmp_path / "data.bin").write_bytes(b"1")
    assert use_existing(wanted, tmp_path, verify=False, allow_missing=True).missing == ("x/y.h5",)


def _archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


TAR = RawFile(file="set/all.tar.gz", unpack="tar", access="by hand")


def test_an_archive_is_unpacked_beside_itself_once(tmp_path):
    (tmp_path / "set").mkdir()
    _archive(tmp_path / "set" / "all.tar.gz", {"a/b.txt": b"hello"})
    use_existing([TAR], tmp_path, verify=False, allow_missing=False)
    inside = tmp_path / "set" / "all" / "a" / "b.txt"
    assert inside.read_bytes() == b"hello"
    stamp = inside.stat().st_mtime_ns
    use_existing([TAR], tmp_path, verify=False, allow_missing=False)
    assert inside.stat().st_mtime_ns == stamp
    _archive(tmp_path / "set" / "all.tar.gz", {"a/b.txt": b"changed"})
    use_existing([TAR], tmp_path, verify=False, allow_missing=False)
    assert inside.read_bytes() == b"changed"


def test_a_damaged_or_hostile_archive_is_refused_and_leaves_no_folder(tmp_path):
    (tmp_path / "set").mkdir()
    file = tmp_path / "set" / "all.tar.gz"
    _archive(file, {"a.txt": bytes(100_000), "b.txt": CONTENT})
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be unpacked .*cut short or damaged"):
        use_existing([TAR], tmp_path, verify=False, allow_missing=False)
    _archive(file, {"../../escape.txt": b"x"})
    with pytest.raises(ValueError, match="is refused"):
        use_existing([TAR], tmp_path, verify=False, allow_missing=False)
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["all.tar.gz"] and not (tmp_path.parent / "escape.txt").exists()
