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

#: written by every run at `checkpoint_every`; replaced at once, so that a kill leaves the old or the new one
LAST = Path("checkpoints") / "last.ckpt"


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
    """Contents of a run state.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or not a run state.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no run state to resume from")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncation shows in many ways, and each means the same to the user
        raise ValueError(f"{path}: the run state is truncated or damaged ({_first_line(error)}); delete it to start over") from error
    missing = [key for key in ("state_dict", "optimizer_states", "weight_average", "random_state", "global_step") if key not in state]
    if missing:
        raise ValueError(f"{path}: not a run state of unipot ({missing[0]!r} is missing); models to fine-tune from are .safetensors files")
    return state


def replace_file(temporary: Path, path: Path) -> None:
    """Put a finished file in place: written to disk, then renamed, so that no reader sees half of it."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
