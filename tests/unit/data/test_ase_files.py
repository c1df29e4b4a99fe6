"""ASE files: labels by stated key, unit and sign; what is wrong is named."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.data.labels import CALCULATOR, LabelSource, SkippedItem
from unipot.data.readers import detect_format, read_structures
from unipot.data.readers.assumed_labels import default_labels
from unipot.structure import Structure
from unipot.units import GPA, HARTREE, KCAL_PER_MOL, matrix_to_voigt

ENERGY = LabelSource(key="energy", unit="eV")
FORCES = LabelSource(key="forces", unit="eV/A")
STRESS = np.array([[1.0, 0.4, 0.5], [0.4, 2.0, 0.6], [0.5, 0.6, 3.0]])


def copper(seed: int = 0) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms("Cu2", positions=rng.random((2, 3)) * 3, cell=np.diag([4.0, 5.0, 6.0]), pbc=True)


@pytest.fixture
def file(tmp_path):
    """Writes frames to an extended XYZ file; calculator results are given as keywords."""

    def make(*frames: Atoms, name: str = "my.extxyz", **results: object):
        for atoms in frames:
            if results:
                atoms.calc = SinglePointCalculator(atoms, **results)
        write(tmp_path / name, list(frames))
        return tmp_path / name

    return make


def one(path, **labels) -> Structure:
    (structure,) = read_structures(path, labels=labels)
    assert isinstance(structure, Structure), structure
    return structure


def test_calculator_results_in_ase_units(file):
    forces = np.arange(6.0).reshape(2, 3)
    path = file(copper(), energy=-3.5, forces=forces, stress=matrix_to_voigt(STRESS))
    labels = default_labels(path)
    assert sorted(labels) == ["energy", "forces", "stress"]
    structure = one(path, **labels)
    assert float(structure.labels["energy"]) == -3.5
    np.testing.assert_allclose(structure.labels["forces"], forces)
    np.testing.assert_allclose(structure.labels["stress"], STRESS)


def test_default_labels_are_those_that_are_there(file):
    assert sorted(default_labels(file(copper(), energy=-1.0))) == ["energy"]


def test_default_labels_without_an_energy_list_the_keys(file):
    atoms = copper()
    atoms.info["gap_energy"] = 1.0
    with pytest.raises(ValueError, match="no frame has the label key 'energy'; keys in the file are: gap_energy; .*labels.energy.key"):
        default_labels(file(atoms))


def test_other_keys_and_units(file):
    atoms = copper()
    atoms.info["REF_energy"] = 2.0
    atoms.arrays["REF_forces"] = np.ones((2, 3))
    structure = one(
        file(atoms), energy=LabelSource(key="REF_energy", unit="hartree"), forces=LabelSource(key="REF_forces", unit="kcal/mol/A")
    )
    assert float(structure.labels["energy"]) == pytest.approx(2 * HARTREE)
    np.testing.assert_allclose(structure.labels["forces"], KCAL_PER_MOL)


@pytest.mark.parametrize("shape", ["voigt", "flat", "matrix"])
def test_stress_in_any_of_three_shapes_with_unit_and_sign(file, shape):
    atoms = copper()
    atoms.info["my_stress"] = {"voigt": matrix_to_voigt(STRESS), "flat": STRESS.ravel(), "matrix": STRESS}[shape]
    structure = one(file(atoms), stress=LabelSource(key="my_stress", unit="GPa", sign="compression"))
    np.testing.assert_allclose(structure.labels["stress"], -STRESS * GPA)


def test_a_virial_is_divided_by_the_volume(file):
    atoms = copper()
    atoms.info["my_virial"] = STRESS
    structure = one(file(atoms), stress=LabelSource(key="my_virial", unit="eV", sign="compression", virial=True))
    np.testing.assert_allclose(structure.labels["stress"], -STRESS / 120.0)


def test_a_virial_without_a_cell_is_skipped_with_the_reason(file):
    atoms = Atoms("H", positions=[[0, 0, 0]])
    atoms.info["my_virial"] = STRESS
    source = LabelSource(key="my_virial", unit="eV", sign="compression", virial=True)
    (item,) = read_structures(file(atoms), labels={"stress": source})
    assert isinstance(item, SkippedItem) and item.invalid and "no cell volume" in item.reason


def test_the_key_calculator_reads_the_results(file):
    assert float(one(file(copper(), energy=-1.0), energy=LabelSource(key=CALCULATOR, unit="eV")).labels["energy"]) == -1.0


def test_a_wrong_key_lists_the_keys_that_exist(file):
    atoms = copper()
    atoms.info["REF_energy"] = 2.0
    path = file(atoms, forces=np.ones((2, 3)))
    with pytest.raises(
        ValueError, match=r"no frame has the label key 'energy' \(labels.energy.key\); keys in the file are: REF_energy, forces"
    ):
        list(read_structures(path, labels={"energy": ENERGY, "forces": FORCES}))


def test_a_missing_label_of_one_frame_is_absent_not_an_error(file):
    with_forces, without = copper(0), copper(1)
    with_forces.calc = SinglePointCalculator(with_forces, energy=1.0, forces=np.ones((2, 3)))
    without.calc = SinglePointCalculator(without, energy=2.0)
    first, second = read_structures(file(with_forces, without), labels={"energy": ENERGY, "forces": FORCES})
    assert sorted(first.labels) == ["energy", "forces"] and sorted(second.labels) == ["energy"]


def test_a_frame_without_labels_is_skipped_and_not_called_broken(file):
    labelled = copper(0)
    labelled.calc = SinglePointCalculator(labelled, energy=1.0)
    _, item = read_structures(file(labelled, copper(1)), labels={"energy": ENERGY})
    assert isinstance(item, SkippedItem) and not item.invalid and item.where == "my-1" and "none of the labels energy" in item.reason


def test_a_broken_frame_is_skipped_with_the_reason(file):
    forces = np.ones((2, 3))
    forces[0, 0] = np.nan
    (item,) = read_structures(file(copper(), forces=forces), labels={"forces": FORCES})
    assert isinstance(item, SkippedItem) and item.invalid and "forces contain 1 non-finite" in item.reason


def test_a_periodic_frame_without_cell_says_so(tmp_path):
    (tmp_path / "a.extxyz").write_text('1\npbc="T T T" energy=1.0 Properties=species:S:1:pos:R:3\nCu 0 0 0\n')
    (item,) = read_structures(tmp_path / "a.extxyz", labels={"energy": ENERGY})
    assert isinstance(item, SkippedItem) and "give the cell, or set pbc to false" in item.reason


def test_ids_and_groups_come_from_stated_keys(file):
    atoms = copper()
    atoms.info.update(name="first", material="fcc")
    path = file(atoms, energy=1.0)
    (structure,) = read_structures(path, labels={"energy": ENERGY}, id_key="name", group_key="material")
    assert (structure.id, structure.group) == ("first", "fcc")
    assert one(path, energy=ENERGY).id == "my-0"
    (item,) = read_structures(path, labels={"energy": ENERGY}, group_key="polymorph")
    assert "group_key 'polymorph' is not in the frame; its info keys are: material, name" in item.reason


def test_charge_spin_and_fixed_atoms_are_kept(file):
    from ase.constraints import FixAtoms

    atoms = copper()
    atoms.info.update(total_charge=-1, spin_multiplicity=2)
    atoms.set_constraint(FixAtoms([1]))
    structure = one(file(atoms, energy=1.0), energy=ENERGY)
    assert (structure.total_charge, structure.spin_multiplicity, structure.fixed.tolist()) == (-1.0, 2, [False, True])


def test_a_truncated_file_names_line_and_frame(file):
    path = file(copper(0), copper(1), energy=1.0)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"my\.extxyz, line 5: frame 1 cannot be read: .* behind 1 of 2 atoms"):
        list(read_structures(path, labels={"energy": ENERGY}))


def test_an_unknown_format_is_one_sentence(tmp_path):
    (tmp_path / "data.bin").write_bytes(b"\x00\x01" * 20)
    with pytest.raises(ValueError, match="cannot be read by ASE"):
        list(read_structures(tmp_path / "data.bin", labels={"energy": ENERGY}))


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.extxyz").write_text("")
    with pytest.raises(ValueError, match=r"a\.extxyz"):
        list(read_structures(tmp_path / "a.extxyz", labels={"energy": ENERGY}))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.extxyz: no such file"):
        read_structures(tmp_path / "nothing.extxyz", labels={"energy": ENERGY})


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.extxyz", "ase"), ("a.traj", "ase"), ("a.aselmdb", "aselmdb"), ("a.parquet", "huggingface"), ("a.arrow", "huggingface")],
)
def test_formats_are_told_by_the_name(tmp_path, name, format):
    (tmp_path / name).write_text("")
    assert detect_format(tmp_path / name) == format
    assert detect_format("hf://owner/name") == "huggingface"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (LabelSource(key="stress", unit="GPa"), "labels.stress.sign is 'positive'.*'tension'.*'compression'"),
        (LabelSource(key="stress", unit="Gpa", sign="tension"), "unit 'Gpa' of labels.stress"),
        (LabelSource(key="stress", unit="", sign="tension"), "labels.stress.unit is not stated"),
        (LabelSource(key="stress", unit="GPa", sign="compression", virial=True), "unit 'GPa'.*eV"),
    ],
)
def test_unit_and_sign_of_stress_must_be_stated(file, source, message):
    with pytest.raises(ValueError, match=message):
        read_structures(file(copper(), stress=np.ones(6)), labels={"stress": source})


def test_an_unknown_property_or_a_sign_of_energy_is_refused(file):
    path = file(copper(), energy=1.0)
    with pytest.raises(ValueError, match="property 'enregy' is not known"):
        read_structures(path, labels={"enregy": ENERGY})
    with pytest.raises(ValueError, match="sign 'tension' is for stress only"):
        read_structures(path, labels={"energy": LabelSource(key="energy", unit="eV", sign="tension")})


def test_an_asymmetric_stress_is_refused(file):
    atoms = copper()
    atoms.info["my_stress"] = np.arange(9.0)
    (item,) = read_structures(file(atoms), labels={"stress": LabelSource(key="my_stress", unit="GPa", sign="tension")})
    assert "not symmetric" in item.reason


def test_an_order_of_the_stress_is_for_numbers_of_the_file_and_not_for_what_ase_has_ordered(tmp_path):
    atoms = copper()
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=matrix_to_voigt(STRESS))
    write(tmp_path / "a.traj", atoms)
    source = LabelSource(key="stress", unit="eV/A^3", sign="tension", order="vasp")
    with pytest.raises(ValueError, match=r"a\.traj: ASE hands over the stress of such a file in its own order; leave order 'vasp' out"):
        read_structures(tmp_path / "a.traj", labels={"stress": source})


def test_six_numbers_of_an_extended_xyz_file_are_read_in_the_order_that_is_stated(file):
    atoms = copper()
    atoms.info["in_kB"] = matrix_to_voigt(STRESS)[[0, 1, 2, 5, 3, 4]]
    structure = one(file(atoms), stress=LabelSource(key="in_kB", unit="GPa", sign="tension", order="vasp"))
    np.testing.assert_allclose(structure.labels["stress"], STRESS * GPA)
