"""Partly occupied sites of ASE structures, as CIF and PDB files have them: a potential needs whole atoms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from unipot.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

#: where ASE keeps occupancies: of the sites of a CIF in `info`, of the atoms of a PDB in a per-atom array
KEY = "occupancy"
#: an occupancy this near 1 is whole
_WHOLE = 0.999
#: sites and atoms named in a message
_NAMED = 6


def require_whole_atoms(atoms: Atoms, where: str) -> None:
    """Refuse a structure with sites that are partly occupied, which ASE hands over as if they were whole.

    Args:
        atoms: as ASE read them.
        where: begins the message: the file, or the id of the structure.

    Raises:
        ValueError: a site has an occupancy below 1, or several species; the sites are named.

    Example:
        >>> from ase import Atoms
        >>> require_whole_atoms(Atoms("Cu", info={"occupancy": {"0": {"Cu": 1.0}}}), "bulk.cif")
    """
    if KEY not in atoms.info and KEY not in atoms.arrays:
        return
    sites = [*_of_kinds(atoms), *_of_atoms(atoms)]
    if sites:
        named = "; ".join(sites[:_NAMED]) + (f"; and {len(sites) - _NAMED} more" if len(sites) > _NAMED else "")
        raise InputError(
            f"{where}: sites are partly occupied, and a potential needs whole atoms: {named}; give an ordered cell instead (pymatgen's "
            "OrderDisorderedStructureTransformation makes one); where the atoms are whole after all, take the occupancies out of the file"
        )


def _of_kinds(atoms: Atoms) -> list[str]:
    """Sites of a CIF: kind of site -> species -> occupancy; a per-atom array says which atoms are of a kind."""
    stated = atoms.info.get(KEY)
    if not isinstance(stated, Mapping):
        return []
    kinds = atoms.arrays.get("spacegroup_kinds")
    found: dict[str, np.ndarray] = {}
    for kind, species in stated.items():
        if isinstance(species, Mapping) and _is_partial(species):
            own = np.zeros(len(atoms), dtype=bool) if kinds is None else np.asarray(kinds).astype(str) == str(kind)
            if own.any() or kinds is None:  # the second species of a site has a kind and no atom
                words = " + ".join(f"{symbol} {share:g}" for symbol, share in species.items())
                found[words] = found.get(words, np.zeros_like(own)) | own
    return [f"{words}{_numbers(own)}" for words, own in found.items()]


def _of_atoms(atoms: Atoms) -> list[str]:
    """Atoms of a PDB. Programs that know of no occupancies write 0 or 1 for all of them, so only what lies between is partial."""
    shares = np.asarray(atoms.arrays.get(KEY, ()))
    if shares.dtype.kind not in "iuf" or not len(shares) or shares.ndim != 1 or shares.min() < 0 or shares.max() > 1:
        return []
    partial = (shares > 1 - _WHOLE) & (shares < _WHOLE)
    return [f"occupancy {share:g}{_numbers(partial & (shares == share))}" for share in np.unique(shares[partial])]


def _is_partial(species: Mapping[str, Any]) -> bool:
    shares = [float(share) for share in species.values() if isinstance(share, int | float | np.number)]
    return len([share for share in shares if share > 1 - _WHOLE]) > 1 or 1 - _WHOLE < max(shares, default=1.0) < _WHOLE


def _numbers(chosen: np.ndarray) -> str:
    """Numbers of the atoms chosen, in brackets; nothing where there are none."""
    numbers = np.flatnonzero(chosen).tolist()
    rest = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    words = ", ".join(map(str, numbers[:_NAMED])) + rest
    return f" (atom{'s' if len(numbers) > 1 else ''} {words}, counted from 0)" if numbers else ""
