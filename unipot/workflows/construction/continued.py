"""Pretraining that starts from a trained model: its backbone, and its heads where this run has datasets for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from unipot.data.statistics import elements_present
from unipot.errors import InputError
from unipot.finetune.alignment.new_elements import start_from_neighbors, trained_elements
from unipot.models.heads import Head, HeadBank
from unipot.models.potential import Potential
from unipot.structure import SYMBOLS
from unipot.workflows.construction.admitted_states import admit_states
from unipot.workflows.construction.model import HeadStatistics, dtype_named, fresh_head
from unipot.workflows.construction.repulsion_reach import admit_close_pairs
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.settings.schema import HeadsConfig
from unipot.zoo.artifact import load_potential


def continued_potential(
    path: str, heads: HeadsConfig, datasets: Sequence[OpenDataset], statistics: Sequence[HeadStatistics], dtype: str, console: Console
) -> Potential:
    """The backbone of a checkpoint with the heads of this run.

    A head of the checkpoint's with a name and level of theory of this run keeps its readout and scale and takes the
    references that this run fitted; other heads of the run start from random weights; heads without a dataset are left
    out, since the backbone moves away from under them. Elements that no head of the checkpoint knows start from their
    neighbours in the periodic table.

    Args:
        path: of the model artifact.
        heads: section `heads`.
        datasets: of the run.
        statistics: one per head of the run, in order.
        dtype: `float32` or `float64`.
        console: what is kept, new and left out is said here.

    Raises:
        FileNotFoundError, ArtifactError: see `unipot.zoo.artifact.load_artifact`.
        ValueError: a head of one name has another level of theory, kind of energy or shape in the checkpoint.
    """
    trained = load_potential(path, dtype=dtype_named(dtype))
    bank, kept = HeadBank(), []
    for item in statistics:
        head = fresh_head(item, trained.backbone, heads)
        if item.head in trained.heads.names:
            _take_readout(head, trained.heads[item.head], path)
            kept.append(item.head)
        bank.add(head)
    _say_heads(console, path, kept, [item.head for item in statistics if item.head not in kept], set(trained.heads.names) - set(kept))
    _start_new_elements(trained, datasets, console)
    admit_states(console, trained, datasets)
    admit_close_pairs(console, trained, datasets)
    return Potential(trained.backbone, bank, trained.core_repulsion).to(dtype_named(dtype)).train()


def _take_readout(head: Head, old: Head, path: str) -> None:
    """Weights and scale of `old` in `head`, and the elements it was trained on.

    Raises:
        ValueError: they are not heads of one kind.
    """
    for what in ("level_of_theory", "energy_kind", "n_hidden", "direct_forces"):
        mine, theirs = getattr(head, what), getattr(old, what)
        if mine != theirs:
            raise InputError(
                f"head {head.name!r} has {what} {theirs!r} in {path}, here {mine!r}; give the datasets of this run another head "
                "(datasets.<name>.head), or state the same"
            )
    weights = {name: value for name, value in old.state_dict().items() if name.split(".")[0] in ("readout", "force_readout", "scale")}
    head.load_state_dict(weights, strict=False)
    head.trained_elements = old.trained_elements


def _start_new_elements(potential: Potential, datasets: Sequence[OpenDataset], console: Console) -> None:
    """Rows of elements that no head of the checkpoint knows, from those of their neighbours."""
    known = trained_elements(potential)
    present = np.any([elements_present(d.store, d.train_indices) for d in datasets], axis=0)
    unseen = [int(z) for z in np.flatnonzero(present) if z not in known and z in potential.backbone.elements]
    stand_ins = start_from_neighbors(potential, unseen, known)
    if not stand_ins:
        return
    listed = "; ".join(f"{SYMBOLS[z]} from {stand_in.in_words()}" for z, stand_in in stand_ins.items())
    console.print(f"  elements new to the checkpoint: {listed}", highlight=False)


def _say_heads(console: Console, path: str, kept: Sequence[str], new: Sequence[str], left_out: set[str]) -> None:
    console.print(
        f"  start_from {path}: its backbone; heads kept: {', '.join(kept) or 'none'}; new: {', '.join(new) or 'none'}", highlight=False
    )
    if left_out:
        console.print(f"  its heads without a dataset in this run are left out: {', '.join(sorted(left_out))}", highlight=False)
