"""Bundles: read member by member; whatever no bundle has is refused, and nothing is written outside of the cache."""

from __future__ import annotations

import io
import tarfile
import threading

import pytest

from tests.unit.zoo.zoo_cases import model_of_registry, saved, write_registry
from unipot.zoo import ArtifactError
from unipot.zoo.bundle import BundleError, import_bundle, write_bundle
from unipot.zoo.cache import Cache
from unipot.zoo.locate import get_model
from unipot.zoo.names import parse_name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle of two models."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIPOT_CACHE", str(folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("UNIPOT_ZOO", str(folder / "zoo.json"))
        entries = []
        for seed, name in enumerate(("one", "two-small")):
            content = saved(folder / f"{name}.safetensors", seed=seed).read_bytes()
            entries.append(model_of_registry(content, [f"{name}.safetensors", "https://a.b/m.safetensors"], name=name))
            entries[-1]["files"][0]["file"] = f"{name}.safetensors"
        write_registry(folder / "zoo.json", *entries)
        return write_bundle([get_model(parse_name(name)) for name in ("one", "two-small", "one")], folder / "zoo.tar")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "far" / "zoo")


def members_of(path):
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar.getmembers()]


def bundle(path, members, **options):
    with tarfile.open(path, "w", format=options.get("format", tarfile.GNU_FORMAT)) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return path


def outside(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir())


def test_models_arrive_verified_with_remote_mirrors_alone(made, cache):
    found = import_bundle(made, cache)
    assert [item.entry.key for item in found] == ["one@1.0", "two-small@1.0"]
    assert cache.find("one@1.0").path.read_bytes() == (made.parent / "one.safetensors").read_bytes()
    assert found[0].entry.files[0].urls == ("https://a.b/m.safetensors",)
    assert list((cache.folder / "partial").iterdir()) == []


def test_importing_again_changes_nothing(made, cache):
    assert [item.path for item in import_bundle(made, cache)] == [item.path for item in import_bundle(made, cache)]


def test_two_may_import_at_once(made, cache):
    found = []
    threads = [threading.Thread(target=lambda: found.append(import_bundle(made, Cache(cache.folder)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and len(cache.installed()) == 2


def test_a_bundle_is_not_overwritten_and_its_name_ends_in_tar(made):
    with pytest.raises(FileExistsError, match="zoo.tar exists already"):
        write_bundle([], made)
    with pytest.raises(ValueError, match="the name of a bundle ends in .tar"):
        write_bundle([], made.with_suffix(".zip"))


def hostile(kind, name):
    def change(members):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        return [*members[:1], (member, b""), *members[1:]]

    return change


def renamed(name):
    def change(members):
        member = tarfile.TarInfo(name)
        member.size = 3
        return [*members[:1], (member, b"abc"), *members[1:]]

    return change


def shortened(members):
    (member, content), rest = members[1], members[2:]
    member.size = len(content) - 1
    return [members[0], (member, content[:-1]), *rest]


def flipped(members):
    member, content = members[1]
    return [members[0], (member, content[:-1] + bytes([content[-1] ^ 1])), *members[2:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hostile(tarfile.SYMTYPE, "link"), "'link' is a link, which no bundle has; it is refused"),
        (hostile(tarfile.LNKTYPE, "link"), "'link' is a link"),
        (hostile(tarfile.CHRTYPE, "tty"), "'tty' is a device"),
        (hostile(tarfile.FIFOTYPE, "pipe"), "'pipe' is a pipe"),
        (hostile(tarfile.DIRTYPE, "../up"), "'../up' is a folder"),
        (renamed("../../escape"), "has the member '../../escape', which its zoo.json does not list"),
        (renamed("/tmp/escape"), "has the member '/tmp/escape'"),
        (renamed("x" * 300), "is of kind b'L', which no bundle has"),
        (lambda members: [*members, members[-1]], "does not list, or has it twice"),
        (lambda members: members[:-1], "ends without .*; it is cut short, copy it again"),
        (lambda members: members[1:], "does not begin with zoo.json, so it is no bundle"),
        (lambda members: [], "does not begin with zoo.json"),
        (shortened, r"bytes, zoo.json says .*; copy it again"),
        (flipped, "has SHA-256 .* so it is not what"),
    ],
)
def test_what_no_bundle_has_is_refused(made, cache, tmp_path, change, message):
    path = bundle(tmp_path / "bad.tar", change(members_of(made)))
    with pytest.raises((BundleError, ArtifactError), match=message):
        import_bundle(path, cache)
    assert cache.installed() == [] and set(outside(tmp_path)) <= {"bad.tar", "far"}


def test_extensions_of_the_format_are_not_read(made, cache, tmp_path):
    members = members_of(made)
    members[0][0].pax_headers = {"comment": "x"}
    with pytest.raises(BundleError, match="is of kind b'x'"):
        import_bundle(bundle(tmp_path / "pax.tar", members, format=tarfile.PAX_FORMAT), cache)


def test_a_claim_of_more_bytes_than_the_file_has_is_refused(made, cache, tmp_path):
    header = tarfile.TarInfo("zoo.json")
    header.size = 10**12
    (tmp_path / "big.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(BundleError, match="'zoo.json' claims 1,000,000,000,000 bytes, more than the file holds"):
        import_bundle(tmp_path / "big.tar", cache)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_bundle_that_is_cut_short_is_refused(made, cache, tmp_path, share):
    content = made.read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError, match="cut.tar"):
        import_bundle(tmp_path / "cut.tar", cache)
    assert cache.installed() == []


def test_a_version_of_other_contents_is_not_replaced(made, cache, tmp_path):
    import_bundle(made, cache)
    members = members_of(made)
    registry = members[0][1].replace(cache.find("one@1.0").entry.files[0].sha256.encode(), b"0" * 64)
    with pytest.raises(ArtifactError, match="one@1.0 is in the cache with other contents"):
        import_bundle(bundle(tmp_path / "other.tar", [(members[0][0], registry), *members[1:]]), cache)


def test_what_is_not_there_is_said(cache, tmp_path):
    with pytest.raises(FileNotFoundError, match="no.tar is not there, or no file"):
        import_bundle(tmp_path / "no.tar", cache)
