"""Structures in thermal motion around the user's frames, labelled by a semi-empirical method (tblite)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from rich.console import Console

from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure

NONE, AUTO = "none", "auto"
#: option -> name of the method in tblite
METHODS = {"gfn1-xtb": "GFN1-xTB", "gfn2-xtb": "GFN2-xTB"}
#: fs, 1/fs; of the dynamics that samples
_TIMESTEP, _FRICTION = 1.0, 0.01


@dataclass(kw_only=True)
class TeacherConfig:
    """`method`: none, gfn1-xtb or gfn2-xtb (tblite), or auto (see `unipot.workflows.teacher_choice`). `frames`: labelled in all.
    `temperature`: K, of the Langevin dynamics that starts from every frame of the user's. `steps_before`, `steps_between`: of 1 fs,
    before the first labelled frame and between two. `max_steps`, `structures_per_step`: of the training on them. `corrected`: whether
    the labels are corrected by a model of the difference to the user's frames first, see `unipot.workflows.difference`; `own_share`: of
    the draws then, that are the user's frames; `own_steps`, `own_rate`: of the training on them alone that follows, the latter in rates of
    the optimizer. The values here are those of a run from before there was the correction."""

    method: str = NONE
    frames: int = 2000
    temperature: float = 600.0
    steps_before: int = 50
    steps_between: int = 5
    max_steps: int = 2400
    structures_per_step: int = 15
    corrected: bool = False
    own_share: float = 0.1
    own_steps: int = 600
    own_rate: float = 0.15


def labelled_store(options: TeacherConfig, starts: Sequence[Structure], seed: int, cache: Path, console: Console) -> Store:
    """The store of labelled structures, made unless it is there."""
    made = [options.method, options.frames, options.temperature, options.steps_before, options.steps_between, seed]
    digest = hashlib.sha256(json.dumps(made).encode())  # how they are learned does not matter
    for start in starts:
        digest.update(start.input_bytes())
    path = cache / f"{options.method}-{digest.hexdigest()[:12]}.unipot"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with StoreWriter(
            path, name=options.method, level_of_theory=f"{METHODS[options.method]} (tblite)", energy_kind="total",
            labels=("energy", "forces"), provenance={"teacher": asdict(options)},
        ) as writer:  # fmt: skip
            writer.extend(_labelled(options, starts, seed, console))
    return Store(path)


def _labelled(options: TeacherConfig, starts: Sequence[Structure], seed: int, console: Console) -> Iterator[Structure]:
    """Frames of one Langevin dynamics per start, under the teacher's own forces; a trajectory ends where the method fails."""
    from ase.calculators.calculator import CalculationFailed

    each = -(-options.frames // len(starts))
    found, failed = 0, 0
    for number, start in enumerate(starts):
        atoms = _moving(options, start, np.random.default_rng((seed, number)))
        dynamics = Langevin(
            atoms, _TIMESTEP * units.fs, temperature_K=options.temperature, friction=_FRICTION / units.fs, fixcm=False,
            rng=np.random.default_rng((seed, number, 1)),
        )  # fmt: skip
        for k in range(min(each, options.frames - found)):
            try:
                dynamics.run(options.steps_between if k else options.steps_before)
            except CalculationFailed:
                failed += 1
                break
            labels = {"energy": np.array(atoms.get_potential_energy()), "forces": atoms.get_forces(apply_constraint=False)}
            found += 1
            yield replace(start, positions=atoms.positions.copy(), labels=labels, id=f"{number}-{k}", group=str(number))
    if failed:
        console.print(f"warning: {METHODS[options.method]} failed on {failed} of {len(starts)} trajectories", style="yellow")
    if not found:
        raise ValueError(f"teacher.method={options.method} could not label any structure; check its elements, charge and geometry")


def _moving(options: TeacherConfig, start: Structure, rng: np.random.Generator) -> Atoms:
    """`start` with velocities, driven by the teacher."""
    atoms = driven_by(options.method, start)
    speeds = np.sqrt(units.kB * options.temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * speeds)
    return atoms


def driven_by(method: str, structure: Structure) -> Atoms:
    """`structure` with a calculator of `method`, a key of `METHODS`, in its charge and spin."""
    from tblite.ase import TBLite

    atoms = replace(structure, labels={}).to_ase()
    multiplicity = {} if structure.spin_multiplicity is None else {"multiplicity": int(structure.spin_multiplicity)}
    atoms.calc = TBLite(method=METHODS[method], charge=float(structure.total_charge), verbosity=0, **multiplicity)
    return atoms
