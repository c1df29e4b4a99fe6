"""MPtrj: frames of the PBE and PBE+U relaxations and static calculations of the Materials Project, the training set of CHGNet.

`MPtrj_2022.9_full.json` is one object: mp-id -> frame-id (`task-calc-step`) -> {structure, uncorrected_total_energy,
corrected_total_energy (eV), force (eV/Å), stress (3×3, kbar, VASP's sign), magmom, bandgap, ...}. It is read one material
at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers.pymatgen_json import labelled_structure, read_object
from unipot.structure import Structure

FILE = "MPtrj_2022.9_full.json"
#: option `energy` -> key; the MP2020 corrections depend on composition only, so that forces and stress fit both
ENERGIES = {"uncorrected": "uncorrected_total_energy", "corrected": "corrected_total_energy"}


def parts(raw: Path) -> list[str]:
    """One: a JSON stream cannot be entered in the middle."""
    return [FILE]


def structures(raw: Path, part: str, energy: str = "uncorrected") -> Iterator[Structure | SkippedItem]:
    """Stream the frames, material by material.

    Args:
        raw: folder with the file.
        part: the file's name.
        energy: `uncorrected` (VASP's total energy) or `corrected` (with the MP2020 corrections, as CHGNet was trained; give
            that its own head).

    Raises:
        ValueError: `energy` is neither, or the file is damaged.
    """
    if energy not in ENERGIES:
        raise ValueError(f"energy {energy!r} of recipe 'mptrj' is not known; use one of: {', '.join(ENERGIES)}")
    labels = {
        "energy": LabelSource(key=ENERGIES[energy], unit="eV"),
        "forces": LabelSource(key="force", unit="eV/A"),
        "stress": LabelSource(key="stress", unit="kbar", sign="compression"),
    }
    for material, frames in read_object(raw / part):
        for frame_id, frame in frames.items():
            values = {name: frame.get(source.key) for name, source in labels.items()}
            yield labelled_structure(frame.get("structure"), values, labels, id=f"{material}:{frame_id}", group=material)
