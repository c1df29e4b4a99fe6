"""Which labels files offer when nobody says: by the names that programs give them, looked for in every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unipot.data.labels import ASE_LABELS, WEIGHTS, LabelSource
from unipot.data.readers.comment_line import key_values, typed
from unipot.data.readers.extended_xyz import columns_of
from unipot.data.readers.folder_search import ase_format
from unipot.data.readers.xyz_atoms import ATOM_RESULTS
from unipot.data.readers.xyz_frames import COMPRESSED, FrameError, opened, scan_frames
from unipot.data.unread_keys import UnreadKey
from unipot.errors import InputError

#: what precedes or follows a label's name where it is not ASE's own; labels of one structure go together
_FAMILIES = ("", "ref", "dft")
#: label -> names that stand for it, the usual one first
_NAMES = {"energy": ("energy", "total_energy"), "forces": ("forces", "force"), "stress": ("stress",), "virial": ("virial", "virials")}
#: numbers of a structure or atom
_SIZES = {"energy": (1,), "forces": (3,), "stress": (9, 6), "virial": (9, 6)}
#: a virial is −dE/dε in eV: QUIP, MACE, GPUMD and DeePMD agree
_VIRIAL = {"unit": "eV", "sign": "compression", "virial": True}


@dataclass(frozen=True)
class AssumedLabels:
    """What is taken for the labels.

    Attributes:
        labels: property -> where it is found.
        keys: names of everything besides the geometry that was seen.
        remarks: sentences on what could not be decided.
    """

    labels: dict[str, LabelSource]
    keys: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()


@dataclass
class _Offers:
    """Keys and columns of files.

    Attributes:
        keys: by name.
        results: some of the files hold what ASE calls energy, forces and stress; which of them is seen when they are read.
    """

    keys: dict[str, UnreadKey] = field(default_factory=dict)
    results: bool = False


def assumed_labels(files: Sequence[Path], asked: Sequence[str] = ("energy",)) -> AssumedLabels:
    """Labels of `files`, decided by the headers of all their frames.

    Taken are `energy` in eV, `forces` in eV/A and `stress` in eV/A^3 with ASE's sign, also as `force` or `virial(s)` (−dE/dε, eV), and
    with `REF_` or `dft_` around the name. Where several could be meant, ASE's own names count, and else none is taken and said so.
    Of files that would have to be read whole for it (trajectories, databases, outputs of programs) ASE's names are taken: whether a
    frame has them is seen when it is read.

    Args:
        files: that ASE reads.
        asked: labels that must be there. Weights (`weight` in info, array `atom_weights`) are taken only when asked for.

    Raises:
        ValueError: a file cannot be read, or no frame has a label that was asked for.
    """
    offers = _Offers()
    for file in files:
        if not _look_at_headers(file, offers):
            offers.results = True
    return _assumed(", ".join(map(str, files[:3])), offers, asked)


def default_labels(path: str | Path, asked: Sequence[str] = ("energy",)) -> dict[str, LabelSource]:
    """`assumed_labels` of one file, of which every frame is read where its headers do not tell.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: see `assumed_labels`.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give the path of a structure file that ASE reads, such as extended XYZ")
    offers = _Offers()
    if not _look_at_headers(file, offers):
        _look_at_frames(file, offers)
    return _assumed(str(file), offers, asked).labels


def keys_of(path: str | Path) -> set[str]:
    """Names of everything besides the geometry that the frames of a file carry.

    Raises:
        ValueError: the file cannot be read.
    """
    offers = _Offers()
    if not _look_at_headers(Path(path), offers):
        _look_at_frames(Path(path), offers)
    return set(offers.keys)


def _assumed(where: str, offers: _Offers, asked: Sequence[str]) -> AssumedLabels:
    candidates = {(label, family): key for label in _NAMES for family in _FAMILIES if (key := _key_in_family(label, family, offers))}
    labels: dict[str, LabelSource] = {}
    remarks = []
    home = _family_taken(candidates)
    for label in ("energy", "forces", "stress"):
        names = ("stress", "virial") if label == "stress" else (label,)
        own = next(((name, candidates[name, home]) for name in names if (name, home) in candidates), None)
        # of another family only where that has no energies of its own, which the forces would belong to
        others = [
            (name, candidates[name, family])
            for family in _FAMILIES
            if family != home and ("energy", family) not in candidates
            for name in names
            if (name, family) in candidates
        ]
        if own or len(others) == 1:
            labels[label] = _source(*(own or others[0]))
        elif any((name, family) in candidates for name in names for family in _FAMILIES):
            could = sorted({key for (name, _), key in candidates.items() if name in names})
            remarks.append(f"{label} could be any of {', '.join(map(repr, could))} and is not read; state which")
    labels |= {name: source for name, source in WEIGHTS.items() if name in asked and source.key in offers.keys}
    for name in asked:
        if name not in labels:
            raise InputError(_absent(where, name, labels, offers, remarks))
    return AssumedLabels(labels, frozenset(offers.keys), tuple(remarks))


def _family_taken(candidates: dict[tuple[str, str], str]) -> str | None:
    """The family whose energies, or else forces, are taken; None where several could be."""
    for label in ("energy", "forces"):
        found = [family for family in _FAMILIES if (label, family) in candidates]
        if found:
            return found[0] if found[0] == "" or len(found) == 1 else None
    return next((family for _, family in candidates), None)


def _key_in_family(label: str, family: str, offers: _Offers) -> str | None:
    """The key of `label` in `family`, if it is there and of the right kind."""
    if family == "" and offers.results and label in ASE_LABELS:
        return label
    for name in _NAMES[label]:
        spellings = (name,) if not family else (f"{family}_{name}", f"{name}_{family}")
        for key, what in offers.keys.items():
            if key.lower() in spellings and what.size in _SIZES[label] and what.per_atom == (label == "forces"):
                return key
    return None


def _source(name: str, key: str) -> LabelSource:
    if name == "virial":
        return LabelSource(key=key, **_VIRIAL)  # type: ignore[arg-type]
    own = ASE_LABELS[name]
    return LabelSource(key=key, unit=own.unit, sign=own.sign)


def _absent(where: str, name: str, labels: dict[str, LabelSource], offers: _Offers, remarks: list[str]) -> str:
    without = "; unipot finetune trains on forces alone with labels=[forces]" if name == "energy" and "forces" in labels else ""
    remark = next((f"; {remark}" for remark in remarks if remark.startswith(name)), "")
    return (
        f"{where}: no frame has the label key {name!r}; keys in the file are: {', '.join(sorted(offers.keys)) or 'none'}{remark}; "
        f"name the right one, unipot prepare with labels.{name}.key=... labels.{name}.unit=..., other commands with "
        f"sources.{name}='{{key: ..., unit: ...}}'{without}"
    )


def _look_at_headers(file: Path, offers: _Offers) -> bool:
    """Note what the frames of a file carry, by their headers; False where those do not tell."""
    if ase_format(file) != "extxyz":
        return False
    _look_at_comments(file, offers.keys)
    return True


def _look_at_comments(file: Path, keys: dict[str, UnreadKey]) -> None:
    n_frames = 0
    layouts: set[str] = set()
    try:
        with opened(file) as stream:
            for frame in scan_frames(stream, None if file.suffix in COMPRESSED else file.stat().st_size):
                n_frames += 1
                try:
                    info = key_values(frame.comment)
                except ValueError:
                    continue  # whoever reads the frame says what is wrong
                layout = info.pop("Properties", "")
                if layout not in layouts:
                    layouts.add(layout)
                    for name, size in columns_of(layout):
                        keys.setdefault(name, UnreadKey(name, True, size, f"{file.stem}-{frame.number}"))
                for key, value in info.items():
                    if key not in keys:
                        keys[key] = UnreadKey.of(key, typed(value), f"{file.stem}-{frame.number}", per_atom=False)
    except FrameError as error:
        raise InputError(f"{file}, line {error.line}: frame {error.frame} cannot be read: {error.what}") from error
    if n_frames == 0:
        raise InputError(f"{file}: there are no frames in this file; check that it is complete")
    for key in ("Lattice", "pbc", "lattice"):
        keys.pop(key, None)


def _look_at_frames(file: Path, offers: _Offers) -> None:
    from unipot.data.readers.ase_files import frames_of

    for number, atoms in enumerate(frames_of(file)):
        values = {**(atoms.calc.results if atoms.calc is not None else {}), **atoms.info}
        for place, per_atom in ((values, False), (atoms.arrays, True)):
            for key, value in place.items():
                if key not in offers.keys and key not in ("numbers", "positions"):
                    rows = per_atom or key in ATOM_RESULTS
                    offers.keys[key] = UnreadKey.of(key, value, f"{file.stem}-{number}", per_atom=rows)


