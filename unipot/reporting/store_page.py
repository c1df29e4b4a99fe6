"""The page of `unipot inspect`: what stores hold, section by section."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.data.conversion.disk import in_words
from unipot.data.conversion.source_description import recipe_card
from unipot.data.overview.coverage import NEIGHBOR, WITHIN, CoverageMap, coverage_map
from unipot.data.overview.distributions import (
    ATOMS,
    CLOSEST,
    ENERGY,
    MAX_FORCE,
    MAX_STRESS,
    NEIGHBORS,
    NET_FORCE,
    PRESSURE,
    SAMPLE,
    VOLUME,
    Distribution,
    composition_residuals,
    distribution_of,
    distributions,
    sample_rows,
    structures_per_element,
)
from unipot.data.overview.pair_distances import CUTOFF, pair_distances
from unipot.data.quality.quarantine import QuarantineEntry, read_quarantine
from unipot.data.store import Store
from unipot.reporting.html import Figure, Section
from unipot.reporting.periodic_table import periodic_table_figure
from unipot.reporting.store_plots import (
    MAX_ELEMENTS,
    MAX_VIOLINS,
    coverage_figure,
    distribution_figure,
    overlap_figure,
    own_axis_figure,
    pair_matrix_figure,
    pair_violin_figure,
)
from unipot.reporting.structure_images import structure_figure
from unipot.reporting.tables import Cell, ReportTable
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS, Structure

#: groups that the census does not give are counted up to this many structures
_GROUPS_UP_TO = 2_000_000
#: atoms of all structures that are read for distances, per store
MAX_SAMPLED_ATOMS = 300_000
_LONGEST_NAME = 28
_RESIDUAL = "energy after composition regression, eV/atom"
_QUANTITIES = (ATOMS, NEIGHBORS, MAX_FORCE, NET_FORCE, MAX_STRESS, PRESSURE, VOLUME, CLOSEST)
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How much is looked at.

    Attributes:
        n_structures: whose records are read per store, for distances.
        n_points: on the map per store.
        n_images: structures drawn in all.
        seed: of every sample.
    """

    n_structures: int = 2000
    n_points: int = 2000
    n_images: int = 12
    seed: int = 0


def facts_table(stores: Sequence[Store], names: Sequence[str]) -> ReportTable:
    """What the metadata of each store say, one column per store."""
    columns = [_facts(store) for store in stores]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = tuple((key, *(column.get(key, "–") for column in columns)) for key in keys)
    return ReportTable(title="Datasets" if len(stores) > 1 else "Dataset", columns=("", *names), rows=rows)


def page_sections(stores: Sequence[Store], names: Sequence[str], sampling: Sampling, facts: ReportTable) -> list[Section]:
    """Everything on the page, in order; `facts` from `facts_table`."""
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}…{name[-8:]}" for name in names]
    quarantined = [_quarantine(store, name) for store, name in zip(stores, names, strict=True)]
    sections = [
        Section(title="Facts", tables=[facts, *[table for table in quarantined if table is not None]]),
        _traps(stores, names),
        _elements(stores, names),
        _distributions(stores, names, sampling),
        *_pairs(stores, names, sampling),
        _coverage(stores, names, sampling),
        _images(stores, names, sampling),
    ]
    return [section for section in sections if section.text or section.tables or section.figures]


def _facts(store: Store) -> dict[str, Cell]:
    metadata = store.metadata
    card = recipe_card(metadata["provenance"])
    n = len(store)
    size = sum(shard["data_bytes"] for shard in metadata["shards"])
    facts: dict[str, Cell] = {
        "title": card.get("title"),
        "level of theory": store.level_of_theory,
        "energy kind": store.energy_kind,
        "energy zero": _line(card.get("energy_zero")),
        "structures": f"{n:,}",
        "atoms": f"{metadata['n_atoms']:,}",
        "groups (material, trajectory)": _n_groups(store),
        "elements": f"{len(store.elements)}: {' '.join(metadata['elements'])}",
    }
    for label, count in metadata["label_counts"].items():
        facts[f"with {label}"] = f"{count:,} ({count / n:.1%})"
    facts |= {
        "quarantine": f"{sum(1 for _ in read_quarantine(store.path)):,} left out",
        "precision of positions and forces": metadata["precision"],
        "size of records": f"{in_words(size)}, {size / n:.0f} bytes per structure ({metadata['compression'] or 'not compressed'})",
        "licence": _line(card.get("licence")) or "not stated",
        "citation": "; ".join(_line(entry) for entry in card.get("citation") or ()) or "not stated",
        "folder": str(store.path),
    }
    return {key: value for key, value in facts.items() if value not in (None, "")}


def _n_groups(store: Store) -> str:
    census = store.attachment("census.json")
    counted = json.loads(census).get("n_groups") if census is not None else None
    if counted is None and len(store) <= _GROUPS_UP_TO:
        counted = len(np.unique(store.groups))
    return "not counted" if counted is None else f"{counted:,}"


def _quarantine(store: Store, name: str) -> ReportTable | None:
    counts: Counter[str] = Counter()
    first: dict[str, QuarantineEntry] = {}
    for entry in read_quarantine(store.path):
        counts[entry.reason] += 1
        first.setdefault(entry.reason, entry)
    rows = tuple(
        (reason, n, first[reason].limit, first[reason].value, first[reason].id, first[reason].detail or None)
        for reason, n in counts.most_common()
    )
    columns = ("reason", "structures", "limit", "value of the first", "id of the first", "detail")
    return ReportTable(title=f"Quarantine of {name}: left out of the store", columns=columns, rows=rows) if rows else None


def _traps(stores: Sequence[Store], names: Sequence[str]) -> Section:
    text = []
    for store, name in zip(stores, names, strict=True):
        traps = recipe_card(store.metadata["provenance"]).get("known_traps") or ()
        text += [f"{name}: {_line(trap)}" for trap in traps]
    return Section(title="Known traps", text=text)


def _elements(stores: Sequence[Store], names: Sequence[str]) -> Section:
    figures = []
    for store, name in zip(stores, names, strict=True):
        atoms = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)
        for symbol, n in store.metadata["elements"].items():
            atoms[SYMBOLS.index(symbol)] = n
        caption = f"{name}, all {len(store):,} structures: how many contain each element (colour, middle number), and its atoms (at.)."
        figures.append(Figure(caption=caption, image=periodic_table_figure(structures_per_element(store), atoms)))
    return Section(title="Elements", figures=figures)


def _distributions(stores: Sequence[Store], names: Sequence[str], sampling: Sampling) -> Section:
    together = [(q, distributions(stores, q, sampling.seed)) for q in _QUANTITIES]
    raw = [distributions([store], ENERGY, sampling.seed)[0] for store in stores]
    fits = [composition_residuals(store, sampling.seed) for store in stores]
    left = [distribution_of(values) for values, _ in fits]
    spreads = [(q.axis, found) for q, found in together]
    spreads[2:2] = [(ENERGY.axis, raw), (_RESIDUAL, left)]
    rows = [_spread(axis, name, d) for axis, found in spreads for name, d in zip(names, found, strict=True) if d is not None]
    columns = ("quantity", "dataset", "structures", "smallest", "1 %", "median", "99 %", "largest", "zero", "beyond the axis")
    text = [
        "Counts, smallest and largest values cover every structure; quantiles, axes and the energy after composition regression come from "
        f"a seeded sample of at most {SAMPLE:,} structures per dataset. Each axis leaves out the outermost 0.2 % of the sample at either "
        "end; the table counts what lies beyond it. Structures without the label, or without a full cell for stress, pressure and volume, "
        "do not count.",
        *[f"Composition regression of {name}: {_cut(sentence)}." for name, (_, sentence) in zip(names, fits, strict=True) if sentence],
    ]
    figures = [Figure(caption="Share of each dataset's structures per bin.", image=distribution_figure(together, names))]
    if any(d is not None for d in raw):
        labelled = "Energies as labelled: their zero belongs to the level of theory, so every dataset has an axis of its own."
        regressed = "What one energy per element, fitted to the dataset, leaves of its energies."
        figures += [
            Figure(caption=labelled, image=own_axis_figure(ENERGY.axis, raw, names)),
            Figure(caption=regressed, image=own_axis_figure(_RESIDUAL, left, names)),
        ]
    return Section(
        title="Distributions", text=text, figures=figures, tables=[ReportTable(title="Spread", columns=columns, rows=tuple(rows))]
    )


def _spread(axis: str, name: str, d: Distribution) -> tuple[Cell, ...]:
    numbers = (d.smallest, *d.quantiles, d.largest)
    if axis == ATOMS.axis:
        numbers = tuple(round(number) for number in numbers)
    return (axis, name, d.n, *numbers, d.n_zero or None, d.n_below + d.n_above or None)


def _cut(sentence: str, length: int = 260) -> str:
    return sentence if len(sentence) <= length else f"{sentence[:length].rpartition(' ')[0]} …"


def _pairs(stores: Sequence[Store], names: Sequence[str], sampling: Sampling) -> list[Section]:
    sections = []
    for store, name in zip(stores, names, strict=True):
        structures = _sampled_structures(store, sampling)
        found = pair_distances(structures)
        if len(found.distances) == 0:
            continue
        text = (
            f"For every pair of elements the smallest distance in each structure, periodic images included; pairs farther apart than "
            f"{CUTOFF:g} Å do not count. From a seeded random sample of {len(structures):,} of {len(store):,} structures."
        )
        matrix = (
            "Below and on the diagonal the smallest distance in the whole sample over the sum of covalent radii (far below 1: suspicious "
            f"contacts; numbers: Å), above it in how many structures the pair occurs; grey: in none. At most {MAX_ELEMENTS} elements."
        )
        violins = (
            f"Smallest distance per structure of the (at most {MAX_VIOLINS}) most frequent pairs; black: median, orange: sum of covalent "
            "radii; fewer than 20 structures are drawn as points."
        )
        title = "Nearest-neighbour distances" + (f": {name}" if len(stores) > 1 else "")
        figures = [Figure(caption=violins, image=pair_violin_figure(found)), Figure(caption=matrix, image=pair_matrix_figure(found))]
        sections.append(Section(title=title, text=[text], figures=figures))
    return sections


def _sampled_structures(store: Store, sampling: Sampling) -> list[Structure]:
    """A seeded sample, cut where it holds enough atoms."""
    store = Store(store.path)  # memory maps of its own, which are given back after use
    rows = sample_rows(len(store), sampling.n_structures, sampling.seed)
    n_atoms = np.asarray(store.n_atoms[rows])
    if n_atoms.sum() > MAX_SAMPLED_ATOMS:
        order = np.random.default_rng(sampling.seed).permutation(len(rows))
        kept = max(1, int(np.searchsorted(np.cumsum(n_atoms[order]), MAX_SAMPLED_ATOMS)))
        rows = np.sort(rows[order[:kept]])
    return [store[int(row)] for row in rows]


def _coverage(stores: Sequence[Store], names: Sequence[str], sampling: Sampling) -> Section:
    found = coverage_map(stores, sampling.n_points, sampling.seed)
    text = [
        "The descriptor of a structure is its 16-number fingerprint (invariants of the neighbourhoods within 6 Å, averaged over atoms) "
        "beside the atomic fraction of each element. Both parts are scaled to the same total variance over the datasets, each dataset "
        f"with equal weight. A seeded sample of at most {sampling.n_points:,} structures per dataset is projected on the two directions of "
        "largest variance." + (" Distances that the plane hides still count in the overlap." if len(stores) > 1 else "")
    ]
    figures = [Figure(caption="Each point is a structure; near points are similar structures.", image=coverage_figure(found, names))]
    if len(stores) > 1:
        text.append(_overlap_in_words(found, names))
        caption = "Share of the row's dataset that the column's dataset covers, as defined above; diagonal: one half by the other."
        figures.append(Figure(caption=caption, image=overlap_figure(found.covered, names)))
    return Section(title="Coverage of structure space", text=text, figures=figures)


def _overlap_in_words(found: CoverageMap, names: Sequence[str]) -> str:
    alone = [name for name, grouped in zip(names, found.by_group, strict=True) if not grouped]
    note = f" ({', '.join(alone)}: too few groups, relatives count)" if alone else ""
    return (
        f"Overlap: dataset B covers a structure of A when, in the full descriptor space, B has a structure nearer to it than the "
        f"{NEIGHBOR}th nearest of A's own structures of another material or trajectory{note}: B then knows its surroundings as finely as A "
        f"does. The two samples are cut to equal size first. Two samples of one distribution cover each other to about {WITHIN:.0%}; the "
        "diagonal shows this for the two halves of each dataset."
    )


def _images(stores: Sequence[Store], names: Sequence[str], sampling: Sampling) -> Section:
    if sampling.n_images == 0:
        return Section(title="Structures")
    structures, titles = [], []
    for store, name in zip(stores, names, strict=True):
        for row in _rows_of_different_formulas(store, -(-sampling.n_images // len(stores)), sampling.seed):
            structure = store[row]
            structures.append(structure)
            label = structure.id if len(structure.id) <= 26 else f"…{structure.id[-25:]}"
            origin = f"{name}\n" if len(stores) > 1 else ""
            titles.append(f"{origin}{formula(structure)}\n{structure.n_atoms} atoms, {label}".replace("$", r"\$"))
    caption = (
        "A seeded random choice, of different formulas where there are enough. Spheres have covalent radii and jmol colours; what is "
        "farther away fades. Slabs are seen from the side, molecules on their flat side, crystals along b, turned a little; atoms on the "
        "faces of small cells are drawn on all of them. Lines: the unit cell, dashed where it is behind."
    )
    return Section(title="Structures", figures=[Figure(caption=caption, image=structure_figure(structures, titles))])


def formula(structure: Structure) -> str:
    """Chemical formula in Hill order, shortened where it is long.

    Example:
        >>> formula(Structure(atomic_numbers=[8, 1, 1], positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0]]))
        'H₂O'
    """
    counts = Counter(SYMBOLS[z] for z in structure.atomic_numbers.tolist())
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    ordered = [*first, *sorted(symbol for symbol in counts if symbol not in first)]
    text = "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}".translate(_SUBSCRIPTS) for symbol in ordered)
    return text if len(text) <= 30 else f"{text[:29]}…"


def _rows_of_different_formulas(store: Store, n: int, seed: int) -> list[int]:
    store = Store(store.path)
    rows = np.random.default_rng(seed).permutation(sample_rows(len(store), 50 * n, seed))
    _, first = np.unique(np.asarray(store.column("formula")[rows]), return_index=True)
    order = [*np.sort(first).tolist(), *np.setdiff1d(np.arange(len(rows)), first).tolist()]
    return [int(rows[k]) for k in order[:n]]


def _line(value: Any) -> str:
    return " ".join(str(value).split()) if value else ""
