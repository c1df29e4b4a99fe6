"""Metrics as float64 sums: the one arithmetic behind validation, `unipot evaluate` and every table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from unipot.batch import AtomBatch, Predictions
from unipot.errors import InputError, UnknownName
from unipot.properties import ScalarProperty
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS
from unipot.training.losses import labelled_mask, own_weights, without_zero_weights

#: forces of atoms that were fixed in the reference calculation included; only where there are such atoms
ALL_ATOMS = "forces_all_atoms"
#: row name -> unit, in the order of the table
REPORTED: dict[str, str] = {
    "energy_per_atom": "eV/atom",
    "energy": "eV",
    "forces": "eV/A",
    ALL_ATOMS: "eV/A",
    "stress": "eV/A^3",
    "energy_and_forces": "",
}

#: largest error that counts as "within", by row name; energy and forces are those of OC20 (Chanussot 2021)
THRESHOLDS: dict[str, float] = {"energy_per_atom": 0.02, "energy": 0.02, "forces": 0.03, "stress": 0.001}

# columns of the sums
_COUNT, _ABSOLUTE, _SQUARED, _WITHIN, _COSINE, _COSINE_WEIGHT, _ITEMS = range(7)
_N_COLUMNS = 7


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One line of a table; None where a number is not defined.

    Attributes:
        dataset: name of the dataset.
        property: a key of `REPORTED`, or a scalar property.
        element: symbol, or None for all elements together.
        n: numbers compared (components for forces and stress, structures for energies).
        mae, rmse: in the unit of `MetricTable.units`.
        cosine: mean over atoms of the cosine between predicted and labelled force, weighted by the size of the label:
            the directions of forces near zero, as on the sites of a symmetric crystal, are noise.
        within: share of structures (energies, stress, energy_and_forces) or atoms (forces) whose largest error is
            within the threshold.
    """

    dataset: str
    property: str
    element: str | None
    n: int
    mae: float | None
    rmse: float | None
    cosine: float | None
    within: float | None


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """Rows per dataset, property and element, and the unit of each property."""

    rows: list[MetricRow] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=lambda: dict(REPORTED))

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the scalar properties among the rows."""
        return tuple(dict.fromkeys(row.property for row in self.rows if row.property not in REPORTED))

    def value(self, dataset: str, property: str, statistic: str, element: str | None = None) -> float:
        """One number.

        Raises:
            KeyError: there is no such row, or the statistic is not defined for it.
        """
        for row in self.rows:
            if (row.dataset, row.property, row.element) == (dataset, property, element):
                value = getattr(row, statistic, None)
                if value is not None:
                    return float(value)
        known = sorted({f"{row.dataset}/{row.property}" for row in self.rows if row.element is None})
        raise UnknownName(f"no {statistic!r} of {property!r} for dataset {dataset!r}; the table has: {', '.join(known)}")

    def flat(self) -> dict[str, float]:
        """`dataset/property/statistic` -> number for all elements together, as logged during training."""
        numbers: dict[str, float] = {}
        for row in self.rows:
            if row.element is None:
                for statistic in ("mae", "rmse", "cosine", "within"):
                    value = getattr(row, statistic)
                    if value is not None:
                        numbers[f"{row.dataset}/{row.property}/{statistic}"] = value
        return numbers

    def title(self, row: MetricRow) -> str:
        """What a row is about, in words: where atoms are fixed, forces are those of the free atoms, or of all."""
        if row.property == ALL_ATOMS:
            return "forces of all atoms"
        some_fixed = any(other.property == ALL_ATOMS and other.dataset == row.dataset for other in self.rows)
        return "forces of free atoms" if row.property == "forces" and some_fixed else row.property

    def in_words(self) -> str:
        """Mean absolute errors of every dataset in one line, all elements together."""
        datasets = dict.fromkeys(row.dataset for row in self.rows)
        rows = [row for row in self.rows if row.element is None and row.mae is not None]
        words = [(row.dataset, f"{self.title(row)} {row.mae:.4g} {self.units.get(row.property, '')}".strip()) for row in rows]
        said = {name: ", ".join(text for dataset, text in words if dataset == name) for name in datasets}
        return "; ".join(f"{name}: mean absolute error of {text}" for name, text in said.items() if text)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: units and rows."""
        return {"units": dict(self.units), "rows": [asdict(row) for row in self.rows]}

    def to_markdown(self, *, elements: bool = False) -> str:
        """A Markdown table; with `elements`, one line per element too."""
        lines = ["| dataset | property | element | n | MAE | RMSE | cosine | within |", "|---|---|---|---|---|---|---|---|"]
        for row in self.rows:
            if row.element is not None and not elements:
                continue
            unit = f" ({self.units[row.property]})" if self.units[row.property] else ""
            numbers = [_shown(row.mae), _shown(row.rmse), _shown(row.cosine), _shown(row.within)]
            lines.append(" | ".join([f"| {row.dataset}", self.title(row) + unit, row.element or "all", str(row.n), *numbers]) + " |")
        return "\n".join(lines)


class MetricAccumulator:
    """Adds up errors batch by batch.

    Forces of fixed atoms, stress of structures that are not periodic along all axes (`labelled_mask`) and labels whose
    weight is zero do not count, exactly as in the loss; other weights make no difference here. Where atoms are fixed,
    errors of the forces on all atoms, which other programs report, stand beside those that count, as the property
    `ALL_ATOMS`.

    Args:
        dataset_names: position = `AtomBatch.dataset_index`.
        thresholds: overrides of `THRESHOLDS` and of those of `properties`.
        properties: scalar properties that count, by name.

    Example:
        >>> MetricAccumulator(["water"]).compute().rows
        []
    """

    def __init__(
        self,
        dataset_names: Sequence[str],
        thresholds: Mapping[str, float] | None = None,
        properties: Mapping[str, ScalarProperty] | None = None,
    ) -> None:
        self.properties = dict(properties or {})
        unknown = sorted(set(thresholds or {}) - {*THRESHOLDS, *self.properties})
        if unknown:
            raise InputError(f"threshold for {unknown[0]!r} is not known; known are: {', '.join([*THRESHOLDS, *self.properties])}")
        wrong = next((name for name, value in (thresholds or {}).items() if not value > 0), None)
        if wrong is not None:
            raise InputError(f"threshold for {wrong!r} is {(thresholds or {})[wrong]}; it must be positive")
        self.dataset_names = tuple(dataset_names)
        stated = {name: prop.threshold for name, prop in self.properties.items() if prop.threshold is not None}
        self.thresholds = {**THRESHOLDS, **stated, **(thresholds or {})}
        self.row_names = [*REPORTED, *self.properties]
        n_rows = len(self.row_names)
        # element 0 stands for all elements together
        self._sums = torch.zeros(len(self.dataset_names), n_rows, MAX_ATOMIC_NUMBER + 1, _N_COLUMNS, dtype=torch.float64)

    @property
    def sums(self) -> Tensor:
        """(n_datasets, n_properties, 119, 7) float64; add those of other ranks to get the global table."""
        return self._sums

    def update(self, predictions: Predictions, batch: AtomBatch) -> None:
        """Add one batch; predictions may live on any device and carry a graph."""
        all_atoms = _all_labelled_atoms(batch)
        batch = without_zero_weights(batch)
        energy_error = (predictions.energy.detach().to(torch.float64) - _label("energy", batch)).cpu()
        has_energy = labelled_mask("energy", batch).cpu()
        dataset = batch.dataset_index.cpu()
        per_atom = energy_error / batch.n_atoms_per_structure.cpu()
        self._add_errors("energy_per_atom", dataset[has_energy], per_atom[has_energy].unsqueeze(1))
        self._add_errors("energy", dataset[has_energy], energy_error[has_energy].unsqueeze(1))
        if predictions.stress is not None:
            chosen = labelled_mask("stress", batch).cpu()
            error = (predictions.stress.detach().to(torch.float64) - _label("stress", batch)).cpu()
            self._add_errors("stress", dataset[chosen], error[chosen].reshape(-1, 9))
        for name in self.properties:
            if name in predictions.members:
                self._update_scalar(name, predictions[name].detach().cpu(), batch, dataset)
        if predictions.forces is not None:
            forces = predictions.forces.detach().to(torch.float64).cpu()
            self._update_forces(forces, batch, energy_error.abs(), has_energy)
            owner = dataset[batch.structure_index.cpu()][all_atoms]
            self._add_errors(ALL_ATOMS, owner, (forces - _label("forces", batch).cpu())[all_atoms])

    def _update_scalar(self, name: str, predicted: Tensor, batch: AtomBatch, dataset: Tensor) -> None:
        chosen = labelled_mask(name, batch).cpu()
        if bool(torch.isnan(predicted[chosen]).any()):
            where = batch.ids[int(torch.nonzero(chosen & torch.isnan(predicted))[0, 0])]
            raise InputError(
                f"structure {where!r} has elements that the property {name!r} was not trained on, so its value cannot be compared; "
                "leave it out"
            )
        if bool(chosen.any()):
            self._add_errors(name, dataset[chosen], (predicted - batch.labels[name].cpu())[chosen].unsqueeze(1))

    def _update_forces(self, predicted: Tensor, batch: AtomBatch, energy_error: Tensor, has_energy: Tensor) -> None:
        chosen = labelled_mask("forces", batch).cpu()
        label = _label("forces", batch).cpu()
        structure = batch.structure_index.cpu()
        dataset = batch.dataset_index.cpu()
        error = predicted - label
        cosine = torch.nn.functional.cosine_similarity(predicted, label, dim=1)
        size = torch.linalg.vector_norm(label, dim=1)
        owner, elements = dataset[structure[chosen]], batch.atomic_numbers.cpu()[chosen]
        for element in (torch.zeros_like(elements), elements):
            self._add_errors("forces", owner, error[chosen], element=element, cosine=cosine[chosen], size=size[chosen])
        worst = torch.zeros(batch.n_structures, dtype=torch.float64)
        worst = worst.scatter_reduce(0, structure[chosen], error[chosen].abs().amax(dim=1), "amax")
        n_labelled = torch.zeros(batch.n_structures).index_add(0, structure[chosen], torch.ones(int(chosen.sum())))
        both = has_energy & (n_labelled > 0)
        good = (energy_error <= self.thresholds["energy"]) & (worst <= self.thresholds["forces"])
        row = self.row_names.index("energy_and_forces")
        for column, value in ((_ITEMS, both), (_COUNT, both), (_WITHIN, both & good)):
            self._sums[:, row, 0, column].index_add_(0, dataset, value.to(torch.float64))

    def _add_errors(
        self,
        name: str,
        dataset: Tensor,
        error: Tensor,
        *,
        element: Tensor | None = None,
        cosine: Tensor | None = None,
        size: Tensor | None = None,
    ) -> None:
        """Add (n, n_components) errors to the sums of their datasets (and elements), and (n,) cosines weighted by the (n,) sizes."""
        if error.shape[0] == 0:
            return
        columns = error.new_zeros(error.shape[0], _N_COLUMNS)
        columns[:, _ITEMS] = 1.0
        columns[:, _COUNT] = error.shape[1]
        columns[:, _ABSOLUTE] = error.abs().sum(dim=1)
        columns[:, _SQUARED] = error.square().sum(dim=1)
        columns[:, _WITHIN] = (error.abs().amax(dim=1) <= self.thresholds.get(name, torch.inf)).to(error.dtype)
        if cosine is not None and size is not None:
            columns[:, _COSINE] = size * cosine
            columns[:, _COSINE_WEIGHT] = size
        element = torch.zeros_like(dataset) if element is None else element
        row = (dataset * len(self.row_names) + self.row_names.index(name)) * (MAX_ATOMIC_NUMBER + 1) + element
        self._sums.view(-1, _N_COLUMNS).index_add_(0, row, columns)

    def compute(self) -> MetricTable:
        """The table of everything added so far."""
        free, every = self.row_names.index("forces"), self.row_names.index(ALL_ATOMS)
        some_fixed = self._sums[:, every, 0, _ITEMS] > self._sums[:, free, 0, _ITEMS]
        rows = [
            _row(dataset, name, SYMBOLS[z] if z else None, self._sums[d, p, z], name in self.thresholds)
            for d, dataset in enumerate(self.dataset_names)
            for p, name in enumerate(self.row_names)
            if name != ALL_ATOMS or some_fixed[d]
            for z in torch.nonzero(self._sums[d, p, :, _ITEMS]).flatten().tolist()
        ]
        return MetricTable(rows=rows, units={**REPORTED, **{name: prop.unit for name, prop in self.properties.items()}})


def evaluate(
    potential: torch.nn.Module,
    batches: Iterable[AtomBatch],
    dataset_names: Sequence[str] = ("data",),
    *,
    thresholds: Mapping[str, float] | None = None,
    device: torch.device | str = "cpu",
) -> MetricTable:
    """Errors of `potential` over labelled batches; what is labelled decides what is predicted."""
    properties = scalars_of(potential)
    accumulator = MetricAccumulator(dataset_names, thresholds, properties)
    was_training = potential.training
    potential.eval()
    for batch in batches:
        batch = batch.to(device)
        accumulator.update(potential(batch, properties=labelled_properties(batch, properties, frozen_atoms="include")), batch)
    potential.train(was_training)
    return accumulator.compute()


def labelled_properties(batch: AtomBatch, scalars: Iterable[str] = (), frozen_atoms: str = "exclude") -> tuple[str, ...]:
    """Energy, and those of forces, stress and `scalars` that at least one structure of `batch` is labelled with.

    Args:
        batch: with labels.
        scalars: names of scalar properties.
        frozen_atoms: `include` asks for forces where only fixed atoms have labels too.
    """
    return ("energy", *(name for name in ("forces", "stress", *scalars) if bool(labelled_mask(name, batch, frozen_atoms).any())))


def scalars_of(potential: torch.nn.Module) -> dict[str, ScalarProperty]:
    """What the property heads of a model predict, by name; nothing where it cannot have any."""
    return getattr(potential, "scalar_properties", {})


def _all_labelled_atoms(batch: AtomBatch) -> Tensor:
    """(n_atoms,) bool on the CPU, atoms with a force label whose weight is not zero, fixed ones included."""
    labelled, weights = labelled_mask("forces", batch, "include"), own_weights("forces", batch)
    return (labelled if weights is None else labelled & (weights != 0)).cpu()


def _label(name: str, batch: AtomBatch) -> Tensor:
    if name in batch.labels:
        return batch.labels[name].to(torch.float64)
    shape = {"energy": (batch.n_structures,), "forces": (batch.n_atoms, 3), "stress": (batch.n_structures, 3, 3)}[name]
    return torch.zeros(shape, dtype=torch.float64, device=batch.positions.device)


def _row(dataset: str, name: str, element: str | None, sums: Tensor, threshold: bool) -> MetricRow:
    count, absolute, squared, within, cosine, cosine_weight, items = sums.tolist()
    errors = name != "energy_and_forces"
    return MetricRow(
        dataset=dataset,
        property=name,
        element=element,
        n=int(count),
        mae=absolute / count if errors else None,
        rmse=(squared / count) ** 0.5 if errors else None,
        cosine=cosine / cosine_weight if cosine_weight else None,
        within=within / items if threshold or not errors else None,
    )


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
