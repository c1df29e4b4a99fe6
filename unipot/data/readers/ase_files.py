"""Structure files that ASE reads, extended XYZ first: one frame after the other, never the whole file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipot.data.labels import (
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
from unipot.data.readers.extxyz_pieces import Piece
from unipot.data.readers.folder_search import ase_format, id_prefixes, search
from unipot.data.readers.xyz_atoms import ATOM_RESULTS, read_xyz
from unipot.data.readers.xyz_frames import is_xyz
from unipot.data.unread_keys import UnreadKey, UnreadKeys
from unipot.errors import InputError
from unipot.properties import PROPERTIES
from unipot.structure import CHARGE_KEYS, ISOTOPES, MULTIPLICITY_KEYS, Structure

if TYPE_CHECKING:
    from ase import Atoms

#: what `columns` may name of files whose geometry ASE knows
STATE_FIELDS = ("total_charge", "spin_multiplicity", "fixed")


class NoFramesError(InputError):
    """A file was read to its end and held no structure."""

    what = "there are no frames in this file; check that it is complete"

    def __init__(self, file: Path) -> None:
        super().__init__(f"{file}: {self.what}")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How a frame becomes a structure; the arguments of `read_ase_file`."""

    labels: Mapping[str, LabelSource]
    group_key: str | None
    id_key: str | None
    group: str
    id_prefix: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def keys(self) -> set[str]:
        """Everything that is read besides the geometry."""
        own = {source.key if source.key != CALCULATOR else name for name, source in self.labels.items()}
        return {*own, *self.columns.values(), *CHARGE_KEYS, *MULTIPLICITY_KEYS, "fixed", self.group_key or "", self.id_key or ""}


def read_ase_file(
    path: str | Path,
    *,
    labels: Mapping[str, LabelSource],
    group_key: str | None = None,
    id_key: str | None = None,
    columns: Mapping[str, str] | None = None,
    piece: Piece | None = None,
    id_prefix: str | None = None,
    group: str = "",
    check_keys: bool = True,
    keep_unconverged: bool = False,
    on_unread: Callable[[UnreadKey], None] | None = None,
) -> Iterator[Structure | SkippedItem]:
    """Stream the frames of a file, or of a piece of it.

    A label key is looked up in the frame's calculator results (where ASE puts `energy`, `forces` and `stress` of
    extended XYZ, in its own sign), then in `info`, then in its per-atom arrays. An absent key is a missing label.

    Args:
        path: any file that ASE reads.
        labels: property name -> where it is found, its unit and sign.
        group_key: info key that says which material or trajectory a frame belongs to.
        id_key: info key of a unique id; by default `<file>-<frame>`.
        columns: `total_charge`, `spin_multiplicity` or `fixed` -> key, where the names differ from those understood.
        piece: bytes of an extended XYZ file, from `extxyz_pieces.find_pieces`; None reads the whole file.
        id_prefix: in place of the file's name in default ids.
        group: of every frame, without a `group_key`; "" lets frames stand alone.
        check_keys: refuse a label key that no frame has; a caller that reads pieces checks them together.
        keep_unconverged: read frames whose electrons did not converge too, see `unipot.data.readers.electronic_convergence`.
        on_unread: told once of every key and column that nothing reads.

    Yields:
        Structures, and a `SkippedItem` for each frame without any of the labels or with a defect.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, there are no frames, a label key is in none of them, or `columns` has another field.
    """
    check_sources(labels)
    file = Path(path)
    for name in columns or ():
        if name not in STATE_FIELDS:
            raise InputError(f"{file}: columns.{name} is for tables; of a structure file it may name {', '.join(STATE_FIELDS)}")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give the path of a structure file that ASE reads, such as extended XYZ")
    _refuse_order_of_results(file, labels)
    reading = _Reading(
        labels=dict(labels), group_key=group_key, id_key=id_key, group=group, id_prefix=id_prefix or file.stem, columns=dict(columns or {})
    )
    items = _read(file, reading, piece, check_keys, UnreadKeys(reading.keys(), on_unread) if on_unread else None)
    return items if keep_unconverged or piece is not None else converged_only(file, items)


def _refuse_order_of_results(file: Path, labels: Mapping[str, LabelSource]) -> None:
    """An order is for six numbers as a file has them; of a program's output ASE hands them over in its own."""
    stress = labels.get("stress")
    if stress is not None and stress.order != "voigt" and stress.key in ("stress", CALCULATOR) and not is_xyz(file):
        raise InputError(f"{file}: ASE hands over the stress of such a file in its own order; leave order {stress.order!r} out")


def read_one_of_many(path: str | Path, *, id_prefix: str, **options: Any) -> Iterator[Structure | SkippedItem]:
    """`read_ase_file` of one of many calculations: where it cannot be read (on), that is one `SkippedItem` more."""
    try:
        yield from read_ase_file(path, id_prefix=id_prefix, **options)
    except NoFramesError as error:
        yield SkippedItem(where=id_prefix, reason=error.what, invalid=False)
    except ValueError as error:
        yield SkippedItem(where=id_prefix, reason=str(error).removeprefix(str(path)).lstrip(":, "))


def read_ase_folder(path: str | Path, *, labels: Mapping[str, LabelSource], **options: Any) -> Iterator[Structure | SkippedItem]:
    """Stream every file below a folder that ASE reads; without a `group_key`, the frames of a file are a group.

    Args:
        path: of the folder.
        labels, options: see `read_ase_file`.

    Raises:
        ValueError: a label key is in no frame.
    """
    root = Path(path)
    files = search(root).by_kind.get("ase", [])
    unseen = dict(labels)
    for file, prefix in id_prefixes(files, root).items():
        group = prefix if options.get("group_key") is None else ""
        for item in read_one_of_many(file, labels=labels, id_prefix=prefix, group=group, check_keys=False, **options):
            if isinstance(item, Structure):
                unseen = {name: source for name, source in unseen.items() if name not in item.labels}
            yield item
    if unseen:
        raise InputError(f"{root}: no frame has the label key {', '.join(repr(source.key) for source in unseen.values())}")


def read_frames(path: str | Path, index: slice | int = slice(None)) -> list[Atoms]:
    """Frames of a file as ASE counts them, each with what it carries.

    Raises:
        IndexError: there is no frame of that number.
        ValueError: one cannot be read.
    """
    frames = frames_of(Path(path))
    if isinstance(index, slice):
        backwards = any(bound is not None and bound < 0 for bound in (index.start, index.stop, index.step))
        return list(frames)[index] if backwards else list(islice(frames, index.start, index.stop, index.step))
    wanted = list(islice(frames, index, index + 1)) if index >= 0 else list(deque(frames, maxlen=-index))
    if len(wanted) < max(1, -index):
        raise IndexError(f"{path}: there is no frame {index}")
    return wanted[:1]


def _read(
    file: Path, reading: _Reading, piece: Piece | None, check_keys: bool, unread: UnreadKeys | None
) -> Iterator[Structure | SkippedItem]:
    unseen = dict(reading.labels) if check_keys else {}
    keys: set[str] = set()
    first = piece.first_frame if piece else 0
    n_frames = 0
    for number, atoms in enumerate(frames_of(file, piece), start=first):
        n_frames += 1
        for name in [name for name, source in unseen.items() if _lookup(atoms, source.key, name) is not None]:
            del unseen[name]
        if unseen:
            keys |= _keys(atoms)
        if unread is not None:
            _look_for_unread(atoms, unread, f"{reading.id_prefix}-{number}")
        yield _structure(atoms, reading, f"{reading.id_prefix}-{number}")
    if n_frames == 0:
        raise NoFramesError(file)
    if unseen:
        raise InputError(missing_keys_message(str(file), unseen, keys))


def _look_for_unread(atoms: Atoms, unread: UnreadKeys, where: str) -> None:
    if atoms.calc is not None:
        unread.look(where, atoms.calc.results, ATOM_RESULTS)
    unread.look(where, atoms.info)
    unread.look(where, atoms.arrays, atoms.arrays)


def frames_of(file: Path, piece: Piece | None = None) -> Iterator[Atoms]:
    """The frames of a file, or of a piece of it.

    Raises:
        ValueError: one cannot be read; file and frame are named.
    """
    format = "extxyz" if piece else ase_format(file)
    if format == "extxyz":
        return read_xyz(file, piece)
    return _rows_of(file, format) if format in ("db", "json") else _through_ase(file, format)


def _through_ase(file: Path, format: str) -> Iterator[Atoms]:
    from ase.io import iread

    number = 0
    try:
        # without the last argument, ASE takes what follows an @ in the name for an index
        for atoms in iread(str(file), index=":", format=format, do_not_split_by_at_sign=True):
            yield atoms
            number += 1
    except Exception as error:  # ASE's parsers raise whatever their code runs into
        raise _unreadable(file, number, error) from error


def _rows_of(file: Path, format: str) -> Iterator[Atoms]:
    """The rows of ASE's databases, with their key-value pairs and data in `info`, where ASE's reader leaves them out."""
    from ase.db import connect

    number = 0
    try:
        with connect(str(file), type=format, serial=True) as database:
            for row in database.select():
                atoms = row.toatoms()
                # ASE answers with properties of the row where a pair has the name of one, such as `charge`
                pairs = {key: vars(row).get(key, value) for key, value in row.key_value_pairs.items()}
                atoms.info |= {**pairs, **row.data}
                yield atoms
                number += 1
    except Exception as error:  # of SQLite, of JSON, or of damaged content
        raise _unreadable(file, number, error) from error


def _unreadable(file: Path, number: int, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        isotope = "; deuterium and tritium are H here" if error.args[0] in ISOTOPES else ""
        what = f"{error.args[0]!r} is no element symbol{isotope}; check which column holds the elements"
        return InputError(f"{file}: frame {number} cannot be read by ASE: {what}")
    return InputError(f"{file}: frame {number} cannot be read by ASE ({reason}); the file is damaged or of an unknown format")


def _structure(atoms: Atoms, reading: _Reading, default_id: str) -> Structure | SkippedItem:
    labels = reading.labels
    try:
        name = default_id if reading.id_key is None else str(named_key(atoms, reading.id_key, "id_key"))
        group = str(named_key(atoms, reading.group_key, "group_key")) if reading.group_key else reading.group
        values: dict[str, Any] = {}
        volume = atoms.cell.volume if atoms.cell.rank == 3 else 0.0
        found = {label: _lookup(atoms, source.key, label) for label, source in labels.items()}
        found = {label: value for label, value in found.items() if value is not None}
        for label, value in without_void_stress(found, labels, atoms.pbc, volume).items():
            values[label] = convert_label(label, labels[label], value, len(atoms), volume)
        structure = Structure.from_ase(atoms, labels=values, id=name, group=group, columns=reading.columns)
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
        raise InputError(f"{option} {key!r} is not in the frame; its info keys are: {', '.join(sorted(atoms.info)) or 'none'}")
    return atoms.info[key]


def _keys(atoms: Atoms) -> set[str]:
    results = atoms.calc.results if atoms.calc is not None else {}
    return {*results, *atoms.info, *atoms.arrays} - {"numbers", "positions"}
