"""A card for human eyes.

A card may be a stranger's: everything in it is shown as it is written, markup and all, without characters that a terminal obeys.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipot.terminal import printable
from unipot.zoo.card import CHECKSUM, read_card
from unipot.zoo.sample import describe_sample

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


def describe_artifact(path: str | Path) -> RenderableType:
    """The card of the artifact at `path` as tables for `rich.print`, long sections by the facts that matter; no weights are read.

    Raises:
        FileNotFoundError, ArtifactError: see `unipot.zoo.card.read_card`.
    """
    from rich.console import Group
    from rich.table import Table

    card = read_card(path)
    facts = Table(title=as_written(card.get("name", Path(path).name)), show_header=False, title_justify="left")
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    _add_rows(facts, _facts(card))
    heads = Table(title="heads", title_justify="left")
    for column in ("name", "level of theory", "energies", "references", "elements"):
        heads.add_column(column, overflow="fold")
    for name, head in (card.get("heads") or {}).items():
        head = head or {}
        kind = head.get("energy_kind", "total")  # the card is not upgraded here; format 1 knew no other kind
        references = _references((card.get("references") or {}).get(name) or {})
        _add_rows(heads, [(name, head.get("level_of_theory"), kind, references, _elements(head))])
    scalars = card.get("potential", {}).get("property_heads", {})
    trained = [_datasets(card)] if card.get("datasets") else []
    return Group(facts, heads, *trained, *([_properties(scalars)] if scalars else []))


def _facts(card: dict[str, Any]) -> list[tuple[object, object]]:
    """Name and value of everything that has no table of its own."""
    rows: list[tuple[object, object]] = []
    backbone = card.get("potential", {}).get("backbone", {})
    numbers = ", ".join(f"{k}={v}" for k, v in backbone.get("hyperparameters", {}).items())
    rows.append(("backbone", f"{backbone.get('name')} ({numbers})"))
    if "conditions" in card:  # cards of earlier versions do not say
        rows.append(("charge and spin", _conditions(card["conditions"] or [])))
    if core := card.get("potential", {}).get("core_repulsion"):
        closer = "".join(f", {pair} {distance:.2f} Å" for pair, distance in (core.get("closest") or {}).items())
        rows.append(("core repulsion", f"Ziegler-Biersack-Littmark, below {core.get('reach')} of the sum of covalent radii{closer}"))
    rows.append(("parameters", f"{card.get('n_parameters', 0):,} ({card.get('potential', {}).get('dtype')})"))
    rows.append(("licence", card.get("licence")))
    for key in sorted(set(card) - _SHOWN_ELSEWHERE):
        rows.append((key, _shortened(key, card[key])))
    rows.append(("sha256", card.get("sha256")))
    rows.append(("sha256 of the card", card.get(CHECKSUM, "none, as cards of earlier versions of unipot have it")))
    rows.append(("format", f"{card.get('format')} {card.get('format_version')}, written by unipot {card.get('unipot_version')}"))
    rows.append(("sample", describe_sample(card)))
    rows.append(("golden values", f"{len(card.get('golden', []))} predictions, compared on load"))
    return rows


def as_written(value: object) -> Text:
    """A text in which nothing is markup, and characters that steer a terminal are shown as �."""
    from rich.text import Text

    return Text(printable(value))


def _add_rows(table: Table, rows: Iterable[Iterable[object]]) -> None:
    for row in rows:
        table.add_row(*(as_written(cell) for cell in row))


#: of a value that has no row or table of its own, so many characters are shown
_LONGEST = 400
#: of what is shown of some sections, these facts
_TOLD = {
    "training": ("command", "seed", "step"),
    "finetune": ("checkpoint", "method", "head"),
    "uncertainty": ("method", "calibration"),
}
_SHOWN_ELSEWHERE = {
    *("format", "format_version", "unipot_version", "name", "licence", "potential", "conditions", "heads", "datasets"),
    *("n_parameters", "units", "sha256", CHECKSUM, "golden", "references", "sample", "differences"),
}


def _datasets(card: dict[str, Any]) -> RenderableType:
    """What the model was trained on, with the errors on held-out structures that its training reported."""
    from rich.table import Table

    found = (card.get("training") or {}).get("validation") or {}
    table = Table(title="datasets, errors on their held-out structures", title_justify="left")
    for column in ("name", "head", "labels", "training", "held out", "energy meV/atom", "forces meV/A", "licence"):
        table.add_column(column, overflow="fold")
    for item in card["datasets"]:
        errors = [found.get(f"{item.get('name')}/{key}/mae") for key in ("energy_per_atom", "forces")]
        shown = ["" if error is None else f"{1000 * error:.3g}" for error in errors]
        licence = item.get("licence") or (item.get("provenance") or {}).get("licence") or ""
        numbers = [f"{item[key]:,}" if key in item else "" for key in ("n_training", "n_validation")]
        labels = ", ".join(item.get("labels") or [])
        _add_rows(table, [(item.get("name"), item.get("head", ""), labels, *numbers, *shown, licence)])
    return table


def _shortened(key: str, value: Any) -> str:
    """The facts that matter of a section, or the beginning of a long value."""
    if key in _TOLD and isinstance(value, dict):
        value = {name: value[name] for name in _TOLD[key] if name in value} or value
    text = _brief(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters; unipot.zoo.read_card gives all of it)"


def _properties(heads: dict[str, dict[str, Any]]) -> RenderableType:
    """What the property heads predict."""
    from rich.table import Table

    table = Table(title="property heads", title_justify="left")
    for column in ("name", "unit", "kind", "success within", "members"):
        table.add_column(column)
    for name, head in heads.items():
        threshold = "" if head.get("threshold") is None else f"{head['threshold']:g}"
        _add_rows(table, [(name, head.get("unit"), head.get("kind"), threshold, head.get("n_members"))])
    return table


def _conditions(conditions: list[str]) -> str:
    """Which of total charge and spin multiplicity a prediction depends on."""
    fields = {"total_charge": "total charge", "spin_multiplicity": "spin multiplicity"}
    read, ignored = ([words for name, words in fields.items() if (name in conditions) == wanted] for wanted in (True, False))
    parts = [f"{' and '.join(words)} {verb}" for words, verb in ((read, "read"), (ignored, "ignored")) if words]
    return ", ".join(parts)


def _elements(head: dict[str, Any]) -> str:
    """What the frames of a head held, and what it has references for beside them; older cards tell the references alone."""
    known, trained = head.get("elements") or [], head.get("trained_elements")
    if not trained:
        return " ".join(known)
    rest = [symbol for symbol in known if symbol not in trained]
    return " ".join(trained) + (f"; not in its frames: {' '.join(rest)}" if rest else "")


def _references(report: dict[str, Any]) -> str:
    """Mode and residual of the references of a head, as the run that made it reported them."""
    residual = report.get("rmse_per_atom")
    return str(report.get("mode", "")) + ("" if residual is None else f", residual {1000 * residual:.1f} meV/atom")


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_brief(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "; ".join(_brief(v) for v in value)
    return str(value)
