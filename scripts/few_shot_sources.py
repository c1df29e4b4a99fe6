"""Pretraining sets of the few-shot study that are not used as they are published.

    python scripts/few_shot_sources.py --data REFERENCE_DATA --out outputs/few-shot

`alloys.extxyz` (experiment=few-shot): `snap_NbMoTaW` shares frames with the fine-tuning target `mlearn_Mo`; every frame of pure
molybdenum is left out and counted. `difference-*.extxyz` (experiment=few-shot-organics): molecules whose labels are those of DFT less
those of GFN2-xTB (tblite), so that the parent knows how two levels of theory differ; one of them is of the molecules in
`pbe-organics.unipot` (experiment=few-shot-dft), where that store lies in the folder already.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.calculators.singlepoint import SinglePointCalculator

from unipot.data.store import Store
from unipot.structure import Structure
from unipot.workflows.finetuning.distillation.xtb_labels import driven_by

#: file -> sets of one level of theory and one zero of energy
DIFFERENCES = {
    "difference-pbe": ("benzene", "malonaldehyde", "naphthalene", "paracetamol", "salicylic", "toluene", "uracil"),
    "difference-wb97m": ("spice_sub",),
    "difference-wb97m-atoms": ("spice_dipep",),
}

#: molecules that `unipot prepare recipe=pbe_organics` labelled
ORGANICS = "pbe-organics"


def without_pure(source: Path, target: Path, symbol: str) -> tuple[int, int]:
    """Copy the frames of `source` that have another element beside `symbol`; returns how many were kept and left out."""
    frames = ase.io.read(source, index=":")
    kept = [frame for frame in frames if set(frame.get_chemical_symbols()) != {symbol}]
    _write(target, kept)
    return len(kept), len(frames) - len(kept)


def differences(sources: list[Path], target: Path) -> tuple[int, int]:
    """Write the frames of `sources` with their labels less those of GFN2-xTB; returns how many were kept and how many it failed on."""
    kept, failed = [], 0
    for source in sources:
        for frame in _frames(source):
            try:
                kept.append(_less_xtb(frame))
            except CalculationFailed:
                failed += 1
    _write(target, kept)
    return len(kept), failed


def _training_frames(data: Path, own: str) -> Path:
    return data / (own if "_" in own else f"rmd17_{own}") / "train.extxyz"


def _frames(source: Path) -> list[Atoms]:
    """Of a structure file or a store, with their labels."""
    return [structure.to_ase() for structure in Store(source)] if source.suffix == ".unipot" else ase.io.read(source, index=":")


def _less_xtb(frame: Atoms) -> Atoms:
    method = driven_by("gfn2-xtb", Structure.from_ase(frame))
    energy, forces = frame.get_potential_energy() - method.get_potential_energy(), frame.get_forces() - method.get_forces()
    left = Atoms(frame.numbers, frame.positions)
    left.calc = SinglePointCalculator(left, energy=energy, forces=forces)
    return left


def _write(target: Path, frames: list[Atoms]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}")
    ase.io.write(unfinished, frames, format="extxyz")
    unfinished.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    options = parser.parse_args()
    kept, dropped = without_pure(options.data / "snap_NbMoTaW" / "train.extxyz", options.out / "alloys.extxyz", "Mo")
    print(f"{options.out / 'alloys.extxyz'}: {kept} frames kept, {dropped} of pure Mo left out", flush=True)
    wanted = {name: [_training_frames(options.data, own) for own in sets] for name, sets in DIFFERENCES.items()}
    organics = options.out / f"{ORGANICS}.unipot"
    if organics.is_dir():
        wanted[f"difference-{ORGANICS}"] = [organics]
    for name, sources in wanted.items():
        kept, failed = differences(sources, options.out / f"{name}.extxyz")
        print(f"{options.out / name}.extxyz: {kept} frames kept, {failed} left out where GFN2-xTB failed", flush=True)


if __name__ == "__main__":
    main()
