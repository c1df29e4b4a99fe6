"""Labels against the pretrained model: numbers in another unit, with another sign, or of another level of theory than stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unipot.batch import AtomBatch
from unipot.finetune.alignment.align import AlignmentReport, completed_references, elements_of, energy_labels, for_head, predicted_energies
from unipot.finetune.alignment.parents import ParentScore
from unipot.models.potential import Potential
from unipot.properties import property_named
from unipot.training.losses import labelled_mask

#: |correlation| with the parent's predictions from which a factor is believed, and from which it is mentioned
CERTAIN, SUSPECT = 0.8, 0.5
#: a factor belongs to a unit within this of its logarithm: parents are up to 30 % too soft
_TOLERANCE = 0.3
#: heads that are asked, and how far their cosine may be below that of the best
_OPINIONS, _ALIKE = 4, 0.1
#: numbers that a correlation needs
_FEWEST_NUMBERS = 9
#: energies beyond the number of elements that it needs
_FEWEST_ENERGIES = 5
#: eV/atom between labels and a head of the same level of theory that are no rounding of settings any more
_LEVEL_DIFFERENCE = 0.1


@dataclass(frozen=True, kw_only=True)
class LabelScale:
    """Labels that follow the predictions of a head with a factor that a wrong unit or sign would give.

    Attributes:
        property: energy, forces or stress.
        head: that predicted.
        factor: root mean square of the labels over that of the predictions, negative where they are opposed.
        correlation: cosine between the two, energies after the best shift per element.
        stated: unit that the labels are said to have.
        units: those that explain the factor, the nearest first; empty where only the sign is wrong.
    """

    property: str
    head: str
    factor: float
    correlation: float
    stated: str
    units: tuple[str, ...]

    def sentence(self) -> str:
        """What is seen, what it means and what to do."""
        found = f"the {self.property} labels are {self.factor:.3g} times the predictions of head {self.head!r}"
        found += f" (correlation {self.correlation:.2f})"
        meaning = f", as when numbers in {' or '.join(self.units)} are stated to be in {self.stated}" if self.units else ""
        flipped = ("; their sign is reversed" if meaning else ", so their sign is reversed") if self.factor < 0 else ""
        if self.property == "stress" and flipped:
            flipped += " (tension <-> compression)"
        return f"{found}{meaning}{flipped}"


def label_scales(potential: Potential, heads: Sequence[str], batches: Sequence[AtomBatch], units: Mapping[str, str]) -> list[LabelScale]:
    """Properties whose labels look like numbers in another unit, or with another sign, than stated.

    A head that hardly knows the elements predicts forces that are right in direction and many times too small. So nothing is
    suspected where one of `heads` finds the numbers as large as stated.

    Args:
        potential: pretrained.
        heads: that resemble the labels most, the most alike first; `heads_alike` finds them.
        batches: labelled frames.
        units: property -> unit that its labels are stated to have.
    """
    first, pairs = heads[0], {head: _pairs(potential, head, batches) for head in heads}
    found = []
    for name in (name for name in pairs[first] if name in units):
        if any(_as_stated(*own[name]) for own in pairs.values()):
            continue
        found.append(_scale(name, first, *pairs[first][name], units[name]))
    return [scale for scale in found if scale is not None]


def heads_alike(scores: Sequence[ParentScore]) -> list[str]:
    """The heads whose forces point most as the labels do, or all the other way, best first; the best one where there are no forces."""
    cosine = {score.head: 0.0 if np.isnan(score.force_cosine) else abs(score.force_cosine) for score in scores}
    best = max(cosine, key=cosine.__getitem__)
    others = sorted((head for head in cosine if head != best), key=lambda head: -cosine[head])
    near = [head for head in others if cosine[head] > max(cosine[best] - _ALIKE, SUSPECT)]
    return [best, *near[: _OPINIONS - 1]]


def refuse_wrong_units(scales: Sequence[LabelScale]) -> tuple[str, ...]:
    """Stop where a factor is certain; sentences on those that are not.

    Raises:
        ValueError: naming every label whose unit or sign is wrong.
    """
    certain = [scale for scale in scales if abs(scale.correlation) >= CERTAIN]
    if certain:
        raise ValueError(
            f"{'; '.join(scale.sentence() for scale in certain)}: state the true unit and sign, with sources for a structure file "
            "(sources.forces='{key: forces, unit: kcal/mol/A}' and likewise for every label) or when the store is prepared; if the "
            "numbers are right, train on them with check_labels=false"
        )
    return tuple(f"{scale.sentence()}; check the unit" for scale in scales)


def level_warnings(report: AlignmentReport, scores: Sequence[ParentScore]) -> tuple[str, ...]:
    """Sentences where the labels hardly are of the level of theory that they are stated to be of.

    Two settings of one functional differ too, and a poor parent explains nothing; so these are hints and no proof.
    """
    found = []
    level, fit = report.level_of_theory, report.fit
    by_head = {score.head: score for score in scores}
    same = [score for score in scores if score.level_of_theory == level]
    parent = by_head.get(report.parent)
    if fit is not None and parent in same and abs(fit.mean_before) > max(_LEVEL_DIFFERENCE, 3 * fit.rmse_after):
        found.append(
            f"the frames are stated to be {level!r} as head {report.parent!r} is, but their energies differ from its by "
            f"{fit.mean_before:.3g} eV/atom on average: another functional, other pseudopotentials or another energy zero; "
            "if so, say it in level_of_theory"
        )
    if parent is not None and parent not in same and same and parent.force_mae < 0.5 * min(score.force_mae for score in same):
        found.append(
            f"the frames are stated to be {level!r}, but head {report.parent!r} ({parent.level_of_theory}) describes their forces with "
            f"{parent.force_mae:.3g} eV/A where head {same[0].head!r} of that level has {same[0].force_mae:.3g}; check level_of_theory"
        )
    if fit is not None and fit.n_frames > len(fit.elements) and fit.rmse_after > _LEVEL_DIFFERENCE:
        found.append(
            f"energies differ from those of head {report.parent!r} by {fit.rmse_after:.3g} eV/atom (RMS) even after the best shift per "
            "element: labels of mixed levels of theory or settings, a wrong unit, or frames far from what the head knows"
        )
    return tuple(found)


def _as_stated(labels: np.ndarray, predictions: np.ndarray) -> bool:
    """Whether predictions follow the labels with a factor of 1/2 to 2."""
    sizes = np.linalg.norm(labels), np.linalg.norm(predictions)
    return bool(0.5 < sizes[0] / max(sizes[1], 1e-30) < 2 and labels @ predictions >= SUSPECT * sizes[0] * sizes[1])


def _scale(name: str, head: str, labels: np.ndarray, predictions: np.ndarray, stated: str) -> LabelScale | None:
    norms = np.linalg.norm(labels), np.linalg.norm(predictions)
    if min(norms) == 0:
        return None
    correlation = float(labels @ predictions / (norms[0] * norms[1]))
    factor = float(np.copysign(norms[0] / norms[1], correlation))
    if abs(correlation) < SUSPECT:
        return None
    known = property_named(name).units
    off = {unit: abs(np.log(abs(factor) * value / known[stated])) for unit, value in known.items() if value != known[stated]}
    units = tuple(sorted((unit for unit, distance in off.items() if distance < _TOLERANCE), key=off.__getitem__))
    near_one = 0.5 < abs(factor) < 2
    if not near_one and not units:
        return None
    return LabelScale(
        property=name, head=head, factor=factor, correlation=correlation, stated=stated, units=() if near_one else units
    )  # fmt: skip


def _pairs(potential: Potential, head: str, batches: Sequence[AtomBatch]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Property -> labels and predictions, flat; properties with too few numbers are left out."""
    index, elements = potential.heads.index(head), elements_of(batches)
    labels: dict[str, list[np.ndarray]] = {"forces": [], "stress": []}
    predictions: dict[str, list[np.ndarray]] = {"forces": [], "stress": []}
    counts, energies = energy_labels(batches, elements)
    with completed_references(potential.heads[head], elements):
        predicted_energy = predicted_energies(potential, head, batches)
        for batch in batches:
            masks = {name: labelled_mask(name, batch) for name in labels}
            wanted = tuple(name for name, mask in masks.items() if bool(mask.any()))
            predicted = potential(for_head(batch, index), properties=wanted, create_graph=False) if wanted else None
            for name in wanted:
                labels[name].append(batch.labels[name][masks[name]].double().cpu().numpy().ravel())
                predictions[name].append(predicted[name][masks[name]].detach().double().cpu().numpy().ravel())
    found = {name: (np.concatenate(labels[name]), np.concatenate(predictions[name])) for name in labels if labels[name]}
    found = {name: pair for name, pair in found.items() if len(pair[0]) >= _FEWEST_NUMBERS}
    if len(energies) >= len(elements) + _FEWEST_ENERGIES:
        per_atom = counts.sum(axis=1, keepdims=True)
        fractions = counts / per_atom
        shifted = [y / per_atom[:, 0] - fractions @ np.linalg.lstsq(fractions, y / per_atom[:, 0])[0] for y in (energies, predicted_energy)]
        found["energy"] = (shifted[0], shifted[1])
    return found
