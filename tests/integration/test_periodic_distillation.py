"""Distillation for periodic systems: a first model of the frames moves the structures, the teacher labels a few of them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import write

from tests.integration.distillation_cases import methanol, parent_for_distillation, run_finetune, xtb
from unipot.data.store import Store
from unipot.structure import Structure
from unipot.workflows.finetuning.distillation import model_sampling
from unipot.workflows.finetuning.distillation.corrected import _structures_per_step
from unipot.workflows.finetuning.distillation.model_sampling import n_labelled
from unipot.workflows.finetuning.distillation.xtb_labels import driven_by, thermal_motion
from unipot.workflows.finetuning.schema import TeacherConfig
from unipot.zoo.artifact import load_artifact

pytest.importorskip("tblite", reason="tblite is the teacher")
BOX = {"pbc": True, "cell": [6.5, 6.5, 6.5]}
SHORT = ("teacher.periodic_atoms=72", "teacher.steps_before=5", "teacher.max_steps=10", "teacher.own_steps=4")


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("periodic")
    write(folder / "mine.extxyz", methanol(6, calculator=xtb("GFN2-xTB"), **BOX))
    return {"folder": folder, "checkpoint": parent_for_distillation(folder / "pretrain", toy_data)}


@pytest.fixture(scope="module")
def run(files):
    folder = files["folder"] / "run"
    assert run_finetune(files, folder, *SHORT) == 0
    return folder


def store_called(run, beginning):
    (path,) = (run / "data").glob(f"{beginning}-*.unipot")
    return Store(path)


def test_the_first_method_teaches_where_its_forces_follow(run):
    facts = load_artifact(run / "best.safetensors").card["finetune"]["teacher"]
    assert (facts["method"], facts["corrected"], facts["n_frames"]) == ("gfn1-xtb", True, 6)


def test_as_many_structures_are_labelled_as_have_the_stated_atoms_together(run):
    assert len(store_called(run, "gfn1-xtb")) == len(store_called(run, "corrected")) == 72 // 6


def test_differences_include_those_of_the_stress(run):
    store = store_called(run, "difference")
    assert set(store.labels) == {"energy", "forces", "stress"}
    for structure, frame in zip(list(store)[:2], methanol(2, calculator=xtb("GFN2-xTB"), **BOX), strict=True):
        teacher = driven_by("gfn1-xtb", structure)
        np.testing.assert_allclose(structure.labels["energy"] + teacher.get_potential_energy(), frame.get_potential_energy(), atol=1e-5)
        np.testing.assert_allclose(structure.labels["stress"] + teacher.get_stress(voigt=False), frame.get_stress(voigt=False), atol=1e-6)


def test_labelled_structures_have_the_teachers_energies_forces_and_stress(run):
    structure = store_called(run, "gfn1-xtb")[4]
    teacher = driven_by("gfn1-xtb", structure)
    np.testing.assert_allclose(structure.labels["forces"], teacher.get_forces(), atol=1e-5)
    np.testing.assert_allclose(structure.labels["stress"], teacher.get_stress(voigt=False), atol=1e-6)
    assert set(store_called(run, "corrected").labels) == {"energy", "forces", "stress"}


def test_structures_have_moved_from_the_frames_and_from_each_other_in_the_same_cell(files, run):
    frames = methanol(6, calculator=EMT, **BOX)
    store = list(store_called(run, "gfn1-xtb"))
    for own, (first, second) in zip(frames, zip(store[::2], store[1::2], strict=True), strict=True):
        assert np.array_equal(first.cell, own.cell.array) and np.array_equal(first.atomic_numbers, own.numbers)
        moved = [np.abs(a - b).max() for a, b in ((first.positions, own.positions), (second.positions, first.positions))]
        assert min(moved) > 0.02


def test_a_run_that_is_continued_labels_nothing_again(files, run, monkeypatch):
    (run / "best.safetensors").unlink()
    monkeypatch.setattr(model_sampling, "all_labels_by", None)
    assert run_finetune(files, run, *SHORT) == 0


def test_labels_far_from_the_teachers_are_learned_without_it(files, tmp_path, capsys):
    write(tmp_path / "stiff.extxyz", methanol(6, factor=1.5, calculator=xtb("GFN2-xTB"), **BOX))
    assert run_finetune(files, tmp_path / "run", f"data={tmp_path / 'stiff.extxyz'}", "check_labels=false") == 0
    assert "of their size away from them" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "run" / "difference.safetensors").exists()


def test_without_the_correction_periodic_frames_have_no_distillation(files, tmp_path, capsys):
    assert run_finetune(files, tmp_path / "run", "teacher.corrected=false") == 0
    assert "distillation first" not in capsys.readouterr().out


def test_a_teacher_that_labels_no_structure_is_an_error_in_one_sentence(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(model_sampling, "all_labels_by", lambda method, structures, labels: [None] * len(structures))
    assert run_finetune(files, tmp_path / "run", *SHORT) == 2
    error = capsys.readouterr().err
    assert "teacher.method=gfn1-xtb could not label any structure" in " ".join(error.split()) and "Traceback" not in error
    assert not list((tmp_path / "run" / "data").glob("gfn1-xtb-*"))


def test_a_trajectory_ends_where_forces_are_beyond_all_labels():
    start = Structure.from_ase(methanol(1)[0])
    lengths = []
    for limit in (1e9, 0.01):
        atoms = start.to_ase()
        atoms.calc = EMT()
        lengths.append(len(list(model_sampling._trajectory(TeacherConfig(steps_before=3), thermal_motion(atoms, 300.0, 0, 0), 3, limit))))
    assert lengths == [3, 0]


@pytest.mark.parametrize(("frames", "atoms", "n"), [(2000, 6000, 1000), (2000, 6, 8), (10, 6000, 10)])
def test_every_frame_moves_at_least_once_and_no_more_are_labelled_than_asked_for(frames, atoms, n):
    starts = [Structure.from_ase(frame) for frame in methanol(8)]
    assert n_labelled(TeacherConfig(frames=frames, periodic_atoms=atoms), starts) == n


@pytest.mark.parametrize(("periodic", "n_atoms", "n"), [(True, 192, 3), (True, 6, 15), (True, 5000, 1), (False, 192, 15)])
def test_large_periodic_structures_go_fewer_to_a_step(periodic, n_atoms, n):
    store = type("Few", (list,), {"n_atoms": np.array([n_atoms])})([SimpleNamespace(pbc=np.array(3 * [periodic]))])
    assert _structures_per_step(TeacherConfig().structures_per_step, 320, SimpleNamespace(store=store)) == n


def test_the_frames_alone_come_last(run):
    assert json.loads((run / "finetune_summary.json").read_text())["n_steps"] == 4
