"""The Gaussian over the last-layer weights of a head, as tensors; what follows from it for structures is in `last_layer`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.structure import MAX_ATOMIC_NUMBER

#: of the tensors of a posterior in an artifact: 1 does not know which compositions are open, 2 not what a shift per
#: element takes away
POSTERIOR_VERSIONS = (1, 2, 3)

#: standard normal quantile of a central 90 % interval
NORMAL_90 = 1.6448536269514722


class LastLayerPosterior(nn.Module):
    """Gaussian over the last-layer weights of one head; all buffers are float64 and are never trained.

    Args:
        n_hidden: weights of the last layer.
        version: of its tensors, one of `POSTERIOR_VERSIONS`.

    Attributes:
        mean: (n_hidden,) the weights it belongs to.
        factor: (n_hidden, n_hidden) C with Σ = C Cᵀ, in eV per unit of Φ: lower triangular for a posterior; for an
            ensemble a column per member, its difference from the mean over √(members − 1), the others zero.
        calibration: (2,) factors on the standard deviations of energies and of forces, from held-out frames; 1 is none.
        fingerprint: (32,) uint8, SHA-256 of the weights that the features come from, see `fingerprint_of`.
        open_compositions: (119, 119) G, eV per atom: the energy zero of N atoms of each element has the standard
            deviation |NᵀG|, zero for compositions that the frames determine; None where it is not known (version 1).
        average_features: (119, n_hidden) W, the features of an average atom of each element; None where not known
            (before version 3).
        zero: (119, 119) H, like G: the zero that the frames determine has the standard deviation |NᵀH|, before
            calibration; None likewise.
    """

    mean: Tensor
    factor: Tensor
    calibration: Tensor
    fingerprint: Tensor
    open_compositions: Tensor | None
    average_features: Tensor | None
    zero: Tensor | None

    def __init__(self, n_hidden: int, version: int = POSTERIOR_VERSIONS[0]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_hidden, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(n_hidden, dtype=torch.float64))
        self.register_buffer("calibration", torch.ones(2, dtype=torch.float64))
        self.register_buffer("fingerprint", torch.zeros(32, dtype=torch.uint8))
        n = MAX_ATOMIC_NUMBER + 1
        self.register_buffer("open_compositions", None if version == 1 else torch.zeros(n, n, dtype=torch.float64))
        self.register_buffer("average_features", torch.zeros(n, n_hidden, dtype=torch.float64) if version >= 3 else None)
        self.register_buffer("zero", torch.zeros(n, n, dtype=torch.float64) if version >= 3 else None)

    def set(self, mean: Tensor, factor: Tensor, calibration: Sequence[float], fingerprint: bytes) -> None:
        """Fill the buffers.

        Raises:
            ValueError: a shape differs, or a number is not finite, or a calibration factor not positive.
        """
        values = {"mean": mean, "factor": factor, "calibration": torch.tensor(list(calibration), dtype=torch.float64)}
        for name, value in values.items():
            buffer = getattr(self, name)
            if value.shape != buffer.shape or not bool(torch.isfinite(value).all()):
                raise InputError(f"{name} of a posterior must be finite and of shape {tuple(buffer.shape)}, got {tuple(value.shape)}")
            buffer.copy_(value)
        if not bool((self.calibration > 0).all()):
            raise InputError(f"calibration factors are {list(calibration)}; they must be positive")
        self.fingerprint.copy_(torch.tensor(list(fingerprint), dtype=torch.uint8))

    def set_zero(self, elements: Sequence[int], average_features: Tensor, zero: Tensor) -> None:
        """Fill `average_features` and `zero` of a version that has them; rows are of `elements`, other elements have zeros."""
        assert self.average_features is not None and self.zero is not None
        numbers = torch.tensor(list(elements))
        self.average_features[numbers] = average_features
        self.zero[numbers, : len(numbers)] = zero

    @property
    def version(self) -> int:
        """Of the tensors, see `POSTERIOR_VERSIONS`."""
        return 1 if self.open_compositions is None else 2 if self.average_features is None else 3

    def energy_deviations(self, features: Tensor, batch: AtomBatch) -> Tensor:
        """(n_structures, k) eV rows whose norm is the standard deviation of an energy, and that of Σ c_s rows that of Σ c_s E_s.

        Args:
            features: (n_structures, n_hidden) Φ, of `structure_features`.
            batch: the same structures.
        """
        parts = []
        if self.average_features is not None and self.zero is not None:
            features = features - batch.sum_over_atoms(self.average_features[batch.atomic_numbers])
            parts.append(self.calibration[0] * batch.sum_over_atoms(self.zero[batch.atomic_numbers]))
        if self.open_compositions is not None:
            parts.append(batch.sum_over_atoms(self.open_compositions[batch.atomic_numbers]))
        return torch.cat([self.calibration[0] * (features @ self.columns), *parts], dim=1)

    @property
    def columns(self) -> Tensor:
        """(n_hidden, n_columns) those of `factor` that are not zero: each is a pass for the uncertainties of forces."""
        return self.factor[:, self.factor.abs().amax(dim=0) > 0]

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():  # another device, never another dtype
            self._buffers[name] = buffer.to(self._buffers[name].device)  # type: ignore[union-attr]
        return self
