"""Error bars in `unipot evaluate`: do they hold on the data, for heads that have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from unipot.errors import InputError
from unipot.finetune.uncertainty.calibration import errors_and_widths
from unipot.finetune.uncertainty.difference_errors import difference_errors
from unipot.models.potential import Potential
from unipot.reporting.error_bar_quality import DIFFERENCES, ErrorBarQuality, calibration_figure, error_bar_quality, quality_table
from unipot.workflows.inputs.evaluation_sets import EvaluationSet
from unipot.workflows.inputs.frame_limits import spread
from unipot.workflows.inputs.user_frames import frames_batches
from unipot.workflows.settings.schema import MixtureConfig


def judge_error_bars(
    potential: Potential, item: EvaluationSet, budget: MixtureConfig, n_frames: int, console: Console
) -> list[ErrorBarQuality]:
    """Quality of the error bars of a head on a dataset, shown as a table; empty for a head without them.

    Args:
        potential: to be judged.
        item: the dataset and its head.
        budget: of a batch.
        n_frames: that are looked at, at most, evenly chosen; 0 for none.
        console: the table is shown here.

    Raises:
        ValueError: `n_frames` is negative.
    """
    if n_frames < 0:
        raise InputError(f"uncertainty_frames is {n_frames}; use 0 for none, or a number of frames")
    posterior = potential.heads[item.head].posterior
    if posterior is None or n_frames == 0:
        return []
    numbers = spread(len(item.indices), n_frames)
    if len(numbers) < len(item.indices):
        console.print(f"  error bars are compared with the errors of {len(numbers)} frames, evenly chosen", highlight=False)
    chosen = np.array([int(item.indices[int(k)]) for k in numbers])
    errors, differences = (
        judge(potential, frames_batches(potential, item.store, chosen, item.head, budget))
        for judge in (errors_and_widths, difference_errors)
    )
    found = {"energy": errors["energy"], DIFFERENCES: differences, "forces": errors["forces"]}
    energy, forces = posterior.calibration.tolist()
    factors = {"energy": energy, DIFFERENCES: energy, "forces": forces}
    quality = [error_bar_quality(name, own, factors[name]) for name, own in found.items() if len(own.errors)]
    if quality:
        console.print(quality_table(item.name, item.head, quality).to_rich())
    return quality


def write_error_bars(output: Path, quality: Mapping[str, Sequence[ErrorBarQuality]]) -> None:
    """`calibration_<dataset>.png`; nothing of datasets without error bars."""
    for dataset, own in quality.items():
        if own:
            (output / f"calibration_{dataset}.png").write_bytes(calibration_figure({dataset: own}, "coverage of the error bars"))
