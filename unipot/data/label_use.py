"""How many labels of a store count, and a refusal where those that were asked for by name do not."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from unipot.data.quality.counted_labels import CountedLabels
from unipot.data.statistics import Indices
from unipot.data.storage.columns import chunks
from unipot.data.store import Store
from unipot.errors import InputError

#: structures that are looked at, evenly spread
AT_MOST = 2000


def counted_labels(store: Store, indices: Indices | None = None, at_most: int = AT_MOST) -> CountedLabels:
    """Of structures of a store.

    Args:
        store: the dataset.
        indices: positions in the store; None takes all.
        at_most: structures to look at, evenly spread.
    """
    chosen: Indices = range(len(store)) if indices is None else indices
    n = min(at_most, len(chosen))
    places = np.linspace(0, len(chosen) - 1, n).astype(np.int64) if n else np.empty(0, dtype=np.int64)
    return CountedLabels.of((store[int(chosen[int(k)])] for k in places), whole=n == len(chosen))  # type: ignore[call-overload]


def stress_counts(store: Store) -> tuple[int, int]:
    """Structures of a store that have a stress, and those of them that are periodic along all axes; no record is read."""
    if not store.metadata["label_counts"].get("stress"):
        return 0, 0
    pressure, volume = store.column("pressure"), store.column("volume_per_atom")
    n_stress = n_counted = 0
    for first, last in chunks(len(store)):
        stress = ~np.isnan(pressure[first:last])
        n_stress += int(stress.sum())
        n_counted += int((stress & ~np.isnan(volume[first:last])).sum())
    return n_stress, n_counted


def refuse_void_stress(store: Store, labels: Iterable[str], where: str) -> None:
    """Stop where stress was asked for by name and none counts; a store knows without reading a record.

    Args:
        store: the dataset.
        labels: that the user named.
        where: begins the message, for example `dataset 'slabs'`.

    Raises:
        ValueError: no structure with a stress is periodic along all axes.
    """
    if "stress" not in labels:
        return
    n_stress, n_counted = stress_counts(store)
    if n_stress and not n_counted:
        raise InputError(
            f"{where}: labels names stress, but none of the {n_stress:,} structures with a stress is periodic along all axes, so that no "
            "stress would count; leave stress out of labels"
        )
