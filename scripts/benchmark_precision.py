"""What fewer bits in matrix products do to a trained model, measured where there is no GPU.

    python scripts/benchmark_precision.py errors --checkpoint best.safetensors --frames test.extxyz [--head NAME] [--limit 20]
    python scripts/benchmark_precision.py command high pretrain experiment=smoke run=runs/tf32

`errors` prints how far float32 and products with the factors of TF32 (high) and bfloat16 (medium) are from float64, in energies and
forces, beside the errors of float64 against the labels. `command` runs a command of unipot as on a GPU with
`trainer.matmul_precision` of that value, several times slower than without; its loaders of data should have no workers.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import read
from rich.console import Console

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # the checkout, not an installed copy

from unipot.calculator import UnipotCalculator  # noqa: E402
from unipot.cli import main as unipot_command  # noqa: E402
from unipot.reporting.tables import ReportTable  # noqa: E402
from unipot.testing import rounded_products  # noqa: E402
from unipot.testing.products import MANTISSA_BITS  # noqa: E402

Answer = tuple[np.ndarray, np.ndarray]


def answers(options: argparse.Namespace, frames: list[Any], precision: str) -> Answer:
    """Energies per atom (n_frames,) in eV and forces (n_atoms, 3) in eV/Å at float64, float32, high or medium."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    calculator = UnipotCalculator(options.checkpoint, head=options.head, dtype=dtype, device="cpu")
    with rounded_products(precision) if precision in MANTISSA_BITS else nullcontext():
        found = calculator.evaluate(frames)
    energies = np.array([one.energy / len(atoms) for one, atoms in zip(found, frames, strict=True)])
    return energies, np.concatenate([one.forces for one in found])


def labels(frames: list[Any]) -> Answer:
    """Of the frames, as `answers`."""
    energies = np.array([atoms.get_potential_energy() / len(atoms) for atoms in frames])
    return energies, np.concatenate([atoms.get_forces() for atoms in frames])


def row(name: str, answer: Answer, other: Answer) -> tuple[str, float, float, float]:
    """Root mean squares of the differences in meV per atom and meV/Å, and the largest one of forces."""
    energies, forces = (1000 * (a - b) for a, b in zip(answer, other, strict=True))
    return name, float(np.sqrt(np.mean(energies**2))), float(np.sqrt(np.mean(forces**2))), float(np.abs(forces).max())


def errors(options: argparse.Namespace) -> int:
    """Print the table."""
    frames = read(options.frames, index=":")
    frames = [frames[k] for k in np.linspace(0, len(frames) - 1, min(options.limit, len(frames))).astype(int)]
    exact = answers(options, frames, "float64")
    rows = [row(f"{name} against float64", answers(options, frames, name), exact) for name in ("float32", *MANTISSA_BITS)]
    rows.append(row("float64 against the labels", exact, labels(frames)))
    columns = ("products", "energy, meV/atom (RMS)", "forces, meV/Å (RMS)", "forces, meV/Å (largest)")
    Console().print(ReportTable(title=f"{len(frames)} frames of {options.frames.name}", columns=columns, rows=tuple(rows)).to_rich())
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("errors", help="of a checkpoint on labelled frames")
    measured.add_argument("--checkpoint", required=True)
    measured.add_argument("--frames", type=Path, required=True)
    measured.add_argument("--head", default=None)
    measured.add_argument("--limit", type=int, default=20, help="frames, spread over the file")
    measured.set_defaults(run=errors)
    run = commands.add_parser("command", help="run a command of unipot")
    run.add_argument("precision", choices=sorted(MANTISSA_BITS))
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="word")
    run.set_defaults(run=in_few_bits)
    options = parser.parse_args()
    return int(options.run(options))


def in_few_bits(options: argparse.Namespace) -> int:
    """The exit status of the command."""
    with rounded_products(options.precision):
        return unipot_command(options.words)


if __name__ == "__main__":
    sys.exit(main())
