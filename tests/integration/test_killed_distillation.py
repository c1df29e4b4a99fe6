"""A run that is killed while the teacher labels structures: what was labelled is kept, and the end is the same to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from ase.io import write
from rich.console import Console

from tests.integration.distillation_cases import methanol, parent_for_distillation, run_finetune, xtb
from unipot.data.store import Store
from unipot.structure import Structure
from unipot.workflows.finetuning.distillation import model_sampling
from unipot.workflows.finetuning.distillation import xtb_labels as teacher_labels
from unipot.workflows.finetuning.distillation.xtb_labels import all_labels_by, driven_by, labelled_store
from unipot.workflows.finetuning.schema import TeacherConfig

pytest.importorskip("tblite", reason="tblite is the teacher")
BOX = {"pbc": True, "cell": [6.5, 6.5, 6.5]}
SHORT = ("teacher.periodic_atoms=72", "teacher.steps_before=5", "teacher.max_steps=10", "teacher.own_steps=4")
MOLECULES = TeacherConfig(method="gfn2-xtb", frames=12, steps_before=3, steps_between=2)


class Killed(RuntimeError):
    """Stands for the end of the process."""


def same(store: Store, other: Store) -> bool:
    """Whether both hold the same structures with the same labels, to the last bit and in the same order."""
    pairs = list(zip(store, other, strict=True))
    alike = [one.id == two.id and one.group == two.group and one.input_bytes() == two.input_bytes() for one, two in pairs]
    return all(alike) and all(np.array_equal(one.labels[name], two.labels[name]) for one, two in pairs for name in two.labels)


def test_trajectories_that_are_done_are_not_calculated_again(tmp_path, monkeypatch):
    starts, quiet, asked = [Structure.from_ase(atoms) for atoms in methanol(4)], Console(quiet=True), []

    def until(limit):
        def driven(method, structure):
            asked.append(structure)
            if len(asked) > limit:
                raise Killed
            return driven_by(method, structure)

        return driven

    monkeypatch.setattr(teacher_labels, "_at_once", lambda: 1)
    monkeypatch.setattr(teacher_labels, "driven_by", until(3))
    with pytest.raises(Killed):
        labelled_store(MOLECULES, starts, 0, tmp_path / "killed", quiet)
    asked.clear()
    monkeypatch.setattr(teacher_labels, "driven_by", until(99))
    again = labelled_store(MOLECULES, starts, 0, tmp_path / "killed", quiet)
    assert len(asked) == 1
    assert same(again, labelled_store(MOLECULES, starts, 0, tmp_path / "whole", quiet))
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [again.path.name]  # nothing else is left there


def test_periodic_structures_that_are_labelled_are_not_labelled_again(tmp_path, toy_data, monkeypatch, capsys):
    write(tmp_path / "mine.extxyz", methanol(6, calculator=xtb("GFN2-xTB"), **BOX))
    files = {"folder": tmp_path, "checkpoint": parent_for_distillation(tmp_path / "pretrain", toy_data)}
    asked = []

    def until(limit):
        def labelled(method, structures, labels):
            for structure, found in zip(structures, all_labels_by(method, structures, labels), strict=True):
                asked.append(structure.id)
                if len(asked) > limit:
                    raise Killed
                yield found

        return labelled

    monkeypatch.setattr(model_sampling, "all_labels_by", until(11))
    with pytest.raises(Killed):
        run_finetune(files, tmp_path / "run", *SHORT)
    asked.clear()
    monkeypatch.setattr(model_sampling, "all_labels_by", until(99))
    assert run_finetune(files, tmp_path / "run", *SHORT) == 0
    assert len(asked) == 2 and "10 of which a killed run has kept" in " ".join(capsys.readouterr().out.split())
    assert run_finetune(files, tmp_path / "whole", *SHORT) == 0
    stores = [next((tmp_path / name / "data").glob("gfn1-xtb-*.unipot")) for name in ("run", "whole")]
    assert same(*map(Store, stores))
    assert not list((tmp_path / "run" / "data").glob(".*"))
