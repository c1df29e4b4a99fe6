"""One density-functional calculation that recipes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unipot.errors import InputError
from unipot.units import BOHR, HARTREE

if TYPE_CHECKING:
    from ase import Atoms


def pbe_def2_svp(atoms: Atoms, grid_level: int = 3) -> tuple[float, np.ndarray]:
    """PBE/def2-SVP of a neutral closed-shell molecule, all electrons, density fitting (def2-universal-jfit), by PySCF.

    Args:
        atoms: positions in Å.
        grid_level: of PySCF's integration grid, 0 to 9.

    Returns:
        Energy (eV) and forces (n_atoms, 3) (eV/Å).

    Raises:
        RuntimeError: the self-consistent field did not converge.
        ValueError: PySCF is not installed.
    """
    try:
        from pyscf import dft, gto
    except ImportError as error:
        raise InputError("this recipe computes its labels with PySCF, which is not installed: pip install 'unipot[dft]'") from error
    molecule = gto.M(atom=list(zip(atoms.symbols, atoms.positions, strict=True)), basis="def2-svp", unit="Angstrom", verbose=0)
    field = dft.RKS(molecule, xc="PBE").density_fit(auxbasis="def2-universal-jfit")
    field.grids.level = grid_level
    field.conv_tol = 1e-8
    energy = field.kernel()
    if not field.converged:
        raise RuntimeError(f"PySCF: the self-consistent field did not converge for positions {atoms.positions.round(3).tolist()}")
    return energy * HARTREE, -field.nuc_grad_method().kernel() * HARTREE / BOHR
