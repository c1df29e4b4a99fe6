"""Elements in the user's frames that nothing in the model was trained on: where their rows start, and what may move.

An element counts as trained when some head has a reference energy for it: references are fitted to training data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.finetune.alignment.periodic_neighbors import StandIn, stand_in_for
from unipot.models.potential import Potential
from unipot.structure import SYMBOLS

#: what is done with them: start from neighbours in the periodic table, leave the rows as they are, or stop
MODES = ("from-neighbors", "keep", "refuse")


@dataclass(frozen=True, kw_only=True)
class NewElement:
    """One element that no head knows.

    Attributes:
        atomic_number: of it.
        n_frames: training frames that contain it.
        n_atoms: its atoms in them.
        stand_in: what its rows started from; None if they were kept as they are in the model.
    """

    atomic_number: int
    n_frames: int
    n_atoms: int
    stand_in: StandIn | None

    @property
    def start(self) -> str:
        """What its rows start from, in words."""
        return "its rows in the model" if self.stand_in is None else f"{self.stand_in.in_words()} ({self.stand_in.rule})"

    def warning(self) -> str:
        """A sentence for the user."""
        symbol = SYMBOLS[self.atomic_number]
        return (
            f"{symbol} is in no head of the checkpoint: it starts from {self.start} and is trained on {self.n_atoms} atoms in "
            f"{self.n_frames} frames alone; {symbol} in any other surrounding is extrapolation"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the card."""
        content = {"element": SYMBOLS[self.atomic_number], "n_frames": self.n_frames, "n_atoms": self.n_atoms, "starts_from": self.start}
        return {**content, "weights": _weights(self.stand_in)}


def start_new_elements(potential: Potential, batches: Sequence[AtomBatch], mode: str = "from-neighbors") -> tuple[NewElement, ...]:
    """Find the new elements of the frames and start their rows in every element table of the backbone; other rows stay bitwise.

    Args:
        potential: changed in place.
        batches: training frames.
        mode: one of `MODES`. `keep` is for a backbone that was trained on more elements than its heads tell of, such as a
            converted checkpoint.

    Raises:
        ValueError: the mode is unknown, or it is `refuse` and there are new elements.
    """
    if mode not in MODES:
        raise InputError(f"new_elements is {mode!r}; use one of: {', '.join(MODES)}")
    trained = trained_elements(potential)
    numbers = torch.cat([batch.atomic_numbers for batch in batches]).unique().tolist()
    unseen = [z for z in numbers if z not in trained and z in potential.backbone.elements]
    if unseen and mode == "refuse":
        listed = ", ".join(SYMBOLS[z] for z in unseen)
        raise InputError(f"the frames contain {listed}, which no head of the checkpoint was trained on, and new_elements is refuse")
    stand_ins = start_from_neighbors(potential, unseen, trained) if mode == "from-neighbors" else {}
    return tuple(NewElement(atomic_number=z, **_occurrence(batches, z), stand_in=stand_ins.get(z)) for z in unseen)


def start_from_neighbors(potential: Potential, unseen: Sequence[int], trained: frozenset[int]) -> dict[int, StandIn]:
    """Start the rows of `unseen` in every element table of the backbone, in place; nothing where no element is trained.

    Returns:
        What each started from.
    """
    stand_ins = {z: stand_in_for(z, trained) for z in unseen} if trained else {}
    for name, axes in potential.backbone.element_tables().items():
        start_rows(_tensor(potential, name), axes, stand_ins)
    return stand_ins


def trained_elements(potential: Potential) -> frozenset[int]:
    """Elements of the backbone that at least one head has a reference for."""
    known = torch.zeros(0, dtype=torch.int64)
    for name in potential.head_names:
        known = torch.cat([known, torch.nonzero(potential.heads[name].reference.known.cpu())[:, 0]])
    return frozenset(known.tolist()) & frozenset(potential.backbone.elements)


@torch.no_grad()
def start_rows(table: Tensor, axes: Sequence[int], stand_ins: Mapping[int, StandIn]) -> None:
    """Set, along every axis of `axes`, the row of each new element to the weighted mean of the rows of its stand-ins.

    Args:
        table: changed in place; a table of pairs has two axes.
        axes: those indexed by atomic number.
        stand_ins: by new element; they are trained ones, so that their order does not matter.
    """
    for axis in axes:
        for z, stand_in in stand_ins.items():
            rows = table.index_select(axis, torch.tensor(stand_in.elements, device=table.device)).double()
            weights = torch.tensor(stand_in.weights, dtype=torch.float64, device=table.device)
            mean = torch.tensordot(weights, rows.movedim(axis, 0), dims=1)
            table.select(axis, z).copy_(mean)


def free_rows(potential: Potential, new: Sequence[NewElement], frozen: Collection[str]) -> tuple[str, ...]:
    """Let the tables of new elements learn where the rest of the backbone does not: nothing but their rows gets a gradient.

    Args:
        potential: its element tables get a hook that zeroes the gradient of all other rows.
        new: elements; those with a start of their own are freed.
        frozen: full names of the parameters that would not learn otherwise; other tables are left alone.

    Returns:
        Names of those tables in the backbone, for `build_policy(free_tables=...)`; buffers and tables with a low-rank
        update are not among them.
    """
    numbers = [element.atomic_number for element in new if element.stand_in is not None]
    parameters = dict(potential.backbone.named_parameters())  # type: ignore[attr-defined]
    tables = {name: axes for name, axes in potential.backbone.element_tables().items() if numbers and f"backbone.{name}" in frozen}
    for name, axes in tables.items():
        allowed = torch.zeros_like(parameters[name], requires_grad=False)
        for axis in axes:
            allowed.index_fill_(axis, torch.tensor(numbers, device=allowed.device), 1.0)
        _mask_gradient(parameters[name], allowed)
    return tuple(tables)


def _mask_gradient(parameter: nn.Parameter, allowed: Tensor) -> None:
    parameter.requires_grad_(True)  # a hook needs it; the parameter policy decides later
    parameter.register_hook(lambda gradient: gradient * allowed.to(gradient))


def _occurrence(batches: Sequence[AtomBatch], z: int) -> dict[str, int]:
    per_structure = [batch.sum_over_atoms((batch.atomic_numbers == z).long()) for batch in batches]
    return {"n_frames": sum(int((n > 0).sum()) for n in per_structure), "n_atoms": sum(int(n.sum()) for n in per_structure)}


def _tensor(potential: Potential, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    return getattr(potential.backbone.get_submodule(owner), attribute)  # type: ignore[attr-defined]


def _weights(stand_in: StandIn | None) -> dict[str, float]:
    return {} if stand_in is None else {SYMBOLS[z]: weight for z, weight in zip(stand_in.elements, stand_in.weights, strict=True)}
