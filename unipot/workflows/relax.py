"""`unipot relax`: relax structures of a file with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from unipot.workflows.settings.compose import require_complete

if TYPE_CHECKING:
    from ase import Atoms

    from unipot.simulate.frames import FrameWriter
    from unipot.simulate.relaxation import Relaxation


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
    overwrite: bool = False
    allow_unconverged: bool = False
    unknown_elements: str = "warn"
    skin: float = MISSING
    device: str = MISSING
    dtype: str | None = None
    trusted: bool = False


def relax(cfg: RelaxConfig) -> list[Relaxation]:
    """Relax every structure and write the results to `cfg.out`, in the order of the input.

    Raises:
        ValueError: an option or a structure is wrong; FileNotFoundError: a file is not there; FileExistsError: an output is.
        NotConvergedError: after everything is written, a relaxation did not converge and `cfg.allow_unconverged` is false.
    """
    from unipot.simulate.frames import FrameWriter
    from unipot.simulate.relaxation import NotConvergedError
    from unipot.simulate.relaxation import relax as relax_atoms
    from unipot.workflows.inputs import structure_files as files

    require_complete(cfg, "relax")
    structures = files.read_atoms(cfg.structure, cfg.index)
    out = FrameWriter(cfg.out, structures, several=len(structures) > 1, overwrite=cfg.overwrite)
    trajectories = _trajectories(cfg, structures)
    calculator = files.make_calculator(cfg.checkpoint, cfg.head, cfg.device, cfg.dtype, cfg.skin, cfg.trusted)
    files.say_unknown_elements(calculator, structures, cfg.unknown_elements)
    files.say_what_is_left_behind(structures, [out, *trajectories[:1]])
    results = []
    for number, atoms in enumerate(structures):
        atoms.calc = calculator
        label = f"structure {number + 1}/{len(structures)} {atoms.get_chemical_formula()}"
        with files.step_counter(label, cfg.max_steps) as on_step:
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


def _trajectories(cfg: RelaxConfig, structures: list[Atoms]) -> list[FrameWriter]:
    """A writer of every step for each structure, none where no trajectory is wanted; made before the work, as they may refuse."""
    from unipot.simulate.frames import FrameWriter
    from unipot.workflows.inputs.structure_files import numbered, require_different

    if cfg.trajectory is None:
        return []
    paths = [numbered(cfg.trajectory, number, len(structures)) for number in range(len(structures))]
    require_different([cfg.out, *paths])
    return [FrameWriter(path, [atoms], several=True, overwrite=cfg.overwrite) for path, atoms in zip(paths, structures, strict=True)]
