"""Structures as pymatgen writes them to JSON, streamed from `.json`, `.json.gz`, `.json.bz2` and JSON lines; pymatgen is not needed.

Published materials datasets are single JSON documents of up to tens of gigabytes: one object of materials, or one array of
entries. `read_object` and `read_array` hold one value of it in memory at a time.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from unipot.data.labels import LabelSource, SkippedItem, convert_label
from unipot.errors import InputError, MissingPackage
from unipot.structure import SYMBOLS, Structure

_ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number} | {"D": 1, "T": 1}
#: relative and absolute (in the unit of the file) difference of mirrored stress components that is rounding of the code
_ASYMMETRY = (1e-3, 1e-3)
#: tokens that Python's json writes for numbers JSON does not have
_NON_FINITE = re.compile(rb"(?<=[\[,:\s])(?:NaN|-?Infinity)(?=[\],}\s])")
_LONGEST_TOKEN = 16
_CHUNK = 1 << 16


def read_object(file: str | Path, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Stream the keys and values of one JSON object.

    Args:
        file: `.json`, or compressed as `.json.gz` or `.json.bz2`.
        prefix: key of the object within the document; "" is the document itself.

    Yields:
        Key and value; numbers as int and float, `NaN` and infinities (which are not JSON) as None.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: ijson is not installed.
        ValueError: the file is cut short, damaged or not JSON, or there is no object at `prefix`.
    """
    yield from _stream(Path(file), "kvitems", prefix, "an object")


def read_array(file: str | Path, prefix: str = "") -> Iterator[Any]:
    """Stream the elements of one JSON array; see `read_object`.

    Args:
        file: `.json`, or compressed as `.json.gz` or `.json.bz2`.
        prefix: key of the array within the document, for example `entries`; "" is the document itself.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: ijson is not installed.
        ValueError: the file is cut short, damaged or not JSON, or there is no array at `prefix`.
    """
    yield from _stream(Path(file), "items", f"{prefix}.item" if prefix else "item", "an array")


def read_lines(file: str | Path) -> Iterator[Any]:
    """Stream a file with one JSON value per line, `.jsonl` or `.jsonl.gz`; `NaN` and infinities are read as None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short or damaged; the message names the line.
    """
    file, number = Path(file), 0
    with _opened_file(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                value = json.loads(line, parse_constant=lambda _: None) if line.strip() else None
            except ValueError as error:
                raise InputError(f"{file} is cut short or damaged at line {number} ({error}); fetch it again") from error
            if value is not None:
                yield value
    if number == 0:
        raise InputError(f"{file} is empty; fetch it again")


def labelled_structure(
    structure: Mapping[str, Any] | None, values: Mapping[str, Any], sources: Mapping[str, LabelSource], *, id: str, group: str
) -> Structure | SkippedItem:
    """A `Structure` from pymatgen's dictionary and the raw labels that stand beside it.

    Args:
        structure: pymatgen's `Structure.as_dict()`: lattice matrix (Å), sites with species and coordinates, charge; None: absent.
        values: label -> number(s) as the file gives them; None for a missing one. Names that `sources` lacks are ignored.
        sources: label -> unit and sign of its numbers.
        id: unique within the dataset.
        group: material or trajectory.

    Returns:
        The structure, or a `SkippedItem` when it is disordered, damaged or has none of the labels.

    Example:
        >>> cell = {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}
        >>> argon = {"lattice": cell, "sites": [{"species": [{"element": "Ar", "occu": 1}], "abc": [0, 0, 0]}]}
        >>> energy = LabelSource(key="energy", unit="eV")
        >>> labelled_structure(argon, {"energy": -1.5}, {"energy": energy}, id="ar-0", group="ar").n_atoms
        1
    """
    try:
        geometry = read_structure(structure)
        n_atoms, volume = len(geometry["atomic_numbers"]), float(abs(np.linalg.det(geometry["cell"])))
        labels = {
            name: convert_label(name, source, _rounded_off(values[name]) if name == "stress" else values[name], n_atoms, volume)
            for name, source in sources.items()
            if values.get(name) is not None
        }
        if not labels:
            return SkippedItem(where=id, reason=f"it has none of the labels {', '.join(sources)}", invalid=False)
        return Structure(**geometry, labels=labels, id=id, group=group)
    except (ValueError, TypeError) as error:
        return SkippedItem(where=id, reason=re.sub(r"^structure ('.*?'|without id): ", "", str(error)))


def read_structure(structure: Mapping[str, Any] | None) -> dict[str, Any]:
    """Geometry of pymatgen's `Structure.as_dict()`, as keyword arguments of `Structure`.

    Positions come from the fractional coordinates `abc`, as pymatgen itself reads them, else from `xyz` (Å).

    Raises:
        ValueError: a site is disordered or of no element, or a part of the dictionary is missing.
    """
    if not isinstance(structure, Mapping):
        raise InputError("it has no structure")
    try:
        lattice, sites = structure["lattice"], structure["sites"]
        cell = np.asarray(lattice["matrix"], dtype=np.float64)
        numbers = [_atomic_number(site["species"]) for site in sites]
        fractional = bool(sites) and all("abc" in site for site in sites)
        coordinates = np.asarray([site["abc" if fractional else "xyz"] for site in sites], dtype=np.float64)
    except (KeyError, TypeError) as error:
        raise InputError(f"the structure lacks {error}; it is not what pymatgen writes") from error
    return {
        "atomic_numbers": numbers,
        "positions": coordinates.reshape(-1, 3) @ cell if fractional else coordinates.reshape(-1, 3),
        "cell": cell,
        "pbc": lattice.get("pbc") or [True, True, True],
        "total_charge": float(structure.get("charge") or 0.0),
    }


def as_pymatgen(structure: Structure) -> dict[str, Any]:
    """The dictionary that pymatgen's `Structure.as_dict()` gives, without labels: the inverse of `read_structure`.

    Raises:
        ValueError: the structure has no full cell, which pymatgen's has.
    """
    if structure.volume == 0:
        raise InputError(f"structure {structure.id!r} has no full cell; pymatgen's Structure needs three lattice vectors")
    lengths = np.linalg.norm(structure.cell, axis=1)
    unit = structure.cell / lengths[:, None]
    angles = np.degrees(np.arccos(np.clip([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]], -1, 1)))
    named = zip(("a", "b", "c", "alpha", "beta", "gamma"), (*lengths.tolist(), *angles.tolist()), strict=True)
    fractional = np.linalg.solve(structure.cell.T, structure.positions.T).T.tolist()
    symbols = [SYMBOLS[number] for number in structure.atomic_numbers]
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": structure.total_charge,
        "lattice": {"matrix": structure.cell.tolist(), "pbc": structure.pbc.tolist(), **dict(named), "volume": structure.volume},
        "properties": {},
        "sites": [
            {"species": [{"element": symbol, "occu": 1}], "abc": abc, "properties": {}, "label": symbol, "xyz": xyz}
            for symbol, abc, xyz in zip(symbols, fractional, structure.positions.tolist(), strict=True)
        ],
    }


def _atomic_number(species: list[Mapping[str, Any]]) -> int:
    if len(species) != 1 or abs(float(species[0]["occu"]) - 1.0) > 1e-6:
        raise InputError("a site is disordered (several species, or an occupancy below 1); a potential needs whole atoms")
    symbol = species[0]["element"]
    if symbol not in _ATOMIC_NUMBERS:
        raise InputError(f"a site holds {symbol!r}, which is no element")
    return _ATOMIC_NUMBERS[symbol]


def _rounded_off(stress: Any) -> Any:
    """A 3×3 stress made symmetric where its two halves differ by rounding only; anything else unchanged."""
    try:
        matrix = np.asarray(stress, dtype=np.float64)
    except (ValueError, TypeError):
        return stress
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return stress
    relative, absolute = _ASYMMETRY
    noise = np.abs(matrix - matrix.T).max() <= max(relative * np.abs(matrix).max(), absolute)
    return 0.5 * (matrix + matrix.T) if noise else stress


def _stream(file: Path, method: str, prefix: str, what: str) -> Iterator[Any]:
    try:
        import ijson
    except ImportError as error:
        raise MissingPackage(f"{file}: streaming JSON needs ijson; install it with: pip install 'unipot[recipes]'") from error
    found = False
    with _opened_file(file) as stream:
        try:
            for item in getattr(ijson, method)(_Finite(stream), prefix, use_float=True):
                found = True
                yield item
        except ijson.JSONError as error:
            reason = " ".join(str(error).split())[:100]
            raise InputError(f"{file} is cut short or not JSON ({reason}); fetch it again") from error
    if not found:
        where = f"at {prefix.removesuffix('item').rstrip('.')!r}" if prefix.removesuffix("item") else "at its top"
        raise InputError(f"{file} has {what} {where} that is empty or not there; check that it is the right file")


@contextmanager
def _opened_file(file: Path) -> Iterator[IO[bytes]]:
    """The file, decompressed by its suffix; damage of the archive becomes one sentence."""
    import bz2
    import gzip

    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; fetch it or give the folder that holds it")
    opener = {".gz": gzip.open, ".bz2": bz2.open}.get(file.suffix, open)
    try:
        with opener(file, "rb") as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is cut short or damaged ({error}); fetch it again") from error
    except OSError as error:
        if error.errno is not None:  # of the file system, not of the archive
            raise
        raise InputError(f"{file} is not a {file.suffix} archive or is damaged ({error}); fetch it again") from error


class _Finite:
    """A stream for ijson in which NaN and infinities, which Python writes and JSON does not have, read as null."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._rest = b" "

    def read(self, size: int = _CHUNK) -> bytes:
        if size == 0:
            return b""  # ijson asks so for the type
        chunk = self._stream.read(_CHUNK)
        text = self._rest + chunk
        if b"NaN" in text or b"Infinity" in text:
            text = _NON_FINITE.sub(b"null", text)
        # a token may go on in the next chunk, and what precedes one must be seen with it
        ready = len(text) - _LONGEST_TOKEN if chunk else len(text)
        self._rest, text = text[max(ready, 0) :], text[: max(ready, 0)]
        return text if text or not chunk else self.read(size)
