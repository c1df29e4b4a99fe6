"""Which frames of a calculation's own output have electrons that did not converge: their numbers are no labels.

ASE's readers hand such frames over like any other. What is read here is only what the programs say of their cycles: vasprun.xml and
OUTCAR of VASP, output of Quantum ESPRESSO's pw.x, text output of GPAW.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from unipot.data.labels import UNCONVERGED, SkippedItem
from unipot.data.readers.folder_search import ase_format
from unipot.structure import Structure

REASON = "its electrons did not converge, so its numbers are no labels; keep_unconverged=true keeps such frames"
#: VASP's own defaults, where a file says neither
_NELM, _EDIFF = 60, 1e-4
_ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
_PW_RESULTS = (
    "!    total energy", "Forces acting on atoms", "total   stress", "Magnetic moment per site", "End of self-consistent calculation",
    "End of band structure calculation",
)  # fmt: skip


def converged_only(file: Path, items: Iterator[Structure | SkippedItem]) -> Iterator[Structure | SkippedItem]:
    """`items`, one per frame of `file` from its first on, those whose electrons did not converge replaced by the reason.

    Args:
        file: that the frames were read from; of other programs than those above nothing is known, and all frames pass.
        items: in the order of the file.
    """
    unconverged: dict[int, str] | None = None
    for number, item in enumerate(items):
        if unconverged is None:  # not before the file has shown that it can be read
            unconverged = unconverged_frames(file)
        if number in unconverged:
            name = item.id if isinstance(item, Structure) else item.where
            item = SkippedItem(where=f"{name} ({unconverged[number]})", reason=REASON, invalid=False, quarantine=UNCONVERGED)
        yield item


def unconverged_frames(file: Path) -> dict[int, str]:
    """Number of each frame, as ASE counts them, whose electrons did not converge -> how far they came.

    Example:
        >>> unconverged_frames(Path("frames.extxyz"))
        {}
    """
    from ase.io.formats import open_with_compression

    if not file.is_file():
        return {}
    try:
        scan = _SCANS.get(ase_format(file))
    except ValueError:
        return {}
    if scan is None:
        return {}
    with open_with_compression(str(file), "rb") as stream:
        return scan(stream)


def _of_vasprun(stream: IO[bytes]) -> dict[int, str]:
    """Cycles of each `calculation` against NELM; the change of the last one against EDIFF, since the last allowed may be enough."""
    from xml.etree.ElementTree import ParseError, iterparse

    found: dict[int, str] = {}
    settings = {"NELM": float(_NELM), "EDIFF": _EDIFF}
    number, energies = 0, []
    try:
        for _, element in iterparse(stream, events=("end",)):
            if element.tag == "i" and element.get("name") in settings:
                settings[str(element.get("name"))] = _number(element.text, settings[str(element.get("name"))])
            elif element.tag == "scstep":
                energies.append(_number(element.findtext("energy/i[@name='e_fr_energy']"), float("nan")))
                element.clear()
            elif element.tag == "calculation":
                change = abs(energies[-1] - energies[-2]) if len(energies) > 1 else float("inf")
                if energies and len(energies) >= settings["NELM"] and not change < settings["EDIFF"]:
                    found[number] = f"{len(energies)} cycles of NELM={settings['NELM']:.0f}"
                number, energies = number + 1, []
                element.clear()
    except ParseError:  # cut short: the frames before it stand
        pass
    return found


def _of_outcar(stream: IO[bytes]) -> dict[int, str]:
    """Whether each ionic step says that EDIFF was reached; steps that list no cycles, as in a shortened file, are not judged."""
    found: dict[int, str] = {}
    most, number, cycles, reached, failed = _NELM, 0, 0, False, False
    for line in _lines(stream):
        if "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
            if cycles and not reached and (failed or cycles >= most):
                found[number] = f"{cycles} cycles of NELM={most}"
            number, cycles, reached, failed = number + 1, 0, False, False
        elif "Iteration" in line and (match := _ITERATION.search(line)):
            cycles = int(match[1])
        elif "EDIFF is reached" in line:
            reached = True
        elif "EDIFF was not reached" in line or "hard stop encountered" in line:
            failed = True
        elif (setting := re.match(r"\s*NELM\s*=\s*(\d+)", line)) is not None:
            most = int(setting[1])
    return found


def _of_espresso(stream: IO[bytes]) -> dict[int, str]:
    """`convergence NOT achieved` between two configurations; ASE counts those that have any result."""
    found: dict[int, str] = {}
    number, has_results, failed = 0, False, ""
    for line in [*_lines(stream), "Program PWSCF"]:
        if "Program PWSCF" in line or "ATOMIC_POSITIONS" in line:
            if has_results:
                found |= {number: failed} if failed else {}
                number += 1
            has_results, failed = False, ""
        elif any(words in line for words in _PW_RESULTS):
            has_results = True
        elif "convergence NOT achieved" in line:
            failed = " ".join(line.split()).rstrip(":").removesuffix(": stopping")
    return found


def _of_gpaw(stream: IO[bytes]) -> dict[int, str]:
    """`Did not converge` behind the positions of a frame."""
    found: dict[int, str] = {}
    number = -1
    for line in map(str.lower, _lines(stream)):
        if line.rstrip("\n") == "positions:":
            number += 1
        elif number >= 0 and "did not converge" in line:
            found[number] = "did not converge, as GPAW says"
    return found


_SCANS: dict[str, Any] = {"vasp-xml": _of_vasprun, "vasp-out": _of_outcar, "espresso-out": _of_espresso, "gpaw-out": _of_gpaw}


def _lines(stream: IO[bytes]) -> Iterator[str]:
    return (line.decode("ascii", errors="replace") for line in stream)


def _number(text: str | None, otherwise: float) -> float:
    try:
        return float(text or "")
    except ValueError:
        return otherwise
