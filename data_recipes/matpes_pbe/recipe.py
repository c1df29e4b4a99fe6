"""MatPES: static calculations of structures sampled from molecular dynamics at 300 K.

`MatPES-<functional>-<version>.json.gz` is one array of documents: structure, energy (eV), forces (eV/Å), stress (xx yy zz yz xz xy,
kbar, VASP's sign), matpes_id, provenance.original_mp_id, ...
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
    "stress": LabelSource(key="stress", unit="kbar", sign="compression"),
}


def parts(raw: Path, *, functional: str, version: str = "2025.1") -> list[str]:
    """One: the compressed stream cannot be entered in the middle."""
    return [f"MatPES-{functional}-{version}.json.gz"]


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream the documents in the order of the file, which the published split counts in; group is the parent material."""
    for number, document in enumerate(read_array(raw / part)):
        name = document.get("matpes_id") or f"{part.split('.json')[0]}-{number}"
        material = (document.get("provenance") or {}).get("original_mp_id") or name
        yield labelled_structure(document.get("structure"), document, SOURCES, id=name, group=str(material))
