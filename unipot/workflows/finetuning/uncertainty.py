"""The last step of fine-tuning: error bars for the finished head, stored with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from unipot.data.statistics import labelled_compositions
from unipot.errors import InputError
from unipot.finetune.alignment.composition_shift import open_compositions
from unipot.finetune.linear.evidence import NothingToFit
from unipot.finetune.uncertainty.calibrated_posterior import NONE, UNCERTAINTIES, PosteriorReport, fit_posterior
from unipot.models.heads import Head
from unipot.models.last_layer import is_stale
from unipot.reporting.tables import uncertainty_table
from unipot.structure import Structure
from unipot.workflows.finetuning.search.fold_models import FoldModels, fold_frames
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.frame_limits import evenly
from unipot.workflows.inputs.user_frames import counted_batches
from unipot.workflows.settings.schema import MixtureConfig
from unipot.zoo.artifact import RESERVED, Artifact, load_artifact, save_artifact

#: in the card: the report of the head of `data`, and those of further sets by their heads
FIRST, FURTHER = "uncertainty", "further_uncertainty"
#: frames and atoms in all that error bars are fitted to and calibrated on, at most: seconds on one core, and bounded
#: memory
FITTED_FRAMES, FITTED_ATOMS = 2000, 100_000
CALIBRATION_FRAMES, CALIBRATION_ATOMS = 200, 6_000


def check_uncertainty(option: str) -> None:
    """Refuse an unknown option before any work.

    Raises:
        ValueError: it is not one of `UNCERTAINTIES`.
    """
    if option not in UNCERTAINTIES:
        raise InputError(f"uncertainty is {option!r}; use one of: {', '.join(UNCERTAINTIES)}")


def add_uncertainty(
    option: str,
    path: Path,
    dataset: OpenDataset,
    budget: MixtureConfig,
    golden: Sequence[Structure],
    console: Console,
    folds: FoldModels | None = None,
    *,
    further: bool = False,
) -> PosteriorReport | None:
    """Write error bars of the user's head into the artifact at `path`; nothing else in it changes.

    Fitted to the training frames with the final backbone, calibrated on the held-out frames, evenly chosen ones of
    many; or out of fold, where none are held out and small-data mode has left models of its folds. Does nothing where
    the artifact has them already (a finished run that is looked at again). Where there can be none (the head predicts
    forces directly, or the frames leave nothing to fit) the reason is said: a finished training does not fail for its
    error bars.

    Args:
        option: one of `UNCERTAINTIES`.
        path: artifact to complete.
        dataset: the user's frames.
        budget: of a batch.
        golden: structures that check the artifact on load.
        console: the result is shown here.
        folds: models of the folds.
        further: whether `dataset` is one more beside that at `data`, whose report has a place of its own in the card.
    """
    if option == NONE or not dataset.spec.labels:  # of energies and forces; properties have intervals of their own
        return None
    artifact = load_artifact(path)
    potential, name = artifact.potential, dataset.spec.head
    head = potential.heads[name]
    if _has_error_bars(artifact, head, option, further):
        return None
    if head.direct_forces:
        _print_warning(console, f"warning: head {name!r} predicts forces directly, so it has no last-layer uncertainties")
        return None
    chosen = evenly(dataset.store, dataset.train_indices, FITTED_FRAMES, FITTED_ATOMS, console, "fitted to")
    held = evenly(dataset.validation_store, dataset.validation_indices, CALIBRATION_FRAMES, CALIBRATION_ATOMS, console, "calibrated on")
    training = counted_batches(potential, dataset.store, chosen, name, budget)
    held_out = counted_batches(potential, dataset.validation_store, held, name, budget) if len(held) else []
    crossed = fold_frames(folds, dataset, budget, (CALIBRATION_FRAMES, CALIBRATION_ATOMS), console) if folds and not held_out else None
    seen = folds is not None and folds.start_has_seen
    groups, open_zero = dataset.store.groups[chosen], _open_zero(dataset, head, artifact.card)
    try:
        report = fit_posterior(
            potential, name, training, held_out, method=option, groups=groups, folds=crossed, start_has_seen=seen, open_zero=open_zero
        )
    except NothingToFit as error:
        _print_warning(console, f"warning: no error bars for head {name!r}: {error}")
        return None
    place = {FURTHER: {**artifact.card.get(FURTHER, {}), name: report.to_dict()}} if further else {FIRST: report.to_dict()}
    card = {key: value for key, value in artifact.card.items() if key not in RESERVED}
    save_artifact(path, potential, card=card | place, golden=golden)
    _show_report(report, console)
    return report


def _has_error_bars(artifact: Artifact, head: Head, option: str, further: bool) -> bool:
    known = artifact.card.get(FURTHER, {}).get(head.name, {}) if further else artifact.card.get(FIRST, {})
    return head.posterior is not None and not is_stale(artifact.potential, head) and known.get("method") == option


def _show_report(report: PosteriorReport, console: Console) -> None:
    console.print(uncertainty_table(report).to_rich())
    for text in report.warnings:
        _print_warning(console, f"warning: {text}")


def _open_zero(dataset: OpenDataset, head: Head, card: Mapping[str, Any]) -> np.ndarray | None:
    """Of compositions that the training frames leave open, as large as the shifts of the alignment (from scratch: the references)."""
    chunks = [np.unique(counts, axis=0) for counts, _ in labelled_compositions(dataset.store, dataset.train_indices) if len(counts)]
    if not chunks:
        return None
    counts = np.unique(np.concatenate(chunks), axis=0)
    sets = [card.get("finetune", {}), *card.get("finetune", {}).get("also", [])]
    fits = [own["alignment"]["fit"] for own in sets if own.get("alignment") and own["alignment"]["head"] == head.name]
    values = [list(fit["shift_per_element_eV"].values()) for fit in fits if fit]
    shifts = values[0] if values else head.reference.values.cpu().numpy()[counts.any(axis=0)]
    return open_compositions(counts, float(np.sqrt(np.mean(np.square(shifts)))))


def _print_warning(console: Console, text: str) -> None:
    console.print(text, style="yellow", highlight=False, markup=False)
