"""The last step of fine-tuning: error bars for the finished head, stored with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from unipot.finetune.calibrated_posterior import UNCERTAINTIES, PosteriorReport, fit_posterior
from unipot.models.last_layer import is_stale
from unipot.reporting.tables import uncertainty_table
from unipot.structure import Structure
from unipot.workflows.config import MixtureConfig
from unipot.workflows.datasets import OpenDataset
from unipot.workflows.user_frames import frames_batches
from unipot.zoo.artifact import RESERVED, load_artifact, save_artifact


def check_uncertainty(option: str) -> None:
    """Refuse an unknown option before any work.

    Raises:
        ValueError: it is not one of `UNCERTAINTIES`.
    """
    if option not in UNCERTAINTIES:
        raise ValueError(f"uncertainty is {option!r}; use one of: {', '.join(UNCERTAINTIES)}")


def add_uncertainty(
    option: str, path: Path, dataset: OpenDataset, budget: MixtureConfig, golden: Sequence[Structure], console: Console
) -> PosteriorReport | None:
    """Write a posterior of the last layer of the user's head into the artifact at `path`; nothing else in it changes.

    Fitted to the training frames with the final backbone, calibrated on the held-out frames. Does nothing where the artifact
    has one already (a finished run that is looked at again), or the head predicts forces directly, which is said.

    Args:
        option: one of `UNCERTAINTIES`.
        path: artifact to complete.
        dataset: the user's frames.
        budget: of a batch.
        golden: structures that check the artifact on load.
        console: the result is shown here.

    Raises:
        ValueError: see `fit_posterior`.
    """
    if option == "none":
        return None
    artifact = load_artifact(path)
    potential, name = artifact.potential, dataset.spec.head
    head = potential.heads[name]
    if head.posterior is not None and not is_stale(potential, head):
        return None
    if head.direct_forces:
        console.print(f"warning: head {name!r} predicts forces directly, so it has no last-layer uncertainties", style="yellow")
        return None
    training = list(frames_batches(potential, dataset.store, dataset.train_indices, name, budget))
    held_out = list(frames_batches(potential, dataset.validation_store, dataset.validation_indices, name, budget))
    report = fit_posterior(potential, name, training, held_out if len(dataset.validation_indices) else [])
    card = {key: value for key, value in artifact.card.items() if key not in RESERVED}
    save_artifact(path, potential, card={**card, "uncertainty": report.to_dict()}, golden=golden)
    console.print(uncertainty_table(report).to_rich())
    for text in report.warnings:
        console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)
    return report
