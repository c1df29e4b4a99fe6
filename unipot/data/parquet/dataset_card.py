"""The dataset card of an export: YAML for the hub in front, then what a reader of the numbers has to know."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unipot.data.conversion.source_description import SourceDescription, recipe_card
from unipot.data.parquet.table import METADATA_KEY, columns_of
from unipot.data.quality.quarantine import read_quarantine
from unipot.data.store import Store
from unipot.properties import ENERGY_KINDS, PROPERTIES
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS, Structure

#: licences that the hub knows under their SPDX name in lower case
_HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "gpl-2.0", "gpl-3.0",
    "lgpl-3.0", "odbl", "odc-by", "pddl", "unlicense", "wtfpl",
}  # fmt: skip
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B", "100B<n<1T")


@dataclass
class SplitCounts:
    """What a split holds.

    Attributes:
        n_structures, n_atoms: in it.
        n_bytes: of its tables in memory.
        labels: property -> structures that carry it.
        atoms: (119,) atoms of each element.
    """

    n_structures: int = 0
    n_atoms: int = 0
    n_bytes: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    atoms: np.ndarray = field(default_factory=lambda: np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64))

    def add(self, structures: Sequence[Structure], n_bytes: int) -> None:
        """Count one row group."""
        self.n_structures += len(structures)
        self.n_bytes += n_bytes
        for structure in structures:
            self.n_atoms += structure.n_atoms
            self.labels.update(structure.labels.keys())
        self.atoms += np.bincount(np.concatenate([s.atomic_numbers for s in structures]), minlength=MAX_ATOMIC_NUMBER + 1)


def card_text(store: Store, description: SourceDescription, counts: Mapping[str, SplitCounts]) -> str:
    """The contents of `README.md`.

    Args:
        store: what is exported.
        description: what the files say of themselves.
        counts: split -> what was written.
    """
    import yaml

    card = recipe_card(description.provenance)
    front = yaml.safe_dump(_front_matter(store, description, counts, card), sort_keys=False, allow_unicode=True, width=120)
    parts = [f"---\n{front}---\n", f"# {card.get('title') or description.name}\n"]
    if card.get("description"):
        parts.append(f"{card['description']}\n")
    parts += [_facts(description, counts, card), _properties(store, counts, card), _columns(store, description)]
    if card.get("known_traps"):
        parts.append("## Known traps\n\n" + "\n".join(f"- {_line(trap)}" for trap in card["known_traps"]) + "\n")
    parts += [_reading(description, counts), _sources(store, card)]
    return "\n".join(parts)


def size_category(n_structures: int) -> str:
    """The hub's name for a number of rows.

    Example:
        >>> size_category(1200)
        '1K<n<10K'
    """
    power = 0 if n_structures < 1000 else int(np.floor(np.log10(n_structures))) - 2
    return _SIZES[min(power, len(_SIZES) - 1)]


def _front_matter(
    store: Store, description: SourceDescription, counts: Mapping[str, SplitCounts], card: Mapping[str, Any]
) -> dict[str, Any]:
    licence = str(card.get("licence") or "").strip()
    if not licence:
        matter: dict[str, Any] = {"license": "unknown"}
    elif licence.lower() in _HUB_LICENCES:
        matter = {"license": licence.lower()}
    else:
        matter = {"license": "other", "license_name": licence}
    total = sum(split.n_structures for split in counts.values())
    n_bytes = sum(split.n_bytes for split in counts.values())
    features = [_feature(name, kind, depth) for name, (kind, depth, _) in columns_of(store.labels, description.precision).items()]
    return matter | {
        "pretty_name": str(card.get("title") or description.name),
        "size_categories": [size_category(total)],
        "tags": ["chemistry", "materials-science", "interatomic-potentials", "unipot"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in counts]}
        ],
        "dataset_info": {
            "features": features,
            "splits": [{"name": name, "num_bytes": split.n_bytes, "num_examples": split.n_structures} for name, split in counts.items()],
            "dataset_size": n_bytes,
        },
        # what the files say of themselves, for readers on the hub; the provenance is below in words
        METADATA_KEY.decode(): json.loads(replace(description, provenance={}).to_json()),
    }


def _feature(name: str, kind: str, depth: int) -> dict[str, Any]:
    """As `datasets` writes features in YAML."""
    inner: Any = kind
    for _ in range(depth - 1):
        inner = {"list": inner}
    return {"name": name, "list" if depth else "dtype": inner}


def _facts(description: SourceDescription, counts: Mapping[str, SplitCounts], card: Mapping[str, Any]) -> str:
    atoms = sum(split.atoms for split in counts.values())
    elements = ", ".join(f"{SYMBOLS[z]} {int(atoms[z]):,}" for z in np.flatnonzero(atoms))
    zero = f" {_line(card['energy_zero'])}." if card.get("energy_zero") else ""
    lines = [
        f"| level of theory | {_cell(description.level_of_theory)} |",
        f"| energy kind | {description.energy_kind}: {ENERGY_KINDS[description.energy_kind]}.{_cell(zero)} |",
        f"| structures | {', '.join(f'{name}: {split.n_structures:,}' for name, split in counts.items())} |",
        f"| atoms | {sum(split.n_atoms for split in counts.values()):,} |",
        f"| elements ({np.count_nonzero(atoms)}), atoms of each | {elements} |",
        f"| precision | positions and per-atom labels {description.precision}, everything else float64 |",
    ]
    if card.get("software"):
        lines.append(f"| software | {_cell(_plain(card['software']))} |")
    return "| | |\n|---|---|\n" + "\n".join(lines) + "\n"


def _properties(store: Store, counts: Mapping[str, SplitCounts], card: Mapping[str, Any]) -> str:
    total = sum(split.n_structures for split in counts.values())
    lines = ["## Labels\n", "| property | unit | sign | shape | structures with it | coverage |", "|---|---|---|---|--:|---|"]
    for label in store.labels:
        row = PROPERTIES[label]
        n = sum(split.labels[label] for split in counts.values())
        shape = "×".join([*(["n_atoms"] if row.per == "atom" else []), *map(str, row.shape)]) or "scalar"
        coverage = (card.get("properties") or {}).get(label, {}).get("coverage", "")
        lines.append(f"| {label} | {row.unit} | {_cell(row.sign)} | {shape} | {n:,} ({n / total:.1%}) | {_cell(coverage)} |")
    return "\n".join([*lines, "", "A label that a structure does not have is null.", ""])


def _columns(store: Store, description: SourceDescription) -> str:
    lines = ["## Columns\n", "| column | type | meaning |", "|---|---|---|"]
    for name, (kind, depth, meaning) in columns_of(store.labels, description.precision).items():
        lines.append(f"| {name} | {'list of ' * depth}{kind} | {_cell(meaning)} |")
    return "\n".join([*lines, ""])


def _reading(description: SourceDescription, counts: Mapping[str, SplitCounts]) -> str:
    split = "" if len(counts) == 1 else f" split={next(iter(counts))}"
    return (
        "## Reading it\n\n```python\nimport datasets\n\n"
        f'rows = datasets.load_dataset("<this folder>", split="{next(iter(counts))}", streaming=True)\n```\n\n'
        f"With unipot, units and level of theory included: `unipot prepare path=<this folder> name={description.name}{split}`.\n"
    )


def _sources(store: Store, card: Mapping[str, Any]) -> str:
    lines = ["## Source\n"]
    lines.append(f"Licence: {_line(card['licence'])}." if card.get("licence") else "Licence: not stated where this was made from.")
    if card.get("homepage"):
        lines.append(f"Home page: {card['homepage']}")
    lines += ["", "Please cite:", ""] + [f"- {_line(entry)}" for entry in card["citation"]] if card.get("citation") else []
    n_quarantined = sum(1 for _ in read_quarantine(store.path))
    if n_quarantined:
        lines += ["", f"{n_quarantined:,} structures of the source were left out as broken or as outliers."]
    lines += ["", f"Content hash of the store it was exported from: `{store.metadata['content_hash']}`.", ""]
    return "\n".join(lines)


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _cell(text: Any) -> str:
    """For a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
