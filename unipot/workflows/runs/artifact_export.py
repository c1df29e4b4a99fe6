"""The public artifacts of a run: what goes into their card and which structures check them on load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.mixture.budget import position_chunks
from unipot.data.mixture.selection import Selection
from unipot.data.statistics import elements_present
from unipot.finetune.lora import merged
from unipot.models.potential import Potential
from unipot.structure import Structure, symbols_of
from unipot.training.distributed import is_main_process
from unipot.training.metrics import MetricTable
from unipot.workflows.construction.model import HeadStatistics
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.runs.run_folder import write_json
from unipot.workflows.settings.schema import PretrainConfig
from unipot.zoo.artifact import save_artifact
from unipot.zoo.card import read_card
from unipot.zoo.lineage import child_facts
from unipot.zoo.locate import model_path


def export_artifact(
    path: Path, potential: Potential, step: int, table: MetricTable | None, *, card: dict[str, Any], golden: Sequence[Structure]
) -> None:
    """Write the present weights of `potential`, low-rank updates merged, with the last validation in the card."""
    training = {**card["training"], "step": step}
    if table is not None:
        training["validation"] = table.flat()
    was_training = potential.training
    potential.eval()
    save_artifact(path, merged(potential), card={**card, "training": training}, golden=golden)
    potential.train(was_training)


def training_card(verb: str, name: str, config: Any, datasets: Sequence[OpenDataset]) -> dict[str, Any]:
    """Facts for the card that do not change during the run; those of the model it starts from, and the terms of its weights, included."""
    training = {"command": verb, "seed": config.seed, "max_steps": config.schedule.max_steps}
    if isinstance(config, PretrainConfig):
        training["temperature"] = config.mixture.temperature
    start = None if getattr(config, "from_scratch", False) else getattr(config, "checkpoint", None) or getattr(config, "start_from", None)
    parent = {} if start is None else child_facts(read_card(model_path(start)))
    return {"name": name, "datasets": [dataset_card(item) for item in datasets], "training": training, **parent}


def references_of(statistics: Sequence[HeadStatistics]) -> dict[str, Any]:
    """Head -> report of its references, for the card."""
    return {item.head: item.report.to_dict() for item in statistics}


def write_references(path: Path, statistics: Sequence[HeadStatistics]) -> None:
    """`references_of` into the run folder, by the first process of a run."""
    if is_main_process():
        write_json(path, references_of(statistics))


def dataset_card(item: OpenDataset) -> dict[str, Any]:
    """What a reader of the model must know about one of its datasets."""
    metadata = item.store.metadata
    return {
        "name": item.spec.name,
        "head": item.spec.head,
        "level_of_theory": item.spec.level_of_theory,
        "energy_kind": item.store.energy_kind,
        "labels": [*metadata["label_counts"], *item.store.scalars],
        "elements": list(metadata["elements"]),
        "trained_elements": symbols_of(np.flatnonzero(elements_present(item.store, item.train_indices))).split(", "),
        "n_training": len(item.train_indices),
        "n_validation": len(item.validation_indices),
        "content_hash": metadata["content_hash"],
        "provenance": _without_folders(metadata.get("provenance", {})),
    }


def _without_folders(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance with the file's name only: a card is read by strangers."""
    return {key: Path(value).name if key == "path" else value for key, value in provenance.items()}


def golden_structures(datasets: Sequence[OpenDataset], n: int = 2) -> list[Structure]:
    """The smallest structures with at least two atoms, held-out ones first, from as many datasets as possible."""
    chosen = []
    for item in datasets:
        held_out = len(item.validation_indices) > 0
        store, indices = (item.validation_store, item.validation_indices) if held_out else (item.store, item.train_indices)
        smallest = _smallest(store.n_atoms, indices, n)
        chosen += [(rank, size, store[position]) for rank, (size, position) in enumerate(smallest)]
    chosen.sort(key=lambda entry: entry[:2])
    return [structure for _, _, structure in chosen[:n]]


def _smallest(n_atoms: np.ndarray, indices: Selection | np.ndarray, n: int) -> list[tuple[int, int]]:
    """(atoms, position) of the first `n` structures by size, those of one atom last."""
    best: list[tuple[int, int, int]] = []
    for number, chunk in enumerate(position_chunks(indices)):
        sizes = np.where(n_atoms[chunk] > 1, n_atoms[chunk], np.iinfo(np.int32).max)
        first = np.argsort(sizes, kind="stable")[:n]
        best += [(int(sizes[i]), number, int(chunk[i])) for i in first]
        best = sorted(best, key=lambda entry: entry[:2])[:n]
    return [(size, position) for size, _, position in best]
