"""`Neighborhood`: what a layer needs of the neighbours, and the choice between its two forms."""

from __future__ import annotations

import os
import warnings
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.models.native import edge_functions, moment_invariants, neighbor_sums
from unipot.models.native.kernel_library import KernelUnavailableError, kernel
from unipot.models.native.neighbor_edges import make_edges
from unipot.models.native.neighbor_slots import make_slots

#: environment variable: "auto" (default), "kernel" or "slots"
NEIGHBOR_SUMS_VARIABLE = "UNIPOT_NEIGHBOR_SUMS"
#: what the kernels are compiled for
_DTYPES = (torch.float32, torch.float64)
_CHOICES = ("auto", "kernel", "slots")
_warned: set[str] = set()


class Neighborhood(Protocol):
    """Pairs of a batch and sums over them. Layers work on rows, one per atom, in an order of the neighbourhood's own.

    Attributes:
        compiled: whether compiled kernels do the work, that on atoms included.
        centre: (n_pairs,) row of the centre i.
        neighbor: (n_pairs,) row of the neighbour j.
        vectors: (n_pairs, 3) Å, r_ij; pairs that only fill up have the length of the cutoff.
    """

    compiled: ClassVar[bool]
    centre: Tensor
    neighbor: Tensor
    vectors: Tensor

    def to_rows(self, per_atom: Tensor) -> Tensor:
        """(n_atoms, ...) in the order of atoms -> in the order of rows."""
        ...

    def to_atoms(self, per_row: Tensor) -> Tensor:
        """(n_atoms, ...) in the order of rows -> in the order of atoms."""
        ...

    def moments(self, radial: Tensor, angular: Tensor, features: Tensor, n_shapes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Σ_j R Y ⊗ h_j, gathered by degree 0, 1, 2: (n_rows, 1 · N0 · F), (n_rows, 3, N1 · F), (n_rows, 5, N2 · F).

        Scalars: N = K0, K1, K2, from R_lk Y_lm h_j. Vectors: degree 1 of R_0k v_j, degrees 0 and 2 of the trace and the
        symmetric traceless part of R_1k r̂ ⊗ v_j; N = K1, K0, K1.

        Args:
            radial: (n_pairs, at least K0 + K1 + K2), radial functions R.
            angular: (n_pairs, 8), Y of degree 1, then of degree 2; Y of degree 0 is 1.
            features: (n_rows, F) scalars or (n_rows, 3, F) vectors.
            n_shapes: (K0, K1, K2); K2 must be 0 for vectors.
        """
        ...


def neighborhood(batch: AtomBatch, cutoff: float) -> Neighborhood:
    """The compiled kernel on a CPU where it can be compiled, matrix products over padded slots anywhere else.

    $UNIPOT_NEIGHBOR_SUMS = slots or kernel forces one of them.

    Args:
        batch: edges sorted by centre; positions and cell carry the autograd graph.
        cutoff: Å.

    Raises:
        ValueError: the variable has another value, or asks for a kernel that there is not.
    """
    return make_edges(batch) if use_kernel(batch) else make_slots(batch, cutoff)


def use_kernel(batch: AtomBatch) -> bool:
    choice = os.environ.get(NEIGHBOR_SUMS_VARIABLE, "auto")
    if choice not in _CHOICES:
        raise InputError(f"{NEIGHBOR_SUMS_VARIABLE} is {choice!r}; use one of: {', '.join(_CHOICES)}")
    fits = batch.positions.device.type == "cpu" and batch.positions.dtype in _DTYPES
    if choice == "kernel" and not fits:
        raise InputError(
            f"{NEIGHBOR_SUMS_VARIABLE}=kernel, but the batch is {batch.positions.dtype} on {batch.positions.device}; the kernel is for "
            "float32 and float64 on the CPU, use auto or slots"
        )
    if choice == "slots" or not fits:
        return False
    missing = missing_kernel()
    if missing is not None and choice == "kernel":
        raise InputError(f"{NEIGHBOR_SUMS_VARIABLE}=kernel, but {missing}")
    if missing is not None:
        _warn_once(missing)
    return missing is None


def missing_kernel() -> str | None:
    """Why the compiled kernels cannot be had on this machine, or None."""
    try:
        for module in (neighbor_sums, moment_invariants, edge_functions):
            kernel(module.SOURCE)
    except KernelUnavailableError as error:
        return str(error)
    return None


def _warn_once(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(
            f"sums over neighbours run without the compiled kernel, slower but with the same result: {reason}. "
            f"{NEIGHBOR_SUMS_VARIABLE}=slots says that this is meant",
            stacklevel=3,
        )
