"""`Census`: what a dataset holds, collected while it is written, as JSON and as a table."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from unipot.data.consistency import ConsistencyCheck, ConsistencyReport
from unipot.data.labels import SkippedItem
from unipot.properties import PROPERTIES
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS, Structure
from unipot.units import GPA

if TYPE_CHECKING:
    from rich.table import Table

_EXAMPLES = 5
_DUPLICATE_RESOLUTION = 1e-6  # Å; frames printed with fewer digits still meet


class Census:
    """Counts, ranges, duplicates and skipped items of a stream of structures.

    Two structures are duplicates when elements, positions, cell, pbc, charge and spin agree to 1e-6 Å, atom by atom.

    Args:
        name: of the dataset.
        level_of_theory: of its labels.

    Example:
        >>> census = Census("water", "PBE")
        >>> census.add(Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.74]], id="h2", labels={"energy": -31.7}))
        >>> census.to_dict()["energy_per_atom"]["mean"]
        -15.85
    """

    def __init__(self, name: str, level_of_theory: str) -> None:
        self.name, self.level_of_theory = name, level_of_theory
        self.n_structures = 0
        self.n_duplicates = 0
        self.duplicate_examples: list[str] = []
        self.skipped: Counter[str] = Counter()
        self.skipped_examples: dict[str, list[str]] = {}
        self._label_counts: Counter[str] = Counter()
        self._periodicity: Counter[str] = Counter()
        self._atoms = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)
        self._frames = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)
        self._ranges: dict[str, _Range] = {}
        self._geometries: dict[bytes, int] = {}
        self._first_ids: list[str] = []
        self._groups: set[int] = set()
        self._consistency = ConsistencyCheck()

    def add(self, structure: Structure) -> None:
        """Count one structure that was kept."""
        self.n_structures += 1
        counts = np.bincount(structure.atomic_numbers, minlength=MAX_ATOMIC_NUMBER + 1)
        self._atoms += counts
        self._frames += counts > 0
        self._periodicity[f"{int(structure.pbc.sum())} periodic axes"] += 1
        self._label_counts.update(structure.labels.keys())
        self._groups.add(hash(structure.group or structure.id))
        self._add_ranges(structure)
        self._add_geometry(structure)
        self._consistency.add(structure)

    def skip(self, item: SkippedItem) -> None:
        """Count one item that was not kept; numbers and names in its reason do not make it a reason of its own."""
        kind = re.sub(r"(?:structure|dataset) ('[^']*'|without id)(, structure '[^']*')?: ", "", item.reason)
        kind = re.sub(r"\d+ non-finite", "non-finite", kind)
        self.skipped[kind] += 1
        examples = self.skipped_examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(item.where)

    @property
    def n_skipped(self) -> int:
        return self.skipped.total()

    def consistency(self) -> ConsistencyReport:
        """Agreement of energies with forces and stress between near-identical frames."""
        return self._consistency.report()

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        elements = np.flatnonzero(self._atoms)
        return {
            "name": self.name,
            "level_of_theory": self.level_of_theory,
            "n_structures": self.n_structures,
            "n_groups": len(self._groups),
            "n_atoms": int(self._atoms.sum()),
            "elements": {SYMBOLS[z]: {"atoms": int(self._atoms[z]), "structures": int(self._frames[z])} for z in elements},
            "periodicity": dict(sorted(self._periodicity.items())),
            "labels": {label: {"structures": n, "unit": PROPERTIES[label].unit} for label, n in self._label_counts.items()},
            **{name: spread.to_dict() for name, spread in self._ranges.items()},
            "duplicates": {"structures": self.n_duplicates, "examples": self.duplicate_examples},
            "skipped": {reason: {"items": n, "examples": self.skipped_examples[reason]} for reason, n in self.skipped.items()},
            "consistency": self.consistency().to_dict(),
        }

    def table(self) -> Table:
        """For a terminal, with rich."""
        from rich.table import Table
        from rich.text import Text

        table = Table("quantity", "value", title=f"Census of {self.name} ({self.level_of_theory})", title_justify="left")
        for quantity, value in self._lines():
            table.add_row(Text(quantity), Text(value))  # not markup: units stand in brackets
        return table

    def _lines(self) -> list[tuple[str, str]]:
        elements = [SYMBOLS[z] for z in np.flatnonzero(self._atoms)]
        lines = [
            ("structures", f"{self.n_structures:,} in {len(self._groups):,} groups"),
            ("atoms", f"{int(self._atoms.sum()):,}"),
            (f"elements ({len(elements)})", " ".join(elements)),
            ("periodicity", ", ".join(f"{n:,} with {kind}" for kind, n in sorted(self._periodicity.items()))),
        ]
        for label, n in self._label_counts.items():
            lines.append((f"label {label} [{PROPERTIES[label].unit}]", f"{n:,} structures ({n / self.n_structures:.0%})"))
        lines += [(spread.title(name), spread.describe()) for name, spread in self._ranges.items()]
        lines.append(("labels against energies", self.consistency().describe()))
        examples = f", for example {self.duplicate_examples[0]}" if self.duplicate_examples else ""
        lines.append(("duplicates", f"{self.n_duplicates:,}{examples}"))
        lines.append(("skipped", f"{self.n_skipped:,}"))
        lines += [("", f"{n:,}: {reason} (for example {self.skipped_examples[reason][0]})") for reason, n in self.skipped.most_common()]
        return lines

    def _add_ranges(self, structure: Structure) -> None:
        self._range("atoms_per_structure", "", structure.n_atoms)
        labels = structure.labels
        if "energy" in labels:
            self._range("energy_per_atom", "eV/atom", float(labels["energy"]) / structure.n_atoms)
        if "forces" in labels:
            self._range("force_norm", "eV/A", np.linalg.norm(labels["forces"], axis=1))
            self._range("net_force", "eV/A", float(np.linalg.norm(labels["forces"].sum(axis=0))))
        if "stress" in labels:
            self._range("pressure", "GPa", -float(np.trace(labels["stress"])) / 3 / GPA)
            self._range("stress_components", "GPa", labels["stress"].ravel() / GPA)
        if structure.pbc.all():
            self._range("volume_per_atom", "A^3", structure.volume / structure.n_atoms)

    def _range(self, name: str, unit: str, values: Any) -> None:
        self._ranges.setdefault(name, _Range(unit)).add(values)

    def _add_geometry(self, structure: Structure) -> None:
        parts = [structure.atomic_numbers.astype(np.uint8).tobytes(), structure.pbc.tobytes()]
        for lengths in (structure.positions, structure.cell):
            parts.append(np.rint(lengths / _DUPLICATE_RESOLUTION).astype(np.int64).tobytes())
        parts.append(repr((structure.total_charge, structure.spin_multiplicity)).encode())
        key = hashlib.blake2b(b"|".join(parts), digest_size=16).digest()
        first = self._geometries.setdefault(key, self.n_structures - 1)
        self._first_ids.append(structure.id)
        if first != self.n_structures - 1:
            self.n_duplicates += 1
            if len(self.duplicate_examples) < _EXAMPLES:
                self.duplicate_examples.append(f"{self._first_ids[first]} = {structure.id}")


class _Range:
    """Smallest, largest, mean and root mean square of many numbers."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.low, self.high, self.total, self.squares, self.n = np.inf, -np.inf, 0.0, 0.0, 0

    def add(self, values: Any) -> None:
        values = np.atleast_1d(np.asarray(values, dtype=np.float64))
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.total, self.squares, self.n = self.total + float(values.sum()), self.squares + float(values @ values), self.n + len(values)

    def to_dict(self) -> dict[str, Any]:
        mean, rms = self.total / self.n, float(np.sqrt(self.squares / self.n))
        return {"unit": self.unit, "min": self.low, "max": self.high, "mean": mean, "rms": rms}

    def title(self, name: str) -> str:
        return name.replace("_", " ") + (f" [{self.unit}]" if self.unit else "")

    def describe(self) -> str:
        row = self.to_dict()
        return f"{row['min']:.4g} .. {row['max']:.4g}, mean {row['mean']:.4g}, rms {row['rms']:.4g}"
