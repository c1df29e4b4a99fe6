"""The property table: one place that settles name, shape, unit and sign of every label and prediction."""

from dataclasses import dataclass
from typing import Literal

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
        raise KeyError(f"property {name!r} is not known; known are: {', '.join(PROPERTIES)}")
    return PROPERTIES[name]


#: what an energy of zero means; energies of different kinds are never compared and never share a head
ENERGY_KINDS: dict[str, str] = {
    "total": "of all atoms of the structure, as the calculation gives it; its zero belongs to the level of theory",
    "adsorption": "of slab with adsorbate minus clean slab minus adsorbate references",
    "formation": "minus reference energies of the elements in it, such as their bulk phases or free atoms",
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
        raise ValueError(f"{where}: energy_kind is {kind!r}; use one of: {', '.join(ENERGY_KINDS)}")
    return kind
