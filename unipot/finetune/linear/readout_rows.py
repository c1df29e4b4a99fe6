"""Rows of the linear problem "which weights of a readout describe these labels": energies, force and stress components.

A readout Σ_h w_h (A x)_h σ(B x + b)_h is linear in its output layer w and, the gates left as they are, in its value layer A as well.
So are energies, forces and stress of every frame: a row is the derivative of a label with respect to those weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unipot.batch import AtomBatch, Predictions
from unipot.errors import InputError
from unipot.finetune.linear.evidence import Block
from unipot.models.derivatives import DeformableBatch, feature_tangents, make_deformable
from unipot.models.heads import Head
from unipot.models.potential import Potential
from unipot.training.losses import labelled_mask
from unipot.training.metrics import labelled_properties

#: layers of a readout in which it is linear
LAYERS = ("last-layer", "value-layer")
#: edges × force components that are differentiated in all (some twenty seconds on one core); beyond, each frame gives a random subset
EDGE_COMPONENTS = 2_000_000
#: numbers in the largest block of rows (8 bytes each)
LARGEST_DESIGN = 40_000_000
#: force components of a frame that are always taken, budget or not
FEWEST_COMPONENTS = 3

PROPERTIES = ("energy", "forces", "stress")
#: rows, residuals, structures
_Part = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ReadoutRows:
    """Rows and residuals label − parent, by property, with the frame that each belongs to.

    Energies are per atom: residual eV/atom, rows Φ/n_atoms.

    Attributes:
        blocks: property -> rows; a property without labels has none.
        frames: property -> (n_rows,) number of the frame.
        fractions: (n_energies, n_elements) share of each element in the frames with an energy.
        n_atoms: (n_energies,) of the frames with an energy.
        n_frames: in all.
        n_components: force components that are labelled; more than there are rows if a subset was taken.
    """

    blocks: dict[str, Block]
    frames: dict[str, np.ndarray]
    fractions: np.ndarray
    n_atoms: np.ndarray
    n_frames: int
    n_components: int

    @property
    def n_weights(self) -> int:
        return next(iter(self.blocks.values())).design.shape[1]

    def of_frames(self, chosen: np.ndarray) -> ReadoutRows:
        """Rows of the frames where `chosen` (n_frames,) bool is True."""
        keep = {name: chosen[frames] for name, frames in self.frames.items()}
        blocks = {n: Block(design=b.design[keep[n]], target=b.target[keep[n]]) for n, b in self.blocks.items()}
        frames = {name: numbers[keep[name]] for name, numbers in self.frames.items()}
        inside = keep["energy"]
        return replace(self, blocks=blocks, frames=frames, fractions=self.fractions[inside], n_atoms=self.n_atoms[inside])

    def projected(self, basis: np.ndarray) -> ReadoutRows:
        """Rows for weights = basis (n_weights, n_directions) @ new weights."""
        blocks = {name: Block(design=block.design @ basis, target=block.target) for name, block in self.blocks.items()}
        return replace(self, blocks=blocks)


def readout_rows(
    potential: Potential, parent: str, batches: Sequence[AtomBatch], elements: Sequence[int], layers: Sequence[str], seed: int = 0
) -> dict[str, ReadoutRows]:
    """Layer -> rows of all frames, for layers of the readout of head `parent`; the geometry is differentiated once for all of them.

    Features come from the backbone in its own dtype, all further arithmetic is float64. Where all components would cost more
    than `EDGE_COMPONENTS` (or `LARGEST_DESIGN` numbers), each frame gives a random subset, drawn by `seed` and its number, so that
    the result does not depend on how frames are packed into batches.

    Args:
        potential: not changed.
        parent: head that predicts; needs references for all elements.
        batches: labelled frames; forces of fixed atoms do not count.
        elements: columns of the compositions.
        layers: out of `LAYERS`.
        seed: of the subset of force components.

    Raises:
        ValueError: a layer is unknown, or the head predicts forces directly.
    """
    head = potential.heads[parent]
    _check_linear_layers(head, layers)
    index, training = potential.heads.index(parent), potential.training
    limit = components_per_frame(batches, max(n_weights_of(head, layer) for layer in layers))
    found: dict[tuple[str, str], list[_Part]] = {(layer, name): [] for layer in layers for name in PROPERTIES}
    fractions, sizes, first = [], [], 0
    potential.eval()
    try:
        for batch in batches:
            own = replace(batch, head_index=torch.full_like(batch.head_index, index))
            predictions = potential(own, properties=labelled_properties(batch))
            with torch.enable_grad():
                geometry = make_deformable(own, stress=bool(labelled_mask("stress", own).any()))
                scalars = potential.backbone(geometry.batch).scalars
            rows = _BatchRows(head, layers, own, geometry, scalars)
            for key, (design, target, structures) in rows.parts(predictions, _draws(own, limit, first, seed)):
                found[key].append((design, target, structures + first))
            fractions.append(rows.fractions(elements))
            sizes.append(own.n_atoms_per_structure[labelled_mask("energy", own)].cpu().numpy())
            first += own.n_structures
    finally:
        potential.train(training)
    shared = {
        "fractions": np.concatenate(fractions),
        "n_atoms": np.concatenate(sizes),
        "n_frames": first,
        "n_components": sum(3 * int(labelled_mask("forces", batch).sum()) for batch in batches),
    }
    return {layer: _of_layer(found, layer, n_weights_of(head, layer), shared) for layer in layers}


def n_weights_of(head: Head, layer: str) -> int:
    """Weights of a layer of the readout."""
    return (head.readout.output if layer == "last-layer" else head.readout.value).weight.numel()


def components_per_frame(batches: Sequence[AtomBatch], n_weights: int) -> int:
    """Force components taken from each frame, at most."""
    n_edges, n_frames = sum(batch.n_edges for batch in batches), sum(batch.n_structures for batch in batches)
    return max(min(EDGE_COMPONENTS // max(n_edges, 1), LARGEST_DESIGN // (n_weights * n_frames)), FEWEST_COMPONENTS)


@dataclass(frozen=True)
class _Direction:
    """A direction of the geometry, and the labels that the rates along it belong to."""

    property: str
    leaves: tuple[Tensor, Tensor | None]
    owners: Tensor
    factor: float | Tensor
    residual: Tensor


class _BatchRows:
    """Rows of one batch."""

    def __init__(self, head: Head, layers: Sequence[str], batch: AtomBatch, geometry: DeformableBatch, scalars: Tensor) -> None:
        self.batch, self.geometry, self.scalars = batch, geometry, scalars
        self.features = {layer: _LayerFeatures(head, layer, batch, scalars) for layer in layers}

    def parts(self, predictions: Predictions, draws: list[Tensor]) -> Iterator[tuple[tuple[str, str], _Part]]:
        """((layer, property), (rows, residuals, structure of the batch)) for everything labelled."""
        batch, has_energy = self.batch, labelled_mask("energy", self.batch)
        if bool(has_energy.any()):
            difference = batch.labels["energy"] - predictions.energy.detach()
            n_atoms = batch.n_atoms_per_structure.double()
            numbers = torch.nonzero(has_energy)[:, 0]
            for layer, features in self.features.items():
                rows = features.coefficients() / n_atoms[:, None]
                yield (layer, "energy"), _numpy(rows[has_energy], (difference / n_atoms)[has_energy], numbers)
        directions = [*self._displacements(predictions, draws), *self._strains(predictions)]
        tangents = feature_tangents(self.scalars, self.geometry, [direction.leaves for direction in directions])
        for direction, tangent in zip(directions, tangents, strict=True):
            for layer, features in self.features.items():
                part = _numpy(features.rates(tangent)[direction.owners] * direction.factor, direction.residual, direction.owners)
                yield (layer, direction.property), part

    def _displacements(self, predictions: Predictions, draws: list[Tensor]) -> Iterator[_Direction]:
        """Component k of every structure at once: structures do not see each other."""
        if predictions.forces is None:
            return
        still = None if self.geometry.strain is None else torch.zeros_like(self.geometry.strain)
        difference = (self.batch.labels["forces"].double() - predictions.forces.detach().double()).reshape(-1)
        for number in range(max(len(draw) for draw in draws)):
            owners = [s for s, draw in enumerate(draws) if number < len(draw)]
            component = torch.stack([draws[s][number] for s in owners])
            displacement = torch.zeros_like(self.batch.positions).reshape(-1)
            displacement[component] = 1.0
            yield _Direction("forces", (displacement.reshape(-1, 3), still), torch.tensor(owners), -1.0, difference[component])

    def _strains(self, predictions: Predictions) -> Iterator[_Direction]:
        """The nine components of the stress, one at a time for all structures; nine, so that no axes are preferred."""
        if predictions.stress is None:
            return
        chosen = torch.nonzero(labelled_mask("stress", self.batch))[:, 0]
        difference = self.batch.labels["stress"].double() - predictions.stress.detach().double()
        per_volume = 1 / torch.linalg.det(self.batch.cell.double()).abs()[chosen, None]
        for a, b in itertools.product(range(3), repeat=2):
            strain = torch.zeros_like(self.batch.cell)
            strain[:, a, b] = 1.0
            leaves = torch.zeros_like(self.batch.positions), strain
            yield _Direction("stress", leaves, chosen, per_volume, difference[chosen, a, b])

    def fractions(self, elements: Sequence[int]) -> np.ndarray:
        """(n_energies, n_elements)."""
        counts = torch.stack([self.batch.sum_over_atoms((self.batch.atomic_numbers == z).double()) for z in elements], dim=1)
        shares = counts / self.batch.n_atoms_per_structure[:, None]
        return shares[labelled_mask("energy", self.batch)].cpu().numpy()


class _LayerFeatures:
    """Coefficients of the weights of one layer in the energies of a batch, and their rates of change; float64."""

    def __init__(self, head: Head, layer: str, batch: AtomBatch, scalars: Tensor) -> None:
        readout = head.readout
        self.layer, self.batch, self.scale = layer, batch, head.scale
        self.gate_weight, self.value_weight = readout.gate.weight.detach().double(), readout.value.weight.detach().double()
        self.output_weight = readout.output.weight.detach()[0].double()
        self.scalars = scalars.detach().double()
        self.gate = torch.sigmoid(self.scalars @ self.gate_weight.T + readout.gate.bias.detach().double())
        self.value = self.scalars @ self.value_weight.T

    def coefficients(self) -> Tensor:
        """(n_structures, n_weights): the energy, eV, per unit of each weight."""
        if self.layer == "last-layer":
            return self.batch.sum_over_atoms(self.value * self.gate) * self.scale
        return self._products(self.gate, self.scalars)

    def rates(self, tangent: Tensor) -> Tensor:
        """(n_structures, n_weights) rate of change of `coefficients` when the scalars change by `tangent`."""
        tangent = tangent.double()
        gate = self.gate * (1 - self.gate) * (tangent @ self.gate_weight.T)
        if self.layer == "last-layer":
            return self.batch.sum_over_atoms((tangent @ self.value_weight.T) * self.gate + self.value * gate) * self.scale
        return self._products(self.gate, tangent) + self._products(gate, self.scalars)

    def _products(self, gate: Tensor, scalars: Tensor) -> Tensor:
        """(n_structures, n_hidden · n_channels) Σ_i gate_ih w_h scalars_ic, a matrix product per structure."""
        sizes = self.batch.n_atoms_per_structure.tolist()
        weighed = (gate * (self.output_weight * self.scale)).split(sizes)
        return torch.stack([(own.T @ features).flatten() for own, features in zip(weighed, scalars.split(sizes), strict=True)])


def _draws(batch: AtomBatch, limit: int, first: int, seed: int) -> list[Tensor]:
    """Per structure, the flat numbers of the force components to take."""
    counted = labelled_mask("forces", batch).repeat_interleave(3)
    owner = batch.structure_index.repeat_interleave(3)
    draws = []
    for structure in range(batch.n_structures):
        numbers = torch.nonzero(counted & (owner == structure))[:, 0]
        if len(numbers) > limit:
            chosen = np.random.default_rng((seed, first + structure)).permutation(len(numbers))[:limit]
            numbers = numbers[torch.from_numpy(np.sort(chosen)).to(numbers.device)]
        draws.append(numbers)
    return draws


def _numpy(rows: Tensor, residuals: Tensor, numbers: Tensor) -> _Part:
    return rows.detach().double().cpu().numpy(), residuals.detach().double().cpu().numpy(), numbers.cpu().numpy()


def _check_linear_layers(head: Head, layers: Sequence[str]) -> None:
    for layer in layers:
        if layer not in LAYERS:
            raise InputError(f"layer is {layer!r}; use one of: {', '.join(LAYERS)}")
    if head.direct_forces:
        raise InputError(
            f"head {head.name!r} predicts forces directly, so they are not linear in its {' and '.join(layers)}; use alignment=shift"
        )


def _of_layer(found: dict[tuple[str, str], list[_Part]], layer: str, n_weights: int, shared: dict[str, Any]) -> ReadoutRows:
    joined = {name: _joined(found[layer, name], n_weights) for name in PROPERTIES}
    return ReadoutRows(
        blocks={name: Block(design=design, target=target) for name, (design, target, _) in joined.items()},
        frames={name: frames for name, (_, _, frames) in joined.items()},
        **shared,
    )


def _joined(parts: list[_Part], n_weights: int) -> _Part:
    if not parts:
        return np.zeros((0, n_weights)), np.zeros(0), np.zeros(0, dtype=np.int64)
    rows, residuals, numbers = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(numbers, kind="stable")  # by frame, however they were packed
    return rows[order], residuals[order], numbers[order]
