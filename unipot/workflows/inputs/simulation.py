"""What `unipot relax` and `unipot md` share: their settings, what they open before the work, and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from omegaconf import MISSING

from unipot.workflows.settings.compose import require_complete

if TYPE_CHECKING:
    from ase import Atoms

    from unipot.calculator import UnipotCalculator
    from unipot.simulate.frames import FrameWriter

#: called with (step, energy in eV, another quantity)
OnStep: TypeAlias = Callable[[int, float, float], None]


@dataclass(kw_only=True)
class SimulationConfig:
    """Settings of every command that moves the structures of a file with a model."""

    checkpoint: str = MISSING
    structure: str = MISSING
    index: str = MISSING
    head: str | None = None
    out: str = MISSING
    overwrite: bool = False
    unknown_elements: str = "warn"
    skin: float = MISSING
    device: str = MISSING
    dtype: str | None = None
    trusted: bool = False


AnyConfig = TypeVar("AnyConfig", bound=SimulationConfig)


def open_simulation(
    cfg: AnyConfig, verb: str, open_writers: Callable[[AnyConfig, list[Atoms]], list[FrameWriter]]
) -> tuple[list[Atoms], list[FrameWriter]]:
    """Open everything before the work: what is wrong is said before a step is taken, and what a user should know is printed.

    Args:
        cfg: of the command.
        verb: its name.
        open_writers: makes the writers of the structures, that of `cfg.out` first. Called before the model is loaded, since files
            that are there already are refused.

    Returns:
        The structures, with the calculator of the model, and the writers.

    Raises:
        ValueError: a setting or a structure is wrong; FileNotFoundError: a file is not there; FileExistsError: an output is.
    """
    from unipot.workflows.inputs.structure_files import make_calculator, read_atoms

    require_complete(cfg, verb)
    structures = read_atoms(cfg.structure, cfg.index)
    writers = open_writers(cfg, structures)
    calculator = make_calculator(cfg.checkpoint, cfg.head, cfg.device, cfg.dtype, cfg.skin, cfg.trusted)
    say_unknown_elements(calculator, structures, cfg.unknown_elements)
    say_what_is_left_behind(structures, writers[:2])  # after that of `out` they differ in nothing but a number in their name
    for atoms in structures:
        atoms.calc = calculator
    return structures, writers


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


@contextmanager
def step_counter(label: str, n_steps: int, quantity: str = "largest force", unit: str = "eV/A") -> Iterator[OnStep]:
    """A progress bar; yields the function to call with (step, energy in eV, value of `quantity`)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    texts = TextColumn("{task.description}"), TextColumn("{task.fields[state]}")
    columns = (texts[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), texts[1])
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(label, total=n_steps, state="")

        def advance(step: int, energy: float, value: float) -> None:
            progress.update(task, completed=step, state=f"energy {energy:.4f} eV, {quantity} {value:.3f} {unit}")

        yield advance
