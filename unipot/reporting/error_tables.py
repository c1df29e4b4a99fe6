"""Tables of errors: one row per evaluation, per property, per element."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from unipot.evaluation.records import Evaluation
from unipot.reporting.tables import ReportTable
from unipot.training.metrics import ALL_ATOMS

#: atoms in a structure, from which errors of its energy are also told per structure
LARGE = 30


def error_table(evaluations: Iterable[Evaluation], title: str, best: bool = True) -> ReportTable:
    """One row per evaluation, energies in meV/atom and forces in meV/Å; the smallest force MAE is emphasised.

    Where structures are large, energies stand per structure too: a few meV/atom are an eV of a slab. Where atoms are fixed, errors of
    forces are those of the free atoms, and those of all atoms stand beside them.
    """
    evaluations = list(evaluations)
    large = any((e.get("energy", "mae") or 0) > LARGE * (e.get("energy_per_atom", "mae") or 0) > 0 for e in evaluations)
    some_fixed = any(e.get(ALL_ATOMS, "mae") is not None for e in evaluations)
    with_stress = any(e.get("stress", "mae") is not None for e in evaluations)
    names = list(dict.fromkeys(e.dataset for e in evaluations))
    columns = ["model", "dataset", "energy MAE meV/atom", "energy RMSE", "force MAE meV/Å", "force RMSE", "force cosine", "within 30 meV/Å"]
    columns += ["force MAE, fixed atoms too", "force RMSE, fixed atoms too"] if some_fixed else []
    columns += ["energy MAE eV per cell"] if large else []
    if len(names) == 1:  # one dataset belongs into the title, not into every row
        title = f"{title}: {names[0]}"
        columns.remove("dataset")
    rows = []
    for e in evaluations:
        numbers = [_milli(e.get(p, s)) for p in ("energy_per_atom", "forces") for s in ("mae", "rmse")]
        numbers += [e.get("forces", "cosine"), _percent(e.get("forces", "within"))]
        numbers += [_milli(e.get(ALL_ATOMS, s)) for s in ("mae", "rmse")] if some_fixed else []
        numbers += [e.get("energy", "mae")] if large else []
        numbers += [_milli(e.get("stress", "mae"))] if with_stress else []
        rows.append((e.model, *([e.dataset] if len(names) > 1 else []), *numbers))
    errors = [e.get("forces", "mae") for e in evaluations]
    known = [x for x in errors if x is not None]
    emphasised = errors.index(min(known)) if best and len(known) > 1 else None
    return ReportTable(
        title=title, columns=(*columns, *(["stress MAE meV/Å³"] if with_stress else [])), rows=tuple(rows), best=emphasised
    )


def property_table(evaluations: Iterable[Evaluation], title: str) -> ReportTable:
    """One row per evaluation and scalar property, in the unit of the property; no rows where there are none."""
    rows = [
        (e.model, e.dataset, f"{r.property}, {e.table.units[r.property]}", r.n, r.mae, r.rmse, _percent(r.within))
        for e in evaluations
        for r in e.table.rows
        if r.property in e.table.scalars
    ]
    columns = ("model", "dataset", "property", "structures", "MAE", "RMSE", "within threshold")
    return ReportTable(title=title, columns=columns, rows=tuple(rows))


def full_table(evaluation: Evaluation) -> ReportTable:
    """Every property and element of one evaluation, in canonical units."""
    unit = {name: f", {text}" if text else "" for name, text in evaluation.table.units.items()}
    table = evaluation.table
    rows = tuple(
        (table.title(r) + unit[r.property], r.element or "all", r.n, r.mae, r.rmse, r.cosine, _percent(r.within)) for r in table.rows
    )
    columns = ("property", "element", "numbers", "MAE", "RMSE", "cosine", "within threshold")
    return ReportTable(title=f"{evaluation.dataset}, head {evaluation.head}", columns=columns, rows=rows)


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"

#: eV, eV/Å; errors below it are those of float32, as on structures that the model has labelled itself
_ROUNDING = 1e-6


def forgetting_table(before: Sequence[Evaluation], after: Sequence[Evaluation]) -> ReportTable | None:
    """Errors of the pretraining heads on their own sets, before and after fine-tuning; None when there are none."""
    if not before:
        return None
    later = {e.dataset: e for e in after}
    columns = ["dataset", "head"]
    for property, unit in (("energy MAE", "meV/atom"), ("force MAE", "meV/Å")):
        columns += [f"{property} before, {unit}", "after", "ratio"]
    rows = []
    for first in before:
        row: list[Any] = [first.dataset, first.head]
        for name in ("energy_per_atom", "forces"):
            old = first.get(name, "mae")
            new = later[first.dataset].get(name, "mae") if first.dataset in later else None
            both = old is not None and new is not None
            row += [None if v is None else 1e3 * v for v in (old, new)] + [new / old if both and old > _ROUNDING else None]
        rows.append(tuple(row))
    return ReportTable(title="Pretraining sets, before and after fine-tuning", columns=tuple(columns), rows=tuple(rows))
