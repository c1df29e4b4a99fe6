"""What the dataset is, in one line; its raw format in a few more.

`frames.jsonl.gz` has one JSON object per line: `name`, `molecule`, `numbers`, `positions` (Å), `energy` (kJ/mol),
`gradient` (kJ/mol/Å).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.structure import Structure
from unipot.units import ENERGY_UNITS

KJ_MOL = ENERGY_UNITS["kJ/mol"]


def parts(raw: Path) -> list[str]:
    """Units of work in a fixed order, converted in parallel; best 10^3 to 10^6 structures each."""
    return sorted(file.name for file in raw.glob("*.jsonl.gz"))


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream one part: never the whole file in memory, always in the same order."""
    with gzip.open(raw / part, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                yield _structure(json.loads(line))
            except (ValueError, KeyError) as error:  # one broken frame is counted and listed, the others are used
                yield SkippedItem(where=f"{part}:{number + 1}", reason=str(error))


def _structure(frame: dict) -> Structure:
    labels = {"energy": frame["energy"] * KJ_MOL, "forces": -np.array(frame["gradient"]) * KJ_MOL}
    return Structure(
        atomic_numbers=frame["numbers"], positions=frame["positions"], labels=labels, id=frame["name"], group=frame["molecule"]
    )
