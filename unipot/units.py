"""Canonical units and conversions into them.

Everything outside a reader is in eV, Å, eV/Å, eV/Å³ and elementary charges. Stress is positive under
tension, as in ASE. Constants are CODATA 2018.
"""

import numpy as np

from unipot.errors import InputError

HARTREE = 27.211386245988  # eV
RYDBERG = HARTREE / 2  # eV
BOHR = 0.529177210903  # Å
KCAL_PER_MOL = 0.04336410390059322  # eV
KJ_PER_MOL = KCAL_PER_MOL / 4.184  # eV
GPA = 1 / 160.21766340000003  # eV/Å³
KBAR = GPA / 10  # eV/Å³

#: unit name -> factor that turns a value in that unit into the canonical unit of its kind
ENERGY_UNITS: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "hartree": HARTREE,
    "rydberg": RYDBERG,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
}
FORCE_UNITS: dict[str, float] = {
    "eV/A": 1.0,
    "meV/A": 1e-3,
    "hartree/bohr": HARTREE / BOHR,
    "hartree/A": HARTREE,
    "rydberg/bohr": RYDBERG / BOHR,
    "kcal/mol/A": KCAL_PER_MOL,
    "kJ/mol/A": KJ_PER_MOL,
}
STRESS_UNITS: dict[str, float] = {
    "eV/A^3": 1.0,
    "GPa": GPA,
    "kbar": KBAR,
    "hartree/bohr^3": HARTREE / BOHR**3,
}


def unit_factor(unit: str, allowed: dict[str, float], what: str) -> float:
    """Factor from `unit` to the canonical unit.

    Args:
        unit: a key of `allowed`.
        allowed: one of `ENERGY_UNITS`, `FORCE_UNITS`, `STRESS_UNITS`.
        what: name of the quantity, for the error message.

    Raises:
        ValueError: `unit` is not in `allowed`.
    """
    if unit not in allowed:
        raise InputError(f"unit {unit!r} of {what} is not known; use one of: {', '.join(allowed)}")
    return allowed[unit]


_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def voigt_to_matrix(voigt: np.ndarray) -> np.ndarray:
    """Symmetric matrices (..., 3, 3) from Voigt vectors (..., 6) in the order xx yy zz yz xz xy."""
    voigt = np.asarray(voigt)
    matrix = np.empty((*voigt.shape[:-1], 3, 3), dtype=voigt.dtype)
    for k, (a, b) in enumerate(_VOIGT):
        matrix[..., a, b] = matrix[..., b, a] = voigt[..., k]
    return matrix


def matrix_to_voigt(matrix: np.ndarray) -> np.ndarray:
    """Voigt vectors (..., 6), order xx yy zz yz xz xy, from matrices (..., 3, 3), symmetrised first."""
    matrix = np.asarray(matrix)
    return np.stack([0.5 * (matrix[..., a, b] + matrix[..., b, a]) for a, b in _VOIGT], axis=-1)
