"""Sound inputs: small sets labelled by ASE's EMT, a model of twenty steps and its run state, exports, configurations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

CONFIGURATION = """\
checkpoint: runs/a/best.safetensors
data: mine.extxyz   # my frames
level_of_theory: "PBE, 520 eV"
labels: [energy, forces]
sources: {energy: {key: dft_energy, unit: eV}}
seed: 3
validation_fraction: 0.2
optimizer:
  learning_rate: 1.0e-3
  weight_decay: 0.0
finetune:
  method: full
schedule: {max_steps: 300, warmup_steps: 10}
trainer:
  threads: 1
  validate_every: 50
  selection: {property: forces, statistic: mae}
teacher:
  method: none
replay:
  oc20:
    path: oc20.unipot
    level_of_theory: RPBE
    weight: 0.5
"""


def frames(n: int = 9) -> list[Any]:
    """Molecules and rattled metals with energy and forces, metals with stress; fixed atoms, a charge and a name among them."""
    from ase.build import bulk, molecule
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    rng, found = np.random.default_rng(0), []
    for k in range(n):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True) if k % 3 == 0 else molecule(("CH3OH", "H2O")[k % 2])
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        results = {"energy": float(atoms.get_potential_energy()), "forces": np.array(atoms.get_forces())}
        if atoms.pbc.all():
            results["stress"] = np.array(atoms.get_stress())
        atoms.info = {"gap": 0.5 + 0.1 * k, "total_charge": float(k % 2), "material": f"group-{k // 3}"}
        if k == 3:
            atoms.set_constraint(FixAtoms([0]))
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


def xyz(folder: Path, shared: Path) -> None:
    from ase.io import write

    write(folder / "frames.extxyz", frames())


def _prepared(folder: Path, **options: Any) -> Path:
    """`set.unipot`, by `unipot prepare`, with a column of a scalar property."""
    from unipot.cli import main
    from unipot.data.scalar_columns import attach_scalars
    from unipot.properties import ScalarProperty

    xyz(folder, folder)
    words = [f"{key}={value}" for key, value in options.items()]
    store = folder / "set.unipot"
    source, target = f"path={folder / 'frames.extxyz'}", f"out={store}"
    if main(
        ["prepare", source, target, "name=set", "level_of_theory=EMT", "group_key=material", "workers=0", "quarantine.max_force=50", *words]
    ):
        raise SystemExit("unipot prepare failed; see the lines above")
    (folder / "frames.extxyz").unlink()
    gaps = {f"frames-{k}": 0.5 + 0.1 * k for k in range(7)}
    attach_scalars(store, [ScalarProperty(name="gap", key="gap", unit="eV")], {"gap": gaps})
    return store


def store(folder: Path, shared: Path) -> None:
    _prepared(folder)


def store_compressed(folder: Path, shared: Path) -> None:
    _prepared(folder, compression="zstd", precision="float32")


def parquet(folder: Path, shared: Path) -> None:
    from unipot.data.parquet.export import export_parquet
    from unipot.data.store import Store

    made = _prepared(folder)
    export_parquet(Store(made), folder / "export")
    shutil.rmtree(made)


def _pretrained(shared: Path) -> Path:
    """The folder of a run of a few steps, made once."""
    from unipot.cli import main

    run = shared / "pretrain"
    if not (run / "best.safetensors").is_file():
        shared.mkdir(parents=True, exist_ok=True)
        xyz(shared, shared)
        words = [
            f"datasets.set.path={shared / 'frames.extxyz'}",
            "datasets.set.level_of_theory=EMT",
            "trainer.threads=1",
            "trainer.progress=false",
        ]
        if main(["pretrain", f"run={run}", "experiment=smoke", "schedule.max_steps=4", "trainer.validate_every=2", *words]):
            raise SystemExit("unipot pretrain failed; see the lines above")
    return run


def artifact(folder: Path, shared: Path) -> None:
    shutil.copy(_pretrained(shared) / "best.safetensors", folder / "model.safetensors")


def artifact_folder(folder: Path, shared: Path) -> None:
    from unipot.zoo.artifact import RESERVED, load_artifact, save_artifact

    found = load_artifact(_pretrained(shared) / "best.safetensors")
    save_artifact(folder / "model", found.potential, card={k: v for k, v in found.card.items() if k not in RESERVED})


def package(folder: Path, shared: Path) -> None:
    """A package without machine code: what is read of one before it is trusted needs none, and compiling takes minutes."""
    import zipfile

    import torch

    from unipot.zoo.artifact import load_artifact
    from unipot.zoo.compiled_package import save_package

    def uncompiled(graph: Any, *, package_path: str) -> None:
        with zipfile.ZipFile(package_path, "w") as archive:
            archive.writestr("model/data/aotinductor/model/model.so", bytes(range(256)))

    found = load_artifact(_pretrained(shared) / "best.safetensors")
    compiler, torch._inductor.aoti_compile_and_package = torch._inductor.aoti_compile_and_package, uncompiled
    try:
        save_package(folder / "model.pt2", found, found.potential.head_names[0])
    finally:
        torch._inductor.aoti_compile_and_package = compiler


def run_state(folder: Path, shared: Path) -> None:
    shutil.copy(_pretrained(shared) / "checkpoints" / "last.ckpt", folder / "last.ckpt")


def configuration(folder: Path, shared: Path) -> None:
    (folder / "mine.yaml").write_text(CONFIGURATION)


def resolved_configuration(folder: Path, shared: Path) -> None:
    shutil.copytree(_pretrained(shared), folder / "run", ignore=shutil.ignore_patterns("data", "*.safetensors"))
