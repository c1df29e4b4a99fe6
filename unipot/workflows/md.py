"""`unipot md`: molecular dynamics of one structure with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from unipot.errors import InputError
from unipot.workflows.settings.compose import require_complete

if TYPE_CHECKING:
    from unipot.simulate.dynamics import Trajectory


@dataclass(kw_only=True)
class MdConfig:
    """Schema of `conf/md.yaml`, where every value is explained."""

    checkpoint: str = MISSING
    structure: str = MISSING
    index: str = MISSING
    head: str | None = None
    out: str = MISSING
    ensemble: str = MISSING
    n_steps: int = MISSING
    timestep: float = MISSING
    temperature: float = MISSING
    friction: float = MISSING
    seed: int = MISSING
    interval: int = MISSING
    max_temperature: float | None = None
    overwrite: bool = False
    unknown_elements: str = "warn"
    skin: float = MISSING
    device: str = MISSING
    dtype: str | None = None
    trusted: bool = False


def md(cfg: MdConfig) -> Trajectory:
    """Run and write the trajectory to `cfg.out`.

    Raises:
        ValueError: an option or the structure is wrong, or the run exploded; FileNotFoundError: a file is not there;
            FileExistsError: the output is.
    """
    from unipot.simulate.dynamics import molecular_dynamics
    from unipot.simulate.frames import FrameWriter
    from unipot.workflows.inputs import structure_files as files

    require_complete(cfg, "md")
    structures = files.read_atoms(cfg.structure, cfg.index)
    if len(structures) != 1:
        raise InputError(f"{cfg.structure}: index {cfg.index!r} selects {len(structures)} structures; dynamics takes one, as index=-1")
    atoms = structures[0]
    out = FrameWriter(cfg.out, structures, several=True, overwrite=cfg.overwrite)
    atoms.calc = files.make_calculator(cfg.checkpoint, cfg.head, cfg.device, cfg.dtype, cfg.skin, cfg.trusted)
    files.say_unknown_elements(atoms.calc, structures, cfg.unknown_elements)
    files.say_what_is_left_behind(structures, [out])
    label = f"{cfg.ensemble} {atoms.get_chemical_formula()}"
    with files.step_counter(label, cfg.n_steps, quantity="temperature", unit="K") as on_record:
        result = molecular_dynamics(
            atoms,
            ensemble=cfg.ensemble,
            n_steps=cfg.n_steps,
            timestep=cfg.timestep,
            temperature=cfg.temperature,
            friction=cfg.friction,
            seed=cfg.seed,
            interval=cfg.interval,
            trajectory=out,
            max_temperature=cfg.max_temperature,
            on_record=on_record,
        )
    print(f"{label}: {result.sentence()}")
    print(f"{out.n_frames} frames written to {cfg.out}")
    return result
