"""A new head that starts where its parent is, plus a stated energy shift per element, or better by a solved readout layer.

The copy shares no storage with its parent, and all other heads are left untouched. With the shift alone, forces and stress are the
parent's bit for bit before the first optimizer step: they do not see the reference energies. A layer of the readout that is
solved for in closed form (`unipot.finetune.alignment.readout_fit`) replaces the parent's where that makes held-out frames better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from unipot.batch import AtomBatch
from unipot.errors import InputError, UnknownName
from unipot.finetune.alignment.composition_shift import CompositionShift, fit_composition_shift
from unipot.finetune.alignment.readout_choice import ReadoutChoice, choose_readout
from unipot.finetune.alignment.readout_fit import SHIFT, write_change
from unipot.models.heads import GatedReadout, Head
from unipot.models.potential import Potential
from unipot.structure import SYMBOLS


@dataclass(frozen=True, kw_only=True)
class AlignmentReport:
    """What aligning a head did, to be printed, stored in the artifact's card and shown in the report.

    Attributes:
        parent: head that was copied.
        head: the new head.
        level_of_theory: of the new head.
        fit: the composition shift; None when no frame has an energy (the shift is then zero).
        new_elements: elements without a reference in the parent; theirs comes from the fit.
        carried_over: elements known to the parent but absent from the frames; they move with the common shift.
        warnings: sentences the user should read.
        readout: what was tried beyond the shift, and what was taken.
    """

    parent: str
    head: str
    level_of_theory: str
    fit: CompositionShift | None
    new_elements: tuple[int, ...]
    carried_over: tuple[int, ...]
    warnings: tuple[str, ...]
    readout: ReadoutChoice = field(default_factory=ReadoutChoice)

    def shift_of(self, atomic_numbers: Any) -> float:
        """Stated energy difference new head − parent, eV, of a structure of elements known to the parent.

        Where a layer of the readout was solved for, its contribution comes on top and depends on the geometry.

        Raises:
            KeyError: an element has no parent reference, so there is no parent energy to differ from.
        """
        values = {} if self.fit is None else dict(zip(self.fit.elements, self.fit.shift, strict=True))
        total = 0.0
        for z in np.asarray(atomic_numbers).ravel():
            if int(z) in self.new_elements:
                raise UnknownName(f"parent head {self.parent!r} has no reference for {SYMBOLS[int(z)]}; its shift is not defined")
            total += values.get(int(z), 0.0 if self.fit is None else self.fit.common)
        return float(total)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; elements by symbol."""
        return {
            "parent": self.parent,
            "head": self.head,
            "level_of_theory": self.level_of_theory,
            "fit": None if self.fit is None else self.fit.to_dict(),
            "new_elements": [SYMBOLS[z] for z in self.new_elements],
            "carried_over_with_common_shift": [SYMBOLS[z] for z in self.carried_over],
            "warnings": list(self.warnings),
            "readout": self.readout.to_dict(),
        }


def align_head(
    potential: Potential,
    parent: str,
    name: str,
    level_of_theory: str,
    batches: Sequence[AtomBatch],
    ridge: float | None = None,
    energy_kind: str | None = None,
    alignment: str = SHIFT,
    groups: Sequence[Any] | None = None,
) -> AlignmentReport:
    """Add head `name`: a copy of `parent` whose reference, and maybe one layer, is fitted to the labels of `batches`.

    Args:
        potential: changed in place; only the new head is added.
        parent: name of the head to copy.
        name: of the new head, `[a-z0-9-]+`.
        level_of_theory: of the new head.
        batches: the user's training frames; their `head_index` is ignored.
        ridge: see `fit_composition_shift`; None chooses it by the left-out error.
        energy_kind: of the new head; None takes the parent's.
        alignment: `shift` for the reference alone, a layer of the readout, or `auto`: what held-out frames favour.
        groups: of the frames, in order; relatives are held out together.

    Raises:
        KeyError: there is no head `parent`.
        ValueError: `alignment` is unknown or not possible, `name` exists already, the backbone does not know an element, or an
            element has no reference and the frames have no energies to fit one.
    """
    if name in potential.heads.names:
        raise InputError(f"head {name!r} exists already; choose another name for the new head than {', '.join(potential.heads.names)}")
    elements = elements_of(batches)
    check_elements(potential, elements)
    parent_head = potential.heads[parent]
    counts, labels = energy_labels(batches, elements)
    with completed_references(parent_head, elements) as new_elements:
        head = parent_head.copy(name, level_of_theory, energy_kind)
        choice = choose_readout(potential, parent, batches, elements, alignment, groups)
        if choice.fit is not None:
            write_change(head, choice.fit)
        energies = _energies_of(potential, head, batches)
    if len(labels) == 0:
        _require_references(parent, new_elements)
    fit = fit_composition_shift(counts, labels - energies, elements, ridge) if len(labels) else None
    carried = tuple(int(z) for z in torch.nonzero(head.reference.known).ravel().tolist() if z not in elements)
    if fit is not None:
        _shift(head, fit, carried)
    potential.heads.add(head)
    return AlignmentReport(
        parent=parent,
        head=name,
        level_of_theory=level_of_theory,
        fit=fit,
        new_elements=new_elements,
        carried_over=carried,
        warnings=(*_warnings(parent, fit, new_elements), *_kind_warning(parent_head, head), *choice.warnings),
        readout=choice,
    )


def restart_readout(potential: Potential, name: str, batches: Sequence[AtomBatch], *, scale: float, seed: int) -> None:
    """Random weights for the readout of head `name`, in place, and its reference fitted again to the energies of `batches`.

    Args:
        potential: the head in it is changed.
        name: of a head that knows all elements of the frames.
        batches: labelled frames; without energies the reference stays.
        scale: eV, of the readout from now on.
        seed: of the weights; the state of the global generator is left as it is.

    Raises:
        KeyError: there is no head `name`.
    """
    head, elements = potential.heads[name], elements_of(batches)
    old = head.readout.value
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head.readout = GatedReadout(old.in_features, old.out_features).to(device=old.weight.device, dtype=old.weight.dtype)
    head.scale.fill_(scale)
    counts, labels = energy_labels(batches, elements)
    if len(labels):
        _shift(head, fit_composition_shift(counts, labels - predicted_energies(potential, name, batches), elements), ())


@contextmanager
def completed_references(head: Head, elements: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Lend `head` a provisional reference for every unknown one of `elements`; yields those, and takes it back after.

    The provisional value is the mean of the known ones, so that "all elements move together" means something.
    """
    reference = head.reference
    values, known = reference.values.clone(), reference.known.clone()
    unknown = tuple(z for z in elements if not bool(known[z]))
    inside = [z for z in elements if bool(known[z])]
    try:
        with torch.no_grad():
            for z in unknown:
                reference.values[z] = values[inside].mean() if inside else 0.0
                reference.known[z] = True
        yield unknown
    finally:
        with torch.no_grad():
            reference.values.copy_(values)
            reference.known.copy_(known)


def for_head(batch: AtomBatch, index: int) -> AtomBatch:
    """The same batch, every structure evaluated by head number `index`."""
    return replace(batch, head_index=torch.full_like(batch.head_index, index))


def elements_of(batches: Sequence[AtomBatch]) -> tuple[int, ...]:
    """Distinct atomic numbers, ascending.

    Raises:
        ValueError: there are no batches.
    """
    if len(batches) == 0:
        raise InputError("there are no frames to align a head with; check that the data file is not empty")
    return tuple(int(z) for z in torch.cat([b.atomic_numbers for b in batches]).unique())


def check_elements(potential: Potential, elements: Sequence[int]) -> None:
    """Refuse elements that the backbone has no embedding for.

    Raises:
        ValueError: naming them.
    """
    missing = [z for z in elements if z not in set(potential.backbone.elements)]
    if missing:
        raise InputError(
            f"the frames contain {_symbols(missing)}, which the backbone of this checkpoint does not know; "
            f"it knows {_symbols(potential.backbone.elements)}; start from a checkpoint that covers them"
        )


def energy_labels(batches: Sequence[AtomBatch], elements: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """counts (n, n_elements) and energies (n,) eV of the structures that carry an energy."""
    counts, energies = [], []
    for batch in batches:
        mask = _energy_mask(batch)
        if not bool(mask.any()):
            continue
        columns = torch.stack([batch.sum_over_atoms((batch.atomic_numbers == z).double()) for z in elements], dim=1)
        counts.append(columns[mask].cpu().numpy())
        energies.append(batch.labels["energy"][mask].double().cpu().numpy())
    if not energies:
        return np.zeros((0, len(elements))), np.zeros(0)
    return np.concatenate(counts), np.concatenate(energies)


def predicted_energies(potential: Potential, head: str, batches: Sequence[AtomBatch]) -> np.ndarray:
    """(n,) eV of head `head` for the structures that carry an energy label, in the order of `energy_labels`."""
    index, training = potential.heads.index(head), potential.training
    potential.eval()
    found = [np.zeros(0)]
    try:
        with torch.no_grad():
            for batch in batches:
                mask = _energy_mask(batch)
                if bool(mask.any()):
                    found.append(potential(for_head(batch, index), properties=("energy",)).energy[mask].double().cpu().numpy())
    finally:
        potential.train(training)
    return np.concatenate(found)


def _energies_of(potential: Potential, head: Head, batches: Sequence[AtomBatch]) -> np.ndarray:
    """`predicted_energies` of a head that the potential does not have (yet)."""
    potential.heads.add(head)
    try:
        return predicted_energies(potential, head.name, batches)
    finally:
        del potential.heads.heads[head.name]


def _require_references(parent: str, missing: Sequence[int]) -> None:
    if missing:
        raise InputError(
            f"head {parent!r} has no reference energy for {_symbols(missing)} and the frames carry no energies to fit one; "
            "give energies, or choose another parent_head"
        )


def _energy_mask(batch: AtomBatch) -> torch.Tensor:
    return batch.label_mask.get("energy", torch.zeros_like(batch.head_index, dtype=torch.bool))


def _shift(head: Head, fit: CompositionShift, carried: Sequence[int]) -> None:
    with torch.no_grad():
        for z, value in zip(fit.elements, fit.shift, strict=True):
            head.reference.values[z] += float(value)
        for z in carried:
            head.reference.values[z] += fit.common


def _warnings(parent: str, fit: CompositionShift | None, new_elements: Sequence[int]) -> tuple[str, ...]:
    found: list[str] = []
    if fit is None:
        found.append("no frame carries an energy: the references are the parent's, and energies of this head mean the parent's level")
    elif fit.rank < len(fit.elements):
        found.append(
            f"the compositions of the {fit.n_frames} frames determine {fit.rank} of {len(fit.elements)} element shifts; along the other "
            "directions all elements share one shift: compare energies of structures of other compositions with care"
        )
    if new_elements:
        found.append(
            f"parent head {parent!r} has no reference for {_symbols(new_elements)}: theirs comes from these frames alone, "
            "and the parent has never been trained on them"
        )
    return tuple(found)


def _kind_warning(parent: Head, head: Head) -> tuple[str, ...]:
    if parent.energy_kind == head.energy_kind:
        return ()
    return (
        f"parent head {parent.name!r} predicts {parent.energy_kind} energies, the frames have {head.energy_kind} ones: the shift per "
        "element carries the difference as far as compositions can",
    )


def _symbols(elements: Sequence[int]) -> str:
    return ", ".join(SYMBOLS[z] for z in elements)
