"""The computed copy of the user's set that ships with its recipe."""

import numpy as np
import pytest

from unipot.data.catalog.pbe import pbe_def2_svp
from unipot.resources import data_recipes_dir

FOLDER = data_recipes_dir() / "malonaldehyde_pbe"


@pytest.fixture(scope="module")
def sample():
    from ase.io import read

    return {split: read(FOLDER / "sample" / f"{split}.extxyz", ":") for split in ("train", "test")}


def test_sample_has_50_training_and_200_test_frames_of_separate_trajectories(sample):
    assert {split: len(frames) for split, frames in sample.items()} == {"train": 50, "test": 200}
    groups = {split: {atoms.info["group"] for atoms in frames} for split, frames in sample.items()}
    assert not groups["train"] & groups["test"]


def test_sample_is_one_composition_and_has_energy_and_forces(sample):
    for atoms in (atoms for frames in sample.values() for atoms in frames):
        assert atoms.get_chemical_formula() == "C3H4O2"
        assert np.isfinite(atoms.get_potential_energy())
        assert atoms.get_forces().shape == (9, 3)
        assert np.abs(atoms.get_forces().sum(axis=0)).max() < 0.02  # eV/Å, integration grid


def test_sample_is_small():
    assert sum(path.stat().st_size for path in (FOLDER / "sample").iterdir()) < 500_000


def test_no_two_frames_are_near_each_other(sample):
    distances = np.array([atoms.get_all_distances()[np.triu_indices(9, 1)] for frames in sample.values() for atoms in frames])
    apart = np.linalg.norm(distances[:, None] - distances, axis=2) + 10 * np.eye(len(distances))
    assert apart.min() > 0.05  # Å


def test_card_gives_the_command_of_each_sample_file():
    import yaml

    card = yaml.safe_load((FOLDER / "card.yaml").read_text())
    assert set(card["sample"]) == {path.name for path in (FOLDER / "sample").iterdir()}
    assert all(f"sample/{name}" in command for name, command in card["sample"].items())


@pytest.mark.slow
def test_pyscf_gives_the_labels_of_the_sample_again(sample):
    pytest.importorskip("pyscf", reason="pip install 'unipot[dft]' to compute the labels again")
    atoms = sample["train"][0]
    energy, forces = pbe_def2_svp(atoms)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=2e-3)
