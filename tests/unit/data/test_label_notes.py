"""Labels that are not what they may be taken for: two energies of one calculation, predictions of a model, another level of theory."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from unipot.data.labels import ASE_LABELS, LabelSource
from unipot.data.readers.label_notes import label_notes
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import LabelConfig, PrepareConfig


@pytest.fixture
def frames(tmp_path):
    """Two frames of a metal, as ASE reads them from VASP."""

    def frames(smearing: float):
        structures = []
        for k in range(2):
            atoms = Atoms("Cu2", positions=[[0, 0, 0], [1.8, 1.8 + 0.1 * k, 0]], cell=[3.6, 3.6, 3.6], pbc=True)
            energy = -7.0 - k
            results = {"energy": energy, "free_energy": energy - k * smearing, "forces": np.zeros((2, 3)), "stress": np.zeros(6)}
            atoms.calc = SinglePointCalculator(atoms, **results)
            structures.append(atoms)
        write(tmp_path / "metal.traj", structures)
        return tmp_path / "metal.traj"

    return frames


def test_the_two_energies_are_told_apart_with_the_option_that_reads_the_other(frames):
    (note,) = label_notes(frames(0.01), ASE_LABELS, option="sources", level_of_theory="PBE")
    assert "forces and stress belong to 'free_energy', which differs by up to 5 meV/atom" in note
    assert "sources.energy='{key: free_energy, unit: eV}' sources.forces='{key: forces, unit: eV/A}'" in note
    assert "sources.stress='{key: stress, unit: eV/A^3, sign: tension}'" in note


@pytest.mark.parametrize(
    ("smearing", "labels"),
    [
        (0.0, ASE_LABELS),
        (0.01, {"energy": ASE_LABELS["energy"]}),
        (0.01, {**ASE_LABELS, "energy": LabelSource(key="free_energy", unit="eV")}),
        (0.01, {"forces": ASE_LABELS["forces"]}),
    ],
    ids=["equal", "no derivatives", "the other is stated", "no energies"],
)
def test_nothing_is_said_where_energies_and_forces_belong_together(frames, smearing, labels):
    assert label_notes(frames(smearing), labels, option="sources", level_of_theory="PBE") == []


def test_prepare_says_it_once_and_what_it_says_works(frames, tmp_path, capsys):
    options = {"path": str(frames(0.01)), "name": "metal", "out": str(tmp_path / "m.unipot"), "level_of_theory": "PBE", "overwrite": True}
    plain = prepare(PrepareConfig(**options))
    assert capsys.readouterr().out.count("belong to 'free_energy'") == 1
    assert [float(s.labels["energy"]) for s in plain] == [-7.0, -8.0]
    stated = {name: {"key": source.key, "unit": source.unit, "sign": source.sign} for name, source in ASE_LABELS.items()}
    stated["energy"]["key"] = "free_energy"
    free = prepare(PrepareConfig(**options, labels={name: LabelConfig(**label) for name, label in stated.items()}))
    assert "free_energy" not in capsys.readouterr().out.replace("key=", "")
    assert [float(s.labels["energy"]) for s in free] == [-7.0, -8.01]


def test_predictions_of_a_model_are_told_from_labels(frames):
    structures = read(frames(0.0), ":")
    for atoms in structures:
        atoms.info |= {"model": "best.safetensors", "model_sha256": "0" * 64, "head": "pbe", "level_of_theory": "PBE"}
    write(frames(0.0).with_name("md.extxyz"), structures)
    (note,) = label_notes(frames(0.0).with_name("md.extxyz"), ASE_LABELS, option="labels", level_of_theory="PBE")
    assert "md.extxyz: its labels are predictions of head 'pbe' of the model best.safetensors, and of no calculation" in note


def test_another_level_of_theory_than_the_frames_state_is_said(frames):
    structures = read(frames(0.0), ":")
    structures[1].info["level_of_theory"] = "PBE/520eV"
    write(frames(0.0).with_name("set.extxyz"), structures)
    file = frames(0.0).with_name("set.extxyz")
    (note,) = label_notes(file, ASE_LABELS, option="labels", level_of_theory="RPBE")
    assert "say that their level of theory is 'PBE/520eV' and not 'RPBE'" in note
    assert label_notes(file, ASE_LABELS, option="labels", level_of_theory="PBE/520eV") == []
