"""`DatasetSpec` and `MixtureSpec`: what is trained on, in which proportions and under which budgets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.data.mixture.permutation import mix64
from unipot.errors import InputError
from unipot.properties import check_energy_kind, property_named
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS

_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HEAD_NAME = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One dataset of a mixture.

    Attributes:
        name: letters, digits, `_`, `-`, `.`; used in tables, logs and metrics.
        path: the store, a folder `<name>.unipot`.
        level_of_theory: must equal the one recorded in the store; all datasets of one head share it.
        energy_kind: total, adsorption, formation or difference; must equal the one recorded in the store, None takes that one. All
            datasets of one head share it.
        labels: properties the run relies on; the run refuses to start when the store has none of one of them.
        scalars: scalar properties the run relies on, likewise; with one of them `labels` may be empty.
        head: head that evaluates this dataset; "" takes the name, lower case, with `_` and `.` turned into `-`.
        weight: relative share of draws; None leaves it to `MixtureSpec.temperature`. All datasets or none.
        validation_path: store to validate on; None holds out a part of `path`, see `unipot.data.spec.SplitSpec`.
        validation_fraction: 0 to 1, used when `validation_path` is None.
        split_by: group, composition, elements or structure, likewise.
        held_out_elements: symbols, for a split by elements.
        test_path: store for the final evaluation.

    Raises:
        ValueError: a name, label, weight or fraction is outside what is allowed.

    Example:
        >>> DatasetSpec(name="oxides_pbe", path="oxides_pbe.unipot", level_of_theory="PBE", labels=("energy",)).head
        'oxides-pbe'
    """

    name: str
    path: str
    level_of_theory: str
    energy_kind: str | None = None
    labels: tuple[str, ...] = ("energy", "forces")
    scalars: tuple[str, ...] = ()
    head: str = ""
    weight: float | None = None
    validation_path: str | None = None
    validation_fraction: float = 0.1
    split_by: str = "group"
    held_out_elements: tuple[str, ...] = ()
    test_path: str | None = None

    def __post_init__(self) -> None:
        check_dataset_name(self.name)
        object.__setattr__(self, "head", self.head or head_name_for(self.name))
        object.__setattr__(self, "labels", tuple(self.labels))
        if not _HEAD_NAME.fullmatch(self.head):
            raise InputError(f"dataset {self.name!r}: head {self.head!r} is not allowed; use lower-case letters, digits and '-'")
        for label in self.labels:
            try:
                property_named(label)
            except KeyError as error:
                raise InputError(f"dataset {self.name!r}: {error.args[0]}") from error
        if not self.labels and not self.scalars:
            raise InputError(f"dataset {self.name!r}: labels is empty; name at least one property to train on, such as energy")
        if self.weight is not None and not self.weight > 0:
            raise InputError(f"dataset {self.name!r}: weight is {self.weight}; give a positive number, or leave the dataset out")
        if not 0 <= self.validation_fraction < 1:
            raise InputError(f"dataset {self.name!r}: validation_fraction is {self.validation_fraction}; it must be in [0, 1)")
        try:
            self.split(seed=0)
        except ValueError as error:
            raise InputError(f"dataset {self.name!r}: {error}") from error
        if not self.level_of_theory:
            raise InputError(f"dataset {self.name!r}: level_of_theory is empty; state it, for example 'PBE/520eV'")
        if self.energy_kind is not None:
            check_energy_kind(self.energy_kind, f"dataset {self.name!r}")

    def split(self, seed: int) -> SplitSpec:
        """What is held out of `path`."""
        return SplitSpec(by=self.split_by, fraction=self.validation_fraction, seed=seed, elements=tuple(self.held_out_elements))


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """How datasets share the optimizer steps, and how much one micro-batch may hold.

    Attributes:
        structures_per_step: structures in one optimizer step, over all ranks.
        max_atoms: atoms in one micro-batch, at most.
        max_edges: edges (pairs within the cutoff, both directions) in one micro-batch, at most.
        max_cost: predicted cost of one micro-batch (edges + 10 × atoms), at most; None for no limit.
        micro_batches_per_step: micro-batches of one step over all ranks; a step whose structures do not fit takes
            the next multiple of it. The number of ranks must divide it.
        temperature: T ≥ 1; dataset d of n_d structures is drawn with share ∝ n_d^(1/T).
        seed: of the order and of the phases of the shares.

    Raises:
        ValueError: a number is outside what is allowed.
    """

    structures_per_step: int
    max_atoms: int
    max_edges: int
    max_cost: float | None = None
    micro_batches_per_step: int = 1
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("structures_per_step", "max_atoms", "max_edges", "micro_batches_per_step"):
            value = getattr(self, name)
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise InputError(f"mixture: {name} is {value}; it must be a whole number of at least 1")
        if self.structures_per_step < self.micro_batches_per_step:
            raise InputError(
                f"mixture: structures_per_step is {self.structures_per_step} but micro_batches_per_step is "
                f"{self.micro_batches_per_step}; every micro-batch needs at least one structure, so lower the latter"
            )
        if self.max_cost is not None and not self.max_cost > 0:
            raise InputError(f"mixture: max_cost is {self.max_cost}; it must be positive, or null for no limit")
        if not self.temperature >= 1:
            raise InputError(f"mixture: temperature is {self.temperature}; it must be at least 1 (1 draws in proportion to size)")


def check_dataset_name(name: str) -> None:
    """Refuse names that cannot be folder, metric and log names.

    Raises:
        ValueError: the name has other characters than letters, digits, `_`, `-`, `.`.
    """
    if not _DATASET_NAME.fullmatch(name):
        raise InputError(f"dataset name {name!r} is not allowed; use letters, digits, '_', '-' and '.', beginning with a letter or digit")


def allowed_name(text: str) -> str:
    """`text` with a `-` for everything that a dataset's name must not have; "" where nothing is left.

    Example:
        >>> allowed_name("my frames @300K")
        'my-frames-300K'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")


def head_name_for(dataset_name: str) -> str:
    """The head a dataset uses unless its spec names one: lower case, `_` and `.` turned into `-`."""
    return dataset_name.lower().replace("_", "-").replace(".", "-")


def free_head_name(dataset_name: str, taken: Container[str]) -> str:
    """A head for a dataset that is not `taken`: `head_name_for`, with a number where that is.

    Example:
        >>> free_head_name("My_Water", ["my-water"])
        'my-water-2'
    """
    return free_name(re.sub(r"-+", "-", head_name_for(dataset_name)).strip("-"), taken)


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or `name-2`, `name-3` and so on where it is `taken`."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def levels_of_heads(specs: Sequence[DatasetSpec]) -> dict[str, str]:
    """Head name -> level of theory, in order of first appearance.

    Raises:
        ValueError: two datasets have one name, or datasets of one head differ in level of theory.
    """
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise InputError(f"dataset name {spec.name!r} appears twice in the mixture; give each dataset its own name")
        seen.add(spec.name)
    return _one_per_head(specs, "level_of_theory", "levels of theory")


def energy_kinds_of_heads(specs: Sequence[DatasetSpec]) -> dict[str, str | None]:
    """Head name -> kind of energy, in order of first appearance; of opened datasets, whose specs all have one.

    Raises:
        ValueError: datasets of one head differ in kind.
    """
    return _one_per_head(specs, "energy_kind", "kinds of energy")


def _one_per_head(specs: Sequence[DatasetSpec], attribute: str, what: str) -> dict[str, Any]:
    first: dict[str, DatasetSpec] = {}
    for spec in specs:
        other = first.setdefault(spec.head, spec)
        mine, theirs = getattr(spec, attribute), getattr(other, attribute)
        if mine != theirs:
            raise InputError(
                f"head {spec.head!r} mixes {what}: dataset {other.name!r} is {theirs!r}, dataset {spec.name!r} is {mine!r}; "
                f"give {spec.name!r} a head of its own"
            )
    return {head: getattr(spec, attribute) for head, spec in first.items()}

#: what decides together -> (column of the store, text that goes into the hash besides the seed)
SPLIT_COLUMNS = {"group": ("group", "split"), "composition": ("formula", "split/composition"), "structure": ("id_hash", "split/structure")}

SPLITS_BY = (*SPLIT_COLUMNS, "elements")


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """What is held out.

    Attributes:
        by: group (material or trajectory): structures of one group stay together; a structure without one is its own.
            composition: structures of one reduced formula stay together. elements: every structure that contains one of
            `elements` is held out, or one of a fraction of the periodic table. structure: each on its own, by its id.
        fraction: of groups, compositions, elements 1 to 118 or structures to hold out, in [0, 1); 0 holds out none.
        seed: another seed, another split.
        elements: symbols, for `by="elements"` only; `fraction` is not used then.

    Raises:
        ValueError: a value is outside what is allowed, or an element is unknown.

    Example:
        >>> SplitSpec(by="elements", elements=("Pt", "Au")).held_out_numbers()
        (78, 79)
    """

    by: str = "group"
    fraction: float = 0.1
    seed: int = 0
    elements: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))
        if self.by not in SPLITS_BY:
            raise InputError(f"split by {self.by!r} is not known; it is one of: {', '.join(SPLITS_BY)}")
        if not 0 <= self.fraction < 1:
            raise InputError(f"validation fraction is {self.fraction}; it must be in [0, 1)")
        if self.elements and self.by != "elements":
            raise InputError(
                f"held-out elements {', '.join(self.elements)} are given but the split is by {self.by!r}; split by 'elements', or give none"
            )
        for symbol in self.elements:
            if symbol not in SYMBOLS[1:]:
                raise InputError(f"held-out element {symbol!r} is not known; write chemical symbols such as 'Pt'")

    def held_out_numbers(self) -> tuple[int, ...]:
        """Atomic numbers that are held out, ascending; for `by="elements"`."""
        if self.elements:
            return tuple(sorted({SYMBOLS.index(symbol) for symbol in self.elements}))
        hashes = keyed_hashes(np.arange(MAX_ATOMIC_NUMBER + 1, dtype=np.uint64), f"split/elements/{self.seed}")
        return tuple(z for z in range(1, MAX_ATOMIC_NUMBER + 1) if hashes[z] < hash_threshold(self.fraction))


def keyed_hashes(values: np.ndarray, text: str) -> np.ndarray:
    key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8).digest(), dtype="<u8").astype(np.uint64)
    return mix64(values ^ key)


def hash_threshold(fraction: float) -> np.uint64:
    return np.uint64(int(fraction * 2**64))
