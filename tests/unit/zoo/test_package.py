"""Packages: nothing is run that was not asked for. Their numbers are compared in `tests/unit/models/test_neighbor_paths.py`."""

import zipfile

import numpy as np
import pytest
import torch

from unipot import UnipotCalculator
from unipot.zoo.artifact import load_artifact, save_artifact
from unipot.zoo.card import ArtifactError
from unipot.zoo.compiled_package import load_package, read_package_card, save_package


@pytest.fixture
def artifact(make_potential, tmp_path):
    save_artifact(tmp_path / "model.safetensors", make_potential(heads=("a", "b")), card={"name": "tiny"})
    return load_artifact(tmp_path / "model.safetensors")


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(f"model/unipot/{name}.json", text)
    return path


def test_a_package_is_refused_unless_it_is_trusted(tmp_path):
    path = archive(tmp_path / "model.pt2", package="{}")
    for load in (load_package, UnipotCalculator):
        with pytest.raises(ValueError, match="loading it runs the machine code in it"):
            load(path)


def test_an_archive_of_others_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: pytest.fail("code was loaded"))
    with pytest.raises(ArtifactError, match=r"has no unipot/package\.json, so it is not a package of unipot"):
        load_package(archive(tmp_path / "model.pt2", other="{}"), trusted=True)
    (tmp_path / "broken.pt2").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="truncated or not a package"):
        read_package_card(tmp_path / "broken.pt2")


def test_a_package_of_another_format_is_not_run(tmp_path):
    path = archive(tmp_path / "old.pt2", package='{"format_version": 1, "unipot_version": "0.0.1", "device": "cpu"}')
    with pytest.raises(ArtifactError, match=r"made by unipot 0\.0\.1 in format 1.*make it again"):
        load_package(path, trusted=True)


def test_another_ending_or_head_is_refused_before_compiling(artifact, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.pt2"):
        save_package(tmp_path / "model.so", artifact, "a")
    with pytest.raises(KeyError, match="available: a, b"):
        save_package(tmp_path / "model.pt2", artifact, "c")


def test_without_a_compiler_nothing_is_written(artifact, tmp_path):
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(ValueError, match=r"can be made here: there is no C\+\+ compiler"):
        save_package(tmp_path / "model.pt2", artifact, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("text", ["[]", "{", "[" * 2000, '{"golden": 3}', "\udcff"])
def test_a_card_of_a_package_that_is_none_is_one_sentence(tmp_path, text):
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/unipot/package.json", text.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match="model.pt2: "):
        load_package(path, trusted=True)


def test_an_archive_that_claims_gigabytes_is_not_unpacked(tmp_path):
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/unipot/package.json", b" " * 50_000_000)
    with pytest.raises(ArtifactError, match="claims more than the file holds"):
        read_package_card(path)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_archive_is_one_sentence(tmp_path, seed):
    path = archive(tmp_path / "model.pt2", package='{"format_version": 1, "unipot_version": "0.0.1", "device": "cpu"}')
    whole, rng = path.read_bytes(), np.random.default_rng(seed)
    for place in rng.permutation(len(whole))[:80]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load_package(path, trusted=True)
