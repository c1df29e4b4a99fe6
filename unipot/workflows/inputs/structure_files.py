"""What `unipot relax` and `unipot md` share: structures from a file, a calculator from a checkpoint, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unipot.errors import InputError
from unipot.occupancy import require_whole_atoms
from unipot.workflows.settings.device_names import device_named, optional_dtype

if TYPE_CHECKING:
    from ase import Atoms

    from unipot.calculator import UnipotCalculator
    from unipot.simulate.frames import FrameWriter


def read_atoms(path: str, index: str) -> list[Atoms]:
    """Structures of a file that ASE can read.

    Args:
        path: of the file.
        index: as in ASE: `-1` the last structure, `:` all, `::10` every tenth.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ASE cannot read it, the index selects nothing, or sites are partly occupied.
    """
    from ase.io.formats import string2index

    from unipot.data.readers.ase_files import read_frames

    if not Path(path).is_file():
        raise FileNotFoundError(f"structure file {path!r} is not there; give a file that ASE can read, for example .extxyz, .cif or POSCAR")
    try:
        chosen = string2index(str(index))
    except ValueError as error:
        raise InputError(f"{path}: no index is {index!r}; use '-1' for the last structure, ':' for all, '::10' for every tenth") from error
    try:
        structures = read_frames(path, chosen)
    except IndexError as error:
        raise InputError(f"{path}: there is no structure {index!r}; use '-1' for the last one or ':' for all") from error
    if not structures:
        raise InputError(f"{path}: index {index!r} selects no structure; use '-1' for the last one or ':' for all")
    for atoms in structures:
        require_whole_atoms(atoms, path)
        _hold(atoms)
    return structures


def _hold(atoms: Atoms) -> None:
    """Atoms that training takes as fixed are held here too: those of a per-atom array `fixed`."""
    from ase.constraints import FixAtoms

    if "fixed" in atoms.arrays:
        atoms.set_constraint([*atoms.constraints, FixAtoms(mask=atoms.arrays["fixed"].astype(bool))])


def make_calculator(
    checkpoint: str, head: str | None, device: str, dtype: str | None, skin: float, trusted: bool = False, unknown_elements: str = "allow"
) -> UnipotCalculator:
    """The calculator of a model artifact or package.

    Args:
        checkpoint: path of it.
        head: may be None if the model has only one, or was fine-tuned.
        device: for instance `cpu` or `cuda`, or `auto` for the GPU if there is one.
        dtype: float32 or float64; None for the one the model was saved in.
        skin: Å, of the neighbour list.
        trusted: the machine code of a package may be run.
        unknown_elements: of the calculator; see also `say_unknown_elements`.

    Raises:
        ValueError: the device or dtype is not available, or the skin is negative.
    """
    from unipot.calculator import UnipotCalculator

    options = {"device": device_named(device), "dtype": optional_dtype(dtype), "trusted": trusted, "unknown_elements": unknown_elements}
    return UnipotCalculator(checkpoint, head=head, skin=skin, **options)


def say_unknown_elements(calculator: UnipotCalculator, structures: Sequence[Atoms], mode: str) -> None:
    """Before the work, and once: elements that no frame of the head held.

    Args:
        calculator: of which the head is.
        structures: all that will be predicted.
        mode: `warn`, `refuse` or `allow`.

    Raises:
        ValueError: there are some and `mode` is `refuse`, or `mode` is none of these.
    """
    from unipot.models.trained_elements import ElementGuard

    guard = ElementGuard(calculator.potential.heads[calculator.head], mode, say=lambda sentence: print(f"warning: {sentence}"))
    guard.check(int(z) for atoms in structures for z in set(atoms.numbers.tolist()))


def say_what_is_left_behind(structures: Sequence[Atoms], writers: Sequence[FrameWriter]) -> None:
    """Numbers of the input that are not carried onto moved geometries, and what the formats of the output do not keep."""
    from unipot.simulate.frames import labels_of

    names = sorted({name for atoms in structures for name in labels_of(atoms)})
    if names:
        print(f"not carried over, since they belong to the geometry that was read: {', '.join(names)}")
    for writer in {writer.format: writer for writer in writers if writer.lost}.values():
        print(f"note: {writer.path}: a file of format {writer.format} does not keep {', '.join(writer.lost)}; .extxyz and .traj do")


def require_different(paths: Sequence[str | Path]) -> None:
    """Raises:
    ValueError: two outputs of one command have the same name.
    """
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise InputError(f"{path} is named twice as an output; give out and trajectory different names")
        seen.add(path.resolve())


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
