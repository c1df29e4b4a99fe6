"""What the frames of a file say of their labels that their reader should know: which of two energies is read, and whose they are.

With smeared occupations a calculation has two energies. ASE calls the one extrapolated to electrons at zero temperature `energy`, and
the free energy `free_energy`; forces and stress are derivatives of the second. Labels are read from `energy` unless another key is
stated. Frames that `unipot relax` and `unipot md` write carry the model that predicted their labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from unipot.data.labels import CALCULATOR, LabelSource
from unipot.data.readers.ase_files import frames_of
from unipot.data.readers.folder_search import kind_of

if TYPE_CHECKING:
    from ase import Atoms

FREE_ENERGY = "free_energy"
#: frames that are looked at
_FRAMES = 20
#: eV/atom of difference that is worth a sentence
_SMALLEST = 1e-4


def label_notes(file: Path, labels: Mapping[str, LabelSource], *, option: str, level_of_theory: str) -> list[str]:
    """Sentences on labels that are not what they may be taken for; none where there is nothing to say.

    Args:
        file: that ASE reads; its first frames are looked at.
        labels: property name -> where it is found.
        option: that states where labels are found, `labels` or `sources`.
        level_of_theory: that the labels are stated to be of.

    Raises:
        ValueError: the file cannot be read.
    """
    frames = list(islice(frames_of(file), _FRAMES))
    notes = (_two_energies(frames, labels, option), _predictions(frames), _other_level(frames, level_of_theory))
    return [f"{file}: {note}" for note in notes if note]


def notes_of_files(files: Sequence[Path], labels: Mapping[str, LabelSource], *, option: str, level_of_theory: str) -> list[str]:
    """`label_notes` of the first file of each format.

    Raises:
        ValueError: there is one file and it cannot be read; of several, whoever reads them says so.
    """
    if len(files) == 1:
        return label_notes(files[0], labels, option=option, level_of_theory=level_of_theory)
    first = {kind_of(file)[0]: file for file in reversed(files)}
    notes = []
    for file in sorted(first.values()):
        with suppress(ValueError):
            notes += label_notes(file, labels, option=option, level_of_theory=level_of_theory)
    return notes


def _two_energies(frames: Sequence[Atoms], labels: Mapping[str, LabelSource], option: str) -> str:
    derivatives = [name for name in ("forces", "stress") if name in labels]
    if not derivatives or "energy" not in labels or labels["energy"].key not in ("energy", CALCULATOR):
        return ""
    largest = max(map(_difference, frames), default=0.0)
    if largest < _SMALLEST:
        return ""
    free = {**labels, "energy": LabelSource(key=FREE_ENERGY, unit=labels["energy"].unit)}
    return (
        f"energies are read from 'energy', which is extrapolated to electrons at zero temperature; {' and '.join(derivatives)} belong to "
        f"{FREE_ENERGY!r}, which differs by up to {1e3 * largest:.2g} meV/atom; to read that one, state {_stated(free, option)}"
    )


def _predictions(frames: Sequence[Atoms]) -> str:
    predicted = next((atoms.info for atoms in frames if "model_sha256" in atoms.info), None)
    if predicted is None:
        return ""
    return (
        f"its labels are predictions of head {predicted.get('head', '?')!r} of the model {predicted.get('model', '?')}, and of no "
        "calculation; what is trained on them learns that model"
    )


def _other_level(frames: Sequence[Atoms], level_of_theory: str) -> str:
    levels = sorted({str(atoms.info["level_of_theory"]) for atoms in frames if "level_of_theory" in atoms.info} - {level_of_theory})
    if not levels:
        return ""
    said = f"its frames say that their level of theory is {', '.join(map(repr, levels))} and not {level_of_theory!r}"
    return f"{said}; state the true one with level_of_theory"


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
