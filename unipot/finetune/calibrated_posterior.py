"""Last-layer posterior of a finished head, its scale calibrated on frames that were not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from unipot.batch import AtomBatch
from unipot.finetune.align import elements_of, for_head
from unipot.finetune.evidence import laplace_posterior
from unipot.finetune.readout_fit import free_of_composition
from unipot.finetune.readout_rows import readout_rows
from unipot.models.last_layer import NORMAL_90, LastLayerPosterior, fingerprint_of, predict_uncertainty
from unipot.models.potential import Potential
from unipot.training.losses import labelled_mask

#: values of the option `uncertainty`
UNCERTAINTIES = ("last-layer", "none")
COVERAGE = 0.9
#: below which the conformal quantile does not exist
FEWEST_ERRORS = 9


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of the standard deviations of one property.

    Attributes:
        factor: that they are multiplied by.
        coverage_before: share of the errors within ± 1.645 standard deviations without the factor; nan without labels.
        n: errors (structures for energies, components for forces).
    """

    factor: float
    coverage_before: float
    n: int


@dataclass(frozen=True, kw_only=True)
class PosteriorReport:
    """What the error bars of a head rest on, for its card.

    Attributes:
        head: its name.
        n_frames: that the posterior was fitted to.
        effective_parameters: last-layer weights that they determine.
        noise: property -> misfit of the training frames, eV/atom, eV/Å, eV/Å³.
        calibrated_on: `held-out` or `training` frames.
        energy: eV per structure.
        forces: eV/Å per component.
        warnings: sentences the user should read.
    """

    head: str
    n_frames: int
    effective_parameters: float
    noise: dict[str, float]
    calibrated_on: str
    energy: Calibration
    forces: Calibration
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        content = asdict(self)
        for name in ("energy", "forces"):
            coverage = content[name]["coverage_before"]
            content[name]["coverage_before"] = None if np.isnan(coverage) else coverage
        return {**content, "method": "last-layer", "interval": COVERAGE, "warnings": list(self.warnings)}


def fit_posterior(potential: Potential, name: str, batches: Sequence[AtomBatch], held_out: Sequence[AtomBatch]) -> PosteriorReport:
    """Give head `name` a posterior around its present weights, which do not change.

    Args:
        potential: gets `heads[name].posterior`.
        name: of the head.
        batches: frames that it was trained on.
        held_out: frames that it was not trained on, for the calibration; none: the training frames, and a warning.

    Raises:
        KeyError: there is no such head.
        ValueError: it predicts forces directly, an element has no reference, or nothing is labelled.
    """
    head = potential.heads[name]
    rows = readout_rows(potential, name, batches, elements_of(batches), ["last-layer"])["last-layer"]
    weights = head.readout.output.weight.detach()[0].double().cpu().numpy()
    solution = laplace_posterior(free_of_composition(rows), weights)
    posterior = LastLayerPosterior(head.n_hidden)
    mean, factor = torch.from_numpy(solution.mean), torch.from_numpy(solution.factor)
    posterior.set(mean, factor, (1.0, 1.0), fingerprint_of(potential, head))
    head.posterior = posterior.to(potential.device)
    energy, forces = calibrations(potential, name, held_out or batches)
    posterior.set(mean, factor, (energy.factor, forces.factor), fingerprint_of(potential, head))
    return PosteriorReport(
        head=name,
        n_frames=rows.n_frames,
        effective_parameters=solution.effective,
        noise=solution.noise,
        calibrated_on="held-out" if held_out else "training",
        energy=energy,
        forces=forces,
        warnings=tuple(_warnings(bool(held_out), energy, forces)),
    )


def calibrations(potential: Potential, name: str, batches: Sequence[AtomBatch]) -> tuple[Calibration, Calibration]:
    """Of energies and forces, by the errors of head `name` on `batches`; its posterior is to have no calibration yet."""
    index, training = potential.heads.index(name), potential.training
    ratios: dict[str, list[np.ndarray]] = {"energy": [np.zeros(0)], "forces": [np.zeros(0)]}
    potential.eval()
    with _without_weight_gradients(potential):
        for batch in batches:
            own = for_head(batch, index)
            chosen = {p: labelled_mask(p, own) for p in ratios}
            needed = bool(chosen["forces"].any())
            predictions = potential(own, properties=("energy", "forces") if needed else ("energy",))
            widths = predict_uncertainty(potential, own, forces=needed)
            for p, mask in chosen.items():
                if bool(mask.any()):
                    error = (predictions[p].detach().double() - own.labels[p].double())[mask].abs().reshape(-1)
                    width = getattr(widths, p)[mask].reshape(-1)
                    ratios[p].append((error / width.clamp(min=1e-12)).cpu().numpy())
    potential.train(training)
    energy, forces = (calibration_of(np.concatenate(ratios[p])) for p in ("energy", "forces"))
    if energy.n == 0:
        return replace(energy, factor=forces.factor), forces
    return energy, forces if forces.n else replace(forces, factor=energy.factor)


def calibration_of(ratios: np.ndarray) -> Calibration:
    """Split-conformal factor from |error| / standard deviation: the ⌈(n + 1)·0.9⌉-th smallest, over 1.645.

    J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman, JASA 113, 1094 (2018), with the error scaled by the standard
    deviation. Fewer than nine errors cannot bound 90 % in that way: they are taken as normal of unknown scale, whose interval for
    the next error is Student's. Without any the factor is 1. Errors of one frame's force components are not independent, so
    coverage is approximate there.
    """
    n = len(ratios)
    if n == 0:
        return Calibration(factor=1.0, coverage_before=float("nan"), n=0)
    if n < FEWEST_ERRORS:
        bound = float(np.sqrt(np.mean(ratios**2)) * stats.t.ppf((1 + COVERAGE) / 2, n))
    else:
        bound = float(np.sort(ratios)[int(np.ceil((n + 1) * COVERAGE)) - 1])
    factor = max(bound / NORMAL_90, 1e-6)
    return Calibration(factor=factor, coverage_before=float(np.mean(ratios <= NORMAL_90)), n=n)


def _warnings(held_out: bool, energy: Calibration, forces: Calibration) -> Iterator[str]:
    if not held_out:
        yield "uncertainties are calibrated on training frames, for none were held out: expect them to be too small"
    for name, own in (("energies", energy), ("forces", forces)):
        if own.n == 0:
            yield f"no frame has {name} to calibrate their uncertainties on; they take the other factor"
        elif own.n < FEWEST_ERRORS:
            yield f"{own.n} {name} are few to calibrate 90 % intervals on: errors are taken as normal, the intervals are rough"


@contextmanager
def _without_weight_gradients(module: nn.Module) -> Iterator[None]:
    """Gradients of weights are not needed here."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
