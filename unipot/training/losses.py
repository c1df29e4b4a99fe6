"""Loss terms as sums and counts, so that the loss of a step does not depend on how its structures are packed.

A step's loss is Σ_terms weight · sum / count, with the sum and the count taken over every micro-batch of every rank.
The count follows from the label masks alone, so it is known before the first forward pass and each micro-batch can
be divided by the global count at once.

Batches and predictions stay in eV and Å. A term divides its residual by `scales[dataset]` (dimensionless, 1 unless
`loss.scaling: head`, where it is the head's scale in eV), so energy and force residuals of a stiff and of a soft
dataset weigh alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from unipot.batch import AtomBatch, Predictions
from unipot.errors import InputError
from unipot.properties import property_named

#: kind of residual -> the properties it is defined for
KINDS: dict[str, tuple[str, ...]] = {
    "mse": ("energy", "forces", "stress"),
    "mae": ("energy", "forces", "stress"),
    "huber": ("energy", "forces", "stress"),
    "norm": ("forces", "stress"),
}
#: eV/Å, added to the force RMS of a structure before `relative` takes its power: the noise of converged calculations and of training
SMALLEST_FORCES = 0.05
#: whether force labels of atoms that were fixed in the reference calculation count
FROZEN_ATOMS = ("exclude", "include")


class LossTerm(Protocol):
    """One property's contribution; `count` needs the batch only, `__call__` returns a sum, never a mean."""

    property: str
    weight: float

    def count(self, batch: AtomBatch) -> Tensor: ...

    def __call__(self, predictions: Predictions, batch: AtomBatch) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class PropertyTerm:
    """Residuals of one property, summed over everything that is labelled.

    * energy: residual per atom (E_pred − E_label) / n_atoms in eV/atom; the count is structures.
    * forces: `norm` takes the L2 norm per atom, the other kinds the mean over the three components; the count is
      atoms. Atoms that were fixed in the reference calculation are left out unless `frozen_atoms` is `include`: many codes
      write zero or the force after the constraint for them. Metrics leave them out in any case.
    * stress: `norm` is the Frobenius norm, the other kinds the mean over nine components; structures that are not
      periodic along every axis are left out. With `per_volume=False` the residual is multiplied by the volume per
      atom (eV/atom), which weighs it like an energy.

    Residuals of structures that carry the label `weight`, and of forces of atoms that carry `atom_weights`, are multiplied by
    it, as by `dataset_weights`; the count stays that of everything that is labelled, and metrics are never weighed.

    Attributes:
        property: energy, forces or stress.
        weight: factor on this term in the step's loss.
        kind: `mse`, `mae`, `huber` or `norm` (see `KINDS`).
        delta: where `huber` turns from quadratic to linear, in units of the residual (after scaling). The residual
            is r²/(2·delta) inside and |r| − delta/2 outside.
        dataset_weights: (n_datasets,) float64 factor on each residual by dataset.
        scales: (n_datasets,) float64 divisor of each residual by dataset.
        per_volume: for stress only.
        relative: for forces only, 0 to 1: residuals are divided by this power of the RMS force of their structure (in eV/Å, plus
            `SMALLEST_FORCES`), so that nearly relaxed structures count more; 0 is off.
        frozen_atoms: `exclude` or `include`, for forces only.

    Example:
        >>> term = PropertyTerm(property="energy", kind="mae", weight=2.0)
        >>> term.property, term.weight
        ('energy', 2.0)
    """

    property: str
    weight: float = 1.0
    kind: str = "huber"
    delta: float = 0.01
    dataset_weights: Tensor | None = None
    scales: Tensor | None = None
    per_volume: bool = True
    relative: float = 0.0
    frozen_atoms: str = "exclude"

    def __post_init__(self) -> None:
        property_named(self.property)
        if self.kind not in KINDS or self.property not in KINDS[self.kind]:
            allowed = [kind for kind, properties in KINDS.items() if self.property in properties]
            raise InputError(f"loss.{self.property}.kind is {self.kind!r}; use one of: {', '.join(allowed)}")
        if self.weight < 0:
            raise InputError(f"loss.{self.property}.weight is {self.weight}; it must not be negative")
        if self.kind == "huber" and not self.delta > 0:
            raise InputError(f"loss.{self.property}.delta is {self.delta}; it must be positive")
        if not 0 <= self.relative <= 1:
            raise InputError(f"loss.forces.relative is {self.relative}; it must be between 0 (off) and 1")
        if self.frozen_atoms not in FROZEN_ATOMS:
            raise InputError(f"loss.frozen_atoms is {self.frozen_atoms!r}; use one of: {', '.join(FROZEN_ATOMS)}")

    def count(self, batch: AtomBatch) -> Tensor:
        """Labelled structures (energy, stress) or atoms (forces) in `batch`: float64 scalar."""
        return labelled_mask(self.property, batch, self.frozen_atoms).sum().to(torch.float64)

    def __call__(self, predictions: Predictions, batch: AtomBatch) -> tuple[Tensor, Tensor]:
        """Weighted sum of residuals (float64 scalar, connected to the graph even when nothing is labelled) and count."""
        chosen = labelled_mask(self.property, batch, self.frozen_atoms)
        predicted = predictions[self.property]
        if not bool(chosen.any()):
            return predicted.sum().to(torch.float64) * 0.0, chosen.sum().to(torch.float64)
        difference = (predicted[chosen] - batch.labels[self.property][chosen]).to(torch.float64)
        owner = torch.arange(batch.n_structures, device=chosen.device) if self.property != "forces" else batch.structure_index
        owner = owner[chosen]
        if self.property == "energy":
            difference = difference / batch.n_atoms_per_structure[owner]
        if self.property == "stress" and not self.per_volume:
            volume_per_atom = torch.linalg.det(batch.cell).abs() / batch.n_atoms_per_structure
            difference = difference * volume_per_atom[owner, None, None].to(torch.float64)
        dataset = batch.dataset_index[owner]
        if self.scales is not None:
            difference = difference / _per_row(self.scales, dataset, difference.dim())
        residual = self._residual(difference)
        if self.dataset_weights is not None:
            residual = residual * self.dataset_weights.to(residual.device)[dataset]
        if self.relative and self.property == "forces":
            residual = residual / force_magnitudes(batch, chosen)[owner].to(residual).pow(self.relative)
        weights = own_weights(self.property, batch)
        if weights is not None:
            residual = residual * weights[chosen].to(residual)
        return residual.sum(), chosen.sum().to(torch.float64)

    def _residual(self, difference: Tensor) -> Tensor:
        """(n,), (n, 3) or (n, 3, 3) differences -> (n,) residuals."""
        rows = difference.reshape(difference.shape[0], -1)
        if self.kind == "norm":
            return torch.linalg.vector_norm(rows, dim=1)
        if self.kind == "mae":
            return rows.abs().mean(dim=1)
        if self.kind == "mse":
            return rows.square().mean(dim=1)
        # Huber divided by delta: |r| − delta/2 in the tail, so that delta does not change the weight of the term
        return torch.nn.functional.smooth_l1_loss(rows, torch.zeros_like(rows), reduction="none", beta=self.delta).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The terms of a run; `counts` first, then one call per micro-batch.

    Example:
        >>> loss = StepLoss(terms=(PropertyTerm(property="energy"), PropertyTerm(property="forces", kind="norm", weight=10.0)))
        >>> loss.properties
        ('energy', 'forces')
    """

    terms: tuple[LossTerm, ...]

    def __post_init__(self) -> None:
        if not any(term.weight > 0 for term in self.terms):
            raise InputError("every loss weight is zero, so nothing would be learned; give energy, forces or stress a weight above 0")

    @property
    def properties(self) -> tuple[str, ...]:
        """Properties that the potential has to predict."""
        return tuple(term.property for term in self.terms if term.weight > 0)

    def counts(self, batches: Sequence[AtomBatch], device: torch.device | str = "cpu") -> Tensor:
        """(n_terms,) float64 counts over `batches`, from the masks alone."""
        total = torch.zeros(len(self.terms), dtype=torch.float64)
        for batch in batches:
            total += torch.stack([term.count(batch).cpu() for term in self.terms])
        return total.to(device)

    def __call__(self, predictions: Predictions, batch: AtomBatch, global_counts: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of one micro-batch (float64 scalar) and the detached share of every term before its weight (n_terms,).

        Args:
            predictions: of `batch`, with a graph.
            batch: one micro-batch.
            global_counts: (n_terms,) of the whole step, over all ranks.
        """
        total = predictions.energy.sum().to(torch.float64) * 0.0
        shares = []
        for term, global_count in zip(self.terms, global_counts, strict=True):
            if term.weight == 0:
                shares.append(torch.zeros_like(total))
                continue
            share = term(predictions, batch)[0] / global_count.clamp(min=1.0)
            total = total + term.weight * share
            shares.append(share.detach())
        return total, torch.stack(shares).detach()


def dataset_factors(names: Sequence[str], factors: Mapping[str, float], what: str) -> Tensor:
    """(n_datasets,) float64 factors, 1 where not stated.

    Raises:
        ValueError: `factors` names a dataset that is not in `names`, or a factor is negative.
    """
    unknown = sorted(set(factors) - set(names))
    if unknown:
        raise InputError(f"{what} names {unknown[0]!r}, which is not a dataset of this run; datasets are: {', '.join(names)}")
    negative = [name for name, value in factors.items() if value < 0]
    if negative:
        raise InputError(f"{what}.{negative[0]} is {factors[negative[0]]}; it must not be negative")
    return torch.tensor([float(factors.get(name, 1.0)) for name in names], dtype=torch.float64)


def labelled_mask(property: str, batch: AtomBatch, frozen_atoms: str = "exclude") -> Tensor:
    """(n_structures,) or, for forces, (n_atoms,) bool: which entries of `property` are labelled and count.

    Forces of atoms that were fixed in the reference calculation (unless `frozen_atoms` is `include`) and stress of
    structures that are not periodic along all axes do not count. Losses and metrics both use this one definition.
    """
    mask = batch.label_mask.get(property)
    if mask is None:
        mask = torch.zeros(batch.n_structures, dtype=torch.bool, device=batch.positions.device)
    if property == "forces":
        labelled = mask[batch.structure_index]
        return labelled if frozen_atoms == "include" else labelled & ~batch.fixed
    if property == "stress":
        return mask & batch.pbc.all(dim=1)
    return mask


def own_weights(property: str, batch: AtomBatch) -> Tensor | None:
    """(n_structures,) or, for forces, (n_atoms,) factors that the structures carry themselves, 1 where one has none; None without any."""
    if not {"weight", "atom_weights"} & set(batch.labels):
        return None
    weights = torch.ones(batch.n_structures, device=batch.positions.device)
    if "weight" in batch.labels:
        weights = torch.where(batch.label_mask["weight"], batch.labels["weight"], weights.to(batch.labels["weight"]))
    if property != "forces":
        return weights
    weights = weights[batch.structure_index]
    if "atom_weights" in batch.labels:
        has_own = batch.label_mask["atom_weights"][batch.structure_index]
        weights = torch.where(has_own, batch.labels["atom_weights"] * weights, weights)
    return weights


def force_magnitudes(batch: AtomBatch, chosen: Tensor) -> Tensor:
    """(n_structures,) RMS of the force components of the `chosen` (n_atoms,) atoms plus `SMALLEST_FORCES`, eV/Å."""
    owner, squares = batch.structure_index[chosen], batch.labels["forces"][chosen].to(torch.float64).square().mean(dim=1)
    zeros = torch.zeros(batch.n_structures, dtype=torch.float64, device=squares.device)
    means = zeros.index_add(0, owner, squares) / zeros.index_add(0, owner, torch.ones_like(squares)).clamp(min=1)
    return means.sqrt() + SMALLEST_FORCES


def _per_row(values: Tensor, index: Tensor, n_dimensions: int) -> Tensor:
    return values.to(index.device)[index].reshape(-1, *([1] * (n_dimensions - 1)))


def without_zero_weights(batch: AtomBatch) -> AtomBatch:
    """`batch` without the labels that a weight of zero takes out of the loss, for what is solved in closed form and knows no weights.

    A structure of weight 0 has no label left; an atom of weight 0 counts as fixed.
    """
    if not {"weight", "atom_weights"} & set(batch.labels):
        return batch
    counts = torch.ones_like(batch.head_index, dtype=torch.bool)
    if "weight" in batch.labels:
        counts &= ~(batch.label_mask["weight"] & (batch.labels["weight"] == 0))
    fixed = batch.fixed
    if "atom_weights" in batch.labels:
        fixed = fixed | (batch.label_mask["atom_weights"][batch.structure_index] & (batch.labels["atom_weights"] == 0))
    return replace(batch, fixed=fixed, label_mask={name: mask & counts for name, mask in batch.label_mask.items()})
