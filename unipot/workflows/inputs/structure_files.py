"""What `unipot relax` and `unipot md` share: structures from a file, a calculator from a checkpoint, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unipot.occupancy import require_whole_atoms
from unipot.workflows.settings.devices import device_named, optional_dtype

if TYPE_CHECKING:
    from ase import Atoms

    from unipot.calculator import UnipotCalculator


def read_atoms(path: str, index: str) -> list[Atoms]:
    """Structures of a file that ASE can read.

    Args:
        path: of the file.
        index: as in ASE: `-1` the last structure, `:` all, `::10` every tenth.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ASE cannot read it, the index selects nothing, or sites are partly occupied.
    """
    import ase.io

    if not Path(path).is_file():
        raise FileNotFoundError(f"structure file {path!r} is not there; give a file that ASE can read, for example .extxyz, .cif or POSCAR")
    try:
        found = ase.io.read(path, index=index)
    except (StopIteration, IndexError) as error:  # ASE's words for an index that is not there
        raise ValueError(f"{path}: there is no structure {index!r}; use '-1' for the last one or ':' for all") from error
    except Exception as error:  # ASE readers raise whatever their formats make them raise
        raise ValueError(f"{path}: ASE cannot read structure(s) {index!r}: {type(error).__name__}: {error}") from error
    structures = found if isinstance(found, list) else [found]
    if not structures:
        raise ValueError(f"{path}: index {index!r} selects no structure; use '-1' for the last one or ':' for all")
    for atoms in structures:
        require_whole_atoms(atoms, path)
    return structures


def make_calculator(
    checkpoint: str, head: str | None, device: str, dtype: str | None, skin: float, trusted: bool = False
) -> UnipotCalculator:
    """The calculator of a model artifact or package.

    Args:
        checkpoint: path of it.
        head: may be None if the model has only one.
        device: for instance `cpu` or `cuda`, or `auto` for the GPU if there is one.
        dtype: float32 or float64; None for the one the model was saved in.
        skin: Å, of the neighbour list.
        trusted: the machine code of a package may be run.

    Raises:
        ValueError: the device or dtype is not available, or the skin is negative.
    """
    from unipot.calculator import UnipotCalculator

    return UnipotCalculator(checkpoint, head=head, device=device_named(device), dtype=optional_dtype(dtype), skin=skin, trusted=trusted)


def numbered(path: str, number: int, total: int) -> Path:
    """`path`, with the number of the structure in its name when there are several."""
    plain = Path(path)
    return plain if total == 1 else plain.with_name(f"{plain.stem}-{number:04d}{plain.suffix}")


@contextmanager
def step_counter(
    label: str, n_steps: int, quantity: str = "largest force", unit: str = "eV/A"
) -> Iterator[Callable[[int, float, float], None]]:
    """A progress bar; yields the function to call with (step, energy in eV, value of `quantity`)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    texts = TextColumn("{task.description}"), TextColumn("{task.fields[state]}")
    columns = (texts[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), texts[1])
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(label, total=n_steps, state="")

        def advance(step: int, energy: float, value: float) -> None:
            progress.update(task, completed=step, state=f"energy {energy:.4f} eV, {quantity} {value:.3f} {unit}")

        yield advance
