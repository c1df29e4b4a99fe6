"""Posterior of the linear last layer of a head, and the error bars that follow from it for any structure.

A structure's energy is w·Φ_s plus terms without w, with Φ_s the hidden features of the head's readout summed over the atoms, times
the head's scale. With w ~ N(mean, Σ) the energy has variance ΦᵀΣΦ, a force component gᵀΣg with g = −∂Φ/∂R, and any linear
combination of energies dᵀΣd with d = Σ_s c_s Φ_s, in which errors that structures share cancel (Bigi, Chong, Ceriotti, "A
prediction rigidity formalism for low-cost uncertainties in trained neural networks", Mach. Learn.: Sci. Technol. 5, 045018, 2024).

The energy zero is no weight of that layer, but it was fitted to the same frames. What a shift per element takes of Φ over them, N·W for N
atoms of each element with W the features of an average atom, is therefore certain however wide Σ is along it: rows are Φ − N·W. Without
that, error bars were nearly the same for all structures of a composition and, calibrated as such, twenty times too small for
differences between them, in which that part cancels. The zero has an uncertainty of its own, from the number of frames (`zero`) and, for
compositions outside of what theirs span, from nothing being known of it (`open_compositions`); either cancels in differences between
structures of the same atoms.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch, collate
from unipot.models.derivatives import feature_forces, make_deformable
from unipot.structure import MAX_ATOMIC_NUMBER, Structure

if TYPE_CHECKING:
    from unipot.models.heads import Head
    from unipot.models.potential import Potential

#: of the tensors of a posterior in an artifact: 1 does not know which compositions are open, 2 not what a shift per element takes away
POSTERIOR_VERSIONS = (1, 2, 3)
#: standard normal quantile of a central 90 % interval
NORMAL_90 = 1.6448536269514722


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Standard deviations, calibrated: ± 1.645 of them is meant to cover 90 % of the errors.

    Attributes:
        energy: (n_structures,) eV, float64.
        forces: (n_atoms, 3) eV/Å per component, float64; None when not asked for.
    """

    energy: Tensor
    forces: Tensor | None = None


class LastLayerPosterior(nn.Module):
    """Gaussian over the last-layer weights of one head; all buffers are float64 and are never trained.

    Args:
        n_hidden: weights of the last layer.
        version: of its tensors, one of `POSTERIOR_VERSIONS`.

    Attributes:
        mean: (n_hidden,) the weights it belongs to.
        factor: (n_hidden, n_hidden) C with Σ = C Cᵀ, in eV per unit of Φ: lower triangular for a posterior; for an ensemble a
            column per member, its difference from the mean over √(members − 1), the others zero.
        calibration: (2,) factors on the standard deviations of energies and of forces, from held-out frames; 1 is none.
        fingerprint: (32,) uint8, SHA-256 of the weights that the features come from, see `fingerprint_of`.
        open_compositions: (119, 119) G, eV per atom: the energy zero of N atoms of each element has the standard deviation |NᵀG|, zero
            for compositions that the frames determine; None where it is not known (version 1).
        average_features: (119, n_hidden) W, the features of an average atom of each element; None where not known (before version 3).
        zero: (119, 119) H, like G: the zero that the frames determine has the standard deviation |NᵀH|, before calibration; None likewise.
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
                raise ValueError(f"{name} of a posterior must be finite and of shape {tuple(buffer.shape)}, got {tuple(value.shape)}")
            buffer.copy_(value)
        if not bool((self.calibration > 0).all()):
            raise ValueError(f"calibration factors are {list(calibration)}; they must be positive")
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


def structure_features(head: Head, scalars: Tensor, batch: AtomBatch) -> Tensor:
    """(n_structures, n_hidden) Φ in float64, such that energy = Φ·w + terms without w."""
    return batch.sum_over_atoms(head.readout.hidden(scalars).double()) * head.scale


def predict_uncertainty(potential: Potential, batch: AtomBatch, *, forces: bool = True) -> Uncertainty:
    """Error bars of a batch whose structures all belong to one head.

    Args:
        potential: its head has a posterior.
        batch: collated as for the potential.
        forces: one reverse pass per last-layer weight, or per member of an ensemble; without them the cost is that of an energy.

    Raises:
        ValueError: the head has no posterior, the batch mixes heads, or it lacks neighbours.
    """
    head = _head_of(potential, batch)
    posterior = require_posterior(head)
    if torch.is_inference_mode_enabled() and forces:
        raise ValueError("uncertainties of forces need gradients, which torch.inference_mode forbids; use torch.no_grad instead")
    with torch.set_grad_enabled(forces):
        geometry = make_deformable(batch, stress=False)
        features = structure_features(head, potential.backbone(geometry.batch).scalars, batch)
        energy = torch.linalg.vector_norm(posterior.energy_deviations(features.detach(), batch), dim=1)
        if not forces:
            return Uncertainty(energy=energy)
        variance = torch.zeros(batch.n_atoms, 3, dtype=torch.float64, device=energy.device)
        for row in feature_forces(features @ posterior.columns, geometry.positions):
            variance += row.double().square()
    return Uncertainty(energy=energy, forces=variance.sqrt() * posterior.calibration[1])


def energy_difference_uncertainty(
    potential: Potential, structures: Sequence[Structure], coefficients: Sequence[float], head: str | None = None
) -> float:
    """Standard deviation (eV) of Σ_s c_s E_s; what the energies have in common cancels, the energy zero where atoms balance.

    An adsorption energy is (+1, −1, −1) of the pair, slab and molecule, a barrier (+1, −1) of the saddle point and minimum.

    Args:
        potential: with a posterior in the head.
        structures: at least one.
        coefficients: one per structure.
        head: name; None if the model has only one with a posterior.

    Raises:
        ValueError: lengths differ, a coefficient is not finite, or the head has no posterior (or several have one and none is named).
        KeyError: there is no such head.
    """
    numbers = torch.tensor([float(c) for c in coefficients], dtype=torch.float64)
    if len(structures) == 0 or len(structures) != len(numbers):
        raise ValueError(f"{len(structures)} structures and {len(numbers)} coefficients are given; give one coefficient per structure")
    if not bool(torch.isfinite(numbers).all()):
        raise ValueError(f"coefficients are {list(coefficients)}; all must be finite")
    name = _only_head(potential) if head is None else head
    chosen, index = potential.heads[name], potential.heads.index(name)
    posterior = require_posterior(chosen)
    if posterior.version < POSTERIOR_VERSIONS[-1]:
        warnings.warn(
            f"the error bars of head {name!r} were made by an earlier unipot, whose error bars of energy differences are far too small; "
            "fine-tune again for others",
            stacklevel=2,
        )
    rows = []
    with torch.no_grad():
        for structure in structures:
            batch = collate([structure], cutoff=potential.cutoff, head_index=[index], dtype=potential.dtype).to(potential.device)
            features = structure_features(chosen, potential.backbone(batch).scalars, batch)
            rows.append(posterior.energy_deviations(features, batch)[0])
    return float(torch.linalg.vector_norm(numbers.to(potential.device) @ torch.stack(rows)))


def require_posterior(head: Head) -> LastLayerPosterior:
    """The posterior of `head`.

    Raises:
        ValueError: it has none.
    """
    if head.posterior is None:
        raise ValueError(
            f"head {head.name!r} has no last-layer posterior, so there are no uncertainties; fine-tune with uncertainty=last-layer "
            "(or ensemble)"
        )
    return head.posterior


def fingerprint_of(potential: Potential, head: Head) -> bytes:
    """SHA-256 of the float32 values of backbone and readout: equal in both dtypes of a model saved in float32."""
    digest = hashlib.sha256()
    for prefix, module in (("backbone", potential.backbone), ("readout", head.readout)):
        for name, tensor in sorted(module.state_dict().items()):  # type: ignore[attr-defined]
            values = tensor.detach().cpu()
            values = values.float() if values.is_floating_point() else values
            digest.update(f"{prefix}.{name}{tuple(values.shape)}".encode())
            digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return digest.digest()


def is_stale(potential: Potential, head: Head) -> bool:
    """Whether `head` has a posterior of other weights than the present ones."""
    return head.posterior is not None and bytes(head.posterior.fingerprint.cpu().tolist()) != fingerprint_of(potential, head)


def drop_posteriors(potential: Potential, names: Iterable[str] | None = None) -> list[str]:
    """Remove the posteriors of the heads `names` (default: the stale ones); returns the names of those that had one."""
    heads = [potential.heads[name] for name in (potential.head_names if names is None else names)]
    gone = [head for head in heads if head.posterior is not None and (names is not None or is_stale(potential, head))]
    for head in gone:
        head.posterior = None
    return [head.name for head in gone]


def drop_posteriors_of_learners(potential: Potential) -> list[str]:
    """Remove the posteriors that training will make stale: of all heads if the backbone learns, else of those whose readout does."""
    shared = any(parameter.requires_grad for parameter in potential.backbone.parameters())  # type: ignore[attr-defined]
    learn = [n for n in potential.head_names if shared or any(p.requires_grad for p in potential.heads[n].readout.parameters())]
    return drop_posteriors(potential, learn)


def _head_of(potential: Potential, batch: AtomBatch) -> Head:
    indices = batch.head_index.unique().tolist()
    if len(indices) != 1:
        raise ValueError(f"the batch has structures of {len(indices)} heads; uncertainties are computed for one head at a time")
    return potential.heads[potential.head_names[indices[0]]]


def _only_head(potential: Potential) -> str:
    able = [name for name in potential.head_names if potential.heads[name].posterior is not None]
    if len(able) != 1:
        raise ValueError(
            f"{len(able)} heads of this model have a last-layer posterior ({', '.join(able) or 'none'}); say which one with head=..."
        )
    return able[0]
