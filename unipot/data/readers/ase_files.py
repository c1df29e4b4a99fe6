"""Structure files that ASE reads, extended XYZ first: one frame after the other, never the whole file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipot.data.labels import (
    ASE_LABELS,
    CALCULATOR,
    WEIGHTS,
    LabelSource,
    SkippedItem,
    check_sources,
    convert_label,
    missing_keys_message,
    without_void_stress,
)
from unipot.data.readers.electronic_convergence import converged_only
from unipot.data.readers.extxyz_pieces import Piece, read_piece
from unipot.properties import PROPERTIES
from unipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

_FRAMES_FOR_DEFAULTS = 100


def read_ase_file(
    path: str | Path,
    *,
    labels: Mapping[str, LabelSource],
    group_key: str | None = None,
    id_key: str | None = None,
    piece: Piece | None = None,
    id_prefix: str | None = None,
    check_keys: bool = True,
    keep_unconverged: bool = False,
) -> Iterator[Structure | SkippedItem]:
    """Stream the frames of a file, or of a piece of it.

    A label key is looked up in the frame's calculator results (where ASE puts `energy`, `forces` and `stress` of
    extended XYZ, in its own sign), then in `info`, then in its per-atom arrays. An absent key is a missing label.

    Args:
        path: any file that ASE reads.
        labels: property name -> where it is found, its unit and sign.
        group_key: info key that says which material or trajectory a frame belongs to; by default frames stand alone.
        id_key: info key of a unique id; by default `<file>-<frame>`.
        piece: bytes of an extended XYZ file, from `extxyz_pieces.find_pieces`; None reads the whole file.
        id_prefix: in place of the file's name in default ids.
        check_keys: refuse a label key that no frame has; a caller that reads pieces checks them together.
        keep_unconverged: read frames whose electrons did not converge too, see `unipot.data.readers.electronic_convergence`.

    Yields:
        Structures, and a `SkippedItem` for each frame without any of the labels or with a defect.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ASE cannot read the file, there are no frames, or a label key is in none of them.
    """
    check_sources(labels)
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give the path of a structure file that ASE reads, such as extended XYZ")
    _refuse_order_of_results(file, labels)
    items = _read(file, dict(labels), group_key, id_key, piece, id_prefix or file.stem, check_keys)
    return items if keep_unconverged or piece is not None else converged_only(file, items)


def _refuse_order_of_results(file: Path, labels: Mapping[str, LabelSource]) -> None:
    """An order is for six numbers as a file has them; of a program's output ASE hands them over in its own."""
    stress = labels.get("stress")
    own = file.with_suffix("") if file.suffix in (".gz", ".bz2", ".xz") else file
    if stress is not None and stress.order != "voigt" and stress.key in ("stress", CALCULATOR) and own.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"{file}: ASE hands over the stress of such a file in its own order; leave order {stress.order!r} out")


def default_labels(path: str | Path, asked: Sequence[str] = ("energy",)) -> dict[str, LabelSource]:
    """Labels a file offers in ASE's own names and units: `energy` eV, `forces` eV/A, `stress` eV/A^3 with ASE's sign.

    For commands that take a user's file and nothing else; they say aloud what they assumed. The first hundred frames
    are looked at.

    Args:
        path: of the file.
        asked: labels that must be there. Weights (`weight` in info, array `atom_weights`) are taken only when asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or no frame has a label that was asked for.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give the path of a structure file that ASE reads, such as extended XYZ")
    offered = ASE_LABELS | {name: source for name, source in WEIGHTS.items() if name in asked}
    found: set[str] = set()
    keys: set[str] = set()
    for atoms in islice(frames_of(file), _FRAMES_FOR_DEFAULTS):
        keys |= _keys(atoms)
        found |= {name for name, source in offered.items() if _lookup(atoms, source.key, name) is not None}
    for name in asked:
        if name not in found:
            without = "; unipot finetune trains on forces alone with labels=[forces]" if name == "energy" and "forces" in found else ""
            raise ValueError(
                f"{file}: no frame has the label key {name!r}; keys in the file are: {', '.join(sorted(keys)) or 'none'}; "
                f"name the right one, unipot prepare with labels.{name}.key=... labels.{name}.unit=..., other commands with "
                f"sources.{name}='{{key: ..., unit: ...}}'{without}"
            )
    return {name: source for name, source in offered.items() if name in found}


def keys_of(path: str | Path) -> set[str]:
    """Names of everything besides the geometry that the first hundred frames of a file carry.

    Raises:
        ValueError: the file cannot be read.
    """
    return set().union(*(_keys(atoms) for atoms in islice(frames_of(Path(path)), _FRAMES_FOR_DEFAULTS)))


def _read(
    file: Path,
    labels: dict[str, LabelSource],
    group_key: str | None,
    id_key: str | None,
    piece: Piece | None,
    id_prefix: str,
    check_keys: bool,
) -> Iterator[Structure | SkippedItem]:
    unseen = dict(labels) if check_keys else {}
    keys: set[str] = set()
    first = piece.first_frame if piece else 0
    n_frames = 0
    for number, atoms in enumerate(frames_of(file, piece), start=first):
        n_frames += 1
        for name in [name for name, source in unseen.items() if _lookup(atoms, source.key, name) is not None]:
            del unseen[name]
        if unseen:
            keys |= _keys(atoms)
        yield _structure(atoms, labels, f"{id_prefix}-{number}", group_key, id_key)
    if n_frames == 0:
        raise ValueError(f"{file}: there are no frames in this file; check that it is complete")
    if unseen:
        raise ValueError(missing_keys_message(str(file), unseen, keys))


def frames_of(file: Path, piece: Piece | None = None) -> Iterator[Atoms]:
    """The frames of a file, or of a piece of it.

    Raises:
        ValueError: ASE cannot read one; file and frame are named.
    """
    from ase.io import iread

    number = piece.first_frame if piece else 0
    try:
        for atoms in read_piece(file, piece) if piece else iread(file, index=":"):
            yield atoms
            number += 1
    except Exception as error:  # ASE's parsers raise whatever their code runs into
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
            what = f"{error.args[0]!r} is no element symbol; check which column holds the elements"
            raise ValueError(f"{file}: frame {number} cannot be read by ASE: {what}") from error
        raise ValueError(f"{file}: frame {number} cannot be read by ASE ({reason}); the file is damaged or of an unknown format") from error


def _structure(
    atoms: Atoms, labels: dict[str, LabelSource], default_id: str, group_key: str | None, id_key: str | None
) -> Structure | SkippedItem:
    try:
        name = default_id if id_key is None else str(named_key(atoms, id_key, "id_key"))
        group = "" if group_key is None else str(named_key(atoms, group_key, "group_key"))
        values: dict[str, Any] = {}
        volume = atoms.cell.volume if atoms.cell.rank == 3 else 0.0
        found = {label: _lookup(atoms, source.key, label) for label, source in labels.items()}
        found = {label: value for label, value in found.items() if value is not None}
        for label, value in without_void_stress(found, labels, atoms.pbc, volume).items():
            values[label] = convert_label(label, labels[label], value, len(atoms), volume)
        structure = Structure.from_ase(atoms, labels=values, id=name, group=group)
    except ValueError as error:
        return SkippedItem(where=default_id, reason=str(error))
    if not set(values) - set(WEIGHTS):
        wanted = ", ".join(label for label in labels if label not in WEIGHTS)
        return SkippedItem(where=name, reason=f"it has none of the labels {wanted}", invalid=False)
    return structure


def _lookup(atoms: Atoms, key: str, property_name: str) -> Any:
    results = atoms.calc.results if atoms.calc is not None else {}
    if key == CALCULATOR:
        return results.get(property_name)
    per_atom = PROPERTIES[property_name].per == "atom"
    for place in (results, atoms.arrays if per_atom else atoms.info):
        if place.get(key) is not None:
            return place[key]
    return None


def named_key(atoms: Atoms, key: str, option: str) -> Any:
    """What a frame says under a key that has to be there.

    Raises:
        ValueError: it is not; the message lists those that are.
    """
    if key not in atoms.info:
        raise ValueError(f"{option} {key!r} is not in the frame; its info keys are: {', '.join(sorted(atoms.info)) or 'none'}")
    return atoms.info[key]


def _keys(atoms: Atoms) -> set[str]:
    results = atoms.calc.results if atoms.calc is not None else {}
    return {*results, *atoms.info, *atoms.arrays} - {"numbers", "positions"}
