"""Run state: everything an interrupted run needs to go on as if nothing had happened. Private to a run folder.

The file is Lightning's, holds tensors, numbers and strings only, and is read with `weights_only=True`. The public
artifact is `unipot.zoo.artifact`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unipot.errors import InputError
from unipot.training.sealed_file import is_sealed, is_whole, seal

#: written by every run at `checkpoint_every`, and the one before it
LAST, PREVIOUS = Path("checkpoints") / "last.ckpt", Path("checkpoints") / "previous.ckpt"
#: in a run state: what the run was made from
ORIGIN = "origin"


def random_state() -> dict[str, Any]:
    """States of the Python, NumPy and torch generators, as tensors, numbers and strings."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [state.cpu() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo of `random_state`; CUDA generators are left alone when their number differs."""
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def read_run_state(path: Path) -> dict[str, Any]:
    """Contents of a run state, after a look at its checksum.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or not a run state.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no run state to resume from")
    if not is_whole(path):
        raise InputError(f"{path}: the run state is truncated or damaged: its checksum is another one")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage from before there were checksums shows in many ways, and each means the same to the user
        raise InputError(f"{path}: the run state is truncated or damaged ({_first_line(error)})") from error
    keys = ("state_dict", "optimizer_states", "weight_average", "random_state", "global_step")
    missing = [key for key in keys if key not in state] if isinstance(state, dict) else list(keys)
    if missing:
        raise InputError(f"{path}: not a run state of unipot ({missing[0]!r} is missing); models to fine-tune from are .safetensors files")
    if ORIGIN in state and not is_sealed(path):
        raise InputError(f"{path}: the run state is damaged: its checksum is gone")
    return state


def readable_run_state(folder: Path) -> tuple[Path, dict[str, Any], str]:
    """The newest run state in a run folder that is whole: its file, its contents, and what is wrong with a newer one (or "").

    Raises:
        FileNotFoundError: there is none.
        ValueError: all of them are damaged.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{folder / LAST}: there is no run state to resume from")
    try:
        return found[0], read_run_state(found[0]), ""
    except ValueError as error:
        if len(found) == 1:
            raise
        damage = str(error)
    try:
        return found[1], read_run_state(found[1]), damage
    except ValueError as error:
        raise InputError(f"{damage}; so is the one before it: {error}") from error


def keep_run_state(temporary: Path, folder: Path) -> None:
    """Make a run state that has just been written the newest one of a run folder; the one before it stays as the previous one.

    A kill at any moment leaves a whole one that `readable_run_state` finds.
    """
    seal(temporary)
    if (folder / LAST).is_file():
        os.replace(folder / LAST, folder / PREVIOUS)
    replace_file(temporary, folder / LAST)


def replace_file(temporary: Path, path: Path) -> None:
    """Put a finished file in place: written to disk, then renamed, so that no reader sees half of it."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
