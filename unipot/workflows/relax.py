"""`unipot relax`: relax structures of a file with a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

if TYPE_CHECKING:
    from unipot.simulate.relax import Relaxation


@dataclass(kw_only=True)
class RelaxConfig:
    """Schema of `conf/relax.yaml`, where every value is explained."""

    checkpoint: str = MISSING
    structure: str = MISSING
    index: str = MISSING
    head: str | None = None
    out: str = MISSING
    optimizer: str = MISSING
    fmax: float = MISSING
    max_steps: int = MISSING
    relax_cell: bool = MISSING
    trajectory: str | None = None
    skin: float = MISSING
    device: str = MISSING
    dtype: str | None = None
    trusted: bool = False


def relax(cfg: RelaxConfig) -> list[Relaxation]:
    """Relax every structure and write the results to `cfg.out`, in the order of the input.

    Raises:
        ValueError: an option or a structure is wrong; FileNotFoundError: a file is not there.
    """
    from unipot.simulate.relax import append_frame
    from unipot.simulate.relax import relax as relax_atoms
    from unipot.workflows.inputs.structure_files import make_calculator, numbered, read_atoms, step_counter

    structures = read_atoms(cfg.structure, cfg.index)
    calculator = make_calculator(cfg.checkpoint, cfg.head, cfg.device, cfg.dtype, cfg.skin, cfg.trusted)
    Path(cfg.out).parent.mkdir(parents=True, exist_ok=True)
    results = []
    for number, atoms in enumerate(structures):
        atoms.calc = calculator
        label = f"structure {number + 1}/{len(structures)} {atoms.get_chemical_formula()}"
        with step_counter(label, cfg.max_steps) as on_step:
            result = relax_atoms(
                atoms,
                optimizer=cfg.optimizer,
                fmax=cfg.fmax,
                max_steps=cfg.max_steps,
                relax_cell=cfg.relax_cell,
                trajectory=None if cfg.trajectory is None else numbered(cfg.trajectory, number, len(structures)),
                on_step=on_step,
            )
        print(f"{label}: {result.sentence()}")
        append_frame(cfg.out, result.atoms, first=number == 0)
        results.append(result)
    n_converged = sum(r.converged for r in results)
    print(f"{n_converged} of {len(results)} relaxed below {cfg.fmax} eV/A; written to {cfg.out}")
    return results
