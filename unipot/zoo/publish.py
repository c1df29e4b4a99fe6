"""A model made fit for others: its artifact with licence and citation, a README, and a line in the registry of a folder.

    <folder>/zoo.json                              the registry: share it, or name it in $UNIPOT_ZOO
    <folder>/<name>/<version>/model.safetensors
    <folder>/<name>/<version>/README.md
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipot.data.conversion.disk import writing_to
from unipot.errors import FileInTheWay, InputError
from unipot.zoo.artifact import RESERVED, save_artifact
from unipot.zoo.cache import sha256_of
from unipot.zoo.checks import checked
from unipot.zoo.golden import golden_structures_of
from unipot.zoo.licences import Licence, licence_of
from unipot.zoo.lineage import ancestors_of, inherited_licence
from unipot.zoo.loading import Artifact, load_path
from unipot.zoo.model_page import model_page
from unipot.zoo.names import is_name, is_version
from unipot.zoo.registry import read_registry_file
from unipot.zoo.registry_schema import Entry, ModelFile, entries_of_text, text_of_entries

REGISTRY, MODEL, PAGE = "zoo.json", "model.safetensors", "README.md"
#: what a run folder calls its model
_BEST = "best.safetensors"
_NOTHING = ("", "not stated", "unknown", "none", "?")


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What is said of a model that is published.

    Attributes:
        name: model and size, as `unipot.zoo.names` takes it.
        version: never changes what it means.
        to: folder of the registry; made where needed.
        weights: licence of the weights; None for the one that the card states.
        code: licence of the code.
        citation: how to cite the model; "" for what the card says.
        summary: one sentence.
        url: where the folder will be served, "" where it will not.
    """

    name: str
    version: str
    to: Path
    weights: Licence | None = None
    code: Licence = Licence(name="MIT")
    citation: str = ""
    summary: str = ""
    url: str = ""


def publish(source: Path, what: Publication) -> Entry:
    """Write the model at `source` (an artifact, or a run folder) into the folder of a registry.

    Returns:
        The line of the registry.

    Raises:
        ValueError: the name is none, or licence, level of theory of a head or errors on held-out structures are missing, or the licence
            is not the one that the model it was fine-tuned from asks for.
        FileExistsError: this version is published there already.
        FileNotFoundError, ArtifactError: there is no sound model at `source`.
    """
    if not is_name(what.name) or not is_version(what.version):
        given = f"name={what.name!r} version={what.version!r}"
        raise InputError(f"{given}: names are like mine-small (small letters, digits and hyphens), versions like 1.0")
    path = source / _BEST if (source / _BEST).is_file() else source
    artifact = load_path(path)
    checked(artifact, path)
    weights = _licence(artifact.card, what, path)
    _require_levels(artifact, path)
    _require_metrics(artifact.card, path)
    return _written(artifact, what, weights)


def _licence(card: Mapping[str, Any], what: Publication, path: Path) -> Licence:
    weights = what.weights or licence_of(card)
    if not weights.is_stated:
        raise InputError(f"{path} states no licence, and nobody may use what has none; say which, for example licence=CC-BY-4.0")
    for ancestor in ancestors_of(card):
        asked = inherited_licence(ancestor)
        if asked.is_non_commercial and weights.name != asked.name:
            raise InputError(
                f"{path} was fine-tuned from {ancestor.get('name')}, whose weights are under {asked.name}; a model made from them stays "
                f"under it: licence={asked.name}"
            )
    return weights


def _require_levels(artifact: Artifact, path: Path) -> None:
    for name in artifact.potential.head_names:
        if artifact.potential.heads[name].level_of_theory.strip().lower() in _NOTHING:
            raise InputError(f"{path}: head {name!r} has no level of theory, and nobody knows what it is; train with level_of_theory=")


def _require_metrics(card: Mapping[str, Any], path: Path) -> None:
    found = (card.get("training") or {}).get("validation") or {}
    if not any(isinstance(value, int | float) and math.isfinite(value) for value in found.values()):
        raise InputError(f"{path} has no errors on held-out structures in its card, so nobody knows how good it is; hold some out")


def _written(artifact: Artifact, what: Publication, weights: Licence) -> Entry:
    registry, folder = what.to / REGISTRY, what.to / what.name / what.version
    known = read_registry_file(registry) if registry.exists() else []
    if folder.exists() or any((e.name, e.version) == (what.name, what.version) for e in known):
        raise FileInTheWay(f"{what.name}@{what.version} is published in {what.to} already, and never changes; choose another version=")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with writing_to(what.to, f"publishing {what.name}@{what.version}"):
        try:
            card = _card(artifact.card, what, weights)
            file = save_artifact(
                temporary / MODEL, artifact.potential, card=card, golden=golden_structures_of(artifact.card["golden"])
            )  # fmt: skip
            published = load_path(file)  # golden values included
            entry = _entry(published, file, what, weights)
            (temporary / PAGE).write_text(model_page(published.card, entry), encoding="utf-8")
            text = text_of_entries([*known, entry], what.to.absolute())
            entries_of_text(text, str(registry), what.to.absolute())  # what is written can be read
            os.replace(temporary, folder)
            new = registry.with_name(f".{registry.name}.{os.getpid()}.tmp")
            new.write_text(text, encoding="utf-8")
            os.replace(new, registry)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return entry


def _card(card: Mapping[str, Any], what: Publication, weights: Licence) -> dict[str, Any]:
    own = {key: value for key, value in card.items() if key not in RESERVED}
    citation = what.citation or own.get("citation", "")
    return {
        **own, "name": what.name, "version": what.version, "licence": weights.name,
        "licences": {"code": what.code.to_dict(), "weights": weights.to_dict()}, **({"citation": citation} if citation else {}),
        **({"summary": what.summary} if what.summary else {}),
    }  # fmt: skip


def _entry(artifact: Artifact, file: Path, what: Publication, weights: Licence) -> Entry:
    below = f"{what.name}/{what.version}/{MODEL}"
    urls = (str(what.to.absolute() / below), *([f"{what.url.rstrip('/')}/{below}"] if what.url else []))
    heads = artifact.potential.heads
    elements = {symbol for head in artifact.card["heads"].values() for symbol in head.get("trained_elements") or head["elements"]}
    return Entry(
        name=what.name, version=what.version, code=what.code, weights=weights, summary=what.summary, source=str(what.to / REGISTRY),
        files=(ModelFile(file=MODEL, size=file.stat().st_size, sha256=sha256_of(file), urls=urls),),
        heads={name: heads[name].level_of_theory for name in artifact.potential.head_names}, elements=tuple(sorted(elements)),
        citation=str(artifact.card.get("citation") or "")[:4000],
    )  # fmt: skip
