"""`unipot relax`: relax structures of a file with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from unipot.workflows.inputs.simulation import SimulationConfig, open_simulation, step_counter

if TYPE_CHECKING:
    from ase import Atoms

    from unipot.simulate.frames import FrameWriter
    from unipot.simulate.relaxation import Relaxation


@dataclass(kw_only=True)
class RelaxConfig(SimulationConfig):
    """Schema of `conf/relax.yaml`, where every value is explained."""

    optimizer: str = MISSING
    fmax: float = MISSING
    max_steps: int = MISSING
    relax_cell: bool = MISSING
    trajectory: str | None = None
    allow_unconverged: bool = False


def relax(cfg: RelaxConfig) -> list[Relaxation]:
    """Relax every structure and write the results to `cfg.out`, in the order of the input.

    Raises:
        ValueError: an option or a structure is wrong; FileNotFoundError: a file is not there; FileExistsError: an output is.
        NotConvergedError: after everything is written, a relaxation did not converge and `cfg.allow_unconverged` is false.
    """
    from unipot.simulate.relaxation import NotConvergedError
    from unipot.simulate.relaxation import relax as relax_atoms

    structures, (out, *trajectories) = open_simulation(cfg, "relax", _open_writers)
    results = []
    for number, atoms in enumerate(structures):
        label = f"structure {number + 1}/{len(structures)} {atoms.get_chemical_formula()}"
        with step_counter(label, cfg.max_steps) as on_step:
            result = relax_atoms(
                atoms,
                optimizer=cfg.optimizer,
                fmax=cfg.fmax,
                max_steps=cfg.max_steps,
                relax_cell=cfg.relax_cell,
                trajectory=trajectories[number] if trajectories else None,
                on_step=on_step,
            )
        print(f"{label}: {result.sentence()}")
        out.write(result.atoms, converged=result.converged)
        results.append(result)
    n_converged = sum(r.converged for r in results)
    print(f"{n_converged} of {len(results)} relaxed below {cfg.fmax} eV/A; written to {cfg.out}")
    if n_converged < len(results) and not cfg.allow_unconverged:
        raise NotConvergedError(
            f"{len(results) - n_converged} of {len(results)} structures did not reach {cfg.fmax} eV/A in {cfg.max_steps} steps; they are "
            f"in {cfg.out} with converged=F; raise max_steps, or accept them with allow_unconverged=true"
        )
    return results


def _open_writers(cfg: RelaxConfig, structures: list[Atoms]) -> list[FrameWriter]:
    """The writer of `cfg.out`, and one of every step for each structure where trajectories are wanted."""
    from unipot.simulate.frames import FrameWriter
    from unipot.workflows.inputs.structure_files import numbered, require_different

    out = FrameWriter(cfg.out, structures, several=len(structures) > 1, overwrite=cfg.overwrite)
    if cfg.trajectory is None:
        return [out]
    paths = [numbered(cfg.trajectory, number, len(structures)) for number in range(len(structures))]
    require_different([cfg.out, *paths])
    steps = [FrameWriter(path, [atoms], several=True, overwrite=cfg.overwrite) for path, atoms in zip(paths, structures, strict=True)]
    return [out, *steps]
