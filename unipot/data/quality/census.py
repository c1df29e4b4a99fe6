"""`Census`: what a dataset holds, collected batch by batch in any number of processes, as JSON and as a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.data.quality.consistency import ConsistencyCheck, ConsistencyReport
from unipot.data.quality.counted_labels import CountedLabels
from unipot.data.quality.measurements import Measurements
from unipot.data.unread_keys import UnreadKey
from unipot.properties import PROPERTIES
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS, Structure
from unipot.units import GPA

if TYPE_CHECKING:
    from rich.table import Table

    from unipot.data.quality.duplicate_report import DuplicateSummary
    from unipot.data.storage.shard_rows import ShardRows

_EXAMPLES = 5
#: reasons of their own; what comes after is counted together
_MAX_REASONS = 200
_OTHER_REASONS = "other reasons"
#: ranges whose numbers are columns of a shard
_RANGES_OF_COLUMNS = ("atoms_per_structure", "energy_per_atom", "net_force", "pressure", "volume_per_atom")


class Census:
    """Counts, ranges, labels against energies and skipped items of a stream of structures.

    Nothing in it grows with the number of structures: censuses of pieces are carried as `state()` and put together with
    `merge`. What only the finished columns show (groups, duplicates) is set by the finishing pass.

    Args:
        name: of the dataset.
        level_of_theory: of its labels.
        consistency: the check that compares labels of near-identical frames.

    Attributes:
        n_structures: added so far.
        n_groups: different groups; None until the finishing pass has counted them.
        duplicates: of equal geometry; None until the finishing pass has looked.
        counted: labels that are there and do not count.
        unread: keys and columns of the source that nothing reads, by name.

    Example:
        >>> from unipot.data.quality.measurements import measure
        >>> census = Census("hydrogen", "PBE")
        >>> h2 = Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.74]], id="h2", labels={"energy": -31.7})
        >>> census.add([h2], measure([h2]))
        >>> census.to_dict()["energy_per_atom"]["mean"]
        -15.85
    """

    def __init__(self, name: str, level_of_theory: str, consistency: ConsistencyCheck | None = None) -> None:
        self.name, self.level_of_theory = name, level_of_theory
        self.n_structures = 0
        self.n_groups: int | None = None
        self.duplicates: DuplicateSummary | None = None
        self.skipped: Counter[str] = Counter()
        self.skipped_examples: dict[str, list[str]] = {}
        self.unread: dict[str, UnreadKey] = {}
        self.check = consistency or ConsistencyCheck()
        self.counted = CountedLabels()
        self._label_counts: Counter[str] = Counter()
        self._periodicity: Counter[str] = Counter()
        self._charges: Counter[str] = Counter()
        self._spins: Counter[str] = Counter()
        self._atoms = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)
        self._frames = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)
        self._ranges: dict[str, _Range] = {}

    def add(self, structures: Sequence[Structure], measurements: Measurements) -> None:
        """Count structures that were kept.

        Args:
            structures: n of them, in the order of the stream.
            measurements: their rows, from `unipot.data.quality.measurements.measure`.
        """
        if not structures:
            return
        self.n_structures += len(structures)
        n_atoms = np.array([structure.n_atoms for structure in structures])
        numbers = np.concatenate([structure.atomic_numbers for structure in structures])
        self._atoms += np.bincount(numbers, minlength=MAX_ATOMIC_NUMBER + 1)
        present = np.unique(np.repeat(np.arange(len(structures)), n_atoms) * (MAX_ATOMIC_NUMBER + 1) + numbers)
        self._frames += np.bincount(present % (MAX_ATOMIC_NUMBER + 1), minlength=MAX_ATOMIC_NUMBER + 1)
        self._range("atoms_per_structure", "", n_atoms)
        for structure in structures:
            self._periodicity[f"{int(structure.pbc.sum())} periodic axes"] += 1
            self._label_counts.update(structure.labels.keys())
            self._charges[charge_key(structure.total_charge)] += 1
            self._spins[str(structure.spin_multiplicity or 0)] += 1
            self.check.add(structure)
        self.counted = CountedLabels.together(self.counted, CountedLabels.of(structures))
        self._add_labels(structures, measurements)
        self._range("volume_per_atom", "A^3", measurements["volume_per_atom"])

    def skip(self, item: SkippedItem) -> None:
        """Count one item that was not kept; numbers and names in its reason do not make it a reason of its own."""
        kind = re.sub(r"(?:structure|dataset) ('[^']*'|without id)(, structure '[^']*')?: ", "", item.reason)
        kind = re.sub(r"\d+ non-finite", "non-finite", kind)
        self._skip(kind, 1, [item.where])

    @property
    def n_skipped(self) -> int:
        return self.skipped.total()

    def consistency(self) -> ConsistencyReport:
        """Agreement of energies with forces and stress between near-identical frames."""
        return self.check.report()

    def state(self) -> dict[str, Any]:
        """Everything collected from a finished piece, JSON-able, for `merge`."""
        return {
            "n_structures": self.n_structures,
            "skipped": dict(self.skipped),
            "skipped_examples": self.skipped_examples,
            "unread": [asdict(item) for item in self.unread.values()],
            "labels": dict(self._label_counts),
            "counted": asdict(self.counted),
            "periodicity": dict(self._periodicity),
            "total_charges": dict(self._charges),
            "spin_multiplicities": dict(self._spins),
            "atoms": self._atoms.tolist(),
            "frames": self._frames.tolist(),
            "ranges": {name: spread.state() for name, spread in self._ranges.items()},
            "consistency": self.check.state(),
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add another census's `state`."""
        self.n_structures += int(state["n_structures"])
        for kind, n in state["skipped"].items():
            self._skip(kind, n, state["skipped_examples"][kind])
        for item in state.get("unread", ()):  # a piece of an earlier version has none
            self.unread.setdefault(item["key"], UnreadKey(**item))
        self._label_counts.update(state["labels"])
        # pieces of an earlier version say nothing of it
        self.counted = CountedLabels.together(self.counted, CountedLabels(**state.get("counted", {})))
        self._periodicity.update(state["periodicity"])
        self._charges.update(state["total_charges"])
        self._spins.update(state["spin_multiplicities"])
        self._atoms += np.asarray(state["atoms"])
        self._frames += np.asarray(state["frames"])
        for name, spread in state["ranges"].items():
            self._ranges.setdefault(name, _Range(spread["unit"])).merge(spread)
        self.check.merge(state["consistency"])

    def leave_out(self, rows: ShardRows, keep: np.ndarray) -> None:
        """Take frames out again that the finishing pass found wanting.

        Counts are of the frames that stay, and so are ranges of what columns hold; force norms and stress components still
        cover all frames.

        Args:
            rows: every frame counted so far.
            keep: (n,) bool.
        """
        for row in np.flatnonzero(~keep).tolist():
            structure = rows.structure(row)
            counts = np.bincount(structure.atomic_numbers, minlength=MAX_ATOMIC_NUMBER + 1)
            self._atoms -= counts
            self._frames -= counts > 0
            self._periodicity[f"{int(structure.pbc.sum())} periodic axes"] -= 1
            self._label_counts.subtract(structure.labels.keys())
            self.counted = self.counted.without(CountedLabels.of([structure]))
            self._charges[charge_key(structure.total_charge)] -= 1
            self._spins[str(structure.spin_multiplicity or 0)] -= 1
            self.n_structures -= 1
        for kinds in (self._periodicity, self._label_counts, self._charges, self._spins):
            for kind in [kind for kind, n in kinds.items() if n == 0]:
                del kinds[kind]
        columns = [name for name in _RANGES_OF_COLUMNS if name in self._ranges]
        units = {name: self._ranges.pop(name).unit for name in columns}
        for start, (n_atoms, energy, *others) in rows.chunks("n_atoms", "energy", "net_force", "pressure", "volume_per_atom"):
            kept = keep[start : start + len(n_atoms)]
            values = (n_atoms, energy / n_atoms, others[0], others[1].astype(np.float64) / GPA, others[2])
            for name, value in zip(_RANGES_OF_COLUMNS, values, strict=True):
                if name in units:
                    self._range(name, units[name], value[kept])

    def to_dict(self) -> dict[str, Any]:
        """The report, JSON-able."""
        elements = np.flatnonzero(self._atoms)
        return {
            "name": self.name,
            "level_of_theory": self.level_of_theory,
            "n_structures": self.n_structures,
            "n_groups": self.n_groups,
            "n_atoms": int(self._atoms.sum()),
            "elements": {SYMBOLS[z]: {"atoms": int(self._atoms[z]), "structures": int(self._frames[z])} for z in elements},
            "periodicity": dict(sorted(self._periodicity.items())),
            "total_charges": dict(sorted(self._charges.items(), key=lambda item: float(item[0]))),
            "spin_multiplicities": dict(sorted(self._spins.items(), key=lambda item: int(item[0]))),
            "labels": {label: {"structures": n, "unit": PROPERTIES[label].unit} for label, n in self._label_counts.items()},
            "labels_that_do_not_count": {"stress_structures": self.counted.n_void_stress, "fixed_atoms": self.counted.n_fixed},
            **{name: spread.to_dict() for name, spread in self._ranges.items()},
            "duplicates": self.duplicates.to_dict() if self.duplicates else None,
            "skipped": {reason: {"items": n, "examples": self.skipped_examples[reason]} for reason, n in self.skipped.items()},
            "unread_keys": {key: item.where for key, item in self.unread.items()},
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
        groups = "" if self.n_groups is None else f" in {self.n_groups:,} groups"
        lines = [
            ("structures", f"{self.n_structures:,}{groups}"),
            ("atoms", f"{int(self._atoms.sum()):,}"),
            (f"elements ({len(elements)})", " ".join(elements)),
            ("periodicity", ", ".join(f"{n:,} with {kind}" for kind, n in sorted(self._periodicity.items()))),
        ]
        if set(self._charges) - {"0"}:
            lines.append(("total charge [|e|]", _counted(self._charges)))
        if set(self._spins) - {"0"}:
            lines.append(("spin multiplicity (0: not stated)", _counted(self._spins)))
        for label, n in self._label_counts.items():
            lines.append((f"label {label} [{PROPERTIES[label].unit}]", f"{n:,} structures ({n / self.n_structures:.0%})"))
        lines += [("", sentence) for sentence in self.counted.sentences()]
        lines += [(spread.title(name), spread.describe()) for name, spread in self._ranges.items()]
        lines.append(("labels against energies", self.consistency().describe()))
        if self.duplicates is not None:
            lines.append(("duplicates", self.duplicates.describe()))
        lines.append(("skipped", f"{self.n_skipped:,}"))
        lines += [("", f"{n:,}: {reason} (for example {self.skipped_examples[reason][0]})") for reason, n in self.skipped.most_common()]
        return lines

    def _add_labels(self, structures: Sequence[Structure], measurements: Measurements) -> None:
        energies = [float(s.labels["energy"]) / s.n_atoms for s in structures if "energy" in s.labels]
        self._range("energy_per_atom", "eV/atom", np.array(energies))
        forces = [structure.labels["forces"] for structure in structures if "forces" in structure.labels]
        if forces:
            self._range("force_norm", "eV/A", np.linalg.norm(np.concatenate(forces), axis=1))
            self._range("net_force", "eV/A", measurements["net_force"])
        stress = [structure.labels["stress"] for structure in structures if "stress" in structure.labels]
        if stress:
            self._range("pressure", "GPa", measurements["pressure"].astype(np.float64) / GPA)
            self._range("stress_components", "GPa", np.stack(stress).ravel() / GPA)

    def _range(self, name: str, unit: str, values: np.ndarray) -> None:
        known = values[np.isfinite(values)]
        if len(known):
            self._ranges.setdefault(name, _Range(unit)).add(known)

    def _skip(self, kind: str, n: int, examples: Sequence[str]) -> None:
        if kind not in self.skipped and len(self.skipped) >= _MAX_REASONS:
            kind = _OTHER_REASONS
        self.skipped[kind] += n
        known = self.skipped_examples.setdefault(kind, [])
        known += list(examples)[: _EXAMPLES - len(known)]


def charge_key(charge: float) -> str:
    """A total charge (|e|) as a key of the census: to a hundredth, so that there are never many."""
    return f"{round(charge, 2) + 0.0:g}"


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{n:,} with {kind}" for kind, n in sorted(kinds.items(), key=lambda item: float(item[0])))


class _Range:
    """Smallest, largest, mean and root mean square of many numbers."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.low, self.high, self.total, self.squares, self.n = np.inf, -np.inf, 0.0, 0.0, 0

    def add(self, values: np.ndarray) -> None:
        values = np.asarray(values, dtype=np.float64)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.total, self.squares, self.n = self.total + float(values.sum()), self.squares + float(values @ values), self.n + len(values)

    def state(self) -> dict[str, Any]:
        return {"unit": self.unit, "low": self.low, "high": self.high, "total": self.total, "squares": self.squares, "n": self.n}

    def merge(self, state: Mapping[str, Any]) -> None:
        self.low, self.high = min(self.low, state["low"]), max(self.high, state["high"])
        self.total, self.squares, self.n = self.total + state["total"], self.squares + state["squares"], self.n + state["n"]

    def to_dict(self) -> dict[str, Any]:
        mean, rms = self.total / self.n, float(np.sqrt(self.squares / self.n))
        return {"unit": self.unit, "min": self.low, "max": self.high, "mean": mean, "rms": rms}

    def title(self, name: str) -> str:
        return name.replace("_", " ") + (f" [{self.unit}]" if self.unit else "")

    def describe(self) -> str:
        row = self.to_dict()
        return f"{row['min']:.4g} .. {row['max']:.4g}, mean {row['mean']:.4g}, rms {row['rms']:.4g}"
