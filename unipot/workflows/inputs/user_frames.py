"""From the one path a user gives to stores, split and ready: nothing is needed, everything assumed is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from unipot.batch import AtomBatch
from unipot.data.label_use import refuse_void_stress
from unipot.data.mixture.datamodule import evaluation_batches
from unipot.data.quality.duplicate_report import duplicates_of
from unipot.data.spec import DatasetSpec, allowed_name
from unipot.data.store import Store, open_dataset
from unipot.errors import InputError
from unipot.finetune.search.hold_out import choose_frames, hold_out
from unipot.models.potential import Potential
from unipot.properties import PROPERTIES
from unipot.training.losses import without_zero_weights
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.scalar_frames import scalars_of_config, store_with_scalars
from unipot.workflows.settings.schema import DatasetConfig, MixtureConfig, UserDataConfig

#: file names that say nothing about the data; the folder's name is used instead
_NAMELESS = ("train", "training", "data", "frames", "test", "val", "validation", "all", "dataset")

#: frames that are compared with each other
_MOST_COMPARED = 5000


@dataclass(frozen=True, kw_only=True)
class UserFrames:
    """The user's frames.

    Attributes:
        dataset: the frames used, split.
        test: store of test frames, or None.
        n_frames: used for training and for choosing the best weights.
        further: other sets of the user's own, each with a head of its own (`unipot.workflows.finetuning.further_sets`).
    """

    dataset: OpenDataset
    test: Store | None
    n_frames: int
    further: tuple[UserFrames, ...] = ()


def open_user_frames(path: str, options: UserDataConfig, *, head: str | None, seed: int, cache: Path, console: Console) -> UserFrames:
    """Open, convert and split the user's frames.

    Args:
        path: a structure file, or a prepared store.
        options: how to read and split them.
        head: name for the new head; None derives it from the dataset's name.
        seed: of the choice of `n_train` frames and of the split.
        cache: folder for stores made from files.
        console: what is assumed is said here.

    Raises:
        FileNotFoundError: a path is not there.
        ValueError: there are no usable frames, a label is absent, or the sets differ in level of theory.
    """
    name = options.name or name_of(path)
    store = open_frames(path, options, name=name, cache=cache, console=console)
    level, kind = store.level_of_theory, store.energy_kind
    labels = tuple(store.labels if options.labels is None else options.labels)
    spec = DatasetSpec(
        name=name,
        path=str(store.path),
        level_of_theory=level,
        energy_kind=kind,
        labels=labels,
        scalars=tuple(options.properties),
        head=head or "",
    )
    open_dataset(spec)  # labels that were asked for must be there
    usable = without_repeats(store, name, console)
    chosen = usable[choose_frames(len(usable), options.n_train, seed)]
    if len(chosen) < len(usable):
        console.print(f"  {name}: {len(chosen)} of {len(usable)} frames, drawn with seed {seed}", highlight=False)
    if options.validation_data is not None:
        held_store = open_frames(
            options.validation_data, options, name=f"{name}-validation", cache=cache, console=console, level=level, kind=kind
        )
        train, held = chosen, np.arange(len(held_store))
        sentence = f"{len(train)} frames are trained on, {len(held)} of {options.validation_data} choose the best weights"
    else:
        held_store = store
        elements = [frozenset(store[int(i)].atomic_numbers.tolist()) for i in chosen]
        inner, outer, sentence = hold_out(store.groups[chosen], elements, options.validation_fraction, seed)
        train, held = chosen[inner], chosen[outer]
    console.print(f"  {name}: {sentence}", highlight=False)
    test = None
    if options.test_data is not None:
        test = open_frames(options.test_data, options, name=f"{name}-test", cache=cache, console=console, level=level, kind=kind)
        console.print(f"  {name}: {len(test)} test frames, never trained on nor used to choose", highlight=False)
    dataset = OpenDataset(spec=spec, store=store, train_indices=train, validation_store=held_store, validation_indices=held)
    return UserFrames(dataset=dataset, test=test, n_frames=len(chosen))


def without_repeats(store: Store, name: str, console: Console) -> np.ndarray:
    """Positions of the frames that do not repeat an earlier one, which is said; sets too large to be a user's few stay as they are.

    A frame repeats another when it has the same geometry, charge, spin and kinds of label.
    """
    if not 1 < len(store) <= _MOST_COMPARED:
        return np.arange(len(store))
    clusters, summary = duplicates_of([store])
    repeats = set()
    for cluster in clusters:
        seen = set()
        for k in cluster.tolist():
            frame = store[k]
            what = (frame.total_charge, frame.spin_multiplicity, *sorted(frame.labels))
            if what in seen:
                repeats.add(k)
            seen.add(what)
    if repeats:
        words = f"{len(repeats)} of {len(store)} frames repeat the geometry of another and are left out"
        console.print(f"  {name}: {words}; {len(store) - len(repeats)} are different", highlight=False)
    for contradiction in summary.contradictions:
        console.print(f"  {name}: same geometry, other energy: {contradiction}", highlight=False, markup=False, style="yellow")
    return np.array([k for k in range(len(store)) if k not in repeats])


def open_frames(
    path: str, options: UserDataConfig, *, name: str, cache: Path, console: Console, level: str | None = None, kind: str | None = None
) -> Store:
    """The store of one of the user's files.

    Args:
        path: a structure file or a store.
        options: how to read a file.
        name: of the dataset.
        cache: folder for a store made from a file.
        console: what is assumed is said here.
        level: level of theory that it must have, None if anything goes.
        kind: kind of energy that it must have, None if anything goes.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it cannot be read, has another level of theory or kind of energy, or stress is named and none of it counts.
    """
    wanted = options.level_of_theory or level
    config = DatasetConfig(
        path=path,
        level_of_theory=wanted or f"as in {name}",
        energy_kind=options.energy_kind or kind,
        labels=list(options.labels or ["energy"]),
        format=options.format,
        group_key=options.group_key,
        id_key=options.id_key,
        columns=dict(options.columns),
        sources=dict(options.sources),
        keep_unconverged=options.keep_unconverged,
        check_labels=options.check_labels,
    )
    properties = scalars_of_config(options.properties)
    store = Store(store_with_scalars(path, config, properties, labels=options.labels, name=name, cache=cache, console=console))
    if wanted is not None and store.level_of_theory != wanted:
        raise InputError(
            f"{path} was prepared with level of theory {store.level_of_theory!r}, expected {wanted!r}; "
            "frames of different levels never share a head"
        )
    refuse_void_stress(store, options.labels or (), path)
    wanted_kind = options.energy_kind or kind
    if wanted_kind not in (None, store.energy_kind):
        raise InputError(
            f"{path} was prepared with {store.energy_kind} energies, expected {wanted_kind} ones; "
            "energies of different kinds are not compared"
        )
    return store


def stated_units(options: UserDataConfig) -> dict[str, str] | None:
    """Property -> unit that the user gave, or that of ASE; None where labels shall not be checked.

    A store holds canonical units, which are those of ASE.
    """
    if not options.check_labels:
        return None
    stated = {name: label.unit for name, label in options.sources.items() if not label.virial}  # a virial's unit is one of energy
    return {name: stated.get(name, p.unit) for name, p in PROPERTIES.items() if p.predicted}


def stated_order(options: UserDataConfig) -> str:
    """The order that six stress numbers of the user's file are in, ASE's where nothing is said."""
    return options.sources["stress"].order if "stress" in options.sources else "voigt"


def counted_batches(
    potential: Potential, store: Store, indices: Sequence[int] | np.ndarray | None, head: str, mixture: MixtureConfig
) -> list[AtomBatch]:
    """`frames_batches` in a list, without labels of weight zero: for what is solved in closed form, or calibrated."""
    return [without_zero_weights(batch) for batch in frames_batches(potential, store, indices, head, mixture)]


def frames_batches(
    potential: Potential, store: Store, indices: Sequence[int] | np.ndarray | None, head: str, mixture: MixtureConfig
) -> Iterator[AtomBatch]:
    """Evaluation batches of `store` through `head`, in the packing of validation."""
    return evaluation_batches(
        store,
        indices,
        cutoff=potential.cutoff,
        head_index=potential.heads.index(head),
        max_atoms=mixture.max_atoms,
        max_edges=mixture.max_edges,
        dtype=potential.dtype,
    )


def budget_for(stores: Sequence[Store], mixture: MixtureConfig, cutoff: float, console: Console) -> MixtureConfig:
    """`mixture` with budgets that hold the largest structure: a user's own frames are not refused for their size.

    Raises:
        ValueError: a budget is below 1.
    """
    for name in ("max_atoms", "max_edges"):
        if getattr(mixture, name) < 1:
            raise InputError(f"{name} is {getattr(mixture, name)}; it must be at least 1")
    needed = {"max_atoms": max(int(s.n_atoms.max()) for s in stores), "max_edges": max(int(s.n_edges(cutoff).max()) for s in stores)}
    raised = {name: value for name, value in needed.items() if value > getattr(mixture, name)}
    for name, value in raised.items():
        console.print(f"  {name} raised from {getattr(mixture, name)} to {value} for the largest structure", highlight=False)
    return replace(mixture, **raised)


def name_of(path: str) -> str:
    """A dataset name from a path: the file's stem, or the folder's name where the stem says nothing."""
    file = Path(path.rstrip("/"))
    stem = file.name.removesuffix(".unipot").partition(".")[0]
    if stem.lower() in _NAMELESS and file.absolute().parent.name:
        stem = file.absolute().parent.name
    return allowed_name(stem) or "frames"
