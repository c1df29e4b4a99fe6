"""`Structure`: one labelled atomic configuration, validated once, in canonical units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from unipot.errors import InputError
from unipot.occupancy import require_whole_atoms
from unipot.properties import PROPERTIES, property_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms

MAX_ATOMIC_NUMBER = 118
#: names under which files and `atoms.info` state the total charge (|e|) and the spin multiplicity (2S+1)
CHARGE_KEYS = ("total_charge", "charge")
MULTIPLICITY_KEYS = ("spin_multiplicity", "multiplicity", "spin")
#: isotopes with symbols of their own, and their mass in u: elements like any other, heavier in dynamics
ISOTOPES = {"D": (1, 2.014101778), "T": (1, 3.016049281)}
#: Å (1 m), canonical units of any label, |e|: squares of what is larger overflow, or leave no digits for what matters
_MOST_LENGTH, _MOST_LABEL, _MOST_CHARGE = 1e10, 1e15, 1e6
_MOST_SPIN = 65535

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
    "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt "
    "Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc "
    "Lv Ts Og"
).split()


def symbols_of(atomic_numbers: Any) -> str:
    """Comma-separated symbols of the distinct elements in `atomic_numbers`, ascending in Z."""
    return ", ".join(SYMBOLS[int(z)] for z in np.unique(np.asarray(atomic_numbers)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Structure:
    """One atomic configuration with whatever labels it has.

    Attributes:
        atomic_numbers: (n_atoms,) int64, 1 to 118.
        positions: (n_atoms, 3) Å, float64.
        cell: (3, 3) Å, rows are lattice vectors; zeros where there is no cell.
        pbc: (3,) bool, which lattice vectors are periodic.
        total_charge: |e|; 0 when not stated.
        spin_multiplicity: 2S+1, or None when not stated.
        fixed: (n_atoms,) bool, atoms frozen in the calculation the labels come from.
        labels: property name -> array in canonical units; an absent key is a missing label.
        id: unique within its dataset.
        group: material or trajectory, so that splits keep relatives together; "" means the structure stands alone.

    Raises:
        ValueError: a shape is wrong, a number is not finite or beyond what is possible, an element is outside 1..118, a periodic axis has
            no cell vector, or a label is unknown.

    Example:
        >>> water = Structure(atomic_numbers=[8, 1, 1], positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        >>> water.n_atoms, sorted(water.labels)
        (3, [])
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))
    total_charge: float = 0.0
    spin_multiplicity: int | None = None
    fixed: np.ndarray | None = None
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    id: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen dataclass)
        put("atomic_numbers", self._array("atomic_numbers", self.atomic_numbers, np.int64).reshape(-1))
        n_atoms = self.n_atoms
        put("positions", self._shaped("positions", self.positions, np.float64, (n_atoms, 3)))
        put("cell", self._shaped("cell", self.cell, np.float64, (3, 3)))
        pbc = np.asarray(self.pbc, dtype=bool)
        put("pbc", self._shaped("pbc", np.repeat(pbc, 3) if pbc.ndim == 0 else pbc, bool, (3,)))
        fixed = np.zeros(n_atoms, dtype=bool) if self.fixed is None else self.fixed
        put("fixed", self._shaped("fixed", fixed, bool, (n_atoms,)))
        put("labels", {name: self._label(name, value) for name, value in self.labels.items()})
        put("total_charge", self._number("total_charge", self.total_charge, "a number of elementary charges, 0 when neutral"))
        put("spin_multiplicity", self._multiplicity())
        self._check_atoms_and_cell()

    @property
    def n_atoms(self) -> int:
        return len(self.atomic_numbers)

    @property
    def volume(self) -> float:
        """Cell volume in Å³; 0 without a full cell."""
        return float(abs(np.linalg.det(self.cell)))

    def with_labels(self, **labels: np.ndarray) -> Structure:
        """A copy that carries exactly these labels."""
        from dataclasses import replace

        return replace(self, labels=labels)

    def input_bytes(self) -> bytes:
        """What a model sees of it, for digests: elements, positions, cell, periodicity, charge and spin (0 when not stated)."""
        state = np.array([self.total_charge, self.spin_multiplicity or 0])
        arrays = (self.atomic_numbers, self.positions, self.cell, self.pbc, state)
        return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)

    def _array(self, name: str, value: Any, dtype: Any) -> np.ndarray:
        try:
            return np.array(value, dtype=dtype)  # a copy: what the caller does to its array must not reach this record
        except (TypeError, ValueError) as error:
            raise InputError(f"{self._where()}: {name} cannot be read as {np.dtype(dtype).name}: {error}") from error

    def _shaped(self, name: str, value: Any, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = self._array(name, value, dtype)
        if array.shape != shape:
            raise InputError(f"{self._where()}: {name} has shape {array.shape}, expected {shape}")
        if dtype is np.float64 and not np.isfinite(array).all():
            remedy = f", or leave its label {name!r} out" if name in PROPERTIES else ""
            raise InputError(
                f"{self._where()}: {name} contain {int((~np.isfinite(array)).sum())} non-finite value(s); "
                f"repair or drop this structure{remedy}"
            )
        most = {"positions": _MOST_LENGTH, "cell": _MOST_LENGTH}.get(name, _MOST_LABEL)
        if dtype is np.float64 and (np.abs(array) > most).any():
            raise InputError(
                f"{self._where()}: {name}: {array.flat[np.abs(array).argmax()]:g} is beyond what is possible (at most {most:g}); "
                "check the unit, or repair or drop this structure"
            )
        return array

    def _number(self, name: str, value: Any, wanted: str) -> float:
        try:
            number = float("nan") if isinstance(value, bool | np.bool_) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise InputError(f"{self._where()}: {name} is {value!r}; give {wanted}")
        return number

    def _multiplicity(self) -> int | None:
        if self.spin_multiplicity is None:
            return None
        wanted = "2S+1, a whole number from 1 (2 for one unpaired electron), or leave it out"
        number = self._number("spin_multiplicity", self.spin_multiplicity, wanted)
        if number < 1 or number != round(number):
            raise InputError(f"{self._where()}: spin_multiplicity is {number:g}; give {wanted}")
        return int(number)

    def _label(self, name: str, value: Any) -> np.ndarray:
        try:
            shape = property_named(name).label_shape(self.n_atoms)
        except KeyError as error:
            raise InputError(f"{self._where()}: label {name!r} is not known; known are: {', '.join(PROPERTIES)}") from error
        array = self._shaped(name, value, np.float64, shape)
        if not property_named(name).predicted and (array < 0).any():
            raise InputError(f"{self._where()}: {name} is negative ({array.min():g}); give 0 or more, 0 to leave it out of the loss")
        return array

    def _check_atoms_and_cell(self) -> None:
        if self.n_atoms == 0:
            raise InputError(f"{self._where()}: there are no atoms; drop this structure")
        low, high = int(self.atomic_numbers.min()), int(self.atomic_numbers.max())
        if low < 1 or high > MAX_ATOMIC_NUMBER:
            raise InputError(
                f"{self._where()}: atomic number {low if low < 1 else high} is outside 1..{MAX_ATOMIC_NUMBER}; "
                "check which column holds the elements"
            )
        if not abs(self.total_charge) <= _MOST_CHARGE:  # not a number as well
            raise InputError(
                f"{self._where()}: total_charge is {self.total_charge}; give a number (|e|) up to {_MOST_CHARGE:g}, 0 when neutral"
            )
        if self.spin_multiplicity is not None and not 1 <= self.spin_multiplicity <= _MOST_SPIN:
            raise InputError(
                f"{self._where()}: spin_multiplicity is {self.spin_multiplicity}; give 2S+1 (at least 1, at most {_MOST_SPIN}), or None"
            )
        lengths = np.linalg.norm(self.cell, axis=1)
        if (self.pbc & (lengths < 1e-6)).any():
            raise InputError(
                f"{self._where()}: pbc is {self.pbc.tolist()} but lattice vector(s) "
                f"{np.flatnonzero(self.pbc & (lengths < 1e-6)).tolist()} of the cell are missing; give the cell, or set pbc to false"
            )
        if self.pbc.any() and np.linalg.matrix_rank(self.cell[self.pbc], tol=1e-6) < self.pbc.sum():
            raise InputError(f"{self._where()}: the periodic lattice vectors are linearly dependent (zero volume); correct the cell")

    def _where(self) -> str:
        return f"structure {self.id!r}" if self.id else "structure without id"

    @classmethod
    def from_ase(
        cls,
        atoms: Atoms,
        *,
        labels: dict[str, np.ndarray] | None = None,
        id: str = "",
        group: str = "",
        columns: Mapping[str, str] | None = None,
    ) -> Structure:
        """The geometry of `atoms`, with `labels` in canonical units; nothing is read from its calculator.

        Total charge and spin multiplicity are taken from `atoms.info` (`CHARGE_KEYS`, `MULTIPLICITY_KEYS`; a spin of 0 is none);
        frozen atoms from `FixAtoms` constraints and from a per-atom array `fixed`.

        Args:
            atoms: the geometry.
            labels: property name -> array in canonical units.
            id, group: see the class.
            columns: `total_charge`, `spin_multiplicity` or `fixed` -> key, where the names differ from those understood.

        Raises:
            ValueError: sites are partly occupied; see also the class.
        """
        require_whole_atoms(atoms, f"structure {id!r}" if id else "structure without id")
        columns = columns or {}
        charge = stated(atoms.info, columns.get("total_charge", CHARGE_KEYS))
        return cls(
            atomic_numbers=atoms.numbers,
            positions=atoms.get_positions(),
            cell=np.asarray(atoms.cell.array, dtype=np.float64),
            pbc=np.asarray(atoms.pbc, dtype=bool),
            total_charge=0.0 if charge is None else charge,
            spin_multiplicity=stated_multiplicity(atoms.info, columns.get("spin_multiplicity", MULTIPLICITY_KEYS)),
            fixed=fixed_atoms(atoms, columns.get("fixed", "fixed")),
            labels=dict(labels or {}),
            id=id,
            group=group,
        )

    def to_ase(self) -> Atoms:
        """ASE `Atoms` with a `SinglePointCalculator` holding the labels, if there are any."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.constraints import FixAtoms

        from unipot.units import matrix_to_voigt

        atoms = Atoms(numbers=self.atomic_numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)
        atoms.info["total_charge"] = self.total_charge
        if self.spin_multiplicity is not None:
            atoms.info["spin_multiplicity"] = self.spin_multiplicity
        if self.fixed.any():
            atoms.set_constraint(FixAtoms(mask=self.fixed))
        results: dict[str, Any] = dict(self.labels)
        if "energy" in results:
            results["energy"] = float(results["energy"])
        if "stress" in results:
            results["stress"] = matrix_to_voigt(results["stress"])
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


def name_of(atoms: Atoms) -> str:
    """Its chemical formula, for messages; "" where an element is none."""
    try:
        return str(atoms.get_chemical_formula())
    except IndexError:  # ASE has no symbol for it; `Structure` says which number it is
        return ""


def stated(values: Mapping[str, Any], keys: str | tuple[str, ...]) -> Any:
    """What `values` say under the first of `keys` that they have; None where there is none.

    Example:
        >>> stated({"charge": -1}, CHARGE_KEYS)
        -1
    """
    found = (values.get(key) for key in ((keys,) if isinstance(keys, str) else keys))
    return next((value for value in found if value is not None), None)


def stated_multiplicity(values: Mapping[str, Any], keys: str | tuple[str, ...] = MULTIPLICITY_KEYS) -> Any:
    """`stated` of a spin multiplicity, for which many programs write 0 where it is not known: None then."""
    found = stated(values, keys)
    return None if isinstance(found, int | float | np.number) and not isinstance(found, bool) and found == 0 else found


def fixed_atoms(atoms: Atoms, key: str = "fixed") -> np.ndarray:
    """(n_atoms,) bool, atoms that `FixAtoms` constraints or a per-atom array `key` hold."""
    from ase.constraints import FixAtoms

    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.get_indices()] = True
    if key in atoms.arrays:
        fixed |= np.asarray(atoms.arrays[key]).astype(bool)
    return fixed
