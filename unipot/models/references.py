"""Composition references: one energy per element, in float64, owned by a head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from unipot.composition import CompositionFit, fit_composition
from unipot.errors import InputError
from unipot.structure import MAX_ATOMIC_NUMBER, symbols_of


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
        """Reference and report, see `unipot.composition.fit_composition`."""
        result = fit_composition(counts, energies)
        return cls(result.values, result.known), result

    def forward(self, atomic_numbers: Tensor) -> Tensor:
        """(n_atoms,) eV, float64.

        Raises:
            ValueError: an element has no reference value.
        """
        missing = ~self.known[atomic_numbers]
        if bool(missing.any()):
            raise InputError(
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
