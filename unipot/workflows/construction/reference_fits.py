"""References of a head: fitted to its training data, given by the user, taken from free atoms, mixed, or none.

| mode | values | needs |
|---|---|---|
| fit | least squares of all energies on compositions; the default for total and formation energies | energies |
| given | the user's | `values` for every element of the training data |
| isolated-atoms | free neutral atoms | one in `atoms` for every element; `atoms` is the head's own datasets by default |
| mixed | known ones from `values`, then from `atoms`; the rest is fitted with the known ones subtracted | `values` or `atoms` |
| none | zero; the default for adsorption energies, which are differences already | |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from unipot.composition import CompositionFit, CompositionRegression
from unipot.data.isolated_atoms import ISOLATION, isolated_atoms
from unipot.data.statistics import labelled_compositions
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.models.references import CompositionReference
from unipot.structure import SYMBOLS, symbols_of
from unipot.workflows.construction.reference_values import given_values
from unipot.workflows.inputs.datasets import OpenDataset, store_at
from unipot.workflows.settings.schema import DatasetConfig, ReferenceConfig

#: mode -> options it takes
MODES: dict[str, tuple[str, ...]] = {
    "fit": (),
    "given": ("values",),
    "isolated-atoms": ("atoms",),
    "mixed": ("values", "atoms"),
    "none": (),
}
DEFAULT_MODE = {"total": "fit", "formation": "fit", "adsorption": "none", "difference": "fit"}
#: value of `atoms` for the datasets of the head itself
OWN_DATASETS = "dataset"


@dataclass(frozen=True, kw_only=True)
class ReferenceReport:
    """Where the references of a head come from and how well the data determine them; elements by symbol.

    Attributes:
        head: name.
        energy_kind: of its energies.
        mode: one of `MODES`.
        values: symbol -> eV per atom.
        n_frames: training structures with an energy.
        rank: directions that the compositions determine, of `fitted`.
        condition: largest over smallest determined singular value.
        rmse_per_atom: eV/atom, what the references leave of the training energies; None without energies.
        fitted: elements whose value is fitted.
        given: elements whose value the user states.
        isolated: elements whose value is that of a free atom, and the structure it comes from.
        assumed: elements that occur in training without any energy; theirs is the mean energy per atom, or 0 without
            energies.
        unseen_in_validation: elements of the head's validation data without a reference.
        unseen_elsewhere: elements that only other heads of the run train on, without a reference here.
        undetermined: combinations of elements that the compositions leave open, in words.
    """

    head: str
    energy_kind: str
    mode: str
    values: dict[str, float]
    n_frames: int
    rank: int
    condition: float
    rmse_per_atom: float | None
    fitted: tuple[str, ...]
    given: tuple[str, ...]
    isolated: dict[str, str]
    assumed: tuple[str, ...]
    unseen_in_validation: tuple[str, ...]
    unseen_elsewhere: tuple[str, ...]
    undetermined: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """What a reader of the table should also know."""
        found = []
        if self.mode == "none":
            why = "an adsorption energy is a difference already" if self.energy_kind == "adsorption" else "as asked for"
            found.append(f"references are zero: {why}")
        elif self.n_frames == 0 and self.mode == "fit":
            found.append("no energies, so its references are zero")
        if self.undetermined:
            found.append(f"compositions leave open: {self.undetermined}")
        if self.assumed and self.n_frames:
            found.append(f"no energy with {', '.join(self.assumed)}: the mean energy per atom is taken")
        if self.unseen_in_validation:
            found.append(f"no reference for {_named_or_counted(self.unseen_in_validation)} of the validation data")
        if self.unseen_elsewhere:
            found.append(f"no reference for {_named_or_counted(self.unseen_elsewhere)}, which other heads train on")
        return found


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Values that are not fitted: atomic number -> eV, and what they come from."""

    values: dict[int, float]
    given: tuple[int, ...] = ()
    isolated: dict[int, str] = field(default_factory=dict)


def head_reference(
    head: str, datasets: Sequence[OpenDataset], trained: Mapping[str, np.ndarray], config: ReferenceConfig, *, cache: Path, console: Console
) -> tuple[CompositionReference, ReferenceReport]:
    """Reference and report of one head, from training structures only (free atoms: from anywhere in the datasets).

    Args:
        head: its name.
        datasets: those of this head.
        trained: head -> (119,) bool elements of its training structures, of all heads of the run.
        config: `heads.references.<head>`.
        cache: folder for a store made from a file of free atoms.
        console: what is assumed while reading such a file is said here.

    Raises:
        ValueError: the mode is unknown, has an option it does not take or lacks one, or an element has no value.
        FileNotFoundError: a file named in `config` is not there.
    """
    mode = _checked_mode(head, datasets[0].store.energy_kind, config)
    regression = CompositionRegression()
    for item in datasets:
        for counts, energies in labelled_compositions(item.store, item.train_indices):
            regression.add(counts, energies)
    own, anywhere = trained[head], np.logical_or.reduce(list(trained.values()))
    known = _known(head, mode, config, datasets, np.flatnonzero(own).tolist(), cache, console)
    fit = regression.solve(known.values) if regression.n_frames else None
    # known values hold for elements that only other heads train on, too: the backbone has learnt those
    has_value = own | (np.isin(np.arange(len(own)), list(known.values)) & anywhere)
    values = np.where(own, regression.mean_energy, 0.0)  # of elements that are seen without any energy
    for z, value in [*known.values.items(), *((z, fit.values[z]) for z in (fit.elements if fit else ()))]:
        values[z] = value
    reference = CompositionReference(np.where(has_value, values, 0.0), has_value)
    return reference, _report(mode, reference, datasets, known, fit, own, anywhere)


def _report(
    mode: str,
    reference: CompositionReference,
    datasets: Sequence[OpenDataset],
    known: _Known,
    fit: CompositionFit | None,
    own: np.ndarray,
    anywhere: np.ndarray,
) -> ReferenceReport:
    has_value, values = reference.known.numpy(), reference.values.numpy()
    fitted = fit.elements if fit else ()
    validation = {z for item in datasets for store in (item.store, item.validation_store) for z in store.elements if not has_value[z]}
    return ReferenceReport(
        head=datasets[0].spec.head,
        energy_kind=datasets[0].store.energy_kind,
        mode=mode,
        values={SYMBOLS[z]: float(values[z]) for z in np.flatnonzero(has_value)},
        n_frames=fit.n_frames if fit else 0,
        rank=fit.rank if fit else 0,
        condition=fit.condition if fit else 1.0,
        rmse_per_atom=fit.rmse_per_atom if fit else None,
        fitted=_symbols(fitted),
        given=_symbols(z for z in known.given if has_value[z]),
        isolated={SYMBOLS[z]: source for z, source in known.isolated.items() if has_value[z]},
        assumed=_symbols(z for z in np.flatnonzero(own) if z not in fitted and z not in known.values),
        unseen_in_validation=_symbols(sorted(validation)),
        unseen_elsewhere=_symbols(z for z in np.flatnonzero(anywhere & ~has_value) if z not in validation),
        undetermined=fit.undetermined if fit else "",
    )


def _checked_mode(head: str, energy_kind: str, config: ReferenceConfig) -> str:
    mode = config.mode or DEFAULT_MODE[energy_kind]
    where = f"heads.references.{head}"
    if mode not in MODES:
        raise InputError(f"{where}.mode is {mode!r}; use one of: {', '.join(MODES)}")
    for option in ("values", "atoms"):
        if getattr(config, option) is not None and option not in MODES[mode]:
            fitting = ", ".join(name for name, options in MODES.items() if option in options)
            raise InputError(f"{where}.{option} is given, but mode {mode!r} does not use it; leave it out, or choose mode {fitting}")
    if mode == "given" and config.values is None:
        raise InputError(f"{where}: mode given needs values; add {where}.values={{H: ..., O: ...}} in eV, or the path of a file")
    if mode == "mixed" and config.values is None and config.atoms is None:
        raise InputError(f"{where}: mode mixed needs {where}.values or {where}.atoms; mode fit fits all elements")
    return mode


def _known(
    head: str, mode: str, config: ReferenceConfig, datasets: Sequence[OpenDataset], own: Sequence[int], cache: Path, console: Console
) -> _Known:
    """The values that `mode` takes as known; complete where it fits none."""
    where = f"heads.references.{head}"
    if mode == "none":
        return _Known(values=dict.fromkeys(own, 0.0))
    given = {} if config.values is None else given_values(config.values, f"{where}.values")
    isolated: dict[int, tuple[float, str]] = {}
    if mode == "isolated-atoms" or config.atoms is not None:
        isolated = {z: atom for z, atom in _free_atoms(head, config, datasets, cache, console).items() if z not in given}
    missing = symbols_of([z for z in own if z not in given and z not in isolated])
    if missing and mode == "given":
        raise InputError(f"{where}.values has no value for {missing} of the training data; add them, or fit them with mode mixed")
    if missing and mode == "isolated-atoms":
        raise InputError(
            f"{where}: there is no isolated atom of {missing} (one neutral atom with an energy and no neighbour within {ISOLATION:g} A) in "
            f"{config.atoms or 'the datasets of this head'}; add them, or fit them with mode mixed and atoms={config.atoms or OWN_DATASETS}"
        )
    values = {**given, **{z: energy for z, (energy, _) in isolated.items()}}
    return _Known(values=values, given=tuple(sorted(given)), isolated={z: source for z, (_, source) in isolated.items()})


def _free_atoms(
    head: str, config: ReferenceConfig, datasets: Sequence[OpenDataset], cache: Path, console: Console
) -> dict[int, tuple[float, str]]:
    """Atomic number -> energy in eV and the structure it comes from, in words."""
    if config.atoms in (None, OWN_DATASETS):
        stores = [item.store for item in datasets]
    else:
        own, path = datasets[0].store, str(config.atoms)
        reading = DatasetConfig(path=path, level_of_theory=own.level_of_theory, energy_kind=own.energy_kind)
        stores = [Store(store_at(path, reading, name=f"{head}-atoms", cache=cache, console=console))]
        if (stores[0].level_of_theory, stores[0].energy_kind) != (own.level_of_theory, own.energy_kind):
            raise InputError(
                f"heads.references.{head}.atoms: {path} has {stores[0].energy_kind} energies at {stores[0].level_of_theory!r}, the head "
                f"{own.energy_kind} energies at {own.level_of_theory!r}; give free atoms of the same kind and level"
            )
    found: dict[int, tuple[float, str]] = {}
    for store in stores:
        for z, atom in isolated_atoms(store).items():
            if z not in found or atom.energy < found[z][0]:
                lowest = f", the lowest of {atom.n_candidates}" if atom.n_candidates > 1 else ""
                found[z] = (atom.energy, f"{store.name}: {atom.id}{lowest}")
    return found


def _named_or_counted(symbols: Sequence[str]) -> str:
    return ", ".join(symbols) if len(symbols) <= 12 else f"{len(symbols)} elements"


def _symbols(elements: Iterable[int]) -> tuple[str, ...]:
    return tuple(SYMBOLS[z] for z in elements)
