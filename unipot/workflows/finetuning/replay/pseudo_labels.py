"""Replay without the original data: structures of the pretraining domain, labelled by the pretrained model with its own heads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from unipot.batch import collate
from unipot.data.spec import DatasetSpec
from unipot.data.store import Store, StoreWriter
from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.structure import Structure
from unipot.training.distributed import is_main_process
from unipot.workflows.finetuning.schema import NONE, SAMPLE, SelfReplayConfig
from unipot.workflows.inputs.datasets import OpenDataset, wait_for_store
from unipot.workflows.inputs.evaluation_sets import EvaluationSet
from unipot.workflows.inputs.frame_limits import spread
from unipot.workflows.inputs.structure_files import read_atoms
from unipot.zoo.sample import sample_of

#: ends the id of a displaced copy
_COPY = "-rattled"


def self_labelled_sets(
    config: SelfReplayConfig, potential: Potential, card: Mapping[str, Any], *, seed: int, cache: Path, console: Console
) -> list[OpenDataset]:
    """One dataset `self-<head>` per head, labelled by `potential` through that head; stores are made once.

    Every fourth structure, with its copy, is not among the training ones: `drift_evaluation_sets` measures what is
    forgotten on them.

    Args:
        config: which structures.
        potential: the pretrained model, in the dtype of the run.
        card: of its artifact.
        seed: of the displacements.
        cache: folder for the stores.
        console: what is labelled and left out is said here.

    Raises:
        KeyError: there is no head `config.head`.
        ValueError: an option is not allowed, the card has no sample, or no head fits the structures.
        FileNotFoundError: the path is not there.
    """
    _check_self_replay(config, potential)
    if not config.wanted:
        return []
    found = _of_sample(card, potential) if config.structures == SAMPLE else _of_path(config, potential, console)
    result = []
    for head, structures in found.items():
        structures = _rattled([structures[k] for k in spread(len(structures), config.max_structures)], config.rattle, seed)
        labels = _labels_of(head, card, structures)
        store = _labelled_store(potential, head, structures, labels, str(card.get("sha256")), cache, console)
        spec = DatasetSpec(
            name=store.name,
            path=str(store.path),
            level_of_theory=store.level_of_theory,
            energy_kind=store.energy_kind,
            labels=labels,
            head=head,
        )
        result.append(
            OpenDataset(
                spec=spec,
                store=store,
                train_indices=np.flatnonzero(~_measured_only(store)),
                validation_store=store,
                validation_indices=np.arange(0),
            )
        )
    return result


def drift_evaluation_sets(sets: Sequence[OpenDataset]) -> list[EvaluationSet]:
    """The structures of self-labelled sets that are not replayed (all, where there are too few): errors on them are drift."""
    found = []
    for item in sets:
        measured = np.flatnonzero(_measured_only(item.store))
        indices = measured if len(measured) else item.train_indices
        found.append(EvaluationSet(name=item.spec.name, head=item.spec.head, store=item.store, indices=indices))
    return found


def label_structure(potential: Potential, structure: Structure, head: str, labels: Sequence[str]) -> Structure:
    """`structure` with the predictions of `head` as its labels; stress only where all axes are periodic.

    Structures are predicted one by one, so that a label does not depend on what else is in a batch.
    """
    periodic = bool(structure.pbc.all())
    wanted = tuple(name for name in labels if name != "stress" or periodic)
    batch = collate([structure], cutoff=potential.cutoff, head_index=[potential.heads.index(head)], dtype=potential.dtype)
    predicted = potential(batch.to(potential.device), properties=wanted, create_graph=False)
    values = {name: predicted[name].detach().double().cpu().numpy() for name in wanted}
    return structure.with_labels(**{name: value if name == "forces" else value[0] for name, value in values.items()})


def _measured_only(store: Store) -> np.ndarray:
    """(n_structures,) bool: every fourth structure and its copy."""
    number = {name: k for k, name in enumerate(dict.fromkeys(name.removesuffix(_COPY) for name in store.ids))}
    return np.array([number[name.removesuffix(_COPY)] % 4 == 3 for name in store.ids])


def _check_self_replay(config: SelfReplayConfig, potential: Potential) -> None:
    if config.rattle < 0:
        raise InputError(f"self_replay.rattle is {config.rattle}; give a standard deviation in Å, 0 for no displaced copies")
    if config.max_structures < 1:
        raise InputError(f"self_replay.max_structures is {config.max_structures}; it must be at least 1")
    if config.head is not None:
        potential.heads.index(config.head)
        if config.structures in (NONE, SAMPLE):
            raise InputError(
                f"self_replay.head is for structures of a file, but self_replay.structures is {config.structures}; leave it out (those of "
                "the sample have their own heads), or give the path of a file or store"
            )


def _of_sample(card: Mapping[str, Any], potential: Potential) -> dict[str, list[Structure]]:
    """Head -> structures of the sample."""
    sets = [item for item in sample_of(card) if item.head in potential.heads.names]
    if not sets:
        raise InputError(
            "self_replay.structures is sample, but the card of this checkpoint has none; give the path of a structure file or store "
            "instead, or pretrain with sample_structures above 0"
        )
    found: dict[str, list[Structure]] = {}
    for item in sets:
        found.setdefault(item.head, []).extend(item.structures)
    return found


def _of_path(config: SelfReplayConfig, potential: Potential, console: Console) -> dict[str, list[Structure]]:
    """Head -> structures of the path whose elements it has references for."""
    structures = _read_structures(config.structures, config.max_structures)
    heads = [config.head] if config.head is not None else list(potential.head_names)
    found = {}
    for head in heads:
        known = set(np.flatnonzero(potential.heads[head].reference.known.cpu().numpy()).tolist()) & set(potential.backbone.elements)
        fitting = [s for s in structures if known.issuperset(s.atomic_numbers.tolist())]
        if len(fitting) < len(structures):
            n_out, what = len(structures) - len(fitting), f"structures have elements without a reference in head {head!r}"
            console.print(f"  self_replay: {n_out} of {len(structures)} {what}; left out there", highlight=False)
        if fitting:
            found[head] = fitting
    if not found:
        raise InputError(
            f"self_replay.structures={config.structures}: no structure has only elements that head {' or '.join(map(repr, heads))} has "
            "references for; give structures of the pretraining domain"
        )
    return found


def _read_structures(path: str, at_most: int) -> list[Structure]:
    if (Path(path) / "metadata.json").is_file() or path.rstrip("/").endswith(".unipot"):
        store = Store(path)
        return [replace(store[int(k)], labels={}, group="", fixed=None) for k in spread(len(store), at_most)]
    atoms = read_atoms(path, ":")
    return [replace(Structure.from_ase(atoms[k], id=f"{Path(path).stem}-{k}"), fixed=None) for k in spread(len(atoms), at_most)]


def _rattled(structures: Sequence[Structure], sigma: float, seed: int) -> list[Structure]:
    """The structures and, with `sigma` (Å) above 0, one displaced copy of each."""
    if sigma == 0:
        return list(structures)
    random = np.random.default_rng(seed)
    moved = [
        replace(s, positions=s.positions + sigma * random.normal(size=s.positions.shape), id=f"{s.id}{_COPY}") for s in structures
    ]
    return [*structures, *moved]


def _labels_of(head: str, card: Mapping[str, Any], structures: Sequence[Structure]) -> tuple[str, ...]:
    """Energy and forces, and stress where the head was trained on it and some structure is periodic along all axes."""
    sources = [item for key in ("datasets", "sample") for item in card.get(key, []) if item.get("head") == head]
    stress = any("stress" in item.get("labels", []) for item in sources) and any(s.pbc.all() for s in structures)
    return ("energy", "forces", "stress") if stress else ("energy", "forces")


def _labelled_store(
    potential: Potential, head: str, structures: Sequence[Structure], labels: tuple[str, ...], model: str, cache: Path, console: Console
) -> Store:
    """The store of `structures` with their predictions; made by the first process of a run unless it is there."""
    digest = hashlib.sha256(json.dumps([model, str(potential.dtype), head, labels]).encode())
    for structure in structures:
        digest.update(structure.input_bytes())
    name = f"self-{head}"
    path = cache / f"{name}-{digest.hexdigest()[:12]}.unipot"
    if not path.exists() and is_main_process():
        console.print(f"  {name}: {len(structures)} structures labelled with {', '.join(labels)} by head {head!r}", highlight=False)
        facts = {"labelled_by": {"sha256": model, "head": head}}
        cache.mkdir(parents=True, exist_ok=True)
        with StoreWriter(
            path,
            name=name,
            level_of_theory=potential.heads[head].level_of_theory,
            energy_kind=potential.heads[head].energy_kind,
            labels=labels,
            provenance=facts,
        ) as writer:
            writer.extend(label_structure(potential, structure, head, labels) for structure in structures)
    wait_for_store(path)
    return Store(path)
