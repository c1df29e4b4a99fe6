"""What a shift per element takes of the features of a last layer, and how certain the energy zero is that it was fitted to.

Energies Φ·w + N·b with a flat prior on the shifts b: given w, b is the least-squares fit of what is left. Then the energy of a structure
depends on w through Φ − N·W alone, with N·W the fit of the frames' own Φ, and on the frames through the errors that the fit averages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unipot.finetune.linear.readout_rows import ReadoutRows

#: singular values of the compositions below this part of the largest are zero, as in the fit of the last layer
RANK_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class EnergyZero:
    """For the elements of the frames, in the order of `ReadoutRows.fractions`.

    Attributes:
        average_features: (n_elements, n_weights) W, of an average atom of each element.
        factor: (n_elements, n_elements) H, eV per atom: the zero of N atoms of each element has the standard deviation |NᵀH|.
    """

    average_features: np.ndarray
    factor: np.ndarray

    def widths(self, rows: ReadoutRows, factor: np.ndarray) -> np.ndarray:
        """(n_energies,) eV/atom, standard deviations of the frames' energies for weights of the covariance factor factorᵀ."""
        own = (rows.blocks["energy"].design - rows.fractions @ self.average_features) @ factor
        return np.hypot(np.linalg.norm(own, axis=1), np.linalg.norm(rows.fractions @ self.factor, axis=1))


def energy_zero(rows: ReadoutRows, factor: np.ndarray) -> EnergyZero | None:
    """Of the frames that a last layer was fitted to.

    The zero of a composition that n frames have is off by about 1/√n of a typical deviation of theirs; in general by their leverage.

    Args:
        rows: of the last layer, with energies per atom.
        factor: (n_weights, k) C with the covariance C Cᵀ.

    Returns:
        None without energies, and where features do not differ beyond compositions: one frame, or one of each composition.
    """
    if not len(rows.fractions):
        return None
    left, singular, right = np.linalg.svd(rows.fractions, full_matrices=False)
    rank = int(np.sum(singular > RANK_TOLERANCE * singular.max(initial=0.0)))
    inverse = right[:rank].T / singular[:rank]
    average = inverse @ left[:, :rank].T @ rows.blocks["energy"].design
    deviations = (rows.blocks["energy"].design - rows.fractions @ average) @ factor
    free, square = len(deviations) - rank, float(np.sum(deviations**2))
    if free < 1 or square <= 1e-18 * float(np.sum((rows.blocks["energy"].design @ factor) ** 2)):
        return None
    spread = np.zeros((rows.fractions.shape[1],) * 2)
    spread[:, :rank] = np.sqrt(square / free) * inverse
    return EnergyZero(average_features=average, factor=spread)
