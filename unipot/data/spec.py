"""`DatasetSpec` and `MixtureSpec`: what is trained on, in which proportions and under which budgets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from unipot.properties import property_named

_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HEAD_NAME = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One dataset of a mixture.

    Attributes:
        name: letters, digits, `_`, `-`, `.`; used in tables, logs and metrics.
        path: the store, a folder `<name>.unipot`.
        level_of_theory: must equal the one recorded in the store; all datasets of one head share it.
        labels: properties the run relies on; the run refuses to start when the store has none of one of them.
        head: head that evaluates this dataset; "" takes the name, lower case, with `_` and `.` turned into `-`.
        weight: relative share of draws; None leaves it to `MixtureSpec.temperature`. All datasets or none.
        validation_path: store to validate on; None holds out `validation_fraction` of `path`, by group.
        validation_fraction: 0 to 1, used when `validation_path` is None.
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
    labels: tuple[str, ...] = ("energy", "forces")
    head: str = ""
    weight: float | None = None
    validation_path: str | None = None
    validation_fraction: float = 0.1
    test_path: str | None = None

    def __post_init__(self) -> None:
        check_dataset_name(self.name)
        object.__setattr__(self, "head", self.head or head_name_for(self.name))
        object.__setattr__(self, "labels", tuple(self.labels))
        if not _HEAD_NAME.fullmatch(self.head):
            raise ValueError(f"dataset {self.name!r}: head {self.head!r} is not allowed; use lower-case letters, digits and '-'")
        for label in self.labels:
            try:
                property_named(label)
            except KeyError as error:
                raise ValueError(f"dataset {self.name!r}: {error.args[0]}") from error
        if not self.labels:
            raise ValueError(f"dataset {self.name!r}: labels is empty; name at least one property to train on, such as energy")
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"dataset {self.name!r}: weight is {self.weight}; give a positive number, or leave the dataset out")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"dataset {self.name!r}: validation_fraction is {self.validation_fraction}; it must be in [0, 1)")
        if not self.level_of_theory:
            raise ValueError(f"dataset {self.name!r}: level_of_theory is empty; state it, for example 'PBE/520eV'")


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """How datasets share the optimizer steps, and how much one micro-batch may hold.

    Attributes:
        structures_per_step: structures in one optimizer step, over all ranks.
        max_atoms: atoms in one micro-batch, at most.
        max_edges: edges (pairs within the cutoff, both directions) in one micro-batch, at most.
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
    micro_batches_per_step: int = 1
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("structures_per_step", "max_atoms", "max_edges", "micro_batches_per_step"):
            value = getattr(self, name)
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise ValueError(f"mixture: {name} is {value}; it must be a whole number of at least 1")
        if self.structures_per_step < self.micro_batches_per_step:
            raise ValueError(
                f"mixture: structures_per_step is {self.structures_per_step} but micro_batches_per_step is "
                f"{self.micro_batches_per_step}; every micro-batch needs at least one structure, so lower the latter"
            )
        if not self.temperature >= 1:
            raise ValueError(f"mixture: temperature is {self.temperature}; it must be at least 1 (1 draws in proportion to size)")


def check_dataset_name(name: str) -> None:
    """Refuse names that cannot be folder, metric and log names.

    Raises:
        ValueError: the name has other characters than letters, digits, `_`, `-`, `.`.
    """
    if not _DATASET_NAME.fullmatch(name):
        raise ValueError(f"dataset name {name!r} is not allowed; use letters, digits, '_', '-' and '.', beginning with a letter or digit")


def head_name_for(dataset_name: str) -> str:
    """The head a dataset uses unless its spec names one: lower case, `_` and `.` turned into `-`."""
    return dataset_name.lower().replace("_", "-").replace(".", "-")


def levels_of_heads(specs: tuple[DatasetSpec, ...] | list[DatasetSpec]) -> dict[str, str]:
    """Head name -> level of theory, in order of first appearance.

    Raises:
        ValueError: two datasets have one name, or datasets of one head differ in level of theory.
    """
    levels: dict[str, str] = {}
    first: dict[str, str] = {}
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ValueError(f"dataset name {spec.name!r} appears twice in the mixture; give each dataset its own name")
        seen.add(spec.name)
        if levels.setdefault(spec.head, spec.level_of_theory) != spec.level_of_theory:
            raise ValueError(
                f"head {spec.head!r} mixes levels of theory: dataset {first[spec.head]!r} is {levels[spec.head]!r}, dataset "
                f"{spec.name!r} is {spec.level_of_theory!r}; give {spec.name!r} a head of its own"
            )
        first.setdefault(spec.head, spec.name)
    return levels
