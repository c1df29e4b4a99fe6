"""mlearn: six elements (Li, Mo, Ni, Cu, Si, Ge) in strained cells, surfaces, vacancies and dynamics, PBE; Zuo et al. 2020.

`data/<element>/{training,test}.json` is an array of {structure, outputs: {energy (eV), forces (eV/Å), virial_stress (6 numbers,
kbar, VASP's sign)}, group, description}. The last three numbers of `virial_stress` come in two orders; see `SHEARS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers.pymatgen_json import labelled_structure, read_array
from unipot.structure import Structure

SOURCES = {
    "energy": LabelSource(key="energy", unit="eV"),
    "forces": LabelSource(key="forces", unit="eV/A"),
    "stress": LabelSource(key="virial_stress", unit="kbar", sign="compression"),
}
FILES = {"train": "training.json", "test": "test.json"}
#: Where yz, xz, xy stand in the six numbers. VASP prints xx yy zz xy yz zx; most groups have xx yy zz xy xz yz instead.
XY_YZ_XZ, XY_XZ_YZ = (4, 5, 3), (5, 4, 3)
SHEARS = {("Li", None): XY_YZ_XZ, ("Ge", "Elastic"): XY_YZ_XZ, ("Si", "Elastic"): XY_YZ_XZ}


def parts(raw: Path, split: str = "train") -> list[str]:
    """One file per element.

    Raises:
        ValueError: `split` is not known.
    """
    if split not in FILES:
        raise ValueError(f"split {split!r} of recipe 'mlearn' is not known; use one of: {', '.join(FILES)}")
    return sorted(str(file.relative_to(raw)) for file in raw.glob(f"data/*/{FILES[split]}"))


def structures(raw: Path, part: str, split: str = "train") -> Iterator[Structure | SkippedItem]:
    """Stream one file; id and group are made of the element, the kind of structure and its place in the file."""
    for number, document in enumerate(read_array(raw / part)):
        element, kind, outputs = document["element"], document["group"], document["outputs"]
        values = {"energy": outputs.get("energy"), "forces": outputs.get("forces")}
        values["stress"] = _voigt(outputs.get("virial_stress"), element, kind)
        name = f"{element}-{split}-{number}"
        yield labelled_structure(document.get("structure"), values, SOURCES, id=name, group=f"{element}-{kind}-{_series(document, name)}")


def _voigt(stress: list[float] | None, element: str, kind: str) -> list[float] | None:
    """The six numbers in the order xx yy zz yz xz xy; anything else unchanged, to be refused."""
    if not stress or len(stress) != 6:
        return stress
    order = SHEARS.get((element, kind)) or SHEARS.get((element, None)) or XY_XZ_YZ
    return [*stress[:3], *(stress[place] for place in order)]


def _series(document: dict, name: str) -> str:
    """What frames of one dynamics or one mode of strain have in common: their description without snapshot and amount."""
    words = str(document.get("description") or name).split(" of ", 2)
    return words[-1].split(", strain")[0].strip()
