"""WBM: DFT-relaxed crystals with their energies, the test set of Matbench Discovery; never to be trained on.

`2022-10-19-wbm-computed-structure-entries.jsonl.gz` has one line per material: {material_id, computed_structure_entry:
{energy (eV, uncorrected), structure, parameters, ...}}. There are no forces and no stress.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers.pymatgen_json import labelled_structure, read_lines
from unipot.structure import Structure

FILE = "2022-10-19-wbm-computed-structure-entries.jsonl.gz"
SOURCES = {"energy": LabelSource(key="energy", unit="eV")}


def parts(raw: Path) -> list[str]:
    """One: the compressed stream cannot be entered in the middle."""
    return [FILE]


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream the relaxed structures; id and group are the material's id, `wbm-<substitutions>-<number>`."""
    for line in read_lines(raw / part):
        entry, name = line["computed_structure_entry"], line["material_id"]
        yield labelled_structure(entry.get("structure"), entry, SOURCES, id=name, group=name)
