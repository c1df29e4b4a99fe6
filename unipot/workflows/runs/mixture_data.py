"""The data module of a run: which structures each step sees, as batches."""

from __future__ import annotations

from collections.abc import Sequence

from unipot.data.mixture.datamodule import MixtureDataModule
from unipot.data.spec import MixtureSpec
from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.workflows.construction.model import dtype_named
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.settings.schema import MixtureConfig, TrainerConfig


def mixture_data(
    datasets: Sequence[OpenDataset],
    mixture: MixtureConfig,
    trainer: TrainerConfig,
    potential: Potential,
    *,
    n_steps: int,
    seed: int,
) -> MixtureDataModule:
    """The data module of a run that trains `potential`.

    Raises:
        ValueError: a structure is larger than the budget, or a number is outside its range.
    """
    return MixtureDataModule(
        specs=[d.spec for d in datasets],
        stores=[d.store for d in datasets],
        train_indices=[d.train_indices for d in datasets],
        validation_indices=[d.validation_indices for d in datasets],
        validation_stores=[d.validation_store for d in datasets],
        head_index=[potential.head_names.index(d.spec.head) for d in datasets],
        mixture=MixtureSpec(
            temperature=mixture.temperature,
            structures_per_step=mixture.structures_per_step,
            micro_batches_per_step=_micro_batches(mixture, trainer.n_processes),
            max_atoms=mixture.max_atoms,
            max_edges=mixture.max_edges,
            max_cost=mixture.max_cost,
            seed=seed,
        ),
        cutoff=potential.cutoff,
        n_steps=n_steps,
        dtype=dtype_named(trainer.dtype),
        num_workers=trainer.workers,
        prefetch_factor=trainer.prefetch_factor,
        neighbors=trainer.neighbors,
        pin_memory=trainer.accelerator == "gpu",
    )


def _micro_batches(mixture: MixtureConfig, n_processes: int) -> int:
    """As configured, or one per process."""
    if mixture.micro_batches_per_step is not None:
        return mixture.micro_batches_per_step
    if mixture.structures_per_step < n_processes:
        raise InputError(
            f"mixture: {n_processes} processes cannot share structures_per_step={mixture.structures_per_step}; set it to at least "
            f"{n_processes}, or ask for fewer trainer.devices"
        )
    return n_processes
