"""QM7-X: equilibrium and 100 displaced structures each of molecules with up to seven atoms of C, N, O, S, Cl, at PBE0+MBD.

Eight HDF5 files, each packed as `.xz` (unpacked into a folder of its name): molecule / structure / `atNUM`, `atXYZ` (Å),
`ePBE0+MBD` (eV), `totFOR` (eV/Å) and 40 more. A structure is `Geom-m<molecule>-i<isomer>-c<conformer>-opt`, or `-d<k>` in the end
when displaced. `DupMols.dat` lists duplicates among the equilibria.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.conformers import conformers
from unipot.data.readers.hdf5 import group_parts, read_array, read_groups, unpack_xz
from unipot.structure import Structure

FILES = tuple(f"{k}000" for k in range(1, 9))
DUPLICATES = "DupMols.dat"
MOLECULES_PER_PART = 50  # about 30,000 structures

#: value of the option -> its datasets of energies and of forces
LEVELS = {"pbe0_mbd": ("ePBE0+MBD", "totFOR"), "pbe0": ("ePBE0", "pbe0FOR")}
CHOICES = {"duplicates": ("drop", "keep"), "kind": ("all", "equilibrium", "displaced"), "level": tuple(LEVELS)}


def parts(raw: Path, file: str | int = "all", molecules_per_part: int = MOLECULES_PER_PART) -> list[str]:
    """Ranges of the molecules of each file; one that is still packed is unpacked first.

    Raises:
        ValueError: there is no such file in the set.
    """
    if str(file) not in ("all", *FILES):
        raise ValueError(f"file {file!r} of recipe 'qm7x' is not known; use all, {', '.join(FILES)}")
    names = [name for name in FILES if str(file) in ("all", name)]
    for name in names:
        unpack_xz(raw / f"{name}.xz", raw / name / name)
    return [part for name in names for part in group_parts(raw, f"{name}/{name}", groups_per_part=molecules_per_part)]


def structures(
    raw: Path, part: str, level: str = "pbe0_mbd", kind: str = "all", duplicates: str = "drop"
) -> Iterator[Structure | SkippedItem]:
    """The structures of the molecules of one part.

    Args:
        raw: folder with the files.
        part: one of `parts`.
        level: `pbe0_mbd`, or `pbe0` without dispersion; the level of theory of the store follows it.
        kind: `all`, `equilibrium` (of DFTB3+MBD), or `displaced`.
        duplicates: `drop` the listed equilibria and what was displaced from them, as the authors' own script can, or `keep`.

    Raises:
        FileNotFoundError: the list of duplicates is missing.
        ValueError: the value of an option is not known, or a file is damaged.
    """
    for option, value in (("duplicates", duplicates), ("kind", kind), ("level", level)):
        if value not in CHOICES[option]:
            raise ValueError(f"{option} {value!r} of recipe 'qm7x' is not known; use one of: {', '.join(CHOICES[option])}")
    dropped = _duplicates(raw / DUPLICATES) if duplicates == "drop" else frozenset()
    energy, forces = LEVELS[level]
    for molecule, group in read_groups(raw, part):
        for name in sorted(group):
            conformer, _, displacement = name.rpartition("-")
            if kind != "all" and (displacement == "opt") != (kind == "equilibrium"):
                continue
            if conformer in dropped:
                yield SkippedItem(where=name, reason=f"belongs to a duplicate equilibrium of {DUPLICATES}", invalid=False)
                continue
            frame = group[name]
            yield from conformers(
                atomic_numbers=read_array(frame, "atNUM"),
                positions=read_array(frame, "atXYZ")[None],
                energy=read_array(frame, energy),
                forces=read_array(frame, forces)[None],
                ids=[f"{molecule}/{name}"],
                group=molecule,
            )


def _duplicates(file: Path) -> frozenset[str]:
    """Conformers listed as duplicates, without `-opt`."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; download it, or convert with options.duplicates=keep")
    return frozenset(line.strip().removesuffix("-opt") for line in file.read_text(encoding="utf-8").split())
