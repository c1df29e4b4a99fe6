"""The property table: one place that settles name, shape, unit and sign of every label and prediction.

Energy, forces and stress are rows of a fixed table. What else a user's structures carry, one number each, is a `ScalarProperty`.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from unipot.errors import InputError, UnknownName
from unipot.units import ENERGY_UNITS, FORCE_UNITS, STRESS_UNITS


@dataclass(frozen=True, kw_only=True)
class Property:
    """One physical quantity that a structure may carry as a label.

    Attributes:
        name: key in `Structure.labels`, `AtomBatch.labels` and `Predictions`.
        per: `structure` (one value per structure) or `atom` (one row per atom).
        shape: shape behind the structure or atom dimension.
        unit: canonical unit.
        units: units a reader accepts, with the factor into the canonical one.
        sign: the convention, in words.
        predicted: whether a potential predicts it; else it only weighs the others in the loss.
    """

    name: str
    per: Literal["structure", "atom"]
    shape: tuple[int, ...]
    unit: str
    units: dict[str, float]
    sign: str
    predicted: bool = True

    def label_shape(self, n_atoms: int) -> tuple[int, ...]:
        """Shape of the label of one structure with `n_atoms` atoms."""
        return self.shape if self.per == "structure" else (n_atoms, *self.shape)


PROPERTIES: dict[str, Property] = {
    p.name: p
    for p in (
        Property(
            name="energy",
            per="structure",
            shape=(),
            unit="eV",
            units=ENERGY_UNITS,
            sign="total potential energy of the structure, negative when bound relative to its references",
        ),
        Property(
            name="forces",
            per="atom",
            shape=(3,),
            unit="eV/A",
            units=FORCE_UNITS,
            sign="-dE/dR",
        ),
        Property(
            name="stress",
            per="structure",
            shape=(3, 3),
            unit="eV/A^3",
            units=STRESS_UNITS,
            sign="(1/V) dE/d(strain), positive under tension, as in ASE",
        ),
        Property(
            name="weight",
            per="structure",
            shape=(),
            unit="1",
            units={"1": 1.0},
            sign="factor on every residual of the structure in the loss, not negative; 1 where it is absent",
            predicted=False,
        ),
        Property(
            name="atom_weights",
            per="atom",
            shape=(),
            unit="1",
            units={"1": 1.0},
            sign="factor on the residual of each atom's force in the loss, not negative; 1 where it is absent",
            predicted=False,
        ),
    )
}


def property_named(name: str) -> Property:
    """The table row called `name`.

    Raises:
        KeyError: no such property.
    """
    if name not in PROPERTIES:
        raise UnknownName(f"property {name!r} is not known; known are: {', '.join(PROPERTIES)}")
    return PROPERTIES[name]


#: the kind of energy that one level of theory less another has
DIFFERENCE_KIND = "difference"
#: what an energy of zero means; energies of different kinds are never compared and never share a head
ENERGY_KINDS: dict[str, str] = {
    "total": "of all atoms of the structure, as the calculation gives it; its zero belongs to the level of theory",
    "adsorption": "of slab with adsorbate minus clean slab minus adsorbate references",
    "formation": "minus reference energies of the elements in it, such as their bulk phases or free atoms",
    DIFFERENCE_KIND: "of one level of theory minus that of another, forces and stress likewise",
}


def check_energy_kind(kind: str, where: str) -> str:
    """`kind`, if it is one of `ENERGY_KINDS`.

    Args:
        kind: to be checked.
        where: begins the message, for example `dataset 'oc20'`.

    Raises:
        ValueError: it is not.
    """
    if kind not in ENERGY_KINDS:
        raise InputError(f"{where}: energy_kind is {kind!r}; use one of: {', '.join(ENERGY_KINDS)}")
    return kind


KINDS_OF_SCALAR: dict[str, str] = {
    "intensive": "does not grow with the structure, such as a band gap or the lowest adsorption energy of a pair of slab and molecule",
    "extensive": "a sum over atoms, such as a charge, a volume or a heat capacity",
}
#: letters, digits and single underscores, as in `band_gap`; a name becomes a metric, an option and a key of calculator results
_SCALAR_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_TAKEN = (*PROPERTIES, "energies", "free_energy", "stresses", "dipole", "energy_per_atom", "energy_and_forces", "auto", "balanced")


@dataclass(frozen=True, kw_only=True)
class ScalarProperty:
    """One number per structure that is not an energy: what a property head predicts.

    Attributes:
        name: lower-case letters, digits and single underscores; key in `AtomBatch.labels` and of calculator results.
        key: info key or column of the source that holds it.
        unit: free text, kept and shown; numbers are never converted.
        kind: `intensive` or `extensive`, see `KINDS_OF_SCALAR`.
        threshold: largest error that counts as a success, in `unit`; None where success is not asked about.

    Raises:
        ValueError: the name is malformed or taken, the key or unit is empty, the kind is unknown, or the threshold is not positive.

    Example:
        >>> ScalarProperty(name="gap", key="band_gap", unit="eV", kind="intensive", threshold=0.1).name
        'gap'
    """

    name: str
    key: str
    unit: str
    kind: str = "intensive"
    threshold: float | None = None

    def __post_init__(self) -> None:
        where = f"properties.{self.name}"
        if self.name in _TAKEN or self.name.endswith("_uncertainty"):
            raise InputError(f"{where}: this name is taken by unipot itself or by ASE; choose another one, such as my_{self.name}")
        if not _SCALAR_NAME.fullmatch(self.name):
            raise InputError(f"{where}: this name is not allowed; use lower-case letters, digits and single underscores, as in band_gap")
        if not self.key or not self.unit:
            raise InputError(f"{where}.{'unit' if self.key else 'key'} is empty; state it (a pure number has unit 1)")
        if self.kind not in KINDS_OF_SCALAR:
            raise InputError(f"{where}.kind is {self.kind!r}; use one of: {', '.join(KINDS_OF_SCALAR)}")
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold > 0):
            raise InputError(f"{where}.threshold is {self.threshold}; it must be positive ({self.unit}), or null for no success rate")
