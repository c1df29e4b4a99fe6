"""What a semi-empirical method (tblite) says of structures, and structures in thermal motion around the user's frames, labelled by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.langevin import Langevin
from rich.console import Console

from unipot.data.store import Store, StoreWriter
from unipot.errors import InputError
from unipot.resources import n_available_cores
from unipot.structure import Structure
from unipot.units import voigt_to_matrix
from unipot.workflows.finetuning.distillation.label_parts import KeptParts
from unipot.workflows.finetuning.schema import TeacherConfig

#: option -> name of the method in tblite
METHODS = {"gfn1-xtb": "GFN1-xTB", "gfn2-xtb": "GFN2-xTB"}
#: fs, 1/fs; of the dynamics that samples
_TIMESTEP, _FRICTION = 1.0, 0.01
#: of periodic structures: K, with which charges converge where levels are close (at 300 K they did not on one silicon
#: surface in four and one frame of liquid water in twenty), and iterations after which they will not
_ELECTRONIC_TEMPERATURE, _ITERATIONS = 3000.0, 100


def labelled_store(options: TeacherConfig, starts: Sequence[Structure], seed: int, cache: Path, console: Console) -> Store:
    """The store of labelled structures, made unless it is there."""
    made = [options.method, options.frames, options.temperature, options.steps_before, options.steps_between, seed]
    digest = hashlib.sha256(json.dumps(made).encode())  # how they are learned does not matter
    for start in starts:
        digest.update(start.input_bytes())
    path = cache / f"{options.method}-{digest.hexdigest()[:12]}.unipot"
    return store_of(path, options, ("energy", "forces"), partial(_labelled, options, starts, seed, console))


def store_of(path: Path, options: TeacherConfig, labels: Sequence[str], structures: Callable[[KeptParts], Iterator[Structure]]) -> Store:
    """The store at `path`, made of labelled `structures` unless it is there; those are not asked for then.

    Args:
        path: of the store.
        options: for its provenance.
        labels: of its structures.
        structures: labels them, without asking again for the parts that a killed run has kept.

    Raises:
        ValueError: the method could label no structure.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = KeptParts(path, labels)
        with StoreWriter(
            path,
            name=options.method,
            level_of_theory=f"{METHODS[options.method]} (tblite)",
            energy_kind="total",
            labels=tuple(labels),
            provenance={"teacher": asdict(options)},
        ) as writer:
            writer.extend(_at_least_one(structures(parts), options.method))
        parts.forget()
    return Store(path)


def _at_least_one(structures: Iterator[Structure], method: str) -> Iterator[Structure]:
    n_found = 0
    for structure in structures:
        n_found += 1
        yield structure
    if not n_found:
        raise InputError(f"teacher.method={method} could not label any structure; check its elements, charge and geometry")


def _labelled(
    options: TeacherConfig, starts: Sequence[Structure], seed: int, console: Console, parts: KeptParts
) -> Iterator[Structure]:
    """Frames of one Langevin dynamics per start, under the teacher's own forces; a trajectory ends where the method fails."""
    each = -(-options.frames // len(starts))
    wanted = [min(each, max(options.frames - each * number, 0)) for number in range(len(starts))]
    failed = 0
    with ThreadPoolExecutor(_at_once()) as pool:
        trajectories = pool.map(partial(_trajectory, options, seed, parts), range(len(starts)), starts, wanted)
        for number, (n_wanted, frames) in enumerate(zip(wanted, trajectories, strict=True)):
            failed += len(frames) < n_wanted
            parts.keep(number, frames)
            yield from frames
    if failed:
        console.print(f"warning: {METHODS[options.method]} failed on {failed} of {len(starts)} trajectories", style="yellow")


def _trajectory(
    options: TeacherConfig, seed: int, parts: KeptParts, number: int, start: Structure, n_frames: int
) -> list[Structure]:
    """At most `n_frames` labelled frames of a dynamics from `start`; fewer where the method fails on the way."""
    from ase.calculators.calculator import CalculationFailed

    kept = parts.find(number)
    if kept is not None:
        return kept
    dynamics = thermal_motion(driven_by(options.method, start), options.temperature, seed, number)
    atoms, frames = dynamics.atoms, []
    for k in range(n_frames):
        try:
            dynamics.run(options.steps_between if k else options.steps_before)
        except CalculationFailed:
            break
        labels = {"energy": np.array(atoms.get_potential_energy()), "forces": atoms.get_forces(apply_constraint=False)}
        frames.append(replace(start, positions=atoms.positions.copy(), labels=labels, id=f"{number}-{k}", group=str(number)))
    return frames


def thermal_motion(atoms: Atoms, temperature: float, seed: int, number: int) -> Langevin:
    """Langevin dynamics of `atoms`, which get velocities of `temperature` (K); trajectory `number` of those with this seed."""
    speeds = np.sqrt(units.kB * temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(np.random.default_rng((seed, number)).normal(size=(len(atoms), 3)) * speeds)
    return Langevin(
        atoms,
        _TIMESTEP * units.fs,
        temperature_K=temperature,
        friction=_FRICTION / units.fs,
        fixcm=False,
        rng=np.random.default_rng((seed, number, 1)),
    )


def driven_by(method: str, structure: Structure) -> Atoms:
    """`structure` with a calculator of `method`, a key of `METHODS`, in its charge and spin; periodic cells at the Gamma point."""
    from tblite.ase import TBLite

    atoms = replace(structure, labels={}).to_ase()
    options: dict[str, Any] = {} if structure.spin_multiplicity is None else {"multiplicity": int(structure.spin_multiplicity)}
    if structure.pbc.any():
        options |= {"electronic_temperature": _ELECTRONIC_TEMPERATURE, "max_iterations": _ITERATIONS}
    atoms.calc = TBLite(method=METHODS[method], charge=float(structure.total_charge), verbosity=0, **options)
    return atoms


def labels_by(method: str, structure: Structure, labels: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Those of energy (eV), forces (eV/Å) and stress (eV/Å³; of fully periodic structures) that `labels` names; None where it fails."""
    from ase.calculators.calculator import CalculationFailed

    atoms = driven_by(method, structure)
    try:
        found = {"energy": np.array(atoms.get_potential_energy()), "forces": atoms.get_forces(apply_constraint=False)}
        if "stress" in labels and structure.pbc.all():
            found["stress"] = voigt_to_matrix(atoms.get_stress(apply_constraint=False))
    except CalculationFailed:
        return None
    return {name: value for name, value in found.items() if name in labels}


def all_labels_by(method: str, structures: Sequence[Structure], labels: Sequence[str]) -> Iterator[dict[str, np.ndarray] | None]:
    """`labels_by` of every structure in turn, calculated beside one another where there are cores for it."""
    with ThreadPoolExecutor(_at_once()) as pool:
        yield from pool.map(lambda structure: labels_by(method, structure, labels), structures)


def _at_once() -> int:
    """Calculations beside one another: tblite takes as many threads as torch has."""
    return max(1, n_available_cores() // torch.get_num_threads())
