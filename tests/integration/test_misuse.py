"""Every misuse that users of such programs suffer from: one sentence that names the thing, exit code 2, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unipot.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, toy_data: dict[str, Path]) -> dict[str, Path]:
    """A good file, broken files made from it, a model of two heads, and broken copies of model and store."""
    from ase.io import read, write

    folder = tmp_path_factory.mktemp("misuse")
    metals = toy_data["metals"]
    frames = read(metals, ":6")
    iron = [atoms.copy() for atoms in frames]
    for atoms, original in zip(iron, frames, strict=True):
        atoms.calc = original.calc
        atoms.numbers[:] = 26
    write(folder / "iron.extxyz", iron)
    (folder / "empty.extxyz").write_text("")
    (folder / "there.pt2").write_bytes(b"a package")
    flat = frames[0].copy()
    flat.cell[:] = 0
    flat.calc = frames[0].calc
    write(folder / "no-cell.extxyz", flat, format="extxyz")
    text = (folder / "no-cell.extxyz").read_text().replace('pbc="F F F"', 'pbc="T T T"')
    (folder / "no-cell.extxyz").write_text(text.replace('Lattice="0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0" ', ""))
    run = folder / "run"
    words = [f"datasets.{name}.path={path}" for name, path in toy_data.items()]
    words += [f"datasets.{name}.level_of_theory=EMT-{name}" for name in toy_data]
    assert main(["pretrain", f"run={run}", "experiment=smoke", "schedule.max_steps=2", "trainer.threads=1", *words]) == 0
    model = run / "best.safetensors"
    (folder / "truncated.safetensors").write_bytes(model.read_bytes()[:-100])
    store = folder / "store.unipot"
    assert main(["prepare", f"path={metals}", f"out={store}", "level_of_theory=EMT"]) == 0
    data = store / "shards" / "00000.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    return {"metals": metals, "model": model, "folder": folder, "store": store, "run": run}


Words = Callable[[dict[str, Path]], list[str]]

CASES: dict[str, tuple[Words, list[str]]] = {
    "wrong label key": (
        lambda f: ["prepare", f"path={f['metals']}", "level_of_theory=EMT", "labels={energy: {key: REF_energy, unit: eV}}"],
        ["REF_energy", "energy"],
    ),
    "unit of a label not stated": (
        lambda f: ["prepare", f"path={f['metals']}", "level_of_theory=EMT", "labels={energy: {key: energy}}"],
        ["unit"],
    ),
    "level of theory not stated": (lambda f: ["prepare", f"path={f['metals']}"], ["level_of_theory"]),
    "label that the data do not have": (
        lambda f: [
            "pretrain", f"run={f['folder']}/r1", "experiment=smoke", f"datasets.m.path={f['folder']}/iron.extxyz",
            "datasets.m.level_of_theory=EMT", "datasets.m.labels=[energy,forces,dipole]",
        ],
        ["dipole"],
    ),
    "unknown head": (
        lambda f: ["evaluate", f"checkpoint={f['model']}", f"data={f['metals']}", "head=metal"],
        ["'metal'", "metals", "molecules"],
    ),
    "no head named": (
        lambda f: ["relax", f"checkpoint={f['model']}", f"structure={f['metals']}", f"out={f['folder']}/x.extxyz"],
        ["metals", "molecules"],
    ),
    "unknown element": (
        lambda f: ["evaluate", f"checkpoint={f['model']}", f"data={f['folder']}/iron.extxyz", "head=metals", f"output={f['folder']}/e"],
        ["Fe", "metals"],
    ),
    "package under another ending": (
        lambda f: ["package", f"checkpoint={f['model']}", "head=metals", f"out={f['folder']}/model.bin"],
        ["model.bin", ".pt2"],
    ),
    "package where one is already": (
        lambda f: ["package", f"checkpoint={f['model']}", "head=metals", f"out={f['folder']}/there.pt2"],
        ["there.pt2", "exists already", "overwrite=true"],
    ),
    "package that nobody vouches for": (
        lambda f: ["md", f"checkpoint={f['folder']}/model.pt2", f"structure={f['metals']}", f"out={f['folder']}/x.extxyz"],
        ["model.pt2", "trusted=true"],
    ),
    "compiled and recomputed": (
        lambda f: ["pretrain", f"run={f['folder']}/r2", "experiment=smoke", f"datasets.m.path={f['metals']}",
                   "datasets.m.level_of_theory=EMT", "trainer.compile=true", "trainer.activation_checkpointing=true"],
        ["trainer.compile", "trainer.activation_checkpointing"],
    ),
    "unknown precision": (
        lambda f: ["pretrain", f"run={f['folder']}/r3", "experiment=smoke", f"datasets.m.path={f['metals']}",
                   "datasets.m.level_of_theory=EMT", "trainer.matmul_precision=tf32"],
        ["'tf32'", "highest, high, medium"],
    ),
    "unknown optimizer": (
        lambda f: ["pretrain", f"run={f['folder']}/r4", "experiment=smoke", f"datasets.m.path={f['metals']}",
                   "datasets.m.level_of_theory=EMT", "optimizer.kind=lion"],
        ["'lion'", "adamw, muon"],
    ),
    "unknown option": (lambda f: ["pretrain", "run=x", "optimizer.learning_rat=1"], ["learning_rat", "did you mean 'learning_rate'"]),
    "unknown choice of a group": (lambda f: ["pretrain", "run=x", "backbone=native-smal"], ["native-smal", "native-small"]),
    "empty dataset": (
        lambda f: [
            "pretrain", f"run={f['folder']}/r2", "experiment=smoke", f"datasets.m.path={f['folder']}/empty.extxyz",
            "datasets.m.level_of_theory=EMT",
        ],
        ["empty.extxyz"],
    ),
    "corrupt store": (
        lambda f: [
            "pretrain", f"run={f['folder']}/r3", "experiment=smoke", f"datasets.m.path={f['store']}", "datasets.m.level_of_theory=EMT",
        ],
        ["store.unipot", "truncated"],
    ),
    "truncated checkpoint": (
        lambda f: ["evaluate", f"checkpoint={f['folder']}/truncated.safetensors", f"data={f['metals']}", "head=metals"],
        ["truncated.safetensors"],
    ),
    "structure larger than the budget": (
        lambda f: [
            "pretrain", f"run={f['folder']}/r4", "experiment=smoke", "mixture.max_atoms=3", f"datasets.m.path={f['metals']}",
            "datasets.m.level_of_theory=EMT",
        ],
        ["max_atoms=3", "4 atoms"],
    ),
    "periodic structure without cell": (
        lambda f: ["prepare", f"path={f['folder']}/no-cell.extxyz", "level_of_theory=EMT", f"out={f['folder']}/n.unipot"],
        ["no-cell-0", "cell are missing"],
    ),
    "two levels of theory in one head": (
        lambda f: [
            "pretrain", f"run={f['folder']}/r5", "experiment=smoke",
            f"datasets.a.path={f['metals']}", "datasets.a.level_of_theory=PBE", "datasets.a.head=h",
            f"datasets.b.path={f['metals']}", "datasets.b.level_of_theory=LDA", "datasets.b.head=h",
        ],
        ["PBE", "LDA", "'h'"],
    ),
    "no threads": (
        lambda f: ["finetune", f"checkpoint={f['model']}", f"data={f['metals']}", f"run={f['folder']}/r7", "trainer.threads=0"],
        ["trainer.threads is 0; it must be at least 1"],
    ),
    "labels stated as in unipot prepare": (
        lambda f: ["finetune", f"checkpoint={f['model']}", f"data={f['metals']}", "labels.energy.key=E", "labels.energy.unit=eV"],
        ["'labels' has no options of its own", "sources.<label>='{key: ..., unit: ...}'"],
    ),
    "batches of no atoms": (
        lambda f: ["evaluate", f"checkpoint={f['model']}", f"data={f['metals']}", "head=metals", "max_atoms=0"],
        ["max_atoms is 0; it must be at least 1"],
    ),
    "negative threshold": (
        lambda f: ["evaluate", f"checkpoint={f['model']}", f"data={f['metals']}", "head=metals", "thresholds.forces=-1"],
        ["threshold for 'forces' is -1.0; it must be positive"],
    ),
    "file that is not there": (
        lambda f: ["finetune", f"checkpoint={f['model']}", "data=nowhere.extxyz", f"run={f['folder']}/r6"],
        ["nowhere.extxyz"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_misuse_gets_one_sentence_and_exit_code_2(case: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words, named = CASES[case]
    capsys.readouterr()
    assert main(words(files)) == 2
    error = capsys.readouterr().err
    assert error.startswith("unipot: error: ") and "Traceback" not in error
    for word in named:
        assert word in error, f"{word!r} is not in: {error}"
