"""Lightning's view of a mixture: map-style training steps, exact resume, and deterministic evaluation batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unipot.batch import AtomBatch, collate
from unipot.data.plan import MixturePlan, check_budget, pack_in_order
from unipot.data.spec import DatasetSpec, MixtureSpec
from unipot.data.store import Store


class StepDataset(Dataset[list[AtomBatch]]):
    """Item k: the micro-batches of one rank in optimizer step k.

    Args:
        plan: of the whole mixture.
        stores: per dataset.
        indices: per dataset the store positions of its training structures, in the plan's order.
        head_index: per dataset.
        n_steps: length.
        cutoff: Å.
        dtype: of the batches.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        plan: MixturePlan,
        stores: Sequence[Store],
        indices: Sequence[np.ndarray],
        head_index: Sequence[int],
        *,
        n_steps: int,
        cutoff: float,
        dtype: torch.dtype,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        plan.check_world_size(world_size)
        self.plan, self.stores, self.indices, self.head_index = plan, list(stores), list(indices), list(head_index)
        self.n_steps, self.cutoff, self.dtype, self.rank, self.world_size = n_steps, cutoff, dtype, rank, world_size

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, step: int) -> list[AtomBatch]:
        draws = self.plan.rank_micro_batches(step, self.rank, self.world_size)
        return [self._collate(micro_batch) for micro_batch in draws]

    def _collate(self, draws: list[tuple[int, int]]) -> AtomBatch:
        datasets = [dataset for dataset, _ in draws]
        structures = [self.stores[dataset][int(self.indices[dataset][i])] for dataset, i in draws]
        heads = [self.head_index[dataset] for dataset in datasets]
        return collate(structures, cutoff=self.cutoff, head_index=heads, dataset_index=datasets, dtype=self.dtype)


class StepSampler(Sampler[int]):
    """Steps `start`, `start`+1, … with a length that does not depend on `start`.

    Lightning 2.6 compares its own count of batches with the loader's length on resume; a shorter length makes it
    repeat a batch.
    """

    def __init__(self, n_steps: int, start: int = 0) -> None:
        self.n_steps, self.start = n_steps, start

    def __len__(self) -> int:
        return self.n_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.n_steps))


class StepLoader(DataLoader[list[AtomBatch]]):
    """Tells Lightning that it can be resumed; the position is the data module's, so there is nothing to keep here."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class EvaluationDataset(Dataset[AtomBatch]):
    """Structures of one store in order, in batches that fit the budgets; the one packing that is used to evaluate.

    Args:
        store: where they are.
        indices: positions in the store; None takes all.
        cutoff: Å.
        head_index: head that evaluates them.
        dataset_index: position of the dataset in tables.
        max_atoms: per batch.
        max_edges: per batch.
        dtype: of the batches.
        rank: this process takes every `world_size`-th batch from here.
        world_size: number of processes.

    Raises:
        ValueError: a structure alone exceeds a budget.
    """

    def __init__(
        self,
        store: Store,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        cutoff: float,
        head_index: int,
        dataset_index: int = 0,
        max_atoms: int,
        max_edges: int,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        chosen = np.arange(len(store)) if indices is None else np.asarray(indices, dtype=np.int64)
        n_atoms, n_edges = store.n_atoms[chosen], store.n_edges(cutoff)[chosen]
        budget = {"max_atoms": max_atoms, "max_edges": max_edges}
        check_budget([store.name], [n_atoms], [n_edges], **budget, id_of=lambda _, i: store.ids[chosen[i]])
        self._runs = [chosen[run] for run in pack_in_order(n_atoms, n_edges, **budget)][rank::world_size]
        self.store, self.cutoff, self.dtype = store, cutoff, dtype
        self.head_index, self.dataset_index = head_index, dataset_index

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, number: int) -> AtomBatch:
        structures = [self.store[int(i)] for i in self._runs[number]]
        heads, datasets = [self.head_index] * len(structures), [self.dataset_index] * len(structures)
        return collate(structures, cutoff=self.cutoff, head_index=heads, dataset_index=datasets, dtype=self.dtype)


def evaluation_batches(store: Store, indices: Sequence[int] | np.ndarray | None = None, **options: Any) -> Iterator[AtomBatch]:
    """The batches of `EvaluationDataset(store, indices, **options)`, one after the other."""
    dataset = EvaluationDataset(store, indices, **options)
    return (dataset[number] for number in range(len(dataset)))


class MixtureDataModule(lightning.LightningDataModule):
    """Training steps of a mixture and one evaluation set per dataset.

    Use it with `Trainer(max_steps=n_steps, max_epochs=-1, use_distributed_sampler=False)`. Its state is one integer,
    the number of optimizer steps done, taken from the trainer: batches that workers prepared but nobody trained on
    are not counted.

    Args:
        specs: the datasets.
        stores: per dataset.
        train_indices: per dataset, positions in its store.
        validation_indices: per dataset, positions in its validation store; empty for no validation.
        head_index: per dataset.
        mixture: shares, budgets, seed.
        cutoff: Å.
        n_steps: optimizer steps of the whole run.
        validation_stores: per dataset; None validates on `stores`.
        dtype: of the batches.
        num_workers: processes that prepare training steps; 0 prepares in the main process.
        pin_memory: copy batches into page-locked memory, for CUDA.
    """

    def __init__(
        self,
        *,
        specs: Sequence[DatasetSpec],
        stores: Sequence[Store],
        train_indices: Sequence[np.ndarray],
        validation_indices: Sequence[np.ndarray],
        head_index: Sequence[int],
        mixture: MixtureSpec,
        cutoff: float,
        n_steps: int,
        validation_stores: Sequence[Store] | None = None,
        dtype: torch.dtype = torch.float32,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        lengths = {len(part) for part in (specs, stores, train_indices, validation_indices, head_index)}
        if len(lengths) != 1:
            raise ValueError(f"specs, stores, train_indices, validation_indices and head_index differ in length: {sorted(lengths)}")
        self.specs, self.stores, self.head_index, self.mixture = tuple(specs), tuple(stores), tuple(head_index), mixture
        self.train_indices = [np.asarray(indices, dtype=np.int64) for indices in train_indices]
        self.validation_indices = [np.asarray(indices, dtype=np.int64) for indices in validation_indices]
        self.validation_stores = tuple(validation_stores or stores)
        self.cutoff, self.n_steps, self.dtype = cutoff, n_steps, dtype
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.plan = plan_mixture(specs, stores, self.train_indices, mixture, cutoff)
        self.validation_sets()  # refuses oversize structures now, not after an hour of training
        self._start = 0

    def train_dataloader(self) -> StepLoader:
        rank, world_size = self._rank()
        steps = StepDataset(
            self.plan,
            self.stores,
            self.train_indices,
            self.head_index,
            n_steps=self.n_steps,
            cutoff=self.cutoff,
            dtype=self.dtype,
            rank=rank,
            world_size=world_size,
        )
        return StepLoader(
            steps,
            batch_size=None,
            sampler=StepSampler(self.n_steps, self._start),
            collate_fn=_as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )

    def val_dataloader(self) -> list[DataLoader[AtomBatch]]:
        rank, world_size = self._rank()
        sets = self.validation_sets(rank, world_size)
        return [DataLoader(part, batch_size=None, collate_fn=_as_is, pin_memory=self.pin_memory) for part in sets]

    def validation_sets(self, rank: int = 0, world_size: int = 1) -> list[EvaluationDataset]:
        """One per dataset that has validation structures, in the order of the datasets."""
        return [
            EvaluationDataset(
                store,
                indices,
                cutoff=self.cutoff,
                head_index=self.head_index[d],
                dataset_index=d,
                max_atoms=self.mixture.max_atoms,
                max_edges=self.mixture.max_edges,
                dtype=self.dtype,
                rank=rank,
                world_size=world_size,
            )
            for d, (store, indices) in enumerate(zip(self.validation_stores, self.validation_indices, strict=True))
            if len(indices)
        ]

    def state_dict(self) -> dict[str, Any]:
        step = self.trainer.global_step if self.trainer is not None else self._start
        return {"step": step, "plan": self.plan.fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["plan"] != self.plan.fingerprint():
            raise ValueError(
                "the checkpoint was written with other training data, weights, seed or structures_per_step than this run has; "
                "resume with the configuration in its run folder"
            )
        self._start = int(state_dict["step"])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        non_blocking = self.pin_memory
        if isinstance(batch, list):
            return [micro_batch.to(device, non_blocking=non_blocking) for micro_batch in batch]
        return batch.to(device, non_blocking=non_blocking)

    def _rank(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def plan_mixture(
    specs: Sequence[DatasetSpec], stores: Sequence[Store], indices: Sequence[np.ndarray], mixture: MixtureSpec, cutoff: float
) -> MixturePlan:
    """The plan over the given structures of each store; see `MixturePlan` for what it refuses."""
    return MixturePlan(
        [store.n_atoms[chosen] for store, chosen in zip(stores, indices, strict=True)],
        [store.n_edges(cutoff)[chosen] for store, chosen in zip(stores, indices, strict=True)],
        mixture,
        names=[spec.name for spec in specs],
        weights=[spec.weight for spec in specs],
        id_of=lambda dataset, i: stores[dataset].ids[int(indices[dataset][i])],
    )


def _as_is(item: Any) -> Any:
    return item
