"""Packages: the numbers of the model, and nothing is run that was not asked for."""

import zipfile

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from unipot import UnipotCalculator
from unipot.zoo.artifact import load_artifact, save_artifact
from unipot.zoo.card import ArtifactError
from unipot.zoo.package import load_package, read_package_card, save_package


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
    with pytest.raises(ArtifactError, match="has no unipot card"):
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


@pytest.mark.slow
def test_a_package_gives_the_numbers_of_the_model_for_any_size(artifact, tmp_path):
    path = save_package(tmp_path / "model.pt2", artifact, "b")
    card = read_package_card(path)
    assert (card["head"], card["level_of_theory"], card["cutoff"]) == ("b", "level 1", 5.0)
    packaged, plain = UnipotCalculator(path, trusted=True), UnipotCalculator(artifact.potential, head="b")
    copper = bulk("Cu", cubic=True) * (2, 1, 1)
    copper.rattle(0.1, seed=0)
    for atoms in (copper, molecule("H2O"), molecule("CH3CH2OH")):
        found, expected = ({}, {})
        for results, calculator in ((found, packaged), (expected, plain)):
            calculator.calculate(atoms)
            results.update(calculator.results)
        assert np.abs(expected["forces"]).max() > 1e-3 and found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-10)
    with pytest.raises(ValueError, match="it cannot be trained"):
        load_package(path, trusted=True)(packaged.batch_of(copper), create_graph=True)
