"""Lightning's view of a mixture: map-style training steps, exact resume, and deterministic evaluation batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from unipot.batch import AtomBatch, with_neighbors
from unipot.data.mixture.budget import Budget, check_budget, pack_in_order
from unipot.data.mixture.packed_batch import PackedBatch, pack
from unipot.data.mixture.plan import MixturePlan
from unipot.data.mixture.selection import Selection
from unipot.data.mixture.worker_signals import leave_signals_to_trainer
from unipot.data.spec import DatasetSpec, MixtureSpec
from unipot.data.storage.decode import decode_batch
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.neighbors import prepare_engine

#: where neighbour lists are made: by the processes that read, or on the device after the transfer
NEIGHBORS = ("workers", "device")


class StepDataset(Dataset[list[AtomBatch]]):
    """Item k: the micro-batches of one rank in optimizer step k.

    Args:
        plan: of the whole mixture.
        stores: per dataset.
        head_index: per dataset.
        n_steps: length.
        cutoff: Å; None leaves the edges out.
        dtype: of the batches.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        plan: MixturePlan,
        stores: Sequence[Store],
        head_index: Sequence[int],
        *,
        n_steps: int,
        cutoff: float | None,
        dtype: torch.dtype,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        plan.check_world_size(world_size)
        self.plan, self.stores, self.head_index = plan, list(stores), np.asarray(head_index, dtype=np.int64)
        self.n_steps, self.cutoff, self.dtype, self.rank, self.world_size = n_steps, cutoff, dtype, rank, world_size

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, step: int) -> list[AtomBatch]:
        draws = self.plan.rank_micro_batches(step, self.rank, self.world_size)
        return [self._decode(micro_batch) for micro_batch in draws]

    def _decode(self, draws: list[tuple[int, int]]) -> AtomBatch:
        datasets = np.array([dataset for dataset, _ in draws], dtype=np.int64)
        heads = self.head_index[datasets]
        return decode_batch(self.stores, draws, cutoff=self.cutoff, head_index=heads, dataset_index=datasets, dtype=self.dtype)


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
    """Tells Lightning that it can be resumed; the position is the data module's, so there is nothing to keep here.

    From workers the micro-batches come packed, each in one block of memory; the data module unpacks them on the device.
    """

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
        max_cost: per batch, see `Budget`; None for no limit.
        dtype: of the batches.
        with_edges: False leaves the edges out; `unipot.batch.with_neighbors` adds them.

    Raises:
        ValueError: a structure alone exceeds a budget.
    """

    def __init__(
        self,
        store: Store,
        indices: Selection | Sequence[int] | np.ndarray | None = None,
        *,
        cutoff: float,
        head_index: int,
        dataset_index: int = 0,
        max_atoms: int,
        max_edges: int,
        max_cost: float | None = None,
        dtype: torch.dtype = torch.float32,
        with_edges: bool = True,
    ) -> None:
        self._chosen = _positions(indices, len(store))
        budget = Budget(max_atoms=max_atoms, max_edges=max_edges, max_cost=max_cost)
        columns = store.n_atoms, store.n_edges(cutoff)
        check_budget([store.name], [columns[0]], [columns[1]], budget, selections=[self._chosen], id_of=lambda _, i: store.ids[i])
        self._bounds = pack_in_order(*columns, budget, self._chosen)
        self._numbers = range(len(self._bounds) - 1)
        self.store, self.cutoff, self.dtype = store, cutoff if with_edges else None, dtype
        self.head_index, self.dataset_index = head_index, dataset_index

    def of_rank(self, rank: int, world_size: int) -> EvaluationDataset:
        """Every `world_size`-th batch, beginning at `rank`."""
        share = copy(self)
        share._numbers = self._numbers[rank::world_size]
        return share

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> AtomBatch:
        run = self._numbers[number]
        positions = self._chosen[int(self._bounds[run]) : int(self._bounds[run + 1])]
        draws = [(0, position) for position in positions.tolist()]
        heads, datasets = np.full(len(draws), self.head_index), np.full(len(draws), self.dataset_index)
        return decode_batch([self.store], draws, cutoff=self.cutoff, head_index=heads, dataset_index=datasets, dtype=self.dtype)


def evaluation_batches(store: Store, indices: Selection | Sequence[int] | np.ndarray | None = None, **options: Any) -> Iterator[AtomBatch]:
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
        train_indices: per dataset, positions in its store; a `Selection` stays as small as it is.
        validation_indices: per dataset, positions in its validation store; empty for no validation.
        head_index: per dataset.
        mixture: shares, budgets, seed.
        cutoff: Å.
        n_steps: optimizer steps of the whole run.
        validation_stores: per dataset; None validates on `stores`.
        dtype: of the batches.
        num_workers: processes that prepare training steps; 0 prepares in the main process.
        pin_memory: copy batches into page-locked memory, for CUDA.
        prefetch_factor: steps that each worker prepares ahead; None leaves torch's choice (2).
        neighbors: "workers" makes neighbour lists where structures are read; "device" sends batches without edges and
            makes them on the device.

    Raises:
        ValueError: parts differ in length, a structure alone exceeds a budget, or a setting is outside what is allowed.
    """

    def __init__(
        self,
        *,
        specs: Sequence[DatasetSpec],
        stores: Sequence[Store],
        train_indices: Sequence[Selection | np.ndarray],
        validation_indices: Sequence[Selection | np.ndarray],
        head_index: Sequence[int],
        mixture: MixtureSpec,
        cutoff: float,
        n_steps: int,
        validation_stores: Sequence[Store] | None = None,
        dtype: torch.dtype = torch.float32,
        num_workers: int = 0,
        pin_memory: bool = False,
        prefetch_factor: int | None = None,
        neighbors: str = "workers",
    ) -> None:
        super().__init__()
        lengths = {len(part) for part in (specs, stores, train_indices, validation_indices, head_index)}
        if len(lengths) != 1:
            raise InputError(f"specs, stores, train_indices, validation_indices and head_index differ in length: {sorted(lengths)}")
        _check_loading(num_workers, prefetch_factor, neighbors)
        self.specs, self.stores, self.head_index, self.mixture = tuple(specs), tuple(stores), tuple(head_index), mixture
        self.validation_stores = tuple(validation_stores or stores)
        self.train_indices = [_selection(indices, len(store)) for indices, store in zip(train_indices, stores, strict=True)]
        self.validation_indices = [
            _positions(indices, len(store)) for indices, store in zip(validation_indices, self.validation_stores, strict=True)
        ]
        self.cutoff, self.n_steps, self.dtype = cutoff, n_steps, dtype
        self.num_workers, self.pin_memory, self.prefetch_factor, self.neighbors = num_workers, pin_memory, prefetch_factor, neighbors
        self.plan = plan_mixture(specs, stores, self.train_indices, mixture, cutoff)
        self._validation_sets = self._open_validation()  # refuses oversize structures now, not after an hour of training
        self._start = 0

    def train_dataloader(self) -> StepLoader:
        rank, world_size = self._rank()
        if self.num_workers and self.neighbors == "workers":
            prepare_engine()  # once here, instead of once in every worker
        steps = StepDataset(
            self.plan,
            self.stores,
            self.head_index,
            n_steps=self.n_steps,
            cutoff=self.cutoff if self.neighbors == "workers" else None,
            dtype=self.dtype,
            rank=rank,
            world_size=world_size,
        )
        return StepLoader(
            steps,
            batch_size=None,
            sampler=StepSampler(self.n_steps, self._start),
            collate_fn=pack_all if self.num_workers or self.pin_memory else _as_is,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_trainer,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
        )

    def val_dataloader(self) -> list[DataLoader[AtomBatch]]:
        rank, world_size = self._rank()
        sets = self.validation_sets(rank, world_size)
        return [DataLoader(part, batch_size=None, collate_fn=_as_is, pin_memory=self.pin_memory) for part in sets]

    def validation_sets(self, rank: int = 0, world_size: int = 1) -> list[EvaluationDataset]:
        """One per dataset that has validation structures, in the order of the datasets."""
        return [part.of_rank(rank, world_size) for part in self._validation_sets]

    def _open_validation(self) -> list[EvaluationDataset]:
        return [
            EvaluationDataset(
                store,
                indices,
                cutoff=self.cutoff,
                head_index=self.head_index[d],
                dataset_index=d,
                max_atoms=self.mixture.max_atoms,
                max_edges=self.mixture.max_edges,
                max_cost=self.mixture.max_cost,
                with_edges=self.neighbors == "workers",
                dtype=self.dtype,
            )
            for d, (store, indices) in enumerate(zip(self.validation_stores, self.validation_indices, strict=True))
            if len(indices)
        ]

    def state_dict(self) -> dict[str, Any]:
        step = self.trainer.global_step if self.trainer is not None else self._start
        return {"step": step, "plan": self.plan.fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["plan"] != self.plan.fingerprint():
            raise InputError(
                "the checkpoint was written with other training data, weights, seed or structures_per_step than this run has; "
                "resume with the configuration in its run folder"
            )
        self._start = int(state_dict["step"])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return [self._on_device(one, device) for one in batch] if isinstance(batch, list) else self._on_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Neighbour lists on the device, where the workers have made none."""
        if self.neighbors == "workers":
            return batch
        return [with_neighbors(one, self.cutoff) for one in batch] if isinstance(batch, list) else with_neighbors(batch, self.cutoff)

    def _on_device(self, batch: AtomBatch | PackedBatch, device: torch.device) -> AtomBatch:
        moved = batch.to(device, non_blocking=self.pin_memory)
        return moved.unpack() if isinstance(moved, PackedBatch) else moved

    def _rank(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def plan_mixture(
    specs: Sequence[DatasetSpec],
    stores: Sequence[Store],
    indices: Sequence[Selection | np.ndarray],
    mixture: MixtureSpec,
    cutoff: float,
) -> MixturePlan:
    """The plan over the given structures of each store; see `MixturePlan` for what it refuses."""
    return MixturePlan(
        [StoredSizes(store) for store in stores],
        [StoredSizes(store, cutoff) for store in stores],
        mixture,
        names=[spec.name for spec in specs],
        weights=[spec.weight for spec in specs],
        selections=[_selection(chosen, len(store)) for chosen, store in zip(indices, stores, strict=True)],
        id_of=lambda dataset, position: stores[dataset].ids[position],
    )


class StoredSizes:
    """Atoms of a store's structures, or edges within a cutoff, as a column that is pickled as the path of the store.

    Args:
        store: the store.
        cutoff: Å; None for atoms.
    """

    def __init__(self, store: Store, cutoff: float | None = None) -> None:
        self._store, self._cutoff = store, cutoff
        self._map_column()

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._column[index]

    def __getstate__(self) -> tuple[Store, float | None]:
        # a memory map would be pickled with its contents
        return self._store, self._cutoff

    def __setstate__(self, state: tuple[Store, float | None]) -> None:
        self._store, self._cutoff = state
        self._map_column()

    def _map_column(self) -> None:
        column = self._store.n_atoms if self._cutoff is None else self._store.n_edges(self._cutoff)
        self._column = np.asarray(column)  # a view; the subclass of memory maps makes every look-up slower


def _selection(indices: Selection | Sequence[int] | np.ndarray, n: int) -> Selection:
    return indices if isinstance(indices, Selection) else Selection.from_positions(indices, n)


def _positions(indices: Selection | Sequence[int] | np.ndarray | None, n: int) -> Selection | np.ndarray:
    if indices is None:
        return Selection.everything(n)
    return indices if isinstance(indices, Selection) else np.asarray(indices, dtype=np.int64)


def _check_loading(num_workers: int, prefetch_factor: int | None, neighbors: str) -> None:
    if neighbors not in NEIGHBORS:
        raise InputError(f"neighbors is {neighbors!r}; it must be one of: {', '.join(NEIGHBORS)}")
    if num_workers < 0:
        raise InputError(f"the number of workers is {num_workers}; it must be 0 or more")
    if prefetch_factor is not None and prefetch_factor < 1:
        raise InputError(f"prefetch_factor is {prefetch_factor}; it must be at least 1, or null")


def pack_all(batches: list[AtomBatch]) -> list[PackedBatch]:
    """The micro-batches of a step as they leave a worker."""
    return [pack(batch, shared=get_worker_info() is not None) for batch in batches]


def _as_is(item: Any) -> Any:
    return item
