"""How wrong differences of energies are, between structures of one composition, and how wrong their error bars say they are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from unipot.batch import AtomBatch
from unipot.finetune.uncertainty.calibration import ErrorsAndWidths
from unipot.models.last_layer import require_posterior, structure_features
from unipot.models.potential import Potential
from unipot.training.losses import labelled_mask


def difference_errors(potential: Potential, batches: Iterable[AtomBatch]) -> ErrorsAndWidths:
    """Each structure with an energy is compared with the next one of the same composition; the last of each has none.

    Args:
        potential: its head has a posterior.
        batches: of one head each, all of the same; on any device.

    Returns:
        Errors and standard deviations in eV; `structures` are numbers of the pairs.

    Raises:
        ValueError: the head has no posterior.
    """
    errors: list[float] = []
    rows: list[np.ndarray] = []
    compositions: dict[bytes, list[int]] = {}
    for batch in (given.to(potential.device) for given in batches):
        head = potential.heads[potential.head_names[int(batch.head_index[0])]]
        with torch.no_grad():
            energies = potential(batch, properties=("energy",)).energy
            features = structure_features(head, potential.backbone(batch).scalars, batch)
        deviations = require_posterior(head).energy_deviations(features, batch).cpu().numpy()
        elements, owner = batch.atomic_numbers.cpu().numpy(), batch.structure_index.cpu().numpy()
        for k in labelled_mask("energy", batch).nonzero()[:, 0].tolist():
            compositions.setdefault(np.bincount(elements[owner == k], minlength=119).tobytes(), []).append(len(errors))
            errors.append(float(energies[k].double() - batch.labels["energy"][k]))
            rows.append(deviations[k])
    pairs = [pair for same in compositions.values() for pair in zip(same, same[1:], strict=False)]
    return ErrorsAndWidths(
        errors=np.array([abs(errors[a] - errors[b]) for a, b in pairs]),
        widths=np.array([np.linalg.norm(rows[a] - rows[b]) for a, b in pairs]),
        structures=np.arange(len(pairs)),
    )
