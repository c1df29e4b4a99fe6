"""The one pretraining set of experiment=few-shot that overlaps a target: alloys of Nb, Mo, Ta and W without pure molybdenum.

    python scripts/few_shot_sources.py --data REFERENCE_DATA --out outputs/few-shot

`snap_NbMoTaW` shares frames with the fine-tuning target `mlearn_Mo`; every frame of pure molybdenum is left out and counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io


def without_pure(source: Path, target: Path, symbol: str) -> tuple[int, int]:
    """Copy the frames of `source` that have another element beside `symbol`; returns how many were kept and left out."""
    frames = ase.io.read(source, index=":")
    kept = [frame for frame in frames if set(frame.get_chemical_symbols()) != {symbol}]
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}")
    ase.io.write(unfinished, kept, format="extxyz")
    unfinished.replace(target)
    return len(kept), len(frames) - len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per set")
    parser.add_argument("--out", type=Path, required=True, help="folder for alloys.extxyz")
    options = parser.parse_args()
    kept, dropped = without_pure(options.data / "snap_NbMoTaW" / "train.extxyz", options.out / "alloys.extxyz", "Mo")
    print(f"{options.out / 'alloys.extxyz'}: {kept} frames kept, {dropped} of pure Mo left out")


if __name__ == "__main__":
    main()
