"""`unipot md`: molecular dynamics of one structure with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from unipot.errors import InputError
from unipot.workflows.inputs.simulation import SimulationConfig, open_simulation, step_counter

if TYPE_CHECKING:
    from ase import Atoms

    from unipot.simulate.dynamics import Trajectory
    from unipot.simulate.frames import FrameWriter


@dataclass(kw_only=True)
class MdConfig(SimulationConfig):
    """Schema of `conf/md.yaml`, where every value is explained."""

    ensemble: str = MISSING
    n_steps: int = MISSING
    timestep: float = MISSING
    temperature: float = MISSING
    friction: float = MISSING
    seed: int = MISSING
    interval: int = MISSING
    max_temperature: float | None = None


def md(cfg: MdConfig) -> Trajectory:
    """Run and write the trajectory to `cfg.out`.

    Raises:
        ValueError: an option or the structure is wrong, or the run exploded; FileNotFoundError: a file is not there;
            FileExistsError: the output is.
    """
    from unipot.simulate.dynamics import molecular_dynamics

    (atoms,), (out,) = open_simulation(cfg, "md", _open_trajectory)
    label = f"{cfg.ensemble} {atoms.get_chemical_formula()}"
    with step_counter(label, cfg.n_steps, quantity="temperature", unit="K") as on_record:
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


def _open_trajectory(cfg: MdConfig, structures: list[Atoms]) -> list[FrameWriter]:
    """The writer of `cfg.out`.

    Raises:
        ValueError: there is not exactly one structure.
    """
    from unipot.simulate.frames import FrameWriter

    if len(structures) != 1:
        raise InputError(f"{cfg.structure}: index {cfg.index!r} selects {len(structures)} structures; dynamics takes one, as index=-1")
    return [FrameWriter(cfg.out, structures, several=True, overwrite=cfg.overwrite)]
