"""Small structures and stores for the tests of the data layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure

LABELS = ("energy", "forces", "stress")


@pytest.fixture
def make_structure() -> Callable[..., Structure]:
    """A random structure; periodic ones carry a stress too."""

    def make(seed: int = 0, n_atoms: int = 5, periodic: bool = False, **fields: object) -> Structure:
        rng = np.random.default_rng(seed)
        labels = {"energy": np.array(rng.normal()), "forces": rng.normal(size=(n_atoms, 3))}
        if periodic:
            stress = rng.normal(size=(3, 3))
            labels["stress"] = stress + stress.T
        cell = np.eye(3) * 5 + rng.normal(size=(3, 3)) * 0.2 if periodic else np.zeros((3, 3))
        defaults = {"id": f"s-{seed}", "group": "", "labels": labels, "cell": cell, "pbc": np.full(3, periodic)}
        return Structure(atomic_numbers=rng.integers(1, 30, n_atoms), positions=rng.random((n_atoms, 3)) * 5, **{**defaults, **fields})

    return make


@pytest.fixture
def make_store(tmp_path: Path, make_structure: Callable[..., Structure]) -> Callable[..., Store]:
    """A store of the given structures, or of `n` random molecules of 2 to 8 atoms."""

    def make(name: str = "set", structures: Iterable[Structure] | None = None, n: int = 12, **options: object) -> Store:
        chosen = list(structures) if structures is not None else [make_structure(k, n_atoms=2 + k % 7) for k in range(n)]
        present = [label for label in LABELS if any(label in s.labels for s in chosen)]
        with StoreWriter(tmp_path / f"{name}.unipot", **{"name": name, "level_of_theory": "PBE", "labels": present, **options}) as writer:
            for structure in chosen:
                writer.add(structure)
        return Store(tmp_path / f"{name}.unipot")

    return make


@pytest.fixture
def real_data() -> Path:
    """Folder of the real reference sets."""
    folder = Path(os.environ.get("UNIPOT_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set UNIPOT_REAL_DATA")
    return folder
