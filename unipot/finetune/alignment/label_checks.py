"""Labels against the pretrained model: numbers in another unit, sign or order, per atom, or of another level of theory than stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from unipot.batch import AtomBatch
from unipot.data.labels import order_where
from unipot.errors import InputError
from unipot.finetune.alignment.align import AlignmentReport, completed_references, elements_of, energy_labels, for_head, predicted_energies
from unipot.finetune.alignment.parents import ParentScore
from unipot.models.potential import Potential
from unipot.properties import property_named
from unipot.training.losses import labelled_mask

#: |correlation| with the parent's predictions from which a factor is believed, and from which it is mentioned
CERTAIN, SUSPECT = 0.8, 0.5
#: the same for a factor that fits no unit, and numbers that it needs: a head that hardly knows the elements predicts
#: too little
_CERTAIN_WITHOUT_UNIT, _FEWEST_WITHOUT_UNIT = 0.99, {"energy": 10, "forces": 30, "stress": 90}
#: how far the correlation of a head that finds the numbers as large as stated may be below the best for it to be
#: believed
_BELIEVED = 0.2
#: correlations closer than this are equal, and the head that is more alike in all decides
_TIED = 0.05
#: a factor belongs to a unit within this of its logarithm: parents are up to 30 % too soft
_TOLERANCE = 0.3
#: heads that are asked, and how far their cosine may be below that of the best
_OPINIONS, _ALIKE = 4, 0.1
#: numbers that a correlation needs
_FEWEST_NUMBERS = 9
#: energies beyond the number of elements that it needs, and structures whose shears are compared
_FEWEST_ENERGIES = 5
_FEWEST_STRESSES = 5
#: eV/atom between labels and a head of the same level of theory that are no rounding of settings any more
_LEVEL_DIFFERENCE = 0.1
#: where energies stand that are taken for energies per atom
_PER_ATOM = "energy per atom"


@dataclass(frozen=True, kw_only=True)
class LabelScale:
    """Labels that follow the predictions of a head, but with another factor, sign or order than stated.

    Attributes:
        property: energy, forces or stress.
        head: that predicted.
        factor: root mean square of the labels over that of the predictions, negative where they are opposed.
        correlation: cosine between the two, energies after the best shift per element.
        stated: unit that the labels are said to have.
        units: those that explain the factor, the nearest first; empty where the sign alone is wrong, or where no unit
            does.
        n: numbers compared.
        per_atom: they are explained as energies per atom.
        order: of six stress numbers that explains them; "" where the one that is stated does.
        too_soft: the forces of the head say that it hardly knows these systems, which explains the factor as well.
    """

    property: str
    head: str
    factor: float
    correlation: float
    stated: str
    units: tuple[str, ...]
    n: int = 0
    per_atom: bool = False
    order: str = ""
    too_soft: bool = False

    @property
    def is_certain(self) -> bool:
        """Whether a correlation this high leaves no other explanation."""
        if self.too_soft:
            return False
        if self.units or self.per_atom or self.order or _near_one(self.factor):
            return abs(self.correlation) >= CERTAIN
        return abs(self.correlation) >= _CERTAIN_WITHOUT_UNIT and self.n >= _FEWEST_WITHOUT_UNIT[self.property]

    def sentence(self) -> str:
        """What is seen, what it means and what to do."""
        if self.order:
            return (
                f"the shears of the stress labels follow the predictions of head {self.head!r} in the order {self.order!r} (correlation "
                f"{self.correlation:.2f}) and not in the one that is stated: state order: {self.order!r} for the stress"
            )
        if self.per_atom:
            return (
                f"the energy labels follow the predictions of head {self.head!r} as energies per atom do (factor {self.factor:.3g}, "
                f"correlation {self.correlation:.2f}), and not as energies of whole structures: multiply them by the number of atoms"
            )
        found = f"the {self.property} labels are {self.factor:.3g} times the predictions of head {self.head!r}"
        found += f" (correlation {self.correlation:.2f})"
        meaning = f", as when numbers in {' or '.join(self.units)} are stated to be in {self.stated}" if self.units else ""
        if not self.units and not _near_one(self.factor):
            meaning = f", a factor that fits no unit beside {self.stated}"
        flipped = ("; their sign is reversed" if meaning else ", so their sign is reversed") if self.factor < 0 else ""
        if self.property == "stress" and flipped:
            flipped += " (tension <-> compression)"
        return f"{found}{meaning}{flipped}"


def label_scales(
    potential: Potential, heads: Sequence[str], batches: Sequence[AtomBatch], units: Mapping[str, str], order: str = "voigt"
) -> list[LabelScale]:
    """Properties whose labels look like numbers in another unit, sign or order than stated, or like energies per atom.

    A head that hardly knows the elements predicts forces that are right in direction and many times too small. So
    nothing is suspected where one of `heads` that follows the labels finds the numbers as large as stated.

    Args:
        potential: pretrained.
        heads: that resemble the labels most, the most alike first; `heads_alike` finds them.
        batches: labelled frames.
        units: property -> unit that its labels are stated to have.
        order: that six stress numbers are stated to have.
    """
    pairs = {head: _pairs(potential, head, batches) for head in heads}
    found = []
    for name in (name for name in pairs[heads[0]] if name in units):
        of_heads = {head: own[name] for head, own in pairs.items()}
        correlations = {head: abs(_correlation(*pair)) for head, pair in of_heads.items()}
        best = next(head for head in heads if correlations[head] > max(correlations.values()) - _TIED)
        if not any(_as_stated(*pair, beside=of_heads[best]) for pair in of_heads.values()):
            per_atom = {head: own[_PER_ATOM] for head, own in pairs.items()} if name == "energy" else {}
            found.append(_energy_per_atom(per_atom, units[name]) or _scale(name, best, *of_heads[best], units[name]))
    if "stress" in units and "stress" in pairs[heads[0]]:
        found.append(_other_order({head: own["stress"] for head, own in pairs.items()}, units["stress"], order))
    scales = [scale for scale in found if scale is not None]
    if any(scale.property == "forces" and scale.is_certain for scale in scales):
        return scales  # the forces are in another unit than stated, and say nothing against the head
    forces = {head: own["forces"] for head, own in pairs.items() if "forces" in own}
    return [replace(scale, too_soft=_is_too_soft(scale, forces)) for scale in scales]


def _is_too_soft(scale: LabelScale, forces: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether a head that hardly knows the elements explains the factor of energies or stress.

    Of 25 crystals of silicon and molybdenum such heads predicted energies 9 to 16 times too small at a correlation of
    0.98 to 0.99, and forces 12 to 13 times too small.
    """
    if scale.property == "forces" or scale.per_atom or scale.order or scale.head not in forces:
        return False
    if 0.5 < _factor(*forces[scale.head]) / scale.factor < 2 and not _near_one(scale.factor):
        return True
    return not scale.units and not _near_one(scale.factor) and not any(_as_stated(*pair) for pair in forces.values())


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
    certain = [scale for scale in scales if scale.is_certain]
    if certain:
        raise InputError(
            f"{'; '.join(scale.sentence() for scale in certain)}: state the true unit, sign and order, with sources for a structure file "
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


def _near_one(factor: float) -> bool:
    return 0.5 < abs(factor) < 2


def _correlation(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Cosine between the two; 0 where one is nothing but zeros."""
    return float(labels @ predictions / max(np.linalg.norm(labels) * np.linalg.norm(predictions), 1e-300))


def _factor(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.copysign(np.linalg.norm(labels) / max(np.linalg.norm(predictions), 1e-30), labels @ predictions))


def _as_stated(labels: np.ndarray, predictions: np.ndarray, beside: tuple[np.ndarray, np.ndarray] | None = None) -> bool:
    """Whether predictions follow the labels with a factor of 1/2 to 2, and hardly less than those of the best head do."""
    needed = SUSPECT if beside is None else max(SUSPECT, abs(_correlation(*beside)) - _BELIEVED)
    return _near_one(_factor(labels, predictions)) and _correlation(labels, predictions) >= needed


def _energy_per_atom(of_heads: Mapping[str, tuple[np.ndarray, np.ndarray]], stated: str) -> LabelScale | None:
    """Energies that agree with a head as energies per atom, from what `_pairs` has under `_PER_ATOM`."""
    found = {head: pair for head, pair in of_heads.items() if _as_stated(*pair) and _correlation(*pair) >= CERTAIN}
    if not found:
        return None
    head = max(found, key=lambda name: _correlation(*found[name]))
    labels, predictions = found[head]
    return LabelScale(
        property="energy",
        head=head,
        factor=_factor(labels, predictions),
        correlation=_correlation(labels, predictions),
        stated=stated,
        units=(),
        n=len(labels),
        per_atom=True,
    )


def _other_order(of_heads: Mapping[str, tuple[np.ndarray, np.ndarray]], stated: str, order: str) -> LabelScale | None:
    """Shears that follow a head when they are exchanged, and follow none as they are."""
    shears = {head: [matrices.reshape(-1, 3, 3)[:, (1, 0, 0), (2, 2, 1)] for matrices in pair] for head, pair in of_heads.items()}
    best: tuple[float, str, tuple[int, ...]] = (CERTAIN, "", (0, 1, 2))
    for head, (labels, predictions) in shears.items():
        for places in permutations(range(3)) if len(labels) >= _FEWEST_STRESSES else ():
            best = max(best, (_correlation(labels[:, places].ravel(), predictions.ravel()), head, places))
    correlation, head, places = best
    as_read = max(_correlation(labels.ravel(), predictions.ravel()) for labels, predictions in shears.values())
    if not head or as_read > min(SUSPECT, correlation - 0.3):
        return None
    labels, predictions = shears[head]
    return LabelScale(
        property="stress",
        head=head,
        factor=_factor(labels[:, places].ravel(), predictions.ravel()),
        correlation=correlation,
        stated=stated,
        units=(),
        n=labels.size,
        order=order_where(order, places),
    )


def _scale(name: str, head: str, labels: np.ndarray, predictions: np.ndarray, stated: str) -> LabelScale | None:
    correlation, factor = _correlation(labels, predictions), _factor(labels, predictions)
    if abs(correlation) < SUSPECT:
        return None
    known = property_named(name).units
    off = {unit: abs(np.log(abs(factor) * value / known[stated])) for unit, value in known.items() if value != known[stated]}
    units = tuple(sorted((unit for unit, distance in off.items() if distance < _TOLERANCE), key=off.__getitem__))
    if _near_one(factor) and factor > 0 or not units and not _near_one(factor) and abs(correlation) < CERTAIN:
        return None
    return LabelScale(
        property=name,
        head=head,
        factor=factor,
        correlation=correlation,
        stated=stated,
        units=() if _near_one(factor) else units,
        n=len(labels),
    )


def _pairs(potential: Potential, head: str, batches: Sequence[AtomBatch]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Property -> labels and predictions, flat; properties with too few numbers are left out. Energies also as if they were per atom."""
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
        columns = np.stack([energies, predicted_energy, energies * per_atom[:, 0]], axis=1) / per_atom
        shifted = columns - fractions @ np.linalg.lstsq(fractions, columns)[0]
        found["energy"], found[_PER_ATOM] = (shifted[:, 0], shifted[:, 1]), (shifted[:, 2], shifted[:, 1])
    return found
