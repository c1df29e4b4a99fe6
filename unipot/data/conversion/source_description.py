"""`SourceDescription`: what a source of unipot's own making says of itself, so that it is read without being told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from unipot.data.labels import ASE_LABELS, WEIGHTS, LabelSource
from unipot.errors import InputError

if TYPE_CHECKING:
    from unipot.data.store import Store

FORMAT, FORMAT_VERSION = "unipot-parquet", 1


@dataclass(frozen=True, kw_only=True)
class SourceDescription:
    """Everything that a foreign file would have to be told with options.

    Attributes:
        name: of the dataset.
        level_of_theory, energy_kind: of its labels.
        precision: of positions and per-atom labels.
        labels: property -> where it is found; always in canonical units.
        id_key, group_key: columns of id and group; None where structures carry their own.
        provenance: of the dataset, JSON-able.
    """

    name: str
    level_of_theory: str
    energy_kind: str
    precision: str
    labels: Mapping[str, LabelSource]
    id_key: str | None = None
    group_key: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_store(cls, store: Store) -> SourceDescription:
        """What the metadata of a store say."""
        return cls(
            name=store.name,
            level_of_theory=store.level_of_theory,
            energy_kind=store.energy_kind,
            precision=store.metadata["precision"],
            labels={label: (ASE_LABELS | WEIGHTS)[label] for label in store.labels},  # ASE's units and sign are the canonical ones
            provenance=store.metadata["provenance"],
        )

    def to_json(self) -> str:
        """For the schema of Parquet files."""
        labels = {name: source.to_dict() for name, source in self.labels.items()}
        return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self), "labels": labels})

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> SourceDescription:
        """Inverse of `to_json`.

        Args:
            text: the JSON.
            where: the file, for messages.

        Raises:
            ValueError: it is damaged, or of a newer format.
        """
        try:
            content = json.loads(text)
            version = int(content.pop("format_version"))
            if content.pop("format") != FORMAT:
                raise InputError(f"its format is not {FORMAT}")
            if version > FORMAT_VERSION:
                raise InputError(f"format {version} is newer than this unipot reads ({FORMAT_VERSION}), upgrade unipot")
            labels = {name: LabelSource(**source) for name, source in content.pop("labels").items()}
            for name, source in labels.items():
                source.factor(name)  # refuses units, signs and orders that mean nothing
            return cls(**content, labels=labels)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{where}: what the file says of itself under 'unipot' cannot be used ({error}); export it again") from error


def recipe_card(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's card behind a store, also through conversions of stores; {} where it came from no recipe."""
    while "card" not in provenance and isinstance(provenance.get("source"), Mapping):
        provenance = provenance["source"]
    return dict(provenance.get("card") or {})
