"""Models by name: fetched once, verified before they have a name, never looked for again, never half-installed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import socket
import threading
import zipfile
from collections import OrderedDict

import pytest
from safetensors.torch import load_file, save_file

from tests.loopback_server import serving
from tests.unit.zoo.zoo_cases import model_of_registry, saved, write_registry
from unipot.cli import main
from unipot.data.catalog import download as downloads
from unipot.data.conversion.disk import DiskError
from unipot.zoo import ArtifactError, load_artifact, load_potential
from unipot.zoo.cache import Cache
from unipot.zoo.locate import model_path
from unipot.zoo.names import parse_name

PATH = "/model.safetensors"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Bytes of a sound model."""
    return saved(tmp_path_factory.mktemp("model") / "model.safetensors").read_bytes()


@pytest.fixture
def zoo(tmp_path, monkeypatch, content):
    """(server, write): a home of its own; `write(**changes)` makes the registry of one model on the server."""
    monkeypatch.setattr(downloads, "BACKOFF", 0.0)
    monkeypatch.setenv("UNIPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UNIPOT_ZOO", str(tmp_path / "zoo.json"))
    for name in ("UNIPOT_OFFLINE", "UNIPOT_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    with serving({PATH: content}) as server:

        def write(served=content, **changes):
            write_registry(tmp_path / "zoo.json", model_of_registry(served, [server.url(PATH)], **changes))

        write()
        yield server, write


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "locks" not in p.parts)


def forbid_sockets(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_model_is_fetched_once_and_then_never_touches_the_network(zoo, monkeypatch):
    server, _ = zoo
    first = load_potential("mine@1.0").state_dict()
    assert len(server.requests) == 1
    forbid_sockets(monkeypatch)
    assert all((first[name] == value).all() for name, value in load_potential("mine").state_dict().items())


def test_one_of_many_asks_the_server(zoo):
    server, _ = zoo
    threads = [threading.Thread(target=model_path, args=("mine",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1


def test_a_download_that_broke_off_is_continued_by_the_next(zoo):
    server, _ = zoo
    server.cut = [1000] + [0] * 9
    with pytest.raises(OSError, match="mine@1.0 could not be downloaded: .* the connection ended early .* run it again to continue"):
        model_path("mine")
    server.cut = []
    assert model_path("mine").exists() and server.requests[-1][1] == "bytes=1000-"
    assert [name for name in files_in(Cache().folder) if name.startswith("partial")] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.files.update({PATH: s.files[PATH][:-7]}), "the server offers"),
        (lambda s: s.files.update({PATH: s.files[PATH][:-1] + b"!"}), "its sha256 is"),
        (lambda s: s.files.update({PATH: b"<!DOCTYPE html>log in"}), "sent a web page|the server offers"),
        (lambda s: setattr(s, "kind", "text/html"), "it sent a web page instead of the file"),
        (lambda s: s.files.clear(), r"the file is not there \(404\)"),
        (lambda s: s.status.update({PATH: [401]}), r"not open to everybody: .*denied \(401\).*\$HF_TOKEN; a file .* its path"),
        (lambda s: s.status.update({PATH: [403]}), r"is not open to everybody: .*denied \(403\)"),
        (lambda s: s.status.update({PATH: [500] * 9}), "the server answered 500"),
        (lambda s: s.lengths.update({PATH: 10**12}), "the server offers 1,000,000,000,000 bytes"),
    ],
)
def test_a_wrong_answer_installs_nothing(zoo, change, message):
    change(zoo[0])
    with pytest.raises(OSError, match=message):
        model_path("mine")
    assert Cache().installed() == [] and not (Cache().folder / "content").exists()


def test_a_model_behind_a_gate_says_how_to_get_it(zoo):
    server, write = zoo
    write(access="Accept the licence at https://a.b/gate.")
    server.status[PATH] = [403]
    with pytest.raises(OSError, match="Accept the licence at https://a.b/gate; for the Hugging Face hub"):
        model_path("mine")


def altered(content, tmp_path):
    """A sound file of another model under the card of the first."""
    file = tmp_path / "altered.safetensors"
    file.write_bytes(content)
    tensors = {name: value * 1.5 if value.is_floating_point() else value for name, value in load_file(file).items()}
    card = load_artifact(file).card
    save_file(tensors, file, metadata={"unipot_card": json.dumps(card)})
    return file.read_bytes()


def test_a_model_that_is_not_what_its_card_says_is_not_installed(zoo, content, tmp_path):
    server, write = zoo
    server.files[PATH] = altered(content, tmp_path)
    write(server.files[PATH])
    with pytest.raises(ArtifactError, match="mine@1.0 is not taken into the cache: .*the tensors have SHA-256"):
        model_path("mine")
    assert files_in(Cache().folder) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": {"pbe": "RPBE"}}, "lists the heads {'pbe': 'RPBE'}, the model has {'pbe': 'PBE, VASP'}"),
        ({"licences": {"code": {"name": "MIT"}, "weights": {"name": "CC0-1.0"}}}, "the licence of the weights is CC0-1.0 by .*CC-BY-4.0"),
    ],
)
def test_a_registry_that_says_other_things_than_the_card_is_refused(zoo, changes, message):
    zoo[1](**changes)
    with pytest.raises(ArtifactError, match=message):
        model_path("mine")
    assert files_in(Cache().folder) == []


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/unipot-was-here",)


def pickled(tmp_path, archive):
    stream = pickle.dumps(OrderedDict(weights=Evil()), protocol=2)
    if not archive:
        return stream
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("model/data.pkl", stream)
    return (tmp_path / "evil.zip").read_bytes()


@pytest.mark.parametrize("archive", [False, True])
def test_pickled_weights_under_another_name_are_refused_with_what_they_would_call(zoo, tmp_path, archive):
    server, write = zoo
    server.files[PATH] = pickled(tmp_path, archive)
    write(server.files[PATH])
    with pytest.raises(ArtifactError, match=r"its weights are pickled, .*it would call collections.OrderedDict, (posix|nt).system\)"):
        model_path("mine")
    assert files_in(Cache().folder) == []


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickled_file_of_the_user_is_refused_by_name(tmp_path, protocol):
    file = tmp_path / "model.pth"
    file.write_bytes(pickle.dumps(Evil(), protocol=protocol))
    with pytest.raises(ArtifactError, match=r"model.pth is not a .safetensors file.*it would call (posix|nt).system"):
        load_artifact(file)


def test_without_connections_the_missing_model_and_the_commands_are_named(zoo, monkeypatch):
    monkeypatch.setenv("UNIPOT_OFFLINE", "1")
    forbid_sockets(monkeypatch)
    with pytest.raises(OSError, match=r"mine@1.0 is not in the cache .*zoo bundle mine@1.0 -o mine.tar`, .*zoo import mine.tar`"):
        model_path("mine")
    with pytest.raises(OSError, match="UNIPOT_OFFLINE forbids to fetch it"):
        model_path("https://a.b/model.safetensors")
    assert not Cache().folder.exists()


def test_a_version_that_was_published_again_is_noticed(zoo, tmp_path):
    server, write = zoo
    model_path("mine")
    write(saved(tmp_path / "other.safetensors", seed=1).read_bytes())
    with pytest.raises(ArtifactError, match="mine@1.0 is another model in .*zoo.json than the one in the cache .*a version never changes"):
        model_path("mine@1.0")
    assert len(server.requests) == 1


def test_a_damaged_copy_is_noticed(zoo):
    path = model_path("mine")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="the copy of mine@1.0 in the cache has SHA-256 .*unipot zoo remove mine@1.0"):
        model_path("mine")


def test_without_a_version_the_cache_comes_first_and_get_takes_the_newest(zoo, tmp_path, content):
    server, _ = zoo
    model_path("mine")
    newer = saved(tmp_path / "newer.safetensors", seed=1).read_bytes()
    server.files["/newer"] = newer
    old, new = model_of_registry(content, [server.url(PATH)]), model_of_registry(newer, [server.url("/newer")], version="1.1")
    write_registry(tmp_path / "zoo.json", old, new)
    assert model_path("mine").read_bytes() == content
    assert main(["zoo", "get", "mine"]) == 0
    assert model_path("mine").read_bytes() == newer and model_path("mine@1.0").read_bytes() == content


def test_a_full_disk_is_one_sentence(zoo, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda *_: usage._replace(free=10))
    with pytest.raises(DiskError, match=r"mine@1.0 has .* and 10 bytes are free at .*say with \$UNIPOT_CACHE"):
        model_path("mine")
    assert zoo[0].requests == []


def test_a_cache_that_cannot_be_written_to_serves_what_it_has(zoo, monkeypatch, tmp_path):
    model_path("mine")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert model_path("mine").exists()
    monkeypatch.setenv("UNIPOT_CACHE", str(tmp_path / "other"))
    with pytest.raises(DiskError, match=r"keeping mine@1.0 \(\$UNIPOT_CACHE says where\): no permission for"):
        model_path("mine")


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "No locks available")])
def test_a_file_system_without_locks_is_used_all_the_same(zoo, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("unipot.zoo.cache.FileLock.acquire", refuse)
    assert model_path("mine").exists()


def test_an_address_means_what_came_first(zoo, tmp_path, content):
    server, _ = zoo
    address = f"{server.url(PATH)}#sha256={hashlib.sha256(content).hexdigest()}"
    assert model_path(address).read_bytes() == content
    server.files.clear()
    assert model_path(address).read_bytes() == content and len(server.requests) == 1
    with pytest.raises(ArtifactError, match="was fetched before with SHA-256"):
        model_path(f"{server.url(PATH)}#sha256={'0' * 64}")


def test_an_address_of_pickled_weights_is_not_asked(zoo):
    with pytest.raises(ValueError, match=r"is not the address of a .safetensors file \(its weights are pickled"):
        model_path("https://a.b/model.pth")


def test_names_of_the_hub_are_said_not_to_be_fetched_yet(zoo):
    assert parse_name("hf://owner/name")
    with pytest.raises(ValueError, match="models of the hub are not fetched by their names yet"):
        model_path("hf://owner/name")


def test_a_withdrawn_model_is_not_fetched(zoo):
    zoo[1](status="withdrawn", superseded_by="mine@2.0")
    with pytest.raises(ValueError, match="mine@1.0 was withdrawn by those who published it .* use mine@2.0"):
        model_path("mine")


def test_remove_frees_contents_that_no_other_name_means(zoo, tmp_path, content):
    server, _ = zoo
    models = [model_of_registry(content, [server.url(PATH)], name=name) for name in ("mine", "same")]
    write_registry(tmp_path / "zoo.json", *models)
    model_path("mine"), model_path("same")
    assert len(server.requests) == 1 and Cache().remove("same@1.0") == 0
    assert model_path("mine").exists() and Cache().remove("mine@1.0") == len(content)
    assert files_in(Cache().folder) == []
    with pytest.raises(FileNotFoundError, match="mine@1.0 is not in the cache"):
        Cache().remove("mine@1.0")
