"""New property heads: normalisation from the training values, first weights from the seed."""

from __future__ import annotations

import numpy as np
import torch

from unipot.composition import fit_composition
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.models.property_heads import PropertyHead
from unipot.models.references import CompositionReference
from unipot.properties import ScalarProperty
from unipot.structure import symbols_of

#: an extensive property that compositions explain up to this fraction of its spread leaves nothing that is worth a finer scale
_SMALLEST_SPREAD = 1e-3


def new_property_head(
    property: ScalarProperty, store: Store, indices: np.ndarray, *, n_channels: int, n_hidden: int, n_members: int, seed: int
) -> PropertyHead:
    """A head whose predictions begin near the mean (intensive) or the composition fit (extensive) of the training values.

    Args:
        property: what it predicts; the store has a column of its name.
        store: of the training structures.
        indices: positions of the training structures.
        n_channels: scalar features of the backbone.
        n_hidden, n_members, seed: see `PropertyHead`.

    Raises:
        ValueError: fewer than two training structures have a value, or all values are the same.
        KeyError: the store has no such property.
    """
    values = np.asarray(store.scalar(property.name)[indices], dtype=np.float64)
    present = np.isfinite(values)
    values, where = values[present], f"properties.{property.name}"
    if len(values) < 2:
        raise InputError(f"{where}: {len(values)} of {len(present)} training structures have a value; at least two are needed")
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        raise InputError(
            f"{where}: all {len(values)} training values are {values[0]:g} {property.unit}, so there is nothing to learn; check the key "
            f"{property.key!r}"
        )
    counts = store.composition_counts_of(indices[present])
    head = PropertyHead(property, n_channels=n_channels, n_hidden=n_hidden, n_members=n_members, seed=seed)
    if property.kind == "extensive":
        fit = fit_composition(counts, values)
        head.reference = CompositionReference(fit.values, fit.known)
        spread = max(float(np.std(values - counts @ fit.values)), _SMALLEST_SPREAD * float(np.std(values)))
        scale = spread / float(counts.sum(axis=1).mean())
    else:
        known = counts.sum(axis=0) > 0
        head.reference = CompositionReference(np.where(known, values.mean(), 0.0), known)
        spread = scale = float(np.std(values))
    head.spread, head.scale = (torch.tensor(number, dtype=torch.float64) for number in (spread, scale))
    return head


def require_known_elements(head: PropertyHead, store: Store, indices: np.ndarray) -> None:
    """Held-out and test structures with a value must be made of elements that training has values for.

    Raises:
        ValueError: one is not.
    """
    name = head.property.name
    if name not in store.scalars or not len(indices):
        return
    valued = indices[np.isfinite(store.scalar(name)[indices])]
    strange = (store.composition_counts_of(valued) > 0) & ~head.reference.known.cpu().numpy()
    if strange.any():
        elements = symbols_of(np.flatnonzero(strange.any(axis=0)))
        raise InputError(
            f"properties.{name}: {int(strange.any(axis=1).sum())} structures that are not trained on have the element(s) {elements}, for "
            "which no training structure has a value; train on some of them, or leave them out"
        )
