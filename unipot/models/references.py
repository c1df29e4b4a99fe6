"""Composition references: one energy per element, in float64, owned by a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS, symbols_of

#: singular values below this fraction of the largest (columns scaled to one) count as undetermined
RANK_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class CompositionFit:
    """How well compositions determined one energy per element.

    Attributes:
        values: (119,) eV per atom, 0 for elements that do not occur.
        elements: atomic numbers that occur.
        n_frames: frames used.
        rank: directions that the compositions determine.
        condition: ratio of the largest to the smallest determined singular value.
        rmse_per_atom: eV/atom left after the fit.
        undetermined: the combinations of elements that the data leave open, in words; "" when there are none.
    """

    values: np.ndarray
    elements: tuple[int, ...]
    n_frames: int
    rank: int
    condition: float
    rmse_per_atom: float
    undetermined: str

    @property
    def n_elements(self) -> int:
        return len(self.elements)

    @property
    def known(self) -> np.ndarray:
        """(119,) bool, elements that occur in the fit."""
        known = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=bool)
        known[list(self.elements)] = True
        return known

    def sentence(self) -> str:
        text = (
            f"{self.n_frames} frames, {self.n_elements} elements, rank {self.rank}, condition {self.condition:.3g}, "
            f"residual {1000 * self.rmse_per_atom:.1f} meV/atom"
        )
        return text + (f"; not determined by the compositions: {self.undetermined}" if self.undetermined else "")


def fit_composition(counts: np.ndarray, energies: np.ndarray) -> CompositionFit:
    """Energy per element from totals, E_s ≈ Σ_Z N_sZ e_Z, by least squares on energies per atom in float64.

    Along directions that the compositions do not determine, the elements move together: among all minimisers the one
    closest to a common value per atom is taken, so thirty frames of one composition give one number, not garbage.

    Args:
        counts: (n_frames, 119) atoms of each element.
        energies: (n_frames,) eV, total.

    Raises:
        ValueError: there are no frames, an energy is not finite, or shapes disagree.
    """
    counts, energies = np.asarray(counts, dtype=np.float64), np.asarray(energies, dtype=np.float64)
    if len(energies) == 0:
        raise ValueError("references need at least one frame with an energy; give energies, or reference values per element")
    if counts.shape != (len(energies), MAX_ATOMIC_NUMBER + 1):
        raise ValueError(f"counts have shape {counts.shape}, expected {(len(energies), MAX_ATOMIC_NUMBER + 1)}")
    if not np.isfinite(energies).all():
        raise ValueError(f"{int((~np.isfinite(energies)).sum())} of {len(energies)} energies are not finite; drop those frames")
    elements = np.flatnonzero(counts.any(axis=0))
    n_atoms = counts.sum(axis=1)
    fractions, target = counts[:, elements] / n_atoms[:, None], energies / n_atoms
    column = np.linalg.norm(fractions, axis=0)
    padding = max(0, len(elements) - len(energies))  # zero rows, so that vt is square
    u, singular, vt = np.linalg.svd(np.pad(fractions / column, ((0, padding), (0, 0))), full_matrices=False)
    rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
    particular = (vt[:rank].T @ ((u[: len(target), :rank].T @ target) / singular[:rank])) / column
    null = np.linalg.qr((vt[rank:] / column).T)[0]  # (n_elements, n_elements - rank)
    solution = _closest_to_common(particular, null)
    values = np.zeros(MAX_ATOMIC_NUMBER + 1)
    values[elements] = solution
    return CompositionFit(
        values=values,
        elements=tuple(int(z) for z in elements),
        n_frames=len(energies),
        rank=rank,
        condition=float(singular[0] / singular[rank - 1]),
        rmse_per_atom=float(np.sqrt(np.mean((target - fractions @ solution) ** 2))),
        undetermined=_directions_in_words(null, elements),
    )


def _closest_to_common(particular: np.ndarray, null: np.ndarray) -> np.ndarray:
    """particular + null·z with z and δ minimising ‖particular + null·z − δ·1‖."""
    if null.shape[1] == 0:
        return particular
    ones = np.ones((len(particular), 1))
    unknowns = np.linalg.lstsq(np.hstack([null, -ones]), -particular, rcond=None)[0]
    return particular + null @ unknowns[:-1]


def _directions_in_words(null: np.ndarray, elements: np.ndarray) -> str:
    words = []
    for direction in null.T:
        significant = np.flatnonzero(np.abs(direction) > 0.05)
        words.append(" ".join(f"{direction[k]:+.2f} {SYMBOLS[elements[k]]}" for k in significant))
    return "; ".join(words)


class CompositionReference(nn.Module):
    """Energy per element, float64 whatever the dtype of the model.

    Args:
        values: (119,) eV per atom.
        known: (119,) bool, elements with a value.
    """

    values: Tensor
    known: Tensor

    def __init__(self, values: np.ndarray | Tensor | None = None, known: np.ndarray | Tensor | None = None) -> None:
        super().__init__()
        zeros = np.zeros(MAX_ATOMIC_NUMBER + 1)
        self.register_buffer("values", torch.as_tensor(zeros if values is None else values, dtype=torch.float64).clone())
        self.register_buffer("known", torch.as_tensor(zeros > 1 if known is None else known, dtype=torch.bool).clone())

    @classmethod
    def fit(cls, counts: np.ndarray, energies: np.ndarray) -> tuple[CompositionReference, CompositionFit]:
        """Reference and report, see `fit_composition`."""
        result = fit_composition(counts, energies)
        return cls(result.values, result.known), result

    def forward(self, atomic_numbers: Tensor) -> Tensor:
        """(n_atoms,) eV, float64.

        Raises:
            ValueError: an element has no reference value.
        """
        missing = ~self.known[atomic_numbers]
        if bool(missing.any()):
            raise ValueError(
                f"no reference energy for element(s) {symbols_of(atomic_numbers[missing].cpu().numpy())}; "
                f"known are: {self.known_symbols() or 'none'}"
            )
        return self.values[atomic_numbers]

    def known_symbols(self) -> str:
        return symbols_of(np.flatnonzero(self.known.cpu().numpy()))

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        # .to(float32) on a model must not round -1e5 eV references
        kept = self.values
        super()._apply(fn, recurse)
        self.values = kept.to(self.values.device)
        return self
