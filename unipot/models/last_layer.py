"""Posterior of the linear last layer of a head, and the error bars that follow from it for any structure.

A structure's energy is w·Φ_s plus terms without w, with Φ_s the hidden features of the head's readout summed over the
atoms, times the head's scale. With w ~ N(mean, Σ) the energy has variance ΦᵀΣΦ, a force component gᵀΣg with g = −∂Φ/∂R,
and any linear combination of energies dᵀΣd with d = Σ_s c_s Φ_s, in which errors that structures share cancel (Bigi,
Chong, Ceriotti, "A prediction rigidity formalism for low-cost uncertainties in trained neural networks", Mach. Learn.:
Sci. Technol. 5, 045018, 2024).

The energy zero is no weight of that layer, but it was fitted to the same frames. What a shift per element takes of Φ
over them, N·W for N atoms of each element with W the features of an average atom, is therefore certain however wide Σ
is along it: rows are Φ − N·W. Without that, error bars were nearly the same for all structures of a composition and,
calibrated as such, twenty times too small for differences between them, in which that part cancels. The zero has an
uncertainty of its own, from the number of frames (`zero`) and, for compositions outside of what theirs span, from
nothing being known of it (`open_compositions`); either cancels in differences between structures of the same atoms.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipot.batch import AtomBatch, collate
from unipot.errors import InputError
from unipot.models.derivatives import feature_forces, make_deformable
from unipot.models.posterior import POSTERIOR_VERSIONS, LastLayerPosterior
from unipot.structure import Structure

if TYPE_CHECKING:
    from unipot.models.heads import Head
    from unipot.models.potential import Potential


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Standard deviations, calibrated: ± 1.645 of them is meant to cover 90 % of the errors.

    Attributes:
        energy: (n_structures,) eV, float64.
        forces: (n_atoms, 3) eV/Å per component, float64; None when not asked for.
    """

    energy: Tensor
    forces: Tensor | None = None


def structure_features(head: Head, scalars: Tensor, batch: AtomBatch) -> Tensor:
    """(n_structures, n_hidden) Φ in float64, such that energy = Φ·w + terms without w."""
    return batch.sum_over_atoms(head.readout.hidden(scalars).double()) * head.scale


def predict_uncertainty(potential: Potential, batch: AtomBatch, *, forces: bool = True) -> Uncertainty:
    """Error bars of a batch whose structures all belong to one head.

    Args:
        potential: its head has a posterior.
        batch: collated as for the potential.
        forces: one reverse pass per last-layer weight, or per member of an ensemble; without them the cost is that of
            an energy.

    Raises:
        ValueError: the head has no posterior, the batch mixes heads, or it lacks neighbours.
    """
    head = _head_of(potential, batch)
    posterior = require_posterior(head)
    if torch.is_inference_mode_enabled() and forces:
        raise InputError("uncertainties of forces need gradients, which torch.inference_mode forbids; use torch.no_grad instead")
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

    An adsorption energy is (+1, −1, −1) of the pair, slab and molecule, a barrier (+1, −1) of the saddle point and
    minimum.

    Args:
        potential: with a posterior in the head.
        structures: at least one.
        coefficients: one per structure.
        head: name; None if the model has only one with a posterior.

    Raises:
        ValueError: lengths differ, a coefficient is not finite, or the head has no posterior (or several have one and
            none is named).
        KeyError: there is no such head.
    """
    numbers = torch.tensor([float(c) for c in coefficients], dtype=torch.float64)
    if len(structures) == 0 or len(structures) != len(numbers):
        raise InputError(f"{len(structures)} structures and {len(numbers)} coefficients are given; give one coefficient per structure")
    if not bool(torch.isfinite(numbers).all()):
        raise InputError(f"coefficients are {list(coefficients)}; all must be finite")
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
        raise InputError(
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
        raise InputError(f"the batch has structures of {len(indices)} heads; uncertainties are computed for one head at a time")
    return potential.heads[potential.head_names[indices[0]]]


def _only_head(potential: Potential) -> str:
    able = [name for name in potential.head_names if potential.heads[name].posterior is not None]
    if len(able) != 1:
        raise InputError(
            f"{len(able)} heads of this model have a last-layer posterior ({', '.join(able) or 'none'}); say which one with head=..."
        )
    return able[0]
