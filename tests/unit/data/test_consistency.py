"""Signs and units of labels are found out from the energies of near-identical frames."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unipot.data.labels import LabelSource, convert_label, voigt_places
from unipot.data.quality.consistency import ConsistencyCheck, ConsistencyReport
from unipot.data.readers.ase_files import read_ase_file
from unipot.data.readers.assumed_labels import default_labels
from unipot.structure import Structure
from unipot.units import GPA, HARTREE, matrix_to_voigt


def springs(seed: int, *, strained: bool = True, strains: float = 0.01) -> Structure:
    """A crystal with an energy quadratic in displacements u and strain ε: E = ½k Σu² + ½c V₀ (tr ε)²."""
    rng = np.random.default_rng(seed)
    k, c, cell = 5.0, 0.6, np.diag([4.0, 4.5, 5.0])
    sites = np.array([[0.1, 0.1, 0.1], [0.5, 0.5, 0.5], [0.1, 0.6, 0.8]])
    strain = rng.normal(size=(3, 3)) * (strains if strained else 0.0)
    strain = 0.5 * (strain + strain.T)
    moved = rng.normal(size=(3, 3)) * 0.03
    moved -= moved.mean(axis=0)
    deformed = cell @ (np.eye(3) + strain)
    volume, volume_0 = np.linalg.det(deformed), np.linalg.det(cell)
    energy = 0.5 * k * (moved**2).sum() + 0.5 * c * volume_0 * np.trace(strain) ** 2
    # the displacements are measured in the strained frame, so only the second term gives stress
    stress = c * volume_0 / volume * np.trace(strain) * (np.eye(3) + strain)
    labels = {"energy": np.array(energy - 50.0), "forces": -k * moved, "stress": stress}
    return Structure(
        atomic_numbers=[12, 8, 8], positions=sites @ deformed + moved, cell=deformed, pbc=[True] * 3, labels=labels, id=str(seed)
    )


def report_of(structures, **factors: float) -> ConsistencyReport:
    check = ConsistencyCheck()
    for structure in structures:
        check.add(structure.with_labels(**{name: value * factors.get(name, 1.0) for name, value in structure.labels.items()}))
    return check.report()


def test_correct_labels_have_slope_one():
    report = report_of(springs(k) for k in range(30))
    for name in ("forces", "stress"):
        slope = report.slope(name)
        assert slope is not None and slope.determined and slope.value == pytest.approx(1.0, abs=0.05)
    report.refuse_contradictions("springs")


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            {"stress": -1.0},
            r"'springs': the stress labels contradict.*their sign is reversed \(tension <-> compression\); correct the unit and sign",
        ),
        ({"forces": -1.0}, "the forces labels contradict.*sign is reversed; correct the unit and sign stated for forces"),
        ({"stress": GPA}, "the stress labels.*numbers in eV/A\\^3 are stated to be in GPa"),
        ({"stress": -1 / GPA}, "the stress labels.*unit is wrong and their sign reversed"),
        ({"forces": HARTREE}, "the forces labels.*unit is wrong"),
    ],
)
def test_wrong_signs_and_units_are_refused_by_name(factors, message):
    with pytest.raises(ValueError, match=message):
        report_of((springs(k) for k in range(30)), **factors).refuse_contradictions("springs")


def sheared(seed: int) -> Structure:
    """A crystal of four atoms without displacements: E = ½c V₀ ε:ε, whose stress has shears as large as its diagonal."""
    rng, cell, c = np.random.default_rng(seed), np.diag([4.0, 4.5, 5.0]), 0.6
    strain = rng.normal(size=(3, 3)) * 0.01
    strain = 0.5 * (strain + strain.T)
    deformed = cell @ (np.eye(3) + strain)
    volume = np.linalg.det(cell)
    stress = c * volume / np.linalg.det(deformed) * 0.5 * (strain @ (np.eye(3) + strain) + (np.eye(3) + strain) @ strain)
    labels = {"energy": np.array(0.5 * c * volume * (strain**2).sum() - 50.0), "stress": stress}
    sites = np.array([[0.1, 0.1, 0.1], [0.5, 0.5, 0.5], [0.1, 0.6, 0.8], [0.6, 0.1, 0.7]])
    return Structure(
        atomic_numbers=[12, 8, 8, 8], positions=sites @ deformed, cell=deformed, pbc=[True] * 3, labels=labels, id=str(seed)
    )  # fmt: skip


@pytest.mark.parametrize("order", ["vasp", "lammps"])
def test_shears_that_were_read_in_another_order_than_they_have_are_refused_with_the_order(order):
    """Six numbers in VASP's or LAMMPS' order, read as Voigt's."""
    written = [LabelSource(key="s", unit="eV/A^3", sign="tension", order=name) for name in ("voigt", order)]
    frames = [sheared(k) for k in range(20)]
    numbers = [matrix_to_voigt(f.labels["stress"])[np.argsort(voigt_places(order))] for f in frames]
    wrong, right = ([convert_label("stress", source, six, 4, 1.0) for six in numbers] for source in written)
    with pytest.raises(ValueError, match=f"clearly better in the order '{order}'; state the order .* labels.stress.order"):
        report_of(f.with_labels(**{**f.labels, "stress": s}) for f, s in zip(frames, wrong, strict=True)).refuse_contradictions("set")
    report_of(f.with_labels(**{**f.labels, "stress": s}) for f, s in zip(frames, right, strict=True)).refuse_contradictions("set")


def test_numbers_in_the_order_of_ase_that_are_stated_to_be_vasps_are_refused_with_their_own_order():
    frames = [sheared(k) for k in range(20)]
    stated = LabelSource(key="s", unit="eV/A^3", sign="tension", order="vasp")
    wrong = [convert_label("stress", stated, matrix_to_voigt(f.labels["stress"]), 4, 1.0) for f in frames]
    report = report_of(f.with_labels(**{**f.labels, "stress": s}) for f, s in zip(frames, wrong, strict=True))
    with pytest.raises(ValueError, match="read in the order 'vasp'.*clearly better in the order 'voigt'"):
        report.refuse_contradictions("set", order="vasp")


def test_energies_per_atom_are_refused_by_name():
    frames = [s.with_labels(**{**s.labels, "energy": s.labels["energy"] / s.n_atoms}) for s in (springs(k) for k in range(30))]
    with pytest.raises(ValueError, match="the energies look like energies per atom: .* give energies of whole structures"):
        report_of(frames).refuse_contradictions("springs")


def test_forces_off_by_the_number_of_atoms_are_no_energies_per_atom_where_stress_says_otherwise():
    with pytest.raises(ValueError, match="the forces labels contradict.* so they are 2.9 times"):
        report_of((springs(k, strains=0.02) for k in range(40)), forces=3.0).refuse_contradictions("springs")


def test_a_factor_that_no_unit_explains_is_refused_with_the_factor():
    with pytest.raises(ValueError, match="the forces labels contradict.* so they are 4.98 times what the energies say, a factor that"):
        report_of((springs(k) for k in range(30)), forces=5.0).refuse_contradictions("springs")


def test_an_uncertain_factor_is_a_doubt_and_no_refusal():
    rng = np.random.default_rng(0)
    noisy = [s.with_labels(**{**s.labels, "energy": s.labels["energy"] + 0.01 * rng.normal()}) for s in (springs(k) for k in range(30))]
    report = report_of(noisy, forces=5.0)
    report.refuse_contradictions("springs")
    assert report.doubts() and "forces labels contradict the energies" in report.doubts()[0]
    assert report_of(noisy).doubts() == []


def test_pieces_of_an_earlier_version_say_nothing_of_orders_and_atoms():
    """Their rows have three numbers."""
    check, whole = ConsistencyCheck(), ConsistencyCheck()
    for k in range(20):
        whole.add(springs(k))
    check.merge({"n_pairs": 9, "n_disagreeing": 0, "rows": [row[:3] for row in whole.state()["rows"]], "suspects": []})
    report = check.report()
    assert report.slope("stress").value == pytest.approx(1.0, abs=0.05) and report.read_as is None and not report.per_atom


def test_forces_are_judged_without_strain():
    report = report_of((springs(k, strained=False) for k in range(30)), stress=-1.0)
    assert report.slope("stress") is None and report.slope("forces").value == pytest.approx(1.0, abs=0.02)


def test_few_or_distant_frames_decide_nothing():
    assert report_of(springs(k) for k in range(2)).slopes == ()
    rng = np.random.default_rng(0)
    far = [springs(k) for k in range(10)]
    far = [Structure(**{**vars(s), "positions": rng.random((3, 3)) * 4}) for s in far]
    assert report_of(far, stress=-1.0).n_pairs == 0


def test_noise_decides_nothing():
    rng = np.random.default_rng(0)
    report = report_of(s.with_labels(**{**s.labels, "energy": rng.normal()}) for s in (springs(k) for k in range(30)))
    assert report.slopes and not any(slope.determined for slope in report.slopes)
    report.refuse_contradictions("noise")


def test_other_atoms_are_not_compared():
    structures = [springs(k) for k in range(8)]
    other = [Structure(**{**vars(s), "atomic_numbers": np.array([12, 8, 9 + k])}) for k, s in enumerate(structures)]
    assert report_of(other).n_pairs == 0


def trajectory(n: int = 60, errors: dict[int, float] | None = None) -> ConsistencyCheck:
    """Springs, some of whose energies are off."""
    check = ConsistencyCheck()
    for k in range(n):
        frame = springs(k)
        energy = frame.labels["energy"] + (errors or {}).get(k, 0.0)
        check.add(frame.with_labels(**{**frame.labels, "energy": energy}))
    return check


def test_single_wrong_frames_are_found_and_no_others():
    assert trajectory().suspects() == [] and trajectory().n_pairs > 200
    suspects = trajectory(errors={0: 0.5, 20: -0.5, 21: 1.0, 59: 0.5}).suspects()
    assert sorted(int(suspect.id) for suspect in suspects) == [0, 20, 21, 59]
    assert all(suspect.disagreement > 5 and suspect.pairs >= 2 for suspect in suspects)


def test_a_jump_between_two_branches_blames_no_frame():
    assert trajectory(errors={k: 2.0 for k in range(30, 60)}).suspects() == []


def test_a_set_that_disagrees_as_a_whole_blames_no_frame():
    rng = np.random.default_rng(0)
    check = trajectory(errors={k: rng.normal() * 3 for k in range(60)})
    assert check.widespread and check.suspects() == []


def test_checks_of_pieces_are_merged():
    whole, merged = trajectory(), ConsistencyCheck()
    for k in range(3):
        piece = ConsistencyCheck()
        for frame in (springs(20 * k + j) for j in range(20)):
            piece.add(frame.with_labels(**{**frame.labels, "energy": frame.labels["energy"] + (0.5 if frame.id == "27" else 0.0)}))
        merged.merge(json.loads(json.dumps(piece.state())))
    assert [suspect.id for suspect in merged.suspects()] == ["27"]
    assert merged.n_pairs <= whole.n_pairs and len(merged._rows) == min(merged.n_pairs, 600)


@pytest.mark.parametrize(("name", "property_name"), [("oxides_bo2_pbe", "stress"), ("cathub_ag111_neb", "forces")])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_real_sets(real_data, name, property_name, sign):
    path = next(path for path in (real_data / name / "train.extxyz", real_data / name / "all.extxyz") if path.exists())
    structures = list(read_ase_file(path, labels=default_labels(path)))[:240]
    report = report_of(structures, **{property_name: sign})
    assert report.slope(property_name).determined and report.slope(property_name).value == pytest.approx(sign, abs=0.1)
    if sign < 0:
        with pytest.raises(ValueError, match=f"the {property_name} labels contradict the energies.*sign is reversed"):
            report.refuse_contradictions(name)
    else:
        report.refuse_contradictions(name)
