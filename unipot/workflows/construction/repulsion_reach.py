"""Where the repulsion of close nuclei ends, from the data that a model is about to be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from unipot.data.quality.close_pairs import closest_pairs
from unipot.models.core_repulsion import CoreRepulsion
from unipot.models.potential import Potential
from unipot.workflows.inputs.datasets import OpenDataset

#: pairs of elements named in a line
SHOWN = 6


def core_repulsion_of(reach: float | None, datasets: Sequence[OpenDataset]) -> CoreRepulsion | None:
    """Up to `reach` times the sum of the covalent radii, for pairs that training structures have closer up to their shortest distance.

    Raises:
        ValueError: `reach` is outside its range.
    """
    return None if reach is None else _admitting(CoreRepulsion(reach), datasets)


def admit_close_pairs(console: Console, potential: Potential, datasets: Sequence[OpenDataset]) -> None:
    """Let the repulsion of a trained model end where the structures that it is about to be trained on begin, and say for which pairs.

    It is the same for all heads: predictions of the others change too, for structures with such pairs alone, whatever
    the strategy.
    """
    core = potential.core_repulsion
    if core is None:
        return
    potential.core_repulsion = _admitting(core, datasets)
    changed = {pair: d for pair, d in potential.core_repulsion.closest.items() if d != core.closest.get(pair)}
    if changed:
        console.print(f"  closer than in pretraining: {_in_words(changed)}; the repulsion of close nuclei ends there now", highlight=False)


def show_core_repulsion(console: Console, potential: Potential) -> None:
    """One line, where there is such a repulsion."""
    core = potential.core_repulsion
    if core is not None:
        closer = f", where training data are closer there: {_in_words(core.closest)}" if core.closest else ""
        console.print(f"  repulsion of close nuclei below {core.reach:g} of the sum of covalent radii{closer}", highlight=False)


def _admitting(core: CoreRepulsion, datasets: Sequence[OpenDataset]) -> CoreRepulsion:
    for item in datasets:
        core = core.admitting(closest_pairs(item.store, core.reach, item.train_indices))
    return core


def _in_words(closest: Mapping[str, float]) -> str:
    """The closest ones first."""
    ordered = sorted(closest, key=lambda pair: closest[pair])
    rest = f" and {len(ordered) - SHOWN} more pairs" if len(ordered) > SHOWN else ""
    return ", ".join(f"{pair} {closest[pair]:.2f} Å" for pair in ordered[:SHOWN]) + rest
