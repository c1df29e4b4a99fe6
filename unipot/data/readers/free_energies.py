"""Two energies of one calculation: extrapolated to electrons at zero temperature, and the free energy that forces belong to.

With smeared occupations the two differ. ASE calls the first `energy` and the second `free_energy`; forces and stress are derivatives
of the second. Labels are read from `energy` unless another key is stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from unipot.data.labels import CALCULATOR, LabelSource
from unipot.data.readers.ase_files import frames_of

if TYPE_CHECKING:
    from ase import Atoms

FREE_ENERGY = "free_energy"
#: frames that are looked at
_FRAMES = 20
#: eV/atom of difference that is worth a sentence
_SMALLEST = 1e-4


def free_energy_note(file: Path, labels: Mapping[str, LabelSource], option: str) -> str:
    """A sentence where the energies that are read are not those that forces and stress belong to; "" where they are.

    Args:
        file: that ASE reads; its first frames are looked at.
        labels: property name -> where it is found.
        option: that states where labels are found, `labels` or `sources`.

    Raises:
        ValueError: the file cannot be read.
    """
    derivatives = [name for name in ("forces", "stress") if name in labels]
    if not derivatives or "energy" not in labels or labels["energy"].key not in ("energy", CALCULATOR):
        return ""
    largest = max((_difference(atoms) for atoms in islice(frames_of(file), _FRAMES)), default=0.0)
    if largest < _SMALLEST:
        return ""
    free = {**labels, "energy": LabelSource(key=FREE_ENERGY, unit=labels["energy"].unit)}
    return (
        f"{file}: energies are read from 'energy', which is extrapolated to electrons at zero temperature; {' and '.join(derivatives)} "
        f"belong to {FREE_ENERGY!r}, which differs by up to {1e3 * largest:.2g} meV/atom; to read that one, state {_stated(free, option)}"
    )


def _difference(atoms: Atoms) -> float:
    """eV/atom between the two energies of a frame; 0 where it has not both."""
    results = atoms.calc.results if atoms.calc is not None else {}
    energy, free = results.get("energy"), results.get(FREE_ENERGY)
    return 0.0 if energy is None or free is None or not len(atoms) else abs(float(energy) - float(free)) / len(atoms)


def _stated(labels: Mapping[str, LabelSource], option: str) -> str:
    """Labels as they are written on the command line."""
    words = []
    for name, source in labels.items():
        sign = {"sign": source.sign} if name == "stress" else {}
        fields = {"key": source.key, "unit": source.unit, **sign}
        words.append(f"{option}.{name}='{{{', '.join(f'{key}: {value}' for key, value in fields.items())}}}'")
    return " ".join(words)
