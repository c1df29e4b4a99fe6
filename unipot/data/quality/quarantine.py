"""Quarantine: structures that look wrong are left out of a store and listed with the reason, the value and the limit.

`screen` looks at one batch while it is converted; `unipot.data.conversion.finishing` at what only the whole dataset shows.
A store keeps the list in `quarantine.jsonl`, one JSON object per line, read with `read_quarantine`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.labels import UNCONVERGED, SkippedItem
from unipot.data.quality.measurements import Measurements
from unipot.errors import InputError
from unipot.structure import Structure

FILE_NAME = "quarantine.jsonl"
#: threshold -> unit of its number
UNITS = {
    "max_force": "eV/A",
    "max_stress": "eV/A^3",
    "min_closest": "sums of covalent radii",
    "max_net_force": "eV/A times sqrt(atoms)",
    "max_net_torque": "eV times sqrt(atoms)",
    "min_volume_per_atom": "A^3",
    "max_volume_per_atom": "A^3",
    "max_energy_residual": "eV/atom",
    "max_energy_residual_spreads": "robust standard deviations",
    "max_adsorption_energy": "eV from the median",
    "max_pair_disagreement": "times what the trapezoid rule may miss",
}
DUPLICATE_CHOICES = ("keep", "drop")
INVALID = "invalid"
#: reasons for which a reader hands over no structure
NOT_READ = (INVALID, UNCONVERGED)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits beyond which a structure is put in quarantine; None switches a check off.

    The defaults are wide: none flags a frame of the thirty public sets they were tried on, from relaxed crystals to crystals
    under 1000 GPa and molecules at 600 K. A card narrows or widens them under `quarantine:`.

    Attributes:
        max_force: eV/Å, norm on one atom.
        max_stress: eV/Å³, any component (1 eV/Å³ is 160 GPa).
        min_closest: smallest distance ÷ sum of the covalent radii of the two atoms.
        max_net_force: eV/Å, |ΣF| ÷ √n_atoms: errors of independent atoms add up like that. Not applied where fixed atoms
            carry no force, as constraints leave them.
        max_net_torque: eV, |Σ (r−r̄)×F| ÷ √n_atoms, without periodic axes; as above for fixed atoms.
        min_volume_per_atom, max_volume_per_atom: Å³, with three periodic axes.
        max_energy_residual: eV/atom left by a composition regression over the dataset.
        max_energy_residual_spreads: the same in robust standard deviations of the dataset; counts only above 1 eV/atom.
        max_adsorption_energy: eV from the dataset's median, in place of the two above where energies are adsorption energies.
        max_pair_disagreement: how far the energy change between near-identical frames may miss the work of forces and stress,
            in multiples of half the work of the change of forces and stress plus 0.5 meV/atom; a frame that disagrees with two
            or more neighbours, and agrees with next to none, is the bad one.
        duplicates: `keep` counts and lists frames of equal geometry, `drop` puts all but the first in quarantine.

    Example:
        >>> Thresholds.from_card({"max_force": 50, "min_closest": None}).max_force
        50.0
    """

    max_force: float | None = 200.0
    max_stress: float | None = 20.0
    min_closest: float | None = 0.35
    max_net_force: float | None = 0.5
    max_net_torque: float | None = 0.5
    min_volume_per_atom: float | None = 1.0
    max_volume_per_atom: float | None = 1e5
    max_energy_residual: float | None = 20.0
    max_energy_residual_spreads: float | None = 30.0
    max_adsorption_energy: float | None = 30.0
    max_pair_disagreement: float | None = 5.0
    duplicates: str = "keep"

    def __post_init__(self) -> None:
        for name in UNITS:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise InputError(f"quarantine.{name} is {value!r}; give a positive number ({UNITS[name]}), or null to switch it off")
            object.__setattr__(self, name, float(value))
        if self.duplicates not in DUPLICATE_CHOICES:
            raise InputError(f"quarantine.duplicates is {self.duplicates!r}; use one of: {', '.join(DUPLICATE_CHOICES)}")

    @classmethod
    def from_card(cls, quarantine: Mapping[str, Any] | None) -> Thresholds:
        """Thresholds of a card's `quarantine:` mapping over the defaults.

        Raises:
            ValueError: a key is unknown, or a value is not allowed.
        """
        names = [field.name for field in fields(cls)]
        for key in quarantine or {}:
            if key not in names:
                close = get_close_matches(str(key), names, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise InputError(f"quarantine.{key} is not known{hint}; thresholds are: {', '.join(names)}")
        return cls(**dict(quarantine or {}))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Why one structure is not used.

    Attributes:
        reason: name of the threshold, or `invalid`, `unconverged`, `duplicate`.
        value: what was measured, None where there is no number.
        limit: what was allowed.
        detail: more words, for example the reader's message or the id of the frame that is repeated.
    """

    reason: str
    value: float | None = None
    limit: float | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class QuarantineEntry:
    """One line of `quarantine.jsonl`.

    Attributes:
        id: of the structure, or where in the source the item is.
        part: unit of work it came from, "" where there is one only.
        reason, value, limit, detail: see `Violation`.
        record: shard and number of the record that can still be read there; None where nothing was written.
    """

    id: str
    part: str
    reason: str
    value: float | None = None
    limit: float | None = None
    detail: str = ""
    record: tuple[str, int] | None = None

    @classmethod
    def of(cls, id: str, part: str, violation: Violation, record: tuple[str, int] | None = None) -> QuarantineEntry:
        """The line for `violation` of the structure `id`."""
        return cls(id=id, part=part, record=record, **asdict(violation))

    @classmethod
    def of_skipped(cls, item: SkippedItem, part: str) -> QuarantineEntry:
        """The line for an item that a reader could not use."""
        return cls(id=item.where, part=part, reason=item.quarantine or INVALID, detail=item.reason)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> QuarantineEntry:
        """Inverse of `to_dict`."""
        record = row.get("record")
        return cls(**{**row, "record": None if record is None else (str(record[0]), int(record[1]))})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "record": None if self.record is None else list(self.record)}


def violations(structures: Sequence[Structure], measurements: Measurements, thresholds: Thresholds) -> list[Violation | None]:
    """Per structure the first threshold it breaks, or None.

    Args:
        structures: n of them.
        measurements: their rows, from `unipot.data.quality.measurements.measure`.
        thresholds: the limits.
    """
    found: list[Violation | None] = [None] * len(structures)
    for reason, values, smallest in _checks(structures, measurements):
        limit = getattr(thresholds, reason)
        if limit is None:
            continue
        with np.errstate(invalid="ignore"):  # NaN stands for "does not apply" and breaks nothing
            broken = values < limit if smallest else values > limit
        for k in np.flatnonzero(broken).tolist():
            found[k] = found[k] or Violation(reason=reason, value=float(values[k]), limit=limit)
    return found


def screen(
    structures: Sequence[Structure], measurements: Measurements, thresholds: Thresholds, part: str = ""
) -> tuple[list[Structure], Measurements, list[QuarantineEntry]]:
    """Divide a batch into what is kept (with its measurements) and what is not.

    Args:
        structures: a batch with ids.
        measurements: their rows.
        thresholds: the limits.
        part: unit of work, for the entries.

    Returns:
        Structures kept, their measurements, and the entries of the others.
    """
    found = violations(structures, measurements, thresholds)
    kept = np.array([violation is None for violation in found], dtype=bool)
    if kept.all():
        return list(structures), measurements, []
    entries = [QuarantineEntry.of(s.id, part, v) for s, v in zip(structures, found, strict=True) if v is not None]
    good = [structure for structure, keep in zip(structures, kept, strict=True) if keep]
    return good, {name: column[kept] for name, column in measurements.items()}, entries


def quarantine_lines(entries: Iterable[QuarantineEntry]) -> Iterator[bytes]:
    """The lines of `quarantine.jsonl`."""
    for entry in entries:
        yield json.dumps(entry.to_dict(), allow_nan=False).encode() + b"\n"


def read_quarantine(path: str | Path) -> Iterator[QuarantineEntry]:
    """Entries of a store's folder (or of a `quarantine.jsonl`), one by one; none where the store has no such file.

    Raises:
        ValueError: a line is damaged.
        FileNotFoundError: there is nothing at `path`.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{file}: there is no such store or file")
    file = file / FILE_NAME if file.is_dir() else file
    if not file.exists():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                entry = QuarantineEntry.from_dict(json.loads(line))
            except (ValueError, TypeError, IndexError) as error:
                raise InputError(f"{file}, line {number}: not a quarantine entry ({error}); prepare the store again") from error
            yield entry


def _checks(structures: Sequence[Structure], measurements: Measurements) -> Iterator[tuple[str, np.ndarray, bool]]:
    """(reason, values (n,), whether small values are the bad ones)."""
    roots = np.sqrt([structure.n_atoms for structure in structures])
    loose = np.array([_is_free(structure) for structure in structures], dtype=bool)
    yield "min_closest", measurements["closest"], True
    yield "min_volume_per_atom", measurements["volume_per_atom"], True
    yield "max_volume_per_atom", measurements["volume_per_atom"], False
    yield "max_force", measurements["max_force"], False
    yield "max_stress", measurements["max_stress"], False
    yield "max_net_force", np.where(loose, measurements["net_force"] / roots, np.nan), False
    yield "max_net_torque", np.where(loose, measurements["net_torque"] / roots, np.nan), False


def _is_free(structure: Structure) -> bool:
    """Whether forces should sum to zero: not where fixed atoms have had theirs removed."""
    if not structure.fixed.any() or "forces" not in structure.labels:
        return True
    return bool(structure.labels["forces"][structure.fixed].any())
