"""The README of a published model: what somebody needs to know before using it. Texts of a card are shown as they are, never as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from unipot.terminal import printable
from unipot.zoo.licences import Licence
from unipot.zoo.lineage import ancestors_of
from unipot.zoo.registry_schema import Entry

#: characters that Markdown gives a meaning
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|!~&$])")
#: of a text from a card
_LONGEST = 1000


def model_page(card: Mapping[str, Any], entry: Entry) -> str:
    """Markdown: command, licence, heads, errors on held-out structures, data, training, citation, hash."""
    sections = [
        f"# {entry.key}",
        as_text(entry.summary),
        _use(entry),
        _licences(card, entry),
        "## Heads\n\n" + _table(("head", "level of theory", "energies", "elements"), _heads(card)),
        "## Errors on held-out structures\n\n" + _table(("dataset, property, measure", "value (eV, Å)"), _errors(card)),
        "## Data\n\n" + _table(("dataset", "head", "training", "held out", "licence"), _datasets(card)),
        "## Training\n\n" + _table(("what", "value"), _training(card)),
        f"## Citation\n\n{as_text(entry.citation) or 'None is stated.'}",
        "## Files\n\n" + _table(("file", "bytes", "SHA-256"), [(f.file, f"{f.size:,}", f.sha256) for f in entry.files]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def as_text(value: object) -> str:
    """A text in which nothing is markup, on one line."""
    words = " ".join(printable(value).split())
    return _MARKUP.sub(r"\\\1", words[:_LONGEST] + ("…" if len(words) > _LONGEST else ""))


def _use(entry: Entry) -> str:
    return (
        "## Use\n\n```text\n"
        f"unipot zoo get {entry.key}\nunipot relax checkpoint={entry.key} structure=mine.extxyz\n"
        f"unipot finetune checkpoint={entry.key} data=mine.extxyz\n```\n\n"
        f"In Python: `UnipotCalculator(\"{entry.key}\", head=\"{next(iter(entry.heads), '')}\")`."
    )


def _licences(card: Mapping[str, Any], entry: Entry) -> str:
    lines = [f"* weights: {_licence(entry.weights)}", f"* code: {_licence(entry.code)}"]
    for ancestor in ancestors_of(card):
        terms = f" ({as_text(ancestor['terms'])})" if ancestor.get("terms") else ""
        name, licence = as_text(ancestor.get("name")), as_text(ancestor.get("licence"))
        lines.append(f"* fine-tuned from {name}, whose weights are under {licence}{terms}")
    notice = entry.weights.notice("the model")
    return "## Licence\n\n" + "\n".join(lines) + (f"\n\n{as_text(notice[:1].upper() + notice[1:])}." if notice else "")


def _licence(licence: Licence) -> str:
    return as_text(licence.name) + (f", {as_text(licence.url)}" if licence.url else "")


def _heads(card: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [
        (name, head.get("level_of_theory"), head.get("energy_kind"), " ".join(head.get("trained_elements") or head.get("elements") or []))
        for name, head in (card.get("heads") or {}).items()
    ]


def _errors(card: Mapping[str, Any]) -> list[tuple[object, ...]]:
    found = (card.get("training") or {}).get("validation") or {}
    return [(name, f"{value:.4g}") for name, value in found.items() if isinstance(value, int | float)]


def _datasets(card: Mapping[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for item in card.get("datasets") or []:
        licence = item.get("licence") or (item.get("provenance") or {}).get("licence") or "not stated"
        rows.append((item.get("name"), item.get("head", ""), item.get("n_training", ""), item.get("n_validation", ""), licence))
    return rows


def _training(card: Mapping[str, Any]) -> list[tuple[object, ...]]:
    facts = {key: value for key, value in (card.get("training") or {}).items() if key != "validation"}
    parent = card.get("finetune") or {}
    facts |= {key: parent[key] for key in ("checkpoint", "method", "parent") if parent.get(key)}
    return [*facts.items(), ("parameters", f"{card.get('n_parameters', 0):,}"), ("made with", f"unipot {card.get('unipot_version')}")]


def _table(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(as_text(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) if len(lines) > 2 else "Nothing is stated."
