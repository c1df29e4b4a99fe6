"""OC20's raw files: LZMA-compressed extended XYZ with reference energies in a text file beside them.

The frames hold raw DFT totals; the text files hold, per frame or per system, the energy of the clean surface and the gas
molecules. The adsorption energy is their difference.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.data.readers.extended_xyz import Frame, frame_texts, parse_frame
from unipot.errors import InputError
from unipot.structure import Structure

ENERGIES = ("total", "adsorption")
FRAMES = ("relaxed", "ends", "all")
#: trajectories in one part: about 10^5 frames when all are used
TRAJECTORIES_PER_PART = 1000


def s2ef_parts(raw: Path, folder: str) -> list[str]:
    """The `<number>.extxyz.xz` files of an unpacked S2EF archive, as paths below `raw`, in order of number.

    Raises:
        FileNotFoundError: the folder is not there.
    """
    files = _unpacked(raw, folder).rglob("*.extxyz.xz")
    return [file.relative_to(raw).as_posix() for file in sorted(files, key=lambda file: (len(file.name), file.name, file))]


def read_s2ef(raw: Path, part: str, *, energy: str) -> Iterator[Structure | SkippedItem]:
    """Stream the frames of one `.extxyz.xz` file with its `.txt.xz` file (`system_id,frame_number,reference_energy`).

    Args:
        raw: folder of the raw files.
        part: a name from `s2ef_parts`.
        energy: `total` for the DFT energy of the frame, `adsorption` for that minus the reference energy.

    Yields:
        Structures with the id `<system>-<frame>-<file>-<line>` and the system as group.

    Raises:
        FileNotFoundError: the text file is missing.
        ValueError: a file is damaged or cut short, or the two do not have the same number of frames.
    """
    _check_option("energy", energy, ENERGIES)
    sidecar = raw / part.replace(".extxyz.xz", ".txt.xz")
    if not sidecar.is_file():
        raise FileNotFoundError(f"{sidecar}: no such file; each .extxyz.xz file comes with the .txt.xz file of its reference energies")
    number = part.rsplit("/", 1)[-1].removesuffix(".extxyz.xz")
    pairs = zip_longest(frame_texts(_lines(raw / part), part), _lines(sidecar))
    for line, (text, row) in enumerate(pairs):
        if text is None or row is None:
            longer, shorter = (sidecar.name, part) if text is None else (part, sidecar.name)
            raise InputError(f"{raw / part}: {longer} has more frames than {shorter}, which has {line}; fetch both again")
        where = f"{number}:{line}"
        try:
            system, frame, reference = row.strip().split(",")
            yield _structure(parse_frame(text), f"{system}-{frame}-{number}-{line}", system, float(reference), energy)
        except ValueError as error:
            yield SkippedItem(where=where, reason=_reason(error))


def trajectory_parts(raw: Path, folder: str) -> list[str]:
    """Blocks of trajectories of an unpacked archive, `<path of its system.txt>#<number>`, in the order of `system.txt`.

    Raises:
        FileNotFoundError: the folder or its `system.txt` is not there.
    """
    lists = sorted(_unpacked(raw, folder).rglob("system.txt"))
    if not lists:
        raise FileNotFoundError(f"{raw / folder}: no system.txt in it; unpack {folder}.tar there")
    blocks = []
    for file in lists:
        with file.open(encoding="utf-8") as lines:
            n_systems = sum(1 for line in lines if line.strip())
        blocks += [f"{file.relative_to(raw).as_posix()}#{k}" for k in range(-(-n_systems // TRAJECTORIES_PER_PART))]
    return blocks


def read_trajectories(raw: Path, part: str, *, energy: str, frames: str) -> Iterator[Structure | SkippedItem]:
    """Stream the relaxation trajectories of one block, one `<system>.extxyz.xz` file each.

    Args:
        raw: folder of the raw files.
        part: a name from `trajectory_parts`.
        energy: `total`, or `adsorption`: minus the reference energy of `system.txt` (`system_id,reference_energy`).
        frames: `relaxed` for the last frame, `ends` for the first and the last, or `all`.

    Yields:
        Structures with the id `<system>-<frame>` and the system as group; a `SkippedItem` for a trajectory that is missing or damaged.

    Raises:
        ValueError: an option is not known.
    """
    _check_option("energy", energy, ENERGIES)
    _check_option("frames", frames, FRAMES)
    file, block = part.rsplit("#", 1)
    listed = raw / file
    # `<name>/system.txt` lists the files of `<name>/<name>/`
    folder = listed.parent / listed.parent.name
    with listed.open(encoding="utf-8") as lines:
        rows = [line.strip() for line in lines if line.strip()]
    start = int(block) * TRAJECTORIES_PER_PART
    for row in rows[start : start + TRAJECTORIES_PER_PART]:
        system, _, reference = row.partition(",")
        try:
            yield from _trajectory(folder / f"{system}.extxyz.xz", system, float(reference), energy, frames)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the machine's fault, not the file's
            yield SkippedItem(where=system, reason=_reason(error))


def _trajectory(file: Path, system: str, reference: float, energy: str, frames: str) -> Iterator[Structure]:
    if not file.is_file():
        raise InputError("system.txt lists it but its trajectory is missing")
    last: tuple[int, list[str]] | None = None
    for number, text in enumerate(frame_texts(_lines(file), file.name)):
        if frames == "all" or (frames == "ends" and number == 0):
            yield _structure(parse_frame(text), f"{system}-{number}", system, reference, energy)
        else:
            last = number, text  # parsed only when no other follows
    if last is not None and frames != "all":
        yield _structure(parse_frame(last[1]), f"{system}-{last[0]}", system, reference, energy)


def _structure(frame: Frame, name: str, system: str, reference: float, energy: str) -> Structure:
    """`move_mask` F marks the atoms that the relaxation held fixed; their forces are kept as stored."""
    if frame.energy is None:
        raise InputError("it has no energy")
    if not np.isfinite(reference):
        raise InputError("its reference energy is not finite")
    labels = {"energy": np.array(frame.energy - (reference if energy == "adsorption" else 0.0))}
    if "forces" in frame.columns:
        labels["forces"] = frame.columns["forces"]
    moves = frame.columns.get("move_mask")
    return Structure(
        atomic_numbers=frame.atomic_numbers,
        positions=frame.columns["pos"],
        cell=frame.cell,
        pbc=frame.pbc,
        fixed=None if moves is None else ~moves.reshape(frame.n_atoms, -1).all(axis=1),
        labels=labels,
        id=name,
        group=system,
    )


def _lines(file: Path) -> Iterator[str]:
    try:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            yield from lines
    except (lzma.LZMAError, EOFError) as error:
        raise InputError(f"{file} is damaged or cut short ({error}); fetch it again") from error


def _unpacked(raw: Path, folder: str) -> Path:
    if not (raw / folder).is_dir():
        raise FileNotFoundError(f"{raw / folder}: no such folder; unpack {folder}.tar there")
    return raw / folder


def _check_option(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{option} {value!r} is not known; use one of: {', '.join(allowed)}")


def _reason(error: Exception) -> str:
    """The sentence without the id of the structure, so that equal defects are counted together."""
    text = str(error)
    return text.split(": ", 1)[1] if text.startswith("structure ") and ": " in text else text
