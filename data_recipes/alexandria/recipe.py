"""Alexandria: relaxation paths of 3D crystals (`content: paths`), or the relaxed crystals alone (`content: entries`), PBE.

`pbe/pbe_<shard>.json.bz2` is an object: material -> calculations in order of time -> {PREC, ENMAX, kpoints, steps: [{structure,
energy, forces, stress}]}. `entries/alexandria_<shard>.json.bz2` is {entries: [pymatgen's ComputedStructureEntry]}, with
forces at the sites and the stress in `data`. Units: eV, eV/Å, kbar with VASP's sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers.pymatgen_json import labelled_structure, read_array, read_object
from unipot.structure import Structure

SOURCES = {
    "energy": LabelSource(key="energy", unit="eV"),
    "forces": LabelSource(key="forces", unit="eV/A"),
    "stress": LabelSource(key="stress", unit="kbar", sign="compression"),
}
#: option `content` -> files below the raw folder
FILES = {"paths": "pbe/pbe_*.json.bz2", "entries": "entries/alexandria_*.json.bz2"}


def parts(raw: Path, content: str = "paths") -> list[str]:
    """The shards that are there; conversion of a part of them is of use too.

    Raises:
        ValueError: `content` is not known.
    """
    if content not in FILES:
        raise ValueError(f"content {content!r} of recipe 'alexandria' is not known; use one of: {', '.join(FILES)}")
    return sorted(str(file.relative_to(raw)) for file in raw.glob(FILES[content]))


def structures(raw: Path, part: str, content: str = "paths") -> Iterator[Structure | SkippedItem]:
    """Stream one shard; group is the material, id `<material>_<calculation>_<step>` for a step of a path."""
    if content == "entries":
        for entry in read_array(raw / part, "entries"):
            data, structure = entry["data"], entry["structure"]
            values = {"energy": entry.get("energy"), "forces": _site_forces(structure), "stress": data.get("stress")}
            yield labelled_structure(structure, values, SOURCES, id=data["mat_id"], group=data["mat_id"])
        return
    for material, calculations in read_object(raw / part):
        for number, calculation in enumerate(calculations):
            for step, frame in enumerate(calculation.get("steps") or ()):
                yield labelled_structure(frame.get("structure"), frame, SOURCES, id=f"{material}_{number}_{step}", group=material)


def _site_forces(structure: dict[str, Any]) -> list[Any] | None:
    """(n_atoms, 3) eV/Å, or None where a site lacks them."""
    forces = [(site.get("properties") or {}).get("forces") for site in structure["sites"]]
    return None if any(force is None for force in forces) else forces
