"""An evaluation: errors of one head on one dataset, with the points of a parity plot, kept on disk for reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unipot.batch import AtomBatch, Predictions
from unipot.errors import InputError
from unipot.training.losses import labelled_mask
from unipot.training.metrics import MetricRow, MetricTable, evaluate

#: numbers kept per property for a parity plot; an even subset above
MAX_POINTS = 60_000


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Errors of one head on one dataset.

    Attributes:
        dataset: name of the dataset.
        model: how tables and legends call the model.
        head: that evaluated it.
        table: metrics, the same arithmetic as validation.
        points: property -> (label, prediction), each (n,), flattened components in canonical units.
    """

    dataset: str
    model: str
    head: str
    table: MetricTable
    points: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Evaluation({self.model} through head {self.head!r}, {self.table.in_words() or self.dataset})"

    def get(self, property: str, statistic: str) -> float | None:
        """A number over all elements, or None where it is not defined."""
        row = next((r for r in self.table.rows if r.property == property and r.element is None), None)
        return None if row is None else getattr(row, statistic)

    def parity(self, name: str | None = None) -> list[ParityPoints]:
        """Points for `parity_figure`, under `name` (default: the model)."""
        return [ParityPoints(name=name or self.model, property=p, label=a, prediction=b) for p, (a, b) in self.points.items() if len(a)]

    def force_mae_per_element(self) -> dict[str, float]:
        """Symbol -> force MAE in eV/Å."""
        return {r.element: r.mae for r in self.table.rows if r.property == "forces" and r.element is not None and r.mae is not None}

    def save(self, stem: str | Path) -> None:
        """Write `<stem>.json` and, with points, `<stem>.npz`."""
        Path(stem).parent.mkdir(parents=True, exist_ok=True)
        content = {"dataset": self.dataset, "model": self.model, "head": self.head, **self.table.to_dict()}
        Path(f"{stem}.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        arrays = {f"{p}.{kind}": pair[k] for p, pair in self.points.items() for k, kind in enumerate(("label", "prediction"))}
        if arrays:
            np.savez_compressed(f"{stem}.npz", **arrays)

    @classmethod
    def load_all(cls, folder: str | Path) -> dict[str, Evaluation]:
        """Everything that was saved in `folder`, by the last part of its stem, sorted."""
        stems = sorted(path.name.removesuffix(".json") for path in Path(folder).glob("*.json"))
        return {stem: cls.load(Path(folder) / stem) for stem in stems}

    @classmethod
    def load(cls, stem: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no `<stem>.json`.
        """
        file, arrays_file = Path(f"{stem}.json"), Path(f"{stem}.npz")
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing; `unipot evaluate`, or `unipot finetune` makes it")
        content = json.loads(file.read_text(encoding="utf-8"))
        points: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if arrays_file.exists():
            with np.load(arrays_file, allow_pickle=False) as arrays:
                names = [key.removesuffix(".label") for key in arrays.files if key.endswith(".label")]
                points = {name: (arrays[f"{name}.label"], arrays[f"{name}.prediction"]) for name in names}
        table = MetricTable(rows=[MetricRow(**row) for row in content["rows"]], units=content["units"])
        return cls(dataset=content["dataset"], model=content["model"], head=content["head"], table=table, points=points)


def evaluate_head(
    potential: torch.nn.Module,
    batches: Iterable[AtomBatch],
    *,
    dataset: str,
    model: str,
    head: str,
    device: torch.device | str = "cpu",
    thresholds: Mapping[str, float] | None = None,
) -> Evaluation:
    """Errors of `potential` over `batches` (their `dataset_index` 0), with the points behind them.

    Raises:
        ValueError: no structure of the dataset carries a label.
    """
    with _recorded(potential) as pairs:
        table = evaluate(potential, batches, (dataset,), device=device, thresholds=thresholds)
    if not table.rows:
        raise InputError(
            f"dataset {dataset!r} has no labelled structure to compare with; give frames with energy, forces, stress or a property that "
            "the model predicts"
        )
    return Evaluation(dataset=dataset, model=model, head=head, table=table, points={p: _thinned(parts) for p, parts in pairs.items()})


@contextmanager
def _recorded(potential: torch.nn.Module) -> Iterator[dict[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """Collect labels and predictions of every forward call inside the block, without a second pass."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def record(module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], predictions: Predictions) -> None:
        batch: AtomBatch = arguments[0]
        for name in ("energy", "forces", "stress"):
            if name not in batch.labels or getattr(predictions, name) is None:
                continue
            mask = labelled_mask(name, batch)
            found = [t.detach().double()[mask].cpu().numpy() for t in (batch.labels[name], predictions[name])]
            if name == "energy":
                n_atoms = batch.n_atoms_per_structure[mask].cpu().numpy()
                found = [values / n_atoms for values in found]
            key = "energy_per_atom" if name == "energy" else name
            pairs.setdefault(key, []).append((found[0].ravel(), found[1].ravel()))

    handle = potential.register_forward_hook(record, with_kwargs=True)
    try:
        yield pairs
    finally:
        handle.remove()


def _thinned(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    label, prediction = (np.concatenate([pair[k] for pair in parts]) for k in (0, 1))
    if len(label) <= MAX_POINTS:
        return label, prediction
    chosen = np.linspace(0, len(label) - 1, MAX_POINTS).astype(int)
    return label[chosen], prediction[chosen]


@dataclass(frozen=True, kw_only=True)
class ParityPoints:
    """Labels and predictions of one property of one dataset.

    Attributes:
        name: legend text, as the dataset or the model.
        property: key of `AXES`.
        label: (n,) canonical unit.
        prediction: (n,) canonical unit.
    """

    name: str
    property: str
    label: np.ndarray
    prediction: np.ndarray
