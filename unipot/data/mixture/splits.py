"""Splits that keep relatives together and move no structure to the other side when the dataset grows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unipot.data.mixture.selection import CHUNK, Selection
from unipot.data.spec import SPLIT_COLUMNS, SplitSpec, hash_threshold, keyed_hashes
from unipot.errors import InputError
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS

if TYPE_CHECKING:
    from unipot.data.store import Store

#: structures whose compositions are looked at together: 31 MB
_COMPOSITIONS = 2**16
#: below this many structures the bits (1 MB) are made anew instead of kept in a file
_KEPT = 2**23


def split(store: Store, spec: SplitSpec, cache: Path | None = None) -> tuple[Selection, Selection]:
    """Training and held-out structures of a store.

    Something (a group, a composition, an element, a structure) is held out when a hash of it and the seed falls below
    the fraction. Nothing else decides, so adding structures moves none of the old ones, and every machine makes the
    same split. One exception, for small sets: when nothing falls below, what has the smallest hash is held out (with
    `by="elements"` that is refused instead). The columns are read in chunks; the result takes one bit per structure.

    Args:
        store: the dataset.
        spec: what is held out.
        cache: folder for the bits of sets of more than 8 million structures, which processes then share through a
            memory map; None keeps them in memory.

    Raises:
        ValueError: nothing or everything would be held out, or the store lacks the column.
    """
    n = len(store)
    if spec.fraction == 0 and not spec.elements:
        return (whole := Selection.everything(n)), whole.complement()
    file = _file(store, spec, cache) if cache is not None and n > _KEPT else None
    if file is not None and file.exists():
        held_out = Selection.load(file, n)
        return held_out.complement(), held_out
    masks = _masks_by_elements(store, spec) if spec.by == "elements" else _masks_by_hash(store, spec)
    held_out = Selection.from_mask(masks(), n)
    if len(held_out) == 0 and spec.by == "elements":
        raise InputError(_nothing_held_out(store, spec))
    if len(held_out) == 0:
        smallest = min(int(hashes.min()) for hashes in _column_hashes(store, spec))
        held_out = Selection.from_mask((hashes == np.uint64(smallest) for hashes in _column_hashes(store, spec)), n)
    if len(held_out) == n:
        raise InputError(_everything_held_out(store, spec))
    if file is not None:
        held_out = held_out.saved(file)
    return held_out.complement(), held_out


def containing(store: Store, elements: np.ndarray) -> Selection:
    """The structures with at least one atom of `elements`, (119,) bool."""
    return Selection.from_mask(_containing(store, elements), len(store))


def _masks_by_hash(store: Store, spec: SplitSpec) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (hashes < hash_threshold(spec.fraction) for hashes in _column_hashes(store, spec))


def _masks_by_elements(store: Store, spec: SplitSpec) -> Callable[[], Iterator[np.ndarray]]:
    elements = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=bool)
    elements[list(spec.held_out_numbers())] = True
    return lambda: _containing(store, elements)


def _containing(store: Store, elements: np.ndarray) -> Iterator[np.ndarray]:
    numbers = np.flatnonzero(elements)  # columns by number are taken faster than by mask
    for start in range(0, len(store), _COMPOSITIONS):
        yield store.composition_counts(start, min(start + _COMPOSITIONS, len(store)))[:, numbers].any(axis=1)


def _column_hashes(store: Store, spec: SplitSpec) -> Iterator[np.ndarray]:
    name, text = SPLIT_COLUMNS[spec.by]
    column = store.column(name)
    for start in range(0, len(store), CHUNK):
        yield keyed_hashes(np.asarray(column[start : start + CHUNK], dtype=np.uint64), f"{text}/{spec.seed}")


def _file(store: Store, spec: SplitSpec, cache: Path) -> Path:
    # the name carries what decides, so that other contents or another split make another file
    what = json.dumps([store.metadata["content_hash"], len(store), asdict(spec)], sort_keys=True)
    return cache / f"{store.name}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.split.npy"


def _nothing_held_out(store: Store, spec: SplitSpec) -> str:
    present = ", ".join(SYMBOLS[z] for z in store.elements)
    if spec.elements:
        named = " or ".join(spec.elements)
        return f"{store.path}: no structure contains {named}, so nothing is held out; the elements there are: {present}"
    chosen = ", ".join(SYMBOLS[z] for z in spec.held_out_numbers()) or "none"
    return (
        f"{store.path}: fraction {spec.fraction} and seed {spec.seed} hold out the elements {chosen}, of which the dataset has none; "
        f"raise the fraction, take another seed, or name elements out of: {present}"
    )


def _everything_held_out(store: Store, spec: SplitSpec) -> str:
    if spec.by == "elements":
        chosen = ", ".join(SYMBOLS[z] for z in spec.held_out_numbers())
        return (
            f"{store.path}: all {len(store)} structures contain one of the held-out elements {chosen}, so none is left to train on; "
            "hold out fewer elements"
        )
    distinct = np.empty(0, dtype=np.uint64)
    for hashes in _column_hashes(store, spec):
        distinct = np.union1d(distinct, hashes)
    finer = "prepare the store with finer groups" if spec.by == "group" else "split by structure"
    return (
        f"{store.path}: {len(store)} structure(s) in {len(distinct)} {spec.by}(s) cannot be split with fraction {spec.fraction}; give a "
        f"validation set of its own (validation_path), set validation_fraction=0, or {finer}"
    )
