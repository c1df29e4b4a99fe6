"""Which head of a checkpoint is nearest to the user's frames: align each, score each, take the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from unipot.batch import AtomBatch
from unipot.finetune.alignment.align import check_elements, completed_references, elements_of, energy_labels, for_head, predicted_energies
from unipot.finetune.alignment.composition_shift import fit_composition_shift
from unipot.models.potential import Potential
from unipot.structure import SYMBOLS
from unipot.training.metrics import evaluate

#: cosine between forces below which a head says nothing of the frames
UNRELATED = 0.3
#: a head counts as if its errors were so many times larger for each element that it has no reference for
_UNKNOWN_ELEMENT = 1.5
#: energy errors (eV/atom) are not compared below this: a shift per element fits few frames exactly
_ENERGY_FLOOR = 1e-3


@dataclass(frozen=True, kw_only=True)
class ParentScore:
    """How well one head describes the frames before any training.

    Attributes:
        head: its name.
        level_of_theory: of that head.
        energy_mae: eV/atom after the composition shift; nan without energies.
        energy_rmse: eV/atom after the composition shift; nan without energies.
        force_mae: eV/Å over components; nan without forces.
        force_rmse: eV/Å over components; nan without forces.
        force_cosine: mean over atoms, weighted by the labelled force, of the cosine between it and the predicted one; nan without.
        stress_mae: eV/Å³ over components; nan without stress.
        stress_rmse: eV/Å³ over components; nan without stress.
        unknown_elements: symbols without a reference in this head.
    """

    head: str
    level_of_theory: str
    energy_mae: float
    energy_rmse: float
    force_mae: float
    force_rmse: float
    force_cosine: float
    stress_mae: float
    stress_rmse: float
    unknown_elements: tuple[str, ...]

    @property
    def follows(self) -> bool:
        """Whether its forces follow those of the frames at all; without forces there is nothing against it."""
        return bool(np.isnan(self.force_cosine) or self.force_cosine >= UNRELATED)

    @property
    def rank(self) -> tuple[bool, float]:
        """Smaller is better: heads that follow the forces first, then by the geometric mean of force and energy errors.

        A head that predicts hardly any forces has small errors on frames that hardly have any, and knows nothing of them.
        """
        errors = [self.force_mae, max(self.energy_rmse, _ENERGY_FLOOR)]
        known = [value for value in errors if not np.isnan(value)]
        mean = float(np.exp(np.mean(np.log(np.maximum(known, 1e-12))))) if known else np.inf
        return not self.follows, mean * _UNKNOWN_ELEMENT ** len(self.unknown_elements)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; a missing score is None."""
        return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in asdict(self).items()}


def score_parents(potential: Potential, batches: Sequence[AtomBatch], heads: Sequence[str] | None = None) -> list[ParentScore]:
    """Score every head (or `heads`) on the frames, best first, see `ParentScore.rank`.

    Raises:
        KeyError: a head does not exist.
        ValueError: no frames, or an element the backbone does not know.
    """
    elements = elements_of(batches)
    check_elements(potential, elements)
    names = tuple(potential.heads.names) if heads is None else tuple(heads)
    scores = [_score(potential, name, batches, elements) for name in names]
    return sorted(scores, key=lambda score: score.rank)


def unrelated(scores: Sequence[ParentScore]) -> str | None:
    """A sentence where no head's forces follow those of the frames, whose smallest error then means small predictions; else None."""
    cosines = [score.force_cosine for score in scores if not np.isnan(score.force_cosine)]
    if not cosines or max(cosines) >= UNRELATED:
        return None
    return (
        f"no head's forces follow yours (largest cosine {max(cosines):.2f}): the checkpoint knows little of such structures, so random "
        "weights are compared with it where small-data mode searches; elsewhere compare with from_scratch=true"
    )


def _score(potential: Potential, name: str, batches: Sequence[AtomBatch], elements: tuple[int, ...]) -> ParentScore:
    head, index = potential.heads[name], potential.heads.index(name)
    counts, labels = energy_labels(batches, elements)
    with completed_references(head, elements) as unknown:
        table = evaluate(potential, [_as_one_dataset(for_head(batch, index)) for batch in batches], ("frames",))
        energies = predicted_energies(potential, name, batches)
    fit = fit_composition_shift(counts, labels - energies, elements) if len(labels) else None
    left = None if fit is None else np.mean(np.abs(labels - energies - counts @ fit.shift) / counts.sum(axis=1))
    forces, stress = (next((r for r in table.rows if r.property == p and r.element is None), None) for p in ("forces", "stress"))
    return ParentScore(
        head=name,
        level_of_theory=head.level_of_theory,
        energy_mae=_number(None if left is None else float(left)),
        energy_rmse=_number(None if fit is None else fit.rmse_after),
        force_mae=_number(forces and forces.mae),
        force_rmse=_number(forces and forces.rmse),
        force_cosine=_number(forces and forces.cosine),
        stress_mae=_number(stress and stress.mae),
        stress_rmse=_number(stress and stress.rmse),
        unknown_elements=tuple(SYMBOLS[z] for z in unknown),
    )


def _as_one_dataset(batch: AtomBatch) -> AtomBatch:
    return replace(batch, dataset_index=torch.zeros_like(batch.dataset_index))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
