"""`LabelSource`: where a label is found, in which unit, sign and order; and what a reader skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unipot.errors import InputError
from unipot.properties import Property, property_named
from unipot.units import unit_factor, voigt_to_matrix

#: sign names of stress and virial: does the number grow when the cell is under tension?
STRESS_SIGNS = {"tension": 1.0, "compression": -1.0}
#: the order of six stress numbers, as programs write them; the first is ASE's, and what is assumed
STRESS_ORDERS = {"voigt": "xx yy zz yz xz xy", "vasp": "xx yy zz xy yz xz", "lammps": "xx yy zz xy xz yz"}
_VOIGT = STRESS_ORDERS["voigt"].split()
#: the label key that stands for "what the frame's own calculator results hold under the property's name"
CALCULATOR = "calculator"
#: reason in the quarantine of frames whose electrons did not converge
UNCONVERGED = "unconverged"


@dataclass(frozen=True)
class LabelSource:
    """Where one property is found in the source, and what its numbers mean.

    Attributes:
        key: info key, array or column in the source; `calculator` for the frame's own calculator results.
        unit: unit of the numbers, see `unipot.properties`; for a virial the unit of energy.
        sign: stress only: `tension` when a cell under tension has positive stress (ASE), `compression` when a
            compressed cell has (most codes' pressure-like output). Energy and forces take `positive`.
        virial: the numbers are a virial tensor in units of energy; stress is −virial/V when `sign` is
            `compression` (the usual virial, −dE/dε) and +virial/V when it is `tension` (dE/dε).
        order: stress only: what six numbers stand for, a name of `STRESS_ORDERS` or the six components in words, such as
            `xx yy zz xy yz zx`. Nine numbers are a matrix, and have no order.

    Raises:
        ValueError: unit, sign or order is missing or unknown.

    Example:
        >>> LabelSource(key="REF_stress", unit="GPa", sign="compression").factor("stress") < 0
        True
    """

    key: str
    unit: str
    sign: str = "positive"
    virial: bool = False
    order: str = "voigt"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; an order that is not stated is left out, so that stores made before there was one are found again."""
        content = asdict(self)
        if self.order == "voigt":
            del content["order"]
        return content

    def factor(self, property_name: str) -> float:
        """Factor, sign included, that turns a number of the source into the canonical unit (for a virial, before 1/V).

        Raises:
            ValueError: the unit or the sign is not one that the property has.
        """
        prop = property_named(property_name)
        if not self.unit:
            raise InputError(f"labels.{prop.name}.unit is not stated for key {self.key!r}; state one of: {', '.join(self._units(prop))}")
        factor = unit_factor(self.unit, self._units(prop), f"labels.{prop.name} (key {self.key!r})")
        if prop.name != "stress":
            if self.sign != "positive" or self.virial or self.order != "voigt":
                what = "virial" if self.virial else f"order {self.order!r}" if self.sign == "positive" else f"sign {self.sign!r}"
                raise InputError(f"labels.{prop.name}: {what} is for stress only; leave it out ({prop.sign})")
            return factor
        if self.sign not in STRESS_SIGNS:
            raise InputError(
                f"labels.stress.sign is {self.sign!r} for key {self.key!r}; state 'tension' (positive when the cell is stretched, as in "
                "ASE) or 'compression' (positive when it is compressed)"
            )
        voigt_places(self.order)
        return factor * STRESS_SIGNS[self.sign]

    def _units(self, prop: Property) -> dict[str, float]:
        return property_named("energy").units if self.virial else prop.units


#: what an ASE calculator hands over, in ASE's own units and sign
ASE_LABELS = {
    "energy": LabelSource(key="energy", unit="eV"),
    "forces": LabelSource(key="forces", unit="eV/A"),
    "stress": LabelSource(key="stress", unit="eV/A^3", sign="tension"),
}
#: where weights are found when they are asked for; never assumed, since other programs mean other things by these names
WEIGHTS = {
    "weight": LabelSource(key="weight", unit="1"),
    "atom_weights": LabelSource(key="atom_weights", unit="1"),
}


@dataclass(frozen=True)
class SkippedItem:
    """An item of a source that was not used.

    Attributes:
        where: file and position, or id.
        reason: why, in words that are the same for every item with the same defect.
        invalid: the item is broken (a number is not finite, a cell is missing), not only without the wanted labels;
            `unipot prepare` stops at such an item unless it is told to skip it.
        quarantine: reason under which an item that is not broken is listed in the quarantine; "" lists it nowhere.
    """

    where: str
    reason: str
    invalid: bool = True
    quarantine: str = ""


def convert_label(property_name: str, source: LabelSource, value: Any, n_atoms: int, volume: float) -> np.ndarray:
    """`value` as the source gives it, in canonical unit, sign and shape.

    Args:
        property_name: row of `unipot.properties`.
        source: unit and sign of `value`.
        value: number(s); a stress may be 3×3, 9 flat or 6 in the order of `source`.
        n_atoms: of the structure.
        volume: Å³, needed for a virial.

    Returns:
        float64 array of the property's shape.

    Raises:
        ValueError: the shape is wrong, a stress tensor is not symmetric, or a virial comes without a cell.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{property_name} (key {source.key!r}) is not numeric") from error
    if property_name == "stress":
        array = _stress_matrix(array, source)
    shape = property_named(property_name).label_shape(n_atoms)
    # by shape, not by size: (3, n_atoms) forces would come out scrambled
    if array.shape not in (shape, (int(np.prod(shape)),)):
        raise InputError(f"{property_name} (key {source.key!r}) has shape {array.shape}, expected {shape}")
    array = array.reshape(shape) * source.factor(property_name)
    if source.virial:
        if not volume > 0:
            raise InputError(f"{property_name} (key {source.key!r}) is a virial but the structure has no cell volume")
        array = array / volume
    return array


def without_void_stress(
    values: Mapping[str, Any], sources: Mapping[str, LabelSource], pbc: np.ndarray, volume: float
) -> dict[str, Any]:
    """`values` without a stress where there can be none, which then is a missing label and no defect.

    A molecule, chain or slab has no volume that a stress could refer to. Programs write NaN for it, or a virial of zeros without a cell.

    Args:
        values: property name -> number(s) as the source gives them.
        sources: property name -> unit and sign.
        pbc: (3,) bool.
        volume: Å³; 0 without a cell.
    """
    if "stress" not in values or np.asarray(pbc).all():
        return dict(values)
    try:
        numbers = np.asarray(values["stress"], dtype=np.float64)
        void = not np.isfinite(numbers).all() or (sources["stress"].virial and not volume > 0 and not numbers.any())
    except (TypeError, ValueError):
        void = False  # no numbers at all, which `convert_label` says
    return {name: value for name, value in values.items() if name != "stress" or not void}


def voigt_places(order: str) -> list[int]:
    """Place of each of xx yy zz yz xz xy among six stress numbers in `order`.

    Args:
        order: a name of `STRESS_ORDERS`, or six components, such as `xx yy zz xy yz zx`.

    Raises:
        ValueError: it is neither.

    Example:
        >>> voigt_places("vasp")
        [0, 1, 2, 4, 5, 3]
    """
    words = STRESS_ORDERS.get(order, order).replace(",", " ").split()
    found = ["".join(sorted(word)) for word in words]
    if sorted(found) != sorted(_VOIGT):
        names = ", ".join(f"{name} ({components})" for name, components in STRESS_ORDERS.items())
        raise InputError(f"labels.stress.order is {order!r}; state one of {names}, or the six components in their order")
    return [found.index(component) for component in _VOIGT]


def order_where(order: str, reads_as: Sequence[int]) -> str:
    """The order that six numbers have when those read in `order` as yz, xz, xy stand for other shears.

    Args:
        order: that they were read in.
        reads_as: for each of the true yz, xz, xy which of the three that were read holds it.

    Returns:
        A name of `STRESS_ORDERS` where there is one, else six components.

    Example:
        >>> order_where("voigt", (1, 2, 0))
        'vasp'
    """
    places = voigt_places(order)
    true = [*places[:3], *(places[3 + k] for k in reads_as)]
    components = " ".join(_VOIGT[true.index(place)] for place in range(6))
    return next((name for name, known in STRESS_ORDERS.items() if known == components), components)


def check_sources(labels: Mapping[str, LabelSource]) -> None:
    """Refuse unknown properties, units and signs before any file is opened.

    Raises:
        ValueError: no labels, or one of them is not understood.
    """
    if not labels:
        raise InputError("no labels are stated; name at least one, for example labels.energy.key=energy labels.energy.unit=eV")
    for name, source in labels.items():
        try:
            source.factor(name)
        except KeyError as error:
            raise InputError(error.args[0]) from error


def missing_keys_message(path: str, missing: Mapping[str, LabelSource], available: Iterable[str]) -> str:
    """The sentence for label keys that no frame of a source has."""
    wanted = ", ".join(f"{source.key!r} (labels.{name}.key)" for name, source in missing.items())
    found = ", ".join(sorted(available)) or "none"
    return f"{path}: no frame has the label key {wanted}; keys in the file are: {found}; correct the key, or leave this label out"


def _stress_matrix(array: np.ndarray, source: LabelSource) -> np.ndarray:
    if array.size == 6:
        return voigt_to_matrix(array.reshape(6)[voigt_places(source.order)])
    if array.size != 9:
        order = STRESS_ORDERS.get(source.order, source.order)
        raise InputError(f"stress (key {source.key!r}) has shape {array.shape}, expected (3, 3), (9,) or (6,) in the order {order}")
    matrix = array.reshape(3, 3)
    if np.isfinite(matrix).all() and np.abs(matrix - matrix.T).max() > 1e-3 * max(np.abs(matrix).max(), 1e-12):
        raise InputError(f"stress (key {source.key!r}) is not symmetric; check the order of its components")
    return 0.5 * (matrix + matrix.T)
