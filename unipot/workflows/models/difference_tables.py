"""What differs between two models, as tables."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from unipot.structure import Structure
from unipot.workflows.inputs.structure_files import read_atoms
from unipot.zoo.difference import ModelDifference
from unipot.zoo.show import as_written

#: tensors and settings that are listed, and structures that are predicted
MAX_ROWS, MAX_STRUCTURES = 20, 1000


def structures_of(path: str) -> list[Structure]:
    """The first structures of a file.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: ASE cannot read it, or a structure in it is not sound.
    """
    return [Structure.from_ase(atoms, id=f"{path} {k}") for k, atoms in enumerate(read_atoms(path, f":{MAX_STRUCTURES}"))]


def show_difference(console: Console, found: ModelDifference) -> None:
    """Heads, weights, settings and predictions, each in a table or a line of its own."""
    n_changed = len(found.weights)
    for sentence in found.heads or ["the same, with the same levels of theory and elements"]:
        console.print(as_written(f"heads: {sentence}"), soft_wrap=True)
    console.print(as_written(f"weights: {found.n_same} tensors are the same, {n_changed} differ, {len(found.only)} have no counterpart"))
    for sentence in found.only[:MAX_ROWS]:
        console.print(as_written(f"  {sentence}"), soft_wrap=True)
    if found.weights:
        shown = list(found.weights.items())[:MAX_ROWS]
        title = "largest changes of weights" + (f", the first {MAX_ROWS} of {n_changed}" if n_changed > MAX_ROWS else "")
        console.print(_table(title, ("tensor", "largest change"), [(name, f"{change:.2e}") for name, change in shown]))
    if found.settings:
        rows = [(key, _brief(old), _brief(new)) for key, (old, new) in list(found.settings.items())[:MAX_ROWS]]
        console.print(_table("settings", ("what", "first", "second"), rows))
    predictions = [
        (p.head, p.n_structures, f"{1000 * p.energy:.3g}", f"{1000 * p.forces:.3g}", "" if p.stress is None else f"{1000 * p.stress:.3g}")
        for p in found.predictions
    ]
    columns = ("head", "structures", "energy meV/atom", "forces meV/Å", "stress meV/Å³")
    console.print(_table("largest differences of predictions", columns, predictions))


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(as_written(cell) for cell in row))
    return table


def _brief(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
