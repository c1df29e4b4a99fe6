"""A mixed batch with gaps in its labels, and predictions that miss them by known amounts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from unipot.batch import AtomBatch, Predictions, collate
from unipot.structure import Structure


def structures(n: int = 6, seed: int = 0) -> list[Structure]:
    """Structure k has 2 + k % 3 atoms; k % 3: 0 all labels, periodic; 1 energy and forces; 2 energy only."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        n_atoms, kind = 2 + k % 3, k % 3
        labels = {"energy": rng.normal() - 50.0}
        if kind < 2:
            labels["forces"] = rng.normal(size=(n_atoms, 3))
        if kind == 0:
            stress = rng.normal(size=(3, 3))
            labels["stress"] = 0.01 * (stress + stress.T)
        made.append(
            Structure(
                atomic_numbers=[8, 1, 1, 6][:n_atoms],
                positions=np.arange(3 * n_atoms).reshape(-1, 3) * 0.4 + 0.1 * rng.normal(size=(n_atoms, 3)),
                cell=np.eye(3) * 6.0,
                pbc=[kind == 0] * 3,
                fixed=np.arange(n_atoms) == 1 if k == 0 else None,
                labels=labels,
                id=f"s{k}",
            )
        )
    return made


@pytest.fixture
def make_batch() -> Callable[..., AtomBatch]:
    """`make_batch(indices=range(6))`: dataset and head of structure k are k % 2."""

    def make(indices=range(6), dtype=torch.float64) -> AtomBatch:
        all_structures = structures()
        chosen = [all_structures[k] for k in indices]
        datasets = [k % 2 for k in indices]
        return collate(chosen, cutoff=5.0, dtype=dtype, dataset_index=datasets, head_index=datasets)

    return make


@pytest.fixture
def batch(make_batch) -> AtomBatch:
    return make_batch()


@pytest.fixture
def predictions(batch) -> Predictions:
    """Random numbers with gradients."""
    generator = torch.Generator().manual_seed(1)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)  # noqa: E731
    return Predictions(energy=make(batch.n_structures), forces=make(batch.n_atoms, 3), stress=make(batch.n_structures, 3, 3))
