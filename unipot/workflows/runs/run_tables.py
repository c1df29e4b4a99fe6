"""What a run prints before it starts and when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from unipot.data.label_use import counted_labels, stress_counts
from unipot.data.mixture.budget import position_chunks
from unipot.data.quality.counted_labels import CountedLabels
from unipot.data.store import Store
from unipot.structure import symbols_of
from unipot.training.losses import StepLoss
from unipot.training.metrics import MetricTable
from unipot.training.optim import ParameterRow, group_table
from unipot.workflows.construction.model import HeadStatistics
from unipot.workflows.construction.reference_fits import ReferenceReport
from unipot.workflows.inputs.datasets import OpenDataset


def show_datasets(console: Console, datasets: Sequence[OpenDataset], shares: Mapping[str, float], passes: Mapping[str, float]) -> None:
    """Sizes, labels, share of the draws and passes of every dataset."""
    columns = ("dataset", "head", "training", "held out", "atoms", "elements", "labels", "share", "passes")
    table = _table("mixture", columns, text=3)
    for item in datasets:
        name, counts = item.spec.name, item.store.metadata["label_counts"]
        sizes = [item.store.n_atoms[chunk] for chunk in position_chunks(item.train_indices)]
        smallest, largest = min(int(part.min()) for part in sizes), max(int(part.max()) for part in sizes)
        elements = symbols_of(item.store.elements) if len(item.store.elements) <= 6 else f"{len(item.store.elements)} elements"
        counts = counts | {name: described["n"] for name, described in item.store.scalars.items()}
        labels = ", ".join(_with_count(label, n, item.store) for label, n in counts.items())
        numbers = [str(len(item.train_indices)), str(len(item.validation_indices)), f"{smallest}-{largest}"]
        table.add_row(name, item.spec.head, *numbers, elements, labels, f"{100 * shares[name]:.1f} %", f"{passes[name]:.2f}")
    console.print(table)


def _with_count(label: str, n: int, store: Store) -> str:
    """A label, and of how many structures: of a stress, those that it counts for."""
    if label == "stress" and (counted := stress_counts(store)[1]) < n:
        return f"stress ({counted} of {n} count)"
    return label if n == len(store) else f"{label} ({n})"


def show_heads(console: Console, statistics: Sequence[HeadStatistics]) -> None:
    """Level of theory, scale and references of every head."""
    table = _table("heads", ("head", "level of theory", "energies", "datasets", "scale (eV)", "force RMS (eV/A)"), text=4)
    for item in statistics:
        numbers = f"{item.scale:.3f}", f"{item.force_rms:.3f}"
        table.add_row(item.head, item.level_of_theory, item.report.energy_kind, ", ".join(item.datasets), *numbers)
    console.print(table)
    console.print(references_table(item.report for item in statistics))
    for item in statistics:
        for sentence in item.report.sentences():
            text = f"  head {item.head}: {sentence}"
            console.print(text if len(text) < 400 else text[:400] + " …", highlight=False, markup=False)


def references_table(reports: Iterable[ReferenceReport]) -> Table:
    """Where the references of every head come from, and how well the compositions determine the fitted ones."""
    columns = ("head", "mode", "fitted", "known", "frames", "rank", "condition", "residual (meV/atom)")
    table = _table("references", columns, text=4)
    for report in reports:
        known = [f"{_elements(report.given)} given"] if report.given else []
        known += [f"{_elements(tuple(report.isolated))} isolated"] if report.isolated else []
        fit = (f"{report.rank} of {len(report.fitted)}", f"{report.condition:.3g}") if report.fitted else ("", "")
        residual = "" if report.rmse_per_atom is None else f"{1000 * report.rmse_per_atom:.1f}"
        table.add_row(report.head, report.mode, _elements(report.fitted), "; ".join(known), str(report.n_frames), *fit, residual)
    return table


def _elements(symbols: Sequence[str]) -> str:
    return ", ".join(symbols) if len(symbols) <= 6 else f"{len(symbols)} elements"


def show_parameters(console: Console, rows: Sequence[ParameterRow]) -> None:
    """Numbers of parameters and how they learn, by rule."""
    table = _table("parameters", ("rule", "parameters", "learning-rate scale", "weight decay"))
    for rule, n, scale, decay in group_table(rows):
        table.add_row(rule, f"{n:,}", "frozen" if scale == 0 else f"{scale:.3g}", "" if scale == 0 else decay)
    table.add_row("all", f"{sum(row.n_numbers for row in rows):,}", "", "")
    console.print(table)


def show_loss(console: Console, loss: StepLoss, datasets: Sequence[OpenDataset] = ()) -> None:
    """One line with the terms, and what of the datasets' labels does not count in them.

    Args:
        console: to print on.
        loss: of the run.
        datasets: that are trained on.
    """
    counted = {item.spec.name: counted_labels(item.store, item.train_indices) for item in datasets}
    frozen_atoms = next((getattr(term, "frozen_atoms", "exclude") for term in loss.terms if term.property == "forces"), "exclude")
    void = _void_terms(list(counted.values()), frozen_atoms)
    fixed = {"include": ", fixed atoms included"}
    options = [
        getattr(term, "kind", "") + fixed.get(getattr(term, "frozen_atoms", ""), "") + void.get(term.property, "") for term in loss.terms
    ]
    terms = [f"{term.weight:g} x {term.property} ({words})" for term, words in zip(loss.terms, options, strict=True)]
    console.print(f"loss: {' + '.join(terms)}", highlight=False)
    for name, own in counted.items():
        for sentence in own.sentences(frozen_atoms):
            console.print(f"  {name}: {sentence}", highlight=False, markup=False, soft_wrap=True)


def _void_terms(counted: Sequence[CountedLabels], frozen_atoms: str) -> dict[str, str]:
    """Property -> words behind its loss term where no label of any dataset counts."""
    stress = [own for own in counted if own.n_stress]
    forces = [own for own in counted if own.n_forces]
    found = {"stress": ", zero: no label counts"} if stress and all(own.no_stress_counts for own in stress) else {}
    all_fixed = frozen_atoms == "exclude" and bool(forces) and all(own.no_force_counts for own in forces)
    return found | ({"forces": ", zero: no label counts"} if all_fixed else {})


def show_metrics(console: Console, metrics: MetricTable, title: str) -> None:
    """Errors per dataset and property, all elements together."""
    table = _table(title, ("dataset", "property", "n", "MAE", "RMSE", "unit", "cosine", "within"), text=2)
    for row in metrics.rows:
        if row.element is None:
            numbers = ["" if value is None else f"{value:.4g}" for value in (row.mae, row.rmse)]
            last = ["" if value is None else f"{value:.3f}" for value in (row.cosine, row.within)]
            table.add_row(row.dataset, metrics.title(row), str(row.n), *numbers, metrics.units[row.property], *last)
    console.print(table)


def _table(title: str, columns: Sequence[str], text: int = 2) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < text else "right")
    return table


def show_dropped_posteriors(console: Console, names: Sequence[str]) -> None:
    """Heads that lose their error bars because their weights learn."""
    if names:
        console.print(f"uncertainties of {', '.join(names)} are dropped: their weights are about to change", highlight=False)
